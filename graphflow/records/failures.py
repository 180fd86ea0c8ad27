"""The exceptions behind failed items and nodes, with the causes of what only failed because of them."""

from __future__ import annotations

from collections.abc import Sequence

from graphflow.errors import GraphflowError, ItemCrashed, MapFailed, RunCancelled, UpstreamFailed
from graphflow.model.states import FAILED_CODES, FAILED_TABLE, FINAL_CODES, Code
from graphflow.records.known import KnownNode, KnownRun

__all__ = [
    "MAX_GROUP",
    "as_exception",
    "item_failure",
    "map_failure",
    "node_failure",
    "places",
    "whole_failure",
]

MAX_GROUP = 100
"""How many distinct exceptions a group holds."""


def item_failure(run: KnownRun, node: KnownNode, index: int) -> BaseException:
    """Return the exception behind an item that failed or was cancelled; an `UpstreamFailed` names its root cause."""
    code, whole = node.code_of(index), whole_failure(run, node)
    is_own = node.is_mapped and index < node.size
    if whole is not None and (code not in FINAL_CODES or (node.broke_off and not is_own)):
        return whole
    label = node.label(index)
    if code == Code.CANCELLED:
        return RunCancelled(f"{label} was cancelled before it ended")
    record = node.history.last_error(index)
    if record is not None:
        error = run.history.restored(record)
        if code != Code.UPSTREAM_FAILED or isinstance(error, UpstreamFailed):
            return error
    if code == Code.UPSTREAM_FAILED:
        return _upstream_failed(run, node, index)
    if code == Code.CRASHED:
        return ItemCrashed(
            f"{label} was executing when its worker died, twice (a segmentation fault, os._exit, or out of memory); the "
            "other items were not affected"
        )
    return whole if whole is not None else GraphflowError(f"{label} ended {code.state_name}")


def whole_failure(run: KnownRun, node: KnownNode) -> BaseException | None:
    """Return what a node failed with beside its items, or what left it without some of them; None if nothing did."""
    if node.broke_off and not node.failed_whole:
        return _upstream_failed(run, node, None)
    return run.whole_error(node.number)


def node_failure(run: KnownRun, node: KnownNode) -> BaseException | None:
    """Return what a node failed with, of a map one group for its items; None if nothing of it failed."""
    if node.is_mapped:
        return map_failure(run, node)
    code = node.code_of(0)
    return item_failure(run, node, 0) if code in FAILED_CODES or code == Code.CANCELLED else None


def map_failure(run: KnownRun, node: KnownNode) -> BaseException | None:
    """Return what a map failed with: a group of its items' exceptions, or what it failed with beside them.

    O(items), and at most `MAX_GROUP` distinct exceptions.
    """
    codes = node.codes(0, node.size)
    mask = codes.translate(FAILED_TABLE)
    failed, whole, code = mask.count(1), whole_failure(run, node), node.state_code
    if not failed:
        if whole is not None:
            return whole
        if code == Code.UPSTREAM_FAILED:
            return _upstream_failed(run, node, None)
        if code == Code.CANCELLED:
            return RunCancelled(f"{node.name} was cancelled before it ended")
        return GraphflowError(f"{node.name} ended {code.state_name}") if code in FAILED_CODES else None
    distinct = _distinct(run, node, codes, mask)
    if whole is not None:
        distinct.append(whole)
    indices = places(mask, MAX_GROUP)
    shown = ", ".join(node.label(index) for index in indices[:5])
    examples = "; ".join(f"{type(each).__name__}: {str(each)[:200]}" for each in distinct[:3])
    width = node.size if node.width is None else node.width
    text = f"{failed} of {width} items of {node.name} failed (first: {shown}): {examples}"
    if whole is not None and node.broke_off:
        text += f"; then the map failed: {type(whole).__name__}: {str(whole)[:200]}"
    cancelled = codes.count(Code.CANCELLED)
    if cancelled:
        text += f"; {cancelled} were cancelled"
    group = MapFailed(text, [as_exception(each) for each in distinct])
    group.failed, group.width, group.indices = failed, node.width, tuple(indices)
    return group


def _distinct(run: KnownRun, node: KnownNode, codes: bytes, mask: bytes) -> list[BaseException]:
    """Return the exceptions of a map's items, the first of each type and text, in order of the items."""
    firsts = {index for index, _ in node.history.first_errors(MAX_GROUP) if mask[index : index + 1] == b"\1"}
    for code in (Code.CRASHED, Code.UPSTREAM_FAILED):
        # These may have no error on record: each is made of where it came from.
        firsts.update(places(codes.translate(bytes(each == code for each in range(256))), MAX_GROUP))
    found: dict[tuple[type, str], BaseException] = {}
    for index in sorted(firsts) or places(mask, 1):
        error = item_failure(run, node, index)
        found.setdefault((type(error), str(error)), error)
        if len(found) == MAX_GROUP:
            break
    return list(found.values())


def places(mask: bytes, limit: int) -> list[int]:
    """Return the first places where a mask is 1."""
    found: list[int] = []
    at = mask.find(1)
    while at >= 0 and len(found) < limit:
        found.append(at)
        at = mask.find(1, at + 1)
    return found


def as_exception(error: BaseException) -> Exception:
    """Return an exception that can be a member of a group, with the error as its cause where it is none."""
    if isinstance(error, Exception):
        return error
    wrapped = GraphflowError(f"{type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped


def _upstream_failed(run: KnownRun, node: KnownNode, index: int | None) -> UpstreamFailed:
    own = _place(node, index)
    number, item, path = run.root_of(node.number, index)
    if number == node.number:
        return UpstreamFailed(f"{own} did not run, because something it depends on failed", root=own)
    root_node = run.known(number)
    root = _place(root_node, item)
    names = [run.known(each).name for each in reversed(path)]
    cause = item_failure(run, root_node, item) if item is not None else node_failure(run, root_node)
    what = f": {type(cause).__name__}: {cause}" if cause is not None else ""
    error = UpstreamFailed(
        f"{own} did not run, because {root} failed{_via(names[:-1])}{what}", root=root, path=names
    )
    error.__cause__ = cause
    return error


def _place(node: KnownNode, index: int | None) -> str:
    return f"{node.name}[{index}]" if node.is_mapped and index is not None else node.name


def _via(names: Sequence[str]) -> str:
    """Return the tasks between a failure and its consequence, the middle of a long path left out."""
    if not names:
        return ""
    if len(names) > 6:
        names = [*names[:3], f"{len(names) - 6} more", *names[-3:]]
    return f" (through {', '.join(names)})"
