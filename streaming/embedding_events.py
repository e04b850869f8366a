"""Embeddings as events: of an item or a user, which say nothing else of them."""

import hashlib
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from features.events import ItemEvent, UserEvent


def embedding_event(
    whose: Literal["item", "user"],
    owner: str,
    vector: NDArray[np.float32],
    version: str,
    at_ms: int,
) -> ItemEvent | UserEvent:
    """The event that gives an item or a user a vector [dimension] as of an instant, as their
    `embedding` or, with a version, among their `embeddings`.

    Its id is made of what it says: the same vector sent again is the same event.
    """
    said = f"{version}\n{at_ms}\n{owner}\n".encode() + vector.tobytes()
    if whose == "user":
        said = b"user\n" + said
    numbers = vector.tolist()
    told: dict[str, Any] = {
        "event_id": f"embedding-{hashlib.sha256(said).hexdigest()[:40]}",
        "event_time": at_ms,
        "embedding": None if version else numbers,
        "embeddings": {version: numbers} if version else {},
    }
    if whose == "user":
        return UserEvent(user_id=owner, **told)
    return ItemEvent(item_id=owner, **told)
