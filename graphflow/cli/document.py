"""A run as data: its value, and the one JSON document of `-o json`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from graphflow.cli.tracebacks import user_text

if TYPE_CHECKING:
    from graphflow.runs.run import Run

__all__ = ["run_document", "value_text"]

SCHEMA = "graphflow.run/1"
_FAILURES_LISTED = 100


def value_text(value: Any) -> str:
    """The value as JSON if it can be one, else its `repr`."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return repr(value)


def run_document(run: Run) -> str:
    """The document: `schema`, the run, its value, and its nodes with counts and failures.

    Times are ISO 8601 in UTC, durations seconds. `value` is null and `value_repr` is there where the value
    is not JSON. A node lists its first 100 failures; `counts` has them all.
    """
    value = run.value if run.state.is_completed() else None
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "id": run.id,
        "name": run.name,
        "flow": run.flow_name,
        "state": {"type": str(run.state.type), "name": run.state.name, "message": run.state.message},
        "started": _time(run.started),
        "ended": _time(run.ended),
        "duration_seconds": _duration(run.started, run.ended),
        "value": value,
        "exception": _exception(run.exception),
        "nodes": [_node(node) for node in run.nodes],
    }
    try:
        return json.dumps(document, ensure_ascii=False, allow_nan=False, indent=2)
    except (TypeError, ValueError, RecursionError):
        document |= {"value": None, "value_repr": repr(value)}
        return json.dumps(document, ensure_ascii=False, allow_nan=False, indent=2)


def _node(node: Any) -> dict[str, Any]:
    return {
        "id": node.id,
        "name": node.name,
        "task": node.task_name,
        "state": node.state.name,
        "is_mapped": node.is_mapped,
        "width": node.width,
        "counts": dict(node.counts),
        "started": _time(node.started),
        "ended": _time(node.ended),
        "duration_seconds": _duration(node.started, node.ended),
        "failures": [
            {
                "index": failure.index,
                "label": failure.label,
                "attempts": failure.attempts,
                "exception": _exception(failure.exception, traceback=failure.traceback),
            }
            for failure in islice(node.failures(), _FAILURES_LISTED)
        ],
    }


def _exception(error: BaseException | None, *, traceback: str | None = None) -> dict[str, str] | None:
    if error is None:
        return None
    return {
        "type": str(getattr(error, "type_name", None) or type(error).__name__),
        "message": str(getattr(error, "message", None) or error),
        "traceback": user_text(error) if traceback is None else traceback,
    }


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _duration(started: datetime | None, ended: datetime | None) -> float | None:
    return None if started is None or ended is None else round((ended - started).total_seconds(), 6)
