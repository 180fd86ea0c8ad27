"""What notebooks show of runs, nodes and items: nothing is read that `repr` would not, but for the first failures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, TypeAlias

from graphflow.errors import ValueUnavailable
from graphflow.model.html import Markup, badge, bar, box, duration, element, local_time, table

Item: TypeAlias = Any
Node: TypeAlias = Any
Run: TypeAlias = Any
"""The views of `runs`, which show themselves by this module."""

__all__ = ["items_html", "node_html", "nodes_table", "run_html", "run_parts", "runs_html"]

_MOST_NODES = 60
_MOST_ITEMS = 20
_MOST_RUNS = 50
_FEW_FAILURES = 5


def run_html(run: Run) -> str:
    """Return a run: its state, its nodes, and its first failures."""
    return box(*run_parts(run))


def run_parts(run: Run) -> list[Markup]:
    """Return the same in parts, for a page that has more."""
    seconds = run.seconds if run.ended else None
    head = element(
        "div",
        element("b", run.flow_name),
        "  ",
        badge(run.state_name),
        "  ",
        element("code", run.id),
        "  ",
        element("span", duration(seconds) if seconds is not None else local_time(run.started), class_="m"),
    )
    parts = [head]
    message = run.state.message
    if message:
        parts.append(element("div", message, class_="m"))
    try:
        nodes = [node for node in run.nodes if not node.is_builtin]
    except ValueUnavailable:
        return parts
    if nodes:
        parts.append(nodes_table(nodes))
    failed = [item for node in nodes for item in islice(_failures(node), _FEW_FAILURES)][:_FEW_FAILURES]
    if failed:
        parts.append(_items_table(failed))
    return parts


def _failures(node: Node) -> Iterable[Item]:
    counts = node.counts
    if any(counts.get(name) for name in ("Failed", "TimedOut", "Crashed", "Indeterminate")):
        found: Iterable[Item] = node.failures()
        return found
    return ()


def nodes_table(nodes: Sequence[Node]) -> Markup:
    """Return nodes with bars and counts."""
    head = ["node", "state", "", "items", "failed", "cached", "time"]
    rows = []
    for node in nodes[:_MOST_NODES]:
        counts = node.counts
        bad = sum(
            counts.get(name, 0)
            for name in ("Failed", "TimedOut", "Crashed", "Indeterminate", "UpstreamFailed")
        )
        width = node.width if node.is_mapped else 1
        seconds = node.seconds if node.ended else None
        rows.append(
            [
                node.name,
                badge(node.state.name),
                bar(counts, width),
                "?" if width is None else f"{width:,}",
                f"{bad:,}" if bad else "",
                f"{counts['Cached']:,}" if counts.get("Cached") else "",
                duration(seconds) if seconds is not None else "",
            ]
        )
    found = table(head, rows, numbers=("items", "failed", "cached", "time"))
    if len(nodes) > _MOST_NODES:
        return Markup(found + element("div", f"… and {len(nodes) - _MOST_NODES:,} more nodes", class_="m"))
    return found


def node_html(node: Node) -> str:
    """Return a node: its state, a bar, and its first failures."""
    failed = list(islice(_failures(node), _FEW_FAILURES))
    return box(nodes_table([node]), *([_items_table(failed)] if failed else []))


def items_html(items: Sequence[Item]) -> str:
    """Return items as a table, the first of them if there are many."""
    parts = [_items_table(items[:_MOST_ITEMS])]
    if len(items) > _MOST_ITEMS:
        parts.append(element("div", f"… and {len(items) - _MOST_ITEMS:,} more", class_="m"))
    return box(*parts)


def _items_table(items: Sequence[Item]) -> Markup:
    rows = [
        [
            item._node.name if item.index is None else f"{item._node.name}[{item.index}]",
            item.label or "",
            badge(item.state.name),
            element("code", item.state.message or ""),
            item.attempts,
        ]
        for item in items
    ]
    return table(["item", "label", "state", "message", "attempts"], rows, numbers=("attempts",))


def runs_html(runs: Sequence[Run]) -> str:
    """Return runs as a table, newest first as they come."""
    rows = [
        [
            element("code", run.id),
            run.flow_name,
            badge(run.state_name),
            local_time(run.created),
            duration(run.seconds) if run.ended and run.seconds is not None else "–",
        ]
        for run in runs[:_MOST_RUNS]
    ]
    parts = [table(["run", "flow", "state", "created", "took"], rows, numbers=("took",))]
    if len(runs) > _MOST_RUNS:
        parts.append(element("div", f"… and {len(runs) - _MOST_RUNS:,} more", class_="m"))
    return box(*parts)
