"""Lists of runs and the overview, from what the catalog knows: no history is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias
from urllib.parse import urlencode

from markupsafe import Markup, escape

from graphflow.common.escaping import printable
from graphflow.dashboard.parts import by_kind
from graphflow.dashboard.rendering import render
from graphflow.dashboard.runpage import ENDED
from graphflow.dashboard.texts import percent, took
from graphflow.model.looks import kind_of

__all__ = ["ACTIVE", "FAILED", "STATES", "overview_page", "runs_page"]

Run: TypeAlias = Any
"""A recorded run, of `runs`, which are above this folder."""

STATES = ("Running", "Pending", "Paused", "Completed", "Failed", "Crashed", "Cancelled")
ACTIVE = (
    "Running",
    "Pending",
    "Scheduled",
    "Late",
    "Retrying",
    "AwaitingRetry",
    "Paused",
    "Resuming",
    "Cancelling",
)
FAILED = ("Failed", "Crashed", "TimedOut")
BARS = 60


def row_of(run: Run) -> dict[str, Any]:
    """Return a run as a row."""
    summary = run.summary
    counts = None if summary is None else summary.counts
    by = {} if counts is None else by_kind(counts)
    ended = sum(by.get(kind, 0) for kind in ENDED)
    return {
        "id": run.id,
        "name": run.name,
        "flow": run.flow_name,
        "state": run.state_name,
        "created": run.created,
        "started": run.started,
        "ended": run.ended,
        "seconds": run.seconds if run.ended else None,
        "host": run.host,
        "counts": counts,
        "ended_items": ended,
        "failed": by.get("failed", 0),
        "share": "–" if counts is None else percent(ended, sum(counts.values())),
        "message": run.why or ("" if summary is None else summary.message or "; ".join(summary.failures[:1])),
    }


def runs_page(
    runs: Sequence[Run],
    *,
    base: str,
    following: str | None,
    flow: str = "",
    state: Sequence[str] = (),
    since: str = "",
    note: str = "",
) -> Markup:
    """Return the list of runs; `following` is the cursor of the next page, `note` what was not found."""
    kept = {"flow": flow, "since": since}
    kept = {name: value for name, value in kept.items() if value}
    pairs: list[tuple[str, str]] = [*kept.items(), *(("state", each) for each in state)]
    return Markup(
        render(
            "parts/runs.html",
            base=base,
            runs=[row_of(each) for each in runs],
            states=STATES,
            state=state,
            flow=flow,
            since=since,
            note=note,
            kept=f"?{urlencode(kept)}" if kept else "",
            older=f"{base}runs?{urlencode(pairs)}{'&' if pairs else ''}",
            following=following,
            filtered=bool(pairs),
        )
    )


def overview_page(
    *,
    base: str,
    running: Sequence[Run],
    failed: Sequence[Run],
    ended: Sequence[Run],
    due: Sequence[Mapping[str, Any]],
) -> Markup:
    """Return what runs, what failed lately, what ended, and what is due next."""
    return Markup(
        render(
            "parts/overview.html",
            base=base,
            running=[row_of(each) for each in running],
            failed=[row_of(each) for each in failed],
            ended=ended,
            bars=_bars(list(reversed(ended[:BARS])), base),
            due=due,
        )
    )


def _bars(runs: Sequence[Run], base: str) -> Markup:
    """Return a bar for each run, as high as the root of how long it took; oldest first."""
    longest = max((run.seconds or 0.0 for run in runs), default=0.0) or 1.0
    drawn = []
    for place, run in enumerate(runs):
        height = max(3.0, 56 * ((run.seconds or 0.0) / longest) ** 0.5)
        text = escape(printable(f"{run.name}: {run.state_name}, {took(run.seconds)}"))
        x = 14 * (BARS - len(runs) + place)
        drawn.append(
            f'<a href="{base}runs/{run.id}" aria-label="{text}"><rect class="f-{kind_of(run.state_name)}" x="{x}"'
            f' y="{56 - height:.1f}" width="11" height="{height:.1f}" rx="2"><title>{text}</title></rect></a>'
        )
    return Markup(
        f'<svg class="ended" viewBox="0 0 {14 * BARS} 56" preserveAspectRatio="xMaxYMax meet">{"".join(drawn)}</svg>'
    )
