"""Async tasks of a batch: many items run at once in the event loop of one thread."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from graphflow.graph.context import RUNNING, TaskContext
from graphflow.graph.fragments import FragmentRecorder
from graphflow.graph.owning import Taker
from graphflow.graph.recording import RECORDER
from graphflow.model.policies import ASYNC_CONCURRENCY
from graphflow.model.states import Code
from graphflow.runner.journal import SEVERAL
from graphflow.runner.loops import run_awaitable
from graphflow.runner.protocols import CacheOfStep
from graphflow.runner.sequential import STOP_CHECK_WAITING_SECONDS
from graphflow.runner.step import Step
from graphflow.runner.watchdog import Abandoned, Guard, ItemTimeout, watchdog

if TYPE_CHECKING:
    from graphflow.runner.batch import Batch

__all__ = ["run_concurrently"]

LEARN_SECONDS = 0.05
LOOK_SECONDS = 0.005
_SUCCESS = int(Code.COMPLETED)


def run_concurrently(batch: Batch) -> None:
    """Run the items of a batch of which a step is async."""
    run_awaitable(_Loop(batch).run(), is_interrupted=batch.is_stopped)


class _Loop:
    """The items of one batch that are under way in one event loop."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.items: dict[asyncio.Task[None], _Item] = {}
        self.recorders: list[list[FragmentRecorder]] = [[] for _ in batch.steps]
        """Recorders that took no call and can be used again, by step."""
        limits = [step.options.concurrency or ASYNC_CONCURRENCY for step in batch.steps]
        self._concurrency = batch.order.concurrency or min(limits)
        self._has_begun = False
        self._is_given_up = False
        self._slot_timer: asyncio.TimerHandle | None = None
        self._has_spare_slot = False
        self._timer: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Begin items while there is time, and wait for their end."""
        batch = self.batch
        self._loop = loop = asyncio.get_running_loop()
        self._over: asyncio.Future[None] = loop.create_future()
        if batch.order.slice_seconds is not None:
            self._await_deadline()
        guard = self._guard()
        watching = [loop.create_task(self._watch(guard))] if guard is not None else []
        if any(batch.learner(step) is not None and step.has_limit for step in batch.steps):
            watching.append(loop.create_task(self._learn()))
        try:
            self._begin_more()
            while not self._over.done():
                # What items cancel in their loop is no end of it.
                with suppress(asyncio.CancelledError):
                    await asyncio.shield(self._over)
            if self._is_given_up:
                raise Abandoned
        finally:
            batch.host.note(0, -1)
            if self._timer is not None:
                self._timer.cancel()
            if self._slot_timer is not None:
                self._slot_timer.cancel()
            for each in watching:
                each.cancel()
            if guard is not None:
                guard.close()

    def _await_deadline(self) -> None:
        """Close at the deadline, which moves while a store is waited for."""
        left = self.batch.deadline - time.perf_counter()
        if left > 0 or self._timer is None:
            self._timer = self._loop.call_later(max(0.0, left), self._await_deadline)
        else:
            self._close()

    @property
    def is_over(self) -> bool:
        """Whether the batch is given up."""
        return self._is_given_up

    def restarted(self, item: _Item) -> None:
        """Restart an item that was cancelled before it started: that does not count as an attempt."""
        self.items.pop(item.task, None)
        if self._over.done() or self.batch.is_stopped():
            self.ended(item)
            return
        item.task = task = self._loop.create_task(item.run())
        task.add_done_callback(item.left)
        self.items[task] = item

    def ended(self, item: _Item) -> None:
        """Record that an item has run all its steps, or the batch is given up."""
        if self._is_given_up:
            self._finish()
            return
        self.items.pop(item.task, None)
        self.batch.progress.mark_ended((item.position,))
        self._begin_more()

    def _begin_more(self) -> None:
        """Begin items up to the concurrency; the batch is over when none is left."""
        batch, items = self.batch, self.items
        order, progress, create_task = batch.order, batch.progress, self._loop.create_task
        while len(items) < self._concurrency and not progress.is_cut:
            if self._has_begun and (time.perf_counter() >= batch.deadline or batch.is_stopped()):
                self._close()
                break
            if batch.slots is not None and not self._has_spare_slot and not self._has_slot():
                break
            self._has_spare_slot = False
            position = next(progress.rest, None)
            if position is None:
                break
            if batch.caches is not None:
                batch.caches.look_ahead(position)
                if batch.caches.is_done(position):
                    # It executes nothing, and leaves its turn to the next.
                    self._has_begun = True
                    self._has_spare_slot = batch.slots is not None
                    progress.mark_ended((position,))
                    continue
            self._has_begun = True
            # If the process dies, nobody knows which of several items it was.
            batch.host.note(order.id, SEVERAL if items else order.indices[position])
            item = _Item(self, position)
            item.task = task = create_task(item.run())
            task.add_done_callback(item.left)
            items[task] = item
        if not items and self._slot_timer is None:
            self._finish()

    def _finish(self) -> None:
        if not self._over.done():
            self._over.set_result(None)

    def _close(self) -> None:
        """Start nothing more; items that were not started are handed back while the others continue."""
        progress = self.batch.progress
        if progress.is_cut or not self._has_begun:
            return
        progress.cut()
        if self._slot_timer is not None:
            self._slot_timer.cancel()
            self._slot_timer = None
        if not self.items:
            self._finish()
        elif self.batch.teller is not None:
            self.batch.teller.hurry()

    def _has_slot(self) -> bool:
        """Return whether an item may begin now; else the loop looks again when the next slot opens."""
        batch = self.batch
        assert batch.slots is not None
        if self._slot_timer is not None:
            return False
        wait = 0.0 if not batch.progress.has_rest else batch.slots.take()
        if wait is None:
            self._has_begun = True
            self._close()
            return False
        if wait > 0.0:
            wait = min(wait, STOP_CHECK_WAITING_SECONDS)
            self._slot_timer = self._loop.call_later(wait, self._look_for_slot)
            return False
        return True

    def _look_for_slot(self) -> None:
        self._slot_timer = None
        if self.batch.is_stopped():
            self._has_begun = True
            self._close()
        else:
            self._begin_more()

    # -- limits that follow from the map's median ---------------------------------------------------------

    async def _learn(self) -> None:
        """Look for limits that come while items run, and apply them."""
        batch = self.batch
        open_steps = [step for step in batch.steps if step.limit is None and step.has_limit]
        while open_steps:
            await asyncio.sleep(LEARN_SECONDS)
            for step in list(open_steps):
                learn = batch.learner(step)
                if learn is None or learn() is not None:
                    open_steps.remove(step)
                    for item in list(self.items.values()):
                        item.limit(step)

    # -- items that block the loop, which no timeout of asyncio can end -----------------------------------

    def _guard(self) -> Guard | None:
        """Return a guard for this thread, where every step has a timeout."""
        if any(step.limit is None for step in self.batch.steps):
            return None
        return watchdog().guard(self._stuck)

    async def _watch(self, guard: Guard) -> None:
        """Show the guard that the loop turns; it acts if it did not for as long as an item may take."""
        seconds = max(step.limit or 0.0 for step in self.batch.steps)
        while not self._is_given_up:
            guard.arm(seconds)
            await asyncio.sleep(seconds / 4)

    def _stuck(self) -> None:
        """Report without an item that blocks the loop, and without the others; called by the watchdog."""
        blocking = asyncio.current_task(self._loop)
        self._is_given_up = True
        batch = self.batch
        batch.progress.cut()
        for task, item in list(self.items.items()):
            if item.give_up(is_blocking=task is blocking):
                batch.progress.mark_ended((item.position,))
        batch.give_up()


class _Item:
    """One item on its way through the steps."""

    __slots__ = ("_active", "_has_begun", "_loop", "_scope", "batch", "index", "position", "task")

    task: asyncio.Task[None]

    def __init__(self, loop: _Loop, position: int) -> None:
        self.batch = loop.batch
        self.position = position
        self.index = loop.batch.order.indices[position]
        self._loop = loop
        self._has_begun = False
        self._active: tuple[Step, float] | None = None
        self._scope: asyncio.Timeout | None = None

    def left(self, task: asyncio.Task[None]) -> None:
        """Record that the item's asyncio task ended; one that is cancelled early enough never runs at all."""
        if not self._has_begun:
            self._loop.restarted(self)

    async def run(self) -> None:
        """Run all steps."""
        self._has_begun = True
        batch, position = self.batch, self.position
        try:
            for number, step in enumerate(batch.steps):
                if step.states[position] or (step.in_lane and not step.goes_on(position, batch.steps)):
                    continue
                if step.has_doubtful_input and batch.lost_input(step, position):
                    continue
                if step.cache is not None and await self._is_taken(step, step.cache):
                    continue
                # The items run at the same time: each has a context of its own.
                context = step.new_context()
                if context.is_mapped:
                    context.map_index = self.index
                RUNNING.set(context)
                await self._run_step(step, context, self._loop.recorders[number])
            if batch.dropping:
                batch.drop_values(position)
        finally:
            self._loop.ended(self)

    async def _is_taken(self, step: Step, cache: CacheOfStep) -> bool:
        """Return whether the item need not be executed; an equal one that is under way is waited for."""
        while True:
            if cache.take(self.position):
                return True
            leader = cache.leader(self.position)
            if leader is None:
                return False
            while not step.states[leader] and not self._loop.is_over:
                await asyncio.sleep(LOOK_SECONDS)
            if not step.states[leader]:
                return False

    async def _run_step(self, step: Step, context: TaskContext, spare: list[FragmentRecorder]) -> None:
        batch, position = self.batch, self.position
        while True:
            recorder = spare.pop() if spare else step.new_recorder(context)
            recorder.context = context
            RECORDER.set(recorder)
            context.attempt = step.attempts[position] + 1
            start = time.perf_counter()
            self._active = (step, start)
            try:
                args, kwargs = batch.call_of(step, position, context)
                value = step.fn(*args, **kwargs)
                if hasattr(value, "__aiter__"):
                    value = _listed(value)
                if hasattr(value, "__await__"):
                    value = await (self._within_time(step, value) if step.has_limit else value)
                if recorder.nodes or type(value) in batch.odd_types:
                    batch.take(step, position, value, recorder)
                else:
                    step.values[position] = value
                    step.states[position] = _SUCCESS
                batch.ended(step, position, start)
            except ItemTimeout:
                batch.failed(step, position, step.timed_out(self.index), start)
            except BaseException as error:
                if self._loop.is_over:
                    # The loop is closed under it, and its end was booked.
                    return
                batch.failed(step, position, error, start)
            self._active = None
            await _end_cancellation()
            if not recorder.nodes:
                spare.append(recorder)
            if step.states[position] != Code.RETRYING:
                return

    async def _within_time(self, step: Step, value: Any) -> Any:
        scope = asyncio.timeout(step.limit)
        self._scope = scope
        try:
            async with scope:
                return await value
        except TimeoutError:
            if scope.expired():
                raise step.timed_out(self.index) from None
            raise
        finally:
            self._scope = None

    def limit(self, step: Step) -> None:
        """Set the time limit of a step, which may already be over."""
        if self._scope is None or self._active is None or self._active[0] is not step or step.limit is None:
            return
        left = self._active[1] + step.limit - time.perf_counter()
        self._scope.reschedule(asyncio.get_running_loop().time() + left)

    def give_up(self, *, is_blocking: bool) -> bool:
        """Book what becomes of the item when its loop is given up: only the one that blocks it is to blame.

        False if it had not begun.
        """
        if self._active is None:
            return False
        step, start = self._active
        if is_blocking:
            self.batch.stuck(step, self.position, start)
        else:
            self.batch.interrupted(step, self.position, start)
        return True


async def _end_cancellation() -> None:
    """End a cancellation of an item's asyncio task, by itself or by a library, which applies to one attempt."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        with suppress(asyncio.CancelledError):
            # It may be raised only where the task waits next.
            await asyncio.sleep(0)
        while task.cancelling():
            task.uncancel()


async def _listed(source: Any) -> list[Any]:
    taker = Taker()
    return [taker.take(each, 1) async for each in source]
