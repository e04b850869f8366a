"""Where candidates come from when the caller sends none."""

from features.candidates import ITEM_KEY
from ranker.reading import Reading
from ranker.stages import Query, Sourced


class TrendingSource:
    """The most clicked items of the last day."""

    name = "trending"

    def __init__(self, count: int) -> None:
        self._count = count

    def items(self, query: Query, reading: Reading) -> Sourced:
        """Items, most clicked first."""
        table = reading.tables[ITEM_KEY]
        rows = reading.popularity.top(query.now, self._count).tolist()
        ids = ((row, table.ids[row]) for row in rows)
        return Sourced([item for row, item in ids if item is not None and table.known(row)])
