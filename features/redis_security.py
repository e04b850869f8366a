"""Where Redis is, and TLS towards it: the settings that every process shares."""

from pathlib import Path
from typing import Self
from urllib.parse import urlencode, urlsplit, urlunsplit

from pydantic import SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from features.kafka_security import readable


class RedisSettings(BaseSettings):
    """How a process reaches Redis, proves itself to it, and knows that it is the right one."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_", frozen=True, extra="ignore")

    redis: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    redis_ca_file: Path | None = None
    redis_cert_file: Path | None = None
    redis_key_file: Path | None = None

    @model_validator(mode="after")
    def _files_are_used(self) -> Self:
        """Certificates beside a URL without TLS mean that the URL is not the one meant."""
        files = (self.redis_ca_file, self.redis_cert_file, self.redis_key_file)
        if any(files) and not self.redis.get_secret_value().startswith("rediss://"):
            raise ValueError(
                "HEADRACE_REDIS_CA_FILE or a certificate is set, and HEADRACE_REDIS is not "
                "encrypted: begin it with rediss://"
            )
        readable("HEADRACE_REDIS_", *files)
        return self

    def redis_url(self) -> str:
        """The URL with what its clients must know of TLS; it may hold a password."""
        url = self.redis.get_secret_value()
        if not url.startswith("rediss://"):
            return url
        parts = urlsplit(url)
        files = {
            "ssl_ca_certs": self.redis_ca_file,
            "ssl_certfile": self.redis_cert_file,
            "ssl_keyfile": self.redis_key_file,
        }
        query = [part for part in (parts.query,) if part]
        query.append(urlencode({name: file for name, file in files.items() if file is not None}))
        return urlunsplit(parts._replace(query="&".join(part for part in query if part)))
