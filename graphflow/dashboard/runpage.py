"""The page of a run: its parts, each with what its template needs. The report has the same parts."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeAlias

from markupsafe import Markup

from graphflow.common.times import moment
from graphflow.dashboard import graphs, plots
from graphflow.dashboard.parts import by_kind, faults, percentile, shown_nodes, strip
from graphflow.dashboard.rendering import render
from graphflow.dashboard.texts import percent, took
from graphflow.model.states import FINAL_CODES, Code, Counts
from graphflow.records.figures import Durations, Timeline

__all__ = [
    "LOG_LINES",
    "PARTS",
    "RunParts",
    "durations_of",
    "is_ended",
    "log_line",
    "numbers_of",
    "rendered_parts",
    "run_parts",
]

Node: TypeAlias = Any
Run: TypeAlias = Any
"""The views of `runs`, which are above this folder."""

RATE_SECONDS = 30.0
LEAST_SECONDS = 3.0
LOG_LINES = 200
MOST_NODES = 200
ENDED = ("completed", "cached", "skipped", "failed", "blocked", "cancelled")
PARTS = ("head", "progress", "failures", "nodes", "items", "plots", "log", "about")


@dataclass(frozen=True, slots=True)
class RunParts:
    """A run page: what each part shows, by name in the order of the page, and the columns of its plots."""

    parts: Mapping[str, Mapping[str, Any]]
    columns: Mapping[str, Any]
    is_over: bool


def durations_of(node: Node) -> Durations | None:
    """Return how long the items of a node took; None where that is not added up."""
    found: Durations | None = getattr(node.known.history, "durations", None)
    return found if found is not None and any(found.bins) else None


def run_parts(
    run: Run,
    *,
    base: str = "",
    node: str | None = None,
    launch: int | None = None,
    opened: Collection[str] = (),
    is_report: bool = False,
    has_plots: bool = True,
    now: Callable[[], float] = time.time,
) -> RunParts:
    """Return what the page of a run shows.

    Parameters
    ----------
    base
        What addresses of the server begin with; empty in a report, which has no links.
    node
        The node whose items and durations are shown; by default the largest that failed, else the largest.
    launch
        The launch whose timeline is shown, from 1; by default the last one.
    opened
        Flows inside the flow that the graph shows node by node.

    Raises
    ------
    KeyError
        If there is no such node.
    ValueError
        If there is no such launch.
    """
    nodes = shown_nodes(run)
    counts = Counts()
    for each in nodes:
        counts.update(each.counts)
    is_over = is_ended(run)
    state = run.state
    here = f"{base}runs/{run.id}" if base else ""
    common = {
        "run": run,
        "base": base,
        "here": here,
        "is_report": is_report,
        "is_over": is_over,
        "has_plots": has_plots,
    }
    found, rarer = faults(nodes)
    chosen = run.nodes[node] if node is not None else _largest(nodes)
    data, timeline = _columns(run, chosen, launch)
    parts: dict[str, dict[str, Any]] = {
        "head": {**common, "state": state, "message": state.message or run.why},
        "progress": {**common, "counts": counts, **_progress(run, nodes, counts, is_over, len(found), now())},
        "failures": {
            **common,
            "faults": found,
            "rarer": rarer,
            "total": sum(each.count for each in found) + rarer,
            "blocked": by_kind(counts).get("blocked", 0),
        },
        "nodes": {
            **common,
            "graph": graphs.graph_svg(run.graph, nodes, href=f"{here}/nodes/" if here else "", opened=opened),
            "opened": sorted(opened),
            **_table(nodes),
        },
        "items": {
            **common,
            "node": chosen,
            "strip": "" if chosen is None else strip(chosen),
            "names": [each.name for each in nodes[:MOST_NODES]],
        },
        "plots": {**common, "node": chosen, "columns": data, **timeline, "durations": numbers_of(chosen)},
        "log": {**common, **_log(run)},
        "about": {**common, "launches": _launches(run), "parameters": _parameters(run), "plan": run.plan},
    }
    return RunParts(parts, data, is_over)


def is_ended(run: Run) -> bool:
    """Return whether a run has ended: nothing changes any more."""
    return Code.by_name(run.state_name) in FINAL_CODES


def rendered_parts(found: RunParts) -> dict[str, Markup]:
    """Return each part of a run page as HTML."""
    return {name: Markup(render(f"parts/{name}.html", **context)) for name, context in found.parts.items()}


def _largest(nodes: Sequence[Node]) -> Node | None:
    """Return the node that is looked at first: maps before others, those with failures first, then by size."""
    return max(
        nodes,
        key=lambda each: (bool(by_kind(each.counts).get("failed")), each.is_mapped, each.known.size),
        default=None,
    )


def _progress(
    run: Run, nodes: Sequence[Node], counts: Counts, is_over: bool, kinds: int, now: float
) -> dict[str, Any]:
    by = by_kind(counts)
    ended = sum(by.get(kind, 0) for kind in ENDED)
    is_known = not any(each.is_mapped and each.width is None and not each.known.is_final for each in nodes)
    total = sum(counts.values())
    executed = sum(each.executed for each in nodes)
    seconds = run.seconds if is_over else (now - run.started.timestamp() if run.started else None)
    rate = executed / seconds if is_over and seconds else None
    if not is_over and run.timelines and seconds is not None and seconds >= LEAST_SECONDS:
        rate = _recent(run.timelines[-1], now)
    is_waiting = is_over or run.state_name not in ("Running", "Retrying")
    left = (total - ended) / rate if rate and is_known and not is_waiting else None
    return {
        "ended": ended,
        "total": total if is_known else None,
        "share": percent(ended, total) if is_known else "–",
        "rate": rate,
        "seconds": seconds,
        "left": left,
        "failed": by.get("failed", 0),
        "blocked": by.get("blocked", 0),
        "kinds": kinds,
        "cached": by.get("cached", 0),
        "cached_share": percent(by.get("cached", 0), ended),
        "retries": sum(each.retries for each in nodes),
        "retrying": by.get("retrying", 0),
    }


def _recent(timeline: Timeline, now: float) -> float | None:
    """Return items that ended per second lately, of whole bins of time."""
    last = int((now - timeline.origin) / timeline.width)
    bins = max(1, round(RATE_SECONDS / timeline.width))
    first = max(0, last - bins)
    if last <= first:
        return None
    items = sum(sum(lane.items[first:last]) for lane in timeline.lanes.values())
    return items / ((last - first) * timeline.width)


def _table(nodes: Sequence[Node]) -> dict[str, Any]:
    rows = [_row(node) for node in nodes]
    if len(rows) > MOST_NODES:
        rows.sort(key=lambda row: (-row["failed"], -(row["of"] or 0)))
    columns = [
        name
        for name in ("cached", "skipped", "failed", "blocked", "cancelled", "retries")
        if any(row[name] for row in rows)
    ]
    return {
        "rows": rows[:MOST_NODES],
        "count": len(rows),
        "left_out": max(0, len(rows) - MOST_NODES),
        "columns": columns,
        "has_times": any(row["p50"] is not None for row in rows),
    }


def _row(node: Node) -> dict[str, Any]:
    counts = node.counts
    by = by_kind(counts)
    durations = durations_of(node)
    return {
        "name": node.name,
        "state": node.state_code.state_name,
        "counts": counts,
        "ended": sum(by.get(kind, 0) for kind in ENDED),
        "of": node.width if node.is_mapped else 1,
        "p50": None if durations is None else percentile(durations, 0.5),
        "p95": None if durations is None else percentile(durations, 0.95),
        "seconds": node.seconds,
        "retries": node.retries,
        **{name: by.get(name, 0) for name in ("cached", "skipped", "failed", "blocked", "cancelled")},
    }


def numbers_of(node: Node | None) -> dict[str, Any]:
    """Return what the plot of durations says, as numbers."""
    durations = None if node is None else durations_of(node)
    if durations is None:
        return {"marks": [], "slowest": []}
    return {
        "marks": [
            (f"p{part:.0f}", took(percentile(durations, part / 100)))
            for part in (5.0, 25.0, 50.0, 75.0, 95.0, 99.0)
        ],
        "slowest": durations.slowest[:5],
    }


def _columns(run: Run, node: Node | None, launch: int | None) -> tuple[dict[str, Any], dict[str, Any]]:
    timelines = run.timelines
    if launch is not None and not 1 <= launch <= len(timelines):
        raise ValueError(f"run {run.name} has {len(timelines)} launches; there is no launch {launch}")
    which = len(timelines) if launch is None else launch
    timeline = timelines[which - 1] if timelines else None
    found: dict[str, Any] = {}
    said: dict[str, Any] = {"launch": which, "launches": len(timelines), "left_out": "", "workers": []}
    if timeline is not None and timeline.lanes:
        columns, said["left_out"] = plots.timeline_columns(timeline)
        found |= columns
        said["workers"] = [
            (name or "others", sum(lane.busy), sum(lane.items), sum(lane.failures))
            for name, lane in sorted(timeline.lanes.items(), key=lambda each: -sum(each[1].items))[
                : plots.MOST_LANES
            ]
        ]
    durations = None if node is None else durations_of(node)
    if durations is not None:
        found |= plots.duration_columns(durations)
    return found, said


def _log(run: Run) -> dict[str, Any]:
    logs = run.logs
    lines = logs[-LOG_LINES:]
    return {"lines": [log_line(each) for each in lines], "count": len(logs), "dropped": logs.dropped}


def log_line(line: Any) -> dict[str, Any]:
    """Return what is shown of a line of the log."""
    where = "" if not line.node else line.node if line.index is None else f"{line.node}[{line.index}]"
    return {
        "at": moment(line.timestamp),
        "level": line.level,
        "level_name": logging.getLevelName(line.level),
        "where": where,
        "message": line.message,
    }


def _parameters(run: Run) -> Mapping[str, Any]:
    """Return the parameters as they were recorded: as texts, without secrets; of a run that waits, those it was made with."""
    launches = run.launches
    if launches:
        return dict(launches[0].parameters)
    return dict(run.parameters) if run.plan.parameters else {}


def _launches(run: Run) -> list[dict[str, Any]]:
    spans = list(run.spans)
    found = []
    for place, each in enumerate(islice(run.launches, 50)):
        end = spans[place][1] - spans[place][0] if place < len(spans) else None
        found.append({"launch": each, "began": moment(each.began), "seconds": end})
    return found
