"""Which candidates may be shown."""

import numpy as np
from numpy.typing import NDArray

from ranker.stages import Candidates, Query


class EndedFilter:
    """Drops items that were taken down; unknown items pass."""

    name = "ended"

    def keep(self, query: Query, candidates: Candidates) -> NDArray[np.bool_]:
        """False for ended items."""
        del query
        ended: NDArray[np.bool_] = candidates.join.numbers("ended", candidates.rows) == 1.0
        return ~ended
