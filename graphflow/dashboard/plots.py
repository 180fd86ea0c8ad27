"""Plots as skeletons: each is made once per process, with empty sources; pages send columns alone.

The only module that imports Bokeh, and only where a skeleton is asked for. What is drawn in which colour is said by the style of
the page: `static/app.js` sets it by the names of models.
"""

from __future__ import annotations

import hashlib
import json
import math
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from graphflow.dashboard.parts import marks
from graphflow.dashboard.texts import took
from graphflow.errors import GraphflowError
from graphflow.records.figures import BINS, Durations, Timeline, bin_bounds

__all__ = ["BOKEH", "bokeh_script", "duration_columns", "plots_name", "skeletons", "timeline_columns"]

BOKEH = "bokeh.min.js"
MOST_LANES = 40
MOST_BARS = 3_000
ROOM_BINS = 8
LEVELS = 8
"""How busy a worker was is told in so many steps."""
RED = 0.2


def bokeh_script() -> bytes:
    """Return the script of Bokeh: the core alone, no widgets, tables or fonts.

    Raises
    ------
    GraphflowError
        If it is not where Bokeh keeps it.
    """
    spec = find_spec("bokeh")
    places = [] if spec is None else [Path(each) for each in spec.submodule_search_locations or ()]
    for place in places:
        path = place / "server" / "static" / "js" / BOKEH
        if path.exists():
            return path.read_bytes()
    raise GraphflowError(f"bokeh has no {BOKEH}; install bokeh >= 3.7, or make the report without plots")


@cache
def plots_name() -> str:
    """Return the name of the file of skeletons, which changes with what makes them."""
    digest = hashlib.sha256(Path(__file__).read_bytes() + version("bokeh").encode())
    return f"plots-{digest.hexdigest()[:12]}.json"


@cache
def skeletons() -> str:
    """Return all skeletons by name, as JSON. The first call takes 0.5 s."""
    from bokeh.embed import json_item

    made = {"timeline": _timeline_plot(), "durations": _durations_plot()}
    return json.dumps({name: json_item(plot) for name, plot in made.items()}, separators=(",", ":"))


def _figure(name: str, height: int, **options: Any) -> Any:
    from bokeh.plotting import figure

    plot = figure(
        name=f"{name}-plot",
        height=height,
        sizing_mode="stretch_width",
        toolbar_location=None,
        tools="xpan,xwheel_zoom,reset",
        active_scroll=None,
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
        **options,
    )
    for axis in (plot.xaxis[0], plot.yaxis[0]):
        axis.axis_line_color = None
        axis.major_tick_line_color = None
        axis.minor_tick_line_color = None
        axis.major_label_text_font = "system-ui, sans-serif"
        axis.major_label_text_font_size = "11px"
        axis.axis_label_text_font = "system-ui, sans-serif"
        axis.axis_label_text_font_size = "11px"
        axis.axis_label_text_font_style = "normal"
    return plot


def _timeline_plot() -> Any:
    from bokeh.models import ColumnDataSource, FactorRange, HoverTool

    plot = _figure("timeline", 240, y_range=FactorRange(name="lanes"))
    plot.xaxis[0].axis_label = "seconds since the launch began"
    plot.ygrid[0].grid_line_color = None
    busy = ColumnDataSource(
        {name: [] for name in ("lane", "left", "right", "alpha", "items", "failed")}, name="busy"
    )
    failed = ColumnDataSource({name: [] for name in ("lane", "left", "right", "height")}, name="failures")
    bars = plot.hbar(
        y="lane", left="left", right="right", height=0.74, fill_alpha="alpha", line_color=None, source=busy
    )
    bars.glyph.name = "completed"
    red = plot.hbar(y="lane", left="left", right="right", height="height", line_color=None, source=failed)
    red.glyph.name = "failed"
    tips = [
        ("worker", "@lane"),
        ("from", "@left{0.00} s"),
        ("items", "@items{0,0}"),
        ("failed", "@failed{0,0}"),
    ]
    plot.add_tools(HoverTool(renderers=[bars], tooltips=tips))
    return plot


def _durations_plot() -> Any:
    from bokeh.core.properties import value
    from bokeh.models import ColumnDataSource

    plot = _figure("durations", 240, x_axis_type="log")
    plot.xaxis[0].axis_label = "seconds"
    plot.xgrid[0].grid_line_color = None
    plot.yaxis[0].major_label_text_font_size = "0px"
    plot.y_range.start = 0
    counts = ColumnDataSource({name: [] for name in ("left", "right", "top")}, name="durations")
    lines = ColumnDataSource({name: [] for name in ("x", "y", "text")}, name="marks")
    bars = plot.quad(left="left", right="right", top="top", bottom=0, line_color=None, source=counts)
    bars.glyph.name = "running"
    plot.segment(x0="x", x1="x", y0=0, y1="y", line_dash="dotted", source=lines).glyph.name = "line"
    words = plot.text(
        x="x",
        y="y",
        text="text",
        x_offset=3,
        text_baseline="top",
        text_font_size="11px",
        text_font=value("system-ui, sans-serif"),
        source=lines,
    )
    words.glyph.name = "word"
    return plot


# -- columns -----------------------------------------------------------------------------------------------------


def timeline_columns(timeline: Timeline) -> tuple[dict[str, Any], str]:
    """Return the columns of a launch's timeline, and what was left out in words.

    Bins that follow each other and are equally busy are one bar; bins are merged until there are 3,000 bars at most.
    """
    lanes = sorted(timeline.lanes.items(), key=lambda each: -sum(each[1].busy))[:MOST_LANES]
    left_out = len(timeline.lanes) - len(lanes)
    lanes.sort(key=lambda each: each[0])
    merged = 1
    while True:
        bars = [bar for name, lane in lanes for bar in _bars(name or "others", lane, timeline.width, merged)]
        if len(bars) <= MOST_BARS or merged >= 64:
            break
        merged *= 2
    columns = dict(
        zip(("lane", "left", "right", "alpha", "items", "failed"), zip(*bars, strict=True), strict=False)
    )
    red = [
        (lane, left, right, 0.74) if failed >= RED * items else ([lane, -0.42], left, right, 0.1)
        for lane, left, right, _, items, failed in bars
        if failed
    ]
    names = ("lane", "left", "right", "height")
    return (
        {
            "busy": {name: list(values) for name, values in columns.items()},
            "failures": {name: [bar[place] for bar in red] for place, name in enumerate(names)},
            "lanes": [name or "others" for name, _ in reversed(lanes)],
        },
        f"the {MOST_LANES} busiest of {len(timeline.lanes):,} workers" if left_out else "",
    )


def _bars(name: str, lane: Any, width: float, merged: int) -> list[tuple[str, float, float, float, int, int]]:
    found: list[tuple[str, float, float, float, int, int]] = []
    last, begin, items, failed = 0, 0, 0, 0
    places = range(0, len(lane.busy) + merged, merged)
    for place in places:
        part = slice(place, place + merged)
        busy = sum(lane.busy[part])
        share = min(1.0, busy / (width * merged))
        red = sum(lane.failures[part])
        level = 0 if not busy and not sum(lane.items[part]) else max(1, math.ceil(LEVELS * share))
        if level != last or bool(red) != bool(failed):
            if last:
                found.append(
                    (
                        name,
                        round(begin * width, 3),
                        round(place * width, 3),
                        round(0.25 + 0.75 * last / LEVELS, 2),
                        items,
                        failed,
                    )
                )
            last, begin, items, failed = level, place, 0, 0
        items += sum(lane.items[part])
        failed += red
    return found


def duration_columns(durations: Durations) -> dict[str, Any]:
    """Return the columns of a histogram, with its percentiles as lines of different heights."""
    bins = durations.bins
    used = [place for place, count in enumerate(bins) if count]
    if not used:
        return {}
    # Empty bins on both sides: room for the words, and bars that are no wider where all durations are alike.
    places = sorted({max(0, used[0] - ROOM_BINS), *used, min(BINS - 1, used[-1] + ROOM_BINS)})
    bounds = [bin_bounds(place) for place in places]
    top = max(bins)
    found = [*marks(durations)]
    return {
        "durations": {
            "left": [float(f"{lo:.4g}") for lo, _ in bounds],
            "right": [float(f"{hi:.4g}") for _, hi in bounds],
            "top": [bins[place] for place in places],
        },
        "marks": {
            "x": [float(f"{at:.4g}") for _, at in found],
            "y": [round(top * (1.0 - 0.12 * place), 3) for place, _ in enumerate(found)],
            "text": [f"{name} {took(at)}" for name, at in found],
        },
    }
