"""The clocks that leases go by."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Clock"]


class Clock(Protocol):
    """What tells the time; tests have one that jumps."""

    def wall(self) -> float:
        """Seconds since the epoch; may be set back."""
        ...

    def steady(self) -> float:
        """Seconds of a clock that never goes back, the same in all processes of a host until it is booted again."""
        ...
