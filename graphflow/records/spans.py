"""How long a run and its nodes were worked at: per launch, and summed. Between launches nobody works."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING

from graphflow.model.states import Code

if TYPE_CHECKING:
    from graphflow.records.item_index import Moved

__all__ = ["Span", "launch_seconds", "worked"]

Span = tuple[float, float]
"""From when to when a launch lasted, in seconds since the epoch; infinite where it still does."""


def launch_seconds(spans: Sequence[Span], now: float) -> float:
    """Return how long launches lasted, summed."""
    return sum(max(0.0, min(end, now) - begin) for begin, end in spans)


def worked(moves: Sequence[Moved], first: float | None, spans: Sequence[Span], now: float) -> list[Span]:
    """Return from when to when something of a node ran: while it was running, within a launch.

    Parameters
    ----------
    moves
        Its states, oldest first.
    first
        When its first item began, if one did.
    """
    running: list[Span] = []
    begin: float | None = None
    for moved in moves:
        if moved.code == Code.RUNNING:
            begin = moved.at if begin is None else begin
        elif begin is not None:
            running.append((begin, moved.at))
            begin = None
    if begin is not None:
        running.append((begin, inf))
    if first is not None:
        # What is quick may have begun before its state was booked.
        end = moves[-1].at if moves else first
        running = [(min(first, running[0][0]), running[0][1]), *running[1:]] if running else [(first, end)]
    found: list[Span] = []
    for begin, end in running:
        for since, until in spans:
            part = max(begin, since), min(end, until, max(now, since))
            if part[1] > part[0]:
                found.append(part)
    return found
