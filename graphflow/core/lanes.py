"""Decisions: does a node, or one item of it, run, given how its upstreams ended? Functions of the node books."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import Enum

from graphflow.core.nodes import OWN_FAILURES, NodeBook, Stage
from graphflow.graph.graph import Dep, DepKind
from graphflow.model.policies import Trigger, all_successful
from graphflow.model.states import FAILED_CODES, FINAL_CODES, Code, Counts

__all__ = ["Verdict", "judge_node", "lane_plan"]

_BAD = FAILED_CODES | {Code.CANCELLED}


class Verdict(Enum):
    """What becomes of a node or an item."""

    RUN = 0
    FAIL = 1
    SKIP = 2
    WAIT = 3
    BROKEN_TRIGGER = 4


_ENDED = {Verdict.FAIL: Code.UPSTREAM_FAILED, Verdict.SKIP: Code.SKIPPED, Verdict.BROKEN_TRIGGER: Code.FAILED}


def _counts(dep: Dep, books: Mapping[int, NodeBook], index: int | None = None) -> Counts:
    """Return how the upstream of one dependency ended: one count, or one per gathered item."""
    upstream = books[dep.upstream]
    item = index if dep.kind is DepKind.ITEMS else dep.index if dep.kind is DepKind.PICK else None
    if item is not None and item < len(upstream.states):
        return Counts({Code(upstream.states[item]).state_name: 1})
    if (
        dep.kind in (DepKind.GATHER, DepKind.ORDER, DepKind.ITEMS)
        and upstream.node.is_mapped
        and upstream.width
    ):
        return upstream.state_counts()
    return Counts({Code(upstream.final).state_name: 1}) if upstream.final else Counts()


def _has_failed(counts: Counts) -> bool:
    return counts.failed > 0 or counts["Cancelled"] > 0


def _without_tolerated(dep: Dep, counts: Counts, books: Mapping[int, NodeBook]) -> Counts:
    """Return the counts with failures that their map tolerates as skips: they have no value, and fail nothing."""
    if dep.allows_failure or not books[dep.upstream].tolerates:
        return counts
    names = {code.state_name for code in OWN_FAILURES}
    tolerated = sum(counts[name] for name in names)
    if not tolerated:
        return counts
    kept = Counts({name: number for name, number in counts.items() if name not in names})
    kept["Skipped"] += tolerated
    return kept


def _judge(
    trigger: Trigger, parts: Iterable[tuple[Dep, Counts, bool]], books: Mapping[int, NodeBook]
) -> Verdict:
    total = Counts()
    skips = False
    for dep, found, whole_failed in parts:
        counts = found
        if dep.kind is DepKind.AFTER and trigger is not all_successful:
            continue  # Nobody asked the trigger about it.
        if trigger is all_successful:
            counts = _without_tolerated(dep, found, books)
            if (_has_failed(counts) or whole_failed) and not dep.allows_failure:
                return Verdict.FAIL
            # A scalar that was skipped has no value to hand on; of a gather, only the skipped items drop out.
            is_skipped = counts.skipped and not counts.successful and not counts.failed and not whole_failed
            skips = skips or bool(is_skipped and not dep.kind.is_order)
        else:
            total.update(counts)
            if whole_failed and not counts.failed:
                total["Failed"] += 1
    if trigger is all_successful:
        return Verdict.SKIP if skips else Verdict.RUN
    try:
        decided = trigger(total)
    except Exception:
        return Verdict.BROKEN_TRIGGER
    if decided:
        return Verdict.RUN
    return Verdict.FAIL if _has_failed(total) else Verdict.SKIP


def _part(dep: Dep, books: Mapping[int, NodeBook], index: int | None = None) -> tuple[Dep, Counts, bool]:
    """Return what one dependency tells a trigger; last, whether its upstream failed beside the items it takes."""
    upstream = books[dep.upstream]
    takes_item = dep.kind is DepKind.ITEMS or (
        dep.kind is DepKind.PICK and dep.index is not None and dep.index < len(upstream.states)
    )
    return dep, _counts(dep, books, index), upstream.broke_off and not takes_item


def judge_node(book: NodeBook, books: Mapping[int, NodeBook]) -> Verdict:
    """Decide a node by its node-level dependencies, all of which are final.

    A mapped node with item-wise inputs and a trigger of its own is decided item by item; only what it is
    mapped over must have succeeded.
    """
    node = book.node
    is_plain = node.trigger is all_successful
    over = {books[dep.upstream].final for dep in node.deps if dep.kind is DepKind.ELEMENTS}
    if over & _BAD:
        return Verdict.FAIL
    parts = [_part(dep, books) for dep in node.deps if dep.kind is not DepKind.ITEMS]
    if Code.SKIPPED in over:
        # Failure beats skip.
        return (
            Verdict.FAIL if is_plain and _judge(node.trigger, parts, books) is Verdict.FAIL else Verdict.SKIP
        )
    if not is_plain and any(dep.kind is DepKind.ITEMS for dep in node.deps):
        return Verdict.RUN
    return _judge(node.trigger, parts, books)


def lane_plan(
    stage: Stage, books: Mapping[int, NodeBook], index: int
) -> tuple[dict[int, Verdict], tuple[int, ...]]:
    """Return what to do with one item of a stage: members decided without running, and members to run now.

    Members that still wait (for a retry, a graft, a batch under way) and what needs them are in neither.
    """
    decided: dict[int, Verdict] = {}
    runs: list[int] = []
    waits: set[int] = set()
    for member in stage.members:
        book = books[member]
        code = book.states[index]
        if code in FINAL_CODES:
            continue
        if code != Code.PENDING:
            waits.add(member)
            continue
        in_lane = [dep for dep in book.node.deps if dep.kind is DepKind.ITEMS]
        if any(_is_waited_for(dep, stage, books, index, waits) for dep in in_lane):
            waits.add(member)
            continue
        verdict = _judge_item(book, in_lane, books, index, decided, runs)
        if verdict is Verdict.RUN:
            runs.append(member)
        elif verdict is Verdict.WAIT:
            waits.add(member)
        else:
            decided[member] = verdict
    return decided, tuple(runs)


def _is_waited_for(
    dep: Dep, stage: Stage, books: Mapping[int, NodeBook], index: int, waits: Collection[int]
) -> bool:
    if dep.upstream in waits:
        return True
    return dep.upstream not in stage.members and books[dep.upstream].states[index] not in FINAL_CODES


def _judge_item(
    book: NodeBook,
    in_lane: Sequence[Dep],
    books: Mapping[int, NodeBook],
    index: int,
    decided: Mapping[int, Verdict],
    runs: Collection[int],
) -> Verdict:
    """Decide one item whose upstream items are final, decided, or run just before it in the same batch."""
    if not in_lane:
        return Verdict.RUN  # The node was decided as a whole.
    parts: list[tuple[Dep, Counts, bool]] = []
    for dep in in_lane:
        if dep.upstream in decided:
            parts.append((dep, Counts([_ENDED[decided[dep.upstream]].state_name]), False))
        elif dep.upstream not in runs:
            parts.append(_part(dep, books, index))
    if book.node.trigger is not all_successful:
        parts += [_part(dep, books) for dep in book.node.deps if dep.kind is not DepKind.ITEMS]
    verdict = _judge(book.node.trigger, parts, books)
    if verdict is Verdict.SKIP and len(parts) < len(in_lane):
        return Verdict.WAIT  # What is about to run may fail, and failure beats skip.
    return verdict
