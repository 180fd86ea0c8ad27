"""Which nodes run fused: chains and diamonds over one index space become one stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphflow.core.nodes import SUCCESS_BYTES, NodeBook, Stage
from graphflow.graph.graph import Dep, DepKind, Node
from graphflow.model.policies import all_successful

__all__ = ["depth_of", "stage_to_join"]


def stage_to_join(node: Node, books: Mapping[int, NodeBook]) -> Stage | None:
    """Return the stage that `node` can be fused into, or None.

    It can join when all its mapped inputs are items of one stage that has not begun (or items that this
    stage itself waits for), when nothing else would make that stage wait longer or end otherwise, and when
    both ask for the same resources. A trigger of its own, or items whose failure it wants to see, are decided
    between batches. O(dependencies).
    """
    if not node.is_mapped or node.fuse_key is None or node.sources or node.trigger is not all_successful:
        return None
    stage: Stage | None = None
    outside: list[int] = []
    for dep in node.deps:
        if dep.kind is not DepKind.ITEMS:
            continue
        candidate = books[dep.upstream].stage
        if dep.allows_failure:
            return None
        if candidate.is_open or books[dep.upstream].is_final:
            outside.append(dep.upstream)
        elif stage is None or stage is candidate:
            stage = candidate
        else:
            return None
    if stage is None:
        return None
    leader = books[stage.leader].node
    if leader.fuse_key != node.fuse_key or leader.batch_size != node.batch_size:
        return None
    if outside and not _waits_only_for_items(leader, outside, stage):
        return None
    constants = [dep for dep in node.deps if dep.kind is not DepKind.ITEMS]
    return stage if all(_adds_nothing(dep, leader, books) for dep in constants) else None


def _waits_only_for_items(leader: Node, outside: Sequence[int], stage: Stage) -> bool:
    """Return whether a stage that takes these nodes' items cannot end before theirs are decided."""
    only_items = not leader.sources and all(dep.kind is DepKind.ITEMS for dep in leader.deps)
    return only_items and all(upstream in stage.upstreams for upstream in outside)


def _adds_nothing(dep: Dep, leader: Node, books: Mapping[int, NodeBook]) -> bool:
    """Return whether a dependency is the leader's too, or has succeeded already."""
    if dep.kind is DepKind.ELEMENTS:
        return False
    if leader.trigger is all_successful and any(
        (own.upstream, own.kind, own.index, own.allows_failure)
        == (dep.upstream, dep.kind, dep.index, dep.allows_failure)
        for own in leader.deps
    ):
        return True
    upstream = books[dep.upstream]
    if dep.kind is DepKind.PICK and dep.index is not None:
        return dep.index < len(upstream.states) and upstream.states[dep.index] in SUCCESS_BYTES
    return upstream.final in SUCCESS_BYTES


def depth_of(node: Node, books: Mapping[int, NodeBook]) -> int:
    """Return how deep in the graph a node is: deeper stages go first, so that work drains."""
    return 1 + max((books[dep.upstream].stage.depth for dep in node.deps), default=0)
