"""A plan, the tables and a model joined for requests; what does not fit is refused by name."""

import json
from pathlib import Path

import numpy as np
import pytest

from features.as_of import Reader
from features.errors import Refused
from features.events import Event
from ranker.reading import heads_loader, make_reading
from tests.plans import changed
from tests.serving import CLICKS, SERVED_PLAN, Serving, folded


def columns() -> list[str]:
    return [name for name, _ in SERVED_PLAN.service_features("feed")]


def test_a_model_whose_column_the_service_lacks_is_refused_by_the_columns_name(
    model: Path,
) -> None:
    load = heads_loader(model, CLICKS)
    without = [name for name in columns() if name != "user_item__author_affinity"]
    with pytest.raises(Refused, match=r"'user_item__author_affinity'.*feast apply"):
        load(without)


def test_a_model_for_another_column_is_refused_by_that_name(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "changed"
    folder.mkdir()
    for file in model.iterdir():
        text = file.read_text()
        if file.name == "manifest.json":
            manifest = json.loads(text)
            manifest["features"][0] = "item_rates__ghost"
            text = json.dumps(manifest)
        (folder / file.name).write_text(text)
    with pytest.raises(Refused, match="item_rates__ghost"):
        heads_loader(folder, CLICKS)(columns())


def test_columns_that_the_model_does_not_take_are_left_out_whatever_their_place(
    model: Path,
) -> None:
    heads = heads_loader(model, CLICKS)(["new__first", *reversed(columns()), "new__last"])
    assert heads is not None
    matrix = np.arange(2.0 * (len(columns()) + 2)).reshape(2, -1)
    expected = matrix[:, 1:-1][:, ::-1]
    assert np.array_equal(heads.pick(matrix), expected)
    assert heads.score(matrix)["click"].shape == (2,)


def test_without_a_folder_there_are_no_heads() -> None:
    assert heads_loader(None, CLICKS)(columns()) is None


def test_a_service_that_nobody_declared_is_refused_with_those_there_are(
    browsed: list[Event],
) -> None:
    with pytest.raises(Refused, match=r"no feature service 'home'.*feed, lists"):
        make_reading(SERVED_PLAN, "home", folded(browsed).tables, lambda _: None)


def test_a_model_that_stops_fitting_is_said_in_every_answer(
    browsed: list[Event], model: Path
) -> None:
    smaller = changed(
        SERVED_PLAN,
        services={"feed": tuple(v for v in SERVED_PLAN.services["feed"] if v != "user_item")},
    )
    serving = Serving(folded(browsed, smaller), model)
    feed = serving.ask(user_id="u3", candidates=["i1"])
    assert feed.model == "popularity"
    assert len(feed.degraded) == 1
    assert "user_item__author_affinity" in feed.degraded[0]


def test_the_reader_of_a_request_has_all_columns_in_order(serving: Serving) -> None:
    assert isinstance(serving.reading.reader, Reader)
    assert serving.reading.reader.columns == tuple(columns())
