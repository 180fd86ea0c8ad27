"""graphflow: run Python functions over large lists on Dask, and keep a durable record of every item."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from graphflow.authoring.flows import Flow, flow
from graphflow.authoring.futures import Future
from graphflow.authoring.mapped_futures import MappedFuture
from graphflow.authoring.pausing import pause_run
from graphflow.authoring.spreading import flatten, items, product, rows, starmap
from graphflow.authoring.tasks import Task, task
from graphflow.authoring.waiting import as_completed, wait
from graphflow.common.secrets import Secret
from graphflow.common.settings import settings
from graphflow.graph.context import flow_context, get_run_logger, task_context
from graphflow.graph.mapping import allow_failure, unmapped
from graphflow.identity.canonical import register_hash
from graphflow.model.cache_policies import (
    DEFAULT,
    FLOW_PARAMETERS,
    INPUTS,
    NO_CACHE,
    RUN_ID,
    TASK_SOURCE,
    CachePolicy,
    file_input,
)
from graphflow.model.policies import (
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
from graphflow.model.states import State
from graphflow.runs.run import Run

if TYPE_CHECKING:
    from graphflow.authoring.concurrency import concurrency, rate_limit, rate_limit_async
    from graphflow.authoring.events import emit_event
    from graphflow.authoring.serving import serve
    from graphflow.client.asynchronous import connect_async
    from graphflow.client.connections import connect
    from graphflow.identity.cache_keys import task_input_hash
    from graphflow.runs.history import history

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
    "Secret",
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
    "concurrency",
    "connect",
    "connect_async",
    "emit_event",
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
    "rate_limit",
    "rate_limit_async",
    "register_hash",
    "rows",
    "serve",
    "settings",
    "some_failed",
    "some_successful",
    "starmap",
    "task",
    "task_context",
    "task_input_hash",
    "unmapped",
    "wait",
]


# What only some programs need is loaded when it is asked for.
_LATER = {
    "concurrency": "graphflow.authoring.concurrency",
    "rate_limit": "graphflow.authoring.concurrency",
    "rate_limit_async": "graphflow.authoring.concurrency",
    "connect": "graphflow.client.connections",
    "connect_async": "graphflow.client.asynchronous",
    "emit_event": "graphflow.authoring.events",
    "history": "graphflow.runs.history",
    "serve": "graphflow.authoring.serving",
    "task_input_hash": "graphflow.identity.cache_keys",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("graphflow")
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module 'graphflow' has no attribute {name!r}")
