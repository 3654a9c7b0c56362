"""Ends a recaptioning where nothing is lost: actors finish the row ranges in hand and begin no more.

The driver leaves a file beside the parts, which every actor reaches wherever it runs; its name is this call's own, so
that one which a crash leaves behind stops nobody.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field

from vila2_ray.storage import Store

_POLL_SECONDS = 1.0


@dataclass
class Brake:
    """Picklable; each process asks the storage at most once a second."""

    store: Store
    name: str = field(default_factory=lambda: f"stop-{uuid.uuid4().hex[:12]}")
    _asked_at: float = field(default=float("-inf"), repr=False)
    _is_pulled: bool = False

    def pull(self) -> None:
        self.store.write_text(self.name, "")
        self._is_pulled = True

    def is_pulled(self) -> bool:
        if not self._is_pulled and (now := time.monotonic()) - self._asked_at >= _POLL_SECONDS:
            self._asked_at = now
            self._is_pulled = self.store.exists(self.name)
        return self._is_pulled

    def __enter__(self) -> Brake:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nothing behind."""
        if self._is_pulled:
            self.store.delete(self.name)
