"""Runs, items and log lines as text."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from graphflow.common.times import moment
from graphflow.common.wording import count_text
from graphflow.display.consoles import time_text
from graphflow.display.meter import format_seconds

if TYPE_CHECKING:
    from graphflow.model.reports import LogRecord
    from graphflow.runs.nodes import Item
    from graphflow.runs.recorded import RecordedRun
    from graphflow.runs.run import Run

__all__ = ["line_text", "show_head", "show_item", "show_items", "show_runs"]

_STYLES = {
    "Completed": "green",
    "Cached": "green",
    "Running": "cyan",
    "Retrying": "cyan",
    "Failed": "red",
    "TimedOut": "red",
    "UpstreamFailed": "red",
    "Crashed": "red",
    "Indeterminate": "red",
    "Paused": "yellow",
    "Cancelled": "yellow",
}


_LEAST_TEXT = 24
"""The width that a column of free text has at least; it is folded."""


def _state(name: str) -> Text:
    return Text(name, style=_STYLES.get(name, ""))


def _table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str | Text]],
    console: Console,
    *,
    leave_out: Sequence[str],
) -> Table:
    """Return a table that fits the console: columns are left out, first one first, before a number or an id is cut."""
    texts = [[each if isinstance(each, Text) else Text(each) for each in row] for row in rows]
    widths = {
        name: max([len(name), *(row[place].cell_len for row in texts)]) for place, name in enumerate(columns)
    }
    shown = list(columns)
    for free in {"error", "value", "why"} & widths.keys():
        widths[free] = min(widths[free], _LEAST_TEXT)
    for name in leave_out:
        if sum(widths[each] + 3 for each in shown) > console.width:
            shown.remove(name)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in shown:
        numeric = name in ("index", "attempts", "time", "items", "failed")
        is_whole = name in ("id", "state", "started") or numeric
        table.add_column(name, justify="right" if numeric else "left", overflow="fold", no_wrap=is_whole)
    for row in texts:
        table.add_row(*[row[columns.index(name)] for name in shown])
    return table


def show_runs(runs: Sequence[RecordedRun], console: Console) -> None:
    """Print a line per run; how many items it has, and how many of these failed, as far as lists know."""
    rows: list[list[str | Text]] = []
    for run in runs:
        seconds = run.seconds if run.ended else None
        counts = None if run.summary is None else run.summary.counts
        rows.append(
            [
                run.id,
                run.name,
                run.flow_name,
                _state(run.state_name),
                time_text(run.started or run.created),
                format_seconds(seconds),
                "" if counts is None else f"{sum(counts.values()):,}",
                "" if counts is None else f"{counts.failed:,}",
                run.why,
            ]
        )
    columns = ["id", "name", "flow", "state", "started", "time", "items", "failed", "why"]
    if not any(row[-1] for row in rows):
        columns.pop()
        rows = [row[:-1] for row in rows]
    leave_out = ("items", "failed", "name", "time", "started")
    console.print(_table(columns, rows, console, leave_out=leave_out))


def show_head(run: Run, console: Console) -> None:
    """Print a run's name, state, parameters and launches."""
    lines = [f"{run.flow_name}  run {run.id}  {run.name}"]
    if run.parameters:
        shown = ", ".join(f"{name}={_cut(str(value))}" for name, value in run.parameters.items())
        lines.append(f"parameters: {shown}")
    if run.plan.deployment:
        nominal = "" if run.plan.nominal is None else f", for {time_text(moment(run.plan.nominal))}"
        lines.append(f"of {run.plan.deployment}{nominal}, made by {run.plan.origin}")
    if run.why:
        lines.append(f"{run.state_name}: {run.why}")
    for launch in run.launches:
        when = time_text(moment(launch.began))
        lines.append(f"{launch.reason}: {when} on {launch.host}, pid {launch.pid}, backend {launch.backend}")
    if run.lease_until is not None:
        lines.append(f"driven by pid {run.pid} on {run.host}; its lease ends at {time_text(run.lease_until)}")
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def _cut(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:117]}..."


def show_items(items: Iterable[Item], console: Console, *, values: Sequence[str] | None = None) -> None:
    """Print a line per item; `values` has one text per item."""
    rows: list[list[str | Text]] = []
    for place, item in enumerate(items):
        error = item.exception
        last = _cut(f"{_type_of(error)}: {getattr(error, 'message', error)}") if error is not None else ""
        if values and error is None:
            last = _cut(values[place])
        rows.append(
            [
                "" if item.index is None else str(item.index),
                item.label,
                _state(item.state.name),
                str(item.attempts),
                time_text(item.started),
                format_seconds(item.duration_seconds),
                last,
            ]
        )
    columns = ("index", "label", "state", "attempts", "started", "time", "value" if values else "error")
    console.print(_table(columns, rows, console, leave_out=("started", "attempts", "time", "label")))


def _type_of(error: BaseException) -> str:
    return str(getattr(error, "type_name", None) or type(error).__name__)


def show_item(item: Item, console: Console) -> None:
    """Print what is known about one item."""
    console.print(f"{item.label}: {item.state.name}, {count_text(item.attempts, 'attempt')}", markup=False)
    for state in item.history:
        said = f"  {state.message}" if state.message else ""
        at = time_text(state.timestamp, timespec="milliseconds")
        console.print(f"  {at}  {state.name}{said}", markup=False, soft_wrap=True)
    if item.worker:
        console.print(f"  worker {item.worker}", markup=False)
    if item.inputs:
        console.print(f"  inputs {item.inputs}", markup=False, soft_wrap=True)
    for line in item.log:
        console.print(f"  {line_text(line)}", markup=False, soft_wrap=True)
    if item.traceback:
        console.print(item.traceback.rstrip(), markup=False, soft_wrap=True)


def line_text(line: LogRecord) -> str:
    """Return a line of the log, with its time."""
    at = time_text(moment(line.timestamp), timespec="milliseconds")
    who = line.node if line.index is None else f"{line.node}[{line.index}]"
    parts = [at, logging.getLevelName(line.level), who or "flow", line.message]
    return " ".join(part for part in parts if part)
