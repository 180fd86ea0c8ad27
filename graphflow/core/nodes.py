"""The core's books: one `NodeBook` per node, one `Stage` per fused group, one `Flight` per batch under way.

Nothing per item is an object: states and attempts are one byte each, ready items are ranges. An item is
`SCHEDULED` while it waits singly in a queue of its stage, so that it cannot be queued twice; a whole fresh
batch goes out and comes back with its items `PENDING` in the node books.
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from types import MappingProxyType
from typing import Any, ClassVar

from graphflow.core.pacing import Pacer, Reservation, StartingSlots
from graphflow.graph.graph import Dep, DepKind, Node
from graphflow.model.map_options import NO_MAP_OPTIONS, MapOptions
from graphflow.model.reports import ValueInfo
from graphflow.model.states import FAILED_CODES, FINAL_CODES, FINAL_TABLE, Code, Counts

__all__ = [
    "FAILED_BYTES",
    "ONLY",
    "OWN_FAILURES",
    "SUCCESS_BYTES",
    "Bundle",
    "Flight",
    "NodeBook",
    "Past",
    "Stage",
    "chosen",
    "codes_at",
    "derive_code",
    "first_failed",
    "packed",
]

FAILED_BYTES = bytes(sorted(FAILED_CODES))
OWN_FAILURES = frozenset(FAILED_CODES - {Code.UPSTREAM_FAILED})
# What most nodes and stages never have: shared until the first entry, since a graph may have very many of them.
_NO_ROWS: Any = ()
_NO_ENTRIES: Any = MappingProxyType({})
_NO_MEMBERS: Any = frozenset()
ONLY = range(1)
"""The indices of a node that is not mapped."""
_ENDED = bytes(255 if code in FINAL_CODES else 0 for code in range(256))
SUCCESS_BYTES = bytes((Code.COMPLETED, Code.CACHED))


def _no_entries() -> Any:
    return _NO_ENTRIES


@dataclass(slots=True, kw_only=True)
class Past:
    """What an earlier launch of the run left of a node, with one byte per item.

    `states` holds outcomes that may be taken over, Pending for the rest; `attempts` those that count already; `valued`
    tells of each value whether it is `GONE` (lost or damaged), `THERE` (or none is needed), or was `NEVER_KEPT`, because
    nothing outside its batch needed it. `suspects` may have killed a driver: each of these parts
    runs by itself.
    """

    GONE: ClassVar[int] = 0
    THERE: ClassVar[int] = 1
    NEVER_KEPT: ClassVar[int] = 2

    width: int | None
    states: bytearray
    attempts: bytearray
    valued: bytearray
    info: ValueInfo | None = None
    suspects: Sequence[Sequence[int]] = ()
    taken: bytearray = field(default_factory=bytearray)
    """1 where the outcome was taken over."""

    def void(self) -> None:
        """Reset all outcomes; items that had not ended keep their used attempts."""
        ended = int.from_bytes(self.states.translate(_ENDED))
        spared = int.from_bytes(self.attempts) & ~ended
        self.attempts[:] = spared.to_bytes(len(self.attempts))
        self.states[:] = bytes(len(self.states))

    def grow(self, size: int) -> None:
        """Make room for `size` items."""
        for column in (self.states, self.attempts, self.valued, self.taken):
            column.extend(bytes(max(0, size - len(column))))


@dataclass(slots=True)
class NodeBook:
    """Where a node and each of its items stand. A node that is not mapped has one item, of index 0."""

    node: Node
    stage: Stage
    width: int | None = None
    states: bytearray = field(default_factory=bytearray)
    attempts: bytearray = field(default_factory=bytearray)
    counts: list[int] | bytearray = field(default_factory=lambda: [0] * 32)
    """Items by code, but for Pending; of a node that is not mapped, a byte each."""
    ended: int = 0
    final: int = 0
    """The node's outcome as a code, 0 until it has one."""
    info: ValueInfo | None = None
    has_started: bool = False
    dependents: list[Stage] = _NO_ROWS
    """Stages whose start waits for this node as a whole."""
    streams: list[Stage] = _NO_ROWS
    """Stages, other than its own, that take its items one by one."""
    watchers: dict[int, list[Stage]] = field(default_factory=_no_entries)
    """Stages whose start waits for one item, by index."""
    wants_info: bool = False
    graft_parents: list[tuple[int, int]] = _NO_ROWS
    graft_roots: dict[int, int] = field(default_factory=_no_entries)
    is_handled: bool = False
    was_raised: bool = False
    """The flow's body had its failure as an exception."""
    handled_items: set[int] = _NO_MEMBERS
    failed_whole: bool = False
    """It failed beside its items (no width, widths that differ, an iterator that raised)."""
    is_cut_off: bool = False
    """It lacks items, because a map that it takes the items of failed beside these, or lacks items itself."""
    is_cut_short: bool = False
    """It was stopped before its width was known: what is missing cannot be counted."""
    map_options: MapOptions = NO_MAP_OPTIONS
    users: list[tuple[int, DepKind, int | None]] = _NO_ROWS
    """Nodes that depend on it: (node, how, the item where it takes one)."""
    is_halted: bool = False
    """More items failed than its options allow: nothing more of it is begun."""
    low: int = 0
    open_users: int = 0
    """Dependencies on it of nodes that have not ended."""
    wanted_below: int | None = None
    """Its items from this one on are not needed, and no longer started."""
    durations: list[float] = _NO_ROWS
    """A sample of what its items took, in seconds, where a timeout follows from their median."""
    limit_seconds: float | None = None
    """The timeout that follows from the median."""
    past: Past | None = None
    """What can be taken over from an earlier launch of the run."""

    def is_given_up(self, index: int) -> bool:
        """Return whether an item is not to be begun any more."""
        return self.is_halted or (self.wanted_below is not None and index >= self.wanted_below)

    @property
    def broke_off(self) -> bool:
        """Whether its items are not all that there should have been, or there are none."""
        return self.failed_whole or self.is_cut_off

    @property
    def tolerates(self) -> bool:
        """Whether its failures are within what is tolerated, as far as that is known."""
        return self.map_options.is_tolerant and not self.is_halted and not self.has_exceeded()

    def has_exceeded(self) -> bool:
        """Return whether more of its items failed than its options allow."""
        return self.map_options.can_halt and self.map_options.exceeded(self.root_failures(), self.width)

    @property
    def is_final(self) -> bool:
        """Whether the node has an outcome."""
        return self.final != 0

    def failed_count(self) -> int:
        """Return items that ended in a failure, whatever its kind."""
        return sum(self.counts[code] for code in FAILED_BYTES)

    def root_failures(self) -> int:
        """Return items that failed themselves (not because of an upstream)."""
        return self.failed_count() - self.counts[Code.UPSTREAM_FAILED]

    def unhandled(self) -> bool:
        """Return whether it has an unhandled failure of its own.

        That a map ends before its source does leaves a part that looks like the whole: only an exception in the body
        tells of it for certain, whatever else had it too.
        """
        if self.failed_whole and self.width is not None:
            return not self.was_raised
        if self.is_handled:
            return False
        if self.failed_whole:
            return True
        if self.tolerates:
            return False
        roots = self.root_failures()
        if roots == 0:
            return False
        handled = sum(
            1
            for i in self.handled_items
            if self.states[i] in FAILED_CODES and self.states[i] != Code.UPSTREAM_FAILED
        )
        return handled < roots

    def state_counts(self) -> Counts:
        """Return items by state name; those of an item that has not begun count as Pending."""
        counts = Counts()
        for code in Code:
            number = self.counts[code]
            if number and code not in (Code.PENDING, Code.SCHEDULED):
                counts[code.state_name] += number
        known = len(self.states) if self.width is None else self.width
        pending = known - sum(counts.values())
        if pending > 0:
            counts["Pending"] += pending
        return counts

    def note_user(self, user: int, kind: DepKind, index: int | None) -> None:
        """Note a node that depends on this one."""
        self.users = self.users or []
        self.users.append((user, kind, index))
        self.open_users += 1

    def mark_all(self, indices: Sequence[int], code: Code) -> None:
        """Move items between states that are not final."""
        states, counts = self.states, self.counts
        if isinstance(indices, range):
            before = bytes(states[indices.start : indices.stop])
            for known in set(before):
                if known != Code.PENDING:
                    counts[known] -= before.count(known)
            states[indices.start : indices.stop] = bytes([code]) * len(indices)
        else:
            for index in indices:
                if states[index] != Code.PENDING:
                    counts[states[index]] -= 1
                states[index] = code
        if code != Code.PENDING:
            counts[code] += len(indices)

    def ended_below(self) -> int:
        """Return the index below which all items have ended. O(items that ended since the last call)."""
        while self.low < len(self.states):
            mask = self.states[self.low : self.low + 65_536].translate(FINAL_TABLE)
            first_open = mask.find(0)
            self.low += len(mask) if first_open < 0 else first_open
            if first_open >= 0:
                break
        return self.low

    def grow(self, size: int) -> None:
        """Make room for `size` items."""
        missing = size - len(self.states)
        if missing > 0:
            self.states.extend(bytes(missing))
            self.attempts.extend(bytes(missing))


@dataclass(slots=True)
class Stage:
    """Nodes that share one index space and run fused; the first is the leader, which sets the width.

    Ready work waits in three queues: `fresh` ranges, for all members; single indices to do `again`, for the
    members that they still need; and work to send `alone`, just as it stands.
    """

    id: int
    members: list[int]
    depth: int
    priority: int
    batch_size: int | None
    waiting: int = 0
    """Node-level dependencies of the leader that are not final."""
    is_open: bool = False
    is_lazy: bool = False
    """Whether the width is known only when an iterator has ended, here or upstream."""
    width: int | None = None
    widths: dict[str, int] = field(default_factory=_no_entries)
    """Known widths by argument."""
    undecided: int = 0
    """Upstreams whose width is not known yet."""
    upstreams: dict[int, list[Dep]] = field(default_factory=_no_entries)
    """Nodes of other stages whose items this stage takes one by one."""
    pulled: dict[int, int] = field(default_factory=_no_entries)
    """Items that each iterator gave so far, by slot."""
    pulling: set[int] = _NO_MEMBERS
    exhausted: set[int] = _NO_MEMBERS
    limit: int | None = None
    """Iterators are asked for no item from this one on, None for no limit."""
    cut_at: int | None = None
    """What iterators gave that are asked for nothing more, though other widths are not known yet."""
    raised_after: int | None = None
    """The items that an iterator gave before it raised: the map fails when these have ended."""
    needs: int = 0
    """How many conditions an index waits for (streams and iterators)."""
    met: bytearray = field(default_factory=bytearray)
    """Conditions met per index, where there are two or more."""
    fed: int = 0
    """Indices whose conditions were all met so far."""
    ready: int = 0
    """Indices in the three queues."""
    fresh: list[tuple[int, int]] = _NO_ROWS
    """Ranges in the order of their indices; none touches the next."""
    again: dict[tuple[int, ...], deque[int]] = field(default_factory=_no_entries)
    alone: deque[tuple[tuple[int, ...], list[int]]] = _NO_ROWS
    paused: list[int] = _NO_ROWS
    suspects: set[int] = _NO_MEMBERS
    parts: dict[int, tuple[int, int]] = field(default_factory=_no_entries)
    """Items that are sent once together with those of the same part, and no others."""
    """Indices that may have killed a worker: they go alone, task by task."""
    crashes: dict[tuple[int, int], int] = field(default_factory=_no_entries)
    """How often an item of a member, by (node, index), may have been executing in a worker that died."""
    mean_seconds: float | None = None
    began: float | None = None
    """When its first batch was sent."""
    slice_seconds: float = 0.0
    """The slice of its newest batch."""
    item_nbytes: int = 8
    store_seconds: float | None = None
    """What a batch waits for stores, as measured so far."""
    result_nbytes: float | None = None
    """What the results of an item weigh, as measured so far."""
    is_queued: bool = False
    concurrency: int | None = None
    """Items that run at the same time in one batch, None where that is one."""
    max_concurrency: int | None = None
    rate: float | None = None
    """Items that may begin per second."""
    limits: dict[str, int] = field(default_factory=_no_entries)
    """What an item takes of limits that are shared with other runs, by name; there may be no limit of that name."""
    finds: bool = False
    """Whether results may be found by their keys, so that items take no turn; and whether some were, lately."""
    has_found: bool = True
    pacer: Pacer | None = None
    busy_seconds: float | None = None
    """What an item keeps a lane busy for, where there is a rate."""
    flying: int = 0
    """Batches under way."""
    running: int = 0
    """Items that the batches under way may run at the same time."""
    is_halted: bool = False
    """Whether any member is."""
    is_unwanted: bool = False
    """Whether nothing will need it by the time it opens."""
    taken_below: int = 0
    """Items below this one are needed by themselves, whatever becomes of the others."""
    is_following: bool = False
    """Whether its node is under way behind nodes that it waits for."""
    bundle_key: Hashable | None = None
    """What its only node, which is not mapped, has in common with others that one batch may run with it."""

    @property
    def leader(self) -> int:
        """The node that sets the width."""
        return self.members[0]

    def add_fresh(self, lo: int, hi: int) -> None:
        """Add a range at its place: what is handed back is begun before what comes after it."""
        self.ready += hi - lo
        fresh = self.fresh = self.fresh or []
        at = len(fresh) if not fresh or fresh[-1][0] < lo else bisect.bisect_left(fresh, (lo, hi))
        if at < len(fresh) and fresh[at][0] == hi:
            hi = fresh.pop(at)[1]
        if at and fresh[at - 1][1] == lo:
            fresh[at - 1] = (fresh[at - 1][0], hi)
        else:
            fresh.insert(at, (lo, hi))

    def add_again(self, nodes: tuple[int, ...], indices: Sequence[int], *, in_front: bool = False) -> None:
        """Add single indices for some members."""
        if not len(indices):
            return
        self.ready += len(indices)
        self.again = self.again or {}
        queue = self.again.setdefault(nodes, deque())
        if in_front:
            queue.extendleft(reversed(indices))
        else:
            queue.extend(indices)

    def add_alone(self, nodes: tuple[int, ...], indices: list[int]) -> None:
        """Add work to be sent just as it stands."""
        self.ready += len(indices)
        self.alone = self.alone or deque()
        self.alone.append((nodes, indices))

    def take_alone(self) -> tuple[tuple[int, ...], list[int]]:
        """Return the next work to be sent as it stands."""
        nodes, indices = self.alone.popleft()
        self.ready -= len(indices)
        return nodes, indices

    def take_again(self, count: int) -> tuple[tuple[int, ...], Sequence[int]]:
        """Take up to `count` single indices that need the same members."""
        nodes, queue = next(iter(self.again.items()))
        indices = [queue.popleft() for _ in range(min(count, len(queue)))]
        if not queue:
            del self.again[nodes]
        self.ready -= len(indices)
        return nodes, packed(indices)

    def take_fresh(self, count: int) -> range:
        """Take up to `count` indices of the first range."""
        lo, hi = self.fresh[0]
        if hi - lo > count:
            hi = lo + count
            self.fresh[0] = (hi, self.fresh[0][1])
        else:
            del self.fresh[0]
            self.fresh = self.fresh or _NO_ROWS
        self.ready -= hi - lo
        return range(lo, hi)

    def clear(self) -> None:
        """Forget all work that is ready."""
        self.fresh, self.again, self.alone = _NO_ROWS, _NO_ENTRIES, _NO_ROWS
        self.ready = 0


@dataclass(slots=True)
class Flight:
    """A batch under way; `held` are the positions that are still out, None for all of them."""

    stage: Stage
    nodes: tuple[int, ...]
    indices: Sequence[int]
    is_fresh: bool
    running: int = 1
    held: Sequence[int] | None = None
    starting_slots: StartingSlots | None = None
    """What it reserved of a rate."""
    limits: Mapping[str, int] = field(default_factory=_no_entries)
    """What each of the items that it runs at the same time takes of limits, by name."""
    dealt: Sequence[tuple[str, Reservation]] = ()
    """What it reserved of rates that are shared with other runs, by name."""
    bundle: Bundle | None = None
    """Where its nodes, which are not mapped, were taken from; its positions are nodes then, not items of each node."""
    is_grown: bool = False
    """Whether its slice is so long that changes cannot wait for its end."""

    def out(self) -> Sequence[int]:
        """Return the indices that are still out; of a bundle, the positions."""
        return self.indices if self.held is None else [self.indices[position] for position in self.held]

    def places(self) -> Iterable[tuple[int, Sequence[int]]]:
        """Yield the nodes that are still out, each with the indices of its items."""
        out = self.out()
        if self.bundle is None:
            return [(node, out) for node in self.nodes]
        return [(self.nodes[position], ONLY) for position in out]


@dataclass(slots=True)
class Bundle:
    """Nodes that are not mapped, have one `bundle_key` and are ready: a batch takes several of them.

    `ready` is a heap of (-depth, id, stage): the deepest first, else in the order of the calls. The means are those of a stage.
    """

    priority: int
    ready: list[tuple[int, int, Stage]] = field(default_factory=list)
    is_queued: bool = False
    mean_seconds: float | None = None
    store_seconds: float | None = None
    result_nbytes: float | None = None


def packed(indices: Sequence[int]) -> Sequence[int]:
    """Return the same indices, as a range where they are one."""
    if len(indices) < 2 or isinstance(indices, range) or indices[-1] - indices[0] != len(indices) - 1:
        return indices
    whole = range(indices[0], indices[-1] + 1)
    return whole if list(whole) == list(indices) else indices


def codes_at(states: bytearray, indices: Sequence[int]) -> bytes:
    """Return the states at some indices."""
    if isinstance(indices, range):
        return bytes(states[indices.start : indices.stop])
    return bytes(map(states.__getitem__, indices))


def chosen(indices: Sequence[int], codes: bytes, wanted: Collection[int]) -> Sequence[int]:
    """Return the indices whose code, which stands beside it in `codes`, is a wanted one."""
    found = {code for code in set(codes) if code in wanted}
    if not found:
        return ()
    if sum(map(codes.count, found)) == len(codes):
        return indices
    mask = codes.translate(bytes(code in found for code in range(256)))
    first, last = mask.find(1), mask.rfind(1)
    if mask.count(1) == last - first + 1:
        return packed(indices[first : last + 1])
    return packed(list(compress(indices, mask)))


def derive_code(book: NodeBook) -> Code:
    """Return a node's outcome from its items' counts."""
    counts = book.counts
    fails = not book.tolerates
    if book.failed_whole or book.is_halted or (fails and counts[Code.FAILED]):
        code = Code.FAILED
    elif fails and counts[Code.TIMED_OUT]:
        code = Code.TIMED_OUT if not book.node.is_mapped else Code.FAILED
    elif fails and counts[Code.CRASHED]:
        code = Code.CRASHED
    elif fails and counts[Code.INDETERMINATE]:
        code = Code.INDETERMINATE
    elif counts[Code.UPSTREAM_FAILED] or book.is_cut_off:
        code = Code.UPSTREAM_FAILED
    elif counts[Code.CANCELLED] or book.is_cut_short:
        code = Code.CANCELLED
    elif book.width and counts[Code.SKIPPED] == book.width:
        code = Code.SKIPPED
    elif book.width and counts[Code.CACHED] == book.width:
        code = Code.CACHED
    else:
        code = Code.COMPLETED
    return code


def first_failed(book: NodeBook) -> int | None:
    """Return the first item that failed or was cancelled."""
    return next(
        (i for i, code in enumerate(book.states) if code in FAILED_CODES or code == Code.CANCELLED), None
    )
