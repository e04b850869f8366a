"""Several boosters as one: their mean raw score, in a single LightGBM model text.

A mean of boosters that differ in their seed alone is steadier than each of them. As one text it is
served, explained and checked like any other model.
"""

from collections.abc import Sequence

SCALED = ("leaf_value", "internal_value")
"""The lines of a tree that hold outputs; an average of `n` takes an n-th of each."""


def averaged(texts: Sequence[str]) -> str:
    """The model whose raw score is the mean of theirs; they share columns and objective."""
    if len(texts) == 1:
        return texts[0]
    share = 1.0 / len(texts)
    header, _, _ = _parts(texts[0])
    trees = [_scaled(tree, share) for text in texts for tree in _parts(text)[1]]
    numbered = [f"Tree={number}\n{tree}" for number, tree in enumerate(trees)]
    sizes = " ".join(str(len(tree.encode())) for tree in numbered)
    lines = [
        f"tree_sizes={sizes}" if line.startswith("tree_sizes=") else line
        for line in header.splitlines()
    ]
    return "\n".join(lines) + "\n\n" + "".join(numbered) + "end of trees\n" + _parts(texts[0])[2]


def _parts(text: str) -> tuple[str, list[str], str]:
    """Header, the trees without their first lines, and what follows them."""
    body, _, rest = text.partition("end of trees\n")
    header, *trees = body.split("Tree=")
    return header.rstrip("\n"), [tree.partition("\n")[2] for tree in trees], rest


def _scaled(tree: str, share: float) -> str:
    lines = []
    for line in tree.split("\n"):
        name, equals, values = line.partition("=")
        if equals and name in SCALED and values:
            values = " ".join(repr(float(value) * share) for value in values.split())
        lines.append(f"{name}{equals}{values}")
    return "\n".join(lines)
