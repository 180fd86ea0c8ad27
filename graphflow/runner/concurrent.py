"""Async tasks of a batch: many items run at once in the event loop of one thread."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from graphflow.context import RECORDER, RUNNING, TaskContext
from graphflow.runner.loops import run_awaitable
from graphflow.runner.step import Step
from graphflow.states import Code

if TYPE_CHECKING:
    from graphflow.runner.batch import Batch

__all__ = ["run_concurrently"]

ASYNC_CONCURRENCY = 64


def run_concurrently(batch: Batch) -> int:
    """Run the items of a batch of which a step is async; gives how many were run."""
    return int(run_awaitable(_run(batch)))


async def _run(batch: Batch) -> int:
    order, host = batch.order, batch.host
    free = asyncio.Semaphore(min(step.options.concurrency or ASYNC_CONCURRENCY for step in batch.steps))
    deadline = batch.begin()
    running: set[asyncio.Task[None]] = set()
    position = 0
    while position < batch.size:
        await free.acquire()
        if position and (time.perf_counter() >= deadline or batch.is_stopped()):
            break
        host.note(order.id, order.indices[position])
        item = asyncio.ensure_future(_run_lane(batch, position))
        running.add(item)
        item.add_done_callback(running.discard)
        item.add_done_callback(lambda _: free.release())
        position += 1
    if running:
        await asyncio.wait(running)
    host.note(0, -1)
    return position


async def _run_lane(batch: Batch, position: int) -> None:
    """One item through all steps."""
    index = batch.order.indices[position]
    for step in batch.steps:
        if step.in_lane and not step.goes_on(position, batch.steps):
            continue
        if batch.lost_input(step, position):
            continue
        # The items run at the same time: each has a context of its own.
        context = step.new_context()
        context.map_index = index if context.is_mapped else None
        RUNNING.set(context)
        await _run_step(batch, step, position, context)


async def _run_step(batch: Batch, step: Step, position: int, context: TaskContext) -> None:
    while True:
        recorder = step.new_recorder(context)
        RECORDER.set(recorder)
        context.attempt = step.attempts[position] + 1
        start = time.perf_counter()
        try:
            args, kwargs = batch.call_of(step, position, context)
            value = step.fn(*args, **kwargs)
            if hasattr(value, "__aiter__"):
                value = _listed(value)
            if hasattr(value, "__await__"):
                value = await _within_time(step, batch.order.indices[position], value)
            batch.take(step, position, value, recorder)
            batch.ended(step, position, start)
        except asyncio.CancelledError:
            step.states[position] = Code.CANCELLED
            return
        except BaseException as error:
            batch.failed(step, position, error, start)
        if step.states[position] != Code.RETRYING:
            return


async def _within_time(step: Step, index: int, value: Any) -> Any:
    timeout = step.options.timeout_seconds
    if timeout is None:
        return await value
    try:
        async with asyncio.timeout(timeout) as scope:
            return await value
    except TimeoutError:
        if scope.expired():
            raise step.timed_out(index) from None
        raise


async def _listed(source: Any) -> list[Any]:
    return [each async for each in source]
