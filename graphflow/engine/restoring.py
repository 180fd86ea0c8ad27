"""What an earlier life of a run ended is taken over: item by item, as the items become ready.

An item is *the same* if it ended before and all that it depends on is the same; then its outcome is taken over, and it
runs again only where its value is gone and something needs it. What depends on an item that is not the same runs anew.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphflow.engine.books import NodeBook, Past, Stage, codes_at, packed
from graphflow.engine.outcomes import set_items
from graphflow.engine.state import RunState
from graphflow.graph import DepKind
from graphflow.states import FINAL_TABLE

__all__ = ["Restorer"]


class Restorer:
    """Takes over what the pasts of nodes tell.

    Parameters
    ----------
    run
        The run's state.
    """

    def __init__(self, run: RunState) -> None:
        self._run = run

    def open(self, stage: Stage) -> None:
        """A stage opens: what its nodes need as a whole has ended; where that is not the same, their past is void."""
        books = self._run.books
        for member in stage.members:
            book = books[member]
            if book.past is not None and not all(
                _is_same(books[dep.upstream], dep.index if dep.kind is DepKind.PICK else None)
                for dep in book.node.deps
                if dep.kind not in (DepKind.ITEMS, DepKind.ORDER)
            ):
                book.past = None

    def has_past(self, stage: Stage) -> bool:
        """Whether anything of a stage may be taken over."""
        return any(self._run.books[member].past is not None for member in stage.members)

    def take(self, stage: Stage, indices: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
        """Take over what ended of these indices, which are ready now. O(members x items), at the speed of bytes.

        Gives the indices of which nothing is known, and those of which something is left to do.
        """
        books = [self._run.books[member] for member in stage.members]
        size = len(indices)
        limit = indices.stop if isinstance(indices, range) else max(indices) + 1
        same = self._same(books, indices, limit)
        restored = self._restored(books, indices, same)
        begun = 0
        for book in books:
            past = book.past
            if past is None:
                continue
            mask = restored[book.node.id]
            begun |= mask | self._keep_attempts(book, past, indices, mask, stage)
            _set(self._run, book, past, indices, mask)
        done = _all(size)
        for mask in restored.values():
            done &= mask
        return _picked(indices, _all(size) & ~(begun | done)), _picked(indices, begun & ~done)

    def _same(self, books: Sequence[NodeBook], indices: Sequence[int], limit: int) -> dict[int, int]:
        """Per member, a mask of one byte per index: 1 where the item is the same as before."""
        same: dict[int, int] = {}
        for book in books:
            past = book.past
            if past is None:
                same[book.node.id] = 0
                continue
            past.grow(limit)
            mask = _mask(codes_at(past.states, indices).translate(FINAL_TABLE))
            for dep in book.node.deps:
                if dep.kind is not DepKind.ITEMS:
                    continue
                upstream = self._run.books[dep.upstream].past
                if dep.upstream in same:
                    mask &= same[dep.upstream]
                elif upstream is None:
                    mask = 0
                else:
                    mask &= _mask(codes_at(upstream.same, indices))
            same[book.node.id] = mask
            _write(past.same, indices, mask)
        return same

    @staticmethod
    def _restored(books: Sequence[NodeBook], indices: Sequence[int], same: dict[int, int]) -> dict[int, int]:
        """Per member, where it need not run: a value that is gone is made again if it is needed in the lane, or nobody knows."""
        restored: dict[int, int] = {}
        for book in reversed(books):
            mask = same[book.node.id]
            if book.past is not None and mask:
                valued = _mask(codes_at(book.past.valued, indices))
                takers = [
                    restored[other.node.id]
                    for other in books
                    if any(
                        dep.kind is DepKind.ITEMS and dep.upstream == book.node.id for dep in other.node.deps
                    )
                ]
                spared = _all(len(indices)) if takers else 0
                for each in takers:
                    spared &= each
                mask &= valued | spared
            restored[book.node.id] = mask
        return restored

    @staticmethod
    def _keep_attempts(
        book: NodeBook, past: Past, indices: Sequence[int], restored: int, stage: Stage
    ) -> int:
        """Items that run on keep the attempts they have used; gives where that is so."""
        tries = codes_at(past.attempts, indices)
        # What is made again only for its value has all its attempts.
        ended = _mask(codes_at(past.states, indices).translate(FINAL_TABLE))
        mask = _mask(tries.translate(_ANY)) & ~ended
        for position, index in _places(indices, mask):
            book.attempts[index] = tries[position]
        suspects = past.suspects.intersection(indices) if past.suspects else ()
        stage.suspects.update(suspects)
        for index in suspects:
            place = index - indices[0] if isinstance(indices, range) else list(indices).index(index)
            mask |= 1 << (8 * place)
        return mask & ~restored


def _is_same(book: NodeBook, index: int | None) -> bool:
    """Whether all items of a node (or one of them) were taken over from before, or made again just like that."""
    past = book.past
    if past is None or book.failed_whole:
        return False
    if index is not None:
        return index < len(past.same) and past.same[index] == 1
    width = book.width
    return width is not None and past.width == width and past.same.count(1, 0, width) == width


_ANY = bytes(code > 0 for code in range(256))


def _mask(flags: bytes) -> int:
    return int.from_bytes(flags, "little")


def _all(size: int) -> int:
    return int.from_bytes(b"\1" * size, "little")


def _picked(indices: Sequence[int], mask: int) -> Sequence[int]:
    if not mask:
        return ()
    if mask == _all(len(indices)):
        return indices
    return packed([index for _, index in _places(indices, mask)])


def _places(indices: Sequence[int], mask: int) -> list[tuple[int, int]]:
    """(position, index) where a mask is 1."""
    if not mask:
        return []
    flags = mask.to_bytes(len(indices), "little")
    found: list[tuple[int, int]] = []
    at = flags.find(1)
    while at >= 0:
        found.append((at, indices[at]))
        at = flags.find(1, at + 1)
    return found


def _write(column: bytearray, indices: Sequence[int], mask: int) -> None:
    flags = mask.to_bytes(len(indices), "little")
    if isinstance(indices, range):
        column[indices.start : indices.stop] = flags
        return
    for position, index in enumerate(indices):
        column[index] = flags[position]


def _set(run: RunState, book: NodeBook, past: Past, indices: Sequence[int], mask: int) -> None:
    """Book outcomes as they were; one after the other in ranges, where they are many."""
    if not mask:
        return
    if past.info is not None:
        book.info = past.info
    chosen = _picked(indices, mask)
    set_items(run, book, chosen, codes_at(past.states, chosen), codes_at(past.attempts, chosen))
