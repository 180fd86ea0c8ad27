"""A rate over all workers, as starting slots that no two batches share.

The slots of a rate are dealt out over lanes, one lane per batch that runs beside others: lane k of n gets every
n-th slot. A batch reserves the next slots of one lane, and its items begin at them or later. So the rate holds
whatever workers do, and slow items use as many lanes as they need.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["DealtPacer", "Pacer", "Reservation", "StartingSlots", "combined"]

WINDOW_SECONDS = 0.25
"""A batch reserves slots for about this long."""
LATE_SECONDS = 0.1
GRACE_SECONDS = 0.025
"""A slot can be taken for half the time to the next one, within these bounds."""
EARLY_SECONDS = 0.01
"""Where slots are further apart than a window, a batch is sent this long before its only one."""
CHUNK_SECONDS = 0.5
"""Slots that are dealt from outside come for about this long at once."""


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

    def offers(self, now: float) -> int:
        """Return how many slots can be reserved at once."""
        return max(1, int(WINDOW_SECONDS / self.interval))

    def reserve(self, *, now: float, count: int) -> Reservation:
        """Take up to `count` slots, of the lane whose next slot is first. Slots that are long past are lost."""
        lane = min(range(len(self._next)), key=self._next.__getitem__)
        interval, first = self.interval, self._next[lane]
        first += _lost(first, interval, now) * interval
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


class DealtPacer:
    """Deals out the starting slots of a rate that is shared with other runs: they come in chunks from outside.

    Parameters
    ----------
    rate
        Slots per second, of all runs together.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.lanes = 1
        """How many batches a chunk is dealt out over."""
        self.is_asked = False
        """Whether slots were asked for that have not come."""
        self._lots: list[_Lot] = []
        """Slots that nobody has reserved, the first ones first."""
        self._until = 0.0

    def wanted(self, now: float) -> int:
        """Return how many slots are to be asked for; 0 while there are enough, or some were asked for."""
        self._drop(now)
        if self.is_asked or (self._lots and self._until > now + CHUNK_SECONDS / 2):
            return 0
        return max(1, int(self.rate * CHUNK_SECONDS))

    def deal(self, *, first: float, count: int, now: float) -> None:
        """Take slots that came, one each `1 / rate` seconds from `first` on; those that are past are open at once."""
        self.is_asked = False
        interval = 1 / self.rate
        past = min(count, max(0, math.ceil((now - first) / interval - 1e-9)))
        self._add(now, 0.0, past)
        if count > past:
            self._add(first + past * interval, interval, count - past)
        self._lots.sort(key=lambda lot: lot.first)
        self._until = max(self._until, first + count * interval, now)

    def _add(self, first: float, interval: float, count: int) -> None:
        lanes = max(1, min(self.lanes, count))
        for lane in range(lanes):
            slots = len(range(lane, count, lanes))
            if slots:
                self._lots.append(_Lot(first + lane * interval, lanes * interval, slots))

    def due(self, now: float) -> float | None:
        """Return when the next batch may be sent; None before slots come."""
        self._drop(now)
        if not self._lots:
            return None
        lot = self._lots[0]
        return lot.first - (WINDOW_SECONDS if lot.interval <= WINDOW_SECONDS else EARLY_SECONDS)

    def offers(self, now: float) -> int:
        """Return how many slots can be reserved at once."""
        self._drop(now)
        return self._lots[0].count if self._lots else 0

    def reserve(self, *, now: float, count: int) -> Reservation:
        """Take up to `count` slots, of the lot whose first slot is first; there must be one (`due`)."""
        lot = self._lots.pop(0)
        count = max(1, min(count, lot.count))
        end = lot.first + count * lot.interval
        if lot.count > count:
            self._lots.append(_Lot(end, lot.interval, lot.count - count))
            self._lots.sort(key=lambda lot: lot.first)
        return Reservation(count, lot.first - now, lot.interval, StartingSlots(lot.first, end))

    def give_back(self, given: Reservation, now: float) -> None:
        """Return slots of which none was used."""
        self._lots.append(_Lot(given.slots.first, given.interval, given.count))
        self._lots.sort(key=lambda lot: lot.first)
        self._drop(now)

    def _drop(self, now: float) -> None:
        """Forget slots that are long past."""
        if all(not _lost(lot.first, lot.interval, now) for lot in self._lots):
            return
        left = []
        for lot in self._lots:
            lost = _lost(lot.first, lot.interval, now)
            if lost < lot.count:
                left.append(_Lot(lot.first + lost * lot.interval, lot.interval, lot.count - lost))
        self._lots = sorted(left, key=lambda lot: lot.first)


@dataclass(frozen=True, slots=True)
class _Lot:
    """Slots of one lane that nobody has reserved."""

    first: float
    interval: float
    count: int


def _lost(first: float, interval: float, now: float) -> int:
    """Return how many slots of a lane, from its first one on, are long past; of slots at one moment, all or none."""
    if first >= now - min(LATE_SECONDS, max(interval / 2, GRACE_SECONDS)):
        return 0
    return 1 << 62 if interval <= 0 else math.ceil((now - first) / interval - 1e-9)


def combined(reserved: Sequence[Reservation]) -> Reservation:
    """Return slots that hold to several rates, of each of which as many were reserved: the k-th is no earlier than that of any."""
    first = max(reserved, key=lambda each: each.delay)
    return Reservation(first.count, first.delay, max(each.interval for each in reserved), first.slots)
