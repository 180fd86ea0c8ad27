"""What nodes and items gave: their values, or the exceptions in their place."""

from __future__ import annotations

from typing import Any

from graphflow.common.wording import count_text
from graphflow.core.events import FinishRun
from graphflow.driver.driver import Driver
from graphflow.errors import FlowFailed, RunCancelled, UpstreamFailed
from graphflow.graph.graph import Node
from graphflow.graph.mapping import PartialList
from graphflow.model.states import FAILED_CODES, Code
from graphflow.records.failures import MAX_GROUP, as_exception, node_failure

__all__ = [
    "node_exception",
    "outcome_of",
    "unhandled_exception",
    "value_of",
]


def outcome_of(driver: Driver, node: Node, index: int | None) -> tuple[Any, BaseException | None]:
    """Return what became of a node, or of one of its items, that ended: (value, None) or (None, exception).

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
    return IndexError(f"{node.name} has {count_text(book.width, 'item')}; there is no item {index}")


def node_exception(driver: Driver, node: Node) -> BaseException:
    """Return the exception of a failed node: its own, or a `MapFailed` group for failed items."""
    error = node_failure(driver.known, driver.known.known(node.id))
    return error if error is not None else driver.exception_of(node.id, None)


def unhandled_exception(driver: Driver, outcome: FinishRun) -> BaseException:
    """Return the exception of a failed run: the one failure, or a group of several."""
    errors = [node_exception(driver, driver.core.books[node].node) for node in outcome.unhandled]
    if not errors:
        return RunCancelled(f"run {driver.run_id} was cancelled")
    if len(errors) == 1:
        return errors[0]
    names = ", ".join(driver.core.books[node].node.name for node in outcome.unhandled[:5])
    return FlowFailed(
        f"{len(errors)} nodes of flow {driver.flow_name!r} failed ({names}{', ...' if len(errors) > 5 else ''})",
        [as_exception(each) for each in errors[:MAX_GROUP]],
    )


def value_of(driver: Driver, node: Node, index: int | None) -> Any:
    """Return the value of a node (the list of its items where it is mapped) or of one item; all ended well."""
    if not node.is_mapped or index is not None:
        place = driver.history.node(node.id).place(index or 0)
        if place is None:
            return None
        value = driver.fetch([place])[0]
        if type(value) is PartialList:
            lost = value.first_failure()
            if lost is not None:
                raise UpstreamFailed(
                    f"{node.name} contains elements whose upstream failed: {type(lost.error).__name__}: {lost.error}",
                    root=lost.origin,
                ) from lost.error
            return list(value)
        return value
    return driver.gathered(node.id)
