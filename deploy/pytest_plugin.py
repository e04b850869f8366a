"""The pytest plugin: fixtures for stream tests, in memory and on a real local stack.

Every pytest run of an environment that has Headrace imports this: nothing else is imported here
until a test asks for a fixture.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from deploy.stack_file import Stack
    from deploy.stream_tests.script import StreamScript
    from features.spec import Plan


def pytest_addoption(parser: pytest.Parser) -> None:
    """What stream tests are about, on the command line or in the ini file."""
    group = parser.getgroup("headrace", "stream tests")
    for name, default, says in (
        ("repo", "feature_repo", "feature repository that stream tests use"),
        ("service", "home_feed", "feature service that they read"),
        ("model", "", "folder of the model that ranks; without one, what is popular comes first"),
    ):
        option = f"headrace-{name}"
        group.addoption(f"--{option}", default=None, help=says)
        parser.addini(option.replace("-", "_"), says, default=default)


@pytest.fixture(scope="session")
def headrace_repo(pytestconfig: pytest.Config) -> Path:
    """The feature repository under test."""
    return (pytestconfig.rootpath / _asked(pytestconfig, "repo")).resolve()


@pytest.fixture(scope="session")
def headrace_plan(headrace_repo: Path, tmp_path_factory: pytest.TempPathFactory) -> "Plan":
    """What the repository declares, by a stock `feast apply` into a registry of the test run."""
    from deploy.feature_store import SETTINGS, applying, write_settings
    from deploy.ports import free_port
    from features.plan import FeatureRepo

    folder = tmp_path_factory.mktemp("headrace")
    settings = folder / SETTINGS
    write_settings(headrace_repo, settings, free_port())
    with applying(headrace_repo, settings, folder / "apply.log") as wait:
        wait()
    with pytest.MonkeyPatch.context() as environ:
        environ.setenv("FEAST_FS_YAML_FILE_PATH", str(settings))
        environ.setenv("HEADRACE_REPO", str(headrace_repo))
        return FeatureRepo(headrace_repo).open().read()


@pytest.fixture
def headrace_stream(
    headrace_plan: "Plan", headrace_repo: Path, pytestconfig: pytest.Config
) -> "StreamScript":
    """A stream in memory: `route`, `aggregate` and the ranker without servers, empty per test."""
    from deploy.stream_tests.memory import MemoryTwin
    from deploy.stream_tests.script import StreamScript

    service = _asked(pytestconfig, "service")
    return StreamScript(MemoryTwin(headrace_plan, headrace_repo, service, _model(pytestconfig)))


@pytest.fixture(scope="session")
def headrace_stack(
    headrace_repo: Path, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> "Iterator[Stack]":
    """A local stack of the test run, on free ports: broker, Valkey, and all three processes."""
    from deploy.stream_tests.stack import running_stack

    folder = tmp_path_factory.mktemp("headrace-stack")
    with running_stack(folder, headrace_repo, _model(pytestconfig)) as stack:
        yield stack


@pytest.fixture
def headrace_stack_stream(
    headrace_stack: "Stack", headrace_plan: "Plan", pytestconfig: pytest.Config
) -> "Iterator[StreamScript]":
    """The same stream on that stack; rows stay from test to test, so give each its own names."""
    from deploy.stream_tests.script import StreamScript
    from deploy.stream_tests.stack import stack_twin

    service = _asked(pytestconfig, "service")
    with stack_twin(headrace_stack, headrace_plan, service) as twin:
        yield StreamScript(twin)


def _asked(config: pytest.Config, name: str) -> str:
    return str(config.getoption(f"headrace_{name}") or config.getini(f"headrace_{name}"))


def _model(config: pytest.Config) -> Path | None:
    asked = _asked(config, "model")
    return (config.rootpath / asked).resolve() if asked else None
