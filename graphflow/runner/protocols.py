"""What a batch and its steps ask of a cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from graphflow.model.reports import CachedFrom

__all__ = ["CacheOfBatch", "CacheOfStep"]


class CacheOfStep(Protocol):
    """What the cache of one task tells about the items of a batch; `caching.StepCache` is one."""

    def take(self, position: int) -> bool:
        """Whether an item need not, or may not, be executed here: that is booked."""

    def leader(self, position: int) -> int | None:
        """The position of an equal item that is being executed in this batch; None if there is none."""

    def cached_from(self, positions: Sequence[int]) -> CachedFrom | None:
        """Where the values of these positions come from; None if all were executed."""


class CacheOfBatch(Protocol):
    """What the cache of a batch does for the loops that run its items; `caching.BatchCache` is one."""

    marks: bytearray
    """`DONE` or `ODD` per position that was looked up; 0 where an item is simply executed."""

    def look_ahead(self, position: int) -> int:
        """Look this position up, and many after it; return the first that was not looked up."""

    def is_done(self, position: int) -> bool:
        """Whether nothing of an item is left to be executed."""

    def is_found(self, position: int) -> bool:
        """Whether a position was looked up, and nothing of its item is left to be executed."""

    def keep(self, positions: Sequence[int]) -> None:
        """Keep what was made at these positions; raises `ResultStoreError` if the store cannot be written."""

    def land(self, held: Sequence[int]) -> None:
        """Release the claims on what was not begun here; what is held is being executed."""

    def close(self) -> None:
        """Release all claims: nothing more is executed."""
