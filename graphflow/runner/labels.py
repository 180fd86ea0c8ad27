"""Labels: what `task_run_name` makes of an item. A label that raises never fails the item."""

from __future__ import annotations

import inspect
from typing import Any

from graphflow.common.secrets import mask
from graphflow.graph.context import TaskContext
from graphflow.model.orders import Program

__all__ = ["default_label", "label_of"]


def default_label(node: str, index: int | None) -> str:
    """Return the label where the task names none."""
    return node if index is None else f"{node}[{index}]"


def label_of(program: Program, args: tuple[Any, ...], kwargs: dict[str, Any], context: TaskContext) -> str:
    """Return the item's label: the template filled, or the callable's answer; the default if that raises."""
    maker = program.options.task_run_name
    try:
        parameters = _parameters(program, args, kwargs)
        if isinstance(maker, str):
            extra = {
                "map_index": context.map_index,
                "task_name": context.task_name,
                "flow_name": context.flow_name,
                "run_id": context.run_id,
            }
            return mask(str(maker.format_map({**extra, **parameters})))
        assert callable(maker)
        takes = [
            each
            for each in inspect.signature(maker).parameters.values()
            if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD) and each.default is each.empty
        ]
        return mask(str(maker(parameters) if takes else maker()))
    except Exception:
        return default_label(context.node, context.map_index)


def _parameters(program: Program, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    try:
        bound = inspect.signature(program.fn).bind(*args, **kwargs)
    except (TypeError, ValueError):
        return {**dict(zip(program.parameter_names, args, strict=False)), **kwargs}
    bound.apply_defaults()
    return dict(bound.arguments)
