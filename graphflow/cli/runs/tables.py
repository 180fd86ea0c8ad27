"""Runs, items and log lines as text."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from graphflow.common.times import moment
from graphflow.common.wording import count_text
from graphflow.display.meter import format_seconds

if TYPE_CHECKING:
    from graphflow.model.reports import LogRecord
    from graphflow.runs.nodes import Item
    from graphflow.runs.run import Run

__all__ = ["line_text", "short_time", "show_head", "show_item", "show_items", "show_runs"]

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


def short_time(at: datetime | None) -> str:
    """Return a time in UTC, to the second."""
    return "" if at is None else at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _state(name: str) -> Text:
    return Text(name, style=_STYLES.get(name, ""))


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        numeric = column in ("index", "attempts", "time")
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    return table


def show_runs(runs: Sequence[Run], console: Console) -> None:
    """Print a line per run."""
    table = _table("id", "name", "flow", "state", "started", "time")
    for run in runs:
        seconds = run.seconds if run.ended else None
        table.add_row(
            Text(run.id),
            Text(run.name),
            Text(run.flow_name),
            _state(run.state_name),
            short_time(run.started or run.created),
            format_seconds(seconds),
        )
    console.print(table)


def show_head(run: Run, console: Console) -> None:
    """Print a run's name, state, parameters and launches."""
    lines = [f"{run.flow_name}  run {run.id}  {run.name}"]
    if run.parameters:
        shown = ", ".join(f"{name}={_cut(str(value))}" for name, value in run.parameters.items())
        lines.append(f"parameters: {shown}")
    for launch in run.launches:
        when = short_time(moment(launch.began))
        lines.append(f"{launch.reason}: {when} on {launch.host}, pid {launch.pid}, backend {launch.backend}")
    if run.lease_until is not None:
        lines.append(
            f"driven by pid {run.pid} on {run.host}; its lease ends at {short_time(run.lease_until)}"
        )
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def _cut(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:117]}..."


def show_items(items: Iterable[Item], console: Console, *, values: Sequence[str] | None = None) -> None:
    """Print a line per item; `values` has one text per item."""
    table = _table("index", "label", "state", "attempts", "started", "time", "value" if values else "error")
    for place, item in enumerate(items):
        error = item.exception
        last = _cut(f"{_type_of(error)}: {getattr(error, 'message', error)}") if error is not None else ""
        if values and error is None:
            last = _cut(values[place])
        table.add_row(
            "" if item.index is None else str(item.index),
            Text(item.label),
            _state(item.state.name),
            str(item.attempts),
            short_time(item.started),
            format_seconds(item.duration_seconds),
            Text(last),
        )
    console.print(table)


def _type_of(error: BaseException) -> str:
    return str(getattr(error, "type_name", None) or type(error).__name__)


def show_item(item: Item, console: Console) -> None:
    """Print what is known about one item."""
    console.print(f"{item.label}: {item.state.name}, {count_text(item.attempts, 'attempt')}", markup=False)
    for state in item.history:
        said = f"  {state.message}" if state.message else ""
        at = state.timestamp.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
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
    """Return a line of the log, with its time in UTC."""
    at = moment(line.timestamp).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    who = line.node if line.index is None else f"{line.node}[{line.index}]"
    parts = [at, logging.getLevelName(line.level), who or "flow", line.message]
    return " ".join(part for part in parts if part)
