"""Limits and rates of several runs, as one run meets them: what it is granted, when, and the starting slots that it gets."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from graphflow.core import events as ev
from graphflow.core.core import Core
from simulator.ledger import Ledger, Violation
from simulator.scenarios import SharedScript
from simulator.virtual_time import VirtualClock

__all__ = ["SharedLimits"]

RETRY_SECONDS = 0.5


class SharedLimits:
    """Answers what a core asks of limits and rates: late, in part, or not at once.

    Parameters
    ----------
    script
        What the run may have, and when that changes.
    core
        Who asks.
    ledger
        Told what was granted and dealt.
    """

    def __init__(
        self, script: SharedScript, *, core: Core, ledger: Ledger, clock: VirtualClock, seed: int
    ) -> None:
        self._script = script
        self._core = core
        self._ledger = ledger
        self._clock = clock
        self._rng = random.Random(f"answers {seed}")
        self._sizes: Mapping[str, int] = {}
        self._rates: Mapping[str, float] = {}
        self._next_at: dict[str, float] = {}
        self._is_answering = False

    def begin(self, start: float) -> None:
        """Set what changes of itself."""
        for moment, sizes, rates in self._script.turns:
            self._clock.at(start + moment, self._turn(sizes, rates))

    def _turn(self, sizes: Mapping[str, int], rates: Mapping[str, float]) -> Callable[[], ev.Event | None]:
        def turn() -> ev.Event | None:
            if self._ledger.finish is not None:
                return None
            self._sizes, self._rates = sizes, rates
            return self._told(self._granted())

        return turn

    def _granted(self) -> dict[str, int]:
        """What a run that wants so much gets: never more than it wants, nor than there is; what is in use stays."""
        wants = self._core.wants()
        granted = {}
        for name, size in self._sizes.items():
            want = wants.get(name)
            most = 0 if want is None else want.slots
            granted[name] = min(size, most if self._rng.random() < 0.8 else self._rng.randint(0, size))
        return granted

    def _told(self, granted: dict[str, int]) -> ev.Event:
        event = ev.LimitsChanged(grants=granted, rates=self._rates)
        self._ledger.share(event)
        return event

    def wanted(self) -> None:
        """The core says that work waits for slots."""
        if not self._is_answering:
            self._is_answering = True
            self._clock.at(self._clock.now + self._rng.random() * self._script.answers_after, self._answer)

    def _answer(self) -> ev.Event | None:
        if self._ledger.finish is not None:
            return None
        granted = self._granted()
        before = self._ledger.granted
        lacks = [name for name, want in self._core.wants().items() if want.slots > granted.get(name, 0)]
        if lacks:
            self._clock.at(self._clock.now + RETRY_SECONDS, self._answer)
        else:
            self._is_answering = False
        return None if granted == before else self._told(granted)

    def reserve(self, command: ev.ReserveSlots) -> None:
        """The core asks for starting slots."""
        if command.count < 1:
            raise Violation(f"{command} asks for nothing")
        self._clock.at(
            self._clock.now + self._rng.random() * self._script.answers_after, lambda: self._dealt(command)
        )

    def _dealt(self, command: ev.ReserveSlots) -> ev.Event | None:
        rate = self._rates.get(command.name)
        if self._ledger.finish is not None or rate is None:
            return None
        now, name, count = self._clock.now, command.name, command.count
        if self._rng.random() < 0.1:
            return ev.SlotsReserved(name=name, rate=rate, first=0.0, count=0)
        first = max(self._next_at.get(name, 0.0), now - self._script.burst / rate)
        self._next_at[name] = first + count / rate
        self._ledger.deal(name, [first + k / rate for k in range(count)], now)
        return ev.SlotsReserved(name=name, rate=rate, first=first, count=count)
