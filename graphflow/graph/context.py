"""Who is recording, and what is running: the context variables behind calls, loggers and `task_context()`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from graphflow.common import ids
from graphflow.errors import GraphflowError

__all__ = [
    "RUNNING",
    "FlowContext",
    "RunLogger",
    "TaskContext",
    "flow_context",
    "get_run_logger",
    "task_context",
]

RUNNING: ContextVar[TaskContext | None] = ContextVar("graphflow_running", default=None)
"""The item that runs in this context."""
FLOW: ContextVar[FlowContext | None] = ContextVar("graphflow_flow", default=None)


class RunLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger that adds run, node, map index and attempt to each record."""

    def process(self, msg: Any, kwargs: Any) -> tuple[Any, Any]:
        kwargs["extra"] = {**(self.extra or {}), **kwargs.get("extra", {})}
        return msg, kwargs

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Log; from INFO on, the line reaches the run's log also where logging is not configured."""
        if self.isEnabledFor(level):
            super().log(level, msg, *args, **kwargs)
            return
        context = RUNNING.get() or FLOW.get()
        if level >= logging.INFO and context is not None and context.sink is not None:
            text = str(msg)
            context.sink.add(context, level, text % args if args else text, self.logger.name)


@dataclass(slots=True)
class TaskContext:
    """What a running task may ask about itself.

    Attributes
    ----------
    run_id, node, flow_name
        The run, the node's name and the flow's.
    map_index, width
        The item's 0-based place, None where the node is not mapped; the map's width, None while unknown.
    map_indices
        The places of all items that a call of a batched task is for, whose `map_index` is None; empty elsewhere.
    attempt
        Counts from 1; in a call for several items the highest of theirs.
    """

    run_id: str
    flow_name: str
    node: str
    node_key: str
    task_name: str
    is_mapped: bool
    width: int | None = None
    map_index: int | None = None
    attempt: int = 1
    log_prints: bool = False
    sink: Any = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    map_indices: Sequence[int] = ()

    @property
    def idempotency_key(self) -> str:
        """The same for all attempts of this item in this run: for systems outside.

        Raises
        ------
        GraphflowError
            In a call of a batched task, which is for several items.
        """
        if self.map_indices:
            raise GraphflowError(
                f"a call of {self.node} is for {len(self.map_indices)} items, and each has its own key; use "
                "task_context().idempotency_keys"
            )
        return ids.idempotency_key(self.run_id, self.node_key, self.map_index)

    @property
    def idempotency_keys(self) -> list[str]:
        """The keys of the items of a batched call, in their order."""
        return [ids.idempotency_key(self.run_id, self.node_key, index) for index in self.map_indices]

    @property
    def logger(self) -> RunLogger:
        """A logger whose lines go to this item's log."""
        extra = {
            "run_id": self.run_id,
            "node": self.node,
            "map_index": self.map_index,
            "attempt": self.attempt,
        }
        return RunLogger(logging.getLogger(f"graphflow.task.{self.task_name}"), extra)


@dataclass(slots=True)
class FlowContext:
    """What a running flow's body may ask about itself; `backend` is what the run was asked to run on."""

    run_id: str
    flow_name: str
    run_name: str
    parameters: Mapping[str, Any]
    attempt: int = 1
    log_prints: bool = False
    sink: Any = None
    backend: Any = None

    @property
    def logger(self) -> RunLogger:
        """A logger whose lines go to this run's log."""
        return RunLogger(logging.getLogger(f"graphflow.flow.{self.flow_name}"), {"run_id": self.run_id})


def task_context() -> TaskContext:
    """Return the context of the task that runs here.

    Raises
    ------
    GraphflowError
        Outside a running task.
    """
    current = RUNNING.get()
    if current is None:
        raise GraphflowError("task_context() was called outside a task; call it in a task's body")
    return current


def flow_context() -> FlowContext:
    """Return the context of the flow whose body runs here.

    Raises
    ------
    GraphflowError
        Outside a running flow's body.
    """
    current = FLOW.get()
    if current is None:
        raise GraphflowError("flow_context() was called outside a flow; call it in a flow's body")
    return current


def get_run_logger() -> RunLogger:
    """Return the logger of the task, or else of the flow, that runs here.

    Raises
    ------
    GraphflowError
        Outside both.
    """
    running = RUNNING.get()
    if running is not None:
        return running.logger
    flow = FLOW.get()
    if flow is not None:
        return flow.logger
    raise GraphflowError("get_run_logger() was called outside a task or flow; call it in a body")
