"""Cache folders and their values, as tables and as JSON documents. Times are ISO 8601 in UTC."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from graphflow.cli.runs.tables import short_time
from graphflow.common.wording import count_text
from graphflow.runs.documents import time_text

if TYPE_CHECKING:
    from graphflow.cache.collecting import FolderStat
    from graphflow.cache.looking import Entry

__all__ = ["entry_of", "nbytes_text", "show_entry", "show_rows", "stat_of"]

_NUMBERS = ("objects", "size", "values", "packs", "large", "expired", "superseded", "damaged")


def nbytes_text(nbytes: float) -> str:
    """Return a size with its unit, such as `1.5 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 1_000 or unit == "GB":
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1_000
    raise AssertionError


def show_rows(columns: Iterable[str], rows: Iterable[Iterable[str]], console: Console) -> None:
    """Print a table."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in _NUMBERS else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def moment(seconds: float | None) -> datetime | None:
    """Return seconds since the epoch as a time; None if there is none."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def stat_of(found: FolderStat) -> dict[str, Any]:
    """Return a folder's counts as a JSON document."""
    document = asdict(found) | {
        "task": found.folder.partition("/")[2],
        "oldest": time_text(moment(found.oldest)),
        "newest": time_text(moment(found.newest)),
    }
    del document["folder"]
    return document


def stat_row(found: FolderStat) -> list[str]:
    """Return a folder's counts as a row."""
    return [
        found.folder.partition("/")[2],
        f"{found.live:,}",
        f"{found.packs:,}",
        f"{found.blobs:,}",
        nbytes_text(found.nbytes),
        f"{found.expired:,}",
        f"{found.superseded:,}",
        f"{found.damaged:,}",
        short_time(moment(found.newest)),
    ]


def entry_of(entry: Entry) -> dict[str, Any]:
    """Return a value's location and origin as a JSON document."""
    made = entry.made
    return {
        "key": entry.key.hex(),
        "task": entry.folder.partition("/")[2],
        "state": _state(entry),
        "created": time_text(moment(made.created)),
        "expires": time_text(moment(entry.expires)),
        "run_id": made.run_id,
        "node": made.node,
        "index": made.index,
        "host": made.host,
        "pack": entry.pack,
        "first_pack": made.pack,
        "object": entry.blob or entry.pack,
        "block_nbytes": entry.nbytes,
        "shared_with": entry.shared_with,
        "serializer": entry.serializer,
        "parts": {name: [each.hex() for each in values] for name, values in entry.parts.items()},
    }


def _state(entry: Entry) -> str:
    return "expired" if entry.is_expired else "current" if entry.is_current else "superseded"


def show_entry(entry: Entry, console: Console, value: str | None) -> None:
    """Print what is known about a cached value."""
    document = entry_of(entry)
    size = nbytes_text(entry.nbytes)
    shared = f", shared by {count_text(entry.shared_with + 1, 'value')}" if entry.shared_with else ""
    lines = [
        f"{document['key']}  {document['task']}  {document['state']}",
        f"  made {document['created']} by run {entry.made.run_id}, {entry.made.node}[{entry.made.index}], on {entry.made.host}",
        f"  expires {document['expires'] or 'never'}",
        f"  {size}{shared}, {entry.serializer}, in {document['object']}",
    ]
    if entry.made.pack != entry.pack:
        lines.append(f"  first in {entry.made.pack}")
    lines += [f"  {name}: {' or '.join(values)}" for name, values in document["parts"].items()]
    if value is not None:
        lines.append(f"  value: {value}")
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
