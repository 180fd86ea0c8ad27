"""Many small segments of neighbouring items in one: what they share is held once, what differs in arrays.

A segment and its columns weigh a kilobyte, which is nothing for a hundred thousand quick items and more than all else for a dozen
ordinary ones. What is piled up was reported long ago and has its values in a store, so nothing of it is an object any more.
"""

from __future__ import annotations

import bisect
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from graphflow.model.orders import Ref
from graphflow.model.reports import StepReport, Stored, stored_ref
from graphflow.records.segments import Segment

__all__ = ["MAX_ITEMS", "Pile", "can_pile"]

MAX_ITEMS = 262_144
_DIGEST_NBYTES = 16
_NO_NAME = 0xFFFF
_MAX_NAMES = _NO_NAME


def can_pile(segment: Segment, store: Any) -> bool:
    """Return whether a segment has nothing but plain columns, and its values, if any, are in a store."""
    step = segment.step
    if (
        not isinstance(segment.indices, range)
        or segment.errors is not None
        or len(step.faults)
        or len(step.anomalies)
        or step.labels is not None
        or step.info is not None
        or step.cached is not None
        or step.grafts
    ):
        return False
    if step.values is None:
        return step.stored is None
    if step.values.kind not in ("local", "inline", "stored", "file") or step.values.is_spilled:
        return False
    stored = step.stored
    return (
        stored is not None
        and stored.has_all
        and stored.count == len(segment.indices)
        and len(stored.digest) == _DIGEST_NBYTES
        and (store is not None or step.values.kind == "stored")
    )


class Pile:
    """Segments of one node, one after the other in the order of their indices, without a gap.

    Parameters
    ----------
    store
        The `ResultStore` that has the values of those that have any.
    """

    __slots__ = (
        "_attempts",
        "_counts",
        "_digests",
        "_durations",
        "_lo",
        "_names",
        "_nbytes",
        "_numbers",
        "_offsets",
        "_started",
        "_starts",
        "_states",
        "_store",
        "_stored_digests",
        "_text_numbers",
        "_texts",
        "_worker_numbers",
        "node",
    )

    def __init__(self, store: Any, lo: int) -> None:
        self._store = store
        self._lo = lo
        self.node = 0
        self._states = bytearray()
        self._attempts = bytearray()
        self._starts = array("f")
        self._durations = array("f")
        self._digests = bytearray()
        """Of what items were mapped over; empty where no segment has them."""
        # One entry per segment.
        self._counts = array("I", [0])
        """Where each begins, from the pile's own; and the end."""
        self._started = array("d")
        self._worker_numbers = array("H")
        self._names = array("H")
        self._offsets = array("Q")
        self._nbytes = array("Q")
        self._stored_digests = bytearray()
        self._texts: list[str] = []
        self._text_numbers: dict[str, int] = {}

    @property
    def indices(self) -> range:
        """The indices of all its items."""
        return range(self._lo, self._lo + self._counts[-1])

    @property
    def started(self) -> float:
        """When the first of its segments began."""
        return min(self._started)

    def __len__(self) -> int:
        return len(self._started)

    def takes(self, segment: Segment) -> bool:
        """Return whether a segment follows directly, and there is room for it."""
        size = self._counts[-1]
        return bool(
            segment.indices[0] == self._lo + size
            and size + len(segment.indices) <= MAX_ITEMS
            and len(self._texts) + 2 < _MAX_NAMES
            and (not size or bool(self._digests) == bool(segment.step.digests))
        )

    def add(self, segment: Segment) -> None:
        """Add a segment that it takes."""
        step = segment.step
        self.node = step.node
        self._states += step.states
        self._attempts += step.attempts
        self._starts.extend(step.starts)
        self._durations.extend(step.durations)
        self._digests += step.digests
        self._counts.append(self._counts[-1] + len(segment.indices))
        self._started.append(segment.started)
        self._worker_numbers.append(self._number(segment.worker))
        stored = step.stored
        if step.values is None or stored is None:
            self._names.append(_NO_NAME)
            self._offsets.append(0)
            self._nbytes.append(0)
            self._stored_digests += bytes(_DIGEST_NBYTES)
            return
        if self._store is None:
            self._store = step.values.data
        self._names.append(self._number(stored.name))
        self._offsets.append(stored.offset)
        self._nbytes.append(stored.nbytes)
        self._stored_digests += stored.digest

    def _number(self, text: str) -> int:
        number = self._text_numbers.setdefault(text, len(self._texts))
        if number == len(self._texts):
            self._texts.append(text)
        return number

    def segment(self, number: int) -> Segment:
        """Return one of its segments again."""
        lo, hi = self._counts[number], self._counts[number + 1]
        stored: Stored | None = None
        values: Ref | None = None
        name = self._names[number]
        if name != _NO_NAME:
            at = number * _DIGEST_NBYTES
            stored = Stored(
                name=self._texts[name],
                offset=self._offsets[number],
                nbytes=self._nbytes[number],
                digest=bytes(self._stored_digests[at : at + _DIGEST_NBYTES]),
                count=hi - lo,
            )
            values = stored_ref(stored, self._store)
        digest_nbytes = len(self._digests) // max(1, self._counts[-1])
        step = StepReport(
            node=self.node,
            states=bytes(self._states[lo:hi]),
            attempts=bytes(self._attempts[lo:hi]),
            starts=self._starts[lo:hi],
            durations=self._durations[lo:hi],
            digests=bytes(self._digests[lo * digest_nbytes : hi * digest_nbytes]),
            stored=stored,
            values=values,
        )
        worker = self._texts[self._worker_numbers[number]]
        return Segment(range(self._lo + lo, self._lo + hi), step, self._started[number], worker)

    def find(self, index: int) -> tuple[Segment, int]:
        """Return the segment that has an index of the pile, and the position in it."""
        place = index - self._lo
        number = bisect.bisect_right(self._counts, place) - 1
        return self.segment(number), place - self._counts[number]

    def segments(self) -> Iterator[Segment]:
        """Yield all its segments, in order."""
        for number in range(len(self)):
            yield self.segment(number)

    def parts(self, lo: int, hi: int, filler: Ref) -> Iterator[tuple[Ref, Sequence[int]]]:
        """Yield columns and entries of a range of its indices, in order; the filler's only entry where there is no value."""
        number = bisect.bisect_right(self._counts, lo - self._lo) - 1
        while lo < hi:
            first, last = self._lo + self._counts[number], self._lo + self._counts[number + 1]
            stop = min(hi, last)
            values = self.segment(number).step.values
            yield (filler, [0] * (stop - lo)) if values is None else (values, range(lo - first, stop - first))
            lo, number = stop, number + 1

    def forget(self, is_lost: Callable[[Ref], bool]) -> None:
        """Refer no more to columns of values that are lost."""
        for number, name in enumerate(self._names):
            if name != _NO_NAME:
                values = self.segment(number).step.values
                if values is not None and is_lost(values):
                    self._names[number] = _NO_NAME
