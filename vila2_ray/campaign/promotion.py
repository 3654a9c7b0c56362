"""`promoted.json`: which checkpoint is the one to serve, with its history; written conditionally."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from vila2_ray.errors import ConditionFailed
from vila2_ray.storage import Store

NAME = "promoted.json"


def read_promoted(store: Store) -> dict[str, Any]:
    """`{"current": entry | None, "history": [entry, …]}`, oldest first."""
    found = store.read_versioned(NAME)
    return json.loads(found[0]) if found else {"current": None, "history": []}


def promote(
    store: Store,
    model: str,
    checkpoint: str,
    digest: str,
    scores: dict[str, float],
    epoch: int,
    check: Callable[[], None] = lambda: None,
) -> bool:
    """Point serving at a checkpoint (a name relative to the campaign). False when it is the current one already.

    `check` raises when the lease is gone; between what it says and the write no other driver's write goes unseen.
    Raises ConditionFailed when somebody else promoted at the same moment.
    """
    found = store.read_versioned(NAME)
    state = json.loads(found[0]) if found else {"current": None, "history": []}
    if state["current"] and state["current"]["digest"] == digest and state["current"]["model"] == model:
        return False
    check()
    entry = {
        "model": model,
        "checkpoint": checkpoint,
        "digest": digest,
        "scores": scores,
        "epoch": epoch,
        "promoted_at": time.time(),
    }
    state = {"current": entry, "history": [*state["history"], entry]}
    store.put_if(NAME, json.dumps(state, indent=1).encode(), found[1] if found else None)
    return True


def fence_promotion(store: Store, epoch: int) -> None:
    """Put the epoch of a driver that has just taken the campaign over into the file: older drivers cannot promote."""
    while True:
        found = store.read_versioned(NAME)
        state = {**(json.loads(found[0]) if found else {"current": None, "history": []}), "fence": epoch}
        try:
            store.put_if(NAME, json.dumps(state, indent=1).encode(), found[1] if found else None)
            return
        except ConditionFailed:
            continue
