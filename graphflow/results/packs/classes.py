"""Classes of stored values: the same class where the values are read again, and its definition where that is not there.

A class of a script travels by value, since other processes lack the script; but a value that comes back must be of the
class that the script has now, or `isinstance` and `==` fail. So both are written: its name, and its definition.
"""

from __future__ import annotations

import io
import pickle
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import Any

from cloudpickle import cloudpickle as internals

from graphflow.common.pickling import Pickler, dumps
from graphflow.common.secrets import is_secret, refuse_to_write
from graphflow.errors import SerializationError

__all__ = ["ValuePickler", "class_of", "dumps_value"]

_MAIN = ("__main__", "__mp_main__")
_definitions: weakref.WeakKeyDictionary[type, bytes] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


class ValuePickler(Pickler):
    """A pickler of values that are read again in other processes, perhaps much later."""

    def reducer_override(self, obj: Any) -> Any:
        """Reduce what is not plain data; called once per class in a pickle."""
        if is_secret(obj):
            raise refuse_to_write(obj)
        if isinstance(obj, type) and _travels(obj):
            return class_of, (obj.__module__, obj.__qualname__, _file_of(obj.__module__), _definition(obj))
        return super().reducer_override(obj)


def dumps_value(value: Any, *, most_nbytes: int | None = None) -> bytes:
    """Return the pickle of a value that other processes read.

    Raises
    ------
    SerializationError
        As soon as it is larger than that.
    """
    with io.BytesIO() if most_nbytes is None else _Bounded(most_nbytes) as file:
        ValuePickler(file, protocol=5).dump(value)
        return file.getvalue()


class _Bounded(io.BytesIO):
    """Takes so many bytes."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = room

    def write(self, data: Any) -> int:
        self._room -= memoryview(data).nbytes
        if self._room < 0:
            raise SerializationError("the pickle is too large")
        return super().write(data)


def _travels(kind: type) -> bool:
    """Return whether a class is one that a fresh process would not find by its name."""
    module = kind.__module__
    if "<locals>" in kind.__qualname__:
        return False
    if module in _MAIN or _member(sys.modules.get(module), kind.__qualname__) is not kind:
        return True
    by_value = internals.list_registry_pickle_by_value()
    return bool(by_value) and any(module == each or module.startswith(f"{each}.") for each in by_value)


def _definition(kind: type) -> bytes:
    with _lock:
        known = _definitions.get(kind)
    if known is None:
        known = dumps(kind)
        with _lock:
            _definitions[kind] = known
    return known


def _file_of(module: str) -> str:
    """Return the file of a script, which has another module's name when it is not the one that was started."""
    return str(getattr(sys.modules.get(module), "__file__", None) or "")


def class_of(module: str, qualname: str, file: str, definition: bytes) -> type:
    """Return the class of this name, as this process has it; else the one that was defined."""
    found = next(
        (each for place in _places(module, file) if (each := _member(place, qualname)) is not None), None
    )
    # A function that came by value brought its own class along, whatever a module of that name has.
    brought: list[type] = [
        each
        for each in list(getattr(internals, "_DYNAMIC_CLASS_TRACKER_BY_CLASS", ()))
        if isinstance(each, type) and each.__module__ == module and each.__qualname__ == qualname
    ]
    if found is not None and (not brought or found in brought):
        return found
    if brought:
        return brought[-1]
    kind: type = pickle.loads(definition)
    return kind


def _places(module: str, file: str) -> Iterator[Any]:
    yield sys.modules.get(module)
    if file:
        for each in list(sys.modules.values()):
            if getattr(each, "__file__", None) == file:
                yield each


def _member(module: Any, qualname: str) -> type | None:
    found = module
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) else None
