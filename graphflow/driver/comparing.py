"""Whether a map's inputs are the same as in the run's earlier launches; iterators are read again in each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from graphflow.graph.graph import Node
from graphflow.graph.mapping import slice_of
from graphflow.identity.hashing import source_digests

__all__ = ["Arrivals", "differing"]

ITEM_NBYTES = 8


class Arrivals:
    """What the iterators of one map have given of items that are not complete yet.

    Parameters
    ----------
    node
        The map.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._waiting: dict[int, list[Any]] = {
            source.slot: [] for source in node.sources if source.length is None
        }
        self.compared = 0
        """Items below this one were handed out."""

    @property
    def are_iterators_alone(self) -> bool:
        """Whether nothing else than iterators is mapped over."""
        return len(self._waiting) == len(self._node.sources)

    def take(self, slot: int, values: Sequence[Any]) -> tuple[int, bytes]:
        """Take more items of an iterator; return the first item that they complete, and the digests from there on."""
        waiting = self._waiting
        waiting[slot] += values
        first = self.compared
        lengths = [source.length for source in self._node.sources if source.length is not None]
        count = min([*map(len, waiting.values()), *(max(0, length - first) for length in lengths)])
        columns = [
            waiting[source.slot][:count]
            if source.length is None
            else slice_of(source.values, first, first + count)
            for source in self._node.sources
        ]
        for each in waiting.values():
            del each[:count]
        self.compared += count
        return first, source_digests(columns) if count else b""


def differing(before: bytes, now: bytes) -> Iterable[int]:
    """Return the places where two digests that can both be told are not the same."""
    if before == now or not before.strip(b"\0"):
        return ()
    untold = bytes(ITEM_NBYTES)
    return [
        at // ITEM_NBYTES
        for at in range(0, min(len(before), len(now)), ITEM_NBYTES)
        if before[at : at + ITEM_NBYTES] != now[at : at + ITEM_NBYTES]
        and untold not in (before[at : at + ITEM_NBYTES], now[at : at + ITEM_NBYTES])
    ]
