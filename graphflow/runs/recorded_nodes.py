"""Nodes and items of a run, as its history tells them."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from itertools import compress
from typing import TYPE_CHECKING, Any, overload

from graphflow.errors import MapFailed, ValueUnavailable
from graphflow.model.orders import GONE
from graphflow.model.reports import CachedItem, LogRecord
from graphflow.model.states import FAILED_CODES, FAILED_TABLE, FINAL_CODES, Code, Counts, State
from graphflow.records.errors import DistinctErrors
from graphflow.records.replay import ReplayedNode
from graphflow.runs.errors import exception_at, node_failure
from graphflow.runs.values import NOT_KEPT

if TYPE_CHECKING:
    from graphflow.runs.history import PastRun

__all__ = ["PastItem", "PastItems", "PastNode"]

_GOOD = (Code.COMPLETED, Code.CACHED)


def moment(seconds: float) -> datetime:
    """Seconds since the epoch as a time."""
    return datetime.fromtimestamp(seconds, UTC)


class PastNode:
    """One node of a run: name, state, width, counts and items."""

    __slots__ = ("_number", "_run")

    def __init__(self, run: PastRun, number: int) -> None:
        self._run = run
        self._number = number

    def __repr__(self) -> str:
        return f"<PastNode {self.name}: {self.state.name}>"

    @property
    def known(self) -> ReplayedNode:
        """All that was recorded of it."""
        return self._run.replay.nodes[self._number]

    @property
    def id(self) -> int:
        """Its number in the run's history, the same over all its lives."""
        return self._number

    @property
    def key(self) -> str:
        """The key that finds it again in another process."""
        return self.known.entry.key

    @property
    def name(self) -> str:
        """Its name, unique in the run."""
        return self.known.entry.name

    @property
    def task_name(self) -> str:
        """Its task's name."""
        return self.known.entry.task_name

    @property
    def group(self) -> str:
        """The path of flows called inside the flow, empty for the flow itself."""
        return self.known.entry.group

    @property
    def is_mapped(self) -> bool:
        """Whether it expands over a sequence."""
        return self.known.entry.is_mapped

    @property
    def is_builtin(self) -> bool:
        """Whether it is one of the engine's own (an element of a future, a collection)."""
        return self.known.entry.is_builtin

    @property
    def options(self) -> dict[str, Any]:
        """The options of its task that are not the default."""
        return dict(self.known.entry.options)

    @property
    def state(self) -> State:
        """Where it stands; for a mapped node, derived from its items."""
        known = self.known
        moved = known.transitions[-1] if known.transitions else None
        code, message = Code(known.code), moved.message if moved else ""
        if code not in FINAL_CODES and self._run.is_over:
            # Nobody works on it any more.
            code = Code.CRASHED if known.has_started else Code.PENDING
        if code in FAILED_CODES and not message and not self.is_mapped:
            error = self.exception
            message = f"{type(error).__name__}: {error}" if error is not None else ""
        return State.of(code, at=moved.at if moved else self._run.created.timestamp(), message=message)

    @property
    def history(self) -> list[State]:
        """All its states, oldest first."""
        return [
            State.of(Code(moved.code), at=moved.at, message=moved.message) for moved in self.known.transitions
        ]

    @property
    def width(self) -> int | None:
        """The number of items of a mapped node; None while unknown, and where it is not mapped."""
        return self.known.width if self.is_mapped else None

    @property
    def counts(self) -> Counts:
        """Items by state name; a node that is not mapped counts one."""
        return self.known.counts()

    @property
    def items(self) -> PastItems:
        """Its items in index order; one, of index None, where it is not mapped."""
        known = self.known
        return PastItems(self, range(len(known.states) if known.width is None else known.width))

    def failures(self) -> PastItems:
        """Its failed items."""
        return self.items.picked(FAILED_TABLE)

    @property
    def started(self) -> datetime | None:
        """When its first item began, None if none did."""
        known = self.known
        begun = [moved.at for moved in known.transitions if moved.code == Code.RUNNING]
        begun += [segment.started for segment in known.history.ranges[:1]]
        return moment(min(begun)) if begun else None

    @property
    def ended(self) -> datetime | None:
        """When it ended, None while it has not."""
        known = self.known
        return moment(known.transitions[-1].at) if known.is_final and known.transitions else None

    @property
    def retries(self) -> int:
        """How many attempts beyond each item's first were made."""
        attempts = self.known.attempts
        return sum(attempts) - (len(attempts) - attempts.count(0))

    @property
    def errors(self) -> DistinctErrors:
        """The distinct exceptions that its items failed with, most frequent first, with the items' indices."""
        return self.known.history.errors()

    @property
    def exception(self) -> BaseException | None:
        """What it failed with: its own exception, or one group for a mapped node's failures."""
        if not self.is_mapped:
            return self.items[0].exception
        return node_failure(self._run.replay, self.known)

    def result(self) -> Any:
        """Its value; of a mapped node all values in index order, those of skipped items left out.

        Raises
        ------
        ValueUnavailable
            If it has none: not ended, or not kept.
        Exception
            What it failed with.
        """
        if not self.is_mapped:
            return self.items[0].result()
        if not self.known.is_final:
            raise ValueUnavailable(f"{self.name} is {self.state.name}; it has no value yet")
        error = self.exception
        if error is not None and not isinstance(error, MapFailed):
            raise error
        if isinstance(error, MapFailed) and self.known.code != Code.COMPLETED:
            raise error
        return self._values()

    def _values(self) -> list[Any]:
        known = self.known
        size = len(known.states)
        codes = known.codes(0, size)
        good = [index for index in range(size) if codes[index] in _GOOD]
        wanted: Sequence[int] = range(size) if len(good) == size else good
        valued = known.valued(0, size)
        if valued.count(1) < size:
            gone = next((index for index in good if not valued[index]), None)
            if gone is not None:
                raise ValueUnavailable(f"the value of {known.label(gone)} {NOT_KEPT}")
        return self._run.values.joined(known.history.parts(wanted, GONE))


class PastItems(Sequence["PastItem"]):
    """Items of a node, made as they are asked for."""

    __slots__ = ("_node", "_places")

    def __init__(self, node: PastNode, places: Sequence[int]) -> None:
        self._node = node
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, which: int) -> PastItem: ...
    @overload
    def __getitem__(self, which: slice) -> PastItems: ...
    def __getitem__(self, which: int | slice) -> PastItem | PastItems:
        if isinstance(which, slice):
            return PastItems(self._node, self._places[which])
        if not -len(self._places) <= which < len(self._places):
            raise IndexError(f"{self._node.name} has {len(self)} such items; there is no item {which}")
        return PastItem(self._node, self._places[which])

    def __iter__(self) -> Iterator[PastItem]:
        return (PastItem(self._node, place) for place in self._places)

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self[:3]))
        return f"<{len(self):,} items of {self._node.name}{': ' if shown else ''}{shown}{', ...' if len(self) > 3 else ''}>"

    def at(self, index: int) -> PastItem:
        """The item of a map index.

        Raises
        ------
        KeyError
            If it is not among these.
        """
        if index not in self._places:
            raise KeyError(f"item {index} of {self._node.name} is not among these")
        return PastItem(self._node, index)

    def chosen(self, states: Collection[str], start: int = 0, stop: int | None = None) -> PastItems:
        """Those in some states (none stands for all), and of a range of indices. O(items)."""
        last = self._places[-1] + 1 if self._places else 0
        part = range(max(0, start), last if stop is None else min(stop, last))
        if isinstance(self._places, range):
            chosen = PastItems(self._node, part)
        else:
            chosen = PastItems(self._node, array("Q", [place for place in self._places if place in part]))
        if not states:
            return chosen
        wanted = {code for code in Code if code.state_name in states}
        return chosen.picked(bytes(code in wanted for code in range(256)))

    def picked(self, table: bytes) -> PastItems:
        """Those whose code is 1 in a table of 256. O(items)."""
        places = self._places
        if not places:
            return self
        lo, hi = places[0], places[-1] + 1
        mask = self._node.known.codes(lo, hi).translate(table)
        if isinstance(places, range):
            return PastItems(self._node, array("Q", compress(places, mask)))
        return PastItems(self._node, array("Q", [place for place in places if mask[place - lo]]))


class PastItem:
    """One item of a node: its state, attempts, times, value or exception, log and full history."""

    __slots__ = ("_node", "_place")

    def __init__(self, node: PastNode, place: int) -> None:
        self._node = node
        self._place = place

    def __repr__(self) -> str:
        return f"<PastItem {self.label}: {self.state.name}>"

    @property
    def _known(self) -> ReplayedNode:
        return self._node.known

    @property
    def node(self) -> PastNode:
        """Its node."""
        return self._node

    @property
    def index(self) -> int | None:
        """The map index, None where the node is not mapped."""
        return self._place if self._node.is_mapped else None

    @property
    def label(self) -> str:
        """Its task run name."""
        return self._known.label(self._place)

    @property
    def state(self) -> State:
        """Where it stands."""
        code = self._code()
        ended = self.ended
        message = ""
        if code in FAILED_CODES:
            error = self.exception
            message = f"{type(error).__name__}: {error}"
        return State.of(code, at=ended.timestamp() if ended else self._since(), message=message)

    def _code(self) -> Code:
        return self._known.code_of(self._place)

    def _since(self) -> float:
        transitions = self._known.transitions
        return transitions[0].at if transitions else self._node._run.created.timestamp()

    @property
    def attempts(self) -> int:
        """How often it was tried."""
        attempts = self._known.attempts
        return attempts[self._place] if self._place < len(attempts) else 0

    def _times(self) -> tuple[float, float] | None:
        found = self._known.history.find(self._place)
        if found is None:
            return None
        segment, position = found
        start = segment.started + segment.step.starts[position]
        return start, start + segment.step.durations[position]

    @property
    def started(self) -> datetime | None:
        """When its last attempt began, None if it never ran."""
        times = self._times()
        return moment(times[0]) if times and self.attempts else None

    @property
    def ended(self) -> datetime | None:
        """When it ended, None while it has not."""
        if self._code() not in FINAL_CODES:
            return None
        at = self._known.history.ended_at(self._place)
        if at is not None:
            return moment(at)
        times = self._times()
        return moment(times[1]) if times else None

    @property
    def duration_seconds(self) -> float | None:
        """Seconds of the last attempt."""
        times = self._times()
        return times[1] - times[0] if times and self.attempts else None

    @property
    def worker(self) -> str:
        """Where its last attempt ran; empty if it never ran."""
        found = self._known.history.find(self._place)
        return found[0].worker if found is not None else ""

    @property
    def value(self) -> Any:
        """Its value.

        Raises
        ------
        ValueUnavailable
            If it has none: not ended, failed, skipped or not kept.
        ResultDamaged
            If it is not what was written.
        """
        code = self._code()
        if code not in _GOOD:
            raise ValueUnavailable(f"{self.label} is {code.state_name}: it has no value")
        known, place = self._known, self._known.history.place(self._place)
        if place is None or not known.valued(self._place, self._place + 1)[0]:
            raise ValueUnavailable(f"the value of {self.label} {NOT_KEPT}")
        return self._node._run.values.value(place.ref, place.position, self.label)

    @property
    def cached_from(self) -> CachedItem | None:
        """Which run made its value, where and when; None if it was executed in this run."""
        found = self._known.history.find(self._place)
        if found is None or found[0].step.cached is None:
            return None
        segment, position = found
        assert segment.step.cached is not None
        return segment.step.cached.at(position, self._place)

    def result(self) -> Any:
        """Its value; None where it was skipped.

        Raises
        ------
        ValueUnavailable
            If it has none: not ended, or not kept.
        Exception
            What it failed with.
        """
        error = self.exception
        if error is not None:
            raise error
        return None if self._code() == Code.SKIPPED else self.value

    @property
    def exception(self) -> BaseException | None:
        """What it failed with, None if it did not fail.

        It is of the type that it was raised with where that is a built-in one, or one of graphflow, made of one text;
        else a `RemoteError` that has type, text and traceback.
        """
        code = self._code()
        if code not in FAILED_CODES and code != Code.CANCELLED:
            return None
        return exception_at(self._node._run.replay, self._known, self._place)

    @property
    def traceback(self) -> str:
        """The traceback as text, user frames only; empty if it did not fail."""
        record = self._known.history.last_error(self._place)
        return record.traceback if record is not None else ""

    @property
    def inputs(self) -> str:
        """A short summary of its arguments, as noted when it failed; of many failures, only of the first ones."""
        return self._known.history.inputs_of(self._place)

    @property
    def log(self) -> list[LogRecord]:
        """Its log lines, in order."""
        return self._node._run.replay.history.log_of(self._node.name, self.index)

    @property
    def history(self) -> list[State]:
        """All its states, oldest first, with their times, over all lives of the run."""
        states = [State.of(Code.PENDING, at=self._since())]
        code = self._code()
        has_ended = False
        for anomaly, record, _ in self._known.history.anomalies_of(self._place):
            if anomaly.attempt:
                running = Code.RUNNING if anomaly.attempt == 1 else Code.RETRYING
                states.append(State.of(running, at=anomaly.started))
            ended = Code.AWAITING_RETRY if anomaly.code == Code.RETRYING else Code(anomaly.code)
            message = f"{record.type_name}: {record.message}" if record is not None else ""
            states.append(State.of(ended, at=anomaly.started + anomaly.duration, message=message))
            has_ended = ended.type is not Code.PENDING.type and code == ended
        if not has_ended and code in FINAL_CODES:
            started, ended_at = self.started, self.ended
            if started is not None:
                states.append(
                    State.of(Code.RUNNING if self.attempts == 1 else Code.RETRYING, at=started.timestamp())
                )
            states.append(State.of(code, at=ended_at.timestamp() if ended_at else self._since()))
        elif code in (Code.RUNNING, Code.RETRYING):
            states.append(State.of(code, at=self._since()))
        return states
