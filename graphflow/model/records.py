"""What a run's history is made of: records, as plain values that no pickle is needed for.

A history is a list of commits, a commit a list of `Record`s that become durable together. A record has a few
header fields that are looked for, and a body of bytes (`graphflow.records.codec` makes and reads them).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

__all__ = [
    "NO_NODE",
    "Alias",
    "Answer",
    "Dispatch",
    "Dispatches",
    "Ended",
    "Entry",
    "EntryDep",
    "Kind",
    "Lease",
    "Launch",
    "Lost",
    "NodeEntry",
    "NodeNews",
    "Plan",
    "Record",
    "Request",
    "RunHeader",
    "Transition",
    "Work",
]

NO_NODE = -1
"""The node of a record that concerns the run as a whole."""


class Kind(IntEnum):
    """What a record tells. Numbers are never reused."""

    LAUNCH = 1
    """A driver took the run: where, with which versions, parameters and code (`Launch`)."""
    NODE = 2
    """A task was placed in the graph (`NodeEntry`)."""
    DISPATCH = 3
    """A batch is about to be sent (`Dispatch`); durable before it is."""
    ITEMS = 4
    """What one report says of one node: packed columns, one entry per item."""
    ENDED = 5
    """Items ended without running (`Ended`)."""
    ERRORS = 6
    """Errors that no earlier record of the run has, numbered on from those (`first` is the header's `lo`)."""
    VARIANTS = 7
    """Errors of one report that differ from a full one by their text alone."""
    STATE = 8
    """A node, or the run (`NO_NODE`), moved to a state (`Transition`)."""
    LOG = 9
    """Lines of the log."""
    LOST = 10
    """A batch will not come back (`Lost`)."""
    ALIAS = 11
    """The value of an item is another node's (`Alias`)."""
    ANSWER = 12
    """A request from outside was acted on, or refused (`Answer`)."""
    CHANGE = 13
    """Options or policies of a node were changed while it runs: a JSON object."""
    DIGEST = 14
    """What all records before it say together, so that a reader need not read them; nothing is lost without it."""
    JOINED = 15
    """What several reports of one commit say of one node, in columns that they share; the header has the range that they are in."""
    DISPATCHES = 16
    """Several batches are about to be sent (`Dispatches`); the header has the range that their items are in."""


@dataclass(frozen=True, slots=True)
class Record:
    """One fact. `node` is the number of a node in this history, `lo` and `count` a range of items, `at` seconds since the epoch.

    `value` is what the body was made of, where it was made in this process: it need not be decoded then.
    """

    kind: int
    at: float
    body: bytes = b""
    node: int = NO_NODE
    lo: int = 0
    count: int = 0
    value: Any = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Entry:
    """A record as it stands in a history: in commit `seq`, at `place` in it, written under `epoch`; `number` counts all records from 1."""

    seq: int
    place: int
    epoch: int
    record: Record
    number: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A driver took the run; `reason` is `start`, `resume` or `retry`.

    `parameters` are texts to look at; `stored` is where their pickle is in the result store, as a plain mapping. `flow`
    tells where the function is (module, qualname, file), `code` is the fingerprint of its source.
    """

    epoch: int
    reason: str
    host: str
    pid: int
    boot_id: str
    flow_name: str
    run_name: str
    began: float = 0.0
    """When, in seconds since the epoch."""
    flow: Mapping[str, str] = field(default_factory=dict)
    code: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)
    stored: Mapping[str, Any] | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    backend: str = ""
    results: str = ""
    """URL of the result store."""
    secrets: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Of parameters with secrets, which are not stored: `digest`, keyed, of the parameter; `name` where it was looked up by one."""
    attempts: int = 0
    """How often the flow may be tried as a whole; 0 where that is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryDep:
    """An edge: `kind` is the name of a `DepKind`, `upstream` the number of a node in this history."""

    upstream: int
    kind: str
    argument: str = ""
    index: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeEntry:
    """A task placed in the graph.

    `number` names it in this history, the same in all launches. `code` is the fingerprint of the task's source, `inputs` of its
    constant arguments (empty where that cannot be told), `parent` the (node, item) whose task recorded it.
    """

    number: int
    key: str
    name: str
    task_name: str
    is_mapped: bool
    is_builtin: bool = False
    group: str = ""
    deps: Sequence[EntryDep] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    code: str = ""
    inputs: str = ""
    parent: tuple[int, int] | None = None
    sources: Sequence[str] = ()
    """What it is mapped over: `argument: list` or `argument: iterator`."""
    width: int | None = None
    """Where that is known from the start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatch:
    """A batch is about to be sent: these items of these nodes; `is_fresh` where it is the first time.

    With `is_bundle`, its positions are the nodes, which are not mapped, and `indices` their only item.
    """

    batch: int
    nodes: Sequence[int]
    indices: Sequence[int]
    is_fresh: bool
    is_bundle: bool = False


@dataclass(frozen=True, slots=True)
class Dispatches:
    """Batches of the same nodes that are about to be sent."""

    each: tuple[Dispatch, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """Items ended in a state without running."""

    node: int
    indices: Sequence[int]
    code: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """A node or the run moved to a state; `width` where it is known."""

    code: int
    message: str = ""
    width: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """A batch is lost; `executing` is the item that its worker was at, where that is known."""

    batch: int
    executing: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alias:
    """The value of an item is that of another node."""

    node: int
    index: int
    root: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of a request; `error` is empty where it was carried out."""

    request: int
    kind: str
    body: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeNews:
    """A node of a task came into a state: what its event says. `counts` are its items by state name."""

    key: str
    """Tells it from all others of its driver."""
    name: str
    task_name: str
    state: str
    at: float
    width: int | None
    counts: Mapping[str, int]


# -- what the catalog of all runs holds --------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """Who drives a run: a process of a host, until a moment (seconds since the epoch) unless it is renewed."""

    epoch: int
    host: str
    pid: int
    until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run was started for; `parameters` and `source` are JSON, empty where the run was started by its own process."""

    deployment_id: str = ""
    deployment: str = ""
    """`flow/name`, as it was when the run was made."""
    revision: int = 0
    nominal: float | None = None
    """When its schedule says it is due."""
    origin: str = ""
    """What made it, such as `schedule:ID` or `user`."""
    parameters: str = ""
    tags: tuple[str, ...] = ()
    source: str = ""
    depth: int = 0
    """How many rules it comes from, one after the other."""
    request_key: str | None = None
    """Names what asked for it: the same key makes no second run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A run that waits for a worker, or is driven for one; gone when the run ends."""

    state: str
    """`waiting`, `claimed` or `paused`."""
    why: str
    """Why it waits."""
    pool: str
    due: float
    crashes: int
    """How many drivers it has lost."""
    epoch: int
    """The number of its last claim."""
    worker_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunHeader:
    """A run as lists show it; times are seconds since the epoch.

    `state` is a state's name. A run whose driver is gone although it never ended is `Crashed`.
    """

    id: str
    name: str
    flow_name: str
    state: str = "Pending"
    created: float = 0.0
    started: float | None = None
    ended: float | None = None
    host: str = ""
    pid: int = 0
    epoch: int = 0
    lease: Lease | None = None
    is_verified: bool = True
    """Whether a catalog that seals its rows has it as it was written."""
    plan: Plan = Plan()
    work: Work | None = None
    message: str = ""
    """Why it is in its state, where something outside its driver knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Something asked of a run's driver from outside: `cancel`, `pause`, `resume`, `update`, ...

    `answer` is None until the driver has answered, then empty, or what was wrong.
    """

    id: int
    run_id: str
    kind: str
    body: Mapping[str, Any] = field(default_factory=dict)
    at: float = 0.0
    answer: str | None = None
