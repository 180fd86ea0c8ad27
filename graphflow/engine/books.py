"""The core's books: one `NodeBook` per node, one `Stage` per fused group, one `Flight` per batch under way.

Nothing per item is an object: states and attempts are one byte each, ready items are ranges.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from graphflow.graph import Dep, Node
from graphflow.reports import ValueInfo
from graphflow.states import FAILED_CODES, FINAL_CODES, Code, Counts

__all__ = ["FAILED_BYTES", "FINAL_TABLE", "Flight", "NodeBook", "Stage", "derive_code"]

FINAL_TABLE = bytes(1 if code in FINAL_CODES else 0 for code in range(256))
"""`bytes.translate` table: 1 for final codes."""
FAILED_BYTES = bytes(sorted(FAILED_CODES))
SUCCESS_BYTES = bytes((Code.COMPLETED, Code.CACHED))
CANCEL_TABLE = bytes(code if code in FINAL_CODES else int(Code.CANCELLED) for code in range(256))
"""`bytes.translate` table: what is not final becomes Cancelled."""


@dataclass(slots=True)
class NodeBook:
    """Where a node and each of its items stand. A node that is not mapped has one item, of index 0."""

    node: Node
    stage: Stage
    width: int | None = None
    states: bytearray = field(default_factory=bytearray)
    attempts: bytearray = field(default_factory=bytearray)
    counts: list[int] = field(default_factory=lambda: [0] * 32)
    ended: int = 0
    final: int = 0
    """The node's outcome as a code, 0 until it has one."""
    info: ValueInfo | None = None
    has_started: bool = False
    dependents: list[Stage] = field(default_factory=list)
    """Stages whose start waits for this node as a whole."""
    streams: list[Stage] = field(default_factory=list)
    """Stages, other than its own, that take its items one by one."""
    watchers: dict[int, list[Stage]] = field(default_factory=dict)
    """Stages whose start waits for one item, by index."""
    is_gathered: bool = False
    wants_info: bool = False
    graft_parents: list[tuple[int, int]] = field(default_factory=list)
    graft_roots: dict[int, int] = field(default_factory=dict)
    is_handled: bool = False
    handled_items: set[int] = field(default_factory=set)
    failed_whole: bool = False
    """It failed beside its items (no width, widths that differ, an iterator that raised)."""

    @property
    def is_final(self) -> bool:
        """Whether the node has an outcome."""
        return self.final != 0

    def failed_count(self) -> int:
        """Items that ended in a failure, whatever its kind."""
        return sum(self.counts[code] for code in FAILED_BYTES)

    def root_failures(self) -> int:
        """Items that failed themselves (not because of an upstream)."""
        return self.failed_count() - self.counts[Code.UPSTREAM_FAILED]

    def unhandled(self) -> bool:
        """Whether a failure of its own was handed to nobody."""
        if self.is_handled:
            return False
        if self.failed_whole:
            return True
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
        """Items by state name; those of an item that has not begun count as Pending."""
        counts = Counts()
        for code in Code:
            number = self.counts[code]
            if number and code is not Code.PENDING:
                counts[code.state_name] += number
        known = len(self.states) if self.width is None else self.width
        pending = known - sum(counts.values())
        if pending > 0:
            counts["Pending"] += pending
        return counts

    def grow(self, size: int) -> None:
        """Make room for `size` items."""
        missing = size - len(self.states)
        if missing > 0:
            self.states.extend(bytes(missing))
            self.attempts.extend(bytes(missing))


@dataclass(slots=True)
class Stage:
    """Nodes that share one index space and run fused; the first is the leader, which sets the width."""

    id: int
    members: list[int]
    depth: int
    priority: int
    batch_size: int | None
    waiting: int = 0
    """Node-level dependencies of the leader that are not final."""
    is_open: bool = False
    width: int | None = None
    widths: dict[str, int] = field(default_factory=dict)
    """Known widths by argument."""
    undecided: int = 0
    """Inputs whose width is not known yet."""
    upstreams: dict[int, list[Dep]] = field(default_factory=dict)
    """Nodes of other stages whose items this stage takes one by one."""
    pulled: dict[int, int] = field(default_factory=dict)
    """Items that each iterator gave so far, by slot."""
    pulling: set[int] = field(default_factory=set)
    exhausted: set[int] = field(default_factory=set)
    needs: int = 0
    """How many conditions an index waits for (streams and iterators)."""
    met: bytearray = field(default_factory=bytearray)
    """Conditions met per index, where there are two or more."""
    fresh: deque[tuple[int, int]] = field(default_factory=deque)
    """Ranges of indices that are ready and were never sent, for all members."""
    again: dict[tuple[int, ...], list[int]] = field(default_factory=dict)
    """Single indices that are ready, by the members that they still need."""
    alone: deque[tuple[tuple[int, ...], list[int]]] = field(default_factory=deque)
    """Work to send just as it stands: suspects of a crash."""
    paused: list[int] = field(default_factory=list)
    crashes: dict[int, int] = field(default_factory=dict)
    flying: int = 0
    mean_seconds: float | None = None
    item_nbytes: int = 8
    is_queued: bool = False

    @property
    def leader(self) -> int:
        """The node that sets the width."""
        return self.members[0]

    def ready_count(self) -> int:
        """Indices that could be sent now."""
        return (
            sum(hi - lo for lo, hi in self.fresh)
            + sum(len(each) for each in self.again.values())
            + sum(len(indices) for _, indices in self.alone)
        )

    def add_fresh(self, lo: int, hi: int) -> None:
        """Add a range at the end, joined with the last one where they touch."""
        if self.fresh and self.fresh[-1][1] == lo:
            lo = self.fresh.pop()[0]
        self.fresh.append((lo, hi))


@dataclass(slots=True, frozen=True)
class Flight:
    """A batch under way."""

    stage: Stage
    nodes: tuple[int, ...]
    indices: Sequence[int]
    is_fresh: bool


def derive_code(book: NodeBook) -> Code:
    """A node's outcome from its items' counts."""
    counts = book.counts
    if book.failed_whole or counts[Code.FAILED]:
        code = Code.FAILED
    elif counts[Code.TIMED_OUT]:
        code = Code.TIMED_OUT if not book.node.is_mapped else Code.FAILED
    elif counts[Code.CRASHED]:
        code = Code.CRASHED
    elif counts[Code.UPSTREAM_FAILED]:
        code = Code.UPSTREAM_FAILED
    elif counts[Code.CANCELLED]:
        code = Code.CANCELLED
    elif book.width and counts[Code.SKIPPED] == book.width:
        code = Code.SKIPPED
    elif book.width and counts[Code.CACHED] == book.width:
        code = Code.CACHED
    else:
        code = Code.COMPLETED
    return code
