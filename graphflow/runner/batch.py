"""One batch on a worker: runs items of a stage within a time slice, and gives one report.

Each item passes through the steps in order; each step has its own state, attempts, retries, timeout and
time. A failing step ends the item's lane only. Nothing that user code raises leaves this module.
"""

from __future__ import annotations

import time
import types
from contextvars import Token
from dataclasses import replace
from typing import Any

from graphflow.context import RECORDER, RUNNING, TaskContext
from graphflow.errors import GraphflowError, SerializationError
from graphflow.mapping import value_info
from graphflow.orders import BatchOrder, Lane
from graphflow.recording import Fragment, Handle, Recorder, handle_types
from graphflow.reports import Anomaly, Graft, Report, StepReport
from graphflow.runner.capture import LogSink, capture_logging, capture_prints
from graphflow.runner.faults import Decision, ErrorTable, decide, summarize
from graphflow.runner.host import BatchHost, SerializationFailure
from graphflow.runner.inputs import ready_inputs
from graphflow.runner.labels import label_of
from graphflow.runner.step import ONE_SHOT, Step
from graphflow.runner.watchdog import Abandoned, Guard, ItemTimeout, watchdog
from graphflow.states import Code

__all__ = ["Batch", "BatchHost", "SerializationFailure", "run_batch"]

MAX_SUMMARIES = 100
STOP_CHECK_SECONDS = 0.005
_SUCCESS = int(Code.COMPLETED)


class Batch:
    """One batch under way."""

    def __init__(self, order: BatchOrder, host: BatchHost) -> None:
        self.order = order
        self.host = host
        self.size = len(order.indices)
        self.sink = LogSink(worker=host.worker, tees=host.is_local)
        self.steps = [Step(step, self.size, order, self.sink) for step in order.steps]
        self.errors = ErrorTable(is_local=host.is_local)
        self.started_wall = time.time()
        self.started = time.perf_counter()
        self.started_cpu = time.thread_time()
        self._summaries = 0
        self._handle_types = handle_types()
        self._odd_types = ONE_SHOT | self._handle_types | {types.CoroutineType}
        self._active: tuple[Step, int, float] | None = None

    # -- running --------------------------------------------------------------------------------------

    def run(self) -> Report:
        """Run items until done, the slice is over, or the run stops; never raises for user code."""
        capture_logging()
        if any(step.options.log_prints for step in self.steps):
            capture_prints()
        if self.is_stopped():
            return self.report(0)
        try:
            inputs = ready_inputs(self.order, self.host.load)
        except Exception as error:
            return self._refuse(error)
        for step in self.steps:
            step.prepare(
                [
                    self.steps[source.step].values if isinstance(source, Lane) else inputs[source]
                    for source in step.order.slots
                ]
            )
        if any(step.program.kind == "async" for step in self.steps):
            # asyncio takes longer to import than a small flow takes to run.
            from graphflow.runner.concurrent import run_concurrently

            reached = run_concurrently(self)
        else:
            reached = self._run_in_turn()
        return self.report(reached)

    def is_stopped(self) -> bool:
        """Whether no further item may be begun."""
        return self.host.is_stopped(self.order.run_id)

    def begin(self) -> float:
        """The clock of the batch starts; gives the time after which no item is begun."""
        self.started = time.perf_counter()
        self.started_cpu = time.thread_time()
        seconds = self.order.slice_seconds
        return self.started + seconds if seconds is not None else float("inf")

    def _run_in_turn(self) -> int:
        """Run items one after the other; gives how many."""
        steps = self.steps
        deadline = self.begin()
        tokens: list[Token[Any]] = [RECORDER.set(steps[0].recorder), RUNNING.set(steps[0].context)]
        guard: Guard | None = None
        try:
            if all(step.is_plain for step in steps):
                return self._run_plain(deadline)
            if any(step.options.timeout_seconds is not None for step in steps):
                guard = watchdog().guard(self._stuck)
            return self._run_carefully(deadline, guard)
        finally:
            self.host.note(0, -1)
            if guard is not None:
                guard.close()
            RUNNING.reset(tokens[1])
            RECORDER.reset(tokens[0])

    def _run_plain(self, deadline: float) -> int:
        """The short way for steps with nothing around their calls: all that happens per item is here."""
        steps, indices, note, number = self.steps, self.order.indices, self.host.note, self.order.id
        odd_types, clock, started = self._odd_types, time.perf_counter, self.started
        is_chain = len(steps) > 1
        check_at = min(deadline, started + STOP_CHECK_SECONDS)
        start = started
        position = 0
        for step in steps:
            step.context.attempt = 1
        while position < self.size:
            index = indices[position]
            note(number, index)
            for step in steps:
                context = step.context
                if is_chain:
                    RUNNING.set(context)
                    RECORDER.set(step.recorder)
                context.map_index = index if context.is_mapped else None
                try:
                    args, kwargs = step.call(position)
                    value = step.fn(*args, **kwargs)
                    end = clock()
                    if step.recorder.nodes or type(value) in odd_types:
                        self.take(step, position, value, step.recorder)
                        self._renew(step)
                    else:
                        step.values[position] = value
                        step.states[position] = _SUCCESS
                    step.attempts[position] = 1
                    step.starts[position] = start - started
                    step.durations[position] = end - start
                except BaseException as error:
                    self.failed(step, position, error, start)
                    self._renew(step)
                    if step.states[position] == Code.RETRYING:
                        self._run_step(step, position, None)
                        context.attempt = 1
                    end = clock()
                    # It may have been Ctrl-C: look now whether to go on.
                    check_at = 0.0
                start = end
                if is_chain and step.states[position] != _SUCCESS:
                    self._run_rest(step, position)
                    start = clock()
                    break
            position += 1
            if start >= check_at:
                if start >= deadline or self.is_stopped():
                    break
                check_at = min(deadline, start + STOP_CHECK_SECONDS)
        return position

    def _run_rest(self, last: Step, position: int) -> None:
        """What is left of an item's lane after a step that did not simply succeed."""
        for step in self.steps[self.steps.index(last) + 1 :]:
            if not step.in_lane or step.goes_on(position, self.steps):
                RUNNING.set(step.context)
                RECORDER.set(step.recorder)
                self._run_step(step, position, None)
                step.context.attempt = 1

    def _run_carefully(self, deadline: float, guard: Guard | None) -> int:
        """The way for items with something around their calls."""
        note, number = self.host.note, self.order.id
        check_at = min(deadline, self.started + STOP_CHECK_SECONDS)
        position = 0
        while position < self.size:
            note(number, self.order.indices[position])
            for step in self.steps:
                if not step.in_lane or step.goes_on(position, self.steps):
                    RUNNING.set(step.context)
                    RECORDER.set(step.recorder)
                    self._run_step(step, position, guard)
            now = time.perf_counter()
            is_whole = self.steps[-1].states[position] == _SUCCESS
            position += 1
            if now >= check_at or not is_whole:
                if now >= deadline or self.is_stopped():
                    break
                check_at = min(deadline, now + STOP_CHECK_SECONDS)
        return position

    def _run_step(self, step: Step, position: int, guard: Guard | None) -> None:
        """One item at one step with everything that may surround it: timeout, label, retries without delay."""
        context = step.context
        context.map_index = self.order.indices[position] if context.is_mapped else None
        if self.lost_input(step, position):
            return
        while True:
            context.attempt = step.attempts[position] + 1
            start = time.perf_counter()
            try:
                args, kwargs = self.call_of(step, position, context)
                if guard is not None and step.options.timeout_seconds is not None:
                    value = self._timed(step, position, guard, start, args, kwargs)
                else:
                    value = step.fn(*args, **kwargs)
                self.take(step, position, value, step.recorder)
                self.ended(step, position, start)
            except BaseException as error:
                self.failed(step, position, error, start)
            self._renew(step)
            if step.states[position] != Code.RETRYING:
                return

    @staticmethod
    def _renew(step: Step) -> None:
        """Give a step a new recorder if its last item recorded something."""
        if step.recorder.nodes:
            step.recorder = step.new_recorder(step.context)
            RECORDER.set(step.recorder)

    def _timed(
        self,
        step: Step,
        position: int,
        guard: Guard,
        start: float,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Call within the task's `timeout_seconds`."""
        index = self.order.indices[position]
        self._active = (step, position, start)
        fired = False
        try:
            guard.arm(step.options.timeout_seconds or 0.0)
            try:
                value = step.fn(*args, **kwargs)
                if type(value) in ONE_SHOT:
                    value = list(value)
            finally:
                fired = guard.disarm()
        except ItemTimeout:
            guard.disarm()
            raise step.timed_out(index) from None
        except Exception as error:
            if fired:
                raise step.timed_out(index) from error
            raise
        finally:
            self._active = None
        if fired:
            raise step.timed_out(index)
        return value

    # -- used by both ways of running: in turn, and concurrently ----------------------------------------

    def call_of(
        self, step: Step, position: int, context: TaskContext
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of an item's call; its label is made on the way."""
        args, kwargs = step.call(position)
        if step.labels is not None:
            step.labels[position] = label_of(step.program, args, kwargs, context)
        return args, kwargs

    def lost_input(self, step: Step, position: int) -> bool:
        """Whether an input of the item failed upstream, so that the item cannot run; that is booked."""
        lost = step.lost_input(position)
        if lost is None:
            return False
        error = step.upstream_failed(lost, self.order.indices[position])
        code = Code.FAILED if isinstance(error, SerializationError) else Code.UPSTREAM_FAILED
        self._book(step, position, error, Decision(code, code), 0, time.perf_counter())
        return True

    def take(self, step: Step, position: int, value: Any, recorder: Recorder) -> None:
        """Take a task's value: as it is, as a list of what an iterator gives, or as a fragment to graft."""
        kind = type(value)
        if kind is types.CoroutineType:
            value.close()
            raise GraphflowError(
                f"task {step.options.name!r} returned a coroutine from a plain function; define it with async def"
            )
        if kind in ONE_SHOT:
            value = list(value)
        if not recorder.nodes and kind not in self._handle_types:
            step.values[position] = value
            step.states[position] = _SUCCESS
            return
        step.grafts.append(Graft(position=position, fragment=_fragment(value, recorder)))
        step.states[position] = Code.GRAFTED

    def ended(self, step: Step, position: int, start: float) -> None:
        """Book an attempt that did not raise."""
        step.attempts[position] = min(255, step.attempts[position] + 1)
        step.starts[position] = start - self.started
        step.durations[position] = time.perf_counter() - start

    def failed(self, step: Step, position: int, error: BaseException, start: float) -> None:
        """Book an attempt that raised; the state is `RETRYING` if another follows at once."""
        if isinstance(error, Abandoned):
            raise error
        attempt = step.attempts[position] + 1
        step.attempts[position] = min(255, attempt)
        label = None if step.labels is None else step.labels[position]
        index = self.order.indices[position]
        decision = decide(
            error,
            options=step.options,
            fn=step.fn,
            attempt=attempt,
            run_id=self.order.run_id,
            label=label or step.name_of(index),
            map_index=index if step.program.is_mapped else None,
        )
        self._book(step, position, error, decision, attempt, start)

    def _book(
        self, step: Step, position: int, error: BaseException, decision: Decision, attempt: int, start: float
    ) -> None:
        duration = time.perf_counter() - start
        code = decision.code
        if code is Code.AWAITING_RETRY and decision.delay <= 0 and attempt <= step.options.retry.retries:
            code = Code.AWAITING_RETRY if self.is_stopped() else Code.RETRYING
        step.anomalies.append(
            Anomaly(
                position=position,
                attempt=attempt,
                code=code,
                started=self.started_wall + (start - self.started),
                duration=duration,
                error=self.errors.add(error),
                delay=decision.delay,
                inputs="" if decision.outcome is Code.SKIPPED else self._summary(step, position),
                label=None if step.labels is None else step.labels[position],
                outcome=decision.outcome,
            )
        )
        step.states[position] = code
        step.starts[position] = start - self.started
        step.durations[position] = duration

    def _summary(self, step: Step, position: int) -> str:
        """The item's arguments in short, for the first failures of a batch."""
        if self._summaries >= MAX_SUMMARIES:
            return ""
        self._summaries += 1
        try:
            args, kwargs = step.call(position)
            return summarize(step.program.parameter_names, args, kwargs)
        except Exception:
            return ""

    # -- reports ----------------------------------------------------------------------------------------

    def _refuse(self, error: Exception) -> Report:
        """The batch cannot begin: all its items fail with the same error."""
        self.begin()
        for position in range(self.size):
            for step in self.steps:
                if step.in_lane:
                    step.states[position] = Code.UPSTREAM_FAILED
                    continue
                step.attempts[position] = min(255, step.attempts[position] + 1)
                failed = Decision(Code.FAILED, Code.FAILED)
                self._book(step, position, error, failed, step.attempts[position], self.started)
        return replace(self.report(self.size), is_refused=True)

    def _stuck(self) -> None:
        """Called by the watchdog: the active item does not yield. Report without it, then end it by force."""
        active = self._active
        if active is None:
            return
        step, position, start = active
        self.stuck(step, position, start)
        self.host.ending()
        self.host.give_up(self.report(position + 1))

    def stuck(self, step: Step, position: int, start: float) -> None:
        """Book an item that does not yield after its time; another attempt does not follow in this thread."""
        self.failed(step, position, step.timed_out(self.order.indices[position]), start)
        if step.states[position] == Code.RETRYING:
            step.states[position] = Code.AWAITING_RETRY
            step.anomalies[-1] = replace(step.anomalies[-1], code=Code.AWAITING_RETRY)
        for later in self.steps[self.steps.index(step) + 1 :]:
            if later.in_lane:
                later.goes_on(position, self.steps)

    def interrupted(self, step: Step, position: int, start: float) -> None:
        """Book an item that is run again on account of another: the attempt does not count."""
        step.states[position] = Code.AWAITING_RETRY
        step.anomalies.append(
            Anomaly(
                position=position,
                attempt=0,
                code=Code.AWAITING_RETRY,
                started=self.started_wall + (start - self.started),
                duration=time.perf_counter() - start,
            )
        )

    def report(self, reached: int) -> Report:
        """The report of the first `reached` positions; values are stored before it is made."""
        elapsed = time.perf_counter() - self.started
        # The watchdog's thread has a clock of its own.
        cpu_seconds = max(0.0, time.thread_time() - self.started_cpu)
        return Report(
            batch=self.order.id,
            worker=self.host.worker,
            started=self.started_wall,
            elapsed=elapsed,
            reached=reached,
            steps=self._step_reports(reached),
            errors=tuple(self.errors.records),
            logs=self.sink.records,
            logs_dropped=self.sink.dropped,
            cpu_seconds=cpu_seconds,
            is_remote=not self.host.is_local,
        )

    def _step_reports(self, reached: int) -> tuple[StepReport, ...]:
        for step in self.steps:
            if not step.program.is_mapped and reached and step.states[0] == _SUCCESS:
                step.values[0], step.info = value_info(step.values[0], is_mapped_over=step.order.wants_info)
        stored = self.host.store([step.values[:reached] for step in self.steps])
        labelled = [step.labels[:reached] for step in self.steps if step.labels is not None]
        labels = iter(self.host.store(labelled) if labelled else [])
        reports = []
        for step, outcome in zip(self.steps, stored, strict=True):
            if isinstance(outcome, SerializationFailure):
                for position, error in outcome.errors.items():
                    self._uncarried(step, position, error)
                outcome = outcome.ref
            label_ref = next(labels) if step.labels is not None else None
            reports.append(
                StepReport(
                    node=step.order.node,
                    states=bytes(step.states[:reached]),
                    attempts=bytes(step.attempts[:reached]),
                    starts=step.starts[:reached],
                    durations=step.durations[:reached],
                    values=outcome,
                    labels=None if isinstance(label_ref, SerializationFailure) else label_ref,
                    info=step.info,
                    anomalies=tuple(step.anomalies),
                    grafts=tuple(step.grafts),
                )
            )
        return tuple(reports)

    def _uncarried(self, step: Step, position: int, error: Exception) -> None:
        """A result that cannot be stored fails its item."""
        problem = SerializationError(
            f"the result of {step.name_of(self.order.indices[position])}, a "
            f"{type(step.values[position]).__qualname__}, cannot be carried to other processes: "
            f"{type(error).__name__}: {error}; return plain data, or run on the threads backend"
        )
        step.states[position] = Code.FAILED
        step.info = None
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


def _fragment(value: Any, recorder: Recorder) -> Fragment:
    """What a task recorded, with the node that gives its value."""
    if isinstance(value, Handle) and value._index is None and not value._node.is_mapped:
        root = recorder.own(value, "a task's returned future").id
    else:
        # Of a plain value, the calls run for their own sake.
        root = recorder.collect(value).id
    return Fragment(nodes=tuple(recorder.nodes), root=root)


def run_batch(order: BatchOrder, host: BatchHost) -> Report | None:
    """Run a batch; None if it was given up and its report delivered by `host.give_up`."""
    batch = Batch(order, host)
    try:
        return batch.run()
    except Abandoned:
        return None
