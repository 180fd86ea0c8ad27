"""A chart as an SVG file, written without a browser."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from math import log10

from graphflow.bench.chart import Chart, Series, number_text

__all__ = ["svg_of"]

WIDTH, HEIGHT = 860, 520
LEFT, RIGHT, TOP, BOTTOM = 84, 690, 76, 456
_LABEL_GAP = 17


def svg_of(chart: Chart) -> str:
    """Return the whole document."""
    body = "\n".join(_parts(chart))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" role="img" font-family="Helvetica, Arial, sans-serif" font-size="13">\n'
        f"<title>{escape(chart.title)}</title>\n{body}\n</svg>\n"
    )


def _parts(chart: Chart) -> Iterator[str]:
    # Not transparent: the labels are dark, and a page may be too.
    yield f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>'
    yield _text(LEFT, 30, chart.title, size=17, weight="bold")
    yield _text(LEFT, 52, chart.subtitle, colour="#555555")
    yield from _grid(chart)
    yield _text((LEFT + RIGHT) / 2, HEIGHT - 18, chart.x_label, anchor="middle")
    middle = (TOP + BOTTOM) / 2
    turned = f'transform="rotate(-90 22 {middle:g})"'
    yield _text(22, middle, chart.y_label, anchor="middle", more=turned)
    for series in sorted(chart.series, key=lambda each: each.is_own):
        yield from _line(chart, series)
    yield from _labels(chart)


def _x(chart: Chart, log: float) -> float:
    low, high = chart.x_range
    return LEFT + (log - low) / (high - low) * (RIGHT - LEFT)


def _y(chart: Chart, log: float) -> float:
    low, high = chart.y_range
    return BOTTOM - (log - low) / (high - low) * (BOTTOM - TOP)


def _point(chart: Chart, n: int, cost: float) -> tuple[float, float]:
    return _x(chart, log10(n)), _y(chart, log10(cost))


def _grid(chart: Chart) -> Iterator[str]:
    for exponent in range(chart.x_range[0], chart.x_range[1] + 1):
        x = _x(chart, exponent)
        yield f'<path d="M{x:.1f} {TOP}V{BOTTOM}" stroke="#e4e4e4"/>'
        yield _text(x, BOTTOM + 21, number_text(exponent), anchor="middle")
    for exponent in range(chart.y_range[0], chart.y_range[1] + 1):
        y = _y(chart, exponent)
        yield f'<path d="M{LEFT} {y:.1f}H{RIGHT}" stroke="#e4e4e4"/>'
        yield _text(LEFT - 9, y + 4, number_text(exponent), anchor="end")
    yield f'<path d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}" fill="none" stroke="#333333"/>'


def _line(chart: Chart, series: Series) -> Iterator[str]:
    points = [_point(chart, n, cost) for n, cost in series.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    width = 3.5 if series.is_own else 1.8
    yield f'<polyline points="{path}" fill="none" stroke="{series.colour}" stroke-width="{width}"/>'
    for x, y in points:
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{4.5 if series.is_own else 3.2}" fill="{series.colour}"/>'


def _labels(chart: Chart) -> Iterator[str]:
    """Yield a legend beside the lines' ends, in their order, spread so that no two names overlap."""
    ends = sorted((_point(chart, *series.points[-1])[1], series.peer) for series in chart.series)
    by_peer = {series.peer: series for series in chart.series}
    places: list[float] = []
    for y, _ in ends:
        places.append(max(y, places[-1] + _LABEL_GAP) if places else y)
    excess = max(0.0, places[-1] - BOTTOM)
    for index in range(len(places) - 1, -1, -1):
        highest = BOTTOM - (len(places) - 1 - index) * _LABEL_GAP
        places[index] = min(places[index], highest) if excess else places[index]
    for (end, peer), place in zip(ends, places, strict=True):
        series = by_peer[peer]
        x, _ = _point(chart, *series.points[-1])
        style = f'stroke="{series.colour}" stroke-opacity="0.55" stroke-dasharray="2 3"'
        yield f'<path d="M{x + 5:.1f} {end:.1f}L{RIGHT + 8} {place:.1f}h8" fill="none" {style}/>'
        weight = "bold" if series.is_own else "normal"
        yield _text(RIGHT + 20, place + 4, peer, colour=series.colour, weight=weight)


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    colour: str = "#222222",
    size: int = 13,
    weight: str = "normal",
    more: str = "",
) -> str:
    style = f'text-anchor="{anchor}" fill="{colour}" font-size="{size}" font-weight="{weight}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style} {more}>{escape(text)}</text>'.replace(" >", ">")
