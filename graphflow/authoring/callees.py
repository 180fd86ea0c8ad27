"""Callees: the callee of a task, or of a plain function in its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graphflow.common.functions import function_name, is_async, signature_of
from graphflow.errors import TaskOptionError
from graphflow.graph.binding import Callee
from graphflow.model.policies import TaskOptions

__all__ = ["callee_of", "made_callee"]


def made_callee(fn: Callable[..., Any], options: TaskOptions) -> Callee:
    """Return the callee of a function with options."""
    kind = "async" if is_async(fn) else "sync"
    return Callee(fn=fn, options=options, kind=kind, signature=signature_of(fn))


def callee_of(given: Any, owner: str) -> Callee:
    """Return the callee of a task; of a plain function, one with the default options.

    Raises
    ------
    TaskOptionError
        If it is neither; the text names `owner`.
    """
    callee = getattr(given, "_callee", None)
    if isinstance(callee, Callee):
        return callee
    if not callable(given):
        raise TaskOptionError(f"{owner} takes a task or a plain function, not {given!r}")
    return made_callee(given, TaskOptions(name=function_name(given)))
