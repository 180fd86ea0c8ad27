"""Which worker of an own cluster gets the next batch: one to run and one to wait there, none behind a slow one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

__all__ = ["Batch", "Places"]

PER_WORKER = 2
Batch = tuple[str, int]
"""A run and the number of a batch in it."""


class Places:
    """The batches on each worker, and those that wait here for a place. It decides only, and sends nothing.

    Methods that make room return what is to be sent now, as pairs of a batch and its worker.
    """

    def __init__(self) -> None:
        self._on: dict[str, dict[Batch, None]] = {}
        self._worker_of: dict[Batch, str] = {}
        self._waiting: deque[Batch] = deque()
        self._slow: set[str] = set()
        self._asked: set[Batch] = set()

    @property
    def workers(self) -> set[str]:
        """The workers that are there."""
        return set(self._on)

    def set_workers(self, workers: Iterable[str]) -> list[tuple[Batch, str]]:
        """Set the current workers, and forget batches on workers that are gone."""
        found = set(workers)
        for gone in self._on.keys() - found:
            for batch in self._on.pop(gone):
                del self._worker_of[batch]
                self._asked.discard(batch)
            self._slow.discard(gone)
        for new in sorted(found - self._on.keys()):
            self._on[new] = {}
        return self._fill()

    def put(self, batch: Batch) -> list[tuple[Batch, str]]:
        """Choose the worker for a batch that is to be sent."""
        self._waiting.append(batch)
        return self._fill()

    def ended(self, batch: Batch, *, was_begun: bool = True) -> list[tuple[Batch, str]]:
        """Record that a batch is over; one that came back unstarted waited behind another for too long."""
        worker = self._worker_of.pop(batch, None)
        self._asked.discard(batch)
        if worker is None:
            if batch in self._waiting:
                self._waiting.remove(batch)
            return []
        there = self._on[worker]
        del there[batch]
        if was_begun or not there:
            self._slow.discard(worker)
        else:
            self._slow.add(worker)
        return self._fill()

    def is_held_up(self, batch: Batch) -> list[tuple[Batch, str]]:
        """Record that a batch continues with a slow item: batches behind it are taken back, and no more are sent there."""
        worker = self._worker_of.get(batch)
        if worker is None:
            return []
        self._slow.add(worker)
        behind = [each for each in self._on[worker] if each != batch and each not in self._asked]
        self._asked.update(behind)
        return [(each, worker) for each in behind]

    @property
    def is_uneven(self) -> bool:
        """Whether a worker has nothing to do while a batch waits on another."""
        sizes = [len(there) for there in list(self._on.values())]
        return 0 in sizes and max(sizes) >= PER_WORKER

    def to_take_back(self) -> list[tuple[Batch, str]]:
        """Return batches that wait on a worker although another has nothing to do; each is returned once."""
        if self._waiting:
            return []
        idle = sum(1 for there in self._on.values() if not there)
        found = [(list(there)[-1], worker) for worker, there in self._on.items() if len(there) >= PER_WORKER]
        taken = [(batch, worker) for batch, worker in found if batch not in self._asked][:idle]
        self._asked.update(batch for batch, _ in taken)
        return taken

    def _fill(self) -> list[tuple[Batch, str]]:
        sent: list[tuple[Batch, str]] = []
        while self._waiting:
            open_ones = [
                (len(there), worker)
                for worker, there in self._on.items()
                if len(there) < (1 if worker in self._slow else PER_WORKER)
            ]
            if not open_ones:
                break
            _, worker = min(open_ones)
            batch = self._waiting.popleft()
            self._on[worker][batch] = None
            self._worker_of[batch] = worker
            sent.append((batch, worker))
        return sent
