"""What a chart shows: µs per item against n, one series per peer, both scales logarithmic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from graphflow.bench.lines import BenchError, Line, newest
from graphflow.bench.show import keys_in_order, peers_in_order, title_of

__all__ = ["Chart", "Series", "chart_of", "decades", "number_text"]

# Okabe and Ito's colours, which people who are colour-blind can tell apart; graphflow has the strongest.
_COLOURS = {
    "graphflow": "#d55e00",
    "graphflow-default": "#e69f00",
    "graphflow-inline": "#b8860b",
    "pool": "#0072b2",
    "joblib": "#56b4e9",
    "dask.bag": "#009e73",
    "dask.delayed": "#7fbf7b",
    "client.map": "#117733",
    "prefect": "#cc79a7",
    "ray": "#882255",
    "asyncio": "#999933",
    "loop": "#777777",
}
_OTHER = "#000000"


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One peer: points are (n, µs per item), by n."""

    peer: str
    colour: str
    points: Sequence[tuple[int, float]]

    @property
    def is_own(self) -> bool:
        """Whether it is graphflow, which is drawn stronger."""
        return self.peer == "graphflow"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A workload's series, and what stands around them."""

    title: str
    subtitle: str
    series: Sequence[Series]
    x_label: str = "items in the map"
    y_label: str = "µs per item, wall time"

    @property
    def x_range(self) -> tuple[int, int]:
        """Exponents of ten around the sizes."""
        return decades([n for each in self.series for n, _ in each.points])

    @property
    def y_range(self) -> tuple[int, int]:
        """Exponents of ten around the costs."""
        return decades([cost for each in self.series for _, cost in each.points])


def chart_of(lines: Sequence[Line], *, workload: str) -> Chart:
    """Return the chart of one workload.

    Raises
    ------
    BenchError
        If there are no figures of it.
    """
    found = [line for (key, _, _), line in newest(lines).items() if key == workload and line.is_ok]
    if not found:
        there = ", ".join(keys_in_order(line for line in lines if line.is_ok)) or "none"
        raise BenchError(f"workload {workload!r} was not measured; measured: {there}")
    series = [
        Series(
            peer=peer,
            colour=_COLOURS.get(peer, _OTHER),
            points=sorted((line.n, line.us_per_item or 0.0) for line in found if line.peer == peer),
        )
        for peer in peers_in_order(found)
    ]
    first = found[0]
    where = f"{first.slots} slots, {first.machine.get('system', '')} {first.machine.get('arch', '')}"
    return Chart(
        title=f"{workload}: {title_of(workload)}",
        subtitle=f"warm, medians; {where}; Python {first.versions.get('python', '')}",
        series=series,
    )


def decades(values: Sequence[float]) -> tuple[int, int]:
    """Return the exponents of ten that enclose positive values, at least one apart."""
    low = math.floor(math.log10(min(values)) + 1e-9)
    high = math.ceil(math.log10(max(values)) - 1e-9)
    return low, max(high, low + 1)


def number_text(exponent: int) -> str:
    """Return a power of ten as people write it: 0.1, 100, 10,000, 1 M."""
    if exponent < 0:
        return f"{10.0**exponent:.{-exponent}f}"
    return f"{10**exponent:,}" if exponent < 6 else f"{10 ** (exponent - 6):,} M"
