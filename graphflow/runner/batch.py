"""One batch on a worker: runs items of a stage within a time slice, and gives one report.

Each item passes through the steps in order; each step has its own state, attempts, retries, timeout and
time. A failing step ends the item's lane only. Nothing that user code raises leaves this module.
"""

from __future__ import annotations

import asyncio
import threading
import time
import types
from array import array
from collections.abc import Callable, Sequence
from contextvars import Token
from typing import Any, Protocol

from graphflow.context import RECORDER, RUNNING, TaskContext
from graphflow.errors import GraphflowError, ItemTimedOut, SerializationError, UpstreamFailed
from graphflow.mapping import value_info
from graphflow.orders import BatchOrder, Lane, Ref, StepOrder
from graphflow.recording import Fragment, Handle, Recorder, contains_handle
from graphflow.reports import Anomaly, Graft, LogRecord, Report, StepReport, ValueInfo
from graphflow.runner.capture import LogSink, capture_logging, capture_prints
from graphflow.runner.faults import ErrorTable, decide, summarize
from graphflow.runner.inputs import Constant, Ready, failed_input, make_call, ready_inputs
from graphflow.runner.labels import label_of
from graphflow.runner.watchdog import Abandoned, Guard, ItemTimeout, watchdog
from graphflow.states import FAILED_CODES, Code

__all__ = ["Batch", "BatchHost", "run_batch"]

MAX_SUMMARIES = 100
STOP_CHECK_SECONDS = 0.005
ASYNC_CONCURRENCY = 64
_SUCCESS = int(Code.COMPLETED)


class BatchHost(Protocol):
    """What a batch needs of the process that it runs in."""

    worker: str
    is_local: bool

    def load(self, ref: Ref) -> list[Any]:
        """The values of a column."""
        ...

    def store(self, columns: Sequence[list[Any]]) -> list[Ref | SerializationFailure]:
        """Keep columns; a column that cannot be carried names its items."""
        ...

    def note(self, batch: int, index: int) -> None:
        """Remember, in a place that survives this process, what is being executed."""
        ...

    def is_stopped(self, run_id: str) -> bool:
        """Whether the run asked its batches to stop."""
        ...

    def ending(self) -> None:
        """What is stored from now on must outlive this process."""
        ...

    def give_up(self, report: Report) -> None:
        """An item is stuck for good: deliver the report without it, and see to its thread or process."""
        ...


class SerializationFailure:
    """A column of which some entries cannot be carried; the others are in `ref`."""

    def __init__(self, ref: Ref, errors: dict[int, Exception]) -> None:
        self.ref = ref
        self.errors = errors


class _Step:
    """A step's arrays, one entry per position, and how to call it."""

    def __init__(self, order: StepOrder, size: int, batch: BatchOrder) -> None:
        self.order = order
        program = order.program
        self.program = program
        self.options = program.options
        self.fn = program.fn
        self.values: list[Any] = [None] * size
        self.states = bytearray(size)
        self.attempts = bytearray(order.tries) if order.tries is not None else bytearray(size)
        self.starts = array("f", bytes(4 * size))
        self.durations = array("f", bytes(4 * size))
        self.labels: list[str | None] | None = None
        self.anomalies: list[Anomaly] = []
        self.grafts: list[Graft] = []
        self.info: ValueInfo | None = None
        self.call: Callable[[int], tuple[tuple[Any, ...], dict[str, Any]]] | None = None
        self.in_lane = [source.step for source in order.slots if isinstance(source, Lane)]
        self.is_generator = _is_generator(self.fn)
        if self.options.task_run_name is not None:
            self.labels = [None] * size
        self.is_plain = (
            self.options.timeout_seconds is None
            and self.labels is None
            and not self.is_generator
            and program.kind != "async"
            and order.tries is None
        )
        self.context = TaskContext(
            run_id=batch.run_id,
            flow_name=program.flow_name,
            node=program.node_name,
            node_key=program.node_key,
            task_name=self.options.name,
            is_mapped=program.is_mapped,
            width=batch.width if program.is_mapped else None,
            log_prints=bool(self.options.log_prints),
            parameters=program.flow_parameters,
        )


def _is_generator(fn: Any) -> bool:
    code = getattr(getattr(fn, "__func__", fn), "__code__", None)
    return code is not None and bool(code.co_flags & 0x20)


class Batch:
    """One batch under way."""

    def __init__(self, order: BatchOrder, host: BatchHost) -> None:
        self.order = order
        self.host = host
        self.size = len(order.indices)
        self.steps = [_Step(step, self.size, order) for step in order.steps]
        self.errors = ErrorTable(is_local=host.is_local)
        self.sink = LogSink(worker=host.worker, tees=host.is_local)
        self.position = 0
        self.summaries = 0
        self.is_abandoned = False
        self.started_wall = time.time()
        self.started = time.perf_counter()
        self._lock = threading.Lock()
        self._active: tuple[_Step, int, float] | None = None
        for step in self.steps:
            step.context.sink = self.sink

    # -- running --------------------------------------------------------------------------------------

    def run(self) -> Report:
        """Run items until done, the slice is over, or the run stops; never raises for user code."""
        capture_logging()
        if any(step.options.log_prints for step in self.steps):
            capture_prints()
        try:
            inputs = ready_inputs(self.order, self.host.load)
        except Exception as error:
            return self._refuse(error)
        for step in self.steps:
            slots: list[Ready] = [
                self.steps[source.step].values if isinstance(source, Lane) else inputs[source]
                for source in step.order.slots
            ]
            step.call = make_call(step.program, slots)
            problem = next(
                (error for each in slots if isinstance(each, Constant) and (error := failed_input(each.value))), None
            )
            if problem is not None and step.program.kind != "builtin":
                return self._refuse(_upstream(step, problem), code=Code.UPSTREAM_FAILED)
        if any(step.program.kind == "async" for step in self.steps):
            reached = _run_coroutine(self._run_async())
        else:
            reached = self._run_sync()
        return self.report(reached)

    def _run_sync(self) -> int:
        order, host, steps = self.order, self.host, self.steps
        indices, size = order.indices, self.size
        clock = time.perf_counter
        t0 = now = self.started = clock()
        deadline = t0 + order.slice_seconds if order.slice_seconds is not None else float("inf")
        check_at = min(deadline, t0 + STOP_CHECK_SECONDS)
        recorder = self._fragment_recorder()
        tokens: list[Token[Any]] = [RECORDER.set(recorder), RUNNING.set(steps[0].context)]
        guard: Guard | None = None
        single = steps[0] if len(steps) == 1 and steps[0].is_plain else None
        note, number = host.note, order.id
        position = 0
        try:
            if any(step.options.timeout_seconds is not None for step in steps):
                guard = watchdog().guard(self._stuck)
            while position < size:
                index = indices[position]
                note(number, index)
                if single is not None:
                    context = single.context
                    context.map_index = index if context.is_mapped else None
                    try:
                        args, kwargs = single.call(position)  # type: ignore[misc]
                        value = single.fn(*args, **kwargs)
                        end = clock()
                        if recorder.nodes or type(value) is types.CoroutineType:
                            recorder = self._odd_value(single, position, value, recorder, now, end)
                        else:
                            single.values[position] = value
                            single.states[position] = _SUCCESS
                        single.attempts[position] = 1
                        single.starts[position] = now - t0
                        single.durations[position] = end - now
                    except BaseException as error:
                        end = clock()
                        recorder = self._failed(single, position, error, now, end, recorder)
                        if single.states[position] == Code.RETRYING:
                            recorder = self._careful(single, position, guard, recorder)
                            single.context.attempt = 1
                        end = clock()
                else:
                    recorder = self._lane(position, guard, recorder)
                    end = clock()
                now = end
                position += 1
                if now >= check_at:
                    if now >= deadline or host.is_stopped(order.run_id):
                        break
                    check_at = min(deadline, now + STOP_CHECK_SECONDS)
        finally:
            note(0, -1)
            if guard is not None:
                guard.close()
            RUNNING.reset(tokens[1])
            RECORDER.reset(tokens[0])
        return position

    def _lane(self, position: int, guard: Guard | None, recorder: Recorder) -> Recorder:
        """One item through all steps."""
        broken = False
        for step in self.steps:
            if broken and step.in_lane and not self._lane_goes_on(step, position):
                continue
            RUNNING.set(step.context)
            recorder = self._careful(step, position, guard, recorder)
            broken = broken or step.states[position] != _SUCCESS
        return recorder

    def _lane_goes_on(self, step: _Step, position: int) -> bool:
        """Whether a step runs after others of its lane did not simply succeed."""
        skipped = waits = False
        for other in step.in_lane:
            upstream = self.steps[other]
            code = upstream.states[position]
            if code in FAILED_CODES:
                step.states[position] = Code.UPSTREAM_FAILED
                return False
            skipped = skipped or code == Code.SKIPPED
            waits = waits or code in (Code.PENDING, Code.AWAITING_RETRY, Code.PAUSED, Code.GRAFTED)
        if waits:
            return False
        if skipped:
            step.states[position] = Code.SKIPPED
            return False
        return True

    def _careful(self, step: _Step, position: int, guard: Guard | None, recorder: Recorder) -> Recorder:
        """One item at one step with everything that may surround it: timeout, label, retries without delay."""
        clock = time.perf_counter
        index = self.order.indices[position]
        context = step.context
        context.map_index = index if context.is_mapped else None
        timeout = step.options.timeout_seconds
        while True:
            context.attempt = step.attempts[position] + 1
            start = clock()
            try:
                assert step.call is not None
                args, kwargs = step.call(position)
                problem = next((e for each in args if (e := failed_input(each))), None)
                if problem is not None and step.program.kind != "builtin":
                    raise _upstream(step, problem)
                if step.labels is not None:
                    step.labels[position] = label_of(step.program, args, kwargs, context)
                if timeout is not None and guard is not None:
                    value = self._timed(step, position, guard, timeout, start, args, kwargs)
                else:
                    value = step.fn(*args, **kwargs)
                    if step.is_generator:
                        value = list(value)
                end = clock()
                step.attempts[position] = min(255, context.attempt)
                if recorder.nodes or type(value) is types.CoroutineType:
                    recorder = self._odd_value(step, position, value, recorder, start, end)
                else:
                    step.values[position] = value
                    step.states[position] = _SUCCESS
            except Abandoned:
                raise
            except BaseException as error:
                end = clock()
                recorder = self._failed(step, position, error, start, end, recorder)
            step.starts[position] = start - self.started
            step.durations[position] = end - start
            if step.states[position] != Code.RETRYING:
                return recorder

    def _timed(
        self,
        step: _Step,
        position: int,
        guard: Guard,
        timeout: float,
        start: float,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        self._active = (step, position, start)
        fired = False
        try:
            guard.arm(timeout)
            try:
                value = step.fn(*args, **kwargs)
                if step.is_generator:
                    value = list(value)
            finally:
                fired = guard.disarm()
        except ItemTimeout:
            guard.disarm()
            raise _timed_out(step, timeout) from None
        except Exception as error:
            if fired:
                raise _timed_out(step, timeout) from error
            raise
        finally:
            self._active = None
        if fired:
            raise _timed_out(step, timeout)
        return value

    def _failed(
        self, step: _Step, position: int, error: BaseException, start: float, end: float, recorder: Recorder
    ) -> Recorder:
        """Book an attempt that raised; the state is `RETRYING` if another follows at once."""
        if isinstance(error, Abandoned):
            raise error
        attempt = step.attempts[position] + 1
        step.attempts[position] = min(255, attempt)
        self._book_failure(step, position, error, attempt, start, end - start)
        step.starts[position] = start - self.started
        step.durations[position] = end - start
        if recorder.nodes:
            recorder = self._fragment_recorder()
            RECORDER.set(recorder)
        return recorder

    def _book_failure(
        self, step: _Step, position: int, error: BaseException, attempt: int, start: float, duration: float
    ) -> None:
        index = self.order.indices[position]
        label = None if step.labels is None else step.labels[position]
        if isinstance(error, UpstreamFailed):
            code = outcome = Code.UPSTREAM_FAILED
            delay = 0.0
            step.attempts[position] = 0
            attempt = 0
        else:
            decision = decide(
                error,
                options=step.options,
                fn=step.fn,
                attempt=attempt,
                run_id=self.order.run_id,
                label=label or step.context.node,
                map_index=index,
            )
            code, outcome, delay = decision.code, decision.outcome, decision.delay
        immediately = code is Code.AWAITING_RETRY and delay <= 0 and attempt <= step.options.retry.retries
        if immediately and self.host.is_stopped(self.order.run_id):
            immediately = False
        inputs = ""
        if self.summaries < MAX_SUMMARIES and outcome is not Code.SKIPPED:
            self.summaries += 1
            inputs = self._summary(step, position)
        step.anomalies.append(
            Anomaly(
                position=position,
                attempt=attempt,
                code=Code.RETRYING if immediately else code,
                started=self.started_wall + (start - self.started),
                duration=duration,
                error=-1 if isinstance(error, GeneratorExit) else self.errors.add(error),
                delay=delay,
                inputs=inputs,
                label=label,
                outcome=outcome,
            )
        )
        step.states[position] = Code.RETRYING if immediately else code

    def _summary(self, step: _Step, position: int) -> str:
        try:
            assert step.call is not None
            args, kwargs = step.call(position)
            return summarize(step.program.parameter_names, args, kwargs)
        except Exception:
            return ""

    # -- values that are more than values ---------------------------------------------------------------

    def _fragment_recorder(self) -> Recorder:
        program = self.steps[0].program
        recorder = Recorder(flow_name=program.flow_name, is_fragment=True, can_force=False)
        recorder.flow_parameters = program.flow_parameters
        recorder.group = program.group
        return recorder

    def _odd_value(
        self, step: _Step, position: int, value: Any, recorder: Recorder, start: float, end: float
    ) -> Recorder:
        """A task that recorded calls (its value may hold futures), or gave a coroutine."""
        if type(value) is types.CoroutineType:
            value.close()
            raise GraphflowError(
                f"task {step.options.name!r} returned a coroutine from a plain function; define it with async def"
            )
        if recorder.nodes:
            recorder.scope = f"{step.program.node_key}/{self.order.indices[position]}"
            fragment = self._fragment(value, recorder)
            step.grafts.append(Graft(position=position, fragment=fragment))
            step.states[position] = Code.GRAFTED
            recorder = self._fragment_recorder()
            RECORDER.set(recorder)
            return recorder
        step.values[position] = value
        step.states[position] = _SUCCESS
        return recorder

    @staticmethod
    def _fragment(value: Any, recorder: Recorder) -> Fragment:
        plain = isinstance(value, Handle) and value._index is None and not value._node.is_mapped
        if isinstance(value, Handle) and plain:
            root = recorder.own(value, "a returned future").id
        elif contains_handle(value):
            root = recorder.collect(value).id
        else:
            # Its calls run for their own sake; the value is the value.
            root = recorder.collect(value).id
        return Fragment(nodes=tuple(recorder.nodes), root=root)

    # -- async tasks ------------------------------------------------------------------------------------

    async def _run_async(self) -> int:
        order, host = self.order, self.host
        limits = [step.options.concurrency or ASYNC_CONCURRENCY for step in self.steps]
        free = asyncio.Semaphore(min(limits))
        self.started = time.perf_counter()
        deadline = self.started + order.slice_seconds if order.slice_seconds is not None else float("inf")
        running: set[asyncio.Task[None]] = set()
        position = 0
        while position < self.size:
            await free.acquire()
            if position and (time.perf_counter() >= deadline or host.is_stopped(order.run_id)):
                break
            host.note(order.id, order.indices[position])
            item = asyncio.ensure_future(self._async_lane(position))
            running.add(item)
            item.add_done_callback(running.discard)
            item.add_done_callback(lambda _: free.release())
            position += 1
        while running:
            await asyncio.wait(running, timeout=0.2)
            if running and host.is_stopped(order.run_id):
                for item in list(running):
                    item.cancel()
        host.note(0, -1)
        return position

    async def _async_lane(self, position: int) -> None:
        index = self.order.indices[position]
        for step in self.steps:
            if step.in_lane and not self._lane_goes_on(step, position):
                continue
            shared = step.context
            context = TaskContext(
                run_id=shared.run_id,
                flow_name=shared.flow_name,
                node=shared.node,
                node_key=shared.node_key,
                task_name=shared.task_name,
                is_mapped=shared.is_mapped,
                width=shared.width,
                map_index=index if shared.is_mapped else None,
                log_prints=shared.log_prints,
                sink=shared.sink,
                parameters=shared.parameters,
            )
            RUNNING.set(context)
            await self._async_step(step, position, context)

    async def _async_step(self, step: _Step, position: int, context: TaskContext) -> None:
        clock = time.perf_counter
        while True:
            recorder = self._fragment_recorder()
            RECORDER.set(recorder)
            context.attempt = step.attempts[position] + 1
            start = clock()
            try:
                assert step.call is not None
                args, kwargs = step.call(position)
                problem = next((e for each in args if (e := failed_input(each))), None)
                if problem is not None:
                    raise _upstream(step, problem)
                if step.labels is not None:
                    step.labels[position] = label_of(step.program, args, kwargs, context)
                value = step.fn(*args, **kwargs)
                if hasattr(value, "__aiter__"):
                    value = _listed(value)
                if hasattr(value, "__await__"):
                    value = await self._awaited(step, value)
                step.attempts[position] = min(255, context.attempt)
                self._odd_value(step, position, value, recorder, start, clock())
            except asyncio.CancelledError:
                step.states[position] = Code.CANCELLED
            except BaseException as error:
                self._failed(step, position, error, start, clock(), recorder)
            step.starts[position] = start - self.started
            step.durations[position] = clock() - start
            if step.states[position] != Code.RETRYING:
                return

    @staticmethod
    async def _awaited(step: _Step, value: Any) -> Any:
        timeout = step.options.timeout_seconds
        if timeout is None:
            return await value
        try:
            async with asyncio.timeout(timeout) as scope:
                return await value
        except TimeoutError:
            if scope.expired():
                raise _timed_out(step, timeout) from None
            raise

    # -- reports ----------------------------------------------------------------------------------------

    def _refuse(self, error: Exception, code: Code = Code.FAILED) -> Report:
        """The batch cannot begin: all its items fail with the same error."""
        self.started = time.perf_counter()
        for position in range(self.size):
            for number, step in enumerate(self.steps):
                if number and step.in_lane:
                    step.states[position] = Code.UPSTREAM_FAILED
                    continue
                step.attempts[position] = min(255, step.attempts[position] + (code is Code.FAILED))
                step.states[position] = code
                step.anomalies.append(
                    Anomaly(
                        position=position,
                        attempt=step.attempts[position],
                        code=code,
                        started=self.started_wall,
                        duration=0.0,
                        error=self.errors.add(error),
                        outcome=code,
                    )
                )
        return self.report(self.size)

    def _stuck(self) -> None:
        """Called by the watchdog: the active item does not yield. Report without it, then end it by force."""
        active = self._active
        if active is None:
            return
        self.is_abandoned = True
        step, position, start = active
        timeout = step.options.timeout_seconds or 0.0
        now = time.perf_counter()
        step.attempts[position] = min(255, step.attempts[position] + 1)
        error = _timed_out(step, timeout)
        self._book_failure(step, position, error, step.attempts[position], start, now - start)
        if step.states[position] == Code.RETRYING:
            # Another attempt follows, but not in this thread.
            step.states[position] = Code.AWAITING_RETRY
            last = step.anomalies.pop()
            step.anomalies.append(
                Anomaly(
                    position=position,
                    attempt=last.attempt,
                    code=Code.AWAITING_RETRY,
                    started=last.started,
                    duration=last.duration,
                    error=last.error,
                    inputs=last.inputs,
                    label=last.label,
                    outcome=last.outcome,
                )
            )
        step.starts[position] = start - self.started
        step.durations[position] = now - start
        for later in self.steps[self.steps.index(step) + 1 :]:
            if later.in_lane:
                self._lane_goes_on(later, position)
        self.host.ending()
        self.host.give_up(self.report(position + 1))

    def report(self, reached: int) -> Report:
        """The report of the first `reached` positions; values are stored before it is made."""
        elapsed = time.perf_counter() - self.started
        columns = [step.values[:reached] for step in self.steps]
        stored = self.host.store(columns)
        labelled = [step for step in self.steps if step.labels is not None]
        label_refs = self.host.store([list(step.labels or ())[:reached] for step in labelled]) if labelled else []
        labels = {id(step): each for step, each in zip(labelled, label_refs, strict=True)}
        reports = []
        for step, outcome in zip(self.steps, stored, strict=True):
            if isinstance(outcome, SerializationFailure):
                for position, error in outcome.errors.items():
                    self._uncarried(step, position, error)
                ref = outcome.ref
            else:
                ref = outcome
            if not step.program.is_mapped and reached and step.states[0] == _SUCCESS:
                step.info = value_info(step.values[0])
            label_ref = labels.get(id(step))
            reports.append(
                StepReport(
                    node=step.order.node,
                    states=bytes(step.states[:reached]),
                    attempts=bytes(step.attempts[:reached]),
                    starts=step.starts[:reached],
                    durations=step.durations[:reached],
                    values=ref,
                    labels=label_ref if isinstance(label_ref, Ref) else None,
                    info=step.info,
                    anomalies=tuple(step.anomalies),
                    grafts=tuple(step.grafts),
                )
            )
        logs: list[LogRecord] = self.sink.records
        return Report(
            batch=self.order.id,
            worker=self.host.worker,
            started=self.started_wall,
            elapsed=elapsed,
            reached=reached,
            steps=tuple(reports),
            errors=tuple(self.errors.records),
            logs=logs,
            logs_dropped=self.sink.dropped,
        )

    def _uncarried(self, step: _Step, position: int, error: Exception) -> None:
        value = step.values[position]
        index = self.order.indices[position]
        problem = SerializationError(
            f"the result of {step.context.node}{f'[{index}]' if step.program.is_mapped else ''}, a "
            f"{type(value).__qualname__}, cannot be carried to other processes: {type(error).__name__}: {error}; "
            "return plain data, or run on the threads backend"
        )
        step.states[position] = Code.FAILED
        step.anomalies.append(
            Anomaly(
                position=position,
                attempt=step.attempts[position],
                code=Code.FAILED,
                started=self.started_wall + step.starts[position],
                duration=step.durations[position],
                error=self.errors.add(problem),
                outcome=Code.FAILED,
            )
        )


def _run_coroutine(coroutine: Any) -> int:
    """Run a coroutine to its end, also in a thread whose event loop is running."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return int(asyncio.run(coroutine))
    outcome: list[Any] = []

    def target() -> None:
        try:
            outcome.append(asyncio.run(coroutine))
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=target, name="graphflow-async")
    thread.start()
    thread.join()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return int(outcome[0])


async def _listed(source: Any) -> list[Any]:
    return [each async for each in source]


def _timed_out(step: _Step, timeout: float) -> ItemTimedOut:
    index = step.context.map_index
    place = f"[{index}]" if index is not None else ""
    return ItemTimedOut(f"{step.context.node}{place} ran longer than timeout_seconds={timeout:g}")


def _upstream(step: _Step, problem: BaseException) -> GraphflowError:
    if isinstance(problem, UpstreamFailed | SerializationError):
        # An argument that could not be sent is the item's own failure.
        return problem
    text = f"{step.context.node} did not run, because an input failed: {type(problem).__name__}: {problem}"
    error = UpstreamFailed(text, root=f"{type(problem).__name__}: {problem}")
    error.__cause__ = problem
    return error


def run_batch(order: BatchOrder, host: BatchHost) -> Report | None:
    """Run a batch; None if it was given up and its report delivered by `host.give_up`."""
    batch = Batch(order, host)
    try:
        return batch.run()
    except Abandoned:
        return None
