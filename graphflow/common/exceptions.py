"""What exceptions are made of, and exceptions made of it again, without a call of their `__init__`.

Pickle makes an exception by calling its class with `args`, which doubles texts that an `__init__` builds, fails where it takes other
arguments, and leaves out slots, notes of groups, causes and attributes that the interpreter keeps beside `__dict__`.
"""

from __future__ import annotations

import contextlib
import copyreg
import functools
import types
from collections.abc import Mapping
from typing import Any

from graphflow.errors import GraphflowError

__all__ = ["chain_of", "filled", "is_structural", "made_of", "members_of", "members_of_type", "reduced"]

_PLACES = ("__cause__", "__context__")


def reduced(error: BaseException) -> tuple[Any, ...] | None:
    """Return how an exception is pickled; None where its class has a way of its own, and nothing else is to be kept."""
    kind, chain = type(error), chain_of(error)
    if is_structural(kind):
        group = (error.message, error.exceptions) if isinstance(error, BaseExceptionGroup) else None
        state = (dict(error.__dict__), members_of(error), chain)
        return made_of, (kind, error.args, group), state, None, None, filled
    if _registered(kind) is not None:
        return None
    own: Any = error.__reduce_ex__(5)
    if not chain or not isinstance(own, tuple):
        return own if isinstance(own, tuple) else None
    state, *more = [*own[2:5], None, None, None][:3]
    return own[0], own[1], (state, chain), *more, _chained


def made_of(
    kind: type[BaseException], args: tuple[Any, ...], group: tuple[Any, ...] | None = None
) -> BaseException:
    """Return an exception of a type with these arguments; `group` has a group's text and members."""
    base: Any = next(each for each in kind.__mro__ if each.__module__ == "builtins")
    error: BaseException = base.__new__(kind, *group) if group is not None else base.__new__(kind)
    BaseException.args.__set__(error, args)  # type: ignore[attr-defined]
    return error


def filled(
    error: BaseException, state: tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]]
) -> BaseException:
    """Give an exception its attributes, what it holds beside them, and its cause and context; return it."""
    attributes, members, chain = state
    if attributes:
        error.__dict__.update(attributes)
    known = members_of_type(type(error)) if members else {}
    for name, value in members.items():
        # Another version of Python may lack one.
        with contextlib.suppress(KeyError, AttributeError, TypeError):
            known[name].__set__(error, value)
    for name, value in chain.items():
        BaseException.__dict__[name].__set__(error, value)
    return error


def members_of(error: BaseException) -> dict[str, Any]:
    """Return what an exception holds beside its attributes, such as the `filename` of an `OSError`, and slots."""
    found = {}
    for name, member in members_of_type(type(error)).items():
        try:
            value = member.__get__(error)
        except AttributeError:
            continue
        if value is not None:
            found[name] = value
    return found


def chain_of(error: BaseException) -> dict[str, Any]:
    """Return the cause and the context of an exception, and whether the latter is not shown; nothing where there are none."""
    if error.__cause__ is None and error.__context__ is None and not error.__suppress_context__:
        return {}
    found: dict[str, Any] = {name: each for name in _PLACES if (each := getattr(error, name)) is not None}
    # A cause says that it takes the context's place.
    if error.__suppress_context__ != (error.__cause__ is not None):
        found["__suppress_context__"] = error.__suppress_context__
    return found


def is_structural(kind: Any) -> bool:
    """Return whether exceptions of a type are made of arguments, attributes and members alone."""
    return _is_structural(kind)


def _registered(kind: Any) -> Any:
    """Return the function that pickles exceptions of a type, if its user registered one."""
    found = copyreg.dispatch_table.get(kind)
    # Dask has tblib register one for each exception, which calls `__init__` all the same.
    return None if getattr(found, "__module__", "").partition(".")[0] == "tblib" else found


@functools.lru_cache(maxsize=1024)
def _is_structural(kind: Any) -> bool:
    has_own_way = _registered(kind) is not None or any(
        name in vars(each) and vars(each)[name] is not vars(GraphflowError).get(name)
        for each in kind.__mro__
        if each.__module__ != "builtins"
        for name in ("__reduce__", "__reduce_ex__", "__setstate__")
    )
    if has_own_way:
        return False
    try:
        made_of(kind, (), ("", (Exception(),)) if issubclass(kind, BaseExceptionGroup) else None)
    except Exception:
        # A type of an extension, which may hold anything.
        return False
    return True


def members_of_type(kind: Any) -> Mapping[str, Any]:
    """Return the descriptors of what the interpreter keeps beside `__dict__`."""
    return _members_of_type(kind)


@functools.lru_cache(maxsize=1024)
def _members_of_type(kind: Any) -> Mapping[str, Any]:
    return {
        name: each
        for owner in reversed(kind.__mro__)
        if owner not in (BaseException, object)
        for name, each in vars(owner).items()
        if isinstance(each, types.MemberDescriptorType)
        or (isinstance(each, types.GetSetDescriptorType) and owner.__module__ == "builtins")
        if name not in ("__dict__", "__weakref__", "exceptions", "message") or owner.__module__ != "builtins"
    }


def _chained(error: BaseException, state: tuple[Any, Mapping[str, Any]]) -> None:
    """Give an exception the state that its own class said, and its cause and context."""
    own, chain = state
    if own is not None:
        if hasattr(error, "__setstate__"):
            error.__setstate__(own)
        else:
            error.__dict__.update(own)
    filled(error, ({}, {}, chain))
