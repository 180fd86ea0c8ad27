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

    `slots` is the number of batches that run at the same time, `queue` how many may wait beside each
    running one, `is_elastic` whether the backend grows when more work waits, `batch_seconds` the CPU seconds
    that a batch costs outside its items.
    """

    slots: int
    queue: int = 1
    is_elastic: bool = False
    batch_seconds: float = 0.0006


@dataclass(frozen=True, slots=True)
class BatchDone:
    """A batch came back with its report."""

    report: Report


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLost:
    """A batch will not come back.

    `executing` is the map index that was running when its worker died, where that is known;
    `had_started` is False for a batch that only waited on that worker, None where nobody knows.
    `is_blameless` means that the batch was withdrawn (its worker was stopped on account of another).
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
    """The backend as a whole is gone: nothing that was submitted will come back."""

    error: BaseException


BackendEvent = BatchDone | BatchLost | CapacityChanged | BackendFailed


@runtime_checkable
class Backend(Protocol):
    """Where batches run. One backend may serve several runs, one after the other or at once."""

    @property
    def name(self) -> str:
        """How logs and errors name it, such as `threads(4)`."""
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
        """Bring it up; calling it again does nothing.

        Raises
        ------
        BackendUnreachable
            If there is an address and nobody answers, within seconds.
        """
        ...

    def capacity(self) -> Capacity:
        """What it can do now."""
        ...

    def check(self, options: TaskOptions) -> None:
        """Raise `BackendError` if a task asks for what this backend does not have (its resources, ...)."""
        ...

    def open_run(self, run_id: str, deliver: Callable[[BackendEvent], None]) -> None:
        """Begin a run; `deliver` may be called from any thread, and is quick."""
        ...

    def submit(self, order: BatchOrder) -> None:
        """Take a batch; never blocks for its execution. Its end is delivered as an event."""
        ...

    def step(self, run_id: str) -> bool:
        """Run one waiting batch in the calling thread, where `runs_in_caller`; False if none waits."""
        ...

    def fetch(self, refs: Sequence[Ref]) -> list[list[Any]]:
        """The values of columns, one list per ref.

        Raises
        ------
        ValueUnavailable
            If a column is gone.
        SerializationError
            If a value cannot be restored in this process.
        """
        ...

    def free(self, refs: Iterable[Ref]) -> None:
        """Let columns go."""
        ...

    def stop(self, run_id: str, *, hard: bool = False) -> None:
        """Ask the run's batches to stop between items; `hard` stops what is executing as well as it can."""
        ...

    def limit(self, run_id: str, node: int, seconds: float) -> None:
        """Items of a task that execute now and have no timeout yet may take `seconds` from their start on."""
        ...

    def close_run(self, run_id: str) -> None:
        """End a run: nothing of it is delivered any more. Its stored values stay readable while refs live."""
        ...

    def close(self) -> None:
        """Shut down what this backend started itself; calling it again does nothing."""
        ...


@runtime_checkable
class Forecasted(Protocol):
    """A backend that wants to know how much work is left; what others need not have."""

    def forecast(self, run_id: str, seconds: float) -> None:
        """About this much work of a run is left, in seconds of one slot; told after reports, now and then."""
        ...
