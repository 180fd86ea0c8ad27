"""Where a failure comes from, and whether it was handed to something that the user wrote."""

from __future__ import annotations

from collections.abc import Mapping

from graphflow.engine.books import NodeBook, first_failed
from graphflow.graph import DepKind
from graphflow.policies import all_successful
from graphflow.states import FAILED_CODES, Code

__all__ = ["hand_over", "hand_over_inputs", "hand_over_lane", "root_of"]

_BAD = FAILED_CODES | {Code.CANCELLED}
Place = tuple[int, int | None]
"""A node, and one of its items or None for the node as a whole."""


# -- causes -----------------------------------------------------------------------------------------------


def root_of(books: Mapping[int, NodeBook], node_id: int, index: int | None = None) -> tuple[int, int | None, list[int]]:
    """The failure at the bottom of an `UpstreamFailed`: (node, index or None, the path down to it)."""
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
    """What an `UpstreamFailed` comes from, one step down; None for anything else."""
    book = books[node_id]
    if index is None and book.states:
        index = book.states.find(Code.UPSTREAM_FAILED)
    if index is None or not 0 <= index < len(book.states):
        if book.final != Code.UPSTREAM_FAILED:
            return None
        index = None
    elif book.states[index] != Code.UPSTREAM_FAILED:
        return None
    elif index in book.graft_roots:
        return book.graft_roots[index], None
    for dep in book.node.deps:
        upstream = books[dep.upstream]
        item = index if dep.kind is DepKind.ITEMS else dep.index if dep.kind is DepKind.PICK else None
        if item is not None and item < len(upstream.states):
            if upstream.states[item] in _BAD:
                return dep.upstream, item
        elif upstream.final in _BAD or upstream.failed_whole:
            if upstream.failed_whole or not upstream.states:
                return dep.upstream, None
            return dep.upstream, first_failed(upstream)
    return None


# -- failures that were handed to somebody ------------------------------------------------------------------


def hand_over_inputs(books: Mapping[int, NodeBook], book: NodeBook) -> None:
    """A node begins to run although something failed that it takes as a whole: the user asked to see it."""
    own_trigger = book.node.trigger is not all_successful
    for dep in book.node.deps:
        if dep.kind is not DepKind.ITEMS and (own_trigger or dep.allows_failure):
            upstream = books[dep.upstream]
            if upstream.failed_whole or upstream.final in FAILED_CODES or upstream.failed_count():
                hand_over(books, dep.upstream, dep.index)


def hand_over_lane(books: Mapping[int, NodeBook], book: NodeBook, index: int) -> None:
    """One item begins to run although the upstream item failed."""
    own_trigger = book.node.trigger is not all_successful
    for dep in book.node.deps:
        if dep.kind is DepKind.ITEMS and (own_trigger or dep.allows_failure):
            upstream = books[dep.upstream]
            if index < len(upstream.states) and upstream.states[index] in FAILED_CODES:
                hand_over(books, dep.upstream, index)


def hand_over(books: Mapping[int, NodeBook], node: int, index: int | None) -> None:
    """Mark a failure, and the failures that it comes from, as handed to the user."""
    todo: list[Place] = [(node, index)]
    while todo:
        current, item = todo.pop()
        book = books.get(current)
        if book is None or book.is_handled:
            continue
        if item is None or not book.node.is_mapped or item >= len(book.states):
            book.is_handled = True
            if book.counts[Code.UPSTREAM_FAILED] or book.final == Code.UPSTREAM_FAILED:
                todo += [(root, None) for root in book.graft_roots.values()]
                todo += _inputs(books, book, None)
        elif item not in book.handled_items:
            book.handled_items.add(item)
            if book.states[item] == Code.UPSTREAM_FAILED:
                if item in book.graft_roots:
                    todo.append((book.graft_roots[item], None))
                todo += _inputs(books, book, item)


def _inputs(books: Mapping[int, NodeBook], book: NodeBook, index: int | None) -> list[Place]:
    """The failures that an upstream failure of a node, or of one item of it, comes from."""
    places: list[Place] = []
    for dep in book.node.deps:
        upstream = books[dep.upstream]
        if dep.kind is DepKind.ITEMS:
            places.append((dep.upstream, index))
        elif upstream.final in FAILED_CODES or upstream.failed_whole or upstream.failed_count():
            places.append((dep.upstream, dep.index))
    return places
