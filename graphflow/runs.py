"""A run: what `flow.run(...)` gives; it shows the state of every node and item, while it goes on and after."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, overload

from graphflow.engine import events as ev
from graphflow.engine.driver import Driver
from graphflow.errors import (
    FlowFailed,
    GraphflowError,
    MapFailed,
    RunCancelled,
    UpstreamFailed,
    ValueUnavailable,
)
from graphflow.graph import Dep, Graph, Node
from graphflow.mapping import PartialList
from graphflow.ports import Backend, RunEvent
from graphflow.recording import Callee, Fragment, Recorder
from graphflow.reports import LogRecord
from graphflow.runner.capture import LogSink
from graphflow.runner.labels import default_label
from graphflow.states import FAILED_CODES, Code, Counts, State

__all__ = ["Failure", "Item", "NodeView", "Run", "RunRecorder"]

MAX_GROUP = 100


class RunRecorder(Recorder):
    """Records the calls of a run and hands them to its driver.

    Parameters
    ----------
    make_backend
        Gives the backend and is called when the first node is to run.
    """

    def __init__(
        self,
        *,
        flow_name: str,
        run_id: str,
        make_backend: Callable[[], Backend],
        flow_parameters: Mapping[str, Any] | None = None,
        attempt: int = 1,
        log_prints: bool = False,
    ) -> None:
        super().__init__(
            flow_name=flow_name, scope=flow_name, flow_parameters=flow_parameters, log_prints=log_prints
        )
        self.run_id = run_id
        self.key = run_id if attempt == 1 else f"{run_id}.{attempt}"
        self.by_id: dict[int, Node] = {}
        self.subscribers: list[Callable[[RunEvent], None]] = []
        self.backend: Backend | None = None
        self.on_backend: list[Callable[[Backend], None]] = []
        self._make_backend = make_backend
        self._ids = itertools.count()
        self._pending: list[Node] = []
        self._driver: Driver | None = None
        self._lock = threading.RLock()
        self.graph = Graph(name=flow_name, status=self._status)
        self.view: Callable[[int, int | None], Any] | None = None

    @property
    def has_driver(self) -> bool:
        """Whether anything was started yet."""
        return self._driver is not None

    @property
    def driver(self) -> Driver:
        """The driver; the backend is brought up at the first use.

        Raises
        ------
        BackendError
            If the backend cannot be brought up.
        """
        with self._lock:
            if self._driver is None:
                self.backend = self._make_backend()
                for node in self._pending:
                    if node.program is not None:
                        self.backend.check(node.program.options)
                self._driver = Driver(
                    run_id=self.key,
                    flow_name=self.flow_name,
                    backend=self.backend,
                    adopt=self.adopt,
                    make_run_view=self.view,
                )
                for subscriber in self.subscribers:
                    self._driver.subscribe(subscriber)
            return self._driver

    def next_id(self) -> int:
        return next(self._ids)

    def nodes_by_id(self, node_id: int) -> Node:
        return self.by_id[node_id]

    def check(self, callee: Callee) -> None:
        if self.backend is not None:
            self.backend.check(callee.options)

    def added(self, node: Node) -> None:
        with self._lock:
            self.graph.add(node)
            self.by_id[node.id] = node
            self._pending.append(node)

    def flush(self) -> None:
        """Start everything recorded so far."""
        with self._lock:
            pending, driver = self._pending, self.driver
            self._pending = []
        if pending:
            driver.tell(ev.NodesRecorded(pending))

    def adopt(self, fragment: Fragment, parent: Node, index: int) -> tuple[Sequence[Node], int]:
        """Nodes of a fragment with ids and names of this run; called by the driver."""
        ids: dict[int, int] = {}
        adopted: list[Node] = []
        with self._lock:
            for node in fragment.nodes:
                ids[node.id] = self.next_id()
                count = self._names.get(node.task_name, 0)
                self._names[node.task_name] = count + 1
                name = node.task_name if count == 0 else f"{node.task_name}-{count}"
                program = None if node.program is None else replace(node.program, node_name=name)
                deps: tuple[Dep, ...] = tuple(replace(dep, upstream=ids[dep.upstream]) for dep in node.deps)
                new = replace(node, id=ids[node.id], name=name, deps=deps, program=program)
                self.graph.add(new)
                self.by_id[new.id] = new
                self.nodes.append(new)
                adopted.append(new)
        return adopted, ids[fragment.root]

    def _status(self, node_id: int) -> tuple[str, int | None, Mapping[str, int]]:
        node = self.by_id[node_id]
        if self._driver is None or node_id not in self._driver.core.books:
            return "Pending", self.known_width(node), {}
        book = self._driver.core.books[node_id]
        width = book.width if node.is_mapped else None
        return self._driver.code_of(node_id).state_name, width, book.state_counts()


def check_timeout(timeout: float | None) -> None:
    """Raise `ValueError` for a negative number of seconds."""
    if timeout is not None and timeout < 0:
        raise ValueError(f"timeout must be 0 or more seconds, not {timeout!r}")


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
        found = self._driver.history.node(self._node.id).find(self._place)
        if found is not None and found[0].step.labels is not None:
            column = self._driver.backend.fetch([found[0].step.labels])[0]
            if column[found[1]] is not None:
                return str(column[found[1]])
        return default_label(self._node.name, self.index)

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
            raise ValueUnavailable(f"{default_label(self._node.name, self.index)} is {code.state_name}: it has no value")
        place = self._driver.history.node(self._node.id).place(self._place)
        if place is None:
            raise ValueUnavailable(f"the value of {default_label(self._node.name, self.index)} is not kept")
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
        return [record for record in self._driver.history.logs if record.node == name and record.index == index]

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
            return State.of(Code.PENDING)
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


def node_exception(driver: Driver, node: Node) -> BaseException:
    """The exception of a failed node: its own, or a `MapFailed` group for failed items."""
    book = driver.core.books[node.id]
    if not node.is_mapped:
        return driver.exception_of(node.id, 0)
    whole = driver.history.errors.get(node.id)
    indices = driver.failed_indices(node.id)
    if not indices:
        return whole if whole is not None else driver.exception_of(node.id, None)
    distinct: dict[int, BaseException] = {}
    first: list[int] = []
    for index in indices[:10_000]:
        error = driver.exception_of(node.id, index)
        if id(error) not in distinct:
            if len(distinct) < MAX_GROUP:
                distinct[id(error)] = error
            if len(first) < 5:
                first.append(index)
    if whole is not None:
        distinct[id(whole)] = whole
    shown = ", ".join(Item(driver, node, index).label for index in first)
    examples = "; ".join(f"{type(each).__name__}: {str(each)[:200]}" for each in list(distinct.values())[:3])
    width = book.width if book.width is not None else len(book.states)
    cancelled = book.counts[Code.CANCELLED]
    text = f"{len(indices)} of {width} items of {node.name} failed (first: {shown}): {examples}"
    if cancelled:
        text += f"; {cancelled} were cancelled"
    exceptions = [each if isinstance(each, Exception) else _as_exception(each) for each in distinct.values()]
    group = MapFailed(text, exceptions)
    group.failed, group.width, group.indices = len(indices), book.width, tuple(indices[:MAX_GROUP])
    return group


def _as_exception(error: BaseException) -> Exception:
    wrapped = GraphflowError(f"{type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped


class _Nodes(Sequence[NodeView]):
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
            raise KeyError(f"no node {which!r} in this run; it has {', '.join(view.name for view in views) or 'none'}")
        return views[which]

    def __iter__(self) -> Iterator[NodeView]:
        return iter(self._views())

    def __contains__(self, which: object) -> bool:
        return any(view.name == which or view is which for view in self._views())

    def __repr__(self) -> str:
        return f"[{', '.join(map(repr, self._views()))}]"


class Run:
    """One execution of a flow.

    Attributes
    ----------
    id
        A ULID: sorts by creation time.
    name, flow_name, parameters
        The run's name, its flow's, and the validated parameters.
    """

    def __init__(self, *, run_id: str, name: str, flow_name: str, parameters: Mapping[str, Any]) -> None:
        self.id = run_id
        self.name = name
        self.flow_name = flow_name
        self.parameters = dict(parameters)
        self.started: datetime | None = None
        self.ended: datetime | None = None
        self.attempt = 1
        self.sink = LogSink(worker="driver", max_lines=100_000)
        self._history: list[State] = [State.of(Code.PENDING)]
        self._recorder: RunRecorder | None = None
        self._subscribers: list[Callable[[RunEvent], None]] = []
        self._value: Any = None
        self._exception: BaseException | None = None
        self._done = threading.Event()
        self._stop: ev.StopRequested | None = None

    def __repr__(self) -> str:
        return f"<Run {self.name} of {self.flow_name!r}: {self.state.name}>"

    @property
    def state(self) -> State:
        """Where the run stands."""
        return self._history[-1]

    @property
    def history(self) -> list[State]:
        """All its states, oldest first."""
        return list(self._history)

    @property
    def value(self) -> Any:
        """What the flow returned, with futures replaced by their values; None until it completed."""
        return self._value

    @property
    def exception(self) -> BaseException | None:
        """What the run failed with, None if it did not fail."""
        return self._exception

    @property
    def nodes(self) -> _Nodes:
        """Its nodes, in the order of their calls; also by name: `run.nodes["fetch"]`."""
        if self._recorder is None:
            raise ValueUnavailable(f"run {self.name} has not begun")
        return _Nodes(self._recorder)

    @property
    def graph(self) -> Graph:
        """The expanded graph with its state."""
        if self._recorder is None:
            return Graph(name=self.flow_name)
        return self._recorder.graph

    @property
    def logs(self) -> list[LogRecord]:
        """The run's log: of the flow's body and of all tasks, by time."""
        records = list(self.sink.records)
        if self._recorder is not None and self._recorder.has_driver:
            records += self._recorder.driver.history.logs
        return sorted(records, key=lambda record: record.timestamp)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the run has ended; False after `timeout` seconds."""
        check_timeout(timeout)
        return self._done.wait(timeout)

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> Any:
        """The flow's value; waits for the end.

        Raises
        ------
        TimeoutError
            If it has not ended within `timeout` seconds.
        Exception
            What the run failed with, unless `raise_on_failure` is False: then it is returned.
        """
        if not self.wait(timeout):
            raise TimeoutError(f"run {self.name} did not end within {timeout:g} s; it is {self.state.name}")
        if self._exception is not None:
            if raise_on_failure:
                raise self._exception
            return self._exception
        return self._value

    def cancel(self) -> None:
        """Start nothing more and stop what runs, by force where it does not yield; what did not end is Cancelled."""
        self._request_stop(ev.StopRequested(hard=True))

    def drain(self) -> None:
        """Start no new items and let the running ones end; what was not begun is Cancelled."""
        self._request_stop(ev.StopRequested(hard=False))

    def resume(self) -> None:
        """Run again what a `Pause` signal parked."""
        if self._recorder is not None and self._recorder.has_driver:
            self._recorder.driver.tell(ev.ResumeRequested())

    def update(self, node: str, **knobs: Any) -> None:
        """Change a node's knobs while it runs; there are none that can be changed yet.

        Raises
        ------
        GraphflowError
            Always, for now.
        """
        raise GraphflowError(f"run.update({node!r}, ...): {', '.join(knobs) or 'nothing'} cannot be changed on a running map yet")

    def subscribe(self, callback: Callable[[RunEvent], None]) -> None:
        """Call back for each change, on the driver's thread; the callback must be quick."""
        self._subscribers.append(callback)
        if self._recorder is not None and self._recorder.has_driver:
            self._recorder.driver.subscribe(callback)

    def _request_stop(self, request: ev.StopRequested) -> None:
        self._stop = request
        recorder = self._recorder
        if recorder is not None and recorder.has_driver and not self._done.is_set():
            recorder.driver.tell(request)

    # -- used by flows ----------------------------------------------------------------------------------

    def _attach(self, recorder: RunRecorder) -> None:
        recorder.subscribers = self._subscribers
        self._recorder = recorder

    def _move(self, code: Code, *, error: BaseException | None = None) -> State:
        message = f"{type(error).__name__}: {error}" if error is not None else ""
        state = State.of(code, message=message, data=error if error is not None else self._value)
        self._history.append(state)
        return state

    def _end(self) -> None:
        self.ended = datetime.now(UTC)
        self._done.set()


def unhandled_exception(driver: Driver, outcome: ev.FinishRun) -> BaseException:
    """What a run fails with: the one failure, or one group of several."""
    errors = [node_exception(driver, driver.core.books[node].node) for node in outcome.unhandled]
    if not errors:
        return RunCancelled(f"run {driver.run_id} was cancelled")
    if len(errors) == 1:
        return errors[0]
    names = ", ".join(driver.core.books[node].node.name for node in outcome.unhandled[:5])
    return FlowFailed(
        f"{len(errors)} nodes of flow {driver.flow_name!r} failed ({names}{', ...' if len(errors) > 5 else ''})",
        [each if isinstance(each, Exception) else _as_exception(each) for each in errors[:MAX_GROUP]],
    )


def value_of(driver: Driver, node: Node, index: int | None) -> Any:
    """The value of a node (the list of its items where it is mapped) or of one item; all ended well."""
    if not node.is_mapped or index is not None:
        place = driver.history.node(node.id).place(index or 0)
        if place is None:
            return None
        value = driver.fetch([place])[0]
        if type(value) is PartialList:
            error = value.first_failure()
            if error is not None:
                raise UpstreamFailed(f"{node.name} holds elements whose upstream failed: {error}") from error
            return list(value)
        return value
    gathered = driver.dispatcher.gathered(node.id, None)
    refs = list({id(ref): ref for ref, _ in gathered.parts}.values())
    columns = {id(ref): column for ref, column in zip(refs, driver.backend.fetch(refs), strict=True)}
    values: list[Any] = []
    for ref, positions in gathered.parts:
        column = columns[id(ref)]
        if isinstance(positions, range) and positions.step == 1:
            values += column[positions.start : positions.stop]
        else:
            values += [column[each] for each in positions]
    if gathered.dropped:
        dropped = set(gathered.dropped)
        values = [value for i, value in enumerate(values) if i not in dropped]
    return values
