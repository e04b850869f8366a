"""The command line itself: its table of contents, its start, and how it says what is wrong."""

import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from deploy.cli import app
from deploy.console import PANELS, Commands
from features.errors import BadInput, HeadraceError, Refused, Unavailable

HEAVY = {"feast", "pandas", "numpy", "numba", "lightgbm", "pyarrow", "kafka", "redis", "fastapi"}


def failing(error: Exception) -> typer.Typer:
    wrong = typer.Typer(cls=Commands, pretty_exceptions_enable=False)

    @wrong.callback()
    def group() -> None: ...

    @wrong.command()
    def command() -> None:
        raise error

    return wrong


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (HeadraceError("as [red] as it gets"), 1),
        (BadInput("as [red] as it gets"), 1),
        (Unavailable("as [red] as it gets"), 1),
        (Refused("as [red] as it gets"), 2),
    ],
)
def test_our_errors_are_one_message_and_an_exit_code(error: HeadraceError, code: int) -> None:
    result = CliRunner().invoke(failing(error), ["command"])
    assert result.exit_code == code
    assert result.stderr == f"{type(error).__name__}: as [red] as it gets\n"
    assert result.stdout == ""


def test_a_programmers_error_is_not_caught() -> None:
    result = CliRunner().invoke(failing(ZeroDivisionError("mine")), ["command"])
    assert isinstance(result.exception, ZeroDivisionError)


def test_help_lists_the_panels_in_order() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    titles = [panel for panel in PANELS if f"─ {panel} ─" in result.stdout]
    places = [result.stdout.index(f"─ {panel} ─") for panel in titles]
    assert titles[:2] == ["Run", "Events"]
    assert places == sorted(places)


def test_help_imports_nothing_heavy() -> None:
    """Which is what keeps it quick; a measured time would depend on the machine."""
    program = "import sys, deploy.cli; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) & HEAVY == set()


def test_a_setting_that_cannot_be_used_is_one_line_without_its_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HEADRACE_POLL_TIMEOUT_MS", "soon")
    monkeypatch.setenv("HEADRACE_KAFKA_PASSWORD", "opensesame")
    result = CliRunner().invoke(app, ["route"])
    assert result.exit_code == 2
    assert "HEADRACE_POLL_TIMEOUT_MS" in result.output
    assert "opensesame" not in result.output
    monkeypatch.delenv("HEADRACE_POLL_TIMEOUT_MS")
    result = CliRunner().invoke(app, ["route"])
    assert result.exit_code == 2
    assert "HEADRACE_KAFKA_SECURITY_PROTOCOL=SASL_SSL" in result.output.replace("\n", "")
