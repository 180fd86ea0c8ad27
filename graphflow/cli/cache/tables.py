"""Tasks' cached results and single values, for people."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from graphflow.common.times import moment
from graphflow.common.wording import count_text
from graphflow.display.consoles import time_text
from graphflow.runs.cache_documents import entry_document

if TYPE_CHECKING:
    from graphflow.runs.caches import Entry, FolderStat

__all__ = ["nbytes_text", "show_entry", "show_rows", "stat_row"]

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
        time_text(moment(found.newest)),
    ]


def show_entry(entry: Entry, console: Console, value: str | None) -> None:
    """Print what is known about a cached value."""
    document = entry_document(entry)
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
