"""Tasks that may move to worker processes: what is measured of each, and what keeps one here."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any

from graphflow.backends.automatic.gauge import Work
from graphflow.backends.moving import can_travel
from graphflow.errors import SerializationError
from graphflow.model.orders import BatchOrder, Ref
from graphflow.runner.wire import OrderEncoder

__all__ = ["KNOWN", "Candidate", "Thresholds", "hindrance"]

MAX_KNOWN_TASKS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """When tasks move; not for users.

    `work_seconds` of CPU work must be left. The process's CPU seconds per second, over at least
    `measured_seconds`, must be between `low` and `high`, with `least_running` batches at a time and `least_cpu_rate` of them
    for the task. A task that gets
    fewer CPU seconds per second from all processes than `returns_below` times what it got from the threads waits
    rather than computes, and returns; `returns_after_seconds` of its batches are measured. `moves_all` sends
    everything to processes from the start.
    """

    work_seconds: float = 2.0
    measured_seconds: float = 0.2
    low: float = 0.6
    high: float = 1.4
    least_running: float = 1.5
    least_cpu_rate: float = 0.5
    returns_below: float = 0.7
    returns_after_seconds: float = 0.5
    cores: int | None = None
    moves_all: bool = False


class Candidate:
    """One task, or one fused chain of them, in a run: whether its batches may move, and what they took."""

    def __init__(self, order: BatchOrder) -> None:
        self.order = replace(order, inputs=(), indices=())
        self.functions = tuple(step.program.fn for step in order.steps)
        """Kept, so that their ids stay theirs."""
        self.is_pinned = all(step.program.kind == "builtin" for step in order.steps)
        self.wants_away = False
        self.here = Work()
        self.away = Work()
        self.away_seconds = 0.0
        self.cpu_rate = 0.0
        """CPU seconds per second that the threads gave it, when it was decided to move it."""
        self.sample: list[list[Any]] = []
        """What its last batch on threads made, one column per function."""

    @property
    def name(self) -> str:
        return " -> ".join(getattr(fn, "__name__", "task") for fn in self.functions)


def hindrance(task: Candidate) -> Exception | None:
    """Return why a task cannot move, as far as that can be seen from its functions and from results that it made."""
    try:
        OrderEncoder(share=_not_shared, by_value=False).check(task.order)
    except SerializationError as error:
        return error
    return next((found for column in task.sample if (found := can_travel(column)) is not None), None)


def _not_shared(data: bytes) -> Ref:
    return Ref(kind="inline", id="tried", count=0, nbytes=len(data))


class Known:
    """What tasks cost in earlier runs of this process: those that are worth a process, by their functions."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: OrderedDict[tuple[int, ...], tuple[list[weakref.ref[Any]], float]] = OrderedDict()

    def keep(self, functions: tuple[Any, ...], work: Work) -> None:
        """Record a task that computed in worker processes."""
        try:
            refs = [weakref.ref(fn) for fn in functions]
        except TypeError:
            return
        key = tuple(map(id, functions))
        with self._lock:
            self._seconds[key] = (refs, work.cpu / work.items)
            self._seconds.move_to_end(key)
            while len(self._seconds) > MAX_KNOWN_TASKS:
                self._seconds.popitem(last=False)

    def forget(self, functions: tuple[Any, ...]) -> None:
        """Drop a task that is not worth a process after all."""
        with self._lock:
            self._seconds.pop(tuple(map(id, functions)), None)

    def seconds_per_item(self, functions: tuple[Any, ...]) -> float:
        """Return the CPU seconds of one item, 0 if unknown."""
        with self._lock:
            found = self._seconds.get(tuple(map(id, functions)))
        if found is None or any(ref() is not fn for ref, fn in zip(found[0], functions, strict=True)):
            return 0.0
        return found[1]


KNOWN = Known()
"""What runs of this process found out."""
