"""Calls that a running task makes: recorded, to take the place of its item."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graphflow.errors import ForcingError
from graphflow.graph.context import TaskContext
from graphflow.graph.graph import Node
from graphflow.graph.handles import Handle
from graphflow.graph.recording import Recorder
from graphflow.model.cache_policies import NO_DEFAULTS, CacheDefaults

__all__ = ["Fragment", "FragmentRecorder"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fragment:
    """Nodes that a running task recorded, and the one that gives its value; ids count from 0."""

    nodes: tuple[Node, ...]
    root: int


class FragmentRecorder(Recorder):
    """Records the calls that a running task makes: they can take the place of its item, but not run here.

    Parameters
    ----------
    context
        The task's; its item is part of the nodes' keys.
    """

    def __init__(
        self,
        *,
        context: TaskContext,
        flow_parameters: Mapping[str, Any],
        group: str,
        log_prints: bool,
        results: CacheDefaults = NO_DEFAULTS,
    ) -> None:
        super().__init__(
            flow_name=context.flow_name,
            flow_parameters=flow_parameters,
            group=group,
            log_prints=log_prints,
            results=results,
        )
        self.context = context

    @property
    def scope(self) -> str:
        return f"{self.context.node_key}/{self.context.map_index}"

    def cannot_force(self, node_name: str) -> ForcingError:
        return ForcingError(
            f"the future of {node_name} was forced inside a running task; a task returns the futures of the calls it "
            "makes (they run in its place), or calls the plain function: task.fn(...)"
        )

    def foreign_text(self, handle: Handle, owner: str) -> str:
        return (
            f"{owner} got a future of {handle._node.name}, which was not called in this task run; inside a running task, only "
            "futures of calls made in the same task run can be used. If it came with an argument: futures are resolved as "
            "arguments and in lists, tuples, dicts, sets, named tuples, dataclasses, attrs objects and pydantic models, not in other "
            f"objects; pass it as an argument of its own, or its value: future.result() ({self.context.node} has it)"
        )
