"""What is read for one request before candidates are looked at."""

from features.entities import Hash
from ranker.stages.roles import Query, User
from ranker.tables.user_rows import UserRow, UserRows


class UserRowHydrator:
    """The user's row from Redis, one round trip."""

    def __init__(self, users: UserRows) -> None:
        self._users = users

    async def fetch(self, query: Query) -> Hash:
        """The stored hash, empty for a user nobody knows."""
        return await self._users.fetch(query.request.user_id)

    def hydrate(self, query: Query, stored: Hash) -> User:
        """The row, or row −1 for a user nobody knows."""
        return _user(self._users.load(query.request.user_id, stored))

    def alone(self, query: Query, stored: Hash) -> User:
        """The same without the lock: its codes are its own."""
        return _user(self._users.alone(query.request.user_id, stored))

    def nobody(self) -> User:
        """An unknown user."""
        return _user(self._users.nobody())


def _user(read: UserRow) -> User:
    return User(read.table, read.row, read.marker, read.newest, read)
