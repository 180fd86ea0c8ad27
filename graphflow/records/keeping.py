"""Values that were read and that nothing else needs: kept while they are few, then released."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Any

from graphflow.model.orders import GONE, Ref
from graphflow.model.reports import stored_ref
from graphflow.records.item_index import NodeHistory
from graphflow.records.piles import Pile

__all__ = ["ReadValues"]

KEPT_NBYTES = 32 << 20


class ReadValues:
    """The columns of one map that a reader has done with.

    Parameters
    ----------
    history
        The map's; the records of its items stay when their values are released.
    store
        The `ResultStore` from which values that are there are read once they are released; None without one.
    """

    def __init__(self, history: NodeHistory, store: Any = None) -> None:
        self._history = history
        # Places in its ranges are kept here.
        history.may_pile = False
        self._store = store
        self._read: deque[tuple[int, int]] = deque()
        """Places in the history's ranges, with the bytes of their values."""
        self._next = 0
        self._total = 0

    def release(self, below: int) -> list[Ref]:
        """Release values of items below an index, which were read; return the released columns, in order."""
        ranges = self._history.ranges
        while self._next < len(ranges) and ranges[self._next].indices[-1] < below:
            following = ranges[self._next]
            # What is piled up has nothing in memory.
            nbytes = 0 if isinstance(following, Pile) else _nbytes(following.step.values)
            self._read.append((self._next, nbytes))
            self._total += nbytes
            self._next += 1
        gone: list[Ref] = []
        while self._total > KEPT_NBYTES:
            place, nbytes = self._read.popleft()
            self._total -= nbytes
            segment = ranges[place]
            if (
                not isinstance(segment, Pile)
                and segment.step.values is not None
                and segment.step.values.kind != "gone"
            ):
                gone.append(segment.step.values)
                stored = segment.step.stored
                is_there = self._store is not None and stored is not None and stored.has_all
                values = stored_ref(stored, self._store) if stored is not None and is_there else GONE
                ranges[place] = replace(segment, step=replace(segment.step, values=values))
        return gone


def _nbytes(ref: Ref | None) -> int:
    if ref is None:
        return 0
    if ref.kind == "local":
        return ref.nbytes + 16 * ref.count
    return ref.nbytes if ref.kind == "inline" or ref.is_spilled else 0
