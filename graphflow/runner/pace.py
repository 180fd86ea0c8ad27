"""The starting slots of a batch, where a rate says when its items may begin."""

from __future__ import annotations

from collections.abc import Callable

from graphflow.model.orders import Pace

__all__ = ["GRACE_SECONDS", "Slots"]

GRACE_SECONDS = 0.025
"""A slot stays open for at least this long: a thread that is woken comes late."""


class Slots:
    """The slots of one batch, taken one after the other.

    Parameters
    ----------
    count
        How many slots there are.
    clock
        The time in seconds.
    start
        When the batch reached its worker, by that clock.
    """

    def __init__(self, pace: Pace, count: int, *, clock: Callable[[], float], start: float) -> None:
        self._clock = clock
        self._first = start + pace.delay
        self._interval = pace.interval
        self._window = max(pace.interval, GRACE_SECONDS)
        self._count = count
        self._next = 0

    def take(self) -> float | None:
        """Take the slot that is open and return 0.0; else return the seconds until the next one opens, or None if none is left.

        Slots that were not taken in time are lost.
        """
        now = self._clock()
        while self._next < self._count:
            opens = self._first + self._next * self._interval
            if now < opens:
                return opens - now
            self._next += 1
            if now < opens + self._window:
                return 0.0
        return None
