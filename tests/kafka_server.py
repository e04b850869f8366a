"""Apache Kafka for tests: one node of KRaft on loopback, its data in a folder of the test's own.

Its jars are copied once into `.kafka/` beside the checkout's other leavings: `make kafka`, or the
first test that asks. The same folder can be served again after the broker was killed.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.ports import HOST, free_port
from deploy.probes import speaks_kafka
from deploy.processes import Program

MISSING = "Apache Kafka tests need Java >= 17 and Maven: apt-get install default-jdk-headless maven"
CACHE = Path(__file__).parents[1] / ".kafka"
POM = Path(__file__).with_name("apache_kafka") / "pom.xml"
START_TIMEOUT_S = 90.0
_FETCH_TIMEOUT_S = 600
_CLUSTER_ID = "headrace-tests-0000000"

# One small heap on two shared cores: quick to start, nothing is tuned for throughput.
_JVM = ("-Xms128m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "auto.create.topics.enable": "false",
    "group.initial.rebalance.delay.ms": "0",
    "offsets.topic.num.partitions": "4",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # A broker that comes back waits for the session of its former life to end.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    "log.cleaner.dedupe.buffer.size": "8388608",
}
_LOGGING = """\
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d %p %c: %m%n
rootLogger.level = WARN
rootLogger.appenderRef.console.ref = console
"""


def missing() -> str | None:
    """Why Apache Kafka cannot run here; None when it can."""
    if shutil.which("java") is None or not (_jars().is_dir() or shutil.which("mvn")):
        return MISSING
    return None


def fetch() -> Path:
    """The folder of jars, copied there by Maven the first time."""
    jars = _jars()
    if jars.is_dir():
        return jars
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        made = Path(folder) / "jars"
        command = ["mvn", "-q", "-B", "-f", str(POM), "dependency:copy-dependencies"]
        options = ["-DincludeScope=runtime", f"-DoutputDirectory={made}"]
        subprocess.run([*command, *options], check=True, timeout=_FETCH_TIMEOUT_S)
        if not jars.is_dir():  # another run may have been quicker
            made.rename(jars)
    return jars


def apache_kafka(
    port: int,
    folder: Path,
    settings: Mapping[str, str] | None = None,
    scram: Sequence[str] = (),
) -> Program:
    """A broker whose log is in `folder`; formats the folder the first time it is given.

    `%controller%` in a setting is the controller's port; `scram` are users as `--add-scram` takes
    them.
    """
    classes = f"{fetch()}/*"
    properties = folder / "server.properties"
    if not properties.exists():
        _format(properties, classes, port, settings or {}, scram)
    java = shutil.which("java")
    assert java is not None, MISSING
    logging = f"-Dlog4j2.configurationFile={folder / 'log4j2.properties'}"
    command = [java, *_JVM, logging, "-cp", classes, "kafka.Kafka", str(properties)]
    return Program("apache-kafka", command, port, speaks_kafka)


def _format(
    properties: Path, classes: str, port: int, settings: Mapping[str, str], scram: Sequence[str]
) -> None:
    controller = free_port()
    folder = properties.parent
    folder.mkdir(parents=True, exist_ok=True)
    lines = _SETTINGS | {
        "listeners": f"PLAINTEXT://{HOST}:{port},CONTROLLER://{HOST}:{controller}",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{port}",
        "controller.quorum.voters": f"1@{HOST}:{controller}",
        "log.dirs": str(folder / "log"),
        **settings,
    }
    (folder / "log4j2.properties").write_text(_LOGGING)
    content = "".join(f"{name}={value}\n" for name, value in lines.items())
    content = content.replace("%controller%", str(controller))
    draft = folder / "draft.properties"
    draft.write_text(content)
    subprocess.run(
        [
            "java",
            *_JVM,
            f"-Dlog4j2.configurationFile={folder / 'log4j2.properties'}",
            "-cp",
            classes,
            "kafka.tools.StorageTool",
            "format",
            f"--cluster-id={_CLUSTER_ID}",
            "-c",
            str(draft),
            *(part for user in scram for part in ("--add-scram", user)),
        ],
        check=True,
        capture_output=True,
        timeout=START_TIMEOUT_S,
    )
    draft.rename(properties)


def _jars() -> Path:
    """A folder by the content of the pom, so that other versions are other folders."""
    return CACHE / hashlib.sha256(POM.read_bytes()).hexdigest()[:12]


if __name__ == "__main__":
    if (why := missing()) is not None:
        sys.exit(why)
    sys.stdout.write(f"Apache Kafka is in {fetch()}\n")
