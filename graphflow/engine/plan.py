"""Which nodes run fused: chains and diamonds over one index space become one stage."""

from __future__ import annotations

from collections.abc import Mapping

from graphflow.engine.books import SUCCESS_BYTES, NodeBook, Stage
from graphflow.graph import DepKind, Node

__all__ = ["depth_of", "stage_to_join"]


def stage_to_join(node: Node, books: Mapping[int, NodeBook]) -> Stage | None:
    """The stage that `node` can be fused into, or None.

    It can join when all its mapped inputs are items of one stage that has not begun (or items that this
    stage itself waits for), when nothing else would make that stage wait longer, and when both ask for
    the same resources. O(dependencies).
    """
    if not node.is_mapped or node.fuse_key is None or node.sources:
        return None
    if any(dep.allows_failure and dep.kind is DepKind.ITEMS for dep in node.deps):
        return None
    stage: Stage | None = None
    outside: list[int] = []
    for dep in node.deps:
        if dep.kind is not DepKind.ITEMS:
            continue
        candidate = books[dep.upstream].stage
        if candidate.is_open or books[dep.upstream].is_final:
            outside.append(dep.upstream)
        elif stage is None or stage is candidate:
            stage = candidate
        else:
            return None
    if stage is None:
        return None
    leader = books[stage.leader]
    if leader.node.fuse_key != node.fuse_key or leader.node.batch_size != node.batch_size:
        return None
    if any(upstream not in stage.upstreams for upstream in outside):
        return None
    waits_for = {(dep.upstream, dep.index) for dep in leader.node.deps if dep.kind is not DepKind.ITEMS}
    for dep in node.deps:
        if dep.kind is DepKind.ITEMS:
            continue
        if dep.kind is DepKind.ELEMENTS:
            return None
        upstream = books[dep.upstream]
        if (dep.upstream, dep.index) in waits_for:
            continue
        if not (upstream.is_final and upstream.final in SUCCESS_BYTES):
            return None
    return stage


def depth_of(node: Node, books: Mapping[int, NodeBook]) -> int:
    """How deep in the graph a node is: deeper stages go first, so that work drains."""
    return 1 + max((books[dep.upstream].stage.depth for dep in node.deps), default=0)
