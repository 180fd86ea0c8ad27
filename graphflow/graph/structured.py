"""Objects with declared fields, in which futures are looked for as in containers: dataclasses, attrs classes and pydantic models."""

from __future__ import annotations

import copy
import dataclasses
import functools
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any

__all__ = ["fields_of", "is_structured", "kinds_within", "rebuilt", "without"]


def is_structured(kind: Any) -> bool:
    """Return whether objects of a type have declared fields; graphflow's own have not."""
    return bool(_names(kind)) and kind.__module__.partition(".")[0] != "graphflow"


def fields_of(value: Any) -> dict[str, Any]:
    """Return an object's fields, those that it has."""
    kind: Any = type(value)
    return {name: getattr(value, name) for name in _names(kind) if hasattr(value, name)}


def kinds_within(kind: Any, values: Sequence[Any]) -> tuple[set[type], Callable[[Any], Iterable[Any]]]:
    """Return the types of what is in the fields of many objects of one type, and what gives the fields of one. About 0.1 µs a field."""
    names = _names(kind)
    get: Any = attrgetter(*names) if len(names) > 1 else lambda value, get=attrgetter(names[0]): (get(value),)
    try:
        return set(map(type, chain.from_iterable(map(get, values)))), get
    except AttributeError:
        # Some have not all of them.
        def there(value: Any) -> Iterable[Any]:
            return fields_of(value).values()

        return set(map(type, chain.from_iterable(map(there, values)))), there


def without(value: Any, names: Iterable[str]) -> Any:
    """Return a copy of an object with None in some fields, made without its `__init__`."""
    if hasattr(type(value), "model_copy"):
        return value.model_copy(update=dict.fromkeys(names))
    return _with(value, dict.fromkeys(names))


def rebuilt(value: Any, parts: Mapping[str, Any]) -> Any:
    """Return the object with other values in some fields, as `dataclasses.replace`, `attrs.evolve` and `model_copy` make it.

    A field that its `__init__` does not take is set on a copy.
    """
    kind = type(value)
    if hasattr(kind, "model_copy"):
        return value.model_copy(update=parts)
    if dataclasses.is_dataclass(kind):
        declared: Any = kind.__dataclass_fields__
        takes_more = any(each._field_type is _INITVAR for each in declared.values())
        if not takes_more and kind.__dataclass_params__.init and all(declared[name].init for name in parts):  # type: ignore[attr-defined]
            return dataclasses.replace(value, **parts)
        return _with(value, parts)
    evolve = getattr(sys.modules.get("attr"), "evolve", None)
    known = {each.name: each for each in kind.__attrs_attrs__}
    if evolve is not None and all(known[name].init for name in parts):
        return evolve(value, **{known[name].alias: each for name, each in parts.items()})
    return _with(value, parts)


_INITVAR: Any = dataclasses._FIELD_INITVAR  # type: ignore[attr-defined]


def _with(value: Any, parts: Mapping[str, Any]) -> Any:
    made = copy.copy(value)
    for name, each in parts.items():
        object.__setattr__(made, name, each)
    return made


@functools.lru_cache(maxsize=4096)
def _names(kind: Any) -> tuple[str, ...]:
    if not isinstance(kind, type):
        return ()
    if dataclasses.is_dataclass(kind):
        return tuple(each.name for each in dataclasses.fields(kind))
    declared = getattr(kind, "__attrs_attrs__", None)
    if declared is not None:
        return tuple(each.name for each in declared)
    pydantic = sys.modules.get("pydantic")
    if pydantic is not None and issubclass(kind, pydantic.BaseModel):
        fields: Any = kind.model_fields  # type: ignore[attr-defined]
        return tuple(fields)
    return ()
