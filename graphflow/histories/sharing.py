"""How the slots of a limit are shared among those that want some: max-min, in the units that each can use.

Pure. Nobody gets more than it wants; slots that some do not want go to the others; what does not divide goes round with time.
The rule: Bertsekas and Gallager, Data Networks, 6.5.2 (max-min fairness).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["TURN_SECONDS", "Share", "shares"]

TURN_SECONDS = 10.0
"""After so long the slots that are left over go to others."""


@dataclass(frozen=True, slots=True)
class Share:
    """What a holder wants: `slots`, by `unit` at once."""

    slots: int
    unit: int = 1


def shares(size: int, wanted: Sequence[Share], *, turn: int = 0) -> list[int]:
    """Return what each of `wanted` gets, in the same order; together never more than `size`.

    Each gets a multiple of its unit, as long as it wants one more and it fits: those that have least first.

    Parameters
    ----------
    size
        The slots that there are.
    turn
        Who is first where there is not enough for all: (its place + turn) modulo their number.
    """
    count = len(wanted)
    level = _level(size, [each.slots for each in wanted])
    got = [min(each.slots, level) // each.unit * each.unit for each in wanted]
    left = size - sum(got)
    heap = [(got[place], (place + turn) % count, place) for place in range(count)]
    heapq.heapify(heap)
    while heap and left > 0:
        _, order, place = heapq.heappop(heap)
        unit = wanted[place].unit
        if got[place] + unit <= wanted[place].slots and unit <= left:
            got[place] += unit
            left -= unit
            heapq.heappush(heap, (got[place], order, place))
    return got


def _level(size: int, wants: Sequence[int]) -> int:
    """Return the whole number of slots that all who want as many can have."""
    left, level = size, 0
    ordered = sorted(wants)
    for place, want in enumerate(ordered):
        each = left // (len(ordered) - place)
        if want > each:
            return each
        left -= want
        level = want
    return level
