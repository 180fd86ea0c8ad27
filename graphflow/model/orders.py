"""What goes out to a backend: programs, the inputs of a batch, and the batch itself.

All are plain values. A `Program` is one node's function with the shape of its call; a `BatchOrder` says
which items of which programs to run, and where their inputs are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from graphflow.model.cache_policies import NO_DEFAULTS, CacheDefaults
from graphflow.model.policies import TaskOptions

__all__ = [
    "GONE",
    "GONE_TEXT",
    "RUN_ID_ENDS",
    "BatchOrder",
    "BundleOrder",
    "CacheOrder",
    "Column",
    "Earlier",
    "Elements",
    "Gathered",
    "Given",
    "Hole",
    "Input",
    "Lane",
    "Literals",
    "Pace",
    "Program",
    "Ref",
    "SlotSource",
    "Spread",
    "StepOrder",
    "Whole",
]


@dataclass(frozen=True, slots=True)
class Hole:
    """A place in a call's arguments that is filled per item; `slot` numbers the program's inputs."""

    slot: int


@dataclass(frozen=True, slots=True)
class Built:
    """An object in a call's arguments with holes in some of its fields, by their names; `value` has None there."""

    value: Any
    parts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Spread:
    """A `Hole` whose value is spread over several arguments: a tuple by place, a mapping by name."""

    slot: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One node's function and the shape of its call.

    `args` and `kwargs` hold constants and `Hole`s, nested in plain containers as the user wrote them;
    `has_nested` tells whether any hole is deeper than the top level.
    """

    id: str
    fn: Callable[..., Any]
    kind: Literal["sync", "async", "builtin"]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    has_nested: bool
    options: TaskOptions
    node_name: str
    node_key: str
    flow_name: str
    is_mapped: bool
    parameter_names: tuple[str, ...] = ()
    flow_parameters: Mapping[str, Any] = field(default_factory=dict)
    group: str = ""
    defaults: CacheDefaults = NO_DEFAULTS
    """What the flow says of its tasks' results: it holds for calls inside the running task too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ref:
    """Where a column of values lives.

    kinds: `gone` (it was let go), `local` (the list itself, in this process), `inline` (its pickle, here), `file` (its pickle, at
    `offset` of a file that driver and workers share), `remote` (held by the backend under `id`), `stored` (in the object
    `path` of the result store that is `data`).
    """

    kind: Literal["gone", "local", "inline", "file", "remote", "stored"]
    id: str
    count: int
    nbytes: int = 0
    data: Any = None
    path: str = ""
    offset: int = 0
    digest: bytes = b""
    is_spilled: bool = False
    """Whether the file was written by the driver, in place of values in its memory."""


RUN_ID_ENDS = "@"
"""What follows in a `BatchOrder.run_id` tells the attempt and the driver."""
GONE = Ref(kind="gone", id="gone", count=0)
GONE_TEXT = (
    "the value is no longer stored: it was large, and nothing recorded by then needed it; return it from the "
    "flow, or pass it to a task before the flow's body ends"
)


@dataclass(frozen=True, slots=True)
class Given:
    """A constant that the driver has: the same for each item."""

    value: Any


@dataclass(frozen=True, slots=True)
class Whole:
    """One stored value, the same for each item: entry `position` of a column."""

    ref: Ref
    position: int


@dataclass(frozen=True, slots=True)
class Literals:
    """One value per position, given by the user's own sequence."""

    values: Sequence[Any]


@dataclass(frozen=True, slots=True)
class Column:
    """One stored value per position: the entries of the parts, one part after the other.

    `overrides` replaces positions (an upstream failure that the task asked to see).
    """

    parts: tuple[tuple[Ref, Sequence[int]], ...]
    overrides: Mapping[int, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Gathered:
    """A whole mapped node as one list in index order, the same for each item.

    `dropped` are places in the list without a value (skipped items); `overrides` replaces places. `is_folded`
    leaves out what went into an earlier item's value.
    """

    id: str
    parts: tuple[tuple[Ref, Sequence[int]], ...]
    dropped: tuple[int, ...] = ()
    overrides: Mapping[int, Any] = field(default_factory=dict)
    is_folded: bool = False


@dataclass(frozen=True, slots=True)
class Elements:
    """One element of a stored sequence per position: `value[i]` for each of the batch's indices."""

    ref: Ref
    position: int


@dataclass(frozen=True, slots=True)
class Earlier:
    """The value that the node of an earlier position of the same batch made."""

    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleOrder:
    """What the nodes of a batch whose positions are nodes do not have in common, one entry per position.

    The shape of each call, `(args, kwargs)` with holes, is an entry of the batch's first input, which is `Literals`. `slots` has
    what fills the holes (an input's number, or an earlier position), and `after` the earlier positions that must have
    succeeded before it begins. `wants_info` is that of a `StepOrder`.
    """

    nodes: tuple[int, ...]
    names: tuple[str, ...]
    keys: tuple[str, ...]
    slots: tuple[tuple[int | Earlier, ...], ...]
    after: tuple[tuple[int, ...], ...]
    nested: bytes
    wants_info: bytes


Input = Given | Whole | Literals | Column | Gathered | Elements


@dataclass(frozen=True, slots=True)
class Lane:
    """The value that an earlier step of the same batch made for the same item."""

    step: int


SlotSource = Lane | int
"""Where a slot's value comes from: an earlier step of the batch, or the batch's input of that number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheOrder:
    """Where results of a task are looked up and kept by their keys.

    `spec` is what keys are made with, `folder` the task's place in the store. Whatever policies say, with `refreshes` nothing is
    looked up; `token` changes with each driver, and entries are listed again with it. `can_claim` tells that items which others
    execute at the moment are waited for; `site` is where those of the driver's machine settle that, None where the store does.
    """

    store: Any
    folder: str
    spec: Any
    token: str
    serializer: str = "pickle"
    refreshes: bool = False
    can_claim: bool = True
    site: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOrder:
    """One task of a stage in a batch.

    `tries` holds the attempts already used, one byte per position, or None for none at all.
    `wants_info` asks for the value's length, because something maps over it. `timeout_seconds` is a limit that
    follows from the map's median, in place of the program's own. `tolerates` says that a failure is within
    what the map tolerates: what comes after it in the lane is skipped. Without `keeps`, nothing outside the batch
    needs the values of items whose lane has ended. `persists` says that values go to the order's result store, if
    there is one; `wants_digests` that the report tells by what values of the user's own sequences its items are known.
    """

    node: int
    program: Program
    slots: tuple[SlotSource, ...]
    tries: bytes | None = None
    wants_info: bool = False
    timeout_seconds: float | None = None
    tolerates: bool = False
    keeps: bool = True
    persists: bool = False
    wants_digests: bool = False
    cache: CacheOrder | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """When the items of a batch may begin, so that a rate holds across all workers.

    The batch has `count` starting slots, as many as items where that is None. Slot k opens (or opened, where that is below 0) `delay + k * interval` seconds after the batch
    reached its worker; an item takes the first slot that is open and was not missed. A slot that was not taken
    within an interval (or 25 ms, if that is longer) is lost. When no slot is left, the rest is handed back.
    """

    delay: float
    interval: float
    since: float | None = None
    """When the batch reached its worker, by the performance counter there; None for when it begins."""
    count: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOrder:
    """A time-boxed run of items of one stage.

    `indices` are map indices, one per position; the unit of `slice_seconds` is seconds, None for no limit; `tell_seconds` is how
    often what has ended is reported within it, None for not before its end.
    `concurrency` is how many items of async steps may run at the same time, None for the default. `results` is where
    values go that outlive the run, None for nowhere; `epoch` is the number of the driver that sent the batch.
    """

    id: int
    run_id: str
    steps: tuple[StepOrder, ...]
    indices: Sequence[int]
    width: int | None
    inputs: tuple[Input, ...]
    slice_seconds: float | None
    tell_seconds: float | None = None
    concurrency: int | None = None
    pace: Pace | None = None
    results: Any = None
    epoch: int = 0
    context: Context | None = None
    """The context variables that its items see; it does not travel to other processes."""
    bundle: BundleOrder | None = None
    """Where its positions are nodes that are not mapped: these. `steps` has one entry, with what they have in common."""

    @property
    def flow_run_id(self) -> str:
        """The id of the flow run, the same for all its attempts and drivers; `run_id` sets those apart."""
        return self.run_id.partition(RUN_ID_ENDS)[0]

    def arrived(self, at: float) -> BatchOrder:
        """Return the order as it reached its worker at this moment, by the performance counter there."""
        return self if self.pace is None else replace(self, pace=replace(self.pace, since=at))

    @property
    def label(self) -> str:
        """A readable name for the batch: the first task's."""
        return self.steps[0].program.options.name
