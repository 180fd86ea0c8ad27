"""`graphflow cache why`: why an item of a run was executed, or where its value comes from."""

from __future__ import annotations

import json
import re
from enum import StrEnum
from typing import Annotated, Any

import typer

from graphflow.cli import completing
from graphflow.cli.exits import ExitCode, errors_become_exit_codes
from graphflow.cli.terminal import say_error, write_data
from graphflow.display.consoles import make_console
from graphflow.errors import GraphflowError

__all__ = ["why"]

_MEANINGS = {
    "code": "the code of the task, or a function, class or definition that it uses, has changed",
    "global": "this variable, which the task or a function that it calls uses, had another value",
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
            metavar="RUN",
            help="A run id, a unique prefix of one, a run name, @latest or @latest-failed.",
            autocompletion=completing.run_ids,
        ),
    ],
    item: Annotated[
        str,
        typer.Argument(
            metavar="NODE[INDEX]",
            help="An item of a map, such as fetch[3], or a task's name.",
            autocompletion=completing.nodes,
        ),
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
    from graphflow.runs.cache_documents import reason_document
    from graphflow.runs.caching_reasons import caching_reason
    from graphflow.runs.history import history

    name, index = _parsed(item)
    with errors_become_exit_codes(), history() as known:
        try:
            found = caching_reason(known.run(run), name, index, storage=storage)
        except ValueError as error:
            if isinstance(error, GraphflowError):
                raise
            say_error(str(error))
            raise typer.Exit(ExitCode.USAGE) from None
        document = reason_document(found)
    if output is WhyFormat.json:
        write_data(json.dumps(document, indent=2, ensure_ascii=False))
        return
    console = make_console(stdout=True)
    for line in _lines(document, found.storage):
        console.print(line, markup=False, soft_wrap=True, highlight=False)


def _parsed(item: str) -> tuple[str, int | None]:
    match = re.fullmatch(r"(.+)\[(\d+)\]", item)
    return (match[1], int(match[2])) if match else (item, None)


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
        meaning = _MEANINGS.get(part.partition(" ")[0] if part.startswith("global ") else part, "")
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
