"""Async tasks of a batch: many items run at once in the event loop of one thread."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from graphflow.context import RECORDER, RUNNING, TaskContext
from graphflow.runner.loops import run_awaitable
from graphflow.runner.step import Step
from graphflow.runner.watchdog import Abandoned, Guard, ItemTimeout, watchdog
from graphflow.states import Code

if TYPE_CHECKING:
    from graphflow.runner.batch import Batch

__all__ = ["run_concurrently"]

ASYNC_CONCURRENCY = 64


def run_concurrently(batch: Batch) -> int:
    """Run the items of a batch of which a step is async; gives how many were run."""
    return int(run_awaitable(_Loop(batch).run()))


class _Loop:
    """The items of one batch that are under way in one event loop."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self._begun = 0
        self._items: dict[asyncio.Task[None], _Item] = {}
        self._is_given_up = False

    async def run(self) -> int:
        """Begin items while there is time; gives how many, when they have ended."""
        self._loop = asyncio.get_running_loop()
        guard = self._guard()
        watching = asyncio.ensure_future(self._watch(guard)) if guard is not None else None
        main = asyncio.ensure_future(self._begin_all())
        try:
            await asyncio.wait([main, watching] if watching else [main], return_when=asyncio.FIRST_COMPLETED)
            if self._is_given_up:
                raise Abandoned
            return await main
        finally:
            if watching is not None:
                watching.cancel()
            if guard is not None:
                guard.close()

    async def _begin_all(self) -> int:
        batch = self.batch
        order, host = batch.order, batch.host
        free = asyncio.Semaphore(min(step.options.concurrency or ASYNC_CONCURRENCY for step in batch.steps))
        deadline = batch.begin()
        while self._begun < batch.size:
            await free.acquire()
            if self._begun and (time.perf_counter() >= deadline or batch.is_stopped()):
                break
            host.note(order.id, order.indices[self._begun])
            item = _Item(batch, self._begun)
            task = asyncio.ensure_future(item.run())
            self._items[task] = item
            task.add_done_callback(self._items.pop)
            task.add_done_callback(lambda _: free.release())
            self._begun += 1
        if self._items:
            await asyncio.wait(list(self._items))
        host.note(0, -1)
        return self._begun

    # -- items that block the loop, which no timeout of asyncio can end -----------------------------------

    def _guard(self) -> Guard | None:
        """A guard for this thread, where every step has a timeout."""
        if any(step.options.timeout_seconds is None for step in self.batch.steps):
            return None
        return watchdog().guard(self._stuck)

    async def _watch(self, guard: Guard) -> None:
        """Show the guard that the loop turns; it acts if it did not for as long as an item may take."""
        seconds = max(step.options.timeout_seconds or 0.0 for step in self.batch.steps)
        while not self._is_given_up:
            guard.arm(seconds)
            await asyncio.sleep(seconds / 4)

    def _stuck(self) -> None:
        """Called by the watchdog: an item blocks the loop and does not yield. Report without it and the others."""
        blocking = asyncio.current_task(self._loop)
        self._is_given_up = True
        batch = self.batch
        for task, item in list(self._items.items()):
            item.give_up(is_blocking=task is blocking)
        batch.host.ending()
        batch.host.give_up(batch.report(self._begun))


class _Item:
    """One item on its way through the steps."""

    def __init__(self, batch: Batch, position: int) -> None:
        self.batch = batch
        self.position = position
        self.index = batch.order.indices[position]
        self._active: tuple[Step, float] | None = None

    async def run(self) -> None:
        """Go through all steps."""
        batch, position = self.batch, self.position
        for step in batch.steps:
            if step.in_lane and not step.goes_on(position, batch.steps):
                continue
            if batch.lost_input(step, position):
                continue
            # The items run at the same time: each has a context of its own.
            context = step.new_context()
            context.map_index = self.index if context.is_mapped else None
            RUNNING.set(context)
            await self._run_step(step, context)

    async def _run_step(self, step: Step, context: TaskContext) -> None:
        batch, position = self.batch, self.position
        while True:
            recorder = step.new_recorder(context)
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
                    value = await self._within_time(step, value)
                batch.take(step, position, value, recorder)
                batch.ended(step, position, start)
            except asyncio.CancelledError:
                step.states[position] = Code.CANCELLED
                return
            except ItemTimeout:
                batch.failed(step, position, step.timed_out(self.index), start)
            except BaseException as error:
                batch.failed(step, position, error, start)
            self._active = None
            if step.states[position] != Code.RETRYING:
                return

    async def _within_time(self, step: Step, value: Any) -> Any:
        timeout = step.options.timeout_seconds
        if timeout is None:
            return await value
        try:
            async with asyncio.timeout(timeout) as scope:
                return await value
        except TimeoutError:
            if scope.expired():
                raise step.timed_out(self.index) from None
            raise

    def give_up(self, *, is_blocking: bool) -> None:
        """Book what becomes of the item when its loop is given up: only the one that blocks it is to blame."""
        if self._active is None:
            return
        step, start = self._active
        if is_blocking:
            self.batch.stuck(step, self.position, start)
        else:
            self.batch.interrupted(step, self.position, start)


async def _listed(source: Any) -> list[Any]:
    return [each async for each in source]
