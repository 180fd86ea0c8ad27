"""The core's events and commands. All are plain values; none holds user objects that are traversed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from graphflow.core.nodes import Past
from graphflow.graph.graph import Node
from graphflow.model.map_options import MapOptions
from graphflow.model.orders import Pace, Program
from graphflow.model.reports import Report
from graphflow.ports import Capacity

__all__ = [
    "Alias",
    "BatchReported",
    "BatchWasLost",
    "CapacitySet",
    "CloseSource",
    "Command",
    "CommitReport",
    "Event",
    "FailureHandled",
    "FinishRun",
    "GraftItem",
    "Grafted",
    "ItemsEnded",
    "ItemsNeeded",
    "MapOptionsChanged",
    "LimitItems",
    "LimitsChanged",
    "NodeChanged",
    "NodeFailed",
    "NodesRecorded",
    "PauseRequested",
    "PolicyChanged",
    "PullSource",
    "RecallBatches",
    "ReaderMoved",
    "RecordingClosed",
    "ReleaseItems",
    "ReserveSlots",
    "ResumeRequested",
    "SetTimer",
    "SlotsReserved",
    "SlotsWanted",
    "SourceAdvanced",
    "StopBatches",
    "StopRequested",
    "SubmitBatch",
    "TimerDue",
]


# -- events: told to the core ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NodesRecorded:
    """Calls were recorded; upstreams come before what needs them. `pasts` are by node id."""

    nodes: Sequence[Node]
    pasts: Mapping[int, Past] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RecordingClosed:
    """The flow's body ended: no more nodes come, but for grafts. It returned the futures of some nodes."""

    returned: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class BatchReported:
    """A batch came back. A second report of a batch, or one of an unknown batch, changes nothing."""

    report: Report


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchWasLost:
    """A batch will not come back; see `graphflow.ports.BatchLost`."""

    batch: int
    executing: int | None = None
    had_started: bool | None = None


@dataclass(frozen=True, slots=True)
class TimerDue:
    """The time of the last `SetTimer` has come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceAdvanced:
    """An iterator gave `count` more items; `ended` when it is exhausted, `failed` when it raised."""

    node: int
    slot: int
    count: int
    ended: bool = False
    failed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Grafted:
    """A fragment was decoded: `nodes` are new, `root` gives the item's value. `failed`: it did not decode."""

    node: int
    index: int
    nodes: Sequence[Node] = ()
    root: int | None = None
    failed: bool = False
    error: BaseException | None = None
    pasts: Mapping[int, Past] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CapacitySet:
    """The backend can do this much from now on."""

    capacity: Capacity


@dataclass(frozen=True, slots=True)
class StopRequested:
    """Start nothing more; `hard` also stops what is executing."""

    hard: bool = False


@dataclass(frozen=True, slots=True)
class ResumeRequested:
    """Items that a `Pause` signal parked run again."""


@dataclass(frozen=True, slots=True)
class PauseRequested:
    """Send nothing more until this is revoked (`is_paused` False); running batches continue."""

    is_paused: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyChanged:
    """A task's program runs with other policies (retries, delays, a timeout) from the next batch on."""

    node: int
    program: Program


@dataclass(frozen=True, slots=True, kw_only=True)
class MapOptionsChanged:
    """The user changed the options of a map. `batch_size` None leaves it as it is, 0 lets the engine choose."""

    node: int
    map_options: MapOptions
    batch_size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsChanged:
    """What this run holds now of the limits that it shares with others, and the rates (per second) that it shares.

    Both by name, all that there are; a name that is missing holds nothing up.
    """

    grants: Mapping[str, int]
    rates: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotsReserved:
    """Starting slots of a shared rate came: `count` of them, `1 / rate` seconds apart, the first at `first`.

    `first` is by the run's clock. `count` is 0 where they could not be had: they are asked for again.
    """

    name: str
    rate: float
    first: float
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderMoved:
    """The reader of a map is done with the items below `read`, and wants those below `limit`."""

    node: int
    read: int
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemsNeeded:
    """A caller waits for an item of a map, or for all of them (None)."""

    node: int
    index: int | None = None


@dataclass(frozen=True, slots=True)
class FailureHandled:
    """The failure of a node (or of one of its items) was handed to something that the user wrote.

    `is_raised` where the flow's body had it as an exception.
    """

    node: int
    index: int | None = None
    is_raised: bool = False


Event = (
    NodesRecorded
    | RecordingClosed
    | BatchReported
    | BatchWasLost
    | TimerDue
    | SourceAdvanced
    | Grafted
    | CapacitySet
    | StopRequested
    | ResumeRequested
    | FailureHandled
    | MapOptionsChanged
    | LimitsChanged
    | SlotsReserved
    | PauseRequested
    | PolicyChanged
    | ReaderMoved
    | ItemsNeeded
)


# -- commands: asked of the driver ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitBatch:
    """Run these items of these nodes; `nodes` are in an order that their dependencies allow."""

    batch: int
    nodes: tuple[int, ...]
    indices: Sequence[int]
    width: int | None
    tries: tuple[bytes | None, ...]
    slice_seconds: float | None
    tell_seconds: float | None = None
    """How often what has ended is reported within the slice; None for not before its end."""
    priority: int = 0
    concurrency: int | None = None
    pace: Pace | None = None
    limits: tuple[float | None, ...] = ()
    """Per node: the timeout in seconds that follows from the median."""
    tolerates: tuple[bool, ...] = ()
    keeps: tuple[bool, ...] = ()
    """Per node: whether anything outside the batch needs its values."""
    is_bundle: bool = False
    """Whether its positions are nodes that are not mapped, `indices` those of `nodes`; else items of each node."""


@dataclass(frozen=True, slots=True)
class CommitReport:
    """Make the outcomes of a report durable. It comes before anything that announces them."""

    report: Report
    indices: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemsEnded:
    """Items reached a final state other than by a report: `code` for all of `indices`."""

    node: int
    indices: Sequence[int]
    code: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeChanged:
    """A node changed its state; `width` once it is known. Announced after it was committed."""

    node: int
    code: int
    width: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFailed:
    """A node failed as a whole, before or beside its items; `error` is None where the driver knows what its iterator raised."""

    node: int
    error: BaseException | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GraftItem:
    """Decode a fragment; answered by `Grafted`."""

    node: int
    index: int
    fragment: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Alias:
    """The value of an item is, from now on, the value of another node."""

    node: int
    index: int
    root: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitItems:
    """Items of a node that run now and have no timeout yet get this one, in seconds."""

    node: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseItems:
    """The values of a map's items below an index may be released: they were read, and nothing else needs them."""

    node: int
    below: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseSource:
    """Nothing more is taken from an iterator."""

    node: int
    slot: int


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Tell me `TimerDue` at this time; replaces an earlier timer."""

    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotsWanted:
    """Work waits for slots of limits; see `Core.wants`. Told once, until `LimitsChanged` comes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReserveSlots:
    """Reserve so many starting slots of a rate; answered by `SlotsReserved`."""

    name: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PullSource:
    """Take up to `count` more items from an iterator; answered by `SourceAdvanced`."""

    node: int
    slot: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallBatches:
    """Let batches in flight hand back what they have not begun."""

    batches: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StopBatches:
    """Ask the batches in flight to stop; `hard` by force."""

    hard: bool


@dataclass(frozen=True, slots=True)
class FinishRun:
    """Everything ended; `code` is the run's state, `unhandled` the nodes whose failures were not handled."""

    code: int
    unhandled: tuple[int, ...]


Command = (
    SubmitBatch
    | CommitReport
    | ItemsEnded
    | NodeChanged
    | NodeFailed
    | GraftItem
    | Alias
    | LimitItems
    | CloseSource
    | ReleaseItems
    | SetTimer
    | SlotsWanted
    | ReserveSlots
    | PullSource
    | RecallBatches
    | StopBatches
    | FinishRun
)
