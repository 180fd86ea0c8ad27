"""The ports: what the engine asks of a backend and of a history, as protocols.

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
"""Bytes that need not be copied."""


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
    """What tells the time; tests have one that jumps."""

    def wall(self) -> float:
        """Seconds since the epoch; may be set back."""
        ...

    def steady(self) -> float:
        """Seconds of a clock that never goes back, the same in all processes of a host until it is booted again."""
        ...


@runtime_checkable
class Journal(Protocol):
    """The history of one run as its driver writes it. Not for use by several threads, but for `renew`."""

    @property
    def run_id(self) -> str:
        """The run's."""
        ...

    @property
    def epoch(self) -> int:
        """The number of this driver among the run's; every commit is guarded by it."""
        ...

    def commit(self, records: Sequence[Record], *, state: str | None = None) -> int:
        """Make records durable, all of them or none; gives the commit's number.

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
        """What was asked from outside and is not answered yet, oldest first; cheap where there is nothing new."""
        ...

    def answer(self, request: int, error: str = "") -> None:
        """Say that a request was carried out, or what was wrong with it."""
        ...

    def close(self) -> None:
        """Give the lease back; calling it again does nothing."""
        ...


@runtime_checkable
class History(Protocol):
    """The histories of all runs of a place, for drivers that write and anybody who reads."""

    def create(self, header: RunHeader) -> Journal:
        """Begin the history of a new run, and take it.

        Raises
        ------
        HistoryError
            If there is such a run already, or the place cannot be written.
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
        """The run of an id, a unique prefix of one, a name (the newest), `@latest` or `@latest-failed`.

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
        """Runs, the newest first; `before` is the id of the last one of the page before."""
        ...

    def read(
        self, run_id: str, *, after: int = 0, kinds: Collection[int] = (), node: int | None = None
    ) -> Iterator[Entry]:
        """Records of commits after a number, in order, each of them verified; never blocks the run's driver.

        Raises
        ------
        HistoryDamaged
            At the first record that is not what was written.
        """
        ...

    def head(self, run_id: str) -> int:
        """The number of the last commit; cheap."""
        ...

    def request(self, run_id: str, kind: str, body: Mapping[str, Any]) -> int:
        """Ask something of a run's driver; gives the request's number.

        Raises
        ------
        HistoryError
            If the run has no driver that could answer.
        """
        ...

    def answer_of(self, request: int) -> str | None:
        """What the driver answered: None until it did, empty where all is well."""
        ...

    def verify(self, run_id: str) -> list[str]:
        """All that is wrong with a run's history, as texts; empty where it is just as it was written."""
        ...

    def remove(self, run_id: str) -> None:
        """Forget a run.

        Raises
        ------
        LeaseHeld
            If a driver is at it.
        """
        ...

    def results_folder(self, run_id: str) -> str:
        """Where the results of a run go by default, as an absolute path."""
        ...


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object of a result store, as a listing tells it; `modified` is seconds since the epoch, of the store's clock."""

    name: str
    nbytes: int
    modified: float


@runtime_checkable
class ResultStore(Protocol):
    """Where results are kept, as objects that are written once; can be pickled, so that workers use it too.

    Names are made of segments with `/` between them; nothing is read or written outside the store's own place.
    """

    @property
    def url(self) -> str:
        """How messages name it; without credentials."""
        ...

    @property
    def is_shared(self) -> bool:
        """Whether workers on other machines reach it too."""
        ...

    @property
    def keys(self) -> Sequence[bytes]:
        """What objects are signed with: the first one signs, all are accepted. Never shown, never in the store."""
        ...

    @property
    def can_create(self) -> bool:
        """Whether `create` is exclusive here; the first answer may cost a few requests."""
        ...

    def publish(self, name: str, parts: Sequence[Buffer]) -> int:
        """Write an object of these parts; it is there whole and durable, or not at all. Gives its size.

        Raises
        ------
        ResultStoreError
            If it cannot be written (a full disk, missing rights).
        """
        ...

    def create(self, name: str, data: bytes, *, is_lasting: bool = True) -> bool:
        """Write an object unless there is one: True if this very call made it, False if it was there.

        Of all who try at once, one gets True. `data` is a token that no other call uses, not empty: where the store's
        answer was lost, what is there is read back and compared. What is not `is_lasting` may be gone when
        the machine has lost its power.

        Raises
        ------
        ResultStoreError
            If the store cannot do that exclusively, or cannot be written.
        """
        ...

    def read(self, name: str, offset: int, nbytes: int) -> bytes:
        """Bytes of an object; a negative offset counts from its end.

        Raises
        ------
        ResultDamaged
            If there is no such object, or it is shorter.
        ResultStoreError
            If the store cannot be reached.
        """
        ...

    def read_many(self, ranges: Sequence[tuple[str, int, int]]) -> list[bytes | ResultDamaged]:
        """Many reads of (name, offset, nbytes) at once; in place of what is missing or too short, the error.

        Raises
        ------
        ResultStoreError
            If the store cannot be reached.
        """
        ...

    def entries(self, prefix: str = "") -> Iterator[StoredObject]:
        """The objects whose names begin with a prefix, in no order; one listing. A store may list late, never wrongly.

        Raises
        ------
        ResultStoreError
            If the store cannot be reached.
        """
        ...

    def names(self, prefix: str = "") -> Iterator[str]:
        """The names of `entries`."""
        ...

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects; one that is not there is no error."""
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
    """How values become bytes. One without state: it is made without arguments, once per process."""

    @property
    def name(self) -> str:
        """What options and packs call it."""
        ...

    def dumps(self, values: Sequence[Any]) -> Sequence[Buffer]:
        """Some values as one or more buffers, which are kept in this order.

        Raises
        ------
        SerializationError
            If one cannot be carried, or would not come back as it was; the others are tried again without it.
        """
        ...

    def loads(self, buffers: Sequence[Buffer]) -> list[Any]:
        """The values again. Buffers after the first one are writable, and the values' own."""
        ...
