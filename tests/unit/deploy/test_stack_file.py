from pathlib import Path

import pytest

from deploy import stack_file
from deploy.processes import Child
from deploy.stack_file import Stack
from features.errors import Refused

CHILD = Child("broker", 4242, 1_700_000_000.25, 9092, "/nowhere/broker.log")


@pytest.mark.parametrize("model", [None, Path("/models/one")])
def test_what_is_saved_is_loaded(tmp_path: Path, model: Path | None) -> None:
    stack = Stack(tmp_path, Path("/repo"), model, {"broker": CHILD})
    stack.save()
    assert stack_file.load(tmp_path) == stack


def test_an_empty_stack_leaves_no_file(tmp_path: Path) -> None:
    stack = Stack(tmp_path, Path("/repo"), None, {"broker": CHILD})
    stack.save()
    stack.children.clear()
    stack.save()
    assert list(tmp_path.iterdir()) == []
    assert stack_file.load(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"children": [{"pid": 1}], "model": null}'])
def test_a_file_that_makes_no_sense_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "stack.json").write_text(text)
    with pytest.raises(Refused, match=r"stack\.json cannot be read"):
        stack_file.load(tmp_path)


def test_the_lock_is_free_again_after_use(tmp_path: Path) -> None:
    for _ in range(2):
        with (
            stack_file.locked(tmp_path),
            pytest.raises(Refused, match="wait for it"),
            stack_file.locked(tmp_path),
        ):
            pass
