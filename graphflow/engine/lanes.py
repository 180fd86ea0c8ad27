"""Decisions: does a node, or one item of it, run, given how its upstreams ended? Pure functions over the books."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum

from graphflow.engine.books import NodeBook, Stage
from graphflow.graph import Dep, DepKind
from graphflow.policies import Trigger, all_successful
from graphflow.states import FAILED_CODES, FINAL_CODES, Code, Counts

__all__ = ["Verdict", "dep_counts", "judge_item", "judge_node", "lane_plan"]

_BAD = FAILED_CODES | {Code.CANCELLED}


class Verdict(Enum):
    """What becomes of a node or an item."""

    RUN = 0
    FAIL = 1
    SKIP = 2
    WAIT = 3
    BROKEN_TRIGGER = 4


def dep_counts(dep: Dep, books: Mapping[int, NodeBook], index: int | None = None) -> Counts:
    """How the upstream of one dependency ended: one count, or one per gathered item."""
    upstream = books[dep.upstream]
    if dep.kind is DepKind.ITEMS and index is not None:
        return Counts({Code(upstream.states[index]).state_name: 1})
    if dep.kind is DepKind.PICK and dep.index is not None and dep.index < len(upstream.states):
        return Counts({Code(upstream.states[dep.index]).state_name: 1})
    if dep.kind in (DepKind.GATHER, DepKind.ORDER, DepKind.ITEMS) and upstream.node.is_mapped and upstream.width:
        return upstream.state_counts()
    return Counts({Code(upstream.final).state_name: 1}) if upstream.final else Counts()


def _has_failed(counts: Counts) -> bool:
    return counts.failed > 0 or counts["Cancelled"] > 0


def _judge(trigger: Trigger, parts: Iterable[tuple[Dep, Counts, bool]]) -> Verdict:
    total = Counts()
    skips = False
    for dep, counts, whole_failed in parts:
        if trigger is all_successful:
            if (_has_failed(counts) or whole_failed) and not dep.allows_failure:
                return Verdict.FAIL
            # A scalar that was skipped has no value to hand on; of a gather, only the skipped items drop out.
            if counts.skipped and not counts.successful and not counts.failed and dep.kind is not DepKind.ORDER:
                skips = True
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


def judge_node(book: NodeBook, books: Mapping[int, NodeBook]) -> Verdict:
    """Decide a node by its node-level dependencies, all of which are final.

    A mapped node with item-wise inputs and a trigger of its own is decided item by item; only what it is
    mapped over must have succeeded.
    """
    node = book.node
    lanes = any(dep.kind is DepKind.ITEMS for dep in node.deps)
    for dep in node.deps:
        if dep.kind is DepKind.ELEMENTS:
            final = books[dep.upstream].final
            if final in _BAD:
                return Verdict.FAIL
            if final == Code.SKIPPED:
                return Verdict.SKIP
    parts = [
        (dep, dep_counts(dep, books), books[dep.upstream].failed_whole)
        for dep in node.deps
        if dep.kind is not DepKind.ITEMS
    ]
    if lanes and node.trigger is not all_successful:
        return Verdict.RUN
    return _judge(node.trigger, parts)


def judge_item(book: NodeBook, books: Mapping[int, NodeBook], index: int) -> Verdict:
    """Decide one item by its own upstream items, and the constants where the trigger is its own."""
    node = book.node
    parts = []
    for dep in node.deps:
        if dep.kind is DepKind.ITEMS:
            parts.append((dep, dep_counts(dep, books, index), False))
        elif node.trigger is not all_successful:
            parts.append((dep, dep_counts(dep, books), books[dep.upstream].failed_whole))
    return _judge(node.trigger, parts)


def lane_plan(stage: Stage, books: Mapping[int, NodeBook], index: int) -> tuple[dict[int, Verdict], tuple[int, ...]]:
    """What to do with one item of a stage: members decided without running, and members to run now.

    Members that still wait (for a retry, a graft, a batch under way) and what needs them are in neither.
    """
    decided: dict[int, Verdict] = {}
    runs: list[int] = []
    waits: set[int] = set()
    ended = {Verdict.FAIL: Code.UPSTREAM_FAILED, Verdict.SKIP: Code.SKIPPED, Verdict.BROKEN_TRIGGER: Code.FAILED}
    for member in stage.members:
        book = books[member]
        code = book.states[index]
        if code in FINAL_CODES:
            continue
        if code != Code.PENDING:
            waits.add(member)
            continue
        in_lane = [dep for dep in book.node.deps if dep.kind is DepKind.ITEMS]
        if any(dep.upstream in waits for dep in in_lane) or any(
            dep.upstream not in stage.members and books[dep.upstream].states[index] not in FINAL_CODES
            for dep in in_lane
        ):
            waits.add(member)
            continue
        parts: list[tuple[Dep, Counts, bool]] = []
        pending = False
        for dep in in_lane:
            if dep.upstream in runs:
                pending = True
            elif dep.upstream in decided:
                parts.append((dep, Counts({ended[decided[dep.upstream]].state_name: 1}), False))
            else:
                parts.append((dep, dep_counts(dep, books, index), False))
        if book.node.trigger is not all_successful:
            parts += [
                (dep, dep_counts(dep, books), books[dep.upstream].failed_whole)
                for dep in book.node.deps
                if dep.kind is not DepKind.ITEMS
            ]
            verdict = _judge(book.node.trigger, parts)
        else:
            verdict = _judge(all_successful, parts)
        if verdict is Verdict.RUN or (pending and verdict is not Verdict.FAIL and verdict is not Verdict.SKIP):
            runs.append(member)
        else:
            decided[member] = verdict
    return decided, tuple(runs)
