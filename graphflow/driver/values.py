"""What nodes and items gave: their values, or the exceptions in their place."""

from __future__ import annotations

from typing import Any

from graphflow.core.events import FinishRun, SubmitBatch
from graphflow.core.nodes import NodeBook
from graphflow.driver.driver import Driver
from graphflow.errors import FlowFailed, GraphflowError, MapFailed, RunCancelled, UpstreamFailed
from graphflow.graph.graph import Node
from graphflow.graph.mapping import PartialList
from graphflow.model.orders import Ref
from graphflow.model.states import FAILED_CODES, Code
from graphflow.runner.faults import summarize
from graphflow.runner.inputs import make_call, ready_inputs
from graphflow.runner.labels import default_label

__all__ = [
    "ColumnReader",
    "inputs_of",
    "item_label",
    "node_exception",
    "outcome_of",
    "unhandled_exception",
    "value_of",
]

MAX_GROUP = 100


def outcome_of(driver: Driver, node: Node, index: int | None) -> tuple[Any, BaseException | None]:
    """What became of a node, or of one of its items, that ended: (value, None) or (None, exception).

    What was skipped has the value None; of a whole map, skipped items drop out.
    """
    error = _exception_of(driver, node, index)
    if error is not None:
        return None, error
    if driver.code_of(node.id, index) == Code.SKIPPED and (index is not None or not node.is_mapped):
        return None, None
    return value_of(driver, node, index), None


def _exception_of(driver: Driver, node: Node, index: int | None) -> BaseException | None:
    book = driver.core.books[node.id]
    code = driver.code_of(node.id, index)
    has_failed = code in FAILED_CODES or code == Code.CANCELLED
    if not node.is_mapped:
        return driver.exception_of(node.id, 0) if has_failed else None
    if index is None:
        if book.failed_count() or (has_failed and code != Code.CANCELLED):
            return node_exception(driver, node)
        return driver.exception_of(node.id, None) if has_failed else None
    if index < len(book.states):
        return driver.exception_of(node.id, index) if has_failed else None
    if book.broke_off or book.width is None:
        return driver.exception_of(node.id, None)
    return IndexError(f"{node.name} has {book.width} items; there is no item {index}")


class ColumnReader:
    """Reads columns of stored values and keeps the last few, for whoever looks at one item after the other."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._kept: dict[int, tuple[Ref, list[Any]]] = {}

    def __call__(self, ref: Ref) -> list[Any]:
        known = self._kept.pop(id(ref), None)
        if known is None:
            known = ref, self._driver.backend.fetch([ref])[0]
        self._kept[id(ref)] = known
        while len(self._kept) > 4:
            del self._kept[next(iter(self._kept))]
        return known[1]


def inputs_of(driver: Driver, node: Node, place: int, read: ColumnReader) -> str:
    """The arguments of a failed item in short: as they were noted when it failed, else made of its inputs.

    Empty where it never ran, or where its inputs are gone.
    """
    history, book = driver.history.node(node.id), driver.core.books[node.id]
    noted = history.inputs_of(place)
    if noted or not book.attempts[place] or node.program is None:
        return noted
    width = book.width if node.is_mapped else None
    command = SubmitBatch(
        batch=0, nodes=(node.id,), indices=(place,), width=width, tries=(None,), slice_seconds=None
    )
    try:
        order = driver.dispatcher.order(command)
        ready = ready_inputs(order, read)
        slots = [ready[slot] for slot in order.steps[0].slots if isinstance(slot, int)]
        args, kwargs = make_call(node.program, slots)(0)
        return summarize(node.program.parameter_names, args, kwargs)
    except Exception:
        return ""


def item_label(driver: Driver, node: Node, place: int, read: ColumnReader | None = None) -> str:
    """The task run name of an item; `place` is 0 where the node is not mapped."""
    found = driver.history.node(node.id).find(place)
    if found is not None and found[0].step.labels is not None:
        label = (read or ColumnReader(driver))(found[0].step.labels)[found[1]]
        if label is not None:
            return str(label)
    return default_label(node.name, place if node.is_mapped else None)


def node_exception(driver: Driver, node: Node) -> BaseException:
    """The exception of a failed node: its own, or a `MapFailed` group for failed items."""
    book = driver.core.books[node.id]
    if not node.is_mapped:
        return driver.exception_of(node.id, 0)
    whole = driver.exception_of(node.id, None) if book.broke_off else driver.history.errors.get(node.id)
    mask = driver.failed_mask(node.id)
    failed = mask.count(1)
    if not failed:
        return whole if whole is not None else driver.exception_of(node.id, None)
    indices = _places(mask, MAX_GROUP)
    distinct = _distinct(driver, node, book)
    if whole is not None:
        distinct.append(whole)
    shown = ", ".join(item_label(driver, node, index) for index in indices[:5])
    examples = "; ".join(f"{type(each).__name__}: {str(each)[:200]}" for each in distinct[:3])
    width = book.width if book.width is not None else len(book.states)
    text = f"{failed} of {width} items of {node.name} failed (first: {shown}): {examples}"
    if book.broke_off:
        text += f"; then it broke off: {type(whole).__name__}: {str(whole)[:200]}"
    cancelled = book.counts[Code.CANCELLED]
    if cancelled:
        text += f"; {cancelled} were cancelled"
    group = MapFailed(text, [_as_exception(each) for each in distinct])
    group.failed, group.width, group.indices = failed, book.width, tuple(indices)
    return group


def _places(mask: bytes, limit: int, start: int = 0) -> list[int]:
    """The first places where a mask is 1."""
    found: list[int] = []
    at = mask.find(1, start)
    while at >= 0 and len(found) < limit:
        found.append(at)
        at = mask.find(1, at + 1)
    return found


def _distinct(driver: Driver, node: Node, book: NodeBook) -> list[BaseException]:
    """The exceptions of a map's items, the first of each type and text, in order of the items; at most a hundred."""
    firsts = [index for index, _ in driver.history.node(node.id).first_errors(MAX_GROUP)]
    for code in (Code.CRASHED, Code.UPSTREAM_FAILED):
        # These may have no error on record: each is made of where it came from.
        firsts += _places(bytes(book.states).translate(bytes(each == code for each in range(256))), MAX_GROUP)
    found: dict[tuple[type, str], BaseException] = {}
    for index in sorted(set(firsts)):
        error = driver.exception_of(node.id, index)
        found.setdefault((type(error), str(error)), error)
        if len(found) == MAX_GROUP:
            break
    if not found:
        error = driver.exception_of(node.id, _places(driver.failed_mask(node.id), 1)[0])
        found[type(error), ""] = error
    return list(found.values())


def _as_exception(error: BaseException) -> Exception:
    """An exception as it can be a member of a group."""
    if isinstance(error, Exception):
        return error
    wrapped = GraphflowError(f"{type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped


def unhandled_exception(driver: Driver, outcome: FinishRun) -> BaseException:
    """What a run fails with: the one failure, or one group of several."""
    errors = [node_exception(driver, driver.core.books[node].node) for node in outcome.unhandled]
    if not errors:
        return RunCancelled(f"run {driver.run_id} was cancelled")
    if len(errors) == 1:
        return errors[0]
    names = ", ".join(driver.core.books[node].node.name for node in outcome.unhandled[:5])
    return FlowFailed(
        f"{len(errors)} nodes of flow {driver.flow_name!r} failed ({names}{', ...' if len(errors) > 5 else ''})",
        [_as_exception(each) for each in errors[:MAX_GROUP]],
    )


def value_of(driver: Driver, node: Node, index: int | None) -> Any:
    """The value of a node (the list of its items where it is mapped) or of one item; all ended well."""
    if not node.is_mapped or index is not None:
        place = driver.history.node(node.id).place(index or 0)
        if place is None:
            return None
        value = driver.fetch([place])[0]
        if type(value) is PartialList:
            lost = value.first_failure()
            if lost is not None:
                raise UpstreamFailed(
                    f"{node.name} holds elements whose upstream failed: {type(lost.error).__name__}: {lost.error}",
                    root=lost.origin,
                ) from lost.error
            return list(value)
        return value
    gathered = driver.dispatcher.gathered(node.id, None)
    values = driver.joined(gathered.parts)
    if gathered.dropped:
        dropped = set(gathered.dropped)
        values = [value for i, value in enumerate(values) if i not in dropped]
    return values
