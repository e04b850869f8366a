"""How Headrace is started: the command line, the local stack, and what decided it."""
