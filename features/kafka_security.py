"""TLS and SASL towards Kafka: the settings that every process shares."""

from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class KafkaSecuritySettings(BaseSettings):
    """How a process proves itself to Kafka, and Kafka to it."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_", frozen=True, extra="ignore")

    kafka_security_protocol: str = "PLAINTEXT"
    kafka_sasl_mechanism: str | None = None
    kafka_username: str | None = None
    kafka_password: SecretStr | None = None
    kafka_ca_file: Path | None = None

    def kafka_security(self) -> dict[str, Any]:
        """The client settings for TLS and SASL, as kafka-python names them."""
        security: dict[str, Any] = {"security_protocol": self.kafka_security_protocol}
        if self.kafka_ca_file is not None:
            security["ssl_cafile"] = str(self.kafka_ca_file)
        if self.kafka_sasl_mechanism is not None:
            security["sasl_mechanism"] = self.kafka_sasl_mechanism
            security["sasl_plain_username"] = self.kafka_username
            password = self.kafka_password
            security["sasl_plain_password"] = password.get_secret_value() if password else None
        return security
