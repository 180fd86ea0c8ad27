"""What Python knows about a callable: plain functions, methods, partials and callable objects alike."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable
from enum import Enum
from typing import Any

__all__ = [
    "Binding",
    "dress",
    "function_name",
    "is_async",
    "plain_function",
    "result_annotation",
    "signature_of",
]


def plain_function(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function that runs in the end: of a partial, of a method, of a callable object."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    fn = getattr(fn, "__func__", fn)
    if isinstance(fn, types.FunctionType | types.BuiltinFunctionType | type):
        return fn
    call = type(fn).__call__
    return plain_function(call) if isinstance(call, types.FunctionType | functools.partial) else fn


def function_name(fn: Callable[..., Any]) -> str:
    """Return a readable name of any callable."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    name = getattr(fn, "__name__", None) or type(fn).__name__
    return "lambda" if name == "<lambda>" else str(name)


def is_async(fn: Callable[..., Any]) -> bool:
    """Return whether calling it gives a coroutine or an async generator."""
    plain = plain_function(fn)
    return inspect.iscoroutinefunction(plain) or inspect.isasyncgenfunction(plain)


def signature_of(fn: Callable[..., Any]) -> inspect.Signature | None:
    """Return the signature of a callable, None where Python does not know it."""
    try:
        return inspect.signature(fn)
    except (TypeError, ValueError):
        return None


def result_annotation(fn: Callable[..., Any]) -> Any:
    """Return a callable's return annotation, None if it has none or its name cannot be resolved."""
    plain = plain_function(fn)
    annotation = getattr(plain, "__annotations__", {}).get("return")
    if not isinstance(annotation, str):
        return annotation
    # Only this one is evaluated: the others may name what is imported for type checkers alone.
    holder = types.SimpleNamespace(__annotations__={"return": annotation})
    try:
        return typing.get_type_hints(holder, globalns=getattr(plain, "__globals__", {})).get("return")
    except Exception:
        return None


class Binding(Enum):
    """What a decorated callable of a class body is bound to when it is looked up."""

    INSTANCE = 0
    CLASS = 1
    NOTHING = 2

    @classmethod
    def of(cls, decorated: Any) -> Binding:
        """Return the binding of what stood under the decorator."""
        if isinstance(decorated, staticmethod):
            return cls.NOTHING
        return cls.CLASS if isinstance(decorated, classmethod) else cls.INSTANCE

    def bind(self, fn: Any, instance: Any, owner: Any) -> Any:
        """Return the callable as `instance.name` or `owner.name` finds it; `fn` itself where nothing is bound."""
        if self is Binding.NOTHING or (instance is None and self is Binding.INSTANCE):
            return fn
        bind = getattr(fn, "__get__", None)
        if bind is None:
            # As in a plain class body: a partial or a callable object is not bound.
            return fn
        if self is Binding.CLASS:
            return bind(owner if owner is not None else type(instance))
        return bind(instance)


def dress(wrapper: Any, fn: Callable[..., Any]) -> None:
    """Copy a callable's name, docstring, module and signature to its wrapper."""
    functools.update_wrapper(wrapper, fn, updated=())
    if not hasattr(fn, "__name__"):
        name = function_name(fn)
        wrapper.__dict__.update(__name__=name, __qualname__=name, __doc__=type(fn).__doc__)
