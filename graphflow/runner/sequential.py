"""Items of a batch one after the other, in the thread of the batch."""

from __future__ import annotations

import time
from contextvars import Token
from typing import TYPE_CHECKING, Any

from graphflow.graph.context import RUNNING
from graphflow.graph.owning import listed
from graphflow.graph.recording import RECORDER
from graphflow.model.states import FAILED_CODES, Code
from graphflow.runner.faults import MAX_SUMMARIES
from graphflow.runner.marks import ODD
from graphflow.runner.pace import Slots
from graphflow.runner.protocols import CacheOfBatch
from graphflow.runner.step import ONE_SHOT, Step
from graphflow.runner.watchdog import Guard, ItemTimeout, watchdog

if TYPE_CHECKING:
    from graphflow.runner.batch import Batch

__all__ = ["STOP_CHECK_SECONDS", "STOP_CHECK_WAITING_SECONDS", "run_in_turn", "wait_for_slot"]

STOP_CHECK_SECONDS = 0.005
STOP_CHECK_WAITING_SECONDS = 0.02
_SUCCESS = int(Code.COMPLETED)
_RETRYING = int(Code.RETRYING)


def run_in_turn(batch: Batch) -> int:
    """Run items one after the other while there is time; return how many ran."""
    steps = batch.steps
    tokens: list[Token[Any]] = [RECORDER.set(steps[0].recorder), RUNNING.set(steps[0].context)]
    try:
        if batch.slots is None and all(step.is_plain for step in steps):
            return _run_plain(batch)
        return _Careful(batch).run()
    finally:
        batch.host.note(0, -1)
        RUNNING.reset(tokens[1])
        RECORDER.reset(tokens[0])


def wait_for_slot(batch: Batch, slots: Slots, *, is_first: bool) -> bool:
    """Wait until the next item may begin; False if it may not any more, in this batch.

    Only the first item waits beyond the end of the slice.
    """
    while (wait := slots.take()) != 0.0:
        if wait is None or batch.is_stopped():
            return False
        if not is_first and time.perf_counter() + wait >= batch.deadline:
            return False
        time.sleep(min(wait, STOP_CHECK_WAITING_SECONDS))
    return True


def _run_plain(batch: Batch) -> int:
    """Return the short way for steps with nothing around their calls: all that happens per item is here."""
    steps, indices, note, number = batch.steps, batch.order.indices, batch.host.note, batch.order.id
    odd_types, clock, started, deadline = batch.odd_types, time.perf_counter, batch.started, batch.deadline
    is_chain, add_error, drops = len(steps) > 1, batch.errors.add, bool(batch.dropping)
    check_at = min(deadline, started + STOP_CHECK_SECONDS)
    caches = batch.caches
    looked, marks = (0, caches.marks) if caches is not None else (batch.size, b"")
    careful: _Careful | None = None
    is_again = False
    start = started
    position = -1
    for step in steps:
        step.context.attempt = 1
    for position in batch.progress.rest:
        if caches is not None:
            if position >= looked:
                looked = caches.look_ahead(position)
                start = clock()
                deadline = batch.deadline
            if marks[position]:
                if marks[position] == ODD:
                    careful = careful or _Careful(batch)
                    careful.run_cached(caches, position)
                    for step in steps:
                        step.context.attempt = 1
                    RUNNING.set(steps[0].context)
                    RECORDER.set(steps[0].recorder)
                    start = clock()
                if start >= check_at:
                    start = clock()
                    if batch.is_stopped() or (start >= deadline and not caches.is_found(position + 1)):
                        break
                    check_at = start + STOP_CHECK_SECONDS
                continue
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
                    batch.take(step, position, value, step.recorder)
                    _renew(step)
                else:
                    step.values[position] = value
                    step.states[position] = _SUCCESS
                step.attempts[position] = 1
                step.starts[position] = start - started
                step.durations[position] = end - start
            except BaseException as error:
                end = clock()
                code = step.sure_ends.get(type(error), 0)
                if code > 0:
                    # The short way, for a storm of failures.
                    step.attempts[position] = 1
                    step.starts[position] = start - started
                    step.durations[position] = end - start
                    step.faults[position] = add_error(error)
                    step.states[position] = code
                    if batch.summaries < MAX_SUMMARIES:
                        step.fault_inputs[position] = batch.summary(step, position)
                else:
                    batch.failed(step, position, error, start)
                if step.recorder.nodes:
                    _renew(step)
                is_again = step.states[position] == _RETRYING
                if _may_be_interrupt(error):
                    # Look now whether to go on.
                    check_at = 0.0
            if is_again:
                # Not while the error is handled: it would be the context of what further attempts raise.
                is_again = False
                _try_again(batch, step, position)
                end = clock()
            start = end
            if is_chain and step.states[position] != _SUCCESS:
                _run_rest(batch, step, position)
                start = clock()
                break
        if drops:
            batch.drop_values(position)
        if start >= check_at:
            if start >= deadline or batch.is_stopped() or batch.is_full(position + 1):
                break
            check_at = min(deadline, start + STOP_CHECK_SECONDS)
    return position + 1


def _may_be_interrupt(error: BaseException) -> bool:
    """Return whether an item may have ended by Ctrl-C: that is no `Exception`, or is what one comes from."""
    return error.__context__ is not None or not isinstance(error, Exception)


def _try_again(batch: Batch, step: Step, position: int) -> None:
    """Run further attempts of an item at a plain step."""
    context, odd_types = step.context, batch.odd_types
    while step.states[position] == _RETRYING:
        context.attempt = step.attempts[position] + 1
        start = time.perf_counter()
        try:
            args, kwargs = step.call(position)
            value = step.fn(*args, **kwargs)
            if step.recorder.nodes or type(value) in odd_types:
                batch.take(step, position, value, step.recorder)
            else:
                step.values[position] = value
                step.states[position] = _SUCCESS
            batch.ended(step, position, start)
        except BaseException as error:
            batch.failed(step, position, error, start)
        _renew(step)
    context.attempt = 1


def _run_rest(batch: Batch, last: Step, position: int) -> None:
    """Run the rest of an item's lane after a step that did not simply succeed."""
    if last.dooms_rest and last.states[position] in FAILED_CODES:
        for step in last.rest:
            step.states[position] = Code.UPSTREAM_FAILED
        return
    for step in last.rest:
        if not step.in_lane or step.goes_on(position, batch.steps):
            RUNNING.set(step.context)
            RECORDER.set(step.recorder)
            run_step(batch, step, position, None)
            step.context.attempt = 1


def run_step(batch: Batch, step: Step, position: int, careful: _Careful | None) -> bool:
    """Return one item at one step with everything that may surround it: timeout, label, retries without delay.

    Returns whether an attempt may have ended by Ctrl-C.
    """
    looks_now = False
    context = step.context
    context.map_index = batch.order.indices[position] if context.is_mapped else None
    if batch.lost_input(step, position):
        return False
    while True:
        context.attempt = step.attempts[position] + 1
        start = time.perf_counter()
        try:
            args, kwargs = batch.call_of(step, position, context)
            if careful is not None and step.has_limit:
                value = careful.timed(step, position, start, args, kwargs)
            else:
                value = step.fn(*args, **kwargs)
            batch.take(step, position, value, step.recorder)
            batch.ended(step, position, start)
        except BaseException as error:
            batch.failed(step, position, error, start)
            looks_now |= _may_be_interrupt(error)
        _renew(step)
        if step.states[position] != Code.RETRYING:
            return looks_now


def _renew(step: Step) -> None:
    """Replace a step's recorder if its last item recorded something."""
    if step.recorder.nodes:
        step.recorder = step.new_recorder(step.context)
        RECORDER.set(step.recorder)


class _Careful:
    """The way for items with something around their calls."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._active: tuple[Step, int, float] | None = None
        self._guard: Guard | None = None

    def run(self) -> int:
        """Run items while there is time; return how many ran."""
        batch = self._batch
        if any(step.has_limit for step in batch.steps):
            self._guard = watchdog().guard(self._stuck)
        try:
            return self._run()
        finally:
            if self._guard is not None:
                self._guard.close()

    def _run(self) -> int:
        if self._batch.caches is not None:
            return self._run_cached(self._batch.caches)
        batch, slots = self._batch, self._batch.slots
        note, number, deadline = batch.host.note, batch.order.id, batch.deadline
        check_at = min(deadline, batch.started + STOP_CHECK_SECONDS)
        position = -1
        for position in batch.progress.rest:
            if slots is not None and not wait_for_slot(batch, slots, is_first=position == 0):
                return position
            note(number, batch.order.indices[position])
            looks_now = False
            for step in batch.steps:
                if not step.in_lane or step.goes_on(position, batch.steps):
                    RUNNING.set(step.context)
                    RECORDER.set(step.recorder)
                    looks_now |= run_step(batch, step, position, self)
            if batch.dropping:
                batch.drop_values(position)
            now = time.perf_counter()
            if now >= check_at or looks_now:
                if now >= deadline or batch.is_stopped() or batch.is_full(position + 1):
                    break
                check_at = min(deadline, now + STOP_CHECK_SECONDS)
        return position + 1

    def _run_cached(self, caches: CacheOfBatch) -> int:
        """Run items whose results may already be cached."""
        batch, slots = self._batch, self._batch.slots
        check_at = min(batch.deadline, batch.started + STOP_CHECK_SECONDS)
        has_begun = False
        position = -1
        for position in batch.progress.rest:
            caches.look_ahead(position)
            deadline = batch.deadline
            looks_now = False
            if not caches.is_done(position):
                if slots is not None and not wait_for_slot(batch, slots, is_first=not has_begun):
                    return position
                has_begun = True
                looks_now = self.run_cached(caches, position)
            elif batch.dropping:
                batch.drop_values(position)
            now = time.perf_counter()
            if now >= check_at or looks_now:
                if batch.is_stopped():
                    break
                # What was found already costs nothing more.
                if now >= deadline and not caches.is_found(position + 1):
                    break
                check_at = min(deadline, now + STOP_CHECK_SECONDS)
        return position + 1

    def run_cached(self, caches: CacheOfBatch, position: int) -> bool:
        """Run an item of which something may be there already; whether an attempt may have ended by Ctrl-C."""
        batch = self._batch
        looks_now = False
        batch.host.note(batch.order.id, batch.order.indices[position])
        for step in batch.steps:
            if step.states[position] or (step.in_lane and not step.goes_on(position, batch.steps)):
                continue
            if batch.lost_input(step, position):
                continue
            if step.cache is not None and step.cache.take(position):
                continue
            RUNNING.set(step.context)
            RECORDER.set(step.recorder)
            looks_now |= run_step(batch, step, position, self)
        if batch.dropping:
            batch.drop_values(position)
        return looks_now

    def timed(
        self, step: Step, position: int, start: float, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Call within the step's limit."""
        guard = self._guard
        assert guard is not None
        index = self._batch.order.indices[position]
        self._active = (step, position, start)
        fired = False
        try:
            guard.arm(step.limit, self._batch.learner(step))
            try:
                value = step.fn(*args, **kwargs)
                if type(value) in ONE_SHOT:
                    value = listed(value)
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

    def _stuck(self) -> None:
        """Report without the active item, which does not react, then end it by force; called by the watchdog."""
        active = self._active
        if active is None:
            return
        step, position, start = active
        self._batch.stuck(step, position, start)
        self._batch.give_up(position + 1)
