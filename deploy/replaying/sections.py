"""What the checks found, in words, figures and tables."""

from deploy.replaying.report import Bars, Section
from deploy.replaying.skew import History, Skew
from features.spec import Plan
from streaming.replays.compare import Comparison
from streaming.replays.explain import cause, lines
from streaming.replays.recorded import Recorded

COLUMNS = ("feature", "equal", "differing", "apart at most", "why")


def state_section(plan: Plan, found: Comparison, recorded: Recorded) -> Section:
    """Replayed rows against those in Redis; the first difference is explained."""
    notes = []
    if found.first:
        first = found.first[0]
        where = f"{first.view} of {first.entity.join_key} {first.id!r}"
        notes.append(f"first difference, {where}: {'; '.join(lines(plan, first))}")
        notes.append(f"why: {cause(plan, found.first, recorded)}")
    says = (
        f"{found.rows:,} rows compared, {found.differences:,} differ"
        if found.rows
        else "there are no rows on either side: nothing was compared"
    )
    return Section(
        name="check-state",
        passed=bool(found.rows) and not found.differences,
        says=says,
        figures={
            "rows": found.rows,
            "equal": found.equal,
            "differing": found.differing,
            "only online": found.only_online,
            "only replayed": found.only_replayed,
        },
        notes=notes,
        columns=("view", "id", "fields"),
        rows=[(one.view, one.id, ", ".join(one.fields)) for one in found.first],
        plots=_bars("rows that differ, by field", dict(found.fields)),
    )


def skew_section(skew: Skew) -> Section:
    """Vectors of the serving log against those computed again, per feature."""
    differing = [one for one in skew.features.values() if one.differing]
    notes = [f"left out: {count:,} rankings {why}" for why, count in skew.left_out.items()]
    notes += [f"{one.name}: {one.example}" for one in differing[:3]]
    notes += _feast_notes(skew.history)
    history = skew.history or History()
    return Section(
        name="check-skew",
        passed=bool(skew.rankings) and not differing and not history.differences,
        says=_said(skew, f"{skew.differences:,} values of {len(differing)} features differ"),
        figures={
            "rankings": skew.rankings,
            "items": skew.items,
            "features": len(skew.features),
            "values that differ": skew.differences,
            "items through Feast": history.items,
            "values that differ through Feast": history.differences,
        },
        notes=notes,
        columns=(*COLUMNS, "through Feast equal", "through Feast differing"),
        rows=[
            (
                one.name,
                one.equal,
                one.differing,
                one.apart_max,
                one.why or "equal to the bit",
                *_through_feast(history, one.name),
            )
            for one in sorted(skew.features.values(), key=lambda one: -one.differing)
        ],
        plots=_bars("values that differ, by feature", {d.name: d.differing for d in differing}),
    )


def rank_section(skew: Skew) -> Section:
    """Scores, order and pages of the serving log against those computed again."""
    notes = [
        f"left out: {count:,} rankings {why}"
        for why, count in (skew.left_out + skew.unscored + skew.unpaged).items()
    ]
    notes += [f"first other page, {skew.page_example}"] if skew.page_example else []
    compared = skew.scores_equal + skew.scores_differing
    says = (
        f"{skew.scores_differing:,} have other scores, {skew.orders_differing:,} another order by "
        f"score; of {skew.pages_equal + skew.pages_differing:,} whose candidates are kept "
        f"{skew.pages_differing:,} have another page after diversity"
    )
    return Section(
        name="check-rank",
        passed=bool(compared)
        and not (skew.scores_differing or skew.orders_differing or skew.pages_differing),
        says=_said(skew, says) if compared else "no ranking could be compared",
        figures={
            "rankings": compared,
            "same scores": skew.scores_equal,
            "other scores": skew.scores_differing,
            "scores apart at most": skew.score_apart_max,
            "another order": skew.orders_differing,
            "same pages": skew.pages_equal,
            "other pages": skew.pages_differing,
        },
        notes=notes,
    )


def _through_feast(history: History, feature: str) -> tuple[int, int]:
    one = history.features.get(feature)
    return (0, 0) if one is None else (one.equal, one.differing)


def _feast_notes(history: History | None) -> list[str]:
    """What Feast's historical retrieval of the same rows found, in words."""
    if history is None:
        return ["not compared with Feast's history: no row versions are archived"]
    said = (
        f"through Feast's historical retrieval: {history.items:,} items of {history.rankings:,} "
        f"rankings, {history.differences:,} values differ"
    )
    differing = [one for one in history.features.values() if one.differing]
    return [
        said,
        *(f"left out of it: {count:,} items {why}" for why, count in history.left_out.items()),
        *(f"through Feast, {one.name}: {one.example}" for one in differing[:3]),
    ]


def _bars(title: str, values: dict[str, float]) -> list[Bars]:
    return [Bars(title, values)] if values else []


def _said(skew: Skew, differences: str) -> str:
    if not skew.rankings:
        return "no ranking could be compared"
    return f"{skew.rankings:,} rankings of {skew.items:,} items computed again: {differences}"
