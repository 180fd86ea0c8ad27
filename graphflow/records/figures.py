"""Figures that are added up while records are read: durations of a node's items, and how busy workers were.

Sums over batches in constant memory, made with operations on whole columns.
"""

from __future__ import annotations

import heapq
import operator
import struct
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import compress
from math import inf, isfinite
from typing import Any

from graphflow.model.reports import StepReport
from graphflow.model.states import FAILED_TABLE

__all__ = ["BINS", "LANES", "SLOWEST", "TIMES", "Durations", "Lane", "Timeline", "bin_bounds"]

BINS = 160
"""Bins of durations: four in each doubling, from 0.12 µs to 36 hours."""
SLOWEST = 20
TIMES = 480
"""Bins of the time that a launch lasted."""
LANES = 256
"""Workers of a launch that are told apart; those that come later share one lane, of an empty name."""
LEAST_SECONDS = 0.25
"""The width of a bin of time at first; it doubles as the launch goes on."""

# A float of 4 bytes has its exponent and the first bits of its fraction in the upper two: these give the bin.
_FIRST = 52
_LAST = _FIRST + BINS // 8 - 1
_HIGH = bytes(8 * (min(max(each, _FIRST), _LAST) - _FIRST) for each in range(128)) + bytes(128)
_LOW = bytes(each >> 5 for each in range(256))
# What is beyond the bins goes to the first or the last one, whatever its fraction.
_INSIDE = bytes(7 if _FIRST <= each <= _LAST else 0 for each in range(256))
_ABOVE = bytes(7 if _LAST < each < 128 else 0 for each in range(256))
_UPPER, _NEXT = (0, 1) if sys.byteorder == "big" else (3, 2)


def bin_bounds(place: int) -> tuple[float, float]:
    """Return from which duration to which one a bin goes, in seconds; the first and last also have what is beyond them."""
    bits = (_FIRST << 24) + (place << 21)
    lo, hi = struct.unpack("<ff", struct.pack("<II", bits, bits + (1 << 21)))
    return lo, hi


def _binned(durations: array[float]) -> bytes:
    """Return the bin of each duration."""
    data = durations.tobytes()
    upper, following = data[_UPPER::4], data[_NEXT::4]
    found, low = _number(upper.translate(_HIGH)), _number(following.translate(_LOW))
    inside = upper.translate(_INSIDE)
    if inside.count(7) < len(inside):
        low = low & _number(inside) | _number(upper.translate(_ABOVE))
    found |= low
    return found.to_bytes(len(upper), "little")


def _number(column: bytes) -> int:
    """Return a column as one number: operations on bits then concern all entries at once."""
    return int.from_bytes(column, "little")


@dataclass(slots=True)
class Durations:
    """How long items took that were executed: `bins`, and the `slowest` as (seconds, index), longest first."""

    slowest: list[tuple[float, int]] = field(default_factory=list)
    counted: array[int] | None = None
    """The bins, once there are more items than those in `slowest`."""
    _least: int = field(default=0, compare=False)
    """A bin that none of these is below, where they are all that are kept."""

    @property
    def bins(self) -> array[int]:
        """How many items are in each bin."""
        if self.counted is not None:
            return self.counted
        bins = array("Q", bytes(8 * BINS))
        for each in _binned(array("f", [seconds for seconds, _ in self.slowest])):
            bins[each] += 1
        return bins

    def add(self, indices: Sequence[int], step: StepReport) -> float:
        """Add what a report says; return the seconds of all items together."""
        durations = step.durations
        if not len(durations):
            return 0.0
        if step.attempts.count(0):
            durations = array("f", compress(durations, step.attempts))
            indices = list(compress(indices, step.attempts))
            if not durations:
                return 0.0
        if self.counted is None:
            if len(self.slowest) + len(durations) <= SLOWEST:
                self._look(indices, durations)
                return sum(durations)
            self.counted = self.bins
        found = _binned(durations)
        last = 0
        for each in set(found):
            self.counted[each] += found.count(each)
            last = max(last, each)
        # Where all are of lower bins, none is among the slowest, and no value needs a look.
        if len(self.slowest) < SLOWEST or last >= self._least:
            self._look(indices, durations)
        return sum(durations)

    def _look(self, indices: Sequence[int], durations: array[float]) -> None:
        slowest = self.slowest
        least, last = (slowest[-1][0], slowest[-1][1]) if len(slowest) == SLOWEST else (-inf, 0)
        if max(durations) < least:
            return
        if len(durations) > SLOWEST:
            cut = heapq.nlargest(SLOWEST, durations)[-1]
            if cut > least:
                least, last = cut, sys.maxsize
        # Of equal ones the first count, so that batches change nothing.
        new = [
            (seconds, index)
            for seconds, index in zip(durations, indices, strict=True)
            if seconds > least or (seconds == least and index < last)
        ]
        if new:
            self.slowest = sorted([*slowest, *new], key=lambda each: (-each[0], each[1]))[:SLOWEST]
            if len(self.slowest) == SLOWEST:
                self._least = _binned(array("f", [self.slowest[-1][0]]))[0]


@dataclass(slots=True)
class Lane:
    """What one worker did, per bin of time."""

    busy: array[float] = field(default_factory=lambda: array("d", bytes(8 * TIMES)))
    items: array[int] = field(default_factory=lambda: array("I", bytes(4 * TIMES)))
    failures: array[int] = field(default_factory=lambda: array("I", bytes(4 * TIMES)))


@dataclass(slots=True)
class Timeline:
    """When the workers of one launch were busy: bins of `width` seconds from `origin` on.

    The seconds of a batch are spread evenly over the time that it took, its items are counted where they ended.
    """

    origin: float
    width: float = LEAST_SECONDS
    lanes: dict[str, Lane] = field(default_factory=dict)

    def add(self, worker: str, started: float, step: StepReport, seconds: float) -> None:
        """Add what a report says of one step."""
        if not len(step.starts):
            return
        begin = started + step.starts[0] - self.origin
        end = max(begin, started + step.starts[-1] + step.durations[-1] - self.origin)
        if not isfinite(end):
            return
        begin, end = max(0.0, begin), max(0.0, end)
        while end >= TIMES * self.width:
            self._halve()
        lane = self.lanes.get(worker)
        if lane is None:
            name = worker if len(self.lanes) < LANES else ""
            lane = self.lanes.setdefault(name, Lane())
        first, last = int(begin / self.width), int(end / self.width)
        if first == last:
            lane.busy[last] += seconds
        else:
            rate = seconds / (end - begin)
            lane.busy[first] += rate * ((first + 1) * self.width - begin)
            for place in range(first + 1, last):
                lane.busy[place] += rate * self.width
            lane.busy[last] += rate * (end - last * self.width)
        lane.items[last] += len(step.states)
        failed = step.states.translate(FAILED_TABLE).count(1)
        if failed:
            lane.failures[last] += failed

    def _halve(self) -> None:
        self.width *= 2
        for lane in self.lanes.values():
            lane.busy = _merged(lane.busy)
            lane.items = _merged(lane.items)
            lane.failures = _merged(lane.failures)


def _merged(bins: array[Any]) -> array[Any]:
    """Return bins of twice the width."""
    merged = array(bins.typecode, map(operator.add, bins[::2], bins[1::2]))
    merged.frombytes(bytes((TIMES - len(merged)) * merged.itemsize))
    return merged
