"""`promoted.json`: which checkpoint is the one to serve, with its history; written conditionally."""

from __future__ import annotations

import json
import time
from typing import Any

from vila2_ray.storage import Store

NAME = "promoted.json"


def read_promoted(store: Store) -> dict[str, Any]:
    """`{"current": entry | None, "history": [entry, …]}`, oldest first."""
    found = store.read_versioned(NAME)
    return json.loads(found[0]) if found else {"current": None, "history": []}


def promote(store: Store, model: str, checkpoint: str, digest: str, scores: dict[str, float], epoch: int) -> bool:
    """Point serving at a checkpoint (a name relative to the campaign). False when it is the current one already.

    Raises ConditionFailed when somebody else promoted at the same moment.
    """
    found = store.read_versioned(NAME)
    state = json.loads(found[0]) if found else {"current": None, "history": []}
    if state["current"] and state["current"]["digest"] == digest and state["current"]["model"] == model:
        return False
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
