"""Kafka and what is recorded of it in Redis: topics, rights, clock, lag, checkpoints."""

import time
from collections.abc import Iterator, Mapping
from typing import Final

from deploy.doctor.finding import Finding, ok
from deploy.doctor.redis import clock
from deploy.kafka import Group, KafkaWard, Topic, ward
from features.spec import Plan
from streaming.kafka import FORGETFUL, TOPIC
from streaming.settings import StreamingSettings
from streaming.wiring import open_broker, open_store

DAY_MS: Final = 86_400_000
NEEDED: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "events": {"route": ("READ",)},
    "updates": {"route": ("WRITE",), "aggregate": ("READ",)},
    "dead letters": {"route": ("WRITE",)},
    "rankings": {"the ranker": ("WRITE",)},
}
"""What processes do with topics, by the topic's part."""


def look(
    settings: StreamingSettings, plan: Plan, rankings: str, lag_records_max: int
) -> Iterator[Finding]:
    """Raises Unavailable when Kafka or Redis is away. Nothing is created or committed."""
    names = {
        "events": settings.events_topic or plan.topic,
        "updates": settings.updates_topic,
        "dead letters": settings.dead_letters_topic,
        "rankings": rankings,
    }
    with ward(open_broker(settings)) as kafka:
        yield from _cluster(kafka)
        topics = {part: kafka.topic(name) for part, name in names.items()}
        for part, topic in topics.items():
            yield from judge_topic(part, names[part], topic, settings)
        events, updates = topics["events"], topics["updates"]
        if events is not None and events.settings.get("message.timestamp.type") == "LogAppendTime":
            yield from _clock(kafka, names["events"], events)
        store = open_store(settings, plan.project)
        try:
            recorded = {k: int(v) for k, v in store.remembered("partitions").items()}
            lives = {part: store.remembered(f"generations:{names[part]}") for part in names}
            checkpoints = {
                number: store.checkpoint(number) for number in range(settings.updates_partitions)
            }
        finally:
            store.close()
        for part in ("events", "updates"):
            yield from judge_record(names[part], topics[part], recorded, lives[part])
        if events is not None:
            group = f"{plan.project}.route"
            found = kafka.group(group, names["events"])
            yield from judge_group(group, names["events"], events, found, lag_records_max)
        if updates is not None:
            group = f"{plan.project}.aggregate"
            found = kafka.group(group, names["updates"])
            if found is not None:
                life = lives["updates"].get(updates.id)
                at = {
                    n: c.offset for n, c in checkpoints.items() if c and str(c.generation) == life
                }
                found = Group(found.members, at)
            yield from judge_group(group, names["updates"], updates, found, lag_records_max)


def _cluster(kafka: KafkaWard) -> Iterator[Finding]:
    found = kafka.cluster()
    if found.id in FORGETFUL:
        mend = "for anything but trials use a Kafka that keeps them on disk"
        yield Finding("kafka", "note", "the broker keeps its topics in memory alone", mend)
    else:
        yield ok("kafka", f"cluster {found.id}, {found.brokers} broker(s)")


def judge_topic(
    part: str, name: str, topic: Topic | None, settings: StreamingSettings
) -> Iterator[Finding]:
    """Existence, health, settings and rights of one topic."""
    check = f"kafka/topic {name}"
    if topic is None:
        says = f"there is no topic {name!r}, or this user may not DESCRIBE it"
        mend = "headrace route creates it where it may (CREATE), else make it beforehand"
        yield Finding(check, "note", says, mend)
        return
    wanted = {
        "events": settings.events_partitions,
        "updates": settings.updates_partitions,
        "dead letters": 1,
    }.get(part, topic.partitions)
    wrong = list(_wrong(part, topic, wanted, settings))
    for level, says, mend in wrong:
        yield Finding(check, level, f"{name}: {says}", mend)  # type: ignore[arg-type]
    if not wrong:
        yield ok(check, f"{topic.partitions} partition(s), {sum(topic.end.values())} offsets")


def _wrong(
    part: str, topic: Topic, partitions: int, settings: StreamingSettings
) -> Iterator[tuple[str, str, str]]:
    if topic.partitions != partitions:
        says = f"it has {topic.partitions} partitions, the settings say {partitions}"
        mend = f"set HEADRACE_{part.upper()}_PARTITIONS={topic.partitions}, or replay anew"
        yield "fault", says, mend
    if topic.leaderless:
        says = f"partitions {list(topic.leaderless)} have no leader"
        yield "fault", says, "see which brokers are down"
    behind = [n for n, have in topic.in_sync.items() if have < topic.replicas[n]]
    if behind:
        yield "note", f"partitions {behind} lack replicas in sync", "see which brokers are down"
    if any(replicas < settings.replication_factor for replicas in topic.replicas.values()):
        says = f"it has {min(topic.replicas.values())} replica(s)"
        mend = f"the settings ask for {settings.replication_factor}: reassign its partitions"
        yield "note", says, mend
    yield from _wrong_settings(part, topic)
    for process, rights in NEEDED[part].items():
        lacking = [right for right in rights if right not in (topic.rights or rights)]
        if lacking:
            says = f"this user may not {' or '.join(lacking)} it, as {process} must"
            yield "fault", says, f"add an ACL that allows it, if this is the user of {process}"


def _wrong_settings(part: str, topic: Topic) -> Iterator[tuple[str, str, str]]:
    has = topic.settings
    if not has:
        return
    if part == "events" and has.get("message.timestamp.type") != "LogAppendTime":
        says = "message.timestamp.type is not LogAppendTime"
        yield "note", says, "set it: HEADRACE_MAX_AHEAD_MS counts from senders' clocks otherwise"
    if int(has.get("max.message.bytes", 0)) < int(TOPIC["max.message.bytes"]):
        says = f"max.message.bytes is {has.get('max.message.bytes')}"
        yield "fault", says, f"set it to {TOPIC['max.message.bytes']}: a block may weigh 8 MiB"
    if has.get("cleanup.policy", "delete") != "delete":
        says = f"cleanup.policy is {has['cleanup.policy']}"
        yield "fault", says, "set it to delete: a compacted topic drops events"
    if has.get("unclean.leader.election.enable") == "true":
        says = "unclean.leader.election.enable is true"
        yield "fault", says, "set it to false: offsets would be given twice"
    if 1 <= int(has.get("min.insync.replicas", 2)) < 2 <= min(topic.replicas.values()):
        says = "min.insync.replicas is 1"
        yield "note", says, "set it to 2: what is acknowledged is then on two brokers"
    retention = int(has.get("retention.ms", -1))
    if 0 <= retention < DAY_MS and part in ("events", "updates"):
        says = f"records are kept for {retention / 3.6e6:.1f} h"
        yield "note", says, "keep them longer than the longest outage of the workers"


def _clock(kafka: KafkaWard, name: str, topic: Topic) -> Iterator[Finding]:
    """A broker's clock can be seen to be ahead of ours, and never behind: records may be old."""
    newest = kafka.newest_append_ms(name, topic.end)
    if newest is not None:
        yield clock("kafka/clock", "the brokers", max(newest / 1000 - time.time(), 0.0))


def judge_record(
    name: str, topic: Topic | None, recorded: Mapping[str, int], lives: Mapping[str, str]
) -> Iterator[Finding]:
    """What Redis has of a topic, against the topic."""
    check = f"stream/topic {name}"
    if name not in recorded:
        mend = "headrace route and aggregate record it at their first start"
        yield Finding(check, "note", f"Redis has no record of topic {name!r} yet", mend)
    elif topic is None:
        yield Finding(check, "fault", f"Redis knows a topic {name!r}, Kafka does not", _OTHER)
    elif recorded[name] != topic.partitions:
        says = f"{name} was set up with {recorded[name]} partitions and has {topic.partitions}"
        mend = "replay into a new project: rows belong to the partitions of the first start"
        yield Finding(check, "fault", says, mend)
    elif lives and topic.id not in lives:
        yield Finding(check, "fault", f"{name} is not the topic that rows were folded from", _OTHER)
    else:
        yield ok(check, f"{topic.partitions} partitions as recorded, life {lives.get(topic.id)}")


_OTHER: Final = (
    "see whether HEADRACE_KAFKA and HEADRACE_REDIS belong together; a topic made anew begins a new "
    "life when the workers start, and events sent again to it count again"
)


def judge_group(
    name: str, topic_name: str, topic: Topic, group: Group | None, lag_records_max: int
) -> Iterator[Finding]:
    """How far a group is behind, and whether anybody of it reads."""
    check = f"stream/group {name}"
    if group is None:
        mend = "it is there once a worker has started; else allow DESCRIBE of the group"
        yield Finding(check, "note", f"group {name} is not known", mend)
        return
    lost = {n: at for n, at in group.committed.items() if at < topic.first.get(n, 0)}
    if lost:
        says = f"{topic_name} no longer holds what {name} reads next: {lost} before {topic.first}"
        mend = "replay that span from the archive into a new project; keep records for longer"
        yield Finding(check, "fault", says, mend)
        return
    lag = sum(max(0, end - group.committed.get(n, 0)) for n, end in topic.end.items())
    members = "of members unknown" if group.members is None else f"{group.members} member(s)"
    says = f"{lag} records behind, {members}"
    if group.members == 0:
        mend = f"start headrace {name.rpartition('.')[2]}"
        yield Finding(check, "fault" if lag else "note", f"{says}: nobody reads", mend)
    elif lag > lag_records_max:
        mend = f"add workers up to {topic.partitions}, and see whether Redis holds them up"
        yield Finding(check, "note", says, mend)
    else:
        yield ok(check, says)
