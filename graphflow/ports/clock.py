"""The clocks that leases go by."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Clock"]


class Clock(Protocol):
    """The source of time; tests use one that can be set."""

    def wall(self) -> float:
        """Return the seconds since the epoch; may be set back."""
        ...

    def steady(self) -> float:
        """Return the seconds of a clock that never goes back, the same in all processes of a host until it is rebooted."""
        ...
