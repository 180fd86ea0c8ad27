"""graphflow: fan Python functions out over large lists, on Dask, and keep the books of every item."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graphflow.caching import (
    DEFAULT,
    FLOW_PARAMETERS,
    INPUTS,
    NO_CACHE,
    RUN_ID,
    TASK_SOURCE,
    CachePolicy,
    file_input,
)
from graphflow.canonical import register_hash
from graphflow.context import flow_context, get_run_logger, task_context
from graphflow.flows import Flow, flow
from graphflow.futures import Future, MappedFuture, as_completed, flatten, items, product, rows, starmap, wait
from graphflow.mapping import allow_failure, unmapped
from graphflow.pausing import pause_run
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

if TYPE_CHECKING:
    from graphflow.keys import task_input_hash
    from graphflow.past import history

__all__ = [
    "DEFAULT",
    "FLOW_PARAMETERS",
    "INPUTS",
    "NO_CACHE",
    "RUN_ID",
    "TASK_SOURCE",
    "CachePolicy",
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
    "file_input",
    "flatten",
    "flow",
    "flow_context",
    "get_run_logger",
    "history",
    "items",
    "not_all_skipped",
    "pause_run",
    "product",
    "register_hash",
    "rows",
    "some_failed",
    "some_successful",
    "starmap",
    "task",
    "task_context",
    "task_input_hash",
    "unmapped",
    "wait",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("graphflow")
    if name == "history":
        # What is past is read by its readers, not by every `import graphflow`.
        from graphflow.past import history

        return history
    if name == "task_input_hash":
        from graphflow.keys import task_input_hash

        return task_input_hash
    raise AttributeError(f"module 'graphflow' has no attribute {name!r}")
