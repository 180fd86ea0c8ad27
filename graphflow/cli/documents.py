"""Documents on stdout: a list as one JSON array, or as one JSON object per line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer

from graphflow.cli.exits import ExitCode
from graphflow.cli.terminal import OutputFormat, say_error, write_data
from graphflow.display.consoles import make_console

__all__ = ["ListFormat", "Outcome", "dumped", "parse_data", "tell", "write_documents"]

Outcome = Annotated[OutputFormat, typer.Option("--output", "-o", help="Output format.")]
"""The option of a command that does something and has one thing to tell."""


class ListFormat(StrEnum):
    """How a list is written: as a table, as one JSON array, or as one JSON object per line."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"


def write_documents(documents: Iterable[Mapping[str, Any]], output: ListFormat, schema: str) -> None:
    """Write documents to stdout, each with the name of its schema; JSON lines are written as they arrive."""
    named = ({"schema": schema, **document} for document in documents)
    if output is ListFormat.JSONL:
        for document in named:
            write_data(dumped(document))
    else:
        write_data(dumped(list(named), indent=2))


def tell(text: str, output: OutputFormat, schema: str, **document: Any) -> None:
    """Say on stderr what a command has done, or write it as a document to stdout."""
    if output is OutputFormat.JSON:
        write_data(dumped({"schema": schema, **document}, indent=2))
    else:
        make_console().print(text, markup=False, soft_wrap=True)


def dumped(document: Any, *, indent: int | None = None) -> str:
    """Return a document as JSON text; values that JSON cannot represent become their `repr`."""
    return json.dumps(document, ensure_ascii=False, default=repr, indent=indent)


def parse_data(data: str | None) -> dict[str, Any]:
    """Return the JSON object that `--data` is."""
    if data is None:
        return {}
    try:
        found = json.loads(data)
    except ValueError as error:
        found = error
    if not isinstance(found, dict):
        say_error(f'--data must be a JSON object such as {{"n": 1}}, not {data!r}')
        raise typer.Exit(ExitCode.USAGE)
    return found
