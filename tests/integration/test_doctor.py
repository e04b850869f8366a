"""The doctor on real servers: nothing wrong is called right, and each planted fault is named."""

import http.server
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import NewTopic
from kafka.structs import OffsetAndMetadata
from typer.testing import CliRunner

from deploy.cli import app
from deploy.doctor.finding import Finding
from deploy.doctor.redis import clock
from deploy.doctor.rounds import Asked, rounds, verdict
from deploy.doctor.stream import judge_topic
from deploy.kafka import Topic
from deploy.ports import HOST
from features.codec import STRING_TYPE, entity_key
from features.plan import FeatureRepo
from features.redis_rows import RedisRows
from features.version import VERSION
from ranker.scoring.model import DataSpan, TrainedHead, save_model
from streaming.kafka import TOPIC, Broker
from streaming.records import Outgoing
from streaming.settings import StreamingSettings
from tests.waiting import until

PROJECT = "tests"


@pytest.fixture
def deployed(
    apache_kafka: str,
    empty_valkey: str,
    applied_repo: Path,
    unique: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, str]:
    """A deployment without a fault, as the workers leave it, and its names in the environment."""
    settings = {
        "HEADRACE_KAFKA": apache_kafka,
        "HEADRACE_REDIS": empty_valkey,
        "HEADRACE_REPO": str(applied_repo),
        "HEADRACE_EVENTS_TOPIC": unique("events"),
        "HEADRACE_UPDATES_TOPIC": unique("updates"),
        "HEADRACE_DEAD_LETTERS_TOPIC": unique("dead-letters"),
        "HEADRACE_RANKINGS_TOPIC": unique("rankings"),
        "HEADRACE_EVENTS_PARTITIONS": "2",
        "HEADRACE_UPDATES_PARTITIONS": "2",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    broker = Broker(apache_kafka, {})
    partitions = {"EVENTS": 2, "UPDATES": 2, "DEAD_LETTERS": 1, "RANKINGS": 4}
    broker.topics({settings[f"HEADRACE_{n}_TOPIC"]: count for n, count in partitions.items()})
    store = RedisRows(empty_valkey, PROJECT)
    try:
        for part in ("EVENTS", "UPDATES"):
            topic = settings[f"HEADRACE_{part}_TOPIC"]
            store.remember("partitions", topic, "2")
            store.generation(topic, broker.topic_id(topic))
    finally:
        store.close()
    return settings


def findings(*parts: str, **asked: object) -> dict[str, Finding]:
    """What the doctor finds, by check; the worst of each."""
    worst: dict[str, Finding] = {}
    order = ["ok", "note", "fault"]
    for one in rounds(Asked(parts=parts, **asked)):  # type: ignore[arg-type]
        if one.check not in worst or order.index(one.level) > order.index(worst[one.check].level):
            worst[one.check] = one
    return worst


def faults(found: dict[str, Finding]) -> dict[str, str]:
    """What is at fault; each says how to mend it."""
    wrong = {check: one for check, one in found.items() if one.level == "fault"}
    assert all(one.mend or ": " in one.says for one in wrong.values())
    return {check: one.says for check, one in wrong.items()}


def test_a_deployment_as_the_workers_leave_it_has_no_fault(deployed: dict[str, str]) -> None:
    found = findings("settings", "registry", "redis", "kafka", "model")
    assert faults(found) == {}
    assert found["registry/code"].level == "ok"
    assert found["redis/rights"].level == "ok"
    assert found[f"kafka/topic {deployed['HEADRACE_EVENTS_TOPIC']}"].level == "ok"
    assert found[f"stream/topic {deployed['HEADRACE_UPDATES_TOPIC']}"].level == "ok"


def test_the_command_says_the_same_in_lines_and_in_json_and_ends_by_its_verdict(
    deployed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["doctor", "--only", "settings", "--only", "redis"]
    well = CliRunner().invoke(app, asked)
    assert well.exit_code == 0, well.output
    assert "redis/rights" in well.output
    monkeypatch.setenv("HEADRACE_REDIS", f"redis://{HOST}:1/0")
    ill = CliRunner().invoke(app, [*asked, "--json"])
    assert ill.exit_code == 1
    (redis_fault,) = [one for one in json.loads(ill.stdout) if one["level"] == "fault"]
    assert redis_fault["check"] == "redis"
    assert "see whether it runs" in redis_fault["mend"]
    assert CliRunner().invoke(app, ["doctor", "--only", "nothing"]).exit_code == 2


def test_a_setting_that_cannot_be_read_is_named(
    deployed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_POLL_TIMEOUT_MS", "soon")
    wrong = faults(findings("settings", "redis"))
    assert "HEADRACE_POLL_TIMEOUT_MS" in wrong["settings"]


def test_a_server_that_is_away_keeps_no_other_part_from_being_looked_at(
    deployed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_KAFKA", f"{HOST}:1")
    found = findings("redis", "kafka", "ranker", ranker=f"http://{HOST}:1")
    assert set(faults(found)) == {"kafka", "ranker"}
    assert found["redis/policy"].level == "ok"


@pytest.fixture
def planted(empty_valkey: str) -> Iterator[Callable[..., None]]:
    """Changes a setting of the shared Valkey, and sets it back."""
    before: dict[str, str] = {}
    with redis.Redis.from_url(empty_valkey, decode_responses=True) as client:

        def plant(name: str, value: str) -> None:
            before.setdefault(name, client.config_get(name)[name])
            client.config_set(name, value)

        yield plant
        for name, value in before.items():
            client.config_set(name, value)


@pytest.mark.parametrize(
    ("name", "value", "check", "says"),
    [
        ("maxmemory-policy", "allkeys-lru", "redis", "evicts rows"),
        ("appendonly", "no", "redis/disk", "append-only"),
    ],
)
def test_a_redis_that_may_lose_rows_is_at_fault(
    deployed: dict[str, str],
    planted: Callable[..., None],
    name: str,
    value: str,
    check: str,
    says: str,
) -> None:
    planted(name, value)
    assert says in faults(findings("redis"))[check]


def test_a_redis_that_is_nearly_full_is_at_fault(
    deployed: dict[str, str], empty_valkey: str, planted: Callable[..., None]
) -> None:
    with redis.Redis.from_url(empty_valkey) as client:
        used = int(client.info("memory")["used_memory"])
    planted("maxmemory", str(int(used * 1.05)))
    assert "redis/memory" in faults(findings("redis"))


def test_rows_that_expire_are_told_from_keys_of_others(
    deployed: dict[str, str], empty_valkey: str
) -> None:
    with redis.Redis.from_url(empty_valkey) as client:
        client.set("a session of somebody", "1", ex=1000)
        assert faults(findings("redis")) == {}
        row = entity_key("item_id", STRING_TYPE, "guitar", PROJECT)
        client.hset(row, mapping={"_m": "1.1.0.7"})
        client.expire(row, 1000)
    assert "1 of" in faults(findings("redis"))["redis/expiry"]


@pytest.mark.parametrize(
    ("rules", "lacks"),
    [
        ("+@all -@scripting", "no script"),
        ("+@all -subscribe", "the ranker needs: SUBSCRIBE"),
        ("+@all -client|tracking", "the ranker needs: CLIENT TRACKING"),
        ("+@all -hset", "route and aggregate needs: HSET"),
    ],
)
def test_a_user_who_may_too_little_is_told_what_is_missing(
    deployed: dict[str, str],
    empty_valkey: str,
    monkeypatch: pytest.MonkeyPatch,
    rules: str,
    lacks: str,
) -> None:
    with redis.Redis.from_url(empty_valkey) as client:
        client.execute_command(
            "ACL", "SETUSER", "feed", "reset", "on", ">secret", "~*", "&*", *rules.split()
        )
    monkeypatch.setenv("HEADRACE_REDIS", empty_valkey.replace("//", "//feed:secret@"))
    assert lacks in faults(findings("redis"))["redis/rights"]


def test_a_wrong_password_is_a_fault_that_names_the_password(
    deployed: dict[str, str], empty_valkey: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_REDIS", empty_valkey.replace("//", "//nobody:wrong@"))
    found = findings("redis")
    assert "password" in faults(found)["redis"]
    assert "wrong@" not in str(found)


@contextmanager
def admin(address: str) -> Iterator[KafkaAdminClient]:
    client = KafkaAdminClient(bootstrap_servers=address)
    try:
        yield client
    finally:
        client.close()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"cleanup.policy": "compact", **TOPIC}, "compact"),
        ({"message.timestamp.type": "LogAppendTime"}, "max.message.bytes"),
    ],
)
def test_a_topic_that_drops_or_refuses_records_is_at_fault(
    deployed: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    unique: Callable[[str], str],
    settings: dict[str, str],
    says: str,
) -> None:
    topic = unique("events")
    monkeypatch.setenv("HEADRACE_EVENTS_TOPIC", topic)
    with admin(deployed["HEADRACE_KAFKA"]) as client:
        client.create_topics([NewTopic(topic, 2, 1, topic_configs=settings)])
    assert says in faults(findings("kafka"))[f"kafka/topic {topic}"]


def test_partitions_that_differ_from_the_settings_and_from_the_record_are_at_fault(
    deployed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = deployed["HEADRACE_UPDATES_TOPIC"]
    monkeypatch.setenv("HEADRACE_UPDATES_PARTITIONS", "3")
    wrong = faults(findings("kafka"))
    assert "it has 2 partitions, the settings say 3" in wrong[f"kafka/topic {topic}"]
    with redis.Redis.from_url(deployed["HEADRACE_REDIS"]) as client:
        client.hset(f"headrace:{PROJECT}:partitions", topic, "8")
    assert "set up with 8 partitions" in faults(findings("kafka"))[f"stream/topic {topic}"]


def test_a_topic_that_was_made_anew_is_not_the_one_of_the_rows(deployed: dict[str, str]) -> None:
    topic = deployed["HEADRACE_EVENTS_TOPIC"]
    with redis.Redis.from_url(deployed["HEADRACE_REDIS"]) as client:
        client.delete(f"headrace:{PROJECT}:generations:{topic}")
        client.hset(f"headrace:{PROJECT}:generations:{topic}", "an-earlier-id", "1")
    assert "not the topic that rows" in faults(findings("kafka"))[f"stream/topic {topic}"]


def test_a_group_nobody_reads_in_and_one_far_behind_are_told(
    deployed: dict[str, str], unique: Callable[[str], str]
) -> None:
    topic, group = deployed["HEADRACE_EVENTS_TOPIC"], f"stream/group {PROJECT}.route"
    broker = Broker(deployed["HEADRACE_KAFKA"], {})
    _send(broker, topic, 30)
    reader = KafkaConsumer(
        bootstrap_servers=deployed["HEADRACE_KAFKA"],
        group_id=f"{PROJECT}.route",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    try:
        assert reader.partitions_for_topic(topic) == {0, 1}
        reader.subscribe([topic])
        until(lambda: reader.poll(50) is not None and len(reader.assignment()) == 2, 60)
        assert findings("kafka", lag_records_max=29)[group].level == "note"
        assert "30 records behind, 1 member" in findings("kafka")[group].says
        ends = broker.ends(topic)
        reader.commit({TopicPartition(topic, n): OffsetAndMetadata(ends[n], "", -1) for n in ends})
        assert "0 records behind" in findings("kafka")[group].says
    finally:
        reader.close(autocommit=False)
    _send(broker, topic, 1)
    assert "1 records behind, 0 member(s): nobody reads" in faults(findings("kafka"))[group]


def _send(broker: Broker, topic: str, records: int) -> None:
    sink = broker.sink()
    for number in range(records):
        sink.send(Outgoing(topic, b"%d" % number, b"{}"))
    sink.flush()
    sink.close()


def test_code_that_was_not_applied_is_told_by_name(
    deployed: dict[str, str],
    applied_repo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    edited = tmp_path / "repo"
    shutil.copytree(applied_repo, edited)
    code = edited / "stored.py"
    code.write_text(
        code.read_text().replace('"comment", "follow")', '"comment", "follow", "wave")')
    )
    monkeypatch.setenv("HEADRACE_REPO", str(edited))
    says = faults(findings("registry"))["registry/code"]
    assert "view user_activity differs" in says
    assert "user_profile" not in says


def test_a_model_with_columns_the_registry_lacks_is_at_fault(
    deployed: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = FeatureRepo(Path(deployed["HEADRACE_REPO"])).open().read()
    columns = [name for name, _ in plan.service_features("home_feed")][:2]
    _model(tmp_path / "fits", columns, plan.version)
    monkeypatch.setenv("HEADRACE_MODEL", str(tmp_path / "fits"))
    assert findings("model")["model"].level == "ok"
    _model(tmp_path / "older", columns, "another plan")
    monkeypatch.setenv("HEADRACE_MODEL", str(tmp_path / "older"))
    assert findings("model")["model"].level == "note"
    _model(tmp_path / "stranger", [columns[0], "charm_sum_1h"], plan.version)
    monkeypatch.setenv("HEADRACE_MODEL", str(tmp_path / "stranger"))
    assert "charm_sum_1h" in faults(findings("model"))["model"]


def _model(folder: Path, columns: list[str], plan: str) -> None:
    import lightgbm
    import numpy as np

    rows = np.random.default_rng(1).random((200, len(columns)))
    data = lightgbm.Dataset(rows, (rows[:, 0] > 0.5).astype(int), feature_name=columns)
    booster = lightgbm.train({"objective": "binary", "verbose": -1}, data, num_boost_round=2)
    save_model(
        folder,
        [TrainedHead("click", "binary", "click", booster.model_to_string(), {})],
        feature_service="home_feed",
        features=columns,
        data_span=DataSpan(from_ms=0, to_ms=1, events=1, requests=1),
        code_version="1",
        plan=plan,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


@contextmanager
def answering(pages: dict[str, tuple[int, str]]) -> Iterator[str]:
    """The URL of a process that answers these pages."""

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, text = pages[self.path]
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer((HOST, 0), Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


STATE = 'headrace_ranker_state{kind="item_staleness_ms"} 3.0\nheadrace_ranker_state{kind='
CLOCK = "headrace_clock_unix_seconds %f\n"
SOUND = f'headrace_build_info{{version="{VERSION}"}} 1.0\n{STATE}"tables_connected"}} 1.0\n'


def test_processes_that_are_unready_deaf_stopped_or_of_another_version_are_told(
    deployed: dict[str, str],
) -> None:
    pages = {"/readyz": (200, "ready"), "/metrics": (200, SOUND), "/healthz": (200, "ok\n")}
    with answering(pages) as url:

        def look() -> dict[str, Finding]:
            return findings("ranker", "workers", ranker=url, workers=[url])

        assert [one.says for one in look().values() if one.level != "ok"] == []
        pages["/metrics"] = (200, SOUND.replace(f'"{VERSION}"', '"0.0.1"'))
        assert look()["ranker/version"].level == look()[f"worker {url}"].level == "note"
        for tells in (CLOCK, CLOCK.replace(" ", '{process="route"} ')):
            pages["/metrics"] = (200, SOUND + tells % time.time())
            assert [one.says for one in look().values() if one.level != "ok"] == []
            pages["/metrics"] = (200, SOUND + tells % (time.time() - 3600))
            told = faults(look())
            assert set(told) == {"ranker/clock", f"worker {url}"}
            assert "differ by -3600" in told["ranker/clock"]
        pages["/metrics"] = (200, SOUND.replace("} 1.0\n", "} 0.0\n"))
        pages["/readyz"] = (503, "rows are not loaded yet")
        pages["/healthz"] = (200, "ok\npartition 2 is stopped: offset 17: a gap\n")
        wrong = faults(look())
        assert set(wrong) == {"ranker", "ranker/tables", f"worker {url}"}
        assert "offset 17: a gap" in wrong[f"worker {url}"]


@pytest.mark.parametrize(("skew_s", "level"), [(0.1, "ok"), (-5.0, "note"), (90.0, "fault")])
def test_a_clock_is_judged_by_how_far_it_is_off(skew_s: float, level: str) -> None:
    assert clock("redis/clock", "redis", skew_s).level == level


def test_rights_that_a_broker_tells_of_are_held_against_what_processes_do() -> None:
    topic = Topic("id", {0: 3}, {0: 2}, [], {}, frozenset({"DESCRIBE", "WRITE"}), {0: 0}, {0: 9})
    settings = StreamingSettings(events_partitions=1)
    found = list(judge_topic("events", "events", topic, settings))
    assert [one.level for one in found] == ["note", "fault"]
    assert "lack replicas in sync" in found[0].says
    assert "may not READ" in found[1].says
    assert verdict(found) == 1
    assert verdict(found[:1]) == 0
