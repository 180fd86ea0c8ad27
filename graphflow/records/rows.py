"""Which record of a history tells what: its number, by kind, and the items that it is about.

So what is asked of a few items needs the few records about them, however many there are.
"""

from __future__ import annotations

import bisect
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from graphflow.model.records import Kind
from graphflow.records.packing import Packer, Unpacker

__all__ = ["FACTS", "ItemRows", "Places", "Rows"]

FACTS = frozenset({Kind.LAUNCH, Kind.NODE, Kind.STATE, Kind.ALIAS, Kind.ANSWER, Kind.CHANGE})
"""Records that are few, and are read as they are by whoever starts from a digest."""


def _numbers() -> array[int]:
    return array("Q")


@dataclass(slots=True)
class ItemRows:
    """Records about items, in their order: number, node, first index, and one beyond the last."""

    numbers: array[int] = field(default_factory=_numbers)
    nodes: array[int] = field(default_factory=_numbers)
    los: array[int] = field(default_factory=_numbers)
    his: array[int] = field(default_factory=_numbers)

    def __len__(self) -> int:
        return len(self.numbers)

    def add(self, number: int, node: int, indices: Sequence[int]) -> None:
        """Add a record about these items."""
        lo, hi = _span(indices)
        self._add(number, node, lo, hi)

    def add_several(self, number: int, node: int, several: Sequence[Sequence[int]]) -> None:
        """Add a record about the items of several batches."""
        spans = [_span(indices) for indices in several if len(indices)]
        if spans:
            self._add(number, node, min(lo for lo, _ in spans), max(hi for _, hi in spans))

    def _add(self, number: int, node: int, lo: int, hi: int) -> None:
        self.numbers.append(number)
        self.nodes.append(node)
        self.los.append(lo)
        self.his.append(hi)


def _span(indices: Sequence[int]) -> tuple[int, int]:
    if isinstance(indices, range):
        return indices[0], indices[-1] + 1
    return min(indices), max(indices) + 1


@dataclass(slots=True)
class Rows:
    """The records of a part of a history, by what they tell."""

    facts: array[int] = field(default_factory=_numbers)
    logs: array[int] = field(default_factory=_numbers)
    errors: array[int] = field(default_factory=_numbers)
    """Errors and variants."""
    items: ItemRows = field(default_factory=ItemRows)

    def _columns(self) -> tuple[array[int], ...]:
        items = self.items
        return self.logs, self.errors, items.numbers, items.nodes, items.los, items.his

    def add(self, kind: int, number: int, node: int, value: Any) -> None:
        """Add a record of a kind; of those that are gone for good with their batch, nothing is kept."""
        if kind in (Kind.ITEMS, Kind.ENDED):
            if len(value.indices):
                self.items.add(number, node, value.indices)
        elif kind == Kind.JOINED:
            self.items.add_several(number, node, [body.indices for body in value.bodies])
        elif kind in FACTS:
            self.facts.append(number)
        elif kind == Kind.LOG:
            self.logs.append(number)
        elif kind in (Kind.ERRORS, Kind.VARIANTS):
            self.errors.append(number)

    def extend(self, other: Rows) -> None:
        """Add the records that follow."""
        self.facts.extend(other.facts)
        for mine, theirs in zip(self._columns(), other._columns(), strict=True):
            mine.extend(theirs)

    def packed(self) -> bytes:
        """Return all but the facts, packed."""
        out = Packer(0)
        for column in self._columns():
            out.number(len(column))
            out.words(column)
        return out.data()

    @classmethod
    def unpacked(cls, data: bytes) -> Rows:
        """Return what was packed; raises what an `Unpacker` does."""
        found, come = cls(), Unpacker(data)
        for column in found._columns():
            column.extend(come.words(column.typecode, come.number()))
        come.end()
        return found


class Places:
    """The records about each item of one node, found in O(log records + those that are far apart).

    A record whose items lie close together is found by its first one; of others, which tell of items here and there, each is
    looked at.
    """

    def __init__(self, rows: ItemRows, node: int) -> None:
        chosen = [place for place, each in enumerate(rows.nodes) if each == node]
        sizes = [rows.his[place] - rows.los[place] for place in chosen]
        # What most records span at most; those that span more are the few.
        width = sorted(sizes)[int(0.98 * (len(sizes) - 1))] if sizes else 0
        self._rows = rows
        self._width = width
        near = [place for place, size in zip(chosen, sizes, strict=True) if size <= width]
        near.sort(key=rows.los.__getitem__)
        self._near = near
        self._los = array("Q", map(rows.los.__getitem__, near))
        self._far = [place for place, size in zip(chosen, sizes, strict=True) if size > width]
        self.numbers = array("Q", map(rows.numbers.__getitem__, chosen))
        """All of the node, in their order."""

    def of(self, lo: int, hi: int) -> list[int]:
        """Return the numbers of the records that may tell of items of a range, in their order."""
        begin = bisect.bisect_left(self._los, max(0, lo - self._width))
        end = bisect.bisect_left(self._los, hi)
        return sorted([*self._meeting(self._near[begin:end], lo, hi), *self._meeting(self._far, lo, hi)])

    def _meeting(self, places: Sequence[int], lo: int, hi: int) -> Iterator[int]:
        rows = self._rows
        return (rows.numbers[each] for each in places if rows.los[each] < hi and rows.his[each] > lo)
