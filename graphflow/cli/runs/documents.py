"""Runs, items and lines of the log as JSON documents. Times are ISO 8601 in UTC, durations seconds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING, Any

from graphflow.cli.terminal import write_data
from graphflow.errors import GraphflowError

if TYPE_CHECKING:
    from graphflow.model.reports import LogRecord
    from graphflow.runs.history import PastItem, PastNode, PastRun

__all__ = [
    "ListFormat",
    "dumped",
    "header_of",
    "item_of",
    "line_of",
    "run_of",
    "time_text",
    "write_documents",
]

SCHEMA = "graphflow.run/1"
_FAILURES_LISTED = 100


class ListFormat(StrEnum):
    """How a list is written: for people, as one JSON array, or as one JSON object per line."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"


def write_documents(documents: Iterable[Mapping[str, Any]], output: ListFormat) -> None:
    """Write documents to stdout; those of JSON lines as they come."""
    if output is ListFormat.JSONL:
        for document in documents:
            write_data(dumped(document))
    else:
        write_data(dumped(list(documents), indent=2))


def dumped(document: Any, *, indent: int | None = None) -> str:
    """A document as JSON; what is no JSON in it is given by its `repr`."""
    return json.dumps(document, ensure_ascii=False, default=repr, indent=indent)


def time_text(moment: datetime | None) -> str | None:
    """A time as ISO 8601 in UTC."""
    return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _duration(started: datetime | None, ended: datetime | None) -> float | None:
    return None if started is None or ended is None else round((ended - started).total_seconds(), 6)


def header_of(run: PastRun) -> dict[str, Any]:
    """What lists of runs tell of one."""
    return {
        "id": run.id,
        "name": run.name,
        "flow": run.flow_name,
        "state": run.state_name,
        "created": time_text(run.created),
        "started": time_text(run.started),
        "ended": time_text(run.ended),
        "duration_seconds": _duration(run.started, run.ended),
        "host": run.host,
        "pid": run.pid,
        "lease_until": time_text(run.lease_until),
    }


def run_of(run: PastRun) -> dict[str, Any]:
    """All of a run but its items: as of `graphflow run -o json`, and where and how often it was driven."""
    state = run.state
    begun = run.replay.begun
    return {
        "schema": SCHEMA,
        **header_of(run),
        "state": {"type": str(state.type), "name": state.name, "message": state.message},
        "parameters": dict(run.parameters),
        "lives": [
            {
                "epoch": life.epoch,
                "reason": life.reason,
                "began": time_text(datetime.fromtimestamp(at, UTC)),
                "host": life.host,
                "pid": life.pid,
                "backend": life.backend,
                "code": life.code,
                "versions": dict(life.versions),
                "results": life.results,
            }
            for at, life in zip(begun, run.lives, strict=True)
        ],
        "logs": {"lines": run.logs_total, "dropped": run.logs_dropped},
        "nodes": [_node(node) for node in run.nodes],
    }


def _node(node: PastNode) -> dict[str, Any]:
    return {
        "id": node.id,
        "name": node.name,
        "task": node.task_name,
        "group": node.group,
        "state": node.state.name,
        "is_mapped": node.is_mapped,
        "width": node.width,
        "counts": dict(node.counts),
        "retries": node.retries,
        "options": node.options,
        "started": time_text(node.started),
        "ended": time_text(node.ended),
        "duration_seconds": _duration(node.started, node.ended),
        "failures": [
            {
                "index": item.index,
                "label": item.label,
                "attempts": item.attempts,
                "exception": exception_of(item),
            }
            for item in islice(node.failures(), _FAILURES_LISTED)
        ],
    }


def exception_of(item: PastItem) -> dict[str, str] | None:
    """What an item failed with."""
    error = item.exception
    if error is None:
        return None
    return {
        "type": str(getattr(error, "type_name", None) or type(error).__name__),
        "message": str(getattr(error, "message", None) or error),
        "traceback": item.traceback,
    }


def item_of(item: PastItem, *, values: bool = False, details: bool = False) -> dict[str, Any]:
    """An item: with its value where that is asked for, with its history and log for `details`."""
    document: dict[str, Any] = {
        "node": item.node.name,
        "index": item.index,
        "label": item.label,
        "state": item.state.name,
        "attempts": item.attempts,
        "started": time_text(item.started),
        "ended": time_text(item.ended),
        "duration_seconds": item.duration_seconds,
        "worker": item.worker,
        "exception": exception_of(item),
    }
    if details:
        document["inputs"] = item.inputs
        document["history"] = [
            {"state": state.name, "at": time_text(state.timestamp), "message": state.message}
            for state in item.history
        ]
        document["log"] = [line_of(line) for line in item.log]
    if values:
        document |= _value_of(item)
    return document


def _value_of(item: PastItem) -> dict[str, Any]:
    if not item.state.is_completed() or item.state.name == "Skipped":
        return {"value": None}
    try:
        value = item.value
    except GraphflowError as error:
        return {"value": None, "value_error": str(error)}
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return {"value": None, "value_repr": repr(value)}
    return {"value": value}


def line_of(line: LogRecord) -> dict[str, Any]:
    """A line of the log."""
    return {
        "at": time_text(datetime.fromtimestamp(line.timestamp, UTC)),
        "level": line.level,
        "logger": line.logger,
        "node": line.node,
        "index": line.index,
        "attempt": line.attempt,
        "worker": line.worker,
        "message": line.message,
    }
