"""Who may ask: bearer tokens, compared in constant time, one list for each scope."""

import hmac
from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple, Self

from pydantic import SecretStr

Scope = Literal["rank", "admin"]
REALM: Final = 'Bearer realm="headrace"'


class Guard(NamedTuple):
    """The tokens of each scope; a scope without tokens is open."""

    tokens: Mapping[Scope, Sequence[bytes]]

    @classmethod
    def of(cls, rank: SecretStr | None, admin: SecretStr | None) -> Self:
        """From comma-separated lists: while a token is changed, both the old and the new count."""
        return cls({"rank": _listed(rank), "admin": _listed(admin)})

    def admits(self, scope: Scope, authorization: str | None) -> bool:
        """Whether an `Authorization` header opens a scope."""
        wanted = self.tokens[scope]
        if not wanted:
            return True
        kind, _, shown = (authorization or "").partition(" ")
        if kind.lower() != "bearer":
            return False
        # Each is compared to its end: how long it takes tells nothing.
        same = [hmac.compare_digest(shown.strip().encode(), token) for token in wanted]
        return any(same)

    def guards(self, scope: Scope) -> bool:
        """Whether a scope asks for a token."""
        return bool(self.tokens[scope])


OPEN: Final = Guard({"rank": (), "admin": ()})


def _listed(tokens: SecretStr | None) -> list[bytes]:
    text = "" if tokens is None else tokens.get_secret_value()
    return [token.strip().encode() for token in text.split(",") if token.strip()]
