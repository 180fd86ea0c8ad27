"""Calls of flows: a run from its first state to its last."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from graphflow.authoring.advice import unreached_handlers
from graphflow.authoring.futures import Future
from graphflow.backends import resolve
from graphflow.common import settings
from graphflow.common.interrupts import after_this
from graphflow.common.secrets import are_known, scrub
from graphflow.display.scripts import display
from graphflow.driver.caches import Caches
from graphflow.driver.definition import Definition
from graphflow.driver.dispatch import Persistence
from graphflow.driver.driver import Driver
from graphflow.driver.durability import Durability
from graphflow.driver.hooks import call_hook
from graphflow.driver.in_loop import wait_in_loop
from graphflow.driver.recorder import RunRecorder
from graphflow.driver.run_record import RunRecord
from graphflow.driver.values import outcome_of, unhandled_exception
from graphflow.errors import (
    BackendError,
    FlowTimedOut,
    GraphflowError,
    HistoryError,
    LeaseLost,
    ResultStoreError,
    RunCancelled,
)
from graphflow.graph.context import FLOW, FlowContext
from graphflow.graph.handles import Handle, contains_handle
from graphflow.graph.mapping import AllowFailure, Unmapped
from graphflow.graph.recording import RECORDER, Recorder
from graphflow.graph.structured import fields_of, is_structured, rebuilt
from graphflow.model.states import FAILED_CODES, Code
from graphflow.ports import Backend
from graphflow.runner.capture import capture_logging, capture_prints
from graphflow.runner.faults import TaskView
from graphflow.runner.watchdog import Abandoned, ItemTimeout, watchdog
from graphflow.runs.live import LiveRun
from graphflow.runs.nodes import Item, Node

__all__ = [
    "Deadline",
    "Execution",
    "call_end_hooks",
    "call_hooks",
    "entered",
    "failure_of_body",
    "is_broken",
    "resolved",
    "settle",
]

logger = logging.getLogger("graphflow.authoring.flows")
_BROKEN = (BackendError, HistoryError, LeaseLost, ResultStoreError)
"""Errors of what runs the flow, not of the flow itself."""
STOP_SECONDS = 10.0
"""How long a run that was stopped by force waits for its last events."""


class Execution:
    """One run of a flow, with all its attempts."""

    def __init__(
        self,
        flow: Definition,
        record: RunRecord,
        durability: Durability,
        opened: tuple[Backend, bool] | None = None,
    ) -> None:
        self.flow = flow
        self.options = flow.options
        self.record = record
        self.run = LiveRun(record)
        # What a run begins with holds for all of it.
        self._refreshes, self._max_depth = settings.refresh_cache(), settings.max_depth()
        self._storage = settings.result_storage(), settings.result_storage_options()
        self.durability = record.durability = durability
        self._opened: list[tuple[Backend, bool]] = [] if opened is None else [opened]
        self._shown = display.mode(flow.options.backend)

    # -- from the first state to the last -------------------------------------------------------------------

    def execute(self) -> None:
        """Run the flow in this thread; raise only what is not an `Exception` (Ctrl-C, SystemExit)."""
        with self._whole_run():
            while True:
                recorder = self._begin_attempt()
                with Deadline(self.flow, partial(_stop_for, recorder)) as deadline:
                    with self._body_context(recorder):
                        value, error = deadline.call(partial(self._body_and_allowed, recorder))
                    error = self._finish(recorder, error, deadline)
                try:
                    with after_this():
                        self._conclude(recorder, value, error, deadline)
                except KeyboardInterrupt:
                    if not self._was_interrupted:
                        raise
                delay = self._delay_before_retry()
                if delay is None:
                    break
                self.record.stop_asked.wait(delay)
        self._raise_base()

    async def execute_async(self) -> None:
        """Run the flow in this event loop; raise only what is not an `Exception`."""
        import asyncio

        with self._whole_run():
            while True:
                recorder = self._begin_attempt()
                value, error = await self._within_time(recorder, self._attempt_async(recorder))
                if error is not None and recorder.has_driver:
                    # Quick: everything was asked to stop.
                    await _finished_in_loop(recorder.driver)
                self._conclude(recorder, value, error, None)
                delay = self._delay_before_retry()
                if delay is None:
                    break
                await asyncio.sleep(delay)
        self._raise_base()

    @contextmanager
    def _whole_run(self) -> Iterator[None]:
        """Open the backend for all attempts, close it if the run created it, and call the hooks at the end."""
        record, durable = self.record, self.durability
        record.started = datetime.now(UTC)
        durable.watch(
            sink=record.sink,
            act=record.carry_out,
            lost=self._lost,
            known=lambda: None if record.recorder is None else record.recorder.known,
        )
        display.begin(self.run, self._shown)
        try:
            yield
        finally:
            interruption: KeyboardInterrupt | None = None
            for backend, is_owned in self._opened:
                try:
                    if is_owned:
                        backend.close()
                except KeyboardInterrupt as error:
                    interruption = error
            try:
                # How it ended is written down, whatever is pressed.
                with after_this():
                    with record.moving:
                        record.end()
                    durable.close()
            except KeyboardInterrupt as error:
                interruption = error
            call_end_hooks(self.flow, self.run)
            display.end(self.run)
            record.done.set()
            if interruption is not None and not self._was_interrupted:
                raise interruption

    @property
    def _was_interrupted(self) -> bool:
        """Whether Ctrl-C ended the run, so that pressing it again says nothing new."""
        return isinstance(self.record.exception, KeyboardInterrupt)

    def _lost(self, error: GraphflowError) -> None:
        """Stop the run, as another driver has taken it."""
        logger.error("%s", error)
        if self.record.recorder is not None:
            self.record.recorder.give_up(error)

    def _make_backend(self) -> Backend:
        if not self._opened:
            self._opened.append(resolve(self.options.backend))
        return self._opened[0][0]

    def _begin_attempt(self) -> RunRecorder:
        run = self.record
        recorder = RunRecorder(
            flow_name=self.flow.name,
            run_id=run.id,
            make_backend=self._make_backend,
            flow_parameters=run.parameters,
            attempt=run.attempt,
            log_prints=self.options.log_prints,
            results=self.options.results,
            max_depth=self._max_depth,
            durability=self.durability,
            persistence=self._persistence(),
        )
        recorder.view = _hook_view(recorder)
        run.attach(recorder)
        if run.attempt > 1:
            self.durability.begin_attempt(self.flow, run)
        run.move(Code.RUNNING if run.attempt == 1 else Code.RETRYING)
        if run.attempt == 1:
            call_hooks(self.flow, self.run, self.options.on_running)
        return recorder

    def _persistence(self) -> Persistence:
        """Return which values outlive the run, and which results are cached."""
        run, durable = self.record, self.durability
        epoch = durable.journal.epoch
        caches = Caches(
            run_id=run.id,
            token=f"{run.id}/{epoch}/{run.attempt}",
            refreshes=self._refreshes,
            storage=self._storage,
        )
        return replace(durable.persistence(self.flow), caches=caches)

    def _delay_before_retry(self) -> float | None:
        """Return the seconds until the next attempt, None if there is none."""
        run = self.record
        if run.recorder is not None and run.recorder.has_driver:
            run.recorder.driver.close()
        code = Code.by_name(run.state.name)
        if code not in FAILED_CODES or run.attempt > self.options.retries or run.is_stopping:
            return None
        run.move(Code.AWAITING_RETRY)
        delay = self.options.delay(run.attempt)
        run.attempt += 1
        run.exception = None
        return delay

    def _raise_base(self) -> None:
        error = self.record.exception
        if error is not None and not isinstance(error, Exception):
            raise error

    # -- the body -------------------------------------------------------------------------------------------

    @contextmanager
    def _body_context(self, recorder: RunRecorder) -> Iterator[None]:
        run = self.record
        context = FlowContext(
            run_id=run.id,
            flow_name=self.flow.name,
            run_name=run.name,
            parameters=run.parameters,
            attempt=run.attempt,
            log_prints=self.options.log_prints,
            sink=run.sink,
            backend=self.options.backend,
        )
        with entered(recorder, context):
            yield

    def _body_and_allowed(self, recorder: RunRecorder) -> Any:
        value = self.flow.call(self.record.parameters)
        recorder.returned = frozenset(handle._node.id for handle in _handles_in(value))
        for handle in _allowed_to_fail(value):
            future = Future[Any](recorder, handle._node, handle._index)
            future.wait()
            future._hand_over()
        return value

    async def _attempt_async(self, recorder: RunRecorder) -> Any:
        with self._body_context(recorder):
            value = await self.flow.call(self.record.parameters)
            recorder.returned = frozenset(handle._node.id for handle in _handles_in(value))
            for handle in _allowed_to_fail(value):
                future = Future[Any](recorder, handle._node, handle._index)
                await future._ended()
                future._hand_over()
        if recorder.close():
            driver = recorder.driver
            await wait_in_loop(driver, lambda: driver.is_finished)
        return value

    async def _within_time(
        self, recorder: RunRecorder, attempt: Awaitable[Any]
    ) -> tuple[Any, BaseException | None]:
        """Return (value, None) or (None, error) of an attempt; stop what still runs."""
        import asyncio

        try:
            async with asyncio.timeout(self.options.timeout_seconds) as scope:
                return await attempt, None
        except TimeoutError as raised:
            error: BaseException = self.flow.timed_out() if scope.expired() else raised
        except BaseException as raised:
            error = failure_of_body(raised)
        _stop_after(recorder, error)
        recorder.close()
        return None, error

    def _finish(
        self, recorder: RunRecorder, error: BaseException | None, deadline: Deadline
    ) -> BaseException | None:
        """Run what was recorded, or stop it after an error; return the error, if any."""
        try:
            if error is not None:
                _stop_after(recorder, error)
            if recorder.close():
                driver = recorder.driver
                driver.wait(lambda: driver.is_finished, deadline.left() if error is None else None)
                if not driver.is_finished:
                    recorder.stop(hard=True)
                    driver.wait(lambda: driver.is_finished, STOP_SECONDS)
        except KeyboardInterrupt as interrupt:
            error = interrupt
            # Who presses it again does not wait for what is stopped.
            with suppress(KeyboardInterrupt):
                recorder.stop(hard=True)
                if recorder.has_driver:
                    driver = recorder.driver
                    driver.wait(lambda: driver.is_finished, STOP_SECONDS)
        except _BROKEN as broken:
            error = broken
        except Exception as broken:
            error = error or broken
        return error

    # -- how it ended ---------------------------------------------------------------------------------------

    def _conclude(
        self, recorder: RunRecorder, value: Any, error: BaseException | None, deadline: Deadline | None
    ) -> None:
        driver = recorder.driver if recorder.has_driver else None
        is_engines = driver is not None and is_broken(driver)
        if driver is not None:
            error = driver.failure or error
            outcome = driver.outcome
            if error is None and outcome is not None and outcome.code != Code.COMPLETED:
                error = unhandled_exception(driver, outcome)
                self._advise(recorder, driver)
        if error is None and driver is None and recorder.by_id:
            error = RunCancelled(f"run {self.record.name} was cancelled before it began")
        if isinstance(error, RunCancelled) and deadline is not None and deadline.is_over:
            # It was cancelled because the time was up.
            error = self.flow.timed_out()
        if error is None:
            try:
                self.record.value = resolved(value, recorder)
                self.durability.completed(self.record.value)
            except Exception as broken:
                # The value cannot be recorded, which is no failure of the flow.
                error, is_engines = broken, isinstance(broken, _BROKEN)
        settle(self.record, error, is_engines=is_engines)

    def _advise(self, recorder: RunRecorder, driver: Driver) -> None:
        """Say where the body seems to handle a failure that it cannot have been given."""
        failed = {book.node.task_name for book in list(driver.core.books.values()) if book.unhandled()}
        for name, line in unreached_handlers(self.flow.fn):
            if name in failed:
                with self._body_context(recorder):
                    logger.warning(
                        "the `try` in line %d of flow %r cannot catch what %s raises: the call only records what will run; ask "
                        "for the value inside the `try`, with .result()",
                        line,
                        self.flow.name,
                        name,
                    )


class Deadline:
    """The time of one attempt: it interrupts the body, whether that waits for a future or computes.

    `time_up` is called with the error when the time is up.
    """

    def __init__(self, flow: Definition, time_up: Callable[[FlowTimedOut], None]) -> None:
        self._flow = flow
        self._time_up = time_up
        self._seconds = flow.options.timeout_seconds
        self._at = None if self._seconds is None else time.monotonic() + self._seconds
        self._timer: threading.Timer | None = None

    def __enter__(self) -> Deadline:
        if self._seconds is not None:
            # No `Service`: it acts once, if the time is up.
            self._timer = threading.Timer(self._seconds, self._time_up, [self._flow.timed_out()])
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return self.left() == 0.0

    def left(self) -> float | None:
        """Return the seconds that are left."""
        return None if self._at is None else max(0.0, self._at - time.monotonic())

    def call(self, body: Callable[[], Any]) -> tuple[Any, BaseException | None]:
        """Return (value, None) or (None, error) of the body."""
        try:
            if self._seconds is None:
                return body(), None
            return self._guarded(body), None
        except (ItemTimeout, Abandoned):
            return None, self._flow.timed_out()
        except BaseException as error:
            return None, failure_of_body(error)

    def _guarded(self, body: Callable[[], Any]) -> Any:
        # A body that waits is woken by the interruption; the guard is for one that computes.
        guard = watchdog().guard(None)
        try:
            guard.arm((self._seconds or 0.0) + 0.2)
            try:
                return body()
            finally:
                if guard.disarm():
                    raise ItemTimeout
        finally:
            guard.close()


def _stop_after(recorder: RunRecorder, error: BaseException) -> None:
    """Start nothing more after an error of the body; running items may finish, unless the error is not an `Exception`."""
    recorder.stop(hard=not isinstance(error, Exception) or isinstance(error, FlowTimedOut))


async def _finished_in_loop(driver: Driver) -> None:
    try:
        await wait_in_loop(driver, lambda: driver.is_finished)
    except Exception:
        logger.debug("run %s did not shut down cleanly", driver.run_id, exc_info=True)


def _stop_for(recorder: RunRecorder, error: BaseException) -> None:
    """Stop running items as the time is up, and make waiting callers raise."""
    recorder.stop(hard=True, interruption=error)


def failure_of_body(error: BaseException) -> BaseException:
    """Return the exception that a flow's run ends with when its body raised an error.

    Ctrl-C, `SystemExit` and a cancellation of the asyncio task that awaits the flow are for the caller too. Anything
    else that is not an `Exception`, such as a `CancelledError` that escaped from a library, only fails the run: it is the
    cause of an exception then, for it would end the caller's asyncio task or program.
    """
    scrub(error)
    if isinstance(error, Exception | KeyboardInterrupt | SystemExit) or _is_cancelled(error):
        return error
    failure = GraphflowError(
        f"the flow raised {type(error).__name__}{f': {error}' if str(error) else ''}, which ends only its run"
    )
    failure.__cause__ = error
    return failure


def _is_cancelled(error: BaseException) -> bool:
    """Return whether an error is the cancellation of the current asyncio task."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None or not isinstance(error, asyncio.CancelledError):
        return False
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return False
    return task is not None and task.cancelling() > 0


def _is_cancelled_error(error: BaseException) -> bool:
    """Return whether an error is a cancellation by an event loop; False without asyncio."""
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and isinstance(error, asyncio.CancelledError)


def is_broken(driver: Driver) -> bool:
    """Return whether what runs the flow is gone: not whether the flow failed, or does not match its earlier run."""
    return isinstance(driver.failure, _BROKEN)


def settle(run: RunRecord, error: BaseException | None, *, is_engines: bool = False) -> None:
    """Move a run to the state for its error; what ends it is the flow's own failure, unless it `is_engines`."""
    run.exception = error
    if error is None:
        code = Code.COMPLETED
    elif isinstance(error, KeyboardInterrupt | RunCancelled) or _is_cancelled_error(error):
        code = Code.CANCELLED
    elif isinstance(error, FlowTimedOut):
        code = Code.TIMED_OUT
    elif is_engines or isinstance(error, LeaseLost) or not isinstance(error, Exception):
        code = Code.CRASHED
    else:
        code = Code.FAILED
    try:
        if isinstance(error, LeaseLost):
            run.durability = None
        run.move(code, error=error)
    except (HistoryError, LeaseLost) as broken:
        logger.error("could not record that run %s ended: %s", run.name, broken)
        run.durability = None
        run.exception = error = error if isinstance(error, _BROKEN) else broken
        run.move(Code.CRASHED, error=error)


# -- hooks -------------------------------------------------------------------------------------------------


def _hook_view(recorder: RunRecorder) -> Callable[[int, int | None], Any]:
    """Return a function that returns the (task, task run) of a node's item, for the task's hooks."""

    known = recorder.known

    def view(node_id: int, index: int | None) -> Any:
        program = recorder.by_id[node_id].program
        task = None if program is None else TaskView.of(program.options, program.fn)
        return task, Item(Node(known, node_id), index or 0)

    return view


def call_hooks(flow: Definition, run: LiveRun, hooks: tuple[Callable[..., Any], ...]) -> None:
    """Call a flow's hooks, in order."""
    for hook in hooks:
        call_hook(hook, lambda: (flow.subject, run), run.state)


def call_end_hooks(flow: Definition, run: LiveRun) -> None:
    """Call the hooks for the state that a run ended in."""
    options = flow.options
    hooks = {
        Code.COMPLETED: options.on_completion,
        Code.FAILED: options.on_failure,
        Code.TIMED_OUT: options.on_failure,
        Code.CRASHED: options.on_crashed,
        Code.CANCELLED: options.on_cancellation,
    }
    call_hooks(flow, run, hooks.get(Code.by_name(run.state.name), ()))


# -- where a body runs ----------------------------------------------------------------------------


@contextmanager
def entered(recorder: Recorder, context: FlowContext) -> Iterator[None]:
    """Record calls made in this context with `recorder`, and set the flow context."""
    capture_logging()
    if context.log_prints or are_known():
        capture_prints()
    tokens = RECORDER.set(recorder), FLOW.set(context)
    try:
        yield
    finally:
        RECORDER.reset(tokens[0])
        FLOW.reset(tokens[1])


# -- values --------------------------------------------------------------------------------------------------


def _allowed_to_fail(value: Any, *, allows: bool = False) -> list[Handle]:
    """Return the futures in a returned structure that are marked with `allow_failure`."""
    if isinstance(value, AllowFailure):
        return _allowed_to_fail(value.value, allows=True)
    if isinstance(value, Handle):
        return [value] if allows else []
    if not contains_handle(value):
        return []
    if is_structured(type(value)):
        each: Any = fields_of(value).values()
    else:
        each = [*value, *value.values()] if isinstance(value, dict) else value
    return [handle for one in each for handle in _allowed_to_fail(one, allows=allows)]


def _handles_in(value: Any) -> list[Handle]:
    """Return all futures in a returned structure."""
    found: list[Handle] = []
    if contains_handle(value):
        _walk(value, found.append)
    return found


def resolved(value: Any, recorder: RunRecorder) -> Any:
    """Return what a body returned, with its futures, which have all ended, replaced by their values."""
    return _walk(value, lambda handle: _final_value(handle, recorder)) if contains_handle(value) else value


def _final_value(handle: Handle, recorder: RunRecorder) -> Any:
    node = recorder.own(handle, "the value that the flow returned")
    value, error = outcome_of(recorder.driver, node, handle._index)
    if isinstance(error, IndexError):
        raise error
    return value if error is None else error


def _walk(value: Any, leaf: Callable[[Any], Any]) -> Any:
    if isinstance(value, Handle):
        return leaf(value)
    if isinstance(value, AllowFailure | Unmapped):
        return _walk(value.value, leaf)
    kind = type(value)
    if kind in (list, set, frozenset):
        return kind(_walk(each, leaf) for each in value)
    if kind is dict:
        return {_walk(key, leaf): _walk(each, leaf) for key, each in value.items()}
    if isinstance(value, tuple):
        parts = [_walk(each, leaf) for each in value]
        return value._make(parts) if hasattr(value, "_make") else tuple(parts)
    if is_structured(kind) and contains_handle(value):
        fields = {name: each for name, each in fields_of(value).items() if contains_handle(each)}
        return rebuilt(value, {name: _walk(each, leaf) for name, each in fields.items()})
    return value
