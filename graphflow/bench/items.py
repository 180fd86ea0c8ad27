"""What the items of the workloads do. Imported by name in worker processes, so it loads nothing heavy."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "Flaky",
    "Guarded",
    "add_one",
    "add_up",
    "burn",
    "children_of",
    "double",
    "minus_three",
    "nap",
    "nothing",
    "widths_of",
]


def nothing(x: int) -> int:
    """Return a no-op."""
    return x


def add_one(x: int) -> int:
    """Return the first of three chained maps."""
    return x + 1


def double(x: int) -> int:
    """Return the second."""
    return 2 * x


def minus_three(x: int) -> int:
    """Return the third."""
    return x - 3


def add_up(values: Iterable[int]) -> int:
    """Return the reduce."""
    return sum(values)


def burn(seconds: float) -> int:
    """Use CPU time in this thread; other programs on the machine cannot shorten it."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
    return 1


def nap(seconds: float) -> int:
    """Use wall time only."""
    time.sleep(seconds)
    return 1


def widths_of(n: int) -> list[int]:
    """Uneven widths, 1 to 19, that add up to `n`."""
    widths: list[int] = []
    left = n
    while left > 0:
        width = min(left, 1 + 7 * len(widths) % 19)
        widths.append(width)
        left -= width
    return widths


def children_of(width: int) -> list[int]:
    """Return the second level of a fan-out: `width` elements."""
    return list(range(width))


@dataclass(frozen=True)
class Flaky:
    """Every hundredth item fails at its first attempt; a file per such item remembers that it did."""

    folder: str

    def __call__(self, x: int) -> int:
        """Return the item, or RuntimeError."""
        if x % 100 == 0:
            try:
                os.close(os.open(Path(self.folder) / str(x), os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return x
            raise RuntimeError(f"item {x} fails once")
        return x


@dataclass(frozen=True)
class Guarded:
    """An item whose failure is a value: what a user writes around a map that stops at the first failure."""

    function: Flaky

    def __call__(self, x: int) -> tuple[bool, int]:
        """Return (whether it succeeded, the value or else the argument)."""
        try:
            return True, self.function(x)
        except RuntimeError:
            return False, x


def unzip(outcomes: Sequence[tuple[bool, int]]) -> tuple[int, list[int]]:
    """Return the sum of what went well, and the arguments to try again."""
    return sum(value for ok, value in outcomes if ok), [value for ok, value in outcomes if not ok]
