"""TLS and tokens of the ports that a process listens on: the settings that every process shares."""

import ssl
from pathlib import Path
from typing import Self

from pydantic import SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from features.kafka_security import readable


class PortSecuritySettings(BaseSettings):
    """What a process shows to its callers, and what it asks of them."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_", frozen=True, extra="ignore")

    tls_cert_file: Path | None = None
    """PEM chain of the process's ports; none: they are not encrypted."""
    tls_key_file: Path | None = None
    tls_ca_file: Path | None = None
    """Who signed callers' certificates; with it every caller must show one."""
    admin_tokens: SecretStr | None = None
    """Bearer tokens for /metrics and the pages that describe the API, comma-separated so that one
    can follow another; none: open."""

    @model_validator(mode="after")
    def _ports_are_whole(self) -> Self:
        if self.tls_ca_file is not None and self.tls_cert_file is None:
            raise ValueError("HEADRACE_TLS_CA_FILE needs HEADRACE_TLS_CERT_FILE and its key")
        readable("HEADRACE_TLS_", self.tls_ca_file, self.tls_cert_file, self.tls_key_file)
        return self

    def server_tls(self) -> ssl.SSLContext | None:
        """How a server of these settings speaks TLS; None: it does not."""
        if self.tls_cert_file is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.tls_ca_file)
        context.load_cert_chain(self.tls_cert_file, self.tls_key_file)
        if self.tls_ca_file is not None:
            context.verify_mode = ssl.CERT_REQUIRED
        return context
