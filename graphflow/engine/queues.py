"""What runs next: queues of ready work, batches under way, and what becomes of a batch that is lost."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

from graphflow.engine import events as ev
from graphflow.engine.batching import next_slice
from graphflow.engine.books import Flight, NodeBook, Stage
from graphflow.engine.failures import hand_over_inputs, hand_over_lane
from graphflow.engine.outcomes import announce, end_items
from graphflow.engine.state import RunState
from graphflow.graph import DepKind
from graphflow.policies import all_successful
from graphflow.states import Code

__all__ = ["MAX_CRASHES", "Dispatcher"]

MAX_CRASHES = 2
"""An item found executing in this many dead workers is `Crashed`."""
FIRST_PULL_PER_SLOT = 32
MAX_PULL = 65_536
PULL_SECONDS = 0.6
"""An iterator is read ahead by about this much work per slot."""


class Dispatcher:
    """Sends batches while there is room for them, deepest stages first, so that work drains.

    Parameters
    ----------
    run
        The run's state.
    """

    def __init__(self, run: RunState) -> None:
        self._run = run
        self._batches = 0
        self._turn = 0
        self._queue: list[tuple[int, int, int, Stage]] = []

    @property
    def is_starved(self) -> bool:
        """Whether work waits only because there is no slot at all."""
        return bool(self._queue) and self._run.capacity.slots * (1 + self._run.capacity.queue) < 1

    # -- ready work -------------------------------------------------------------------------------------

    def enqueue(self, stage: Stage) -> None:
        """A stage may have something to send, or iterators to pull."""
        if stage.is_open and not stage.is_queued:
            stage.is_queued = True
            self._turn += 1
            heapq.heappush(self._queue, (-stage.priority, -stage.depth, self._turn, stage))

    def queue_item(self, stage: Stage, nodes: tuple[int, ...], index: int) -> None:
        """One item is ready for some members of its stage; a suspect of a crash goes alone, task by task."""
        if index in stage.suspects:
            nodes = nodes[:1]
            stage.add_alone(nodes, [index])
        else:
            stage.add_again(nodes, (index,))
        self._mark(nodes, (index,))
        self.enqueue(stage)

    def queue_items(self, stage: Stage, indices: Sequence[int]) -> None:
        """Single items are ready for all members of their stage."""
        nodes = tuple(stage.members)
        stage.add_again(nodes, indices)
        self._mark(nodes, indices)
        self.enqueue(stage)

    def _mark(self, nodes: tuple[int, ...], indices: Sequence[int]) -> None:
        """Items wait singly in a queue."""
        for node in nodes:
            self._run.books[node].mark_all(indices, Code.SCHEDULED)

    def _unmark(self, nodes: tuple[int, ...], indices: Sequence[int]) -> None:
        """Items are as if they had never been sent."""
        for node in nodes:
            self._run.books[node].mark_all(indices, Code.PENDING)

    # -- batches ----------------------------------------------------------------------------------------

    def dispatch(self) -> None:
        """Send what fits."""
        run = self._run
        target = run.capacity.slots * (1 + run.capacity.queue)
        while self._queue and len(run.flights) < target and not run.is_stopping:
            stage = heapq.heappop(self._queue)[-1]
            stage.is_queued = False
            if stage.ready:
                self._submit_next(stage)
                self.enqueue(stage)
            self._pull(stage)

    def _submit_next(self, stage: Stage) -> None:
        if stage.alone:
            nodes, indices = stage.take_alone()
            self._submit(stage, nodes, indices, None, is_fresh=False)
            return
        size = next_slice(
            remaining=stage.ready,
            mean_seconds=stage.mean_seconds,
            slots=self._run.capacity.slots,
            batch_size=stage.batch_size,
            item_nbytes=stage.item_nbytes,
            batch_seconds=self._run.capacity.batch_seconds,
        )
        if stage.again:
            nodes, indices = stage.take_again(size.count)
            self._submit(stage, nodes, indices, size.seconds, is_fresh=False)
        else:
            self._submit(
                stage, tuple(stage.members), stage.take_fresh(size.count), size.seconds, is_fresh=True
            )

    def _submit(
        self,
        stage: Stage,
        nodes: tuple[int, ...],
        indices: Sequence[int],
        seconds: float | None,
        *,
        is_fresh: bool,
    ) -> None:
        run = self._run
        self._batches += 1
        run.flights[self._batches] = Flight(stage, nodes, indices, is_fresh)
        tries: list[bytes | None] = []
        for node in nodes:
            book = run.books[node]
            if not book.has_started:
                book.has_started = True
                hand_over_inputs(run.books, book)
                announce(run, book, Code.RUNNING)
            tries.append(None if is_fresh else self._begin(book, indices))
        run.commands.append(
            ev.SubmitBatch(
                batch=self._batches,
                nodes=nodes,
                indices=indices,
                width=stage.width,
                tries=tuple(tries),
                slice_seconds=seconds,
                priority=stage.priority,
            )
        )

    def _begin(self, book: NodeBook, indices: Sequence[int]) -> bytes:
        """Single items begin; returns the attempts that each has used."""
        sees_failures = any(
            dep.kind is DepKind.ITEMS and (dep.allows_failure or book.node.trigger is not all_successful)
            for dep in book.node.deps
        )
        tries = bytes([book.attempts[index] for index in indices])
        book.mark_all([index for index, tried in zip(indices, tries, strict=True) if not tried], Code.RUNNING)
        book.mark_all([index for index, tried in zip(indices, tries, strict=True) if tried], Code.RETRYING)
        if sees_failures:
            for index in indices:
                hand_over_lane(self._run.books, book, index)
        return tries

    def hand_back(self, flight: Flight, rest: Sequence[int]) -> None:
        """What a batch did not reach goes to the front again, or ends if the run is stopping."""
        run, stage = self._run, flight.stage
        if not len(rest):
            return
        if run.is_stopping:
            for node in flight.nodes:
                end_items(run, run.books[node], rest, Code.CANCELLED)
        elif flight.is_fresh:
            for lo, hi in reversed([*_runs(rest)]):
                stage.return_fresh(lo, hi)
        else:
            self._mark(flight.nodes, rest)
            stage.add_again(flight.nodes, rest, in_front=True)
        self.enqueue(stage)

    # -- batches that are lost --------------------------------------------------------------------------

    def lost(self, event: ev.BatchWasLost) -> tuple[Stage, int] | None:
        """A batch will not come back. Returns the item that was crashed for it, if any: (stage, index)."""
        flight = self._run.flights.pop(event.batch, None)
        if flight is None:
            return None
        indices, is_single = flight.indices, len(flight.indices) == 1 and len(flight.nodes) == 1
        executing = event.executing if event.executing in indices else None
        if executing is None and is_single and event.had_started is not False:
            executing = indices[0]
        if self._run.is_stopping or (executing is None and event.had_started is False):
            self.hand_back(flight, indices)
        elif executing is not None:
            self.hand_back(flight, [index for index in indices if index != executing])
            return self._suspect(flight, executing)
        else:
            # Nobody knows which item it was: halve until one is alone.
            middle = (len(indices) + 1) // 2
            for part in ([*indices[:middle]], [*indices[middle:]]):
                if len(part) == 1:
                    flight.stage.suspects.add(part[0])
                    self._unmark(flight.nodes, part)
                    self.queue_item(flight.stage, flight.nodes, part[0])
                elif part:
                    self._mark(flight.nodes, part)
                    flight.stage.add_alone(flight.nodes, part)
        self.enqueue(flight.stage)
        return None

    def _suspect(self, flight: Flight, index: int) -> tuple[Stage, int] | None:
        """An item's worker died while it was executing: alone once more, task by task, then `Crashed`."""
        run, stage = self._run, flight.stage
        stage.suspects.add(index)
        self._unmark(flight.nodes, (index,))
        for node in flight.nodes:
            stage.crashes[node, index] = stage.crashes.get((node, index), 0) + 1
        if len(flight.nodes) == 1:
            book = run.books[flight.nodes[0]]
            book.attempts[index] = min(255, book.attempts[index] + 1)
            if stage.crashes[book.node.id, index] >= MAX_CRASHES:
                end_items(run, book, (index,), Code.CRASHED)
                return stage, index
        self.queue_item(stage, flight.nodes, index)
        return None

    # -- iterators --------------------------------------------------------------------------------------

    def _pull(self, stage: Stage) -> None:
        """Ask iterators for as much as about two slices per slot will use."""
        if len(stage.exhausted) == len(stage.pulled) or self._run.leader_of(stage).is_final:
            return
        slots = max(self._run.capacity.slots, 1)
        mean = stage.mean_seconds
        if mean is None:
            want = FIRST_PULL_PER_SLOT * slots
        else:
            want = max(2 * slots, min(MAX_PULL, int(slots * PULL_SECONDS / max(mean, 1e-7)) + 1))
        if stage.batch_size is not None:
            want = max(0 if mean is None else want, 2 * slots * stage.batch_size)
        for slot, count in stage.pulled.items():
            if slot in stage.pulling or slot in stage.exhausted:
                continue
            ahead = count - stage.fed + stage.ready
            if ahead * 2 <= want:
                stage.pulling.add(slot)
                self._run.commands.append(ev.PullSource(node=stage.leader, slot=slot, count=want))


def _runs(indices: Sequence[int]) -> Iterable[tuple[int, int]]:
    """Ascending indices as ranges `[lo, hi)`."""
    if isinstance(indices, range):
        if len(indices):
            yield indices.start, indices.stop
        return
    start = last = -1
    for index in indices:
        if index != last + 1 or start < 0:
            if start >= 0:
                yield start, last + 1
            start = index
        last = index
    if start >= 0:
        yield start, last + 1
