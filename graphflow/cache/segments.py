"""Keys of many packs, sorted, for one vectorised search; grown like the levels of a log-structured tree.

Loads numpy, so nothing imports this before a cache is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphflow.cache.entries import EntryPack, halves

__all__ = ["NOWHERE", "Matches", "Segment", "merged", "search", "segment_of", "with_segment"]

Array = NDArray[Any]
NOWHERE = np.int64(-1)
MAX_SEGMENTS = 8


@dataclass(slots=True)
class Segment:
    """Entries sorted by key, no key twice: who has it, where in it, from when, until when. `rank` breaks ties of time."""

    high: Array
    low: Array
    pack: Array
    place: Array
    created: Array
    expires: Array
    rank: Array

    def __len__(self) -> int:
        return len(self.high)

    def take(self, chosen: Array) -> Segment:
        """Return those entries."""
        return Segment(
            self.high[chosen],
            self.low[chosen],
            self.pack[chosen],
            self.place[chosen],
            self.created[chosen],
            self.expires[chosen],
            self.rank[chosen],
        )


@dataclass(slots=True)
class Matches:
    """Per position: the number of a pack (`NOWHERE` where there is none), and the place in it."""

    pack: Array
    place: Array
    created: Array
    expires: Array


def segment_of(pack: EntryPack, number: int) -> Segment:
    """Return a pack's entries."""
    high, low = halves(pack.keys)
    count = len(high)
    return _newest(
        Segment(
            high,
            low,
            np.full(count, number, np.int32),
            pack.places,
            pack.created[pack.places],
            pack.expires[pack.places],
            np.full(count, pack.generation, np.int32),
        )
    )


def merged(segments: Sequence[Segment]) -> Segment:
    """Return all entries of segments; of equal keys the newest."""
    if len(segments) == 1:
        return segments[0]
    joined = Segment(
        *(
            np.concatenate([getattr(each, name) for each in segments])
            for name in ("high", "low", "pack", "place", "created", "expires", "rank")
        )
    )
    return _newest(joined.take(np.argsort(joined.high, kind="stable")))


def _newest(entries: Segment) -> Segment:
    """Return entries, sorted by the upper half of their keys, fully sorted, with the newest of equal keys."""
    same = entries.high[1:] == entries.high[:-1]
    if not same.any():
        return entries
    order = np.lexsort((entries.pack, entries.rank, entries.created, entries.low, entries.high))
    entries = entries.take(order)
    is_last = np.ones(len(entries), bool)
    is_last[:-1] = (entries.high[1:] != entries.high[:-1]) | (entries.low[1:] != entries.low[:-1])
    return entries.take(is_last)


def with_segment(segments: Sequence[Segment], added: Segment) -> list[Segment]:
    """Segments, and one more. There are few of them, and each entry is merged only now and then."""
    grown = [*segments, added]
    if len(grown) <= MAX_SEGMENTS:
        return grown
    start = len(grown) - 2
    total = len(added) + len(grown[start])
    while start and len(grown[start - 1]) < 2 * total:
        start -= 1
        total += len(grown[start])
    return [*grown[:start], merged(grown[start:])]


def search(segments: Sequence[Segment], keys: bytes) -> Matches:
    """Return where keys are, one per position; keys of zeros are nowhere."""
    high, low = halves(np.frombuffer(keys, np.uint8))
    count = len(high)
    found = Matches(
        np.full(count, NOWHERE),
        np.zeros(count, np.int64),
        np.full(count, -np.inf),
        np.full(count, np.inf),
    )
    rank = np.full(count, -1, np.int64)
    # Sorted questions meet the same part of the memory again and again: several times as quick where there are many.
    order = np.argsort(high) if count > 64 else None
    if order is not None:
        high, low = high[order], low[order]
    for each in segments:
        if not len(each):
            continue
        at = np.searchsorted(each.high, high)
        at[at == len(each)] = 0
        is_hit = (each.high[at] == high) & (each.low[at] == low)
        # Other keys with the same upper half: next to never, but it must be right.
        left = np.flatnonzero((each.high[at] == high) & ~is_hit)
        while len(left):
            at[left] += 1
            left = left[at[left] < len(each)]
            left = left[each.high[at[left]] == high[left]]
            is_hit[left] = each.low[at[left]] == low[left]
            left = left[~is_hit[left]]
        at[~is_hit] = 0
        positions = np.flatnonzero(is_hit)
        at = at[positions]
        if order is not None:
            positions = order[positions]
        created, ranks = each.created[at], each.rank[at]
        is_newer = (created > found.created[positions]) | (
            (created == found.created[positions]) & (ranks > rank[positions])
        )
        if not is_newer.all():
            positions, at, created, ranks = (
                positions[is_newer],
                at[is_newer],
                created[is_newer],
                ranks[is_newer],
            )
        found.pack[positions] = each.pack[at]
        found.place[positions] = each.place[at]
        found.created[positions] = created
        found.expires[positions] = each.expires[at]
        rank[positions] = ranks
    is_none = np.flatnonzero(np.frombuffer(keys, np.uint64).reshape(-1, 2).max(axis=1) == 0) if count else ()
    if len(is_none):
        found.pack[is_none] = NOWHERE
    return found
