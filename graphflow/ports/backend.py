"""Where batches run, and what comes back from there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from graphflow.model.orders import BatchOrder, Ref
from graphflow.model.policies import TaskOptions
from graphflow.model.reports import Report

__all__ = [
    "Backend",
    "BackendEvent",
    "BackendFailed",
    "BatchDone",
    "BatchLost",
    "Capacity",
    "CapacityChanged",
    "Forecasted",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """How much a backend can do at once.

    `slots` is the number of batches that run at the same time, `queue` how many may wait behind each
    running one, `is_elastic` whether the backend grows when more work waits, `batch_seconds` the CPU seconds
    that a batch costs outside its items, `tells` whether batches report what has ended while they go on, and hand back what
    they have not begun when they are recalled.
    """

    slots: int
    queue: int = 1
    is_elastic: bool = False
    batch_seconds: float = 0.0006
    tells: bool = True


@dataclass(frozen=True, slots=True)
class BatchDone:
    """A batch came back with its report."""

    report: Report


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLost:
    """A batch was lost: it will never report.

    `executing` is the map index that was running when its worker died, if that is known;
    `had_started` is False for a batch that only waited on that worker, None if unknown.
    `is_blameless` means that the batch was withdrawn (its worker was stopped because of another batch).
    """

    batch: int
    executing: int | None = None
    had_started: bool | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class CapacityChanged:
    """The backend grew or shrank."""

    capacity: Capacity


@dataclass(frozen=True, slots=True)
class BackendFailed:
    """The whole backend failed: no submitted batch will report."""

    error: BaseException


BackendEvent = BatchDone | BatchLost | CapacityChanged | BackendFailed


@runtime_checkable
class Backend(Protocol):
    """Where batches run. One backend may serve several runs, one after the other or at once."""

    @property
    def name(self) -> str:
        """Its name in logs and errors, such as `threads(4)`."""
        ...

    @property
    def runs_in_caller(self) -> bool:
        """Whether batches run in the thread that calls `step` (the inline backend)."""
        ...

    @property
    def is_local(self) -> bool:
        """Whether batches run in this process, so that values need not be pickled."""
        ...

    def start(self) -> None:
        """Start the backend; calling it again does nothing.

        Raises
        ------
        BackendUnreachable
            If there is an address and no scheduler answers, within seconds.
        """
        ...

    def capacity(self) -> Capacity:
        """Return its current capacity."""
        ...

    def check(self, options: TaskOptions) -> None:
        """Raise `BackendError` if a task needs what this backend does not have (resources, ...)."""
        ...

    def open_run(self, run_id: str, deliver: Callable[[BackendEvent], None]) -> None:
        """Open a run; `deliver` may be called from any thread, and is quick."""
        ...

    def submit(self, order: BatchOrder) -> None:
        """Submit a batch without waiting for its execution. Its end is delivered as an event."""
        ...

    def step(self, run_id: str) -> bool:
        """Run one waiting batch in the calling thread, if `runs_in_caller`; return False if none waits."""
        ...

    def fetch(self, refs: Sequence[Ref]) -> list[list[Any]]:
        """Return the values of columns, one list per ref.

        Raises
        ------
        ValueUnavailable
            If a column is gone.
        SerializationError
            If a value cannot be restored in this process.
        """
        ...

    def free(self, refs: Iterable[Ref]) -> None:
        """Release columns."""
        ...

    def stop(self, run_id: str, *, hard: bool = False) -> None:
        """Stop the run's batches between items; `hard` also stops running items, if possible."""
        ...

    def recall(self, run_id: str, batches: Sequence[int]) -> None:
        """Let batches under way hand back what they have not begun, in their next report; one that is over is passed over."""
        ...

    def limit(self, run_id: str, node: int, seconds: float) -> None:
        """Set the timeout of running items of a task that have none: `seconds` from their start."""
        ...

    def close_run(self, run_id: str) -> None:
        """Close a run: nothing more is delivered for it. Its stored values stay readable while refs exist."""
        ...

    def close(self) -> None:
        """Shut down what this backend started itself; calling it again does nothing."""
        ...


@runtime_checkable
class Forecasted(Protocol):
    """A backend that uses forecasts of the remaining work; optional."""

    def forecast(self, run_id: str, seconds: float) -> None:
        """Update the estimate of a run's remaining work, in seconds of one slot; called after some reports."""
        ...
