"""The books of one batch on a worker: what became of its items, and the reports of it.

How the items are run is the matter of `run` and of the loops below it; they book here what happened.
"""

from __future__ import annotations

import threading
import time
import types
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from graphflow.common.failpoints import failpoint
from graphflow.core.batching import MAX_RESULT_NBYTES
from graphflow.errors import GraphflowError, ResultDamaged, SerializationError
from graphflow.graph.context import TaskContext
from graphflow.graph.fragments import Fragment
from graphflow.graph.handles import Handle, handle_types
from graphflow.graph.mapping import DROPPED, element_nbytes, is_small, value_info
from graphflow.graph.owning import listed
from graphflow.graph.recording import Recorder
from graphflow.model.orders import BatchOrder, Ref
from graphflow.model.reports import Anomaly, Faults, Graft, Report, StepReport
from graphflow.model.states import FINAL_CODES, GOOD_CODES, Code
from graphflow.ports import GrowingStore
from graphflow.runner.bundles import BundleStep, bundle_reports
from graphflow.runner.capture import LogSink
from graphflow.runner.faults import (
    MAX_SUMMARIES,
    Decision,
    ErrorTable,
    decide,
    delay_after,
    summarize,
    sure_end,
)
from graphflow.runner.host import BatchHost, Packed, SerializationFailure
from graphflow.runner.labels import label_of
from graphflow.runner.pace import Slots
from graphflow.runner.packing import pack_values
from graphflow.runner.positions import (
    CONCURRENT_TELL_SECONDS,
    LATE_SECONDS,
    TELL_SECONDS,
    Positions,
    Teller,
    inputs_of,
    part_of,
    records_of,
)
from graphflow.runner.protocols import CacheOfBatch
from graphflow.runner.step import ONE_SHOT, Step
from graphflow.runner.watchdog import Abandoned

__all__ = ["SUCCESS_CODES", "Batch"]

HELD_UP = 4.0
"""An item that takes so many times what an item of its batch is thought to take holds up those behind it."""
_SUCCESS = int(Code.COMPLETED)
SUCCESS_CODES = (int(Code.COMPLETED), int(Code.CACHED))
_clock = time.perf_counter


class Batch:
    """One batch under way."""

    def __init__(self, order: BatchOrder, host: BatchHost) -> None:
        self.order = order
        self.host = host
        self.size = len(order.indices)
        self.sink = LogSink(worker=host.worker, tell=host.tell)
        make = Step if order.bundle is None else BundleStep
        self.steps = [make(step, self.size, order, self.sink) for step in order.steps]
        for place, each in enumerate(self.steps):
            each.look_ahead(place, self.steps)
        self.errors = ErrorTable(is_local=host.is_local)
        self.started_wall = time.time()
        self.started = time.perf_counter()
        self.summaries = 0
        self.handle_types = handle_types()
        self.odd_types = ONE_SHOT | self.handle_types | {types.CoroutineType}
        self.is_async = any(step.program.kind == "async" for step in self.steps)
        self.is_chunked = self.steps[0].is_batched
        self.deadline = float("inf")
        """When no item is begun any more, by the clock of `started`."""
        self.progress = Positions(self.size, in_turn=not (self.is_async or self.is_chunked))
        self.slots = (
            Slots(
                order.pace,
                order.pace.count or self.size,
                clock=time.perf_counter,
                start=order.pace.since or self.started,
            )
            if order.pace
            else None
        )
        self.teller: Teller | None = None
        self.dropping = [step for step in self.steps if not step.order.keeps and step.order.cache is None]
        """Steps whose values only later steps of this batch need."""
        self.caches: CacheOfBatch | None = None
        self.store_seconds = 0.0
        """What was waited for stores."""
        self._waited = 0.0
        self._taken, self._taken_at = 0, self.started
        """How many items had begun, and since when that is so, as far as was looked."""
        self.store_error = ""
        """Why a cache could not be used; empty where it could."""
        self.started_cpu = time.thread_time()
        self._thread = threading.get_ident()

    def is_stopped(self) -> bool:
        """Return whether no further item may be begun."""
        return self.host.is_stopped(self.order.run_id)

    def is_full(self, reached: int) -> bool:
        """Return whether the values of so many items, of which the last is taken as a sample, weigh enough for one batch."""
        if self.order.slice_seconds is None:
            return False
        kept = [step.values[reached - 1 : reached] for step in self.steps if step.order.keeps]
        return reached * sum(map(element_nbytes, kept)) > MAX_RESULT_NBYTES

    def begin(self) -> None:
        """Start the clock of the batch."""
        self.started = time.perf_counter()
        self.started_cpu = time.thread_time()
        if self.order.slice_seconds is not None:
            self.deadline = self.started + self.order.slice_seconds

    @contextmanager
    def storing(self, *, in_slice: bool = False) -> Iterator[None]:
        """Measure the store's time, which does not count against the items' slice."""
        begun = _clock()
        try:
            yield
        finally:
            took = _clock() - begun
            self.store_seconds += took
            if in_slice:
                self._waited += took
                self.deadline += took

    # -- what is told while the batch goes on -----------------------------------------------------------

    def new_teller(self) -> Teller:
        """What tells the driver, while the batch goes on, which items have ended."""
        seconds = self.order.slice_seconds
        if self.is_async and not self.is_chunked:
            return Teller(self._tell, first=CONCURRENT_TELL_SECONDS, every=CONCURRENT_TELL_SECONDS)
        if self.order.tell_seconds is not None and self._tells_cheaply():
            return Teller(self._tell, first=0.0, every=self.order.tell_seconds, is_in_step=True)
        first = TELL_SECONDS if seconds is None else seconds + LATE_SECONDS
        return Teller(self._tell, first=first, every=TELL_SECONDS)

    def _tells_cheaply(self) -> bool:
        """Return whether a report costs no object of a store, so that it need not wait for the end of a grown slice."""
        results = self.order.results
        return (results is None or isinstance(results, GrowingStore)) and self.caches is None

    def _tell(self) -> None:
        """Deliver what has ended; after the end of the slice, also hand back what was not begun."""
        progress = self.progress
        with progress.lock:
            if progress.is_over:
                return
            now = time.perf_counter()
            if progress.taken and (now >= self.deadline or self.is_stopped() or self._is_held_up(now)):
                progress.cut()
            part = progress.part()
            if part is not None:
                positions, held = part
                self.host.progress(self.report(positions, held))
                if progress.is_cut and self.caches is not None:
                    # What is handed back may begin elsewhere at once.
                    self.caches.land(held)
                progress.told(positions)

    def _is_held_up(self, now: float) -> bool:
        """Return whether, within a grown slice, an item takes so long that those behind it are better begun elsewhere."""
        order, taken = self.order, self.progress.taken
        if taken != self._taken:
            self._taken, self._taken_at = taken, now
            return False
        if order.tell_seconds is None or order.slice_seconds is None or self.is_async or self.is_chunked:
            return False
        expected = order.slice_seconds / self.size
        return now - self._taken_at > max(order.tell_seconds, HELD_UP * expected)

    def give_up(self, reached: int | None = None, *, held: Sequence[int] = ()) -> None:
        """Deliver the last report, then end the batch's thread or process by force; called by the watchdog."""
        self.host.ending()
        with self.progress.lock:
            report = self.report(self.progress.last(reached), held, is_last=True)
        if self.caches is not None:
            self.caches.close()
        self.host.give_up(report)

    # -- used by all ways of running: in turn, in chunks and concurrently --------------------------------

    def learner(self, step: Step) -> Callable[[], float | None] | None:
        """Return what tells a step's limit while an item runs, where it follows from the map's median and is not known yet."""
        if step.limit is not None:
            return None

        def learn() -> float | None:
            step.limit = self.host.limit_of(self.order.run_id, step.order.node)
            return step.limit

        return learn

    def call_of(
        self, step: Step, position: int, context: TaskContext
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments of an item's call; its label is made on the way."""
        args, kwargs = step.call(position)
        if step.labels is not None:
            step.labels[position] = label_of(step.program, args, kwargs, context)
        return args, kwargs

    def lost_input(self, step: Step, position: int) -> bool:
        """Return whether an item cannot run: an input failed upstream, which is booked, or what it waits for did not succeed."""
        if not step.is_due(position):
            return True
        lost = step.lost_input(position)
        if lost is None:
            return False
        error = step.upstream_failed(lost, self.order.indices[position])
        is_own = isinstance(error, SerializationError | ResultDamaged)
        code = Code.FAILED if is_own else Code.UPSTREAM_FAILED
        self._book(step, position, error, Decision(code, code), 0, time.perf_counter())
        return True

    def take(self, step: Step, position: int, value: Any, recorder: Recorder) -> None:
        """Store a task's value: as it is, as a list of an iterator's items, or as a fragment to graft."""
        kind = type(value)
        if kind is types.CoroutineType:
            value.close()
            raise GraphflowError(
                f"task {step.options.name!r} returned a coroutine from a plain function; define it with async def"
            )
        if kind in ONE_SHOT:
            value = listed(value)
        if not recorder.nodes and kind not in self.handle_types:
            step.values[position] = value
            step.states[position] = _SUCCESS
            return
        step.grafts.append(Graft(position=position, fragment=_fragment(value, recorder)))
        step.states[position] = Code.GRAFTED

    def drop_values(self, position: int) -> None:
        """Release large values of an item that are no longer needed, now that its lane has ended.

        Of a lane that did not end well they are kept, so that what failed can run again with the same inputs.
        """
        self._drop(self.dropping, position)

    def _drop(self, steps: Sequence[Step], position: int) -> None:
        if all(step.states[position] in GOOD_CODES for step in self.steps):
            for step in steps:
                if step.values[position] is not None and not is_small(step.values[position]):
                    step.values[position] = DROPPED

    def ended(self, step: Step, position: int, start: float) -> None:
        """Book an attempt that did not raise."""
        step.attempts[position] = min(255, step.attempts[position] + 1)
        step.starts[position] = start - self.started
        step.durations[position] = time.perf_counter() - start

    def failed(self, step: Step, position: int, error: BaseException, start: float) -> None:
        """Book an attempt that raised; the state is `RETRYING` if another follows at once."""
        attempt = step.attempts[position] + 1
        code = step.sure_ends.get(type(error))
        if code and attempt < 256:
            step.attempts[position] = attempt
            if code < 0 and attempt <= step.options.retry.retries:
                delay = delay_after(attempt, step.options)
                waits = Decision(Code.AWAITING_RETRY, Code(-code), delay)
                self._book_wait(step, position, error, waits, attempt, start)
            else:
                self.book_end(step, position, error, abs(code), start)
            return
        if isinstance(error, Abandoned):
            raise error
        if code is None:
            step.sure_ends[type(error)] = sure_end(type(error), step.options)
        step.attempts[position] = min(255, attempt)
        decision = decide(
            error,
            options=step.options,
            fn=step.program.fn,
            attempt=attempt,
            run_id=self.order.flow_run_id,
            label=lambda: self._label(step, position),
            map_index=self.order.indices[position] if step.program.is_mapped else None,
        )
        self._book(step, position, error, decision, attempt, start)

    def _label(self, step: Step, position: int) -> str:
        label = None if step.labels is None else step.labels[position]
        return label or step.name_of(self.order.indices[position])

    def _book(
        self, step: Step, position: int, error: BaseException, decision: Decision, attempt: int, start: float
    ) -> None:
        if decision.code in FINAL_CODES and attempt == step.attempts[position]:
            self.book_end(step, position, error, decision.code, start)
        else:
            self._book_wait(step, position, error, decision, attempt, start)

    def _book_wait(
        self, step: Step, position: int, error: BaseException, decision: Decision, attempt: int, start: float
    ) -> None:
        """Book an attempt that leaves its item waiting, or that another follows at once."""
        duration = _clock() - start
        code = decision.code
        if code is Code.AWAITING_RETRY and decision.delay <= 0 and attempt <= step.options.retry.retries:
            code = Code.AWAITING_RETRY if self.slots is not None or self.is_stopped() else Code.RETRYING
        table = step.anomalies
        if self.summaries < MAX_SUMMARIES:
            table.inputs[len(table)] = self.summary(step, position)
        after = start - self.started
        table.book(
            position,
            attempt,
            code,
            decision.outcome,
            self.errors.add(error),
            self.started_wall + after,
            duration,
            decision.delay,
        )
        step.states[position] = code
        step.starts[position] = after
        step.durations[position] = duration

    def book_end(self, step: Step, position: int, error: BaseException, code: int, start: float) -> None:
        """Book an error that ends an item: all but the error is in the step's columns."""
        step.durations[position] = _clock() - start
        step.starts[position] = start - self.started
        step.faults[position] = self.errors.add(error)
        step.states[position] = code
        if self.summaries < MAX_SUMMARIES:
            step.fault_inputs[position] = self.summary(step, position)

    def summary(self, step: Step, position: int) -> str:
        """Return the item's arguments in short, made here for the first failures of a batch."""
        self.summaries += 1
        try:
            args, kwargs = step.call(position)
            return summarize(step.program.parameter_names, args, kwargs)
        except Exception:
            return ""

    # -- reports ----------------------------------------------------------------------------------------

    def refuse(self, error: Exception) -> Report:
        """Return the batch cannot begin: all its items fail with the same error."""
        self.begin()
        for step in self.steps:
            if step.in_lane:
                step.states[:] = bytes([Code.UPSTREAM_FAILED]) * self.size
                continue
            step.attempts[:] = bytes(min(255, tried + 1) for tried in step.attempts)
            step.states[:] = bytes([Code.FAILED]) * self.size
            step.faults[:] = array("i", [self.errors.add(error)]) * self.size
        return replace(self.report(range(self.size)), is_refused=True)

    def stuck(self, step: Step, position: int, start: float) -> None:
        """Book an item that does not yield after its time; another attempt does not follow in this thread."""
        self.failed(step, position, step.timed_out(self.order.indices[position]), start)
        if step.states[position] == Code.RETRYING:
            step.states[position] = Code.AWAITING_RETRY
            step.anomalies.codes[-1] = Code.AWAITING_RETRY
        for later in step.rest:
            if later.in_lane:
                later.goes_on(position, self.steps)

    def refused(self, step: Step, position: int, error: BaseException, start: float) -> None:
        """Book an attempt that came to nothing usable, and that is not repeated."""
        step.attempts[position] = min(255, step.attempts[position] + 1)
        self.book_end(step, position, error, Code.FAILED, start)

    def interrupted(self, step: Step, position: int, start: float) -> None:
        """Book an item that is run again on account of another: the attempt does not count."""
        step.states[position] = Code.AWAITING_RETRY
        step.anomalies.add(
            Anomaly(
                position=position,
                attempt=0,
                code=Code.AWAITING_RETRY,
                started=self.started_wall + (start - self.started),
                duration=time.perf_counter() - start,
            )
        )

    def report(self, positions: Sequence[int], held: Sequence[int] = (), *, is_last: bool = False) -> Report:
        """Return the report of these positions; values are stored before it is made.

        Parameters
        ----------
        held
            Positions that another report follows for, or that are lost with the batch's process if this `is_last`.
        """
        elapsed = time.perf_counter() - self.started - self._waited
        steps, store_error = self._step_reports(positions, travels=bool(held) and not is_last)
        logs, logs_dropped = self.sink.take()
        is_first = isinstance(positions, range) and not positions.start
        variants = self.errors.variants()
        if variants is not None and (held or not is_first):
            # A report in parts carries the texts that it names, not those of all the parts before it.
            variants = variants.named_by(
                each for step in steps for each in (step.faults.errors, step.anomalies)
            )
        # What is told while the batch goes on is told by another thread, which has a clock of its own.
        is_own = threading.get_ident() == self._thread
        cpu_seconds = time.thread_time() - self.started_cpu if is_own else 0.0
        return Report(
            batch=self.order.id,
            worker=self.host.worker,
            started=self.started_wall,
            elapsed=elapsed,
            reached=len(positions),
            steps=steps,
            store_seconds=self.store_seconds,
            errors=tuple(self.errors.records),
            variants=variants,
            logs=logs,
            logs_dropped=logs_dropped,
            positions=None if is_first else positions,
            held=held,
            cpu_seconds=cpu_seconds,
            is_remote=not self.host.is_local,
            is_packed=self.order.results is not None,
            store_error=store_error or self.store_error,
        )

    def _keep(self, positions: Sequence[int]) -> None:
        """Keep in their caches what was made; then values may be dropped that nothing else needs."""
        assert self.caches is not None
        try:
            with self.storing():
                self.caches.keep(positions)
        except Exception as error:
            # Whatever a store raises, the report comes back, and its driver decides.
            self.store_error = str(error) or type(error).__name__
        late = [step for step in self.steps if not step.order.keeps and step.order.cache is not None]
        for position in positions if late else ():
            self._drop(late, position)

    def _step_reports(self, positions: Sequence[int], *, travels: bool) -> tuple[tuple[StepReport, ...], str]:
        if isinstance(self.steps[0], BundleStep):
            return bundle_reports(self, self.steps[0], positions, travels=travels)
        if self.caches is not None:
            self._keep(positions)
        for step in self.steps:
            if not step.program.is_mapped and 0 in positions and step.states[0] in SUCCESS_CODES:
                step.values[0], step.info = value_info(step.values[0], is_mapped_over=step.order.wants_info)
        columns = [part_of(step.values, positions) for step in self.steps]
        with self.storing():
            packed, store_error = pack_values(self.order, self.host, self.steps, positions, columns)
        labelled = [part_of(step.labels, positions) for step in self.steps if step.labels is not None]
        stored, its_labels = self.stored(columns, packed, labelled, travels=travels)
        labels = iter(its_labels)
        reports = []
        for step, outcome, own in zip(self.steps, stored, packed or [None] * len(stored), strict=True):
            if isinstance(outcome, SerializationFailure):
                for place, error in outcome.errors.items():
                    self.uncarried(step, positions[place], error)
                outcome = outcome.ref
            label_ref = next(labels) if step.labels is not None else None
            states = bytes(part_of(step.states, positions))
            marks, inputs = part_of(step.faults, positions), inputs_of(step.fault_inputs, positions)
            reports.append(
                StepReport(
                    node=step.order.node,
                    states=states,
                    attempts=bytes(part_of(step.attempts, positions)),
                    starts=part_of(step.starts, positions),
                    durations=part_of(step.durations, positions),
                    values=outcome,
                    labels=None if isinstance(label_ref, SerializationFailure) else label_ref,
                    info=step.info,
                    faults=Faults.of(states, marks, inputs),
                    anomalies=step.anomalies.part(positions) if step.anomalies else (),
                    grafts=records_of(step.grafts, positions),
                    stored=None if own is None else own.stored,
                    digests=step.digests(positions),
                    cached=None if step.cache is None else step.cache.cached_from(positions),
                )
            )
        return tuple(reports), store_error

    def stored(
        self,
        columns: Sequence[list[Any]],
        packed: Sequence[Packed | None],
        labelled: Sequence[list[str | None]],
        *,
        travels: bool,
    ) -> tuple[list[Ref | SerializationFailure], list[Ref | SerializationFailure]]:
        """Keep the columns of a report, of values and of labels, where its reader finds them."""
        stored = self.host.store(columns, travels=travels, packed=packed)
        failpoint("batch.report.before")
        return stored, self.host.store(labelled, travels=travels) if labelled else []

    def uncarried(self, step: Step, position: int, error: Exception) -> None:
        """Fail an item whose result cannot be stored."""
        problem = SerializationError(
            f"the result of {step.name_of(self.order.indices[position])}, a "
            f"{type(step.values[position]).__qualname__}, cannot be sent to other processes: "
            f"{type(error).__name__}: {error}; return plain data, or run on the threads backend"
        )
        step.states[position] = Code.FAILED
        step.info = None
        step.faults[position] = self.errors.add(problem)


def _fragment(value: Any, recorder: Recorder) -> Fragment:
    """Return what a task recorded, with the node that gives its value."""
    if isinstance(value, Handle) and value._index is None and not value._node.is_mapped:
        root = recorder.own(value, "a task's returned future").id
    else:
        # Of a plain value, the calls run for their own sake.
        root = recorder.collect(value).id
    return Fragment(nodes=tuple(recorder.nodes), root=root)
