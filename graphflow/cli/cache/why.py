"""`graphflow cache why`: why an item of a run was executed, or where its value comes from."""

from __future__ import annotations

import json
import logging
import math
import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphflow.cli.exits import ExitCode, errors_become_exit_codes
from graphflow.cli.terminal import make_console, say_error, write_data
from graphflow.common.wording import count_text
from graphflow.runs.documents import time_text

if TYPE_CHECKING:
    from graphflow.cache.reasons import CacheEntry, Reason
    from graphflow.runs.nodes import Item, Node
    from graphflow.runs.run import Run

__all__ = ["why"]

_MEANINGS = {
    "code": "the code of the task, or a function, class or constant that it uses, has changed",
    "cache_version": "cache_version has changed",
    "flow parameters": "the flow was called with other parameters",
    "run id": "it is a different run, and the policy includes RUN_ID",
    "cache_key_fn": "cache_key_fn returned a different text",
    "partial": "the arguments of functools.partial differ",
    "argument self": "the object that the method belongs to differs",
}


class WhyFormat(StrEnum):
    """How the answer is written."""

    text = "text"
    json = "json"


def why(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="A run id, a unique prefix of one, a run name, @latest or @latest-failed."
        ),
    ],
    item: Annotated[
        str,
        typer.Argument(metavar="NODE[INDEX]", help="An item of a map, such as fetch[3], or a task's name."),
    ],
    storage: Annotated[
        str | None,
        typer.Option("--storage", metavar="URL", help="The task's result store, if not the default one."),
    ] = None,
    output: Annotated[WhyFormat, typer.Option("--output", "-o", help="Output format.")] = WhyFormat.text,
) -> None:
    """Explain why an item was executed instead of read from the cache.

    Shows which part of its key differs from the nearest earlier entry.

    Exit codes: 0 explained, 4 no such run, node or item.
    """
    from graphflow.cache.collecting import folders_of
    from graphflow.cache.reasons import folders_for, reason_of
    from graphflow.results.stores.opening import default_store_url, open_store
    from graphflow.runs.history import history

    name, index = _parsed(item)
    with errors_become_exit_codes(), history() as known:
        found = known.run(run)
        node, one = _item_of(found, name, index)
        cached = one.cached_from
        place = storage or (cached.store if cached is not None else default_store_url())
        store = open_store(place)
        folders = folders_for(folders_of(store), [re.sub(r"[^A-Za-z0-9_]+", "_", node.task_name)])
        reason = reason_of(
            store,
            folders,
            run_id=found.id if cached is None else cached.run_id,
            node=node.name if cached is None else cached.node,
            index=(one.index or 0) if cached is None else cached.index,
        )
        document = _document(found, node, one, reason)
    if output is WhyFormat.json:
        write_data(json.dumps(document, indent=2, ensure_ascii=False))
        return
    console = make_console(stdout=True)
    for line in _lines(document, place):
        console.print(line, markup=False, soft_wrap=True, highlight=False)


def _parsed(item: str) -> tuple[str, int | None]:
    match = re.fullmatch(r"(.+)\[(\d+)\]", item)
    return (match[1], int(match[2])) if match else (item, None)


def _item_of(run: Run, name: str, index: int | None) -> tuple[Node, Item]:
    if name not in [each.name for each in run.nodes]:
        names = ", ".join(each.name for each in run.nodes if not each.is_builtin)
        what = f"no node {name!r}; it has {names}" if names else "no nodes"
        say_error(f"run {run.id} has {what}")
        raise typer.Exit(ExitCode.NOT_FOUND)
    node = run.nodes[name]
    if node.is_mapped and index is None:
        say_error(
            f"{name} is a map of {count_text(len(node.items), 'item')}; choose one, such as '{name}[0]'"
        )
        raise typer.Exit(ExitCode.USAGE)
    if (index or 0) >= len(node.items):
        say_error(f"{name} has {count_text(len(node.items), 'item')}; there is no item {index}")
        raise typer.Exit(ExitCode.NOT_FOUND)
    return node, node.items[index or 0]


def _document(run: Run, node: Node, item: Item, reason: Reason | None) -> dict[str, Any]:
    """Return what is known as a JSON document."""
    label = f"{node.name}[{item.index}]" if node.is_mapped else node.name
    cached = item.cached_from
    document: dict[str, Any] = {
        "item": label,
        "run_id": run.id,
        "state": item.state.name,
        "cached_from": None,
        "key": None,
        "entry": None,
        "equal": None,
        "nearest": None,
        "differs": [],
        "agrees": [],
        "notes": [],
    }
    if cached is not None:
        document["cached_from"] = {
            "run_id": cached.run_id,
            "node": cached.node,
            "index": cached.index,
            "host": cached.host,
            "created": time_text(cached.created),
        }
    if reason is not None:
        document |= {
            "key": reason.own.key.hex(),
            "entry": _entry(reason.own),
            "equal": None if reason.equal is None else _entry(reason.equal),
            "nearest": None if reason.nearest is None else _entry(reason.nearest),
            "differs": list(reason.differs),
            "agrees": list(reason.agrees),
        }
    elif cached is None:
        lines = run.logs.where(node=node.name, level=logging.WARNING)
        document["notes"] = [line.message for line in lines if line.logger == "graphflow.cache"]
    return document


def _entry(entry: CacheEntry) -> dict[str, Any]:
    made = entry.made
    return {
        "key": entry.key.hex(),
        "run_id": made.run_id,
        "node": made.node,
        "index": made.index,
        "host": made.host,
        "created": time_text(_moment(made.created)),
        "expires": None if math.isinf(entry.expires) else time_text(_moment(entry.expires)),
    }


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _lines(document: dict[str, Any], place: str) -> list[str]:
    label, own = document["item"], document["entry"]
    origin = document["cached_from"]
    if origin is not None:
        lines = [f"{label} was not executed: its value was computed by {_who(origin)}."]
        if own is not None:
            parts = ", ".join(sorted([*document["agrees"], *document["differs"]]))
            lines.append(f"Its key is {own['key']}, made of: {parts or 'the task alone'}.")
        return lines
    if own is None:
        return [f"{label} is {document['state']}, and {place} has no entry for it.", *_why_none(document)]
    lines = [f"{label} was executed, and its value was stored under the key {own['key']}."]
    equal = document["equal"]
    if equal is not None:
        lines.append(f"The same key had an entry of {_who(equal)}, which was not used:")
        if equal["expires"] is not None and equal["expires"] <= own["created"]:
            lines.append(f"  it had expired at {equal['expires']}")
        else:
            lines.append(
                "  refresh_cache was set, or the entry was damaged, or both were executed at the same time"
            )
        return lines
    if document["nearest"] is None:
        lines.append("This task had no earlier entry.")
        return lines
    lines.append("No earlier entry has this key. The nearest one:")
    return lines + _difference(document)


def _difference(document: dict[str, Any]) -> list[str]:
    lines = [f"  {_who(document['nearest'])}"]
    for part in document["differs"]:
        meaning = _MEANINGS.get(part, "")
        lines.append(f"  differs: {part}{': ' + meaning if meaning else ''}")
    if not document["differs"]:
        lines.append(
            "  no recorded part differs: the names of the arguments, or the way keys are made, must have changed"
        )
    if document["agrees"]:
        lines.append(f"  the same: {', '.join(document['agrees'])}")
    return lines


def _who(entry: dict[str, Any]) -> str:
    return f"{entry['node']}[{entry['index']}] of run {entry['run_id']}, made {entry['created']} on {entry['host']}"


def _why_none(document: dict[str, Any]) -> list[str]:
    if document["notes"]:
        return ["The run's log says:", *(f"  {note}" for note in document["notes"])]
    if document["state"] != "Completed":
        return ["Only completed items are cached, never failures."]
    return [
        "Possible reasons:",
        "  the task does not ask for caching (cache_policy=, cache_expiration=, cache_version=, ...), or has NO_CACHE",
        "  its cache_key_fn returned None for the item",
        "  the entry has been removed since, by `graphflow cache gc` or `rm`",
        "  its results are stored elsewhere: use --storage URL",
    ]
