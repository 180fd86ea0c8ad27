"""Documents on stdout: a list as one JSON array, or as one JSON object per line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

from graphflow.cli.terminal import write_data

__all__ = ["ListFormat", "dumped", "write_documents"]


class ListFormat(StrEnum):
    """How a list is written: as a table, as one JSON array, or as one JSON object per line."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"


def write_documents(documents: Iterable[Mapping[str, Any]], output: ListFormat) -> None:
    """Write documents to stdout; JSON lines are written as they arrive."""
    if output is ListFormat.JSONL:
        for document in documents:
            write_data(dumped(document))
    else:
        write_data(dumped(list(documents), indent=2))


def dumped(document: Any, *, indent: int | None = None) -> str:
    """Return a document as JSON text; values that JSON cannot represent become their `repr`."""
    return json.dumps(document, ensure_ascii=False, default=repr, indent=indent)
