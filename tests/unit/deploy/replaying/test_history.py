"""`--check-skew` through Feast's historical retrieval: the log, replay and Feast say the same."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from deploy.feature_store import SETTINGS, applying
from deploy.replaying import skew as skews
from deploy.replaying.history import ANOTHER_MOMENT, ROWS_LOST, Retrieval, through_feast
from deploy.replaying.sections import skew_section
from deploy.replaying.skew import Skew
from features.plan import FeatureRepo, PlanSource
from ranker.reading import heads_loader
from ranker.recount import Recounter
from ranker.scoring.value import read_weights
from streaming.archive import Arrived, SpanSettings
from streaming.blocks import decode_block
from streaming.logs.files import LogFiles
from streaming.replays.recorded import ArchivedEvents
from streaming.replays.versions import BlockIndex, versions
from tests.archives import Ground
from tests.living import LIMIT, REQUESTS, START_MS, lived, trained
from tests.recordings import ROUTED
from tests.town import Town


@dataclass
class Lived:
    """A town, its repository and its archived logs; row versions are written when asked."""

    town: Town
    repo: Path
    files: LogFiles
    model: Path

    def archive_rows(self, blocks: int, root: Path, folder: Path) -> None:
        """Row versions, so many blocks to a span."""
        plans = {self.town.plan.version: self.town.plan}
        ground = Ground(root, folder, plans, SpanSettings(blocks, 10**12))
        logs = {
            target: [Arrived(r.offset, r.append_time, decode_block(r.value or b"")) for r in some]
            for target, some in self.town.updates.items()
        }
        ground.run(logs, self.town.plan)

    @property
    def source(self) -> PlanSource:
        return FeatureRepo(self.repo).open()

    def checked(
        self,
        source: Retrieval | None = None,
        alter: Callable[[dict[str, Any]], dict[str, Any]] = lambda record: record,
    ) -> Skew:
        plan = self.town.plan
        weights = read_weights(self.repo / "value.yaml")
        recounter = Recounter(plan, "home_feed", heads_loader(self.model, weights))
        skew = Skew()
        records = [alter(record) for record in skews.served(self.files, None)]
        rankings = skews.rankings_of(records, plan, skew)
        wanted = skews.wanted_by(rankings, recounter)
        events = ArchivedEvents(self.files, "archive")
        found = versions(plan, events, BlockIndex(self.files), wanted, ROUTED)
        skews.check(rankings, recounter, found, skew)
        feast = source or self.source
        skew.history = through_feast(feast, rankings, recounter, found, "home_feed")
        return skew


@pytest.fixture(scope="module")
def place(applied_repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Lived:
    folder = tmp_path_factory.mktemp("history")
    repo = folder / "repo"
    copytree(applied_repo, repo, ignore=ignore_patterns("__pycache__", "*.db", "archive"))
    settings = repo / SETTINGS
    settings.write_text(settings.read_text().replace(str(applied_repo), str(repo)))
    with applying(repo, settings, folder / "apply.log") as wait:
        wait()
    model = trained(repo, folder, "served", 10**15)
    town = lived(repo, model, clock_ms=START_MS + 30 * 86_400_000)
    return Lived(town, repo, town.archive(folder / "logs"), model)


def test_without_row_versions_it_says_that_nothing_was_compared(place: Lived) -> None:
    skew = place.checked()
    assert skew.history is None
    section = skew_section(skew)
    assert section.passed
    assert any("no row versions are archived" in note for note in section.notes)


@pytest.fixture(scope="module")
def archived(place: Lived, tmp_path_factory: pytest.TempPathFactory) -> Lived:
    place.archive_rows(1, Path(place.source.archive()), tmp_path_factory.mktemp("rows"))
    return place


def test_log_replay_and_feast_agree_to_the_bit(archived: Lived) -> None:
    skew = archived.checked()
    assert skew.history is not None
    assert skew.differences == skew.history.differences == 0
    compared = skew.history.items
    assert compared == REQUESTS * LIMIT
    assert not skew.history.left_out
    assert all(one.equal == compared for one in skew.history.features.values())
    section = skew_section(skew)
    assert section.passed
    assert section.figures["items through Feast"] == compared


def test_what_coarser_versions_skip_is_counted_and_not_compared(
    archived: Lived, tmp_path: Path
) -> None:
    archived.archive_rows(8, tmp_path / "coarse", tmp_path / "rows")
    skew = archived.checked(Strange(archived.source, folder=str(tmp_path / "coarse")))
    assert skew.history is not None
    assert skew.history.differences == 0
    skipped = skew.history.left_out[ANOTHER_MOMENT]
    assert skew.history.items + skipped == REQUESTS * LIMIT
    assert skipped > 0 < skew.history.items


def test_a_vector_that_was_served_otherwise_differs_from_both(archived: Lived) -> None:
    def nudged(record: dict[str, Any]) -> dict[str, Any]:
        vectors = [[*row[:-1], (row[-1] or 0.0) + 1.0] for row in record["vectors"]]
        return record | {"vectors": vectors}

    skew = archived.checked(alter=nudged)
    assert skew.history is not None
    assert skew.differences == REQUESTS * LIMIT
    assert skew.history.differences == skew.history.items > 0
    assert not skew_section(skew).passed


@dataclass
class Strange:
    """Feast with a fault of its own, or of whose versions only those in a folder are known."""

    real: PlanSource
    spoil: Callable[[pa.Table], pa.Table] = lambda table: table
    folder: str | None = None

    def archive(self) -> str:
        return self.folder or self.real.archive()

    def history(self, frame: pd.DataFrame, service: str) -> pa.Table:
        return self.spoil(self.real.history(frame, service))


def test_what_feast_alone_says_otherwise_is_found(archived: Lived) -> None:
    name = "item_rates__ctr_all"

    def spoilt(table: pa.Table) -> pa.Table:
        other = [value + 0.5 for value in table.column(name).to_pylist()]
        return table.set_column(table.schema.get_field_index(name), name, pa.array(other))

    skew = archived.checked(Strange(archived.source, spoilt))
    assert skew.history is not None
    assert skew.differences == 0
    assert skew.history.features[name].differing == skew.history.items
    assert skew.history.differences == skew.history.items
    section = skew_section(skew)
    assert not section.passed
    assert any(note.startswith(f"through Feast, {name}: request") for note in section.notes)


def test_an_offline_store_that_loses_rows_is_named(archived: Lived) -> None:
    skew = archived.checked(Strange(archived.source, lambda table: table.slice(1)))
    assert skew.history is not None
    assert skew.history.items == 0
    assert skew.history.left_out[ROWS_LOST] > 0
