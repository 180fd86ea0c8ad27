"""What a report tells: of which items, and which of them go on together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from graphflow.core.nodes import Flight
from graphflow.model.reports import Report

__all__ = ["grouped", "landed"]


def landed(flight: Flight, report: Report) -> tuple[Sequence[int], Sequence[int]] | None:
    """Return the indices in a report, and those that it hands back; None if it was applied before."""
    indices = flight.indices
    positions = report.positions
    if flight.held is None and positions is None and not report.held:
        reached = min(report.reached, len(indices))
        return indices[:reached], indices[reached:]
    told = range(min(report.reached, len(indices))) if positions is None else positions
    out = range(len(indices)) if flight.held is None else flight.held
    rest = set(out)
    if not rest.issuperset(told) or not rest.issuperset(report.held):
        return None
    rest.difference_update(told, report.held)
    if isinstance(told, range):
        return indices[told.start : told.stop], [indices[position] for position in sorted(rest)]
    return [indices[position] for position in told], [indices[position] for position in sorted(rest)]


def grouped(parked: dict[float, list[int]]) -> Iterator[tuple[float, list[int]]]:
    """Yield items by the delay until their next attempt; those whose delays hardly differ go together, at the longest."""
    group: list[int] = []
    first = last = 0.0
    for delay in sorted(delay for delay, indices in parked.items() if indices):
        if group and delay > first * 1.01 + 0.001:
            yield last, group
            group = []
        first = delay if not group else first
        last = delay
        group += parked[delay]
    if group:
        yield last, group
