"""Figures as text: units, and names in the order of the registry."""

from __future__ import annotations

from collections.abc import Iterable

from graphflow.bench.lines import Line, Status
from graphflow.bench.peers import PEERS
from graphflow.bench.workloads import WORKLOADS, Figure, workload_of

__all__ = [
    "figure_of",
    "format_seconds",
    "keys_in_order",
    "peers_in_order",
    "progress_of",
    "text_of",
    "title_of",
]

_KEYS = [workload.key for workload in WORKLOADS]


def title_of(key: str) -> str:
    """Return what a workload is, in words; its key where a newer graphflow wrote the line."""
    return workload_of(key).title if key in _KEYS else key


def figure_of(key: str) -> Figure:
    """Return what is shown of a workload."""
    return workload_of(key).figure if key in _KEYS else Figure.PER_ITEM


def peers_in_order(lines: Iterable[Line]) -> list[str]:
    """Return the peers of the lines, in the order of the registry."""
    found = dict.fromkeys(line.peer for line in lines)
    return sorted(found, key=lambda name: list(PEERS).index(name) if name in PEERS else len(PEERS))


def keys_in_order(lines: Iterable[Line]) -> list[str]:
    """Return the workloads of the lines, in the order of the registry."""
    found = dict.fromkeys(line.key for line in lines)
    return sorted(found, key=lambda key: _KEYS.index(key) if key in _KEYS else len(_KEYS))


def format_seconds(seconds: float) -> str:
    """Return two significant digits and a unit: 1.3 µs, 18 ms, 2.4 s."""
    for factor, unit in ((1e6, "µs"), (1e3, "ms")):
        if seconds * factor < 995:
            return f"{_two_digits(seconds * factor)} {unit}"
    return f"{_two_digits(seconds)} s"


def _two_digits(value: float) -> str:
    if value >= 9.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 0.995 else f"{value:.2f}"


def text_of(line: Line) -> str:
    """Return the figure of a line, or how it ended."""
    if not line.is_ok or line.seconds is None:
        return "–" if line.status in (Status.SKIPPED, Status.CANNOT) else str(line.status)
    match figure_of(line.key):
        case Figure.SHARE_OF_IDEAL if line.percent_of_ideal is not None:
            return f"{line.percent_of_ideal:.{1 if line.percent_of_ideal >= 90 else 0}f} %"
        case Figure.TIMES_IDEAL if line.times_ideal is not None:
            return f"{line.times_ideal:.2f}" if line.times_ideal < 9.95 else f"{line.times_ideal:,.0f}"
        case Figure.SECONDS:
            return format_seconds(line.seconds)
        case _:
            return format_seconds(line.seconds / line.n)


def progress_of(line: Line) -> str:
    """Return a line for a person who waits."""
    head = f"{line.key:<24}{line.peer:<18}{line.n:>9,}"
    if not line.is_ok or line.seconds is None:
        return f"{head}  {line.status}: {line.reason}"
    units = {
        Figure.PER_ITEM: " per item",
        Figure.SHARE_OF_IDEAL: " of ideal",
        Figure.TIMES_IDEAL: " × ideal",
        Figure.SECONDS: "",
    }
    runs = f"{format_seconds(line.seconds)} a run"
    return f"{head}  {text_of(line)}{units[figure_of(line.key)]}, {runs}"
