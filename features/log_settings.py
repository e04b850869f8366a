"""How a process logs: the settings that every process shares."""

from typing import Literal

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class LogSettings(BaseSettings):
    """What is written to stderr, and in which form."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_", frozen=True, extra="ignore")

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["text", "json"] = "text"
    log_ids_key: SecretStr | None = None
    """Users' ids in JSON logs are hashed with it; none: with one that is forgotten at the end."""

    def secrets(self) -> list[str]:
        """The values that no log may hold, whatever brings them there."""
        found = [
            value.get_secret_value()
            for value in self.__dict__.values()
            if isinstance(value, SecretStr)
        ]
        return [secret for secret in found if secret]
