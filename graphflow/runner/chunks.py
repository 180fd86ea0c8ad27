"""Batched tasks: one call for many items, with a record of each of them.

A call that raises is halved until the items are found that fail alone. An item's attempts are the calls that decided
it: the one in which it succeeded, and those in which it failed alone. So halving uses up no attempt.
"""

from __future__ import annotations

import time
import types
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from contextvars import Token
from itertools import islice
from typing import TYPE_CHECKING, Any

from graphflow.common.wording import count_text, with_article
from graphflow.errors import BatchedResultError
from graphflow.graph.context import RUNNING
from graphflow.graph.mapping import classify
from graphflow.graph.owning import Taker, listed
from graphflow.graph.recording import RECORDER
from graphflow.model.states import Code
from graphflow.runner.journal import SEVERAL
from graphflow.runner.labels import label_of
from graphflow.runner.loops import KeptLoop
from graphflow.runner.protocols import CacheOfBatch
from graphflow.runner.sequential import wait_for_slot
from graphflow.runner.step import ONE_SHOT, Step
from graphflow.runner.watchdog import GRACE_SECONDS, Abandoned, Guard, ItemTimeout, watchdog

if TYPE_CHECKING:
    from graphflow.runner.batch import Batch

__all__ = ["FIRST_CHUNK", "run_in_chunks"]

FIRST_CHUNK = 1_024
"""Items of the first call of a batch with a time slice; the others follow from what it took."""


def run_in_chunks(batch: Batch) -> None:
    """Run the items of a batched task, many per call, while there is time."""
    step = batch.steps[0]
    tokens: list[Token[Any]] = [RECORDER.set(step.recorder), RUNNING.set(step.context)]
    chunks = _Chunks(batch, step)
    try:
        chunks.run()
    finally:
        chunks.close()
        batch.host.note(0, -1)
        step.context.map_indices = ()
        RUNNING.reset(tokens[1])
        RECORDER.reset(tokens[0])


class _Chunks:
    """The calls of one batch."""

    def __init__(self, batch: Batch, step: Step) -> None:
        self._batch = batch
        self._step = step
        self._loop = KeptLoop(batch.is_stopped)
        self._active: tuple[Sequence[int], float] | None = None
        self._guard: Guard | None = watchdog().guard(self._stuck) if step.has_limit else None
        self._calls_seconds = 0.0
        self._called = 0
        self._has_begun = False
        self._followers: dict[int, list[int]] = {}
        self._has_new_limit: Callable[[], Any] | None = None
        """Tells the loop of an async function's call that its limit is known."""

    def close(self) -> None:
        """Make no more calls."""
        if self._guard is not None:
            self._guard.close()
        self._loop.close()

    def run(self) -> None:
        """Make calls until all items are done, the slice is over or the run stops."""
        batch = self._batch
        self._skip_found()
        while count := self._next_count():
            chunk = list(islice(batch.progress.rest, count))
            if not chunk:
                return
            self._has_begun = True
            self._run_chunk(chunk)
            self._run_followers()
            self._skip_found()
            if time.perf_counter() >= batch.deadline or batch.is_stopped():
                return

    def _skip_found(self) -> None:
        """Skip cached items, which do not count against the rate limit."""
        caches, progress = self._batch.caches, self._batch.progress
        if caches is None or self._batch.slots is None:
            return
        while progress.has_rest:
            position = progress.taken
            caches.look_ahead(position)
            if not caches.is_done(position) or next(progress.rest, None) is None:
                return
            progress.mark_ended((position,))

    def _next_count(self) -> int:
        """Return how many items the next call takes; 0 if there is none in this batch."""
        batch = self._batch
        count = batch.size
        if batch.order.slice_seconds is not None:
            if not self._called:
                count = FIRST_CHUNK
            else:
                left = batch.deadline - time.perf_counter()
                count = int(left * self._called / max(self._calls_seconds, 1e-9))
            count = max(1, min(count, batch.size))
        if batch.slots is None or not batch.progress.has_rest:
            return count
        # With a rate, a call takes the items whose time has come.
        if not wait_for_slot(batch, batch.slots, is_first=not self._has_begun):
            return 0
        taken = 1
        while taken < count and batch.slots.take() == 0.0:
            taken += 1
        return taken

    def _run_chunk(self, chunk: list[int]) -> None:
        """Decide the items of a chunk: call, and halve what raises."""
        batch, step = self._batch, self._step
        if batch.caches is not None:
            chunk = self._without_cached(batch.caches, chunk)
        if step.has_doubtful_input:
            lost = [position for position in chunk if batch.lost_input(step, position)]
            batch.progress.mark_ended(lost)
            chunk = [position for position in chunk if position not in set(lost)]
        if step.labels is not None:
            self._label(chunk)
        parts = [chunk] if chunk else []
        while parts:
            part = parts.pop()
            start = time.perf_counter()
            try:
                results = self._call(part, start)
            except Abandoned:
                raise
            except BatchedResultError as error:
                self._refused(part, error, start)
            except BaseException as error:
                if len(part) > 1:
                    if batch.is_stopped():
                        # What is not decided is handed back.
                        return
                    middle = len(part) // 2
                    parts += [part[middle:], part[:middle]]
                    continue
                if isinstance(error, ItemTimeout):
                    error = step.timed_out(batch.order.indices[part[0]])
                batch.failed(step, part[0], error, start)
                if step.states[part[0]] == Code.RETRYING:
                    parts.append(part)
                    continue
            else:
                self._succeeded(part, results, start)
            batch.progress.mark_ended(part)

    def _without_cached(self, caches: CacheOfBatch, chunk: list[int]) -> list[int]:
        """Return the items of a chunk that are to be executed; of equal ones the first, which the others wait for."""
        batch, step = self._batch, self._step
        if step.cache is None or not chunk:
            return chunk
        left: list[int] = []
        for position in chunk:
            caches.look_ahead(position)
            if step.has_doubtful_input and step.lost_input(position) is not None:
                left.append(position)
            elif step.states[position] or step.cache.take(position):
                batch.progress.mark_ended((position,))
            elif (leader := step.cache.leader(position)) is not None:
                self._followers.setdefault(leader, []).append(position)
            else:
                left.append(position)
        return left

    def _run_followers(self) -> None:
        """Run items that waited for equal ones; they are executed if these failed."""
        while self._followers:
            rest = [position for group in self._followers.values() for position in group]
            self._followers.clear()
            self._run_chunk(rest)

    def _label(self, positions: Sequence[int]) -> None:
        step, context, labels = self._step, self._step.context, self._step.labels
        assert labels is not None
        for position in positions:
            context.map_index = self._batch.order.indices[position]
            try:
                args, kwargs = step.call(position)
            except Exception:
                continue  # The call itself will tell.
            labels[position] = label_of(step.program, args, kwargs, context)
        context.map_index = None

    # -- one call ---------------------------------------------------------------------------------------

    def _call(self, part: list[int], start: float) -> list[Any]:
        """Return the results of one call, one per item."""
        batch, step, indices = self._batch, self._step, self._batch.order.indices
        batch.host.note(batch.order.id, indices[part[0]] if len(part) == 1 else SEVERAL)
        step.context.map_indices = [indices[position] for position in part]
        step.context.attempt = max(step.attempts[position] for position in part) + 1
        try:
            results = self._timed(part, start) if self._guard is not None else self._called_with(part)
        finally:
            recorded, step.recorder.nodes = step.recorder.nodes, []
            self._calls_seconds += time.perf_counter() - start
            self._called += len(part)
        kinds = set(map(type, results))
        if recorded or kinds & batch.handle_types:
            raise BatchedResultError(
                f"batched task {step.options.name!r} called another task, or returned its future; a batched task "
                "returns plain results, so call the plain function instead: task.fn(...)"
            )
        if types.CoroutineType in kinds:
            for each in results:
                if type(each) is types.CoroutineType:
                    each.close()
            raise BatchedResultError(
                f"batched task {step.options.name!r} returned coroutines among its results; define it with async def, and "
                "await them there"
            )
        if kinds & ONE_SHOT:
            results = [listed(each) if type(each) in ONE_SHOT else each for each in results]
        return results

    def _called_with(self, part: Sequence[int]) -> list[Any]:
        step, count = self._step, len(part)
        args, kwargs = step.call_chunk(part)
        value = step.fn(*args, **kwargs)
        if step.program.kind == "async":
            value = self._loop.run(self._awaited(value, count))
        return self._results(value, count)

    async def _awaited(self, value: Any, count: int) -> Any:
        if hasattr(value, "__aiter__"):
            value = _first(value, count + 1)
        if not self._step.has_limit:
            return await value
        import asyncio

        loop = asyncio.get_running_loop()
        scope, begun = asyncio.timeout(None), loop.time()

        def limit() -> None:
            seconds = self._step.limit
            if seconds is not None and self._has_new_limit is not None:
                scope.reschedule(begun + seconds * count)

        # A limit that comes later is learned by the watchdog's thread.
        self._has_new_limit = lambda: loop.call_soon_threadsafe(limit)
        try:
            async with scope:
                limit()
                return await value
        except TimeoutError:
            if scope.expired():
                raise ItemTimeout from None
            raise
        finally:
            self._has_new_limit = None

    def _results(self, value: Any, count: int) -> list[Any]:
        """Return what a call returned or yields, one result per item."""
        name = self._step.options.name
        kind = classify(value)
        if type(value) is types.CoroutineType:
            value.close()
            raise BatchedResultError(
                f"task {name!r} returned a coroutine from a plain function; define it with async def"
            )
        if kind not in ("sized", "iterator"):
            raise BatchedResultError(
                f"batched task {name!r} was given {count_text(count, 'item')} and returned {_kind_of(value)}; return (or yield) one "
                "result per item, in their order: a list, a tuple, an array, a Series or an iterator"
            )
        # An iterator may never end.
        results = list(value) if kind == "sized" else listed(islice(value, count + 1))
        if len(results) != count:
            found = len(results) if kind == "sized" or len(results) < count else f"more than {count}"
            raise BatchedResultError(
                f"batched task {name!r} was given {count_text(count, 'item')} and returned {found} results; return (or yield) "
                "exactly one result per item, in their order"
            )
        return results

    def _timed(self, part: Sequence[int], start: float) -> list[Any]:
        """Call within as many times the limit of an item as there are items."""
        guard, step, count = self._guard, self._step, len(part)
        assert guard is not None
        learn = self._batch.learner(step)

        def learn_for_all() -> float | None:
            seconds = learn() if learn is not None else None
            if seconds is None:
                return None
            tell_loop = self._has_new_limit
            if tell_loop is not None:
                tell_loop()
            return seconds * count + grace

        # An async function's loop looks to it itself; there, the guard is for what blocks the loop.
        grace = GRACE_SECONDS if step.program.kind == "async" else 0.0
        limit = None if step.limit is None else step.limit * count + grace
        self._active = (part, start)
        fired = False
        try:
            guard.arm(limit, learn_for_all)
            try:
                results = self._called_with(part)
            finally:
                fired = guard.disarm()
        except ItemTimeout:
            guard.disarm()
            raise
        except Exception as error:
            if fired:
                raise ItemTimeout from error
            raise
        finally:
            self._active = None
        if fired:
            raise ItemTimeout
        return results

    # -- how items end ------------------------------------------------------------------------------------

    def _succeeded(self, part: list[int], results: list[Any], start: float) -> None:
        """Book a call that gave a result for each of its items; they share its time."""
        batch, step, count = self._batch, self._step, len(part)
        share = (time.perf_counter() - start) / count
        begun = start - batch.started
        first = part[0]
        if part[-1] - first + 1 == count and not any(step.attempts[first : first + count]):
            place = slice(first, first + count)
            step.values[place] = results
            step.states[place] = bytes([Code.COMPLETED]) * count
            step.attempts[place] = b"\x01" * count
            step.starts[place] = array("f", [begun + share * k for k in range(count)])
            step.durations[place] = array("f", [share]) * count
            return
        for k, (position, value) in enumerate(zip(part, results, strict=True)):
            step.values[position] = value
            step.states[position] = Code.COMPLETED
            step.attempts[position] = min(255, step.attempts[position] + 1)
            step.starts[position] = begun + share * k
            step.durations[position] = share

    def _refused(self, part: list[int], error: BatchedResultError, start: float) -> None:
        """Fail all items of a call whose result cannot be split by item; a retry would not help."""
        for position in part:
            self._batch.refused(self._step, position, error, start)

    def _stuck(self) -> None:
        """End a call that does not react; called by the watchdog. If it is for several items, it is unknown which one it is."""
        active = self._active
        if active is None:
            return
        part, start = active
        batch = self._batch
        batch.progress.cut()
        if len(part) == 1:
            batch.stuck(self._step, part[0], start)
            batch.progress.mark_ended(part)
            batch.give_up()
        else:
            batch.give_up(held=part)


async def _first(source: AsyncIterator[Any], count: int) -> list[Any]:
    found: list[Any] = []
    taker = Taker()
    async for each in source:
        found.append(taker.take(each, 1))
        if len(found) == count:
            break
    return found


def _kind_of(value: Any) -> str:
    return "None" if value is None else f"{with_article(type(value).__name__)}"
