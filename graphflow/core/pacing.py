"""A rate over all workers, as starting slots that no two batches share.

The slots of a rate are dealt out over lanes, one lane per batch that runs beside others: lane k of n gets every
n-th slot. A batch reserves the next slots of one lane, and its items begin at them or later. So the rate holds
whatever workers do, and slow items use as many lanes as they need.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Pacer", "Reservation", "StartingSlots"]

WINDOW_SECONDS = 0.25
"""A batch reserves slots for about this long."""
LATE_SECONDS = 0.1
GRACE_SECONDS = 0.025
"""A slot can be taken for half the time to the next one, within these bounds."""
EARLY_SECONDS = 0.01
"""Where slots are further apart than a window, a batch is sent this long before its only one."""


@dataclass(frozen=True, slots=True)
class StartingSlots:
    """The slots of a reservation, by the clock of the run: the first one, and the first after them."""

    first: float
    end: float


@dataclass(frozen=True, slots=True)
class Reservation:
    """Slots of one lane: `count` of them, `interval` seconds apart, the first in `delay` seconds.

    The delay is below 0 where the first slot is open already.
    """

    count: int
    delay: float
    interval: float
    slots: StartingSlots


class Pacer:
    """Deals out the starting slots of a rate.

    Parameters
    ----------
    rate
        Slots per second.
    lanes
        How many batches may run side by side.
    now
        The first slot opens then.
    """

    def __init__(self, *, rate: float, lanes: int, now: float) -> None:
        self.rate = rate
        self._next = [now + lane / rate for lane in range(lanes)]

    @property
    def lanes(self) -> int:
        """How many lanes the slots are dealt out over."""
        return len(self._next)

    @property
    def interval(self) -> float:
        """Seconds between two slots of a lane."""
        return len(self._next) / self.rate

    def due(self) -> float:
        """Return when the next batch may be sent."""
        ahead = WINDOW_SECONDS if self.interval <= WINDOW_SECONDS else EARLY_SECONDS
        return min(self._next) - ahead

    def reserve(self, *, now: float, count: int) -> Reservation:
        """Take up to `count` slots, of the lane whose next slot is first. Slots that are long past are lost."""
        lane = min(range(len(self._next)), key=self._next.__getitem__)
        interval, first = self.interval, self._next[lane]
        if first < now - min(LATE_SECONDS, max(interval / 2, GRACE_SECONDS)):
            first += math.ceil((now - first) / interval - 1e-9) * interval
        count = max(1, min(count, int(WINDOW_SECONDS / interval)))
        self._next[lane] = first + count * interval
        return Reservation(count, first - now, interval, StartingSlots(first, self._next[lane]))

    def give_back(self, slots: StartingSlots) -> None:
        """Return unused slots: they can be reserved again, unless later ones of their lane were."""
        for lane, following in enumerate(self._next):
            if following == slots.end:
                self._next[lane] = slots.first
                return

    def changed(self, *, rate: float, lanes: int, now: float) -> Pacer:
        """Return another rate or number of lanes, from the end of what is reserved on."""
        if (rate, lanes) == (self.rate, self.lanes):
            return self
        last_reserved = max(self._next) - self.interval
        return Pacer(rate=rate, lanes=lanes, now=max(now, last_reserved + 1 / min(rate, self.rate)))
