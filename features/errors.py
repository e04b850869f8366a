"""The errors of Headrace, drawn once, by who has to act.

HeadraceError
├── BadInput      what came in is wrong: count it, answer or dead-letter it, go on
├── Refused       two things that must fit do not (a model and its columns, a topic and its
│                 recorded partitions): do not start, say what to mend
└── Unavailable   a server we need is away: back off and try again

A programmer's error is none of these: it is never caught.
"""


class HeadraceError(Exception):
    """Any error that Headrace raises on purpose."""


class BadInput(HeadraceError):
    """What came in is wrong; the message names where and how to mend it."""


class Refused(HeadraceError):
    """Two things that must fit do not; the message says which, and the way out."""


class Unavailable(HeadraceError):
    """A server that is needed does not answer; the caller backs off and tries again."""
