"""The driver: performs the core's commands on the backend, the history and the clock, and tells it what came back.

It decides nothing. One thread handles all events of a run; with a backend that runs in the caller there is
no such thread, and waiting callers do its work.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from graphflow.common.failpoints import failpoint
from graphflow.common.importing import modules_here, without_waiting
from graphflow.common.waiting import waiting_seconds
from graphflow.core import events as ev
from graphflow.core.core import Core
from graphflow.driver.bookkeeping import Bookkeeper
from graphflow.driver.dispatch import NO_PERSISTENCE, Dispatcher, Persistence, filler_of
from graphflow.driver.hooks import Hooks
from graphflow.driver.known import DriverRun
from graphflow.driver.outcomes import Outcomes
from graphflow.driver.recovery import Recovery
from graphflow.driver.shared_limits import SharedLimits
from graphflow.driver.sources import Sources
from graphflow.driver.spilling import HeldValues
from graphflow.driver.turns import Turns
from graphflow.driver.unstored import UnstoredValues
from graphflow.errors import (
    BackendError,
    GraphflowError,
    ResultStoreError,
    TooDeep,
)
from graphflow.graph.fragments import Fragment
from graphflow.graph.graph import Node
from graphflow.model.map_options import checked_map_options
from graphflow.model.reports import ErrorRecord, Report
from graphflow.model.states import FINAL_CODES, Code
from graphflow.ports import (
    Backend,
    BackendEvent,
    BackendFailed,
    BatchDone,
    BatchLost,
    CapacityChanged,
    Forecasted,
    Limiter,
    RunEvent,
    WantedSlots,
)
from graphflow.records.item_index import MemoryHistory
from graphflow.records.keeping import ReadValues
from graphflow.results.stores.retries import NO_CREDENTIALS
from graphflow.runner.capture import echo

__all__ = ["Driver"]

logger = logging.getLogger("graphflow.driver")
GROUP_SECONDS = 0.02
"""What happens within this time is made durable together."""
FORECAST_SECONDS = 0.05
"""A forecast follows a report at most this often, and takes at most a twentieth of the time."""


class Driver:
    """Owns one run: the core, the history and the run's part of a backend.

    Parameters
    ----------
    run_id, flow_name
        What this run is.
    backend
        Where batches run; it is started here, but closed by its owner.
    adopt
        Gives the nodes of a fragment ids (and names) of this run.
    books
        What makes the run durable; None for a run that is kept in memory alone.
    recovery
        What earlier launches of the run left.
    persistence
        Where values are written so that they outlive the run.
    limiter
        What the run has of limits that runs share; None where there are none.
    wake_keeper
        Lets the next turn of `limits` come at once.
    """

    def __init__(
        self,
        *,
        run_id: str,
        flow_name: str,
        backend: Backend,
        adopt: Callable[[Fragment, Node, int], tuple[Sequence[Node], int]],
        make_run_view: Callable[[int, int | None], Any] | None = None,
        books: Bookkeeper | None = None,
        recovery: Recovery | None = None,
        persistence: Persistence = NO_PERSISTENCE,
        limiter: Limiter | None = None,
        wake_keeper: Callable[[], None] = lambda: None,
    ) -> None:
        self.run_id = run_id
        self.flow_name = flow_name
        self.backend = backend
        self.history = MemoryHistory(persistence.store)
        self.is_finished = False
        self.outcome: ev.FinishRun | None = None
        self.failure: BaseException | None = None
        """Set when the run cannot continue: the backend is gone, or the engine itself failed."""
        backend.start()
        batches = 0 if recovery is None else recovery.replay.batches
        self.core = Core(capacity=backend.capacity(), batches=batches)
        self.dispatcher = Dispatcher(
            run_id=run_id,
            core=self.core,
            history=self.history,
            filler=filler_of(backend),
            failure=self._failure_of,
            persistence=persistence,
        )
        self.known = DriverRun(
            lambda: self, lambda node: self.core.books[node].node, numbers=lambda: list(self.core.books)
        )
        self._changed = threading.Condition()
        self.limits: SharedLimits | None = None
        """What this run has of limits that runs share; its owner gives it turns."""
        if limiter is not None:
            self.limits = SharedLimits(
                limiter,
                wants=self._wants,
                tell=self.tell,
                changed=lambda: self.call(self._limits_changed),
                wake=wake_keeper,
            )
        self.outcomes = Outcomes(
            self.core, self.history, backend, self.dispatcher, known=self.known, settled=self._changed
        )
        """What has become of nodes and items, for views and futures."""
        self.hooks = Hooks(make_run_view)
        self._turns = Turns(
            self.core, self.history, column=self.outcomes.column, books=books, recovery=recovery
        )
        self._unstored = UnstoredValues(
            self.core, persistence, self.outcomes.column, run_id=run_id, backend=backend
        )
        self._held = HeldValues(self.history, backend, persistence)
        self._sources = Sources(
            self.core,
            self.history,
            self.dispatcher,
            check=self._turns.check_source,
            handle=self._handle,
            call=self.call,
        )
        self._books = books
        self._recovery = recovery
        self._persistence = persistence
        self._outbox: list[ev.Command] = []
        """Commands with effects outside, until everything they report is durable."""
        self._adopt = adopt
        self._subscribers: list[Callable[[RunEvent], None]] = []
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._timer: float | None = None
        self._interruption: BaseException | None = None
        self._waiters: list[tuple[Callable[[], bool], Callable[[], None]]] = []
        self._read_values: dict[int, ReadValues] = {}
        self.read_maps: set[int] = set()
        """Maps that are iterated over while their iterators still yield items."""
        self._forecasted = backend if isinstance(backend, Forecasted) else None
        self._forecast_at = 0.0
        self.importing = modules_here()
        """What is only being imported where the run was begun."""
        self._thread: threading.Thread | None = None
        self._pumping = threading.RLock()
        backend.open_run(run_id, self._deliver)
        if not backend.runs_in_caller:
            # No `Service`: it blocks on the inbox, until the run has ended.
            self._thread = threading.Thread(
                target=self._loop, name=f"graphflow-driver-{run_id[-6:]}", daemon=True
            )
            self._thread.start()

    def _failure_of(self, node: int, index: int | None) -> BaseException:
        return self.outcomes.exception_of(node, index)

    # -- told from outside, by any thread ---------------------------------------------------------------

    def tell(self, event: ev.Event) -> None:
        """Hand an event to the core, in order with all others."""
        self._inbox.put(lambda: self._handle(event))

    def record(self, nodes: Sequence[Node]) -> None:
        """Record nodes, each after what it depends on."""

        def handle() -> None:
            failpoint("driver.records.before")
            placed = self._turns.renewed(nodes)
            self._handle(ev.NodesRecorded(placed, self._turns.recorded(placed)))

        self._inbox.put(handle)

    def _limits_changed(self) -> None:
        news = None if self.limits is None else self.limits.news()
        if news is not None:
            self._handle(news)

    def _wants(self) -> Mapping[str, WantedSlots]:
        """Return what the core wants of limits; for other threads."""
        with self._changed:
            return self.core.wants()

    def close_recording(self, returned: frozenset[int] = frozenset()) -> None:
        """Close the recording after the flow's body: no more nodes follow, and these nodes' values are needed at the end."""
        self.tell(ev.RecordingClosed(returned))

    def stop(self, *, hard: bool) -> None:
        """Start nothing more; `hard` also stops what executes."""
        self.tell(ev.StopRequested(hard=hard))
        # Batches that are about to begin must not wait for this thread's turn.
        self.backend.stop(self.run_id, hard=False)

    def resume(self) -> None:
        """Resume after `pause`, and rerun what a `Pause` signal paused."""
        self.tell(ev.PauseRequested(is_paused=False))
        self.tell(ev.ResumeRequested())

    def pause(self) -> None:
        """Send nothing more until `resume`; running batches continue."""
        self.tell(ev.PauseRequested())

    def drain(self, timeout: float) -> bool:
        """Send nothing more, and wait until what is under way has ended and is durable; False if it has not after `timeout` seconds.

        The driver can end then without losing anything: another one resumes the run. Called by a thread that does none of
        the run's work.
        """
        drained = threading.Event()
        self.pause()
        # Told after a commit, as all waiters are.
        self.call(lambda: self._waiters.append((lambda: not self.core.flights, drained.set)))
        return drained.wait(timeout)

    def read(self, node: int, *, read: int, limit: int) -> None:
        """Record that the reader of a map is done with items below `read`, and wants those below `limit`."""
        self.read_maps.add(node)
        self.tell(ev.ReaderMoved(node=node, read=read, limit=limit))

    def need(self, node: int, index: int | None) -> None:
        """Record that a caller waits for an item of a map, or all of them: no reader's pace may delay it."""
        if self.read_maps:
            self.tell(ev.ItemsNeeded(node=node, index=index))

    def hand_over(self, node: int, index: int | None, *, is_raised: bool = True) -> None:
        """Mark the failure of a node, or of one of its items, as handled: it was raised, or returned as data."""
        self.tell(ev.FailureHandled(node, index, is_raised))

    def change_map_options(
        self, node: Node, change: Mapping[str, Any], *, batch_size: int | None, owner: str
    ) -> None:
        """Change the options of a map; takes effect with the next batches.

        Raises
        ------
        TaskOptionError
            If one is wrong, or contradicts those that are set already.
        """
        book = self.core.books.get(node.id)
        options = checked_map_options(
            owner, change, before=node.map_options if book is None else book.map_options
        )
        self._note(node, {**change, **({} if batch_size is None else {"batch_size": batch_size})})
        self.tell(ev.MapOptionsChanged(node=node.id, map_options=options, batch_size=batch_size))

    def change_policy(self, node: Node, change: Mapping[str, Any], *, owner: str) -> None:
        """Run a task with other policies from the next batch on.

        Raises
        ------
        TaskOptionError
            If one is wrong.
        """
        book = self.core.books.get(node.id)
        program = (node if book is None else book.node).program
        if program is None:
            raise GraphflowError(f"{owner}: {node.name} has no policies")
        options = program.options.with_policy(owner, change)
        noted = dict(change)
        if "retry_delay_seconds" in noted:
            noted["retry_delay_seconds"] = [*options.retry.delays]
        self._note(node, noted)
        self.tell(ev.PolicyChanged(node=node.id, program=replace(program, options=options)))

    def give_up(self, error: GraphflowError) -> None:
        """Give up the run, which cannot continue here: nothing more is written or sent."""
        self._inbox.put(lambda: self._fail(error))

    def _note(self, node: Node, change: Mapping[str, Any]) -> None:
        books = self._books
        if books is not None:
            self._inbox.put(lambda: books.changed(node.id, change))

    def call(self, action: Callable[[], None]) -> None:
        """Run something on the driver's thread."""
        self._inbox.put(action)

    def subscribe(self, callback: Callable[[RunEvent], None]) -> None:
        """Call back, on the driver's thread, for each change."""
        self._subscribers.append(callback)

    def _deliver(self, event: BackendEvent) -> None:
        if isinstance(event, BatchDone):
            report = event.report
            self._inbox.put(lambda: self._reported(report))
        elif isinstance(event, BatchLost):
            lost = event
            if event.reason:
                logger.warning("run %s: batch %s was lost: %s", self.run_id, event.batch, event.reason)
            self._inbox.put(lambda: self._lost(lost))
        elif isinstance(event, CapacityChanged):
            capacity = event.capacity
            self._inbox.put(lambda: self._handle(ev.CapacitySet(capacity)))
        else:
            assert isinstance(event, BackendFailed)
            error = event.error
            self._inbox.put(lambda: self._fail(error))

    # -- waiting ----------------------------------------------------------------------------------------

    def wait(self, ready: Callable[[], bool], timeout: float | None = None) -> bool:
        """Wait until `ready()` holds; False after `timeout` seconds.

        `ready` is called after each event; it must be cheap. With an inline backend, this call runs batches.

        Raises
        ------
        BackendError
            If the run cannot continue.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        if self._thread is None or threading.current_thread() is self._thread:
            return self._pump(ready, deadline)
        with without_waiting(self.importing), self._changed:
            while True:
                self._raise_interruption()
                if ready():
                    return True
                self._raise_failure()
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return False
                self._changed.wait(waiting_seconds(deadline))

    def _pump(self, ready: Callable[[], bool], deadline: float | None) -> bool:
        """Do the run's work here until `ready()`; at least one piece of it, however short the time is."""
        while True:
            self._raise_interruption()
            if ready():
                return True
            self._raise_failure()
            with self._pumping:
                did = self._turn() or self.backend.step(self.run_id)
            if deadline is not None and time.monotonic() >= deadline:
                with self._pumping:
                    self._turn()
                return ready()
            if not did:
                self._take(deadline)

    def _take(self, deadline: float | None) -> None:
        """Wait for the next thing to do, the timer or the deadline."""
        ends = [each for each in (self._timer, deadline) if each is not None]
        timeout = min(ends) - time.monotonic() if ends else 0.5
        if timeout > 0:
            try:
                action = self._inbox.get(timeout=timeout)
            except queue.Empty:
                action = None
            self._turn(action)
        else:
            self._turn()

    def when(self, ready: Callable[[], bool], callback: Callable[[], None]) -> None:
        """Call a function once `ready()` holds (or the run cannot continue); at once if it already does."""
        with self._changed:
            if not (ready() or self._is_over()):
                self._waiters.append((ready, callback))
                return
        callback()

    def _is_over(self) -> bool:
        return self.is_finished or self.failure is not None

    def interrupt(self, error: BaseException | None) -> None:
        """Make waiting callers raise `error`; None revokes that. The run itself continues."""
        self._interruption = error
        self._inbox.put(None)

    def _raise_failure(self) -> None:
        if self.failure is not None:
            raise self.failure

    def _raise_interruption(self) -> None:
        if self._interruption is not None:
            raise self._interruption

    # -- the loop ---------------------------------------------------------------------------------------

    def _loop(self) -> None:
        while not self.is_finished and self.failure is None:
            timeout = None if self._timer is None else max(0.0, self._timer - time.monotonic())
            try:
                action = self._inbox.get(timeout=timeout)
            except queue.Empty:
                action = None
            self._turn(action)
        self._notify()

    def _turn(self, action: Callable[[], None] | None = None) -> bool:
        """Do what waits in the inbox, make it durable, and only then tell of it; False if there was nothing.

        The node books are not visible between a change and its commit: readers hold the same lock.
        """
        with self._changed:
            did = self._do_some(action)
            if did and self.failure is None:
                self._commit()
        if did:
            self._do(partial(failpoint, "driver.tell.before"))
            while self._outbox and self.failure is None:
                outbox, self._outbox = self._outbox, []
                for command in outbox:
                    self._do(partial(self._perform, command))
            self._notify()
        return did

    def _do_some(self, action: Callable[[], None] | None) -> bool:
        """Do an action and those queued after it, as many as fit into one commit; return False if there was none."""
        did = action is not None
        self._do(action)
        until = time.monotonic() + GROUP_SECONDS
        while not self.is_finished and self.failure is None:
            try:
                self._do(self._inbox.get_nowait())
            except queue.Empty:
                break
            did = True
            if time.monotonic() >= until:
                break
        return self._check_timer() or did

    def _commit(self) -> None:
        """Write what was recorded durably; from then on it may take effect."""

        def commit() -> None:
            self._outbox += self._turns.commit()

        self._do(commit)

    def _do(self, action: Callable[[], None] | None) -> None:
        if action is None:
            return
        try:
            action()
        except Exception as error:
            logger.debug("run %s: the engine failed", self.run_id, exc_info=True)
            broken = GraphflowError(
                f"graphflow's engine failed in run {self.run_id}: {type(error).__name__}: {error}; this is a bug in "
                "graphflow, please report it with the traceback"
            )
            broken.__cause__ = error
            self._fail(error if isinstance(error, GraphflowError) else broken)

    def _check_timer(self) -> bool:
        if self._timer is None or time.monotonic() < self._timer:
            return False
        self._timer = None
        self._do(self._time_is_up)
        return True

    def _time_is_up(self) -> None:
        failpoint("driver.timer.due")
        self._handle(ev.TimerDue())

    def _notify(self) -> None:
        """Wake waiting callers."""
        due: list[Callable[[], None]] = []
        with self._changed:
            waiters, self._waiters = self._waiters, []
            for ready, callback in waiters:
                if ready() or self._is_over():
                    due.append(callback)
                else:
                    self._waiters.append((ready, callback))
            self._changed.notify_all()
        for callback in due:
            callback()

    def _fail(self, error: BaseException) -> None:
        if self.failure is None and not self.is_finished:
            if not isinstance(error, GraphflowError):
                wrapped = BackendError(f"{self.backend.name}: {type(error).__name__}: {error}")
                wrapped.__cause__ = error
                error = wrapped
            self.failure = error
            self._outbox.clear()
            if not isinstance(error, BackendError):
                # The results of what still runs would be lost.
                self.backend.stop(self.run_id, hard=True)
            self._notify()

    # -- booking what the core commands -----------------------------------------------------------------

    def _handle(self, event: ev.Event) -> None:
        if self.is_finished:
            return
        if self.limits is not None and isinstance(event, ev.NodesRecorded | ev.Grafted):
            limits = self.limits.note(event.nodes)
            if limits is not None:
                self._turns.handle(limits, time.monotonic())
        self._turns.handle(event, time.monotonic())

    def _reported(self, report: Report) -> None:
        failpoint("driver.report.received")
        report = self._unstored.stored(report)
        if report.store_error:
            self._fail(ResultStoreError(_told_of_store(report)))
            return
        self._handle(ev.BatchReported(report))
        now = time.monotonic()
        if self._forecasted is not None and now >= self._forecast_at:
            self._forecasted.forecast(self.run_id, self.core.remaining_seconds())
            self._forecast_at = now + max(FORECAST_SECONDS, 20 * (time.monotonic() - now))

    def _lost(self, event: BatchLost) -> None:
        failpoint("driver.lost.received")
        if not self.is_finished:
            self._turns.lost(event, time.monotonic())

    # -- telling ----------------------------------------------------------------------------------------

    def _perform(self, command: ev.Command) -> None:
        if isinstance(command, ev.SubmitBatch):
            self.hooks.running(self.core, command)
            failpoint("driver.submit.before")
            self.backend.submit(self.dispatcher.order(command))
            failpoint("driver.submit.after")
        elif isinstance(command, ev.CommitReport):
            self._committed(command)
        elif isinstance(command, ev.ItemsEnded):
            self.hooks.ended(self.core, command.node, command.indices)
            self._emit("items", command.node, Code(command.code).state_name, len(command.indices))
        elif isinstance(command, ev.NodeChanged):
            is_over = command.code in FINAL_CODES
            if self.limits is not None and is_over and self.core.books[command.node].node.limits:
                # What it had of a limit is for others now.
                self.limits.wanted()
            self._emit("node", command.node, Code(command.code).state_name)
        elif isinstance(command, ev.SlotsWanted):
            if self.limits is not None:
                self.limits.wanted()
        elif isinstance(command, ev.ReserveSlots):
            if self.limits is not None:
                self.limits.reserve(command.name, command.count)
        elif isinstance(command, ev.GraftItem):
            self._graft(command)
        elif isinstance(command, ev.SetTimer):
            self._timer = command.at
        elif isinstance(command, ev.PullSource):
            self._sources.pull(command, in_caller=self._thread is None)
        elif isinstance(command, ev.ReleaseItems):
            read = self._read_values.get(command.node)
            if read is None:
                read = self._read_values[command.node] = ReadValues(
                    self.history.node(command.node), self._persistence.store
                )
            gone = read.release(command.below)
            self.backend.free(gone)
            self._held.drop(gone)
        elif isinstance(command, ev.CloseSource):
            self._sources.close(command.node, command.slot)
        elif isinstance(command, ev.LimitItems):
            self.backend.limit(self.run_id, command.node, command.seconds)
        elif isinstance(command, ev.RecallBatches):
            self.backend.recall(self.run_id, command.batches)
        elif isinstance(command, ev.StopBatches):
            self.backend.stop(self.run_id, hard=command.hard)
        elif isinstance(command, ev.FinishRun):
            self._finish(command)

    def _committed(self, command: ev.CommitReport) -> None:
        """Release the effects of a report, which is now durable."""
        report = command.report
        if report.is_remote:
            echo(report.logs)
        for step in report.steps:
            if self.dispatcher.buffers:
                leader = self.core.books[step.node].stage.leader
                indices = list(command.indices)
                self.call(partial(self.dispatcher.forget_ended, leader, indices))
            self.hooks.reported(self.core, step, command.indices)
            self._emit("items", step.node, "", report.reached)
        self._held.committed(report)

    def _graft(self, command: ev.GraftItem) -> None:
        fragment = command.fragment
        parent = self.core.books[command.node].node
        if isinstance(fragment, ErrorRecord):
            self._graft_failed(command, self.history.restored(fragment))
        else:
            failpoint("driver.expand.before")
            try:
                nodes, root = self._adopt(fragment, parent, command.index)
            except TooDeep as error:
                self._graft_failed(command, error)
                return
            failpoint("driver.expand.after")
            place = (command.node, command.index)
            # Queued, not nested: a chain of grafts never grows the stack.
            self._inbox.put(
                lambda: self._handle(
                    ev.Grafted(
                        node=command.node,
                        index=command.index,
                        nodes=nodes,
                        root=root,
                        pasts=self._turns.recorded(nodes, place),
                    )
                )
            )

    def _graft_failed(self, command: ev.GraftItem, error: BaseException) -> None:
        self.history.errors[command.node] = error
        self.tell(ev.Grafted(node=command.node, index=command.index, failed=True, error=error))

    def _finish(self, command: ev.FinishRun) -> None:
        failpoint("driver.finish.before")
        self.outcome = command
        self.hooks.flush()
        self.is_finished = True
        failpoint("driver.finish.after")
        self._emit("run", None, Code(command.code).state_name)
        self._notify()

    def _emit(self, kind: str, node: int | None, state: str, count: int = 0) -> None:
        for subscriber in self._subscribers:
            try:
                subscriber(RunEvent(kind=kind, run_id=self.run_id, node=node, state=state, count=count))
            except Exception:
                logger.exception("run %s: a subscriber failed", self.run_id)

    def close(self) -> None:
        """Close the run's part of the backend."""
        self.is_finished = True
        self._inbox.put(None)
        self._notify()
        self._sources.close_all()
        self.backend.close_run(self.run_id)
        self._persistence.close()
        self.hooks.close()


def _told_of_store(report: Report) -> str:
    """Return why a result store failed, and where: a worker has an environment of its own."""
    if not report.is_remote:
        return report.store_error
    text = f"worker {report.worker}: {report.store_error}"
    if NO_CREDENTIALS in text:
        text += (
            ". It is the worker that has none: credentials in the environment of this process are not sent to it. Set them where"
            " the worker runs, or pass result_storage_options, which are sent"
        )
    return text
