"""What a driver has of limits and rates that runs share: all its processes know of each other's is in one place."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

__all__ = ["KnownLimits", "Limiter", "WantedSlots"]


@dataclass(frozen=True, slots=True)
class WantedSlots:
    """What a holder wants of a limit: `slots` in all, of which `in_use` are taken now; it can use them by `unit` only."""

    slots: int
    in_use: int
    unit: int = 1


@dataclass(frozen=True, slots=True)
class KnownLimits:
    """The sizes of limits, and rates per second, by name."""

    sizes: Mapping[str, int] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)


@runtime_checkable
class Limiter(Protocol):
    """One holder's part of the limits and rates of a place; may be used by several threads.

    Methods raise `HistoryError` where the place cannot be read or written; nothing has changed then.
    """

    def version(self) -> int:
        """Return a number that differs as soon as something was written; a few microseconds."""
        ...

    def known(self, names: Collection[str]) -> KnownLimits:
        """Return which of these names are limits or rates."""
        ...

    def adjust(self, wants: Mapping[str, WantedSlots], *, writes: bool = True) -> dict[str, int]:
        """Take and give back slots of limits; return what the holder may use now, by limit that there is.

        What is in use stays the holder's, also where it may use less. One transaction, and none if nothing changes.

        Parameters
        ----------
        writes
            Whether it may write; else nothing changes, unless nothing has to.

        Raises
        ------
        LeaseLost
            If the holder is a driver that has lost its run.
        """
        ...

    def reserve(self, name: str, count: int) -> float | None:
        """Reserve starting slots of a rate, one each `1 / rate` seconds; return when the first one opens.

        Seconds from now, below 0 for what is open already; None if there is no such rate.
        """
        ...
