"""Runs, items and log lines as JSON documents: the same from every command and program.

Times are ISO 8601 in UTC, durations seconds. `run.schema.json` beside this module is the JSON Schema of a run.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from itertools import islice, zip_longest
from math import inf
from typing import Any

from graphflow.common.times import moment
from graphflow.errors import GraphflowError, RemoteError
from graphflow.model.records import Launch
from graphflow.model.reports import LogRecord
from graphflow.records.spans import Span
from graphflow.runs.nodes import Item, Node
from graphflow.runs.recorded import RecordedRun
from graphflow.runs.run import Run

__all__ = [
    "header_document",
    "item_document",
    "line_document",
    "listed_document",
    "run_document",
    "run_schema",
    "time_text",
    "value_document",
    "value_text",
]

SCHEMA = "graphflow.run/1"
FAILURES_LISTED = 100


@cache
def run_schema() -> dict[str, Any]:
    """Return the JSON Schema of every `run_document`."""
    text = resources.files("graphflow.runs").joinpath("run.schema.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def value_text(value: Any) -> str:
    """Return a value as JSON where it can be JSON, else its `repr`."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return repr(value)


def value_document(value: Any) -> dict[str, Any]:
    """Return `value`, or null and `value_repr` where it is not JSON."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return {"value": None, "value_repr": repr(value)}
    return {"value": value}


def time_text(at: datetime | None) -> str | None:
    """Return a time as ISO 8601 in UTC."""
    return None if at is None else at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


def header_document(run: Run) -> dict[str, Any]:
    """Return a run's entry in a list of runs."""
    return {
        "id": run.id,
        "name": run.name,
        "flow": run.flow_name,
        "state": run.state_name,
        "created": time_text(run.created),
        "started": time_text(run.started),
        "ended": time_text(run.ended),
        "duration_seconds": _rounded(run.seconds) if run.ended else None,
        "host": run.host,
        "pid": run.pid,
        "lease_until": time_text(run.lease_until),
        "deployment": run.plan.deployment or None,
        "nominal": time_text(moment(run.plan.nominal)),
        "origin": run.plan.origin or None,
        "why": run.why or None,
    }


def listed_document(run: RecordedRun) -> dict[str, Any]:
    """Return a recorded run's entry in a list, with items by state as far as lists know, else null; reads no history."""
    summary = run.summary
    return {**header_document(run), "counts": None if summary is None else dict(summary.counts)}


def run_document(run: Run, *, values: bool = True) -> dict[str, Any]:
    """Return a run without its items: its value, its launches, and its nodes with counts and failures.

    Without `values`, the value is null: nothing is unpickled.
    A node lists its first 100 failures; `counts` has them all. O(nodes + failures listed).
    """
    state, launches = run.state, run.launches
    return {
        "schema": SCHEMA,
        **header_document(run),
        "state": {"type": str(state.type), "name": state.name, "message": state.message},
        "parameters": dict(launches[0].parameters) if launches else {},
        **(_value_of(run) if values else {"value": None}),
        "exception": _exception(run.exception, run.traceback),
        "launches": [
            _launch(launch, span) for launch, span in zip_longest(launches, run.spans[: len(launches)])
        ],
        "logs": {"lines": len(run.logs), "dropped": run.logs.dropped},
        "nodes": [_node(node) for node in run.nodes],
    }


def _launch(launch: Launch, span: Span | None) -> dict[str, Any]:
    return {
        "duration_seconds": None if span is None or span[1] == inf else _rounded(span[1] - span[0]),
        "epoch": launch.epoch,
        "reason": launch.reason,
        "began": time_text(moment(launch.began)),
        "host": launch.host,
        "pid": launch.pid,
        "backend": launch.backend,
        "code": launch.code,
        "versions": dict(launch.versions),
        "settings": {name: str(value) for name, value in launch.settings.items()},
        "results": launch.results,
    }


def _node(node: Node) -> dict[str, Any]:
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
        "duration_seconds": _rounded(node.seconds) if node.ended else None,
        "executed": node.executed,
        "failures": [
            {
                "index": item.index,
                "label": item.label,
                "attempts": item.attempts,
                "exception": _exception(item.exception, item.traceback),
            }
            for item in islice(node.failures(), FAILURES_LISTED)
        ],
    }


def _exception(error: BaseException | None, traceback: str) -> dict[str, str] | None:
    if error is None:
        return None
    return {
        "type": error.type_name if isinstance(error, RemoteError) else type(error).__name__,
        "message": error.message if isinstance(error, RemoteError) else str(error),
        "traceback": traceback,
    }


def item_document(item: Item, *, values: bool = False, details: bool = False) -> dict[str, Any]:
    """Return an item: with its value for `values`, with its history and log for `details`."""
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
        "exception": _exception(item.exception, item.traceback),
    }
    if details:
        document["inputs"] = item.inputs
        document["history"] = [
            {"state": state.name, "at": time_text(state.timestamp), "message": state.message}
            for state in item.history
        ]
        document["log"] = [line_document(line) for line in item.log]
    if values:
        document |= _value_of(item)
    return document


def _value_of(thing: Run | Item) -> dict[str, Any]:
    state = thing.state
    if not state.is_completed() or state.name == "Skipped":
        return {"value": None}
    try:
        return value_document(thing.value)
    except GraphflowError as error:
        return {"value": None, "value_error": str(error)}


def line_document(line: LogRecord) -> dict[str, Any]:
    """Return a line of the log."""
    return {
        "at": time_text(moment(line.timestamp)),
        "level": line.level,
        "logger": line.logger,
        "node": line.node,
        "index": line.index,
        "attempt": line.attempt,
        "worker": line.worker,
        "message": line.message,
    }
