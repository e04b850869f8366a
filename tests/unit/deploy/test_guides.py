"""What the README and the guides say of names: commands, options, make targets, settings."""

import inspect
import re
import shlex
from pathlib import Path
from typing import Any

import feast.cli.cli
import pytest
import typer.main
from feast.types import Float64
from pydantic import SecretStr
from pydantic_settings import BaseSettings

from deploy.cli import app
from features import declare
from ranker.settings import RankerSettings
from streaming.settings import StreamingSettings
from tests.pages import PAGES, ROOT, blocks, inline_code, table_rows

SETTINGS: dict[str, type[BaseSettings]] = {
    "route, aggregate": StreamingSettings,
    "ranker": RankerSettings,
}
OF_THE_COMMAND_LINE = {
    "HEADRACE_DATA",
    "HEADRACE_RANKER",
    "HEADRACE_RANKER_CA_FILE",
    "HEADRACE_RANKER_CERT_FILE",
    "HEADRACE_RANKER_GRPC",
    "HEADRACE_RANKER_KEY_FILE",
    "HEADRACE_RANKER_PROCESSES",
    "HEADRACE_RANKER_TOKEN",
}
# `console` is what needs a cluster or an account. It is not run; but what it does with the chart is
# rendered (tests/kubernetes), and its `headrace` commands are followed below.
LANGUAGES = {"yaml", "sh", "python", "text", "json", "ini", "mermaid", "console"}
(OPERATOR,) = (page for page in PAGES if page.stem == "operator")
page_by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def as_in_the_table(default: Any) -> str:
    shown = default.get_secret_value() if isinstance(default, SecretStr) else default
    return "none" if shown is None else str(shown)


def test_the_settings_table_is_the_settings_classes() -> None:
    expected: dict[str, tuple[str, str]] = {}
    for process, settings in SETTINGS.items():
        for name, field in settings.model_fields.items():
            variable, default = f"HEADRACE_{name.upper()}", as_in_the_table(field.default)
            owner = "archive" if name.startswith("archive_") else process
            known = expected.get(variable)
            assert known is None or known[0] == default, f"{variable} has two defaults"
            expected[variable] = default, "all" if known else owner
    rows = table_rows(OPERATOR, r"HEADRACE_\w+")
    assert {row[0]: (row[1], row[2]) for row in rows} == expected
    assert len(rows) == len(expected)


@page_by_page
def test_every_setting_a_page_names_exists(page: Path) -> None:
    known = {row[0] for row in table_rows(OPERATOR, r"HEADRACE_\w+")} | OF_THE_COMMAND_LINE
    assert set(re.findall(r"HEADRACE_[A-Z_]+", page.read_text())) <= known


@page_by_page
def test_every_block_says_what_language_it_is(page: Path) -> None:
    assert {block.language for block in blocks(page)} <= LANGUAGES


@page_by_page
def test_every_command_in_the_prose_exists(page: Path) -> None:
    for code in inline_code(page):
        program, _, rest = code.partition(" ")
        if program == "headrace":
            follow(typer.main.get_command(app), shlex.split(rest), code)
        elif program == "feast":
            follow(feast.cli.cli.cli, shlex.split(rest), code)
        elif program == "make" and rest:
            target = rest.split()[0]
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), code


@page_by_page
def test_every_command_for_a_cluster_exists(page: Path) -> None:
    for block in (one for one in blocks(page) if one.language == "console"):
        for line in block.text.splitlines():
            assert line.startswith("$ "), block.place
            program, _, rest = line[2:].partition(" ")
            if program == "headrace":
                follow(typer.main.get_command(app), shlex.split(rest), line)


def follow(command: Any, words: list[str], code: str) -> None:
    """Assert that each option and subcommand on a command line is known where it stands."""
    rest = iter(words)
    for word in rest:
        if word.startswith("-"):
            found = [p for p in command.params if word in (*p.opts, *p.secondary_opts)]
            assert found, f"{code!r}: {command.name} has no option {word}"
            if not found[0].is_flag:
                next(rest, None)
        elif hasattr(command, "commands"):
            assert word in command.commands, f"{code!r}: no command {word}"
            command = command.commands[word]


@page_by_page
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        file = target.partition("#")[0]
        assert target.startswith("https://") or (page.parent / file).exists(), target


def test_every_guide_is_read() -> None:
    assert set((ROOT / "deploy" / "guides").glob("*.md")) == set(PAGES[1:])


CATALOGUE = ROOT / "deploy" / "guides" / "features.md"
WORDS = {
    name
    for name, word in vars(declare).items()
    if name in declare.__all__ and inspect.isfunction(word)
}
MAKERS = {"entity", "events_source", "activity_view", "as_of_view", "feature_service", "taken"}
"""Words that place the others, and are shown in the guides' programs."""


def test_the_catalogue_has_every_word_of_the_vocabulary_and_its_examples_work() -> None:
    rows = table_rows(CATALOGUE, r"[a-z_]+(, [a-z_]+| of values| of several)?")
    named = {word for row in rows for word in re.findall(r"[a-z_]+", row[0])} & WORDS
    assert named == WORDS - MAKERS
    scope = {**vars(declare), "Float64": Float64}
    scope["events"] = declare.events_source(archive=Path("archive"))
    scope["user"] = declare.entity("user", "user_id")
    examples = [row[-1] for row in rows if "(" in row[-1]]
    assert len(examples) == 7 + 18
    for example in examples:
        assert eval(example, scope) is not None, example


def test_an_unknown_option_in_the_prose_is_found_out() -> None:
    with pytest.raises(AssertionError, match="has no option --modle"):
        follow(typer.main.get_command(app), ["up", "--modle", "m"], "headrace up --modle m")
    with pytest.raises(AssertionError, match="no command upp"):
        follow(typer.main.get_command(app), ["upp"], "headrace upp")
