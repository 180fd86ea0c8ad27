"""What a run may use of limits and rates that it shares with others.

A limit is a number of slots over all runs; a run holds a grant of some of them, for all its nodes with the limit's name together.
A batch takes its slots when it is sent and lets them go when it has ended. The starting times of a rate are dealt out in chunks
from outside. A name for which there is no limit and no rate holds nothing up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from graphflow.core.nodes import Flight, Stage
from graphflow.core.pacing import DealtPacer
from graphflow.graph.graph import Node
from graphflow.ports import WantedSlots

__all__ = ["Grants"]


class Grants:
    """The grants of one run, what of them is in use, and the pacers of its rates."""

    def __init__(self) -> None:
        self.slots: dict[str, int] = {}
        """What is granted, by limit; names that are not in it have no limit."""
        self.used: dict[str, int] = {}
        """The slots that batches under way take, by name, whether there is such a limit or not."""
        self.pacers: dict[str, DealtPacer] = {}
        """By rate."""
        self.units: dict[str, int] = {}
        """The largest weight of a node, by the names that nodes have."""

    def note(self, node: Node) -> None:
        """Note the names of a node that was recorded."""
        for name, weight in node.limits:
            self.units[name] = max(weight, self.units.get(name, 1))

    def holding(self, node: Node) -> tuple[tuple[str, int], ...]:
        """Return those of a node's names, with its weight, that there is a limit or a rate for."""
        if not node.limits:
            return ()
        return tuple(each for each in node.limits if each[0] in self.slots or each[0] in self.pacers)

    def change(self, slots: Mapping[str, int], rates: Mapping[str, float]) -> set[str]:
        """Set what is granted, and which rates there are; return the names that are tighter now."""
        tighter = {
            name
            for name, size in slots.items()
            if size < self.used.get(name, 0) and self.slots.get(name) != size
        }
        self.slots = dict(slots)
        for name in self.pacers.keys() - rates.keys():
            del self.pacers[name]
        for name, rate in rates.items():
            pacer = self.pacers.get(name)
            if pacer is None or pacer.rate != rate:
                tighter.add(name)
                self.pacers[name] = DealtPacer(rate)
        return tighter

    def room(self, stage: Stage) -> int | None:
        """Return how many more items of a stage may run at the same time; None for any number."""
        rooms = [
            (self.slots[name] - self.used.get(name, 0)) // weight
            for name, weight in stage.limits.items()
            if name in self.slots
        ]
        return min(rooms, default=None)

    def most(self, stage: Stage) -> int | None:
        """Return how many items of a stage may run at the same time in all; None for any number."""
        sizes = [self.slots[name] // weight for name, weight in stage.limits.items() if name in self.slots]
        return min(sizes, default=None)

    def holds(self, stage: Stage) -> bool:
        """Return whether there is a limit or a rate that a stage goes by."""
        return any(name in self.slots or name in self.pacers for name in stage.limits)

    def pacers_of(self, stage: Stage) -> dict[str, DealtPacer]:
        """Return the pacers of all rates that a stage goes by, by name."""
        return {name: self.pacers[name] for name in stage.limits if name in self.pacers}

    def take(self, flight: Flight, items: int) -> None:
        """Take the slots of so many items at the same time; of fewer than none, let them go."""
        for name, weight in flight.limits.items():
            self.used[name] = self.used.get(name, 0) + items * weight

    def wants(self, ready: Iterable[Stage], target: int) -> dict[str, WantedSlots]:
        """Return what is wanted of each limit.

        Parameters
        ----------
        ready
            Stages with items to send.
        target
            How many batches may be under way.
        """
        ahead = dict.fromkeys(self.slots, 0)
        most = dict.fromkeys(self.slots, 0)
        for stage in ready:
            for name, weight in stage.limits.items():
                if name in ahead:
                    at_once = target * (stage.concurrency or 1)
                    ahead[name] += min(stage.ready, at_once) * weight
                    most[name] = max(most[name], at_once * weight)
        wants: dict[str, WantedSlots] = {}
        for name, more in ahead.items():
            in_use = self.used.get(name, 0)
            slots = max(in_use, min(in_use + more, most[name]))
            wants[name] = WantedSlots(slots, in_use, self.units.get(name, 1))
        return wants
