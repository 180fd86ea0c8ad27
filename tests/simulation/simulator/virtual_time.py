"""A clock that jumps to the next thing that happens."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from graphflow.core.events import Event

__all__ = ["VirtualClock"]

Happening = Callable[[], Event | None]
"""Makes the event at its time, or None if there is nothing to tell any more."""


class VirtualClock:
    """Happenings in the order of their time; those of one moment in the order they were set."""

    def __init__(self) -> None:
        self.now = 0.0
        self._turn = 0
        self._agenda: list[tuple[float, int, Happening]] = []

    def at(self, moment: float, happening: Happening) -> None:
        """Let something happen at a time; times that have passed mean now."""
        self._turn += 1
        heapq.heappush(self._agenda, (max(moment, self.now), self._turn, happening))

    def after(self, seconds: float, event: Event) -> None:
        """Tell an event after some time."""
        self.at(self.now + seconds, lambda: event)

    def advance(self) -> Event | None:
        """Jump to the next happening; it may have nothing to tell."""
        moment, _, happening = heapq.heappop(self._agenda)
        self.now = max(self.now, moment)
        return happening()

    @property
    def due(self) -> float | None:
        """When the next happening is, None if there is none."""
        return max(self.now, self._agenda[0][0]) if self._agenda else None

    def __bool__(self) -> bool:
        return bool(self._agenda)
