"""What comes back from a backend: the report of a batch, and the records inside it."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from graphflow.model.anomalies import Anomaly, ErrorRecord, Faults, Variants
from graphflow.model.orders import Ref

__all__ = [
    "Anomaly",
    "ErrorRecord",
    "Faults",
    "CachedFrom",
    "CachedItem",
    "CachedOrigin",
    "Graft",
    "LogRecord",
    "Report",
    "StepReport",
    "Stored",
    "ValueInfo",
    "Variants",
    "stored_ref",
]

NO_FAULTS = Faults()


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueInfo:
    """What a value is to a map: its length, or why it is not mapped."""

    kind: Literal["sized", "scalar", "refused"]
    type_name: str
    length: int = 0
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Graft:
    """A fragment that a task recorded: it takes the item's place. `fragment` is opaque to the core."""

    position: int
    fragment: Any


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One line of a task's or flow's log."""

    timestamp: float
    level: int
    message: str
    logger: str = "graphflow"
    node: str = ""
    index: int | None = None
    attempt: int = 0
    worker: str = ""
    run_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A column of values in a result store: `count` of them, in an object, at an offset, with the digest of these bytes.

    `missing` are the positions of values that are not there: they could not be pickled, and are of use in this launch of the
    run alone; or, where it is not `is_whole`, nothing outside their batch needed them.
    """

    name: str
    offset: int
    nbytes: int
    digest: bytes
    count: int
    missing: Sequence[int] = ()
    is_whole: bool = True

    @property
    def has_all(self) -> bool:
        """Whether each value of the column is there."""
        return self.is_whole and not self.missing


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedOrigin:
    """Where cached values come from: an object of a store, and the run and node that made them."""

    store: str
    pack: str
    run_id: str
    node: str
    host: str
    created: float
    """When they were made, in seconds since the epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedFrom:
    """Where the values of cached items come from.

    `numbers` has the place in `origins` plus 1 per position, 0 where the item is not cached; `indices` the map indices that
    they had there, empty where these are the items' own.
    """

    origins: tuple[CachedOrigin, ...]
    numbers: array[int]
    indices: array[int] = field(default_factory=lambda: array("I"))

    def at(self, position: int, index: int) -> CachedItem | None:
        """Return where the value of one position comes from, whose map index is given; None if it is not cached."""
        number = self.numbers[position]
        if not number:
            return None
        origin = self.origins[number - 1]
        return CachedItem(
            store=origin.store,
            pack=origin.pack,
            run_id=origin.run_id,
            node=origin.node,
            index=self.indices[position] if len(self.indices) else index,
            host=origin.host,
            created=datetime.fromtimestamp(origin.created, UTC),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedItem:
    """Where the value of a cached item comes from: which run, node and map index made it, on which host and when.

    `pack` is the object in the store that it was read from; empty where an equal item of the same batch has just made it.
    """

    store: str
    pack: str
    run_id: str
    node: str
    index: int
    host: str
    created: datetime


def stored_ref(stored: Stored, store: Any) -> Ref:
    """Return how orders and histories refer to a stored column; `store` is the `ResultStore` that has it."""
    return Ref(
        kind="stored",
        id=f"{stored.name}@{stored.offset}",
        count=stored.count,
        nbytes=stored.nbytes,
        data=store,
        path=stored.name,
        offset=stored.offset,
        digest=stored.digest,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What happened to each item at one task.

    `stored` is where the column of values was written so that it outlives the run, `digests` what its items were
    mapped over (8 bytes per position, zeros where that cannot be told; empty where nothing is to be compared).

    `states` has one code per position reached, `attempts` the attempts made in all (also in earlier
    batches), `starts` seconds after the report's `started`, `durations` seconds. `values` and `labels`
    are columns with one entry per position reached, None where there is no value. `faults` names the errors that
    ended items, `anomalies` the attempts that the columns do not tell of: those that were retried, or wait.
    """

    node: int
    states: bytes
    attempts: bytes
    starts: array[float]
    durations: array[float]
    values: Ref | None = None
    labels: Ref | None = None
    info: ValueInfo | None = None
    faults: Faults = NO_FAULTS
    anomalies: Sequence[Anomaly] = ()
    grafts: Sequence[Graft] = ()
    stored: Stored | None = None
    digests: bytes = b""
    cached: CachedFrom | None = None
    """Where the values of items come from that were not executed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a batch gives back: the outcome of `reached` positions.

    `positions` names them, None for the first ones. `held` are positions that still execute: another report of
    the same batch follows for them. What no report names was not begun, and is handed back by the first report.

    `elapsed` is without what the batch waited for stores before its items; `store_seconds` is all that it waited for them.
    `cpu_seconds` is the CPU time of the batch's thread so far (0 where another thread made the report), `is_remote`
    tells that it ran in another process than the driver's, `is_refused` that nothing was executed because the batch
    could not be read there.
    """

    batch: int
    worker: str
    started: float
    elapsed: float
    reached: int
    steps: tuple[StepReport, ...]
    errors: Sequence[ErrorRecord] = ()
    variants: Variants | None = None
    logs: Sequence[LogRecord] = ()
    logs_dropped: int = 0
    positions: Sequence[int] | None = None
    held: Sequence[int] = ()
    store_seconds: float = 0.0
    cpu_seconds: float = 0.0
    is_remote: bool = False
    is_refused: bool = False
    is_packed: bool = False
    """Whether the values that persist were written where they were made, as far as there are any."""
    store_error: str = ""
    """Why values could not be written to the result store; empty where they were, or need not be."""
