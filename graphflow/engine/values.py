"""What nodes and items gave: their values, or the exceptions in their place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from graphflow.engine.driver import Driver
from graphflow.engine.events import FinishRun
from graphflow.errors import FlowFailed, GraphflowError, MapFailed, RunCancelled, UpstreamFailed
from graphflow.graph import Node
from graphflow.mapping import PartialList
from graphflow.runner.labels import default_label
from graphflow.states import FAILED_CODES, Code

__all__ = ["item_label", "node_exception", "outcome_of", "unhandled_exception", "value_of"]

MAX_GROUP = 100
MAX_LOOKED_AT = 10_000


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
    if book.failed_whole or book.width is None:
        return driver.exception_of(node.id, None)
    return IndexError(f"{node.name} has {book.width} items; there is no item {index}")


def item_label(driver: Driver, node: Node, place: int) -> str:
    """The task run name of an item; `place` is 0 where the node is not mapped."""
    found = driver.history.node(node.id).find(place)
    if found is not None and found[0].step.labels is not None:
        label = driver.backend.fetch([found[0].step.labels])[0][found[1]]
        if label is not None:
            return str(label)
    return default_label(node.name, place if node.is_mapped else None)


def node_exception(driver: Driver, node: Node) -> BaseException:
    """The exception of a failed node: its own, or a `MapFailed` group for failed items."""
    book = driver.core.books[node.id]
    if not node.is_mapped:
        return driver.exception_of(node.id, 0)
    whole = driver.history.errors.get(node.id)
    indices = driver.failed_indices(node.id)
    if not indices:
        return whole if whole is not None else driver.exception_of(node.id, None)
    distinct = _distinct(driver.exception_of(node.id, index) for index in indices[:MAX_LOOKED_AT])
    if whole is not None:
        distinct.append(whole)
    shown = ", ".join(item_label(driver, node, index) for index in indices[:5])
    examples = "; ".join(f"{type(each).__name__}: {str(each)[:200]}" for each in distinct[:3])
    width = book.width if book.width is not None else len(book.states)
    text = f"{len(indices)} of {width} items of {node.name} failed (first: {shown}): {examples}"
    cancelled = book.counts[Code.CANCELLED]
    if cancelled:
        text += f"; {cancelled} were cancelled"
    group = MapFailed(text, [_as_exception(each) for each in distinct])
    group.failed, group.width, group.indices = len(indices), book.width, tuple(indices[:MAX_GROUP])
    return group


def _distinct(errors: Iterable[BaseException]) -> list[BaseException]:
    """The first of each type and text, at most a hundred."""
    found: dict[tuple[type, str], BaseException] = {}
    for error in errors:
        found.setdefault((type(error), str(error)), error)
        if len(found) == MAX_GROUP:
            break
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
    refs = list({id(ref): ref for ref, _ in gathered.parts}.values())
    columns = {id(ref): column for ref, column in zip(refs, driver.backend.fetch(refs), strict=True)}
    values: list[Any] = []
    for ref, positions in gathered.parts:
        column = columns[id(ref)]
        if isinstance(positions, range) and positions.step == 1:
            values += column[positions.start : positions.stop]
        else:
            values += [column[each] for each in positions]
    if gathered.dropped:
        dropped = set(gathered.dropped)
        values = [value for i, value in enumerate(values) if i not in dropped]
    return values
