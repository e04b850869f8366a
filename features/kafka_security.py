"""TLS and SASL towards Kafka: the settings that every process shares."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

Protocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]


class KafkaSecuritySettings(BaseSettings):
    """How a process proves itself to Kafka, and Kafka to it."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_", frozen=True, extra="ignore")

    kafka_security_protocol: Protocol = "PLAINTEXT"
    kafka_sasl_mechanism: Mechanism | None = None
    kafka_username: str | None = None
    kafka_password: SecretStr | None = None
    kafka_ca_file: Path | None = None
    kafka_cert_file: Path | None = None
    kafka_key_file: Path | None = None

    @model_validator(mode="after")
    def _nothing_is_left_unused(self) -> Self:
        """A secret that the protocol does not use means that the protocol is not the one meant."""
        protocol = self.kafka_security_protocol
        login = (self.kafka_sasl_mechanism, self.kafka_username, self.kafka_password)
        if protocol.startswith("SASL") and None in login:
            raise ValueError(
                f"HEADRACE_KAFKA_SECURITY_PROTOCOL={protocol} needs HEADRACE_KAFKA_SASL_MECHANISM, "
                "HEADRACE_KAFKA_USERNAME and HEADRACE_KAFKA_PASSWORD"
            )
        if not protocol.startswith("SASL") and any(part is not None for part in login):
            raise ValueError(
                f"a SASL mechanism, user or password is set, and {protocol} uses none: set "
                "HEADRACE_KAFKA_SECURITY_PROTOCOL=SASL_SSL"
            )
        files = (self.kafka_ca_file, self.kafka_cert_file, self.kafka_key_file)
        if not protocol.endswith("SSL") and any(files):
            raise ValueError(
                f"HEADRACE_KAFKA_CA_FILE or a certificate is set, and {protocol} is not encrypted: "
                "set HEADRACE_KAFKA_SECURITY_PROTOCOL=SSL or SASL_SSL"
            )
        readable("HEADRACE_KAFKA_", *files)
        return self

    def kafka_security(self) -> dict[str, Any]:
        """The client settings for TLS and SASL, as kafka-python names them."""
        security: dict[str, Any] = {"security_protocol": self.kafka_security_protocol}
        for name, file in (
            ("ssl_cafile", self.kafka_ca_file),
            ("ssl_certfile", self.kafka_cert_file),
            ("ssl_keyfile", self.kafka_key_file),
        ):
            if file is not None:
                security[name] = str(file)
        if self.kafka_sasl_mechanism is not None:
            security["sasl_mechanism"] = self.kafka_sasl_mechanism
            security["sasl_plain_username"] = self.kafka_username
            password = self.kafka_password
            security["sasl_plain_password"] = password.get_secret_value() if password else None
        return security


def readable(prefix: str, ca: Path | None, certificate: Path | None, key: Path | None) -> None:
    """Raises ValueError for a file that is not there, and for half of a pair."""
    for name, file in (("CA", ca), ("CERT", certificate), ("KEY", key)):
        if file is not None and not file.is_file():
            raise ValueError(f"{prefix}{name}_FILE={file}: there is no such file")
    if (certificate is None) != (key is None):
        raise ValueError(f"{prefix}CERT_FILE and {prefix}KEY_FILE go together: set both")
