"""What is code, and whose: the functions and classes of the user, apart from those of Python and of what is installed."""

from __future__ import annotations

import functools
import sys
import types
from typing import Any

from graphflow.identity.origins import is_installed

__all__ = ["SCRIPTS", "bare", "is_code", "is_constant", "is_own"]

SCRIPTS = ("__main__", "__mp_main__")
_CONSTANTS = (bool, int, float, complex, str, bytes, type(None), type(...))


def bare(value: Any) -> Any:
    """The function behind a task, a flow or what a class body wraps."""
    while True:
        if isinstance(value, staticmethod | classmethod):
            value = value.__func__
        elif isinstance(value, property):
            return value.fget
        elif type(value).__module__ in ("graphflow.authoring.tasks", "graphflow.authoring.flows"):
            value = value.fn
        elif isinstance(value, functools._lru_cache_wrapper):
            value = value.__wrapped__
        else:
            return value


def is_code(value: Any) -> bool:
    return isinstance(
        value, types.FunctionType | types.BuiltinFunctionType | types.MethodType | type | functools.partial
    )


def is_own(value: Any) -> bool:
    """Whether code is the user's: no part of Python or of what is installed."""
    value = getattr(value, "__func__", value)
    if isinstance(value, functools.partial):
        return True
    if isinstance(value, types.FunctionType):
        if value.__module__ in SCRIPTS:
            # On a worker, the script that was started is another one.
            return True
        module = sys.modules.get(value.__module__ or "")
        return module is None or not is_installed(module)
    if isinstance(value, types.BuiltinFunctionType):
        return False
    of = (value if isinstance(value, type) else type(value)).__module__
    if of in SCRIPTS:
        return True
    module = sys.modules.get(of or "")
    return module is None or not is_installed(module)


def is_constant(value: Any) -> bool:
    if type(value) in (tuple, frozenset):
        return all(map(is_constant, value))
    return type(value) in _CONSTANTS
