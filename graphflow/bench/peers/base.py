"""What a peer has to be able to do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

from graphflow.bench.items import (
    Flaky,
    Guarded,
    add_one,
    children_of,
    double,
    minus_three,
    nothing,
    unzip,
    widths_of,
)

__all__ = ["CannotDo", "Peer"]


class CannotDo(Exception):
    """Raised if a peer cannot do a workload; the text has the reason."""


class Peer(ABC):
    """One system under measurement: `open` starts it, each other method runs one workload on it.

    What is written here is what a user writes for a system whose only verb is a map that gives a list.
    Systems that can do better override it.
    """

    notes: ClassVar[dict[str, str]] = {}
    """What a reader should know about how this peer does a workload, by workload name; "" is for all others."""

    @abstractmethod
    def open(self, slots: int) -> None:
        """Import what is needed and start it; a lazy system may start at its first map."""

    @abstractmethod
    def close(self) -> None:
        """Shut down what was opened."""

    @abstractmethod
    def map(self, function: Callable[[Any], Any], values: Sequence[Any]) -> Iterable[Any]:
        """Apply the function to the values, and return the results in order."""

    def total(self, function: Callable[[Any], int], values: Sequence[Any]) -> int:
        """Run a map, then the sum (W1, W3, W5)."""
        return sum(self.map(function, values))

    def chain(self, values: Sequence[int]) -> int:
        """Run three maps, element by element, then the sum (W2)."""
        first = list(self.map(add_one, values))
        second = list(self.map(double, first))
        return sum(self.map(minus_three, second))

    def fan_out(self, n: int) -> int:
        """Run W4: a task returns a list, each element returns another list, whose elements are the items."""
        (widths,) = self.map(widths_of, [n])
        lists = self.map(children_of, widths)
        return sum(self.map(nothing, [value for each in lists for value in each]))

    def retried(self, n: int, folder: str) -> int:
        """Run W7: some items fail once; here the failed ones are mapped again by hand."""
        guarded = Guarded(Flaky(folder))
        total, failed = unzip(list(self.map(guarded, range(n))))
        again, still = unzip(list(self.map(guarded, failed)))
        if still:
            raise RuntimeError(f"{len(still)} items failed twice")
        return total + again

    def requests(self, n: int, port: int, milliseconds: int, concurrency: int) -> int:
        """Run async requests, a number at a time per slot, then the sum (W8)."""
        raise CannotDo("runs one item per slot: a slot that waits for an answer does nothing else")
