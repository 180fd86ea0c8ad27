"""What a run shows of its nodes and items, while it goes on and after."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, overload

from graphflow.engine.driver import Driver
from graphflow.engine.values import item_label, node_exception
from graphflow.errors import ValueUnavailable
from graphflow.graph import Node
from graphflow.reports import LogRecord
from graphflow.states import FAILED_CODES, Code, Counts, State

if TYPE_CHECKING:
    from graphflow.runs import RunRecorder

__all__ = ["Failure", "Item", "NodeView", "Nodes"]


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


class Failure:
    """One failed item: what failed, with what, how, and how often.

    Attributes
    ----------
    index
        The map index, None where the node is not mapped.
    label, inputs, traceback
        Texts; `inputs` is a short summary of the arguments, `traceback` shows user frames only.
    exception, attempts, log
        The exception, the number of attempts, and the item's log.
    """

    def __init__(self, item: Item) -> None:
        self.index = item.index
        self.label = item.label
        self.state = item.state
        self.attempts = item.attempts
        error = item.exception
        assert error is not None
        self.exception = error
        self.inputs, self.traceback = item._details()
        self._item = item

    @property
    def log(self) -> list[LogRecord]:
        """The item's log."""
        return self._item.log

    def __repr__(self) -> str:
        return f"<Failure {self.label}: {type(self.exception).__name__}: {self.exception}>"


class Item:
    """One item of a node: its state, attempts, times, value or exception, log and full history."""

    __slots__ = ("_driver", "_node", "_place")

    def __init__(self, driver: Driver, node: Node, place: int) -> None:
        self._driver = driver
        self._node = node
        self._place = place

    def __repr__(self) -> str:
        return f"<Item {self.label}: {self.state.name}>"

    @property
    def index(self) -> int | None:
        """The map index, None where the node is not mapped."""
        return self._place if self._node.is_mapped else None

    @property
    def label(self) -> str:
        """Its task run name."""
        return item_label(self._driver, self._node, self._place)

    @property
    def name(self) -> str:
        """The same as `label`: what Prefect's hooks know a task run by."""
        return self.label

    def _code(self) -> Code:
        return self._driver.code_of(self._node.id, self._place)

    @property
    def state(self) -> State:
        """Where it stands now."""
        code = self._code()
        ended = self.ended
        message = ""
        if code in FAILED_CODES:
            error = self.exception
            message = f"{type(error).__name__}: {error}"
        return State.of(code, at=ended.timestamp() if ended else None, message=message)

    @property
    def attempts(self) -> int:
        """How often it was tried."""
        book = self._driver.core.books.get(self._node.id)
        return book.attempts[self._place] if book is not None and self._place < len(book.attempts) else 0

    def _times(self) -> tuple[float, float] | None:
        history = self._driver.history.node(self._node.id)
        found = history.find(self._place)
        if found is None:
            return None
        segment, position = found
        start = segment.started + segment.step.starts[position]
        return start, start + segment.step.durations[position]

    @property
    def started(self) -> datetime | None:
        """When its last attempt began, None if it never ran."""
        times = self._times()
        return _moment(times[0]) if times and self.attempts else None

    @property
    def ended(self) -> datetime | None:
        """When it ended, None while it has not."""
        if not self._driver.is_final(self._node.id, self._place):
            return None
        at = self._driver.history.node(self._node.id).ended_at.get(self._place)
        if at is not None:
            return _moment(at)
        times = self._times()
        return _moment(times[1]) if times else None

    @property
    def duration_seconds(self) -> float | None:
        """Seconds of the last attempt."""
        times = self._times()
        return times[1] - times[0] if times and self.attempts else None

    @property
    def value(self) -> Any:
        """Its value.

        Raises
        ------
        ValueUnavailable
            If it has none: not ended, failed or skipped.
        """
        code = self._code()
        if code not in (Code.COMPLETED, Code.CACHED):
            raise ValueUnavailable(f"{self.label} is {code.state_name}: it has no value")
        place = self._driver.history.node(self._node.id).place(self._place)
        if place is None:
            raise ValueUnavailable(f"the value of {self.label} is not kept")
        return self._driver.fetch([place])[0]

    @property
    def exception(self) -> BaseException | None:
        """What it failed with, None if it did not fail."""
        code = self._code()
        if code not in FAILED_CODES and code != Code.CANCELLED:
            return None
        return self._driver.exception_of(self._node.id, self._place)

    def _details(self) -> tuple[str, str]:
        history = self._driver.history
        for anomaly, record, _ in reversed(history.node(self._node.id).anomalies.get(self._place, [])):
            if record is not None:
                return anomaly.inputs, record.traceback
        return "", ""

    @property
    def log(self) -> list[LogRecord]:
        """Its log lines, in order."""
        name, index = self._node.name, self.index
        return [
            record for record in self._driver.history.logs if record.node == name and record.index == index
        ]

    @property
    def history(self) -> list[State]:
        """All its states, oldest first, with their times."""
        driver, node = self._driver, self._node.id
        transitions = driver.history.node(node).transitions
        begun = transitions[0].at if transitions else time.time()
        states = [State.of(Code.PENDING, at=begun)]
        has_ended = False
        for anomaly, record, _ in driver.history.node(node).anomalies.get(self._place, []):
            if anomaly.attempt:
                running = Code.RUNNING if anomaly.attempt == 1 else Code.RETRYING
                states.append(State.of(running, at=anomaly.started))
            code = Code.AWAITING_RETRY if anomaly.code == Code.RETRYING else Code(anomaly.code)
            message = f"{record.type_name}: {record.message}" if record is not None else ""
            states.append(State.of(code, at=anomaly.started + anomaly.duration, message=message))
            has_ended = code.type is not states[0].type and driver.code_of(node, self._place) == code
        code = self._code()
        if not has_ended and driver.is_final(node, self._place):
            started, ended = self.started, self.ended
            if started is not None and self.attempts:
                running = Code.RUNNING if self.attempts == 1 else Code.RETRYING
                states.append(State.of(running, at=started.timestamp()))
            states.append(State.of(code, at=ended.timestamp() if ended else time.time()))
        return states


class _Items(Sequence[Item]):
    """A node's items, made as they are asked for."""

    def __init__(self, view: NodeView) -> None:
        self._view = view

    def __len__(self) -> int:
        book = self._view._book()
        if book is None:
            return 0
        return len(book.states) if book.width is None else book.width

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        size = len(self)
        if not -size <= index < size:
            raise IndexError(f"{self._view.name} has {size} items; there is no item {index}")
        return Item(self._view._recorder.driver, self._view._node, index % size)

    def __iter__(self) -> Iterator[Item]:
        return (self[i] for i in range(len(self)))


class NodeView:
    """One node of a run: name, state, width, counts and items."""

    def __init__(self, recorder: RunRecorder, node: Node) -> None:
        self._recorder = recorder
        self._node = node

    def _book(self) -> Any:
        if not self._recorder.has_driver:
            return None
        return self._recorder.driver.core.books.get(self._node.id)

    def __repr__(self) -> str:
        return f"<Node {self.name}: {self.state.name}>"

    @property
    def id(self) -> int:
        """Its number in this run."""
        return self._node.id

    @property
    def key(self) -> str:
        """The key that finds it again in another process."""
        return self._node.key

    @property
    def name(self) -> str:
        """Its name, unique in the run."""
        return self._node.name

    @property
    def task_name(self) -> str:
        """Its task's name."""
        return self._node.task_name

    @property
    def group(self) -> str:
        """The path of flows called inside the flow, empty for the flow itself."""
        return self._node.group

    @property
    def is_mapped(self) -> bool:
        """Whether it expands over a sequence."""
        return self._node.is_mapped

    @property
    def is_builtin(self) -> bool:
        """Whether it is one of the engine's own (an element of a future, a collection)."""
        return self._node.is_builtin

    @property
    def state(self) -> State:
        """Where it stands; for a mapped node, derived from its items."""
        if not self._recorder.has_driver:
            return State.of(self._recorder.idle_code)
        driver = self._recorder.driver
        code = driver.code_of(self._node.id)
        transitions = driver.history.node(self._node.id).transitions
        message = ""
        if code in FAILED_CODES and not self.is_mapped:
            error = driver.exception_of(self._node.id, 0)
            message = f"{type(error).__name__}: {error}"
        return State.of(code, at=transitions[-1].at if transitions else None, message=message)

    @property
    def history(self) -> list[State]:
        """All its states, oldest first."""
        if not self._recorder.has_driver:
            return []
        transitions = self._recorder.driver.history.node(self._node.id).transitions
        return [State.of(Code(each.code), at=each.at) for each in transitions]

    @property
    def width(self) -> int | None:
        """The number of items of a mapped node; None while unknown, and where it is not mapped."""
        if not self._node.is_mapped:
            return None
        book = self._book()
        return book.width if book is not None else self._recorder.known_width(self._node)

    @property
    def counts(self) -> Counts:
        """Items by state name; a node that is not mapped counts one."""
        book = self._book()
        return book.state_counts() if book is not None else Counts()

    @property
    def items(self) -> Sequence[Item]:
        """Its items in index order; one, of index None, where it is not mapped."""
        return _Items(self)

    @property
    def started(self) -> datetime | None:
        """When its first item began, None if none did."""
        if not self._recorder.has_driver:
            return None
        history = self._recorder.driver.history.node(self._node.id)
        running = [each.at for each in history.transitions if each.code == Code.RUNNING]
        first = [segment.started for segment in history.ranges[:1]]
        return _moment(min([*running, *first])) if running or first else None

    @property
    def ended(self) -> datetime | None:
        """When it ended, None while it has not."""
        if not self._recorder.has_driver or not self._recorder.driver.is_final(self._node.id):
            return None
        return _moment(self._recorder.driver.history.node(self._node.id).transitions[-1].at)

    @property
    def rate(self) -> float | None:
        """Items ended per second so far, None before any."""
        started = self.started
        if started is None:
            return None
        end = self.ended or datetime.now(UTC)
        seconds = (end - started).total_seconds()
        return self.counts.finished / seconds if seconds > 0 else None

    @property
    def retries(self) -> int:
        """How many attempts beyond each item's first were made."""
        book = self._book()
        if book is None:
            return 0
        extra: int = sum(book.attempts) - (len(book.attempts) - book.attempts.count(0))
        return extra

    @property
    def exception(self) -> BaseException | None:
        """The failure of the node: an item's exception, or one group for a mapped node's failures."""
        book = self._book()
        if book is None or not (book.failed_count() or book.failed_whole or book.final in FAILED_CODES):
            return None
        return node_exception(self._recorder.driver, self._node)

    def failures(self) -> list[Failure]:
        """Its failed items, as data. Does not count as having handled them (ask the future for that)."""
        if self._book() is None:
            return []
        driver = self._recorder.driver
        return [Failure(Item(driver, self._node, index)) for index in driver.failed_indices(self._node.id)]


class Nodes(Sequence[NodeView]):
    """A run's nodes, by place or by name."""

    def __init__(self, recorder: RunRecorder) -> None:
        self._recorder = recorder

    def _views(self) -> list[NodeView]:
        return [NodeView(self._recorder, node) for node in list(self._recorder.by_id.values())]

    def __len__(self) -> int:
        return len(self._recorder.by_id)

    @overload
    def __getitem__(self, which: int | str) -> NodeView: ...
    @overload
    def __getitem__(self, which: slice) -> list[NodeView]: ...
    def __getitem__(self, which: int | str | slice) -> NodeView | list[NodeView]:
        views = self._views()
        if isinstance(which, str):
            for view in views:
                if view.name == which:
                    return view
            raise KeyError(
                f"no node {which!r} in this run; it has {', '.join(view.name for view in views) or 'none'}"
            )
        return views[which]

    def __iter__(self) -> Iterator[NodeView]:
        return iter(self._views())

    def __contains__(self, which: object) -> bool:
        return any(view.name == which or view is which for view in self._views())

    def __repr__(self) -> str:
        return f"[{', '.join(map(repr, self._views()))}]"
