"""Values that nobody else changes: copies of what Python's own containers and arrays hold."""

from __future__ import annotations

import copy
import datetime
import decimal
import fractions
import pathlib
import types
import uuid
from array import array
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterable
from sys import getrefcount
from typing import Any

from graphflow.errors import GraphflowError
from graphflow.graph.structured import fields_of, is_structured

__all__ = ["PLAIN", "Taker", "copied", "is_mutable", "listed", "may_be_mutable"]

PLAIN: frozenset[type] = frozenset(
    {
        int,
        float,
        complex,
        bool,
        str,
        bytes,
        range,
        slice,
        type,
        type(None),
        type(...),
        datetime.date,
        datetime.datetime,
        datetime.time,
        datetime.timedelta,
        decimal.Decimal,
        fractions.Fraction,
        uuid.UUID,
        pathlib.PurePosixPath,
        pathlib.PosixPath,
        types.FunctionType,
        types.BuiltinFunctionType,
        types.ModuleType,
    }
)
"""Types whose objects do not change, or are code."""
_CONTAINERS = frozenset({list, dict, set, deque, OrderedDict, defaultdict, Counter})
_BUFFERS = frozenset({bytearray, array, memoryview})


def is_mutable(value: Any) -> bool:
    """Return whether `copied` copies a value: a container or buffer of Python's own, or something that holds one."""
    kind = type(value)
    if kind in PLAIN:
        return False
    if kind in _CONTAINERS or kind in _BUFFERS:
        return True
    return isinstance(value, tuple) and any(map(is_mutable, value))


def may_be_mutable(kind: type) -> bool:
    """Return whether `copied` may copy values of a type."""
    return kind in _CONTAINERS or kind in _BUFFERS or issubclass(kind, tuple)


def copied(value: Any, memo: dict[int, Any] | None = None) -> Any:
    """Return a value with copies of the lists, dicts, sets, deques, byte arrays and arrays of numbers in it.

    Objects of other types are the same in the copy, and what is twice in the value is one in the copy too.
    """
    kind = type(value)
    if kind in PLAIN:
        return value
    is_tuple = isinstance(value, tuple)
    if is_tuple:
        if PLAIN.issuperset(map(type, value)):
            return value
    elif kind not in _CONTAINERS and kind not in _BUFFERS:
        return value
    if memo is None:
        # Most are flat.
        if kind is list and PLAIN.issuperset(map(type, value)):
            return value.copy()
        if kind is dict and PLAIN.issuperset(map(type, value.values())):
            return value.copy()
        memo = {}
    known = memo.get(id(value))
    if known is not None:
        return known
    if is_tuple:
        parts = [copied(each, memo) for each in value]
        if all(map(_is, parts, value)):
            return value
        made = value._make(parts) if hasattr(value, "_make") else kind(parts)
        memo[id(value)] = made
        return made
    if kind is memoryview:
        made = memo[id(value)] = memoryview(bytearray(value)).cast(value.format)
        return made
    made = memo[id(value)] = copy.copy(value)
    if isinstance(made, dict):
        if not PLAIN.issuperset(map(type, value.values())):
            for key, each in value.items():
                made[key] = copied(each, memo)
    elif kind not in _BUFFERS and kind is not set and not PLAIN.issuperset(map(type, value)):
        # What is in a set has a hash, and does not change.
        for place, each in enumerate(value):
            made[place] = copied(each, memo)
    return made


def _is(one: Any, other: Any) -> bool:
    return one is other


class Taker:
    """Takes items from an iterator that is read ahead, each as it is when it is yielded.

    A generator may fill one list or buffer again and again. What it still refers to is copied; what nobody else refers to is
    taken as it is.
    """

    __slots__ = ("_last", "_state")

    def __init__(self) -> None:
        self._last: Any = None
        self._state: Any = None

    def take(self, value: Any, own_references: int = 0) -> Any:
        """Return an item; `own_references` is how many the caller has, besides its argument.

        Raises
        ------
        GraphflowError
            If it is the previous item once more, of a type that is not copied, and was changed.
        """
        kind = type(value)
        if kind in PLAIN or _is_sole(value, own_references + _OWN):
            return value
        if kind in _CONTAINERS or kind in _BUFFERS or isinstance(value, tuple):
            return copied(value)
        if is_structured(kind):
            return _copied_object(value)
        if _is_of_arrays(value):
            return value.copy()
        self._check(value)
        return value

    def _check(self, value: Any) -> None:
        state = dict(vars(value)) if hasattr(value, "__dict__") else None
        if value is self._last and state is not None:
            changed = [name for name, each in state.items() if not _is_same(each, self._state.get(name))]
            if changed:
                raise GraphflowError(
                    f"the iterator yielded one {type(value).__qualname__} object again after it had changed its {changed[0]!r}; items "
                    "are read ahead, so each must be an object of its own: yield a new one, or copy.copy(...) of it"
                )
        self._last, self._state = value, state


def listed(values: Iterable[Any]) -> list[Any]:
    """Return the items of an iterator, each as it was when it was yielded."""
    taker = Taker()
    return [each if type(each) in PLAIN else taker.take(each, 1) for each in values]


def _is_same(one: Any, other: Any) -> bool:
    return one is other


def _is_of_arrays(value: Any) -> bool:
    module = type(value).__module__.partition(".")[0]
    return module in ("numpy", "pandas") and hasattr(value, "copy")


def _copied_object(value: Any) -> Any:
    made = copy.copy(value)
    for name, each in fields_of(value).items():
        new = copied(each)
        if new is not each:
            object.__setattr__(made, name, new)
    return made


def _is_sole(value: Any, references: int) -> bool:
    """Return whether nobody but the caller refers to a value, and to what it holds."""
    kind = type(value)
    if kind in PLAIN:
        return True
    if isinstance(value, tuple) and PLAIN.issuperset(map(type, value)):
        # Constants are shared, but do not change.
        return True
    if getrefcount(value) > references:
        return False
    if kind is list or kind is deque or isinstance(value, tuple):
        return _are_sole(value, _WITHIN)
    if issubclass(kind, dict):
        return _are_sole(value.values(), _WITHIN)
    if kind is memoryview:
        return bool(value.readonly)
    if kind.__module__ == "numpy" and getattr(value, "base", None) is not None:
        return False
    if is_structured(kind):
        return _are_sole(fields_of(value).values(), _WITHIN + 1)
    return True


def _are_sole(values: Iterable[Any], references: int) -> bool:
    if PLAIN.issuperset(map(type, values)):
        return True
    for each in values:  # noqa: SIM110 - a generator expression would hold one more reference
        if not _is_sole(each, references):
            return False
    return True


def _probe() -> tuple[int, int]:
    """Return what `_is_sole` counts of an object that its caller alone has, and of one in a container."""
    counts: list[int] = []

    def count(value: Any) -> None:
        counts.append(getrefcount(value))

    def take(value: Any) -> None:
        count(value)

    def within(values: Iterable[Any]) -> None:
        for each in values:
            count(each)

    take([])
    within([[]])
    return counts[0], counts[1]


_OWN, _WITHIN = _probe()
