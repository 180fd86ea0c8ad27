"""Nodes and items of a run, live or recorded: one view for both."""

from __future__ import annotations

import time
from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, overload

from graphflow.common.times import moment
from graphflow.common.wording import count_text
from graphflow.errors import MapFailed, ValueUnavailable
from graphflow.model.html import box
from graphflow.model.reports import CachedItem, LogRecord
from graphflow.model.states import (
    FAILED_CODES,
    FAILED_TABLE,
    FINAL_CODES,
    Code,
    Counts,
    State,
    checked_states,
)
from graphflow.records.errors import DistinctErrors
from graphflow.records.failures import item_failure, node_failure, whole_failure
from graphflow.records.known import KnownNode, KnownRun
from graphflow.records.spans import Span, worked
from graphflow.runner.faults import user_traceback
from graphflow.runs.html import items_html, node_html, nodes_table
from graphflow.runs.places import WHOLE, MarkedPlaces

__all__ = ["Item", "Items", "Node", "Nodes"]

_GOOD = (Code.COMPLETED, Code.CACHED)


EXECUTED = ("Completed", "Failed", "TimedOut", "Crashed", "Indeterminate")
"""The states of items that were executed."""


class Node:
    """One node of a run: name, state, width, counts and items."""

    __slots__ = ("_number", "_run")

    def __init__(self, run: KnownRun, number: int) -> None:
        self._run = run
        self._number = number

    def __repr__(self) -> str:
        return f"<Node {self.name}: {self.state.name}>"

    def _repr_html_(self) -> str:
        return node_html(self)

    @property
    def known(self) -> KnownNode:
        """The recorded facts about it."""
        return self._run.known(self._number)

    @property
    def id(self) -> int:
        """Its number in the run."""
        return self._number

    @property
    def key(self) -> str:
        """The key that identifies it in another process."""
        return self.known.key

    @property
    def name(self) -> str:
        """Its name, unique in the run."""
        return self.known.name

    @property
    def task_name(self) -> str:
        """The name of its task."""
        return self.known.task_name

    @property
    def group(self) -> str:
        """The path of flows called inside the flow, empty for the flow itself."""
        return self.known.group

    @property
    def is_mapped(self) -> bool:
        """Whether it expands over a sequence."""
        return self.known.is_mapped

    @property
    def is_builtin(self) -> bool:
        """Whether it is one of the engine's own (an element of a future, a collection)."""
        return self.known.is_builtin

    @property
    def options(self) -> dict[str, Any]:
        """The options of its task that are not the default."""
        return dict(self.known.options)

    def _code(self, known: KnownNode) -> Code:
        code = known.state_code
        if code in FINAL_CODES or not self._run.is_over:
            return code
        # Nobody works on it any more.
        return Code.CRASHED if known.has_started else Code.PENDING

    @property
    def state_code(self) -> Code:
        """Its state as a code, without what is known of the reason."""
        return self._code(self.known)

    @property
    def state(self) -> State:
        """Its state; for a mapped node, derived from its items."""
        known = self.known
        moved = known.transitions[-1] if known.transitions else None
        code, message = self._code(known), moved.message if moved else ""
        if code in FAILED_CODES and not message and (not known.is_mapped or known.failed_whole):
            error = whole_failure(self._run, known) if known.is_mapped else self.exception
            message = f"{type(error).__name__}: {error}" if error is not None else ""
        at = moved.at if moved else self._run.created
        return State.of(code, at=at, message=message, load=self.result)

    @property
    def history(self) -> list[State]:
        """All its states, oldest first."""
        return [
            State.of(Code(moved.code), at=moved.at, message=moved.message) for moved in self.known.transitions
        ]

    @property
    def width(self) -> int | None:
        """The number of items of a mapped node; None while unknown, and if it is not mapped."""
        known = self.known
        return known.width if known.is_mapped else None

    @property
    def counts(self) -> Counts:
        """Items by state name; a node that is not mapped counts one."""
        return self.known.counts()

    @property
    def items(self) -> Items:
        """Its items in map order; one, with index None, if it is not mapped."""
        known = self.known
        return Items(self, range(known.size if known.width is None else known.width))

    def failures(self) -> Items:
        """Return its failed items. O(items), one byte each.

        If the map itself failed (its iterator raised, or it has no width), one more at the end stands for the
        map itself: it has no index, no inputs and no attempts.
        """
        known = self.known
        mask = known.codes(0, known.size).translate(FAILED_TABLE)
        is_without_items = known.width is None and known.state_code in FAILED_CODES and 1 not in mask
        has_whole = known.is_mapped and (known.broke_off or is_without_items)
        return Items(self, MarkedPlaces(mask, has_whole=has_whole), what="failures")

    @property
    def started(self) -> datetime | None:
        """When its first item began, None if none did."""
        known = self.known
        begun = [moved.at for moved in known.transitions if moved.code == Code.RUNNING]
        begun += [] if known.history.began is None else [known.history.began]
        return moment(min(begun)) if begun else None

    @property
    def ended(self) -> datetime | None:
        """When it ended, None while it has not."""
        known = self.known
        if not known.is_final or not known.transitions:
            return None
        # Another launch that had nothing to do for it ends nothing.
        spans = self._worked(time.time())
        return moment(spans[-1][1] if spans else known.transitions[-1].at)

    def _worked(self, now: float) -> list[Span]:
        known = self.known
        return worked(known.transitions, known.history.began, self._run.spans, now)

    def worked_seconds(self, now: float) -> float | None:
        """Return how long something of it ran, until now (seconds since the epoch): in each launch, summed; None if nothing did.

        Nobody works between launches, nor after a driver died.
        """
        return None if self.started is None else sum(end - begin for begin, end in self._worked(now))

    @property
    def seconds(self) -> float | None:
        """How long something of it ran so far, summed over the launches of the run."""
        return self.worked_seconds(time.time())

    @property
    def executed(self) -> int:
        """The number of items that ended by being executed: not those from the cache, skipped, cancelled or never begun."""
        return sum(self.counts[name] for name in EXECUTED)

    @property
    def rate(self) -> float | None:
        """Items executed per second that it ran, None before any."""
        seconds = self.seconds
        return self.executed / seconds if seconds else None

    @property
    def retries(self) -> int:
        """The number of attempts beyond each item's first."""
        return self.known.retries()

    @property
    def errors(self) -> DistinctErrors:
        """The distinct exceptions that its items failed with, most frequent first, with the items' indices.

        Errors with equal type, text and line are one. Items that failed because of an upstream are not counted here.
        O(items that failed since the last access).
        """
        return self.known.history.errors()

    @property
    def exception(self) -> BaseException | None:
        """The exception it failed with: its own, or a group of a mapped node's failures."""
        return node_failure(self._run, self.known)

    def result(self) -> Any:
        """Return its value; of a mapped node all values in index order, those of skipped items left out.

        Raises
        ------
        ValueUnavailable
            If it has none: it has not ended, or its value was not stored.
        ResultDamaged
            If it differs from what was written.
        Exception
            The exception it failed with.
        """
        known = self.known
        if not known.is_mapped:
            return self.items[0].result()
        if not known.is_final:
            raise ValueUnavailable(f"{known.name} is {self.state.name}; it has no value yet")
        error = self.exception
        # Failures that a map tolerates are left out of its value.
        if error is not None and not (isinstance(error, MapFailed) and known.state_code == Code.COMPLETED):
            raise error
        return self._run.values(self._number)


class Nodes(Sequence[Node]):
    """A run's nodes in the order of their calls, by position or by name."""

    def __init__(self, run: KnownRun) -> None:
        self._run = run

    def _nodes(self) -> list[Node]:
        return [Node(self._run, number) for number in self._run.numbers()]

    def of(self, number: int) -> Node:
        """Return the node with an id."""
        return Node(self._run, number)

    def __len__(self) -> int:
        return len(self._run.numbers())

    @overload
    def __getitem__(self, which: int | str) -> Node: ...
    @overload
    def __getitem__(self, which: slice) -> list[Node]: ...
    def __getitem__(self, which: int | str | slice) -> Node | list[Node]:
        if not isinstance(which, str):
            return self._nodes()[which]
        for node in self:
            if node.name == which:
                return node
        names = ", ".join(node.name for node in self) or "none"
        raise KeyError(f"this run has no node {which!r}; its nodes: {names}")

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes())

    def __contains__(self, which: object) -> bool:
        return any(which == node.name or which is node for node in self)

    def __repr__(self) -> str:
        return f"[{', '.join(map(repr, self))}]"

    def _repr_html_(self) -> str:
        return box(nodes_table([node for node in self if not node.is_builtin]))


class Items(Sequence["Item"]):
    """Items of a node in map order, created on access. Slices are lazy too."""

    __slots__ = ("_node", "_places", "_what")

    def __init__(self, node: Node, places: Sequence[int], *, what: str = "items") -> None:
        self._node = node
        self._places = places
        self._what = what

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, which: int) -> Item: ...
    @overload
    def __getitem__(self, which: slice) -> Items: ...
    def __getitem__(self, which: int | slice) -> Item | Items:
        if isinstance(which, slice):
            return Items(self._node, self._places[which], what=self._what)
        if not -len(self._places) <= which < len(self._places):
            raise IndexError(
                f"{self._node.name} has {count_text(len(self), self._what.removesuffix('s'))}; there is no item {which}"
            )
        return Item(self._node, self._places[which])

    def __iter__(self) -> Iterator[Item]:
        return (Item(self._node, place) for place in self._places)

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self[:3]))
        rest = ", ..." if len(self) > 3 else ""
        return f"<{count_text(len(self), self._what.removesuffix('s'))} of {self._node.name}{': ' if shown else ''}{shown}{rest}>"

    def _repr_html_(self) -> str:
        return items_html(self)

    def where(
        self,
        *,
        index: int | Iterable[int] | None = None,
        states: str | Collection[str] | None = None,
        start: int = 0,
        stop: int | None = None,
    ) -> Items:
        """Return the items that meet all conditions. O(items), or O(1) for one index.

        Parameters
        ----------
        index
            One map index, or several; 0 where the node is not mapped.
        states
            One or several names of states, such as `"Failed"`.
        start, stop
            A range of map indices.

        Raises
        ------
        ValueError
            If there is no such state.
        """
        places: Sequence[int] = self._places
        wanted_states = checked_states(states)
        has_whole = bool(places) and places[-1] == WHOLE
        if has_whole:
            places = places[:-1]
            is_asked_for = index is None and start <= 0 and stop is None
            has_whole = is_asked_for and (not wanted_states or self._node.state.name in wanted_states)
        if index is not None:
            wanted = sorted({index} if isinstance(index, int) else set(index))
            places = [each for each in wanted if each in self._places]
        if start > 0 or stop is not None:
            last = places[-1] + 1 if places else 0
            bounds = range(max(0, start), last if stop is None else min(stop, last))
            if isinstance(places, range):
                places = range(
                    max(places.start, bounds.start), max(bounds.start, min(places.stop, bounds.stop))
                )
            else:
                places = array("Q", (place for place in places if place in bounds))
        if wanted_states and places:
            codes = {code for code in Code if code.state_name in wanted_states}
            table = bytes(code in codes for code in range(256))
            lo, hi = places[0], places[-1] + 1
            mask = self._node.known.codes(lo, hi).translate(table)
            if isinstance(places, range):
                places = MarkedPlaces(mask, first=lo)
            else:
                places = array("Q", (place for place in places if mask[place - lo]))
        if has_whole:
            places = array("q", [*places, WHOLE])
        return Items(self._node, places, what=self._what)


class Item:
    """One item of a node: its state, attempts, times, value or exception, log and full history.

    Among failures, one may stand for a map that itself failed: see `Node.failures`.
    """

    __slots__ = ("_node", "_place")

    def __init__(self, node: Node, place: int) -> None:
        self._node = node
        self._place = place

    def __repr__(self) -> str:
        state = self.state
        return f"<Item {self.label}: {state.name}{f' {state.message}' if state.message else ''}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Item):
            return NotImplemented
        return (self._node._run, self._node.id, self._place) == (
            other._node._run,
            other._node.id,
            other._place,
        )

    def __hash__(self) -> int:
        return hash((id(self._node._run), self._node.id, self._place))

    @property
    def _known(self) -> KnownNode:
        return self._node.known

    @property
    def node(self) -> Node:
        """Its node."""
        return self._node

    @property
    def index(self) -> int | None:
        """The map index, None if the node is not mapped."""
        return self._place if self._known.is_mapped and not self._is_whole else None

    @property
    def _is_whole(self) -> bool:
        return self._place == WHOLE

    @property
    def label(self) -> str:
        """Its task run name."""
        return self._known.name if self._is_whole else self._known.label(self._place)

    @property
    def name(self) -> str:
        """The same as `label`; the name that hooks written for Prefect use."""
        return self.label

    def _code(self) -> Code:
        return self._node._code(self._known) if self._is_whole else self._known.code_of(self._place)

    def _since(self) -> float:
        transitions = self._known.transitions
        return transitions[0].at if transitions else self._node._run.created

    @property
    def state(self) -> State:
        """Its state."""
        code, ended = self._code(), self.ended
        message = ""
        if code in FAILED_CODES:
            error = self.exception
            message = f"{type(error).__name__}: {error}"
        at = ended.timestamp() if ended else self._since()
        return State.of(code, at=at, message=message, load=self.result)

    @property
    def attempts(self) -> int:
        """The number of its attempts."""
        return 0 if self._is_whole else self._known.attempts_of(self._place)

    def _times(self) -> tuple[float, float] | None:
        found = None if self._is_whole else self._known.history.find(self._place)
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
        if self._is_whole:
            return self._node.ended
        known = self._known
        if known.code_of(self._place) not in FINAL_CODES:
            return None
        at = known.history.ended_at(self._place)
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
        found = None if self._is_whole else self._known.history.find(self._place)
        return found[0].worker if found is not None else ""

    @property
    def value(self) -> Any:
        """Its value.

        Raises
        ------
        ValueUnavailable
            If it has none: not ended, failed, skipped or not stored.
        ResultDamaged
            If it differs from what was written.
        """
        code = self._code()
        if code not in _GOOD:
            raise ValueUnavailable(f"{self.label} is {code.state_name}: it has no value")
        return self._node._run.value(self._node.id, self._place)

    def result(self) -> Any:
        """Return its value; None if it was skipped.

        Raises
        ------
        ValueUnavailable
            If it has none: it has not ended, or its value was not stored.
        ResultDamaged
            If it differs from what was written.
        Exception
            The exception it failed with.
        """
        error = self.exception
        if error is not None:
            raise error
        return None if self._code() == Code.SKIPPED else self.value

    @property
    def cached_from(self) -> CachedItem | None:
        """The run that computed its value, where and when; None if it was executed in this run."""
        found = None if self._is_whole else self._known.history.find(self._place)
        if found is None or found[0].step.cached is None:
            return None
        segment, position = found
        assert segment.step.cached is not None
        return segment.step.cached.at(position, self._place)

    @property
    def exception(self) -> BaseException | None:
        """The exception it failed with, None if it did not fail.

        In a recorded run it has its original type if that is a built-in one, or one of graphflow, with
        one text argument; otherwise it is a `RemoteError` with type, text and traceback.
        """
        code = self._code()
        if code not in FAILED_CODES and code != Code.CANCELLED:
            return None
        if self._is_whole:
            return whole_failure(self._node._run, self._known) or self._node.exception
        return item_failure(self._node._run, self._known, self._place)

    @property
    def traceback(self) -> str:
        """The traceback as text, user frames only; empty if it did not fail. Equal errors share one."""
        if self._is_whole:
            error = self.exception
            return user_traceback(error) if error is not None and error.__traceback__ is not None else ""
        record = self._known.history.last_error(self._place)
        return record.traceback if record is not None else ""

    @property
    def inputs(self) -> str:
        """A short summary of its arguments; empty if it never ran, succeeded, or they are gone.

        In a recorded run, only summaries recorded when it failed: those of the first failures.
        """
        return "" if self._is_whole else self._node._run.inputs(self._node.id, self._place)

    @property
    def log(self) -> list[LogRecord]:
        """Its log lines, in order."""
        return [] if self._is_whole else self._node._run.history.log_of(self._node.name, self.index)

    @property
    def history(self) -> list[State]:
        """All its states, oldest first, with their times, over all launches of the run."""
        if self._is_whole:
            return self._node.history
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
                running = Code.RUNNING if self.attempts == 1 else Code.RETRYING
                states.append(State.of(running, at=started.timestamp()))
            states.append(State.of(code, at=ended_at.timestamp() if ended_at else self._since()))
        elif code in (Code.RUNNING, Code.RETRYING):
            states.append(State.of(code, at=self._since()))
        return states
