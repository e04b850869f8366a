"""What is read for one request before candidates are looked at."""

from ranker.stages import Query, User
from ranker.user_rows import UserRow, UserRows


class UserRowHydrator:
    """The user's row from Redis, one round trip."""

    def __init__(self, users: UserRows) -> None:
        self._users = users

    async def hydrate(self, query: Query) -> User:
        """The row, or row −1 for a user nobody knows."""
        return _user(await self._users.read(query.request.user_id))

    def nobody(self) -> User:
        """An unknown user."""
        return _user(self._users.nobody())

    def current(self, user: User) -> User:
        """The same row for the tables that stand now; the lock is held."""
        return _user(self._users.current(user.read))


def _user(read: UserRow) -> User:
    return User(read.table, read.row, read.marker, read.newest, read)
