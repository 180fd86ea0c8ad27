"""The record of a run that an execution fills in, and that its `Run` shows: where it stands, and what was asked of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from graphflow.common.secrets import mask
from graphflow.errors import GraphflowError, RunCancelled, TaskOptionError
from graphflow.model.map_options import MAP_OPTION_NAMES, timeout_factor
from graphflow.model.option_checks import refuse_unknown
from graphflow.model.policies import NOT_SET, POLICY_NAMES, NotSet, TaskOptions
from graphflow.model.reports import LogRecord
from graphflow.model.states import Code, State
from graphflow.ports import RunEvent
from graphflow.runner.capture import LogSink

if TYPE_CHECKING:
    from graphflow.driver.durability import Durability
    from graphflow.driver.recorder import RunRecorder
    from graphflow.model.records import Request

__all__ = ["RunRecord"]


class RunRecord:
    """One execution of a flow in this process.

    Attributes
    ----------
    id, name, flow_name, parameters
        What it is, and the validated parameters of its flow.
    states
        All its states, oldest first.
    recorder
        That of the attempt under way, or of the last one; None before the first.
    durability
        What writes it down; None once the run is another driver's.
    """

    def __init__(self, *, run_id: str, name: str, flow_name: str, parameters: Mapping[str, Any]) -> None:
        self.id = run_id
        self.name = name
        self.flow_name = flow_name
        self.parameters = dict(parameters)
        self.created = time.time()
        self.started: datetime | None = None
        self.ended: datetime | None = None
        self.attempt = 1
        self.sink = LogSink(worker="driver", max_lines=100_000)
        self.states: list[State] = [State.of(Code.PENDING)]
        self.recorder: RunRecorder | None = None
        self.subscribers: list[Callable[[RunEvent], None]] = []
        self.value: Any = None
        self.exception: BaseException | None = None
        self.durability: Durability | None = None
        self.changes: list[tuple[float, str, Mapping[str, Any]]] = []
        """Options of nodes that were changed: when, of which, and to what."""
        self.earlier_logs: list[LogRecord] = []
        """Lines of attempts before."""
        self.done = threading.Event()
        """The run has ended, and its hooks were called."""
        self.ending_thread: int | None = None
        """Calls the hooks of its end."""
        self.stop_asked = threading.Event()
        self.moving = threading.RLock()
        self._is_paused = False
        self._resumed = threading.Event()

    @property
    def state(self) -> State:
        """Where the run stands."""
        return self.states[-1]

    @property
    def is_stopping(self) -> bool:
        """Whether it was cancelled."""
        return self.stop_asked.is_set()

    # -- filled in by the execution -----------------------------------------------------------------------

    def attach(self, recorder: RunRecorder) -> None:
        """Begin an attempt."""
        if self.recorder is not None and self.recorder.has_driver:
            self.earlier_logs += self.recorder.driver.history.logs
        recorder.subscribers = self.subscribers
        recorder.pause_here = self.pause_here
        self.recorder = recorder
        if self._is_paused:
            recorder.pause(True)
        if self.is_stopping:
            recorder.stop(hard=True)

    def move(self, code: Code, *, error: BaseException | None = None) -> State:
        """Move to a state, which is durable before it is visible.

        Raises
        ------
        LeaseLost, HistoryError
            If it cannot be written down.
        """
        message = mask(f"{type(error).__name__}: {error}") if error is not None else ""
        if self.durability is not None:
            if error is not None:
                # Loaded with the first run, not by `import graphflow`.
                from graphflow.runner.faults import user_traceback

                self.durability.books.run_noted({"traceback": user_traceback(error)})
            self.durability.moved(code, message)
        state = State.of(code, message=message, data=error if error is not None else self.value)
        self.states.append(state)
        return state

    def end(self) -> None:
        """End the run; its hooks may still be called, in this thread."""
        self.ending_thread = threading.get_ident()
        self.ended = datetime.now(UTC)

    # -- asked of it --------------------------------------------------------------------------------------

    def carry_out(self, request: Request) -> None:
        """Do what was asked from another process.

        Raises
        ------
        GraphflowError
            If it cannot be done: what is wrong is the answer.
        """
        body = dict(request.body)
        if self.ended is not None:
            raise GraphflowError(f"run {self.name} has already ended ({self.state.name})")
        if request.kind == "cancel":
            self.cancel(force=bool(body.get("force")))
        elif request.kind == "pause":
            self.pause()
        elif request.kind == "resume":
            self.resume()
        elif request.kind == "update":
            self.update(body.pop("node", ""), body)
        else:
            raise GraphflowError(f"a run cannot be asked to {request.kind!r}")

    def cancel(self, *, force: bool) -> None:
        """Start nothing more; with `force`, stop what runs too."""
        if self.ended is None:
            self.stop_asked.set()
            self._resumed.set()
            if self.recorder is not None:
                self.recorder.stop(hard=force)

    def pause(self) -> None:
        """Start nothing more until `resume`."""
        with self.moving:
            if self.ended is None and not self._is_paused:
                self._is_paused = True
                self._resumed.clear()
                if self.recorder is not None:
                    self.recorder.pause(True)
                self.move(Code.PAUSED)

    def resume(self) -> None:
        """Resume after `pause`, and rerun what a `Pause` signal paused."""
        with self.moving:
            if self.recorder is not None:
                if self._is_paused:
                    self.recorder.pause(False)
                elif self.recorder.has_driver:
                    self.recorder.driver.resume()
            if self._is_paused:
                self._is_paused = False
                if self.ended is None:
                    self.move(Code.RUNNING)
                self._resumed.set()

    def pause_here(self, timeout: float | None) -> None:
        """Pause, and wait in the flow's body until the run is resumed."""
        self.pause()
        if not self._resumed.wait(timeout):
            self.resume()
            raise TimeoutError(f"run {self.name} was not resumed within {timeout:g} s")
        if self.is_stopping:
            raise RunCancelled(f"run {self.name} was cancelled while it was paused")

    def update(self, name: str, options: Mapping[str, Any]) -> None:
        """Change options of a node while it runs; see `Run.update`."""
        owner = f"run.update({name!r})"
        changes = dict(options)
        refuse_unknown(owner, changes, (*MAP_OPTION_NAMES, "batch_size", *POLICY_NAMES))
        if not changes:
            raise TaskOptionError(f"{owner}: nothing to change; pass an option, such as max_concurrency=8")
        recorder = self.recorder
        if recorder is None or not recorder.has_driver:
            raise GraphflowError(f"{owner}: run {self.name} has not started anything yet")
        found = recorder.node_named(name)
        policy = {key: changes.pop(key) for key in POLICY_NAMES if key in changes}
        if changes and not found.is_mapped:
            raise GraphflowError(
                f"{owner}: {name} is not a map, and {', '.join(changes)} are options of maps"
            )
        if recorder.driver.outcomes.is_final(found.id):
            raise GraphflowError(f"{owner}: {name} has already ended")
        if policy:
            recorder.flush()
            recorder.driver.change_policy(found, policy, owner=owner)
        if not changes:
            self._note(name, options)
            return
        size = changes.pop("batch_size", NOT_SET)
        batch_size: int | None = None
        if not isinstance(size, NotSet):
            batch_size = TaskOptions.checked(owner, {"batch_size": size}, name="x").batch_size or 0
        if changes.get("timeout") is not None and timeout_factor(owner, changes["timeout"]) is None:
            raise TaskOptionError(
                f'{owner}: on a running map, timeout is a percentage of the median such as "300%", not {changes["timeout"]!r}'
            )
        recorder.flush()
        recorder.driver.change_map_options(found, changes, batch_size=batch_size, owner=owner)
        self._note(name, options)

    def _note(self, name: str, options: Mapping[str, Any]) -> None:
        self.changes.append((time.time(), name, dict(options)))

    def subscribe(self, callback: Callable[[RunEvent], None]) -> None:
        """Call back for each change, on the driver's thread."""
        self.subscribers.append(callback)
        if self.recorder is not None and self.recorder.has_driver:
            self.recorder.driver.subscribe(callback)
