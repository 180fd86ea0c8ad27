"""Fragments of pages as data and SVG: bars, strips of items, folded failures, percentiles.

Figures come from what is known of a run; nothing here reads a record but for the first item of a group of failures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import merge
from itertools import islice
from typing import Any, TypeAlias

from markupsafe import Markup, escape

from graphflow.dashboard.texts import masked, number, shortened
from graphflow.model.looks import kind_of
from graphflow.model.states import Code
from graphflow.records.figures import Durations, bin_bounds

__all__ = [
    "KINDS",
    "Fault",
    "bar",
    "by_kind",
    "faults",
    "legend",
    "marks",
    "percentile",
    "shown_nodes",
    "strip",
]

Node: TypeAlias = Any
Run: TypeAlias = Any
"""The views of `runs`, which are above this folder."""

KINDS = (
    "completed",
    "cached",
    "skipped",
    "failed",
    "blocked",
    "cancelled",
    "paused",
    "retrying",
    "running",
    "pending",
)
"""Kinds of states, in the order of a bar."""
MOST_FAULTS = 100
OPENED = 20
"""Groups of failures whose first item is read."""
RANGES = 6
CELLS = 2_400
ROWS = 8
_OWN = ("Failed", "TimedOut", "Crashed", "Indeterminate")


def shown_nodes(run: Run) -> list[Node]:
    """Return the nodes of users; the engine's own are left out."""
    return [node for node in run.nodes if not node.is_builtin]


def by_kind(counts: Mapping[str, int]) -> dict[str, int]:
    """Return counts by the names of states as counts by kind, in the order of a bar; those that are 0 are left out."""
    found: Counter[str] = Counter()
    for state, count in counts.items():
        found[kind_of(state)] += count
    return {kind: found[kind] for kind in KINDS if found[kind]}


def told(kinds: Mapping[str, int]) -> str:
    """Return counts by kind as a sentence, for those who do not see the picture."""
    return ", ".join(f"{count:,} {kind}" for kind, count in kinds.items()) or "nothing yet"


def bar(counts: Mapping[str, int], width: int | None = None) -> Markup:
    """Return a bar of counts by the names of states, 1,000 units wide whatever its size on the page.

    Each kind that is there is seen: it has 4 units at least.
    """
    kinds = by_kind(counts)
    whole = max(sum(kinds.values()), width or 0, 1)
    drawn, at = [], 0.0
    for kind, count in kinds.items():
        if kind == "pending":
            continue
        length = max(4.0, 1_000 * count / whole)
        drawn.append(f'<rect class="f-{kind}" x="{min(at, 996):.1f}" width="{length:.1f}" height="8"/>')
        at += length
    text = escape(told(kinds))
    return Markup(
        f'<svg class="bar" viewBox="0 0 1000 8" preserveAspectRatio="none" role="img" aria-label="{text}">'
        f'<title>{text}</title><rect class="f-pending" width="1000" height="8"/>{"".join(drawn)}</svg>'
    )


def legend(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return what stands under a bar: kinds and counts."""
    return list(by_kind(counts).items())


# -- the strip of items ------------------------------------------------------------------------------------------

_TINTS = ((0.2, "failed"), (0.02, "tint2"), (0.0, "tint1"))
_FAILED = (Code.FAILED, Code.TIMED_OUT, Code.CRASHED, Code.INDETERMINATE)
_MOVING = (Code.RETRYING, Code.RUNNING)


def _cell(codes: bytes) -> str:
    """Return the look of items in one cell: what most are, but what moves wins over it, and failures tint it."""
    first = codes[:1]
    if codes.count(first) == len(codes):
        return kind_of(Code(first[0]).state_name)
    failed = sum(codes.count(code) for code in _FAILED)
    for least, look in _TINTS:
        if failed > least * len(codes):
            return look
    for code in _MOVING:
        if code in codes:
            return kind_of(code.state_name)
    most = max(set(codes), key=codes.count)
    return kind_of(Code(most).state_name)


def strip(node: Node) -> Markup:
    """Return the items of a node as cells, row by row; a row is a range of indices. O(items), 1 byte each."""
    known = node.known
    size = max(known.size, known.width or 0)
    if not size:
        return Markup("")
    codes = known.codes(0, size)
    per_cell = -(-size // CELLS)
    cells = -(-size // per_cell)
    rows = 1 if cells < 100 else ROWS
    columns = -(-cells // rows)
    paths: dict[str, list[str]] = {}
    look, begin = "", 0
    for cell in range(cells + 1):
        found = _cell(codes[cell * per_cell : (cell + 1) * per_cell]) if cell < cells else ""
        if found == look and cell % columns:
            continue
        if look:
            row, column = divmod(begin, columns)
            paths.setdefault(look, []).append(f"M{column} {row}h{cell - begin}v1h-{cell - begin}z")
        look, begin = found, cell
    drawn = "".join(f'<path class="f-{kind}" d="{"".join(path)}"/>' for kind, path in paths.items())
    text = escape(f"{size:,} items: {told(by_kind(node.counts))}")
    return Markup(
        f'<svg class="strip" viewBox="0 0 {columns} {rows}" preserveAspectRatio="none" role="img" aria-label="{text}"'
        f' data-size="{size}" data-cell="{per_cell}" data-columns="{columns}" data-rows="{rows}">{drawn}</svg>'
    )


# -- failures ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Fault:
    """A kind of failure of one node: exceptions of one type from one place, whose texts differ in numbers and names alone."""

    node: str
    type_name: str
    message: str
    traceback: str
    count: int = 0
    messages: set[str] = field(default_factory=set)
    """The different texts, where there are several."""
    parts: list[Sequence[range]] = field(default_factory=list)
    first: int | None = None
    """The index of the first item; None where the node is not mapped, or failed beside its items."""
    label: str = ""
    attempts: int = 0
    inputs: str = ""

    @property
    def texts(self) -> int:
        """How many different texts it has."""
        return max(1, len(self.messages))

    @property
    def key(self) -> str:
        """What tells it from others on a page."""
        return f"{self.node} {self.type_name} {self.message}"[:200]

    @property
    def heading(self) -> str:
        """Its text in one line; masked where texts differ."""
        return shortened(masked(self.message) if self.texts > 1 else self.message, 300)

    @property
    def ranges(self) -> list[range]:
        """The first ranges of its items, in order."""
        return list(
            islice(merge(*(islice(each, RANGES) for each in self.parts), key=lambda part: part.start), RANGES)
        )

    @property
    def has_more(self) -> bool:
        """Whether it has more items than these ranges."""
        return sum(map(len, self.ranges)) < self.count


def faults(nodes: Iterable[Node]) -> tuple[list[Fault], int]:
    """Return the kinds of failures of nodes, maps that failed beside their items first, then by size, and how many items failed in rarer ways.

    Items that only failed because of others are none of them. The first items of the largest kinds are read.
    """
    found: list[tuple[Fault, Node]] = []
    known: dict[tuple[Any, ...], Fault] = {}
    rarer = 0
    for node in nodes:
        counts = node.counts
        own = sum(counts.get(name, 0) for name in _OWN)
        if node.is_mapped and node.known.failed_whole:
            message = node.state.message
            kind, _, text = message.partition(": ")
            # It is none of its items.
            found.append((Fault(node.name, kind, text or message, ""), node))
        if not own:
            continue
        folded = _folded(node)
        for each in folded:
            # Calls of one task that are not mapped are nodes of their own, and fail in the same way.
            key = (node.name if node.is_mapped else node.task_name, node.is_mapped, *_kind(each))
            if key in known and not node.is_mapped:
                known[key].count += each.count
                known[key].messages |= each.messages
            else:
                known[key] = each
                found.append((each, node))
        crashed = counts.get("Crashed", 0) + counts.get("Indeterminate", 0)
        listed = sum(each.count for each in folded)
        if crashed and listed + crashed <= own:
            found.append((_crash(node, crashed), node))
            listed += crashed
        rarer += max(0, own - listed)
    found.sort(key=lambda each: (bool(each[0].count), -each[0].count))
    rarer += sum(each.count for each, _ in found[MOST_FAULTS:])
    for each, node in found[:OPENED]:
        _open(each, node)
    return [each for each, _ in found[:MOST_FAULTS]], rarer


def _folded(node: Node) -> list[Fault]:
    groups: dict[tuple[str, str, str], Fault] = {}
    for error in node.errors:
        key = _kind(error)
        fault = groups.get(key)
        if fault is None:
            fault = groups[key] = Fault(node.name, error.type_name, error.message, error.traceback)
        fault.count += error.count
        fault.messages.add(error.message)
        if fault.parts and error.indices[0].start < fault.parts[0][0].start:
            # The first item stands for all.
            fault.message, fault.traceback = error.message, error.traceback
            fault.parts.insert(0, error.indices)
        else:
            fault.parts.append(error.indices)
    for fault in groups.values():
        if node.is_mapped and fault.parts:
            fault.first = fault.parts[0][0].start
    return list(groups.values())


def _kind(error: Any) -> tuple[str, str, str]:
    return error.type_name, masked(error.message)[:200], _place(error.traceback)


def _place(traceback: str) -> str:
    lines = [line for line in traceback.splitlines() if line.lstrip().startswith('File "')]
    return lines[-1].strip() if lines else ""


def _crash(node: Node, count: int) -> Fault:
    codes = node.known.codes(0, node.known.size)
    places = [at for code in (Code.CRASHED, Code.INDETERMINATE) if (at := codes.find(code)) >= 0]
    text = (
        "the worker or driver died while it was executing (a segmentation fault, os._exit, or out of memory)"
    )
    fault = Fault(node.name, "Crashed", text, "", count=count)
    if places and node.is_mapped:
        fault.first = min(places)
        fault.parts = [[range(fault.first, fault.first + 1)]]
    return fault


def _open(fault: Fault, node: Node) -> None:
    if fault.first is None and node.is_mapped:
        return
    item = node.items[fault.first or 0]
    fault.label, fault.attempts, fault.inputs = item.label, item.attempts, item.inputs


# -- durations ---------------------------------------------------------------------------------------------------


def percentile(durations: Durations, part: float) -> float | None:
    """Return the duration below which a part of all is, interpolated within its bin; None where there are none."""
    bins = durations.bins
    total = sum(bins)
    if not total:
        return None
    wanted, seen = part * total, 0
    for place, count in enumerate(bins):
        if count and seen + count >= wanted:
            lo, hi = bin_bounds(place)
            return float(lo + (hi - lo) * max(0.0, wanted - seen) / count)
        seen += count
    return None


def marks(durations: Durations | None) -> Iterator[tuple[str, float]]:
    """Yield p50, p95 and p99 where there are durations."""
    if durations is not None:
        for name, part in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
            found = percentile(durations, part)
            if found is not None:
                yield name, found


def count_words(value: int, word: str) -> str:
    """Return `1 item`, `2 items`."""
    return f"{number(value)} {word}{'' if value == 1 else 's'}"
