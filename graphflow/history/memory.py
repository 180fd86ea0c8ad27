"""The history of one run, in memory: what each batch reported, found again by node and index.

Items are columns: a segment is a report's arrays with the indices they stand for.
"""

from __future__ import annotations

import bisect
import pickle
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from graphflow.errors import GraphflowError, RemoteError
from graphflow.orders import Ref
from graphflow.reports import Anomaly, ErrorRecord, LogRecord, Report, StepReport

__all__ = ["MemoryHistory", "NodeHistory", "Place", "Segment", "Transition", "exception_of"]

MAX_LOG_LINES = 100_000


@dataclass(frozen=True, slots=True)
class Segment:
    """What one report says of one node: `indices` and the step's arrays stand side by side."""

    indices: Sequence[int]
    step: StepReport
    started: float
    worker: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where an item's newest value is: a column and the entry in it."""

    ref: Ref
    position: int


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of state of a node or of the run; `at` is seconds since the epoch."""

    code: int
    at: float


def exception_of(record: ErrorRecord) -> Exception:
    """The exception of a record: the object itself, its restored pickle, or a `RemoteError` in its place.

    What is no `Exception` is given as the cause of one: it would end the program of whoever asks.
    """
    error = record.exception or _restored(record)
    if isinstance(error, Exception):
        return error
    text = f"{record.type_name}: {record.message}" if record.message else record.type_name
    wrapped = GraphflowError(f"the task raised {text}, which in a task ends nothing but its item")
    wrapped.__cause__ = error
    return wrapped


def _restored(record: ErrorRecord) -> BaseException:
    if record.pickled is not None:
        try:
            error = pickle.loads(record.pickled)
            if isinstance(error, BaseException):
                if record.traceback:
                    error.add_note(f"on the worker:\n{record.traceback.rstrip()}")
                return error
        except Exception:
            pass
    return RemoteError(record.type_name, record.message, record.traceback)


class NodeHistory:
    """The segments of one node, the newest place of each item, and what was out of the ordinary."""

    def __init__(self) -> None:
        self.ranges: list[Segment] = []
        self._starts: list[int] = []
        self._singles: dict[int, tuple[Segment, int]] = {}
        self._aliases: dict[int, Place] = {}
        self.anomalies: dict[int, list[tuple[Anomaly, ErrorRecord | None, str]]] = {}
        self.transitions: list[Transition] = []
        self.ended_at: dict[int, float] = {}

    def add(self, segment: Segment) -> None:
        """Add a segment; contiguous ranges are kept sorted by their start."""
        indices = segment.indices
        if isinstance(indices, range) and len(indices):
            if self._starts and indices.start < self._starts[-1]:
                place = bisect.bisect_left(self._starts, indices.start)
                self._starts.insert(place, indices.start)
                self.ranges.insert(place, segment)
            else:
                self._starts.append(indices.start)
                self.ranges.append(segment)
        else:
            for position, index in enumerate(indices):
                self._singles[index] = (segment, position)

    def alias(self, index: int, place: Place) -> None:
        """The value of an item is at another node's place."""
        self._aliases[index] = place

    def find(self, index: int) -> tuple[Segment, int] | None:
        """The newest segment that holds an item, and the position in it."""
        single = self._singles.get(index)
        if single is not None:
            return single
        at = bisect.bisect_right(self._starts, index) - 1
        if at >= 0:
            segment = self.ranges[at]
            if index in segment.indices:
                return segment, index - segment.indices[0]
        return None

    def place(self, index: int) -> Place | None:
        """Where the value of an item is."""
        alias = self._aliases.get(index)
        if alias is not None:
            return alias
        found = self.find(index)
        if found is None or found[0].step.values is None:
            return None
        return Place(found[0].step.values, found[1])

    def parts(self, indices: Sequence[int], filler: Ref) -> Iterator[tuple[Ref, Sequence[int]]]:
        """Columns and entries for these ascending indices, in order; the filler's only entry where there is no value."""
        odd = self._singles.keys() | self._aliases.keys()
        if not isinstance(indices, range):
            for index in indices:
                place = self.place(index)
                yield (filler, (0,)) if place is None else (place.ref, (place.position,))
            return
        lo, hi = indices.start, indices.stop
        cuts = sorted(index for index in odd if lo <= index < hi) if odd else []
        for cut in [*cuts, hi]:
            yield from self._range_parts(lo, cut, filler)
            if cut < hi:
                place = self.place(cut)
                yield (filler, (0,)) if place is None else (place.ref, (place.position,))
            lo = cut + 1

    def _range_parts(self, lo: int, hi: int, filler: Ref) -> Iterator[tuple[Ref, Sequence[int]]]:
        while lo < hi:
            at = bisect.bisect_right(self._starts, lo) - 1
            segment = self.ranges[at] if at >= 0 else None
            if segment is not None and lo in segment.indices and segment.step.values is not None:
                first, stop = segment.indices[0], min(hi, segment.indices[-1] + 1)
                yield segment.step.values, range(lo - first, stop - first)
                lo = stop
                continue
            following = self._starts[at + 1] if at + 1 < len(self._starts) else hi
            stop = min(hi, max(following, lo + 1))
            yield filler, [0] * (stop - lo)
            lo = stop

    def refs(self) -> Iterator[Ref]:
        """All columns of values."""
        for segment in [*self.ranges, *{id(each): each for each, _ in self._singles.values()}.values()]:
            if segment.step.values is not None:
                yield segment.step.values


class MemoryHistory:
    """The record of one run: nodes, segments, anomalies, transitions and logs."""

    def __init__(self) -> None:
        self.nodes: dict[int, NodeHistory] = {}
        self.errors: dict[int, BaseException] = {}
        """Errors of nodes that failed as a whole."""
        self.logs: list[LogRecord] = []
        self.logs_dropped = 0
        self.transitions: list[Transition] = []
        self._restored: dict[int, tuple[ErrorRecord, BaseException]] = {}
        self._lock = threading.Lock()

    def node(self, node_id: int) -> NodeHistory:
        """The history of a node, made where there is none yet."""
        found = self.nodes.get(node_id)
        if found is None:
            found = self.nodes[node_id] = NodeHistory()
        return found

    def commit(self, report: Report, indices: Sequence[int]) -> None:
        """Keep what a batch reported of `indices`."""
        for step in report.steps:
            history = self.node(step.node)
            history.add(Segment(indices, step, report.started, report.worker))
            for anomaly in step.anomalies:
                record = report.errors[anomaly.error] if anomaly.error >= 0 else None
                history.anomalies.setdefault(indices[anomaly.position], []).append(
                    (anomaly, record, report.worker)
                )
        self.log(report.logs)
        self.logs_dropped += report.logs_dropped

    def log(self, records: Sequence[LogRecord]) -> None:
        """Keep lines of the log, the first of them where there are too many, and count the others."""
        room = MAX_LOG_LINES - len(self.logs)
        self.logs += records[:room]
        self.logs_dropped += max(0, len(records) - room)

    def ended(self, node: int, indices: Sequence[int], at: float) -> None:
        """Items that ended without running; kept for single ones only."""
        if len(indices) <= 1_000:
            ended_at = self.node(node).ended_at
            for index in indices:
                ended_at[index] = at

    def node_changed(self, node: int, code: int, at: float) -> None:
        """A node's state changed."""
        transitions = self.node(node).transitions
        if not transitions or transitions[-1].code != code:
            transitions.append(Transition(code, at))

    def run_changed(self, code: int, at: float) -> None:
        """The run's state changed."""
        self.transitions.append(Transition(code, at))

    def last_error(self, node: int, index: int) -> ErrorRecord | None:
        """The newest error of an item, as a record."""
        history = self.nodes.get(node)
        if history is None:
            return None
        for _, record, _ in reversed(history.anomalies.get(index, [])):
            if record is not None:
                return record
        return None

    def restored(self, record: ErrorRecord) -> BaseException:
        """The exception of a record, restored once."""
        with self._lock:
            known = self._restored.get(id(record))
            if known is None:
                known = self._restored[id(record)] = (record, exception_of(record))
            return known[1]
