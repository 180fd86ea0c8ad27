"""What nodes and items of a run failed with, as its history tells it."""

from __future__ import annotations

from graphflow.errors import GraphflowError, ItemCrashed, MapFailed, RunCancelled, UpstreamFailed
from graphflow.model.states import FAILED_CODES, FAILED_TABLE, Code
from graphflow.records.replay import Replay, ReplayedNode

__all__ = ["exception_at", "node_failure"]

MAX_GROUP = 100
_BAD = FAILED_CODES | {Code.CANCELLED}


def exception_at(replay: Replay, known: ReplayedNode, index: int) -> BaseException:
    """The exception behind an item that failed or was cancelled; an `UpstreamFailed` names its root cause."""
    code = known.code_of(index)
    label = known.label(index)
    if code == Code.CANCELLED:
        return RunCancelled(f"{label} was cancelled before it ended")
    record = known.history.last_error(index)
    if record is not None:
        error = replay.history.restored(record)
        if code != Code.UPSTREAM_FAILED or isinstance(error, UpstreamFailed):
            return error
    if code == Code.UPSTREAM_FAILED:
        return _upstream_failed(replay, known, index)
    if code == Code.CRASHED:
        return ItemCrashed(
            f"{label} was executing when its worker died, twice (a segmentation fault, os._exit, or out of memory); the "
            "items around it went on"
        )
    said = [moved.message for moved in known.transitions if moved.message]
    return GraphflowError(said[-1] if said else f"{label} ended {code.state_name}")


def node_failure(replay: Replay, known: ReplayedNode) -> Exception | None:
    """What a mapped node failed with: a group of its items' exceptions; None if nothing of it failed."""
    mask = bytes(known.states).translate(FAILED_TABLE)
    failed = mask.count(1)
    said = [moved.message for moved in known.transitions if moved.message]
    if not failed:
        if known.code == Code.UPSTREAM_FAILED:
            return _upstream_failed(replay, known, None)
        if known.code in FAILED_CODES:
            return GraphflowError(
                said[-1] if said else f"{known.entry.name} ended {Code(known.code).state_name}"
            )
        if known.code == Code.CANCELLED:
            return RunCancelled(f"{known.entry.name} was cancelled before it ended")
        return None
    indices = _places(mask, MAX_GROUP)
    firsts = {index for index, _ in known.history.first_errors(MAX_GROUP)}
    # These may have no error on record: each is made of where it came from.
    firsts.update(index for index in indices if known.states[index] in (Code.CRASHED, Code.UPSTREAM_FAILED))
    chosen = sorted({*indices[:1], *firsts})[:MAX_GROUP]
    found: dict[tuple[type, str], Exception] = {}
    for index in chosen:
        if mask[index]:
            error = exception_at(replay, known, index)
            as_member = (
                error if isinstance(error, Exception) else GraphflowError(f"{type(error).__name__}: {error}")
            )
            found.setdefault((type(error), str(error)), as_member)
    if said and known.code in FAILED_CODES:
        found[GraphflowError, said[-1]] = GraphflowError(said[-1])
    shown = ", ".join(known.label(index) for index in indices[:5])
    examples = "; ".join(f"{type(each).__name__}: {str(each)[:200]}" for each in list(found.values())[:3])
    width = known.width if known.width is not None else len(known.states)
    group = MapFailed(
        f"{failed} of {width} items of {known.entry.name} failed (first: {shown}): {examples}",
        list(found.values()),
    )
    group.failed, group.width, group.indices = failed, known.width, tuple(indices)
    return group


def _places(mask: bytes, limit: int) -> list[int]:
    found: list[int] = []
    at = mask.find(1)
    while at >= 0 and len(found) < limit:
        found.append(at)
        at = mask.find(1, at + 1)
    return found


# -- where an upstream failure comes from ------------------------------------------------------------------------


def _upstream_failed(replay: Replay, known: ReplayedNode, index: int | None) -> UpstreamFailed:
    own = _place(known, index)
    path: list[str] = []
    node, item = known, index
    while len(path) <= len(replay.nodes):
        cause = _cause(replay, node, item)
        if cause is None:
            break
        path.append(node.entry.name)
        node, item = cause
    if node is known:
        return UpstreamFailed(f"{own} did not run, because something that it needs failed", root=own)
    root = _place(node, item)
    names = list(reversed(path))
    cause_error = exception_at(replay, node, item) if item is not None else node_failure(replay, node)
    what = f": {type(cause_error).__name__}: {cause_error}" if cause_error is not None else ""
    via = f" (through {', '.join(names[:-1])})" if len(names) > 1 else ""
    error = UpstreamFailed(f"{own} did not run, because {root} failed{via}{what}", root=root, path=names)
    error.__cause__ = cause_error
    return error


def _place(node: ReplayedNode, index: int | None) -> str:
    return f"{node.entry.name}[{index}]" if node.entry.is_mapped and index is not None else node.entry.name


def _cause(replay: Replay, node: ReplayedNode, index: int | None) -> tuple[ReplayedNode, int | None] | None:
    """What an upstream failure comes from, one step down; None for anything else."""
    if index is None:
        index = node.states.find(Code.UPSTREAM_FAILED)
        if index < 0:
            if node.code != Code.UPSTREAM_FAILED:
                return None
            index = None
    if index is not None and node.code_of(index) != Code.UPSTREAM_FAILED:
        return None
    inner = [each for each in replay.nodes.values() if each.entry.parent == (node.number, index)]
    for each in inner:
        if each.code in _BAD:
            return each, _first_bad(each)
    # What is taken as a whole decides before what is taken item by item.
    for dep in sorted(node.entry.deps, key=lambda dep: dep.kind == "ITEMS"):
        upstream = replay.nodes.get(dep.upstream)
        if upstream is None:
            continue
        item = index if dep.kind == "ITEMS" else dep.index
        if item is not None and item < len(upstream.states):
            if upstream.code_of(item) in _BAD:
                return upstream, item
        elif upstream.code in _BAD or any(map(upstream.states.count, _BAD)):
            return upstream, _first_bad(upstream)
    return None


def _first_bad(node: ReplayedNode) -> int | None:
    found = [place for place in (node.states.find(code) for code in _BAD) if place >= 0]
    return min(found, default=None)
