"""How items and nodes end: the only place that writes final states, and that informs what waits for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graphflow.core import events as ev
from graphflow.core.nodes import NodeBook, Stage, derive_code
from graphflow.core.state import (
    DependencyEnded,
    ItemsEndedUpstream,
    RootEnded,
    RunState,
    TooManyFailed,
    UpstreamGone,
    WidthKnown,
)
from graphflow.graph.graph import DepKind
from graphflow.model.states import FINAL_CODES, GOOD_CODES, Code

__all__ = [
    "announce",
    "cancel_items",
    "check_tolerance",
    "end_if_complete",
    "end_items",
    "end_whole",
    "set_items",
    "set_width",
    "let_go",
    "let_items_go",
]


_UNCOUNTED = {int(Code.PENDING)}


def announce(run: RunState, book: NodeBook, code: Code) -> None:
    """Announce a node's state."""
    run.commands.append(ev.NodeChanged(node=book.node.id, code=code, width=book.width))


def set_items(
    run: RunState, book: NodeBook, indices: Sequence[int], codes: bytes, attempts: bytes | None = None
) -> None:
    """Write the states of items, and inform what waits for those that ended. O(items).

    Stages that are not open yet are not informed: they read the node books when they open.
    """
    total = len(indices)
    if not total:
        return
    if isinstance(indices, range):
        lo, hi = indices.start, indices.stop
        before = bytes(book.states[lo:hi])
        book.states[lo:hi] = codes
        if attempts is not None:
            book.attempts[lo:hi] = attempts
    else:
        before = bytes(book.states[i] for i in indices)
        for position, i in enumerate(indices):
            book.states[i] = codes[position]
            if attempts is not None:
                book.attempts[i] = attempts[position]
    counts = book.counts
    ended: Sequence[int] = indices
    if codes.count(Code.COMPLETED) == total and before.count(Code.PENDING) == total:
        counts[Code.COMPLETED] += total
    else:
        for code in set(before) - _UNCOUNTED:
            counts[code] -= before.count(code)
        for code in set(codes) - _UNCOUNTED:
            counts[code] += codes.count(code)
        if any(code not in FINAL_CODES for code in set(codes)):
            ended = [i for position, i in enumerate(indices) if codes[position] in FINAL_CODES]
    if not len(ended):
        return
    book.ended += len(ended)
    check_tolerance(run, book)
    run.notices.extend(ItemsEndedUpstream(stage, book, ended) for stage in book.streams if stage.is_open)
    if book.watchers:
        for i in ended:
            run.notices.extend(DependencyEnded(stage) for stage in book.watchers.pop(i, ()))
    end_if_complete(run, book)


def end_items(run: RunState, book: NodeBook, indices: Sequence[int], code: Code) -> None:
    """End items that did not run."""
    if len(indices):
        run.commands.append(ev.ItemsEnded(node=book.node.id, indices=indices, code=code))
        set_items(run, book, indices, bytes([code]) * len(indices))


def cancel_items(run: RunState, book: NodeBook, indices: Sequence[int]) -> None:
    """Cancel items because the run stops; an item that ran again only for its value keeps its earlier outcome."""
    past = book.past
    if past is not None:
        ended: dict[int, list[int]] = {}
        for index in indices:
            if index < len(past.states) and past.states[index] in GOOD_CODES:
                ended.setdefault(past.states[index], []).append(index)
        for code, group in ended.items():
            end_items(run, book, group, Code(code))
        if ended:
            indices = [index for index in indices if book.states[index] not in FINAL_CODES]
    end_items(run, book, indices, Code.CANCELLED)


def end_whole(run: RunState, book: NodeBook, code: Code, width: int | None) -> None:
    """End a node before any of its items started; items get the same state if the width is known."""
    if book.is_final:
        return
    if book.width is None and width:
        set_width(run, book, width)
    if book.width:
        still_open = [i for i in range(book.width) if book.states[i] not in FINAL_CODES]
        end_items(run, book, range(book.width) if len(still_open) == book.width else still_open, code)
    else:
        _finalize(run, book, code)


def check_tolerance(run: RunState, book: NodeBook) -> None:
    """End the map if more items failed than is tolerated."""
    if not book.is_halted and not book.is_final and book.has_exceeded():
        book.is_halted = book.stage.is_halted = True
        run.notices.append(TooManyFailed(book))


def set_width(run: RunState, book: NodeBook, width: int) -> None:
    """Set the width of a mapped node."""
    book.width = width
    book.grow(width)
    check_tolerance(run, book)
    run.notices.extend(WidthKnown(stage, book) for stage in book.streams if stage.is_open)


def end_if_complete(run: RunState, book: NodeBook) -> None:
    """End a node if all its items have ended."""
    if not book.is_final and book.width is not None and book.ended >= book.width:
        _finalize(run, book, derive_code(book))


def _finalize(run: RunState, book: NodeBook, code: Code) -> None:
    book.final = code
    run.open_nodes -= 1
    announce(run, book, code)
    for dep in book.node.deps:
        upstream = run.books[dep.upstream]
        upstream.open_users -= 1
        let_go(run, upstream)
    run.notices.extend(DependencyEnded(stage) for stage in book.dependents)
    if book.watchers:
        run.notices.extend(DependencyEnded(stage) for stage in _all(book.watchers.values()))
        book.watchers = {}
    if book.width is None:
        run.notices.extend(UpstreamGone(stage) for stage in book.streams if stage.is_open)
    run.notices.extend(RootEnded(node, index, book) for node, index in book.graft_parents)


def let_go(run: RunState, book: NodeBook) -> None:
    """Release values that all their dependents have used; unused ones are kept for inspection."""
    if run.is_closed and book.users and not book.open_users and book.width and _may_go(run, book):
        run.commands.append(ev.ReleaseItems(node=book.node.id, below=book.width))


def let_items_go(run: RunState, stage: Stage) -> None:
    """Release values of used items, of maps whose items a stage takes and that nothing else needs."""
    if not run.is_closed:
        return
    for upstream in stage.upstreams:
        book = run.books[upstream]
        if book.open_users and _may_go(run, book) and all(kind is DepKind.ITEMS for _, kind, _ in book.users):
            below = min(run.books[user].ended_below() for user, _, _ in book.users)
            if below:
                run.commands.append(ev.ReleaseItems(node=upstream, below=below))


def _may_go(run: RunState, book: NodeBook) -> bool:
    return book.node.id not in run.returned and not book.graft_parents


def _all(groups: Iterable[list[Stage]]) -> Iterable[Stage]:
    return (stage for group in groups for stage in group)
