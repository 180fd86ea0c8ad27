"""The history of one run, in memory: what each batch reported, found again by node and index.

Items are columns: a segment is a report's arrays with the indices they stand for.
"""

from __future__ import annotations

import bisect
import threading
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from graphflow.model.anomalies import Anomaly, ErrorRecord
from graphflow.model.orders import Ref
from graphflow.model.reports import LogRecord, Report, StepReport
from graphflow.model.states import Code
from graphflow.records.errors import DistinctErrors, ErrorBook, ErrorTally, exception_of
from graphflow.records.piles import Pile, can_pile
from graphflow.records.segments import Segment

__all__ = ["MemoryHistory", "Moved", "NodeHistory", "Place", "Segment"]

_NO_ROWS: Any = ()
_NO_ENTRIES: Any = MappingProxyType({})
_NO_FLAGS: Any = b""
_NO_NUMBERS: Any = ()
_NO_MOMENTS: Any = ()
PILE_AFTER = 2_048
"""So many segments of first runs of a node are few enough to be objects; more are piled up."""
MAX_LOG_LINES = 100_000
MAX_INPUTS = 1_000
"""Failed items of a node whose arguments' summaries are kept; those of others are made when they are asked for."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an item's newest value is: a column and the entry in it."""

    ref: Ref
    position: int


@dataclass(frozen=True, slots=True)
class Moved:
    """A node, or the run, moved to a state; `at` is seconds since the epoch."""

    code: int
    at: float
    message: str = ""
    width: int | None = None


class NodeHistory:
    """The segments of one node: which is the newest of each item, and what each says of it.

    Ranges that were run for the first time are kept sorted. Whatever comes back later (a retry, an item that was
    held) is *odd*: per index, arrays tell the newest odd segment, and each segment the one before it.
    """

    def __init__(self, store: Any = None) -> None:
        self.store = store
        """The `ResultStore` of the run, None where it has none."""
        self.ranges: list[Segment | Pile] = []
        self.may_pile = True
        self._unpiled = 0
        self._starts: list[int] = []
        # What few nodes have is shared until the first entry: a run may have very many nodes.
        self._odd: list[Segment] = _NO_ROWS
        self._is_odd = _NO_FLAGS
        self._owners = _NO_NUMBERS
        self._offsets = _NO_NUMBERS
        """Per index: whether it is in an odd segment, the number of the newest one (from 1), and the position there."""
        self._earlier: list[tuple[array[int], array[int]] | None] = _NO_ROWS
        """Per odd segment, the owners and offsets that its indices had before; None if they had none."""
        self._aliases: dict[int, Place] = _NO_ENTRIES
        self._segments: list[Segment] = _NO_ROWS
        """Segments with errors, as they came."""
        self._tally: ErrorTally | None = None
        self._tallied = 0
        self.inputs_kept = 0
        self.began: float | None = None
        """When the first batch began, in seconds since the epoch."""
        self.transitions: list[Moved] = []
        self._ended_at = _NO_MOMENTS

    def add(self, segment: Segment) -> None:
        """Add a segment."""
        indices = segment.indices
        if not len(indices):
            return
        for index in [each for each in self._aliases if each in indices] if self._aliases else ():
            # It ran again, and may have a value of its own now.
            del self._aliases[index]
        if self.began is None or segment.started < self.began:
            self.began = segment.started
        if len(segment.step.faults):
            # Without the values, which may be let go of.
            self._segments = self._segments or []
            self._segments.append(replace(segment, step=replace(segment.step, values=None)))
        if isinstance(indices, range):
            at = bisect.bisect_right(self._starts, indices.start)
            is_clear = (at == 0 or self.ranges[at - 1].indices[-1] < indices.start) and (
                at == len(self._starts) or self._starts[at] >= indices.stop
            )
            if is_clear and not self._is_odd.count(1, indices.start, indices.stop):
                self._starts.insert(at, indices.start)
                self.ranges.insert(at, segment)
                self._unpiled += 1
                if self._unpiled >= PILE_AFTER and self.may_pile:
                    self._pile_up()
                return
        self._add_odd(segment)

    def _pile_up(self) -> None:
        """Put neighbouring plain segments together. O(segments), and of them as many as were added since it did so last."""
        found: list[Segment | Pile] = []
        for each in self.ranges:
            last = found[-1] if found else None
            if isinstance(each, Pile) or not can_pile(each, self.store):
                found.append(each)
            elif isinstance(last, Pile) and last.takes(each):
                last.add(each)
            else:
                pile = Pile(self.store, each.indices[0])
                pile.add(each)
                found.append(pile)
        # One alone is lighter as it was.
        self.ranges = [
            each.segment(0) if isinstance(each, Pile) and len(each) == 1 else each for each in found
        ]
        self._starts = [each.indices[0] for each in self.ranges]
        self._unpiled = 0

    def _add_odd(self, segment: Segment) -> None:
        if not self._odd:
            self._odd, self._earlier = [], []
            self._is_odd, self._owners, self._offsets = bytearray(), array("I"), array("I")
        indices = segment.indices
        lo, hi = (indices.start, indices.stop) if isinstance(indices, range) else (0, max(indices) + 1)
        missing = hi - len(self._is_odd)
        if missing > 0:
            self._is_odd.extend(bytes(missing))
            self._owners.frombytes(bytes(missing * self._owners.itemsize))
            self._offsets.frombytes(bytes(missing * self._offsets.itemsize))
        owners, offsets, number = self._owners, self._offsets, len(self._odd) + 1
        self._odd.append(segment)
        if isinstance(indices, range):
            before = (owners[lo:hi], offsets[lo:hi]) if self._is_odd.count(1, lo, hi) else None
            owners[lo:hi] = array("I", [number]) * len(indices)
            offsets[lo:hi] = array("I", range(len(indices)))
            self._is_odd[lo:hi] = b"\1" * len(indices)
        else:
            before = None
            if any(map(self._is_odd.__getitem__, indices)):
                before = (
                    array("I", map(owners.__getitem__, indices)),
                    array("I", map(offsets.__getitem__, indices)),
                )
            for position, index in enumerate(indices):
                owners[index] = number
                offsets[index] = position
                self._is_odd[index] = 1
        self._earlier.append(before)

    def steps(self) -> Iterator[StepReport]:
        """Yield what was reported: of first runs in index order, then what came back later."""
        for segment in self.segments():
            yield segment.step

    def move(self, moved: Mapping[int, Ref]) -> None:
        """Refer to other columns of the same values, by the ids of the refs so far, which are in memory."""

        def at_new_place(segment: Segment) -> Segment:
            ref = moved.get(id(segment.step.values))
            return segment if ref is None else replace(segment, step=replace(segment.step, values=ref))

        self.ranges = [each if isinstance(each, Pile) else at_new_place(each) for each in self.ranges]
        self._odd = [at_new_place(each) for each in self._odd]
        for index, place in self._aliases.items():
            if id(place.ref) in moved:
                self._aliases[index] = replace(place, ref=moved[id(place.ref)])

    def forget(self, is_lost: Callable[[Ref], bool]) -> None:
        """Refer no more to columns of values that are lost: items that have none stand in them too."""

        def without_lost(segment: Segment) -> Segment:
            if segment.step.values is None or not is_lost(segment.step.values):
                return segment
            return replace(segment, step=replace(segment.step, values=None))

        for each in self.ranges:
            if isinstance(each, Pile):
                each.forget(is_lost)
        self.ranges = [each if isinstance(each, Pile) else without_lost(each) for each in self.ranges]
        self._odd = [without_lost(each) for each in self._odd]

    def alias(self, index: int, place: Place) -> None:
        """Record that the value of an item is at another node's place."""
        self._aliases = self._aliases or {}
        self._aliases[index] = place

    def find(self, index: int) -> tuple[Segment, int] | None:
        """Return the newest segment that holds an item, and the position in it."""
        if index < len(self._is_odd) and self._is_odd[index]:
            return self._odd[self._owners[index] - 1], self._offsets[index]
        return self._first(index)

    def _first(self, index: int) -> tuple[Segment, int] | None:
        """Return the segment of an item's first run, where that was a range."""
        at = bisect.bisect_right(self._starts, index) - 1
        if at >= 0:
            segment = self.ranges[at]
            if index in segment.indices:
                return (
                    segment.find(index)
                    if isinstance(segment, Pile)
                    else (segment, index - segment.indices[0])
                )
        return None

    def _newest_first(self, index: int) -> Iterator[tuple[Segment, int]]:
        """Yield all segments that hold an item, and the positions in them."""
        if index < len(self._is_odd) and self._is_odd[index]:
            number, position = self._owners[index], self._offsets[index]
            while number:
                yield self._odd[number - 1], position
                before = self._earlier[number - 1]
                number, position = (before[0][position], before[1][position]) if before else (0, 0)
        first = self._first(index)
        if first is not None:
            yield first

    def anomalies_of(self, index: int) -> list[tuple[Anomaly, ErrorRecord | None, str]]:
        """Return the attempts of an item that did not simply succeed, oldest first: with their errors and workers."""
        found: list[tuple[Anomaly, ErrorRecord | None, str]] = []
        for segment, position in self._newest_first(index):
            found[:0] = [
                (anomaly, segment.error(anomaly.error), segment.worker)
                for anomaly in segment.anomalies(position)
            ]
        return found

    def last_error(self, index: int) -> ErrorRecord | None:
        """Return the newest error of an item."""
        for segment, position in self._newest_first(index):
            number = segment.step.faults.error_at(position)
            record = None if number is None else segment.error(number)
            if record is not None:
                return record
            for anomaly in reversed(segment.anomalies(position)):
                record = segment.error(anomaly.error)
                if record is not None:
                    return record
        return None

    def inputs_of(self, index: int) -> str:
        """Return the summary of an item's arguments that was made as it failed; empty if none was kept."""
        for segment, position in self._newest_first(index):
            for anomaly in reversed(segment.anomalies(position)):
                if anomaly.inputs:
                    return anomaly.inputs
        return ""

    def errors(self) -> DistinctErrors:
        """Return the distinct errors that ended items, counted. O(items that failed since this was asked last)."""
        tally = self._tally = self._tally or ErrorTally()
        for segment in self._segments[self._tallied :]:
            self._tallied += 1
            if segment.errors is not None:
                tally.add(segment.indices, segment.step.faults, segment.step.states, segment.errors)
        return tally.listed()

    def first_errors(self, limit: int) -> list[tuple[int, ErrorRecord]]:
        """Return up to `limit` distinct errors that ended items, in order of the first item. O(batches + limit)."""
        found: dict[tuple[str, str, str], tuple[int, ErrorRecord]] = {}
        for segment in sorted(self._segments, key=lambda each: each.indices[each.step.faults.positions[0]]):
            if segment.errors is None:
                continue
            faults, states, seen = segment.step.faults, segment.step.states, set()
            for position, number in zip(faults.positions, faults.numbers(), strict=True):
                if number in seen or states[position] == Code.SKIPPED:
                    continue
                seen.add(number)
                record = segment.error(number)
                if record is not None:
                    found.setdefault(record.key, (segment.indices[position], record))
                if len(found) == limit or isinstance(faults.errors, int):
                    break
            if len(found) == limit:
                break
        return sorted(found.values(), key=lambda each: each[0])

    def end(self, indices: Sequence[int], at: float) -> None:
        """End items without running, at a time in seconds since the epoch."""
        if not len(indices):
            return
        self._ended_at = self._ended_at or array("d")
        missing = (indices.stop if isinstance(indices, range) else max(indices) + 1) - len(self._ended_at)
        if missing > 0:
            self._ended_at.frombytes(bytes(missing * self._ended_at.itemsize))
        if isinstance(indices, range):
            self._ended_at[indices.start : indices.stop] = array("d", [at]) * len(indices)
        else:
            for index in indices:
                self._ended_at[index] = at

    def ended_at(self, index: int) -> float | None:
        """Return when an item ended without running, None if it did not."""
        return (self._ended_at[index] or None) if index < len(self._ended_at) else None

    def place(self, index: int) -> Place | None:
        """Return where the value of an item is."""
        alias = self._aliases.get(index)
        if alias is not None:
            return alias
        found = self.find(index)
        if found is None or found[0].step.values is None:
            return None
        return Place(found[0].step.values, found[1])

    def parts(self, indices: Sequence[int], filler: Ref) -> Iterator[tuple[Ref, Sequence[int]]]:
        """Yield columns and entries for these ascending indices, in order; the filler's only entry where there is no value."""
        if not isinstance(indices, range):
            for index in indices:
                yield from self._place_part(index, filler)
            return
        lo, hi = indices.start, indices.stop
        cuts = sorted(index for index in self._aliases if lo <= index < hi) if self._aliases else []
        for cut in [*cuts, hi]:
            yield from self._span_parts(lo, cut, filler)
            if cut < hi:
                yield from self._place_part(cut, filler)
            lo = cut + 1

    def _place_part(self, index: int, filler: Ref) -> Iterator[tuple[Ref, Sequence[int]]]:
        place = self.place(index)
        yield (filler, (0,)) if place is None else (place.ref, (place.position,))

    def _span_parts(self, lo: int, hi: int, filler: Ref) -> Iterator[tuple[Ref, Sequence[int]]]:
        """Yield the parts of a range without aliases."""
        is_odd = self._is_odd
        while lo < hi:
            odd = is_odd.find(1, lo, hi)
            stop = hi if odd < 0 else odd
            yield from self._range_parts(lo, stop, filler)
            lo = stop
            if lo < hi:
                number = self._owners[lo]
                segment, position = self._odd[number - 1], self._offsets[lo]
                size = 1
                if isinstance(segment.indices, range):
                    size = min(hi, segment.indices.stop) - lo
                    if self._owners[lo : lo + size].count(number) < size:
                        size = 1
                values = segment.step.values
                yield (filler, [0] * size) if values is None else (values, range(position, position + size))
                lo += size

    def _range_parts(self, lo: int, hi: int, filler: Ref) -> Iterator[tuple[Ref, Sequence[int]]]:
        while lo < hi:
            at = bisect.bisect_right(self._starts, lo) - 1
            segment = self.ranges[at] if at >= 0 else None
            if isinstance(segment, Pile) and lo in segment.indices:
                stop = min(hi, segment.indices.stop)
                yield from segment.parts(lo, stop, filler)
                lo = stop
                continue
            if isinstance(segment, Segment) and lo in segment.indices and segment.step.values is not None:
                first, stop = segment.indices[0], min(hi, segment.indices[-1] + 1)
                yield segment.step.values, range(lo - first, stop - first)
                lo = stop
                continue
            following = self._starts[at + 1] if at + 1 < len(self._starts) else hi
            stop = min(hi, max(following, lo + 1))
            yield filler, [0] * (stop - lo)
            lo = stop

    def whole(self) -> NodeHistory:
        """Return the same with all that was reported."""
        return self

    def segments(self) -> Iterator[Segment]:
        """Yield all segments: of first runs in order of the items, then the others as they came."""
        for each in self.ranges:
            if isinstance(each, Pile):
                yield from each.segments()
            else:
                yield each
        yield from self._odd

    def refs(self) -> Iterator[Ref]:
        """Yield all columns of values."""
        for segment in self.segments():
            if segment.step.values is not None:
                yield segment.step.values


class MemoryHistory:
    """The record of one run: nodes, segments, anomalies, transitions and logs."""

    def __init__(self, store: Any = None) -> None:
        self._store = store
        self.nodes: dict[int, NodeHistory] = {}
        self.errors: dict[int, BaseException] = {}
        """Errors of nodes that failed as a whole."""
        self.logs: list[LogRecord] = []
        self.logs_dropped = 0
        self.transitions: list[Moved] = []
        self._errors = ErrorBook()
        self._lines: dict[tuple[str, int | None], list[int]] = {}
        self._lines_known = 0
        self._restored: dict[int, tuple[ErrorRecord, BaseException]] = {}
        self._lock = threading.Lock()

    def node(self, node_id: int) -> NodeHistory:
        """Return the history of a node, made where there is none yet."""
        found = self.nodes.get(node_id)
        if found is None:
            found = self.nodes[node_id] = NodeHistory(self._store)
        return found

    def commit(self, report: Report, indices: Sequence[int]) -> None:
        """Keep what a batch reported of `indices`."""
        errors = self._errors.take(report)
        for step in report.steps:
            history = self.node(step.node)
            if step.faults.inputs:
                history.inputs_kept += len(step.faults.inputs)
                if history.inputs_kept > MAX_INPUTS:
                    step = replace(step, faults=step.faults.without_inputs())
            history.add(Segment(indices, step, report.started, report.worker, errors))
        self.log(report.logs)
        self.logs_dropped += report.logs_dropped

    def log(self, records: Sequence[LogRecord]) -> None:
        """Keep lines of the log, the first of them where there are too many, and count the others."""
        room = MAX_LOG_LINES - len(self.logs)
        self.logs += records[:room]
        self.logs_dropped += max(0, len(records) - room)

    def ended(self, node: int, indices: Sequence[int], at: float) -> None:
        """Record items that ended without running."""
        self.node(node).end(indices, at)

    def node_changed(self, node: int, code: int, at: float) -> None:
        """Record a node's changed state."""
        transitions = self.node(node).transitions
        if not transitions or transitions[-1].code != code:
            transitions.append(Moved(code, at))

    def run_changed(self, code: int, at: float) -> None:
        """Record the run's changed state."""
        self.transitions.append(Moved(code, at))

    def last_error(self, node: int, index: int) -> ErrorRecord | None:
        """Return the newest error of an item, as a record."""
        history = self.nodes.get(node)
        return None if history is None else history.last_error(index)

    def log_of(self, node: str, index: int | None) -> list[LogRecord]:
        """Return the log lines of an item, in order."""
        with self._lock:
            for number in range(self._lines_known, len(self.logs)):
                line = self.logs[number]
                self._lines.setdefault((line.node, line.index), []).append(number)
            self._lines_known = len(self.logs)
            return [self.logs[number] for number in self._lines.get((node, index), ())]

    def restored(self, record: ErrorRecord) -> BaseException:
        """Return the exception of a record: the same object each time, but for variants, of which there may be millions."""
        if record.like is not None:
            return exception_of(record)
        with self._lock:
            known = self._restored.get(id(record))
            if known is None:
                known = self._restored[id(record)] = (record, exception_of(record))
            return known[1]
