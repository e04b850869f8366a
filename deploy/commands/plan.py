"""`headrace plan`: since when each part of the rows counts, and what the registry would change."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.markup import escape

from deploy.console import out, say

if TYPE_CHECKING:
    from streaming.plans import Since


def plan() -> None:
    """Show since when each part of the rows counts; exit 2 if the registry's plan is refused."""
    import streaming.metrics  # noqa: F401 - before Feast
    from features.plan import FeatureRepo
    from streaming.plans import Definitions, since_when
    from streaming.settings import StreamingSettings
    from streaming.wiring import open_store

    settings = StreamingSettings()
    plans = FeatureRepo(settings.repo).open()
    store = open_store(settings, plans.project)
    try:
        definitions = Definitions(store)
        in_force = definitions.plan
        if in_force is None:
            say(f"project {plans.project}: no plan is in force yet; `headrace route` brings one")
            return
        topic = settings.events_topic or in_force.topic
        lives = store.remembered(f"generations:{topic}").values()
        life = max(map(int, lives), default=1)
        for found in since_when(store, life, settings.events_partitions):
            out.print(escape(line(found)), soft_wrap=True, highlight=False)
        change = definitions.check(plans.read())
        say(
            f"plan {in_force.version} is in force, and what the registry holds"
            if change is None
            else f"plan {in_force.version} is in force; the registry's {change}"
        )
    finally:
        store.close()


def line(found: "Since") -> str:
    """A view or parts of it, and the time and the offsets of `events` from which they count."""
    since = f"{datetime.fromtimestamp(found.since_ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
    offsets = " ".join(f"{partition}:{offset}" for partition, offset in found.offsets.items())
    what = f"{found.view}: {', '.join(found.parts)}" if found.parts else found.view
    return f"{since}  from {offsets or 'no offset yet'}  {what}"
