"""How a run ended: a table of its nodes, and its failures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, cast

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from graphflow.common.wording import count_text
from graphflow.display.failures import FailureGroup, FailureView, describe, group_failures, merge_groups
from graphflow.display.meter import NodeRow, format_rate, format_seconds
from graphflow.display.next_steps import next_steps
from graphflow.display.tracebacks import full_text, user_text
from graphflow.errors import BackendError, HistoryError, ResultStoreError, UpstreamFailed

if TYPE_CHECKING:
    from graphflow.runs.nodes import Node
    from graphflow.runs.run import Run

__all__ = ["show_end", "show_failures", "show_summary"]

_ROWS_SHOWN = 60
_NODE_WIDTH = 12
_GAP = 3
"""What stands between two columns."""
_GROUPS_SHOWN = 5
_OWN_FAILURES = frozenset({"Failed", "TimedOut", "Crashed", "Indeterminate"})
_LOOKED_AT = 1_000
"""The number of a node's failures up to which each is read; beyond it, only distinct exceptions are."""


def show_end(run: Run, rows: Sequence[NodeRow], console: Console, *, is_verbose: bool = False) -> None:
    """Print a run's summary, its failures unless it completed, and what to type next."""
    if not run.state.is_completed():
        show_failures(run, console, is_verbose=is_verbose)
    show_summary(run, rows, console)
    for line in next_steps(run, width=console.width):
        console.print(line, markup=False, soft_wrap=True)


def show_summary(run: Run, rows: Sequence[NodeRow], console: Console) -> None:
    """Print one line for the run, and a table: nodes as rows, the counts of their items as columns."""
    seconds = run.seconds if run.ended else None
    style = "green" if run.state.is_completed() else "yellow" if run.state.is_cancelled() else "red"
    line = Text.assemble(
        f"{run.flow_name}  run {run.id}  ", (run.state.name, style), f"  {format_seconds(seconds)}"
    )
    if rows:
        console.print(_table(rows, console.width))
    console.print(line, soft_wrap=True)


def _table(rows: Sequence[NodeRow], width: int) -> Table:
    """Return the nodes as a table that is at most `width` wide: columns are left out before a number is cut."""
    rows, left_out = rows[:_ROWS_SHOWN], len(rows) - _ROWS_SHOWN
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("node", overflow="fold")
    table.add_column("state", no_wrap=True)
    columns: list[tuple[str, Callable[[NodeRow], str]]] = [
        ("items", lambda row: _number(row.width) if row.width is not None else "?"),
        ("completed", lambda row: _number(row.completed)),
        ("cached", lambda row: _number(row.cached)),
        ("skipped", lambda row: _number(row.skipped)),
        ("retries", lambda row: _number(row.retries)),
        ("failed", lambda row: _number(row.failed)),
        ("cancelled", lambda row: _number(row.cancelled)),
        ("rate", lambda row: format_rate(row.rate) if row.is_mapped else ""),
        ("time", lambda row: format_seconds(row.seconds)),
    ]
    always = {"items", "completed", "failed", "rate", "time"}
    shown = [(name, cell) for name, cell in columns if name in always or any(cell(row) for row in rows)]
    named = min(_NODE_WIDTH, max((len(row.name) for row in rows), default=0))
    room = width - max((len(row.state.name) for row in rows), default=0) - named - 2 * _GAP
    for droppable in ("rate", "retries", "skipped", "cached", "time", "cancelled", "completed"):
        needed = sum(_GAP + max(len(name), *(len(cell(row)) for row in rows)) for name, cell in shown)
        if needed > room:
            shown = [(name, cell) for name, cell in shown if name != droppable]
    for name, _ in shown:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            Text(row.name), Text(row.state.name, style=_style(row)), *[cell(row) for _, cell in shown]
        )
    if left_out > 0:
        table.add_row(f"… and {left_out:,} more nodes")
    return table


def show_failures(run: Run, console: Console, *, is_verbose: bool = False, only: str | None = None) -> None:
    """Print the failures, grouped by exception, each group with its first traceback and its place.

    Items that failed only because of an upstream failure are counted, not listed. `only` is the name of a node.
    """
    followers = 0
    paragraphs: list[str] = []
    broken: list[str] = []
    for node in run.nodes:
        if node.is_mapped and node.state.message and only in (None, node.name):
            broken.append(f"{node.name} failed apart from its items: {node.state.message}")
        if not _has_failed(node.counts) or only not in (None, node.name):
            continue
        if set(node.counts).isdisjoint(_OWN_FAILURES):
            followers += node.counts["UpstreamFailed"]
            continue
        own: list[FailureView] = []
        failures = node.failures()
        if len(failures) > _LOOKED_AT:
            groups = _storm(node)
            followers += node.counts["UpstreamFailed"]
            others = len(failures) - node.counts["UpstreamFailed"] - sum(group.count for group in groups)
            if others > 0:
                paragraphs.append(
                    f"{count_text(others, 'more item')} of {node.name} failed with rarer exceptions"
                )
        else:
            for failure in failures:
                if isinstance(failure.exception, UpstreamFailed):
                    followers += 1
                elif failure.index is not None or not node.is_mapped:
                    own.append(cast("FailureView", failure))
            groups = group_failures(node.name, own)
        paragraphs += [describe(group, is_verbose=is_verbose) for group in groups[:_GROUPS_SHOWN]]
        if len(groups) > _GROUPS_SHOWN:
            paragraphs.append(
                f"… and {count_text(len(groups) - _GROUPS_SHOWN, 'more kind')} of failure in {node.name}"
            )
    if paragraphs or len(broken) > 1 or only is not None:
        paragraphs += broken
    is_interrupted = run.state.is_cancelled() and not isinstance(run.exception, Exception)
    if run.exception is not None and (not paragraphs or is_verbose) and only is None and not is_interrupted:
        paragraphs.append(_body_failure(run.exception, is_verbose=is_verbose))
    if followers:
        paragraphs.append(f"{count_text(followers, 'dependent task run')} did not start")
    for paragraph in paragraphs:
        console.print(paragraph, markup=False, soft_wrap=True)


def _storm(node: Node) -> list[FailureGroup]:
    """Return the groups of a large number of failures, from their distinct exceptions alone."""
    failures = node.failures()
    parts = []
    for error in node.errors:
        shown = [index for part in error.indices[:9] for index in part[:9]]
        parts.append(
            FailureGroup(
                node.name, cast("FailureView", failures.where(index=shown[0])[0]), shown, error.count
            )
        )
    return merge_groups(parts)


def _body_failure(error: BaseException, *, is_verbose: bool) -> str:
    name = type(error).__name__
    head = f"{name}: {error}" if str(error) else name
    # Where the user's code was says nothing of a store, a disk or a cluster.
    is_ours = isinstance(error, BackendError | HistoryError | ResultStoreError)
    frames = full_text(error) if is_verbose else "" if is_ours else user_text(error)
    return f"{head}\n{frames}" if frames else head


def _has_failed(counts: Iterable[str]) -> bool:
    return not {*_OWN_FAILURES, "UpstreamFailed"}.isdisjoint(counts)


def _number(number: int | None) -> str:
    return f"{number:,}" if number else ""


def _style(row: NodeRow) -> str:
    if row.state.is_completed():
        return "green"
    return "red" if row.state.is_failed() or row.state.is_crashed() else "yellow"
