"""Client settings for TLS and SASL, as kafka-python names them; shared by every process."""

from pathlib import Path
from typing import Any

from pydantic import SecretStr


def kafka_security(
    protocol: str,
    mechanism: str | None,
    username: str | None,
    password: SecretStr | None,
    ca_file: Path | None,
) -> dict[str, Any]:
    """The settings that are not the client's defaults."""
    security: dict[str, Any] = {"security_protocol": protocol}
    if ca_file is not None:
        security["ssl_cafile"] = str(ca_file)
    if mechanism is not None:
        security["sasl_mechanism"] = mechanism
        security["sasl_plain_username"] = username
        security["sasl_plain_password"] = password.get_secret_value() if password else None
    return security
