"""The registry: against the repository's code, and against what is in force in Redis."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from deploy.doctor.finding import Finding, ok
from deploy.feature_store import SETTINGS, applying
from features.errors import HeadraceError
from features.plan import FeatureRepo
from features.row_store import RowStore
from features.spec import Plan
from streaming.plans import Definitions

APPLY = "run feast apply in the feature repository, if its code is what should run"


def look(repo: FeatureRepo, plan: Plan) -> Iterator[Finding]:
    """Compile the code beside the registry. Raises BadInput when the code cannot be applied."""
    yield ok(
        "registry", f"project {plan.project}, plan {plan.version}, {len(plan.views)} stored views"
    )
    differ = differences(plan, declared(repo))
    if differ:
        says = f"the registry is not what the code in {repo.folder} declares: {'; '.join(differ)}"
        yield Finding("registry/code", "fault", says, APPLY)
    else:
        yield ok("registry/code", f"is what the code in {repo.folder} declares")


def declared(repo: FeatureRepo) -> Plan:
    """The plan of the code: applied, by stock Feast, to a registry of its own, and thrown away."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shutil.copytree(
            repo.folder,
            folder / "repo",
            ignore=shutil.ignore_patterns("*.db", "*.parquet", "__pycache__", "archive", ".*"),
        )
        settings: dict[str, Any] = yaml.safe_load(repo.config_file.read_text())
        settings["registry"] = {"registry_type": "sql", "path": f"sqlite:///{folder}/registry.db"}
        settings["online_store"] = {"type": "sqlite", "path": str(folder / "online.db")}
        fresh = folder / "repo" / SETTINGS
        fresh.write_text(yaml.safe_dump(settings, sort_keys=False))
        with applying(fresh.parent, fresh, folder / "apply.log") as wait:
            wait()
        return FeatureRepo(fresh.parent, fresh).open().read()


def differences(registry: Plan, code: Plan) -> list[str]:
    """What the two do not agree on, by name."""
    found = []
    if registry.topic != code.topic:
        found.append(f"events come from {registry.topic!r}, the code says {code.topic!r}")
    for kind, here, there in (
        ("view", registry.views, code.views),
        ("as-of view", registry.as_of, code.as_of),
    ):
        applied, written = {v.name: v for v in here}, {v.name: v for v in there}
        found += [f"{kind} {name} is not applied" for name in written.keys() - applied.keys()]
        found += [f"{kind} {name} is gone from it" for name in applied.keys() - written.keys()]
        found += [
            f"{kind} {name} differs"
            for name in applied.keys() & written.keys()
            if applied[name] != written[name]
        ]
    if registry.services != code.services:
        names = registry.services.keys() | code.services.keys()
        differ = sorted(n for n in names if registry.services.get(n) != code.services.get(n))
        found.append(f"feature services {', '.join(differ)} differ")
    return sorted(found)


def look_in_force(store: RowStore, plan: Plan) -> Iterator[Finding]:
    """What rows are folded by now, against the registry. Raises Unavailable."""
    definitions = Definitions(store)
    in_force = definitions.plan
    if in_force is None:
        mend = "headrace route brings one into force"
        yield Finding("registry/in force", "note", "no plan is in force yet", mend)
        return
    try:
        change = definitions.check(plan)
    except HeadraceError as error:
        yield Finding("registry/in force", "fault", f"plan {in_force.version}: {error}")
        return
    if change is None:
        yield ok("registry/in force", f"plan {in_force.version}, and what the registry holds")
    else:
        mend = "see whether headrace route runs: it takes the change up within moments"
        says = f"plan {in_force.version} is in force; the registry {change}"
        yield Finding("registry/in force", "note", says, mend)
