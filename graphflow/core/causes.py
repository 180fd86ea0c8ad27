"""Where a failure comes from, and whether it was handed to something that the user wrote."""

from __future__ import annotations

from collections.abc import Mapping

from graphflow.core.nodes import OWN_FAILURES, NodeBook, first_failed
from graphflow.graph.graph import Dep, DepKind
from graphflow.model.policies import all_successful
from graphflow.model.states import FAILED_CODES, Code

__all__ = ["hand_over", "hand_over_inputs", "hand_over_lane", "root_of"]

_BAD = FAILED_CODES | {Code.CANCELLED}
Place = tuple[int, int | None]
"""A node, and one of its items or None for the node as a whole."""


# -- causes -----------------------------------------------------------------------------------------------


def root_of(
    books: Mapping[int, NodeBook], node_id: int, index: int | None = None
) -> tuple[int, int | None, list[int]]:
    """Return the failure at the bottom of an `UpstreamFailed`: (node, index or None, the path down to it)."""
    path: list[int] = []
    place: Place = (node_id, index)
    while len(path) <= len(books):
        cause = _cause(books, *place)
        if cause is None:
            break
        path.append(place[0])
        place = cause
    return place[0], place[1], path


def _cause(books: Mapping[int, NodeBook], node_id: int, index: int | None) -> Place | None:
    """Return what an `UpstreamFailed` comes from, one step down; None for anything else."""
    book = books[node_id]
    if index is None and book.is_cut_off:
        return _broken_off(books, book)[0]
    if index is None and book.states:
        index = book.states.find(Code.UPSTREAM_FAILED)
    if index is None or not 0 <= index < len(book.states):
        if book.final != Code.UPSTREAM_FAILED:
            return None
        index = None
    elif book.states[index] != Code.UPSTREAM_FAILED:
        return None
    is_plain = book.node.trigger is all_successful
    for node, item in _causes(books, book, index):
        upstream = books[node]
        if item is not None and item < len(upstream.states):
            is_tolerated = is_plain and upstream.tolerates and upstream.states[item] in OWN_FAILURES
            if upstream.states[item] in _BAD and not is_tolerated:
                return node, item
        elif upstream.broke_off or upstream.final in _BAD or (not is_plain and upstream.failed_count()):
            return node, None if upstream.broke_off else first_failed(upstream)
    return None


def _causes(books: Mapping[int, NodeBook], book: NodeBook, index: int | None) -> list[Place]:
    """Return the failures that an upstream failure of a node, or of one item of it, comes from.

    The item-wise inputs count only where nothing else had decided already; then all of them do, for another
    may be under way still, and fail too.
    """
    if index is not None and index in book.graft_roots:
        return [(book.graft_roots[index], None)]
    is_plain = book.node.trigger is all_successful
    constants = [
        dep
        for dep in book.node.deps
        if dep.kind is not DepKind.ITEMS
        and (_has_failed(books, dep, None) if not is_plain else _fails(books, dep))
        and (is_plain or dep.kind is not DepKind.AFTER)
    ]
    deciding = [
        dep for dep in constants if (is_plain and not dep.allows_failure) or dep.kind is DepKind.ELEMENTS
    ]
    if not deciding:
        item_wise = [dep for dep in book.node.deps if dep.kind is DepKind.ITEMS]
        gone = [
            dep
            for dep in item_wise
            if books[dep.upstream].width is None and books[dep.upstream].final in _BAD
        ]
        deciding = gone or item_wise + ([] if is_plain else constants)
    return [(dep.upstream, index if dep.kind is DepKind.ITEMS else dep.index) for dep in deciding]


def _fails(books: Mapping[int, NodeBook], dep: Dep) -> bool:
    """Return whether what a constant dependency takes has failed, beyond what its map tolerates."""
    upstream = books[dep.upstream]
    if not upstream.tolerates:
        return _has_failed(books, dep, None)
    if dep.index is not None and dep.index < len(upstream.states):
        return upstream.states[dep.index] in _BAD - OWN_FAILURES
    return upstream.broke_off or upstream.final in _BAD


def _has_failed(books: Mapping[int, NodeBook], dep: Dep, index: int | None) -> bool:
    """Return whether what a dependency takes has failed."""
    upstream = books[dep.upstream]
    item = index if dep.kind is DepKind.ITEMS else dep.index
    if item is not None and item < len(upstream.states):
        return upstream.states[item] in _BAD
    return upstream.broke_off or upstream.final in _BAD or upstream.failed_count() > 0


def _broken_off(books: Mapping[int, NodeBook], book: NodeBook) -> list[Place]:
    """Return the maps by which a node lacks items."""
    item_wise = [dep.upstream for dep in book.node.deps if dep.kind is DepKind.ITEMS]
    return [(upstream, None) for upstream in item_wise if books[upstream].broke_off]


# -- failures that were handed to somebody ------------------------------------------------------------------


def hand_over_inputs(books: Mapping[int, NodeBook], book: NodeBook) -> None:
    """Mark the failures of whole inputs as handled, as a node runs although they failed.

    The engine's own nodes (a collection, a filter) only pass failures on.
    """
    if book.node.is_builtin:
        return
    own_trigger = book.node.trigger is not all_successful
    for dep in book.node.deps:
        if (
            dep.kind not in (DepKind.ITEMS, DepKind.AFTER)
            and (own_trigger or dep.allows_failure)
            and _has_failed(books, dep, None)
        ):
            hand_over(books, dep.upstream, dep.index)


def hand_over_lane(books: Mapping[int, NodeBook], book: NodeBook, index: int) -> None:
    """Mark the failure of an upstream item as handled, as an item runs although it failed."""
    own_trigger = book.node.trigger is not all_successful
    for dep in book.node.deps:
        if (
            dep.kind is DepKind.ITEMS
            and (own_trigger or dep.allows_failure)
            and _has_failed(books, dep, index)
        ):
            hand_over(books, dep.upstream, index)


def hand_over(
    books: Mapping[int, NodeBook], node: int, index: int | None, *, is_raised: bool = False
) -> None:
    """Mark a failure, and the failures that it comes from, as handed to the user, or as raised in the body."""
    todo: list[Place] = [(node, index)]
    while todo:
        current, item = todo.pop()
        book = books.get(current)
        if book is None or (book.is_handled and (book.was_raised or not is_raised)):
            continue
        if item is None or not book.node.is_mapped or item >= len(book.states):
            book.is_handled = True
            book.was_raised |= is_raised
            todo += _broken_off(books, book) if book.is_cut_off else []
            if book.counts[Code.UPSTREAM_FAILED] or book.final == Code.UPSTREAM_FAILED:
                todo += [(root, None) for root in book.graft_roots.values()]
                todo += _causes(books, book, None)
                todo += _passed_on(books, book)
        elif item not in book.handled_items:
            book.handled_items = book.handled_items or set()
            book.handled_items.add(item)
            if book.states[item] == Code.UPSTREAM_FAILED:
                todo += _causes(books, book, item)
                if len(book.handled_items) >= book.counts[Code.UPSTREAM_FAILED]:
                    todo += _passed_on(books, book)


def _passed_on(books: Mapping[int, NodeBook], book: NodeBook) -> list[Place]:
    """Return the failures that the engine's own nodes passed on to a node as elements.

    Which element came from which failure is not known here: they count as seen once all items that they
    failed were.
    """
    found: list[Place] = []
    todo = [dep.upstream for dep in book.node.deps]
    while todo:
        upstream = books[todo.pop()]
        if not upstream.node.is_builtin:
            continue
        for dep in upstream.node.deps:
            if dep.allows_failure and _has_failed(books, dep, None):
                found.append((dep.upstream, dep.index))
            todo.append(dep.upstream)
    return found
