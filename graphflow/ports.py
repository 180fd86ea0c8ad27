"""The ports: the protocols of backends, histories and result stores.

Each has a contract test suite in `graphflow.testing` that every adapter passes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from graphflow.errors import ResultDamaged
from graphflow.model.orders import BatchOrder, Ref
from graphflow.model.policies import TaskOptions
from graphflow.model.records import Entry, Record, Request, RunHeader
from graphflow.model.reports import Report

__all__ = [
    "Backend",
    "BackendEvent",
    "BackendFailed",
    "BatchDone",
    "BatchLost",
    "Buffer",
    "Capacity",
    "CapacityChanged",
    "Clock",
    "Forecasted",
    "History",
    "Journal",
    "ResultStore",
    "RunEvent",
    "Serializer",
    "StoredObject",
]

Buffer = bytes | bytearray | memoryview
"""Bytes that can be passed without copying."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """How much a backend can do at once.

    `slots` is the number of batches that run at the same time, `queue` how many may wait behind each
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


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEvent:
    """A change in a run, as in-process subscribers see it.

    `kind` is one of `node` (a node was added or changed state), `items` (items of a node ended) and `run`.
    """

    kind: str
    run_id: str
    node: int | None = None
    state: str = ""
    count: int = 0


# -- history and results -----------------------------------------------------------------------------------


class Clock(Protocol):
    """The source of time; tests use one that can be set."""

    def wall(self) -> float:
        """Return the seconds since the epoch; may be set back."""
        ...

    def steady(self) -> float:
        """Return the seconds of a clock that never goes back, the same in all processes of a host until it is rebooted."""
        ...


@runtime_checkable
class Journal(Protocol):
    """The history of one run as its driver writes it. Not thread-safe, except for `renew`."""

    @property
    def run_id(self) -> str:
        """The run's."""
        ...

    @property
    def epoch(self) -> int:
        """The number of this driver among the run's; every commit is guarded by it."""
        ...

    def commit(self, records: Sequence[Record], *, state: str | None = None) -> int:
        """Write records durably, all of them or none; return the commit's number.

        `state` is the run's state from now on, for lists of runs.

        Raises
        ------
        LeaseLost
            If another driver took the run; nothing was written.
        HistoryError
            If the disk is full, the file locked or gone; nothing was written.
        """
        ...

    def renew(self) -> None:
        """Keep the lease for another term; may be called by another thread.

        Raises
        ------
        LeaseLost
            If another driver took the run.
        """
        ...

    def requests(self) -> list[Request]:
        """Return the unanswered requests, oldest first; cheap if there is nothing new."""
        ...

    def answer(self, request: int, error: str = "") -> None:
        """Answer a request: it was carried out, or why it was not."""
        ...

    def close(self) -> None:
        """Release the lease; calling it again does nothing."""
        ...


@runtime_checkable
class History(Protocol):
    """The histories of all runs in a folder, for drivers that write and for readers."""

    def create(self, header: RunHeader) -> Journal:
        """Create the history of a new run, and take the run.

        Raises
        ------
        HistoryError
            If there is such a run already, or the folder cannot be written.
        """
        ...

    def take(self, run_id: str) -> Journal:
        """Become the driver of a run that has none: the next epoch begins.

        Raises
        ------
        LeaseHeld
            If it has one.
        RunNotFound
            If there is no such run.
        HistoryDamaged, HistoryTooNew, HistoryTooOld
            If what was written cannot be trusted or read.
        """
        ...

    def find(self, text: str) -> RunHeader:
        """Return the run with an id, a unique prefix of one, a name (the newest), `@latest` or `@latest-failed`.

        Raises
        ------
        RunNotFound
            If there is none, or several.
        """
        ...

    def runs(
        self,
        *,
        flow_name: str | None = None,
        states: Collection[str] = (),
        since: float | None = None,
        limit: int | None = None,
        before: str | None = None,
    ) -> list[RunHeader]:
        """Return runs, newest first; `before` is the id of the last run of the previous page."""
        ...

    def read(
        self, run_id: str, *, after: int = 0, kinds: Collection[int] = (), node: int | None = None
    ) -> Iterator[Entry]:
        """Yield the records of commits after a number, in order, each verified; never block the run's driver.

        Raises
        ------
        HistoryDamaged
            At the first record that differs from what was written.
        """
        ...

    def head(self, run_id: str) -> int:
        """Return the number of the last commit; cheap."""
        ...

    def request(self, run_id: str, kind: str, body: Mapping[str, Any]) -> int:
        """Send a request to a run's driver; return the request's number.

        Raises
        ------
        HistoryError
            If the run has no driver.
        """
        ...

    def answer_of(self, request: int) -> str | None:
        """Return the driver's answer: None until there is one, empty if it succeeded."""
        ...

    def verify(self, run_id: str) -> list[str]:
        """Return the problems of a run's history, as texts; empty if it is intact."""
        ...

    def remove(self, run_id: str) -> None:
        """Remove a run.

        Raises
        ------
        LeaseHeld
            If a driver holds the run.
        """
        ...

    def results_folder(self, run_id: str) -> str:
        """Return the default folder for a run's results, as an absolute path."""
        ...


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object of a result store, as listed; `modified` is seconds since the epoch, of the store's clock."""

    name: str
    nbytes: int
    modified: float


@runtime_checkable
class ResultStore(Protocol):
    """A store of results, as objects that are written once; it can be pickled, for workers.

    Names are made of segments with `/` between them; nothing is read or written outside the store's own place.
    """

    @property
    def url(self) -> str:
        """Its name in messages, without credentials."""
        ...

    @property
    def is_shared(self) -> bool:
        """Whether workers on other machines reach it too."""
        ...

    @property
    def keys(self) -> Sequence[bytes]:
        """The signing keys: the first one signs, all are accepted. Never shown, never in the store."""
        ...

    @property
    def can_create(self) -> bool:
        """Whether `create` is exclusive in this store; finding out may cost a few requests."""
        ...

    def publish(self, name: str, parts: Sequence[Buffer]) -> int:
        """Write an object of these parts, atomically and durably, and return its size.

        Raises
        ------
        ResultStoreError
            If it cannot be written (a full disk, missing rights).
        """
        ...

    def create(self, name: str, data: bytes, *, is_lasting: bool = True) -> bool:
        """Write an object unless it exists; return True if this call created it, False if it existed.

        Of concurrent calls, exactly one gets True. `data` is a unique token, not empty: if the store's
        answer was lost, the object is read back and compared. An object that is not `is_lasting` may be gone after
        a power failure.

        Raises
        ------
        ResultStoreError
            If the store cannot do that exclusively, or cannot be written.
        """
        ...

    def read(self, name: str, offset: int, nbytes: int) -> bytes:
        """Return bytes of an object; a negative offset counts from its end.

        Raises
        ------
        ResultDamaged
            If there is no such object, or it is shorter.
        ResultStoreError
            If the store cannot be reached.
        """
        ...

    def read_many(self, ranges: Sequence[tuple[str, int, int]]) -> list[bytes | ResultDamaged]:
        """Return the bytes of many (name, offset, nbytes) reads; an error for each object that is missing or too short.

        Raises
        ------
        ResultStoreError
            If the store cannot be reached.
        """
        ...

    def entries(self, prefix: str = "") -> Iterator[StoredObject]:
        """Yield the objects whose names begin with a prefix, in no order; one listing. It may lag, but is never wrong.

        Raises
        ------
        ResultStoreError
            If the store cannot be reached.
        """
        ...

    def names(self, prefix: str = "") -> Iterator[str]:
        """Yield the names of `entries`."""
        ...

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects; a missing one is not an error."""
        ...

    def check(self) -> None:
        """Write, read and remove a probe.

        Raises
        ------
        ResultStoreError
            If that does not work, with the reason: a wrong bucket, missing rights, expired credentials.
        """
        ...


@runtime_checkable
class Serializer(Protocol):
    """Converts values to bytes. Stateless: it is created without arguments, once per process."""

    @property
    def name(self) -> str:
        """Its name in options and packs."""
        ...

    def dumps(self, values: Sequence[Any]) -> Sequence[Buffer]:
        """Return values as one or more buffers, which are stored in this order.

        Raises
        ------
        SerializationError
            If a value cannot be serialized, or would not survive a round trip; the others are tried again without it.
        """
        ...

    def loads(self, buffers: Sequence[Buffer]) -> list[Any]:
        """Restore the values. Buffers after the first one are writable, and owned by the values."""
        ...
