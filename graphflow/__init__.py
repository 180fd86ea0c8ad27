"""graphflow: fan Python functions out over large lists, on Dask, and keep the books of every item."""

from __future__ import annotations

from graphflow.canonical import register_hash
from graphflow.context import flow_context, get_run_logger, task_context
from graphflow.flows import Flow, flow
from graphflow.futures import Future, MappedFuture, as_completed, flatten, items, product, rows, starmap, wait
from graphflow.mapping import allow_failure, unmapped
from graphflow.policies import (
    Fail,
    Pause,
    Retry,
    Skip,
    all_failed,
    all_finished,
    all_successful,
    any_failed,
    any_successful,
    exponential_backoff,
    not_all_skipped,
    some_failed,
    some_successful,
)
from graphflow.runs import Run
from graphflow.states import State
from graphflow.tasks import Task, task

__all__ = [
    "Fail",
    "Flow",
    "Future",
    "MappedFuture",
    "Pause",
    "Retry",
    "Run",
    "Skip",
    "State",
    "Task",
    "all_failed",
    "all_finished",
    "all_successful",
    "allow_failure",
    "any_failed",
    "any_successful",
    "as_completed",
    "exponential_backoff",
    "flatten",
    "flow",
    "flow_context",
    "get_run_logger",
    "items",
    "not_all_skipped",
    "product",
    "register_hash",
    "rows",
    "some_failed",
    "some_successful",
    "starmap",
    "task",
    "task_context",
    "unmapped",
    "wait",
]


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib.metadata import version

        return version("graphflow")
    raise AttributeError(f"module 'graphflow' has no attribute {name!r}")
