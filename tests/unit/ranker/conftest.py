"""A model for the in-memory ranker, trained once."""

from pathlib import Path

import pytest

from features.events import Event
from ranker.training.rows import TrainingRows
from tests.browsing import browsing
from tests.serving import Serving, folded, replayed, trained

REQUESTS = 500


@pytest.fixture(scope="session")
def browsed() -> list[Event]:
    """Events of people who browse, up to shortly before 4,600 ms."""
    return browsing(REQUESTS)


@pytest.fixture(scope="session")
def rows(browsed: list[Event]) -> TrainingRows:
    """Their training rows."""
    return replayed(browsed, ("click", "skip"))


@pytest.fixture(scope="session")
def model(rows: TrainingRows, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with one head, click."""
    return trained(tmp_path_factory.mktemp("model"), rows, "click")


@pytest.fixture
def serving(browsed: list[Event], model: Path) -> Serving:
    """The ranker with that model, after all those events."""
    served = Serving(folded(browsed), model)
    served.now = 4_600
    return served
