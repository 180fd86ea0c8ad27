"""Pickles of what other processes may lack: functions and classes of scripts travel by value, as cloudpickle has them."""

from __future__ import annotations

import io
import sys
import types
import typing
from typing import Any

import cloudpickle
from cloudpickle.cloudpickle import _make_skeleton_class

from graphflow.common import exceptions

__all__ = ["SAMPLE_NBYTES", "Pickler", "dumps", "hindrance"]

SAMPLE_NBYTES = 1 << 20


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle's pickler, which also keeps exceptions whole, and the slots and qualified names of classes.

    cloudpickle makes a class with slots again as one without. Its instances have a `__dict__`, so that what comes back from
    there has a state that the original class refuses. A class within another one is found again by its qualified name.
    """

    def reducer_override(self, obj: Any) -> Any:
        """Reduce a class or function; called for what is not plain data."""
        if isinstance(obj, type) and (successor := _successor(obj)) is not None:
            return _same, (successor,)
        if isinstance(obj, BaseException) and (parts := exceptions.reduced(obj)) is not None:
            return parts
        reduced = super().reducer_override(obj)
        if isinstance(obj, type) and isinstance(reduced, tuple) and reduced[0] is _make_skeleton_class:
            return _complete(obj, reduced)
        return reduced


def dumps(value: Any) -> bytes:
    """Return the pickle of a value, of protocol 5."""
    with io.BytesIO() as file:
        Pickler(file, protocol=5).dump(value)
        return file.getvalue()


def hindrance(
    value: Any, *, sample_nbytes: int = SAMPLE_NBYTES, kind: type[Pickler] = Pickler
) -> Exception | None:
    """Return why a value cannot be pickled by a kind of pickler, as far as its first bytes show; None if it can."""
    try:
        kind(_Sample(sample_nbytes), protocol=5).dump(value)
    except _Enough:
        return None
    except Exception as error:
        return error
    return None


class _Enough(Exception):
    """As much was pickled as a sample needs."""


class _Sample:
    """A file that takes so many bytes, and keeps none."""

    def __init__(self, nbytes: int) -> None:
        self._left = nbytes

    def write(self, data: Any) -> int:
        size = len(data)
        self._left -= size
        if self._left < 0:
            raise _Enough
        return size


def _same(kind: type) -> type:
    return kind


def _successor(kind: type) -> type | None:
    """Return the class with slots that `dataclass` made of a class; methods of a frozen one still name the latter."""
    fields = kind.__dict__.get("__dataclass_fields__")
    if fields is None:
        return None
    found: Any = sys.modules.get(kind.__module__)
    for part in kind.__qualname__.split("."):
        found = getattr(found, part, None)
    is_made_of_it = isinstance(found, type) and found.__dict__.get("__dataclass_fields__") is fields
    return found if is_made_of_it and found is not kind else None


def _complete(kind: type, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    make, (constructor, name, bases, namespace, *others), (members, more), *rest = reduced
    namespace = {**namespace, "__qualname__": kind.__qualname__}
    members.pop("__slotnames__", None)  # copyreg's note of what it found; the new class gets its own
    # The descriptors of slots; cloudpickle overlooks those whose names are mangled.
    own = [each for each, value in members.items() if isinstance(value, types.MemberDescriptorType)]
    for each in own:
        del members[each]
    if "__slots__" in members and typing.NamedTuple not in bases:  # which makes its own
        slots = members.pop("__slots__")
        namespace["__slots__"] = slots if isinstance(slots, str | dict) else tuple(slots) or tuple(own)
    return (make, (constructor, name, bases, namespace, *others), (members, more), *rest)
