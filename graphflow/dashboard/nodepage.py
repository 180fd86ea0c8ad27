"""The pages of a node and of one of its items, in parts as those of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias
from urllib.parse import quote

from markupsafe import Markup

from graphflow.dashboard import plots
from graphflow.dashboard.parts import strip
from graphflow.dashboard.rendering import render
from graphflow.dashboard.runpage import durations_of, is_ended, log_line, numbers_of

__all__ = ["PAGE", "Page", "item_page", "node_page"]

Node: TypeAlias = Any
Run: TypeAlias = Any
"""The views of `runs`, which are above this folder."""

PAGE = 50
Page: TypeAlias = tuple[dict[str, Markup], dict[str, Any] | None, bool]
"""Parts as HTML, the columns of plots where there are any, and whether nothing of it changes any more."""


def node_page(run: Run, name: str, *, base: str, state: str = "", start: int = 0) -> Page:
    """Return the page of a node: its bar, strip, durations, and 50 items of a state, from an index on.

    Raises
    ------
    KeyError
        If there is no such node.
    ValueError
        If there is no such state.
    """
    node = run.nodes[name]
    here = f"{base}runs/{run.id}"
    durations = durations_of(node)
    columns = {} if durations is None else plots.duration_columns(durations)
    common = {
        "run": run,
        "node": node,
        "base": base,
        "here": here,
        "address": f"{here}/nodes/{quote(name, safe='')}",
        "is_over": is_ended(run),
    }
    chosen = node.items.where(states=state or None, start=start)
    # How many match in all, whatever the page; counts know it.
    counts = {each: count for each, count in node.counts.items() if count}
    page = chosen[:PAGE]
    contexts: Mapping[str, Mapping[str, Any]] = {
        "head": {"options": node.options, "message": node.state.message, "strip": strip(node)},
        "items": {
            "state": state,
            "start": start,
            "counts": counts,
            "size": node.known.size,
            "matching": counts.get(state, 0) if state else node.known.size,
            "items": [_item_row(each) for each in page],
            "following": chosen[PAGE].index if len(chosen) > PAGE else None,
        },
        "side": {
            "columns": columns,
            "durations": numbers_of(node),
            "slowest": [] if durations is None else durations.slowest,
        },
    }
    parts = {
        key: Markup(render(f"parts/node_{key}.html", **common, **each)) for key, each in contexts.items()
    }
    return parts, columns, bool(common["is_over"])


def _item_row(item: Any) -> dict[str, Any]:
    return {
        "index": item.index or 0,
        "label": item.label,
        "state": item.state.name,
        "attempts": item.attempts,
        "started": item.started,
        "seconds": item.duration_seconds,
        "worker": item.worker,
    }


def item_page(run: Run, name: str, index: int, *, base: str) -> Page:
    """Return the page of an item: all its states, exception, inputs and log. Its value is not read.

    Raises
    ------
    KeyError, IndexError
        If there is no such node or item.
    """
    node = run.nodes[name]
    item = node.items[index]
    here = f"{base}runs/{run.id}"
    cached = item.cached_from
    part = render(
        "parts/item.html",
        run=run,
        node=node,
        item=item,
        base=base,
        here=here,
        address=f"{here}/nodes/{quote(name, safe='')}",
        error=_error(item),
        lines=[log_line(each) for each in item.log],
        cached="" if cached is None else str(cached),
    )
    return {"item": Markup(part)}, None, is_ended(run)


def _error(item: Any) -> dict[str, str] | None:
    error = item.exception
    if error is None:
        return None
    return {
        "type": str(getattr(error, "type_name", None) or type(error).__name__),
        "message": str(getattr(error, "message", None) or error),
        "traceback": item.traceback,
    }
