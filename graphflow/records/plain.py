"""Exceptions as plain data, for histories: never a pickle, and no module is imported to read one.

What an exception is made of (arguments, attributes, causes, members of groups) is told where all of it is plain. It is made again where its
class is loaded, without a call of its `__init__`.
"""

from __future__ import annotations

import base64
import math
import sys
from collections.abc import Mapping
from typing import Any

from graphflow.common.exceptions import chain_of, filled, is_structural, made_of, members_of

__all__ = ["from_plain", "kind_named", "made_again", "told", "to_plain"]

MAX_DEPTH = 20
_SIMPLE = (str, int, bool, type(None))


class _Untold(Exception):
    """Something is no plain data."""


def told(error: BaseException) -> Any:
    """Return an exception as plain values of JSON; None where it is more than plain data."""
    try:
        return _exception(error, 0)
    except _Untold:
        return None


def made_again(values: Any) -> BaseException | None:
    """Return the exception; None where its class is not loaded, or the values are none of `told`."""
    try:
        found = _made(values)
    except Exception:
        return None
    return found


def to_plain(value: Any, depth: int = 0) -> Any:
    """Return a value as one of JSON."""
    kind = type(value)
    if kind in _SIMPLE:
        return value
    if depth > MAX_DEPTH:
        raise _Untold
    if kind is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if kind is complex:
        return {"complex": [to_plain(value.real), to_plain(value.imag)]}
    if kind is bytes:
        return {"bytes": base64.b64encode(value).decode()}
    if kind is list or kind is tuple:
        return {kind.__name__: [to_plain(each, depth + 1) for each in value]}
    if kind is dict:
        return {"dict": [[to_plain(each, depth + 1) for each in pair] for pair in value.items()]}
    if isinstance(value, BaseException):
        return {"exception": _exception(value, depth + 1)}
    raise _Untold


def from_plain(value: Any) -> Any:
    """Return the value that was one of JSON."""
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "float":
        return float(inner)
    if kind == "complex":
        return complex(*map(from_plain, inner))
    if kind == "bytes":
        return base64.b64decode(inner)
    if kind == "list":
        return [from_plain(each) for each in inner]
    if kind == "tuple":
        return tuple(from_plain(each) for each in inner)
    if kind == "dict":
        return {from_plain(key): from_plain(each) for key, each in inner}
    if kind == "exception":
        made = _made(inner)
        if made is not None:
            return made
    raise ValueError(f"unknown kind of value {kind!r}")


def kind_named(module: str, qualname: str) -> type[BaseException] | None:
    """Return the exception type of a name, if it is loaded in this process."""
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) and issubclass(found, BaseException) else None


def _exception(error: BaseException, depth: int) -> Any:
    kind = type(error)
    if not is_structural(kind) or depth > MAX_DEPTH:
        raise _Untold
    group = [error.message, list(error.exceptions)] if isinstance(error, BaseExceptionGroup) else None
    members = members_of(error)
    if isinstance(error, AttributeError) and type(members.get("obj")) not in _SIMPLE:
        # The object whose attribute was missing is seldom plain, and seldom asked for.
        members.pop("obj", None)
    parts = error.args, dict(error.__dict__), members, chain_of(error), group
    return [kind.__module__, kind.__qualname__, *(to_plain(each, depth) for each in parts)]


def _made(values: Any) -> BaseException | None:
    module, qualname, *parts = values
    kind = kind_named(module, qualname)
    if kind is None:
        return None
    args, attributes, members, chain, group = (from_plain(each) for each in parts)
    if not isinstance(args, tuple) or not all(
        isinstance(each, Mapping) for each in (attributes, members, chain)
    ):
        raise ValueError("these are no parts of an exception")
    return filled(made_of(kind, args, None if group is None else tuple(group)), (attributes, members, chain))
