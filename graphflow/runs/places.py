"""The places of some items of a node, found in a mask as they are asked for."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Sequence
from copy import copy
from typing import overload

__all__ = ["WHOLE", "MarkedPlaces"]

_BLOCK = 1_024
WHOLE = -1
"""The position of the map itself among its failures."""


class MarkedPlaces(Sequence[int]):
    """The positions of a mask that are 1, found on access: one byte per item, and 8 per 1,024.

    With `has_whole`, the position of the map itself comes after them.
    """

    __slots__ = ("_before", "_first", "_mask", "_ranks")

    def __init__(self, mask: bytes, *, first: int = 0, has_whole: bool = False) -> None:
        self._mask = mask
        self._first = first
        counts = (mask.count(1, lo, lo + _BLOCK) for lo in range(0, len(mask), _BLOCK))
        self._before = list(itertools.accumulate(counts, initial=0))
        """The number of ones before each block."""
        self._ranks = range(self._before[-1] + has_whole)

    def __len__(self) -> int:
        return len(self._ranks)

    @overload
    def __getitem__(self, which: int) -> int: ...
    @overload
    def __getitem__(self, which: slice) -> MarkedPlaces: ...
    def __getitem__(self, which: int | slice) -> int | MarkedPlaces:
        if isinstance(which, slice):
            part = copy(self)
            part._ranks = self._ranks[which]
            return part
        return self._place(self._ranks[which])

    def __iter__(self) -> Iterator[int]:
        if self._ranks.step != 1:
            yield from (self[rank] for rank in range(len(self)))
            return
        at = self._place(self._ranks[0]) - self._first if self._ranks else 0
        for rank in self._ranks:
            if rank == self._before[-1]:
                yield WHOLE
                return
            yield self._first + at
            at = self._mask.find(1, at + 1)

    def __contains__(self, place: object) -> bool:
        if not isinstance(place, int):
            return False
        if place == WHOLE:
            return self._before[-1] in self._ranks
        at = place - self._first
        if not 0 <= at < len(self._mask) or not self._mask[at]:
            return False
        block = at // _BLOCK
        return self._before[block] + self._mask.count(1, block * _BLOCK, at) in self._ranks

    def _place(self, rank: int) -> int:
        """Return the position of the n-th one."""
        if rank == self._before[-1]:
            return WHOLE
        block = bisect.bisect_right(self._before, rank) - 1
        at = block * _BLOCK - 1
        left = rank - self._before[block]
        if self._before[block + 1] - self._before[block] == min(_BLOCK, len(self._mask) - at - 1):
            return self._first + at + 1 + left
        for _ in range(left + 1):
            at = self._mask.find(1, at + 1)
        return self._first + at
