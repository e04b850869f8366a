"""How one plan is read from the live tables that stand now: made anew when either changes."""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from features.as_of import Reader, Tables
from features.as_of_kernels import Floats, Vectors
from features.candidates import ITEM_KEY, USER_KEY, CandidateJoin
from features.entities import EntityTable
from features.errors import Refused
from features.latest import LatestTable
from features.layout import Ints
from features.spec import Plan, SimilarityFeature, embeddings_of
from features.strings import Strings
from features.tables import EntityRows
from ranker.request import Reason
from ranker.scoring.explain import Explainer
from ranker.scoring.model import Model, load_model, read_manifest
from ranker.scoring.value import ValueModel, ValueWeights
from ranker.tables.popularity import Popularity


@dataclass(frozen=True, slots=True)
class Heads:
    """A model that fits the feature service, and which of its columns it takes."""

    version: str
    model: Model
    value: ValueModel
    explainer: Explainer
    columns: Ints
    whole: bool
    """Whether those are all columns of the service, in its order."""

    def score(self, matrix: Floats) -> dict[str, Floats]:
        """Head → [candidate], from all columns of the service."""
        return self.model.score(self.pick(matrix))

    def reasons(self, matrix: Floats, weights: Mapping[str, float]) -> list[list[Reason]]:
        """Per row of all columns of the service, what makes up its weighted predictions."""
        return self.explainer.reasons(self.pick(matrix), weights)

    def pick(self, matrix: Floats) -> Floats:
        """The model's own columns."""
        return matrix if self.whole else matrix.take(self.columns, axis=1)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a request needs of the plan and the tables."""

    plan: Plan
    tables: Tables
    reader: Reader
    join: CandidateJoin
    popularity: Popularity
    heads: Heads | None
    unfit: str
    """Why there are no heads."""
    similar: SimilarityFeature | None
    """The first similarity feature that the model takes (the feature service, without a model)."""

    @property
    def embeddings(self) -> str | None:
        """The view whose embeddings the model compares; the plan's first without any such."""
        if self.similar is not None and self.similar.embedding:
            return self.similar.embedding
        return next(iter(self.plan.embeddings), None)

    def vectors(self, rows: Ints) -> Vectors:
        """[row, dimension] of those embeddings by rows of items, zeros where there is none."""
        if self.embeddings is None:
            return np.zeros((len(rows), 0), np.float32)
        return vectors_of(self.tables[ITEM_KEY], self.embeddings, rows)


def make_reading(
    plan: Plan, service: str, tables: Tables, load_heads: Callable[[Sequence[str]], Heads | None]
) -> Reading:
    """A reading of the tables by the plan; users are read one request at a time."""
    if service not in plan.services:
        raise Refused(
            f"no feature service {service!r} in the registry (it has "
            f"{', '.join(plan.services) or 'none'}): declare it, or set HEADRACE_FEATURE_SERVICE"
        )
    users = {e.join_key: e for e in plan.entities}.get(USER_KEY)
    all_tables = dict(tables)
    if users is not None:
        all_tables[USER_KEY] = EntityTable(plan, users, Strings())
    reader = Reader(plan, service, all_tables)
    heads, unfit = None, "no model is loaded"
    try:
        heads = load_heads(reader.columns)
    except Refused as error:
        unfit = str(error)
    taken = reader.columns if heads is None else [reader.columns[c] for c in heads.columns.tolist()]
    join = CandidateJoin(plan, tables)
    return Reading(
        plan,
        tables,
        reader,
        join,
        Popularity(tables, join),
        heads,
        unfit,
        _similar(plan, set(taken)),
    )


def _similar(plan: Plan, columns: Set[str]) -> SimilarityFeature | None:
    for view in plan.as_of if plan.embeddings else ():
        for feature in view.features:
            if isinstance(feature, SimilarityFeature) and f"{view.name}__{feature.name}" in columns:
                return feature
    return None


def vectors_of(table: EntityRows, view: str, rows: Ints) -> Vectors:
    """[row, dimension]: embeddings of rows by a view, zeros where there is none; the lock of the
    table is held."""
    latest = table.tables[view]
    assert isinstance(latest, LatestTable)
    vectors = latest.column(embeddings_of((latest.view,))[view].name).vector
    if not len(vectors):
        return np.zeros((len(rows), 0), np.float32)
    found: Vectors = vectors[rows].astype(np.float32)
    found[rows < 0] = 0.0
    return found


def heads_loader(
    folder: Path | None, weights: ValueWeights
) -> Callable[[Sequence[str]], Heads | None]:
    """Loads the model of a folder for the columns of a service.

    The service may have more columns than the model takes: a feature can be declared and served
    before a model uses it.
    """

    def load(columns: Sequence[str]) -> Heads | None:
        if folder is None:
            return None
        wanted = read_manifest(folder).features
        model = load_model(folder, [name for name in wanted if name in columns])
        return Heads(
            version=model.manifest.created_at.isoformat(),
            model=model,
            value=ValueModel(weights, list(model.forests)),
            explainer=Explainer(model, folder),
            columns=np.array([columns.index(name) for name in wanted], np.int64),
            whole=wanted == list(columns),
        )

    return load
