"""What an earlier launch of a run ended is taken over: item by item, as the items become ready.

Which outcomes may be taken over is known beforehand (`graphflow.driver.recovery`): here it is decided what must run all the
same, because its value is gone and something may need it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from graphflow.core.causes import hand_over_inputs, hand_over_lane
from graphflow.core.nodes import NodeBook, Past, Stage, codes_at, packed
from graphflow.core.outcomes import end_if_complete, set_items, set_width
from graphflow.core.state import RunState
from graphflow.graph.graph import DepKind
from graphflow.model.policies import all_successful
from graphflow.model.states import FINAL_TABLE

__all__ = ["Restorer"]

MANY_RUNS = 64
"""Where items that are taken over stand in more stretches than this, and in short ones, they are taken in one go."""
_ANY = bytes(code > 0 for code in range(256))
_THERE = bytes(code == Past.THERE for code in range(256))
_NEVER_KEPT = bytes(code == Past.NEVER_KEPT for code in range(256))


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
        """Open a stage: where the whole inputs of its nodes have changed, earlier outcomes do not count."""
        books = self._run.books
        for member in stage.members:
            book = books[member]
            if book.past is not None and any(
                _ended_otherwise(books[dep.upstream], dep.index if dep.kind is DepKind.PICK else None)
                for dep in book.node.deps
                if not (dep.kind.is_lane or dep.kind.is_order)
            ):
                book.past.void()

    def has_past(self, stage: Stage) -> bool:
        """Return whether anything of a stage may be taken over."""
        return any(self._run.books[member].past is not None for member in stage.members)

    def take(self, stage: Stage, indices: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
        """Apply the earlier outcomes of these indices, which are ready now. O(members x items), at the speed of bytes.

        Gives the indices of which nothing is known, and those of which something is left to do.
        """
        books = [self._run.books[member] for member in stage.members]
        size = len(indices)
        restored: dict[int, int] = {}
        begun, done = 0, _all(size)
        for book in books:
            mask = self._restored(book, indices, restored)
            done &= mask
            past = book.past
            if past is not None:
                begun |= mask | self._keep_attempts(book, past, indices, mask, stage)
        for book in books:
            if book.past is not None:
                known = _mask(codes_at(book.states, indices).translate(FINAL_TABLE))
                for chosen in _stretches(indices, restored[book.node.id] & ~known):
                    self._set(book, book.past, chosen)
        return _picked(indices, _all(size) & ~(begun | done)), _picked(indices, begun & ~done)

    def keep(
        self,
        book: NodeBook,
        under_way: Collection[int] = (),
        *,
        below: int | None = None,
        is_over: bool = False,
    ) -> None:
        """Keep earlier outcomes of a map that ends early, also of items that were not ready yet. O(items).

        Parameters
        ----------
        under_way
            Items that are under way again.
        below
            Where to end; None for all of it.
        is_over
            Whether nothing more runs, so that no lost value will be needed.
        """
        past = book.past
        if past is None or book.is_final:
            return
        past.grow(len(past.states))
        last = past.states.translate(FINAL_TABLE).rfind(1) + 1
        size = min(each for each in (last, book.width, below) if each is not None)
        book.grow(size)
        codes = past.states[:size].translate(FINAL_TABLE)
        if not is_over:
            codes = bytearray(self._restored(book, range(size), {}).to_bytes(size, "little"))
        before = book.states[:size].translate(FINAL_TABLE)
        kept = [
            index
            for index in range(size)
            if codes[index] > before[index] and not book.attempts[index] and index not in under_way
        ]
        self._set(book, past, packed(kept))

    def stop(self, book: NodeBook, under_way: Collection[int] = ()) -> None:
        """Keep earlier outcomes as the run stops, except of items that are running again."""
        if book.past is None or book.is_final:
            return
        self.keep(book, under_way, is_over=True)
        known, width = len(book.states), book.past.width
        if book.width is None and width is not None and width >= known:
            set_width(self._run, book, width)
        elif book.width is None and known:
            book.is_cut_short = True
            set_width(self._run, book, known)
        end_if_complete(self._run, book)

    # -- which items need not run -------------------------------------------------------------------------

    def _restored(self, book: NodeBook, indices: Sequence[int], known: dict[int, int]) -> int:
        """Return a mask of one byte per index: 1 where the outcome is taken over.

        Where no value was ever kept, because nothing outside its lane needed it, that holds as long as all that takes the
        value is taken over as well. A value that was lost is made again.
        """
        node = book.node.id
        if node not in known:
            past = book.past
            known[node] = 0
            if past is not None:
                past.grow(indices.stop if isinstance(indices, range) else max(indices, default=-1) + 1)
                ended = _mask(codes_at(past.states, indices).translate(FINAL_TABLE))
                valued = codes_at(past.valued, indices)
                for dep in book.node.deps:
                    upstream = self._run.books[dep.upstream]
                    if (
                        dep.kind is DepKind.ITEMS
                        and upstream.past is not None
                        and upstream.stage is not book.stage
                    ):
                        ended &= ~_changed(upstream, upstream.past, indices)
                spared = ended & _mask(valued.translate(_NEVER_KEPT))
                if spared:
                    spared &= self._unneeded(book, indices, known)
                known[node] = (ended & _mask(valued.translate(_THERE))) | spared
        return known[node]

    def _unneeded(self, book: NodeBook, indices: Sequence[int], known: dict[int, int]) -> int:
        """Return where all that takes the values of a node, as far as it was recorded, is taken over."""
        users = [user for user in book.users if not user[1].is_order]
        mask = _all(len(indices)) if users else 0
        for user, kind, index in users:
            if kind is DepKind.ITEMS:
                mask &= self._restored(self._run.books[user], indices, known)
            elif not self._is_restored(self._run.books[user]):
                if kind is not DepKind.PICK:
                    return 0
                mask &= ~sum(1 << (8 * place) for place, each in enumerate(indices) if each == index)
        return mask

    def _is_restored(self, book: NodeBook) -> bool:
        """Return whether all of a node is taken over."""
        past = book.past
        width = None if past is None else past.width if book.width is None else book.width
        return width is not None and self._restored(book, range(width), {}) == _all(width)

    # -- taking over --------------------------------------------------------------------------------------

    def _set(self, book: NodeBook, past: Past, chosen: Sequence[int]) -> None:
        """Book outcomes as they were."""
        if not len(chosen):
            return
        run = self._run
        if past.info is not None:
            book.info = past.info
        attempts = codes_at(past.attempts, chosen)
        if any(attempts):
            self._hand_over(book, chosen, attempts)
        if isinstance(chosen, range):
            past.taken[chosen.start : chosen.stop] = b"\1" * len(chosen)
        else:
            for index in chosen:
                past.taken[index] = 1
        set_items(run, book, chosen, codes_at(past.states, chosen), attempts)

    def _hand_over(self, book: NodeBook, chosen: Sequence[int], attempts: bytes) -> None:
        """Failures that were handed to these items, when they ran, count as seen."""
        books = self._run.books
        hand_over_inputs(books, book)
        if any(
            dep.kind is DepKind.ITEMS and (dep.allows_failure or book.node.trigger is not all_successful)
            for dep in book.node.deps
        ):
            for index, tries in zip(chosen, attempts, strict=True):
                if tries:
                    hand_over_lane(books, book, index)

    @staticmethod
    def _keep_attempts(
        book: NodeBook, past: Past, indices: Sequence[int], restored: int, stage: Stage
    ) -> int:
        """Keep the used attempts of items that continue; return where there are such.

        What is made again only for its value has all its attempts.
        """
        tries = codes_at(past.attempts, indices)
        ended = _mask(codes_at(past.states, indices).translate(FINAL_TABLE))
        mask = _mask(tries.translate(_ANY)) & ~ended
        for position, index in _places(indices, mask):
            book.attempts[index] = tries[position]
        return (mask | _suspect(book, past, indices, stage)) & ~restored


def _suspect(book: NodeBook, past: Past, indices: Sequence[int], stage: Stage) -> int:
    """Split items that may have killed a driver into small parts, single ones alone; return where there are such."""
    if not past.suspects:
        return 0
    places = {index: position for position, index in enumerate(indices)}
    flags = bytearray(len(indices))
    stage.suspects, stage.parts = {*stage.suspects}, {**stage.parts}
    for number, part in enumerate(past.suspects):
        for index in part:
            if index in places:
                flags[places[index]] = 1
                if len(part) == 1:
                    stage.suspects.add(index)
                else:
                    stage.parts[index] = book.node.id, number
    return _mask(bytes(flags))


def _ended_otherwise(book: NodeBook, index: int | None) -> bool:
    """Return whether a node (or one item of it) is not what it was before: another width, or other outcomes."""
    past = book.past
    if past is None:
        return False
    if index is not None:
        return index < len(past.states) and bool(_changed(book, past, range(index, index + 1)))
    width = past.width
    if width is None:
        return False
    return book.broke_off or book.width != width or bool(_changed(book, past, range(width)))


def _changed(book: NodeBook, past: Past, indices: Sequence[int]) -> int:
    """Return a mask: 1 where an item had ended before, and has ended otherwise now, or is there no more."""
    limit = indices.stop if isinstance(indices, range) else max(indices, default=-1) + 1
    past.grow(limit)
    before = codes_at(past.states, indices)
    if limit > len(book.states):
        return _mask(before.translate(FINAL_TABLE))
    now = codes_at(book.states, indices)
    if before == now:
        return 0
    ended = (
        was != code and FINAL_TABLE[was] and FINAL_TABLE[code] for was, code in zip(before, now, strict=True)
    )
    return _mask(bytes(ended))


def _mask(flags: bytes) -> int:
    return int.from_bytes(flags, "little")


def _all(size: int) -> int:
    return int.from_bytes(b"\1" * size, "little")


def _runs(indices: Sequence[int], mask: int) -> Iterator[tuple[int, Sequence[int]]]:
    """Yield the stretches where a mask is 1: the first position, and the indices. O(stretches), beside the searches."""
    if not mask:
        return
    flags = mask.to_bytes(len(indices), "little")
    start = flags.find(1)
    while start >= 0:
        stop = flags.find(0, start)
        stop = len(flags) if stop < 0 else stop
        yield start, indices[start:stop]
        start = flags.find(1, stop)


def _stretches(indices: Sequence[int], mask: int) -> list[Sequence[int]]:
    """Return the indices where a mask is 1, as ranges where these are few."""
    found = [run for _, run in _runs(indices, mask)]
    return [_picked(indices, mask)] if len(found) > MANY_RUNS and 8 * len(found) > len(indices) else found


def _picked(indices: Sequence[int], mask: int) -> Sequence[int]:
    if not mask:
        return ()
    if mask == _all(len(indices)):
        return indices
    picked: list[int] = []
    for _, run in _runs(indices, mask):
        picked += run
    return packed(picked)


def _places(indices: Sequence[int], mask: int) -> Iterator[tuple[int, int]]:
    """Yield (position, index) where a mask is 1."""
    for start, run in _runs(indices, mask):
        yield from enumerate(run, start)
