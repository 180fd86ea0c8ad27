"""A run: what `flow.run(...)` gives; it shows the state of every node and item, while it goes on and after."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from graphflow.common.waiting import check_timeout, waiting_seconds
from graphflow.driver.recorder import RunRecorder
from graphflow.errors import GraphflowError, RunCancelled, TaskOptionError, ValueUnavailable
from graphflow.graph.graph import Graph
from graphflow.model.knobs import KNOB_NAMES, timeout_factor
from graphflow.model.policies import NOT_SET, POLICY_NAMES, NotSet, TaskOptions, refuse_unknown
from graphflow.model.reports import LogRecord
from graphflow.model.states import Code, State
from graphflow.ports import RunEvent
from graphflow.runner.capture import LogSink

if TYPE_CHECKING:
    from graphflow.driver.durability import Durability
    from graphflow.model.records import Request, RunHeader
    from graphflow.runs.views import Nodes

__all__ = ["Run"]


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
        self._thread: int | None = None
        self._is_stopping = False
        self._stop_asked = threading.Event()
        self._moving = threading.RLock()
        self._is_paused = False
        self._resumed = threading.Event()
        self._durability: Durability | None = None
        self._earlier_logs: list[LogRecord] = []

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
    def nodes(self) -> Nodes:
        """Its nodes, in the order of their calls; also by name: `run.nodes["fetch"]`."""
        if self._recorder is None:
            raise ValueUnavailable(f"run {self.name} has not begun")
        from graphflow.runs.views import Nodes

        return Nodes(self._recorder)

    @property
    def graph(self) -> Graph:
        """The expanded graph with its state."""
        if self._recorder is None:
            return Graph(name=self.flow_name)
        return self._recorder.graph

    @property
    def logs(self) -> list[LogRecord]:
        """The run's log: of the flow's body and of all tasks, by time."""
        records = [*self.sink.records, *self._earlier_logs]
        if self._recorder is not None and self._recorder.has_driver:
            records += self._recorder.driver.history.logs
        return sorted(records, key=lambda record: record.timestamp)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the run has ended and its hooks were called; False after `timeout` seconds."""
        check_timeout(timeout)
        if self.ended is not None and threading.get_ident() == self._thread:
            # A hook asks: the run has ended for it.
            return True
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._done.wait(waiting_seconds(deadline)):
            if deadline is not None and time.monotonic() >= deadline:
                return False
        return True

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
        self._request_stop(hard=True)

    def drain(self) -> None:
        """Start no new items and let the running ones end; what was not begun is Cancelled."""
        self._request_stop(hard=False)

    def pause(self) -> None:
        """Start nothing more until `resume`; what runs goes on to its end, and no slot is held."""
        with self._moving:
            if self.ended is None and not self._is_paused:
                self._is_paused = True
                self._resumed.clear()
                if self._recorder is not None:
                    self._recorder.pause(True)
                self._move(Code.PAUSED)

    def resume(self) -> None:
        """Go on after `pause`, and run again what a `Pause` signal parked."""
        with self._moving:
            if self._recorder is not None:
                if self._is_paused:
                    self._recorder.pause(False)
                elif self._recorder.has_driver:
                    self._recorder.driver.resume()
            if self._is_paused:
                self._is_paused = False
                if self.ended is None:
                    self._move(Code.RUNNING)
                self._resumed.set()

    def update(self, node: Any, **knobs: Any) -> None:
        """Change the knobs of a map while it runs; they take effect with the next batches, within a time slice.

        Parameters
        ----------
        node
            The map's name in this run (such as `"fetch"`), its node view or its future.
        knobs
            `max_concurrency`, `rate_limit`, `tolerated_failure_count`, `tolerated_failure_percentage`, `fail_fast`,
            `timeout` (a percentage) or `batch_size` of a map, and of any task its policies `retries`,
            `retry_delay_seconds`, `retry_jitter_factor` and `timeout_seconds`; as in `with_options`; None takes a limit
            away.

        Raises
        ------
        TaskOptionError
            If a knob is unknown or wrong.
        KeyError
            If there is no such node.
        GraphflowError
            If it is not a map, has ended, or is not known to the run yet.
        """
        owner = f"run.update({getattr(node, 'name', node)!r})"
        refuse_unknown(owner, knobs, (*KNOB_NAMES, "batch_size", *POLICY_NAMES))
        if not knobs:
            raise TaskOptionError(f"{owner}: say what is to change, such as max_concurrency=8")
        recorder = self._recorder
        if recorder is None or not recorder.has_driver:
            raise GraphflowError(f"{owner}: run {self.name} has not begun to run anything yet")
        given = getattr(node, "_node", None)
        name = node if isinstance(node, str) else getattr(given, "name", repr(node))
        found = self.nodes[name]._node
        policy = {key: knobs.pop(key) for key in POLICY_NAMES if key in knobs}
        if knobs and not found.is_mapped:
            raise GraphflowError(f"{owner}: {found.name} is not a map; only maps have knobs")
        if recorder.driver.is_final(found.id):
            raise GraphflowError(f"{owner}: {found.name} has ended already")
        if policy:
            recorder.flush()
            recorder.driver.change_policy(found, policy, owner=owner)
        if not knobs:
            return
        size = knobs.pop("batch_size", NOT_SET)
        batch_size: int | None = None
        if not isinstance(size, NotSet):
            batch_size = TaskOptions.checked(owner, {"batch_size": size}, name="x").batch_size or 0
        if knobs.get("timeout") is not None and timeout_factor(owner, knobs["timeout"]) is None:
            raise TaskOptionError(
                f'{owner}: on a running map, timeout is a percentage of the median such as "300%", not {knobs["timeout"]!r}'
            )
        recorder.flush()
        recorder.driver.change_knobs(found, knobs, batch_size=batch_size, owner=owner)

    def subscribe(self, callback: Callable[[RunEvent], None]) -> None:
        """Call back for each change, on the driver's thread; the callback must be quick."""
        self._subscribers.append(callback)
        if self._recorder is not None and self._recorder.has_driver:
            self._recorder.driver.subscribe(callback)

    def _request_stop(self, *, hard: bool) -> None:
        if self.ended is None:
            self._is_stopping = True
            self._stop_asked.set()
            self._resumed.set()
            if self._recorder is not None:
                self._recorder.stop(hard=hard)

    # -- used by flows ----------------------------------------------------------------------------------

    def _carry_out(self, request: Request) -> None:
        """Do what was asked from outside.

        Raises
        ------
        GraphflowError
            If it cannot be done: what is wrong is the answer.
        """
        body = dict(request.body)
        if self.ended is not None:
            raise GraphflowError(f"run {self.name} has ended already: it is {self.state.name}")
        if request.kind == "cancel":
            if body.get("now"):
                self.cancel()
            else:
                self.drain()
        elif request.kind == "pause":
            self.pause()
        elif request.kind == "resume":
            self.resume()
        elif request.kind == "update":
            node = body.pop("node", "")
            self.update(node, **body)
        else:
            raise GraphflowError(f"a run cannot be asked to {request.kind!r}")

    def _pause_here(self, timeout: float | None) -> None:
        """Pause, and wait in the flow's body until the run is resumed."""
        self.pause()
        if not self._resumed.wait(timeout):
            self.resume()
            raise TimeoutError(f"run {self.name} was not resumed within {timeout:g} s")
        if self._is_stopping:
            raise RunCancelled(f"run {self.name} was cancelled while it was paused")

    def _attach(self, recorder: RunRecorder) -> None:
        """Begin an attempt."""
        if self._recorder is not None and self._recorder.has_driver:
            self._earlier_logs += self._recorder.driver.history.logs
        recorder.subscribers = self._subscribers
        recorder.pause_here = self._pause_here
        self._recorder = recorder
        if self._is_paused:
            recorder.pause(True)
        if self._is_stopping:
            recorder.stop(hard=True)

    def _move(self, code: Code, *, error: BaseException | None = None) -> State:
        """Move to a state, which is durable before anybody sees it.

        Raises
        ------
        LeaseLost, HistoryError
            If it cannot be written down.
        """
        message = f"{type(error).__name__}: {error}" if error is not None else ""
        if self._durability is not None:
            self._durability.moved(code, message)
        state = State.of(code, message=message, data=error if error is not None else self._value)
        self._history.append(state)
        return state

    def _was_completed(self, header: RunHeader, value: Any) -> None:
        """It ended in an earlier life: nothing is run."""
        self._value = value
        self._history.append(State.of(Code.COMPLETED, at=header.ended, data=value))
        self.started = _moment(header.started)
        self.ended = _moment(header.ended)
        self._done.set()

    def _end(self) -> None:
        """The run has ended; its hooks may still be called, in this thread."""
        self._thread = threading.get_ident()
        self.ended = datetime.now(UTC)


def _moment(at: float | None) -> datetime | None:
    return None if at is None else datetime.fromtimestamp(at, UTC)
