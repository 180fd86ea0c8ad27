"""The slot of a worker process: one batch runs, another waits beside it, already decoded."""

from __future__ import annotations

import threading
from collections.abc import Hashable

__all__ = ["Slot"]


class Slot:
    """Held by the batch that runs, without polling. Batches run in the order in which they arrived."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._is_taken = False
        self._arrived: dict[Hashable, None] = {}
        self._waiting: set[Hashable] = set()
        self._returned: set[Hashable] = set()

    def arrive(self, batch: Hashable) -> None:
        """Add a batch that will enter or withdraw."""
        with self._changed:
            self._arrived[batch] = None

    def withdraw(self, batch: Hashable) -> None:
        """Remove a batch that will not enter, or has left."""
        with self._changed:
            self._arrived.pop(batch, None)
            self._changed.notify_all()

    def _may_enter(self, batch: Hashable) -> bool:
        return not self._is_taken and (batch not in self._arrived or next(iter(self._arrived)) == batch)

    def enter(self, batch: Hashable, seconds: float) -> bool:
        """Wait for the slot; False if the batch gives itself back, after `seconds` or because it was asked to."""
        with self._changed:
            self._waiting.add(batch)
            self._changed.wait_for(lambda: self._may_enter(batch) or batch in self._returned, seconds)
            self._waiting.discard(batch)
            is_returned = batch in self._returned
            self._returned.discard(batch)
            if is_returned or not self._may_enter(batch):
                return False
            self._is_taken = True
            self._arrived.pop(batch, None)
            return True

    def leave(self) -> None:
        """Release the slot to the next batch."""
        with self._changed:
            self._is_taken = False
            self._changed.notify_all()

    def give_back(self, batch: Hashable) -> None:
        """Request that a waiting batch is handed back."""
        with self._changed:
            if batch in self._waiting:
                self._returned.add(batch)
                self._changed.notify_all()
