"""What a failed run says of its body where the code shows a common mistake."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

from graphflow.authoring.decorated import Decorated
from graphflow.common.functions import plain_function

__all__ = ["unreached_handlers"]

_ASKS = frozenset({"result", "wait", "failures", "as_completed"})


def unreached_handlers(body: Callable[..., Any]) -> list[tuple[str, int]]:
    """Return the calls of tasks whose exceptions a `try` around them cannot catch: (task, line of the `try`).

    A call is one if its value is asked for nowhere inside that `try`. Found in the source; without it there are none.
    """
    function = plain_function(body)
    try:
        lines, first = inspect.getsourcelines(function)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, TypeError, SyntaxError):
        return []
    known = {**getattr(function, "__globals__", {}), **inspect.getclosurevars(function).nonlocals}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Try | ast.TryStar) and node.handlers:
            tasks = [name for each in node.body for name in _calls(each, known)]
            if tasks and not any(_asks(each) for each in node.body):
                found += [(name, first + node.lineno - 1) for name in tasks]
    return found


def _calls(statement: ast.stmt, known: dict[str, Any]) -> Iterator[str]:
    for node in ast.walk(statement):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            called = known.get(node.func.id)
            if isinstance(called, Decorated):
                yield called.name


def _asks(statement: ast.stmt) -> bool:
    return any(
        isinstance(node, ast.Await) or (isinstance(node, ast.Attribute) and node.attr in _ASKS)
        for node in ast.walk(statement)
    )
