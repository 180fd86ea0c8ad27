"""Columns of values as bytes: one pickle for a whole column, with the entries that cannot be carried named."""

from __future__ import annotations

import pickle
from typing import Any

from graphflow.errors import SerializationError
from graphflow.graph.mapping import DROPPED
from graphflow.results.packs.classes import dumps_value

__all__ = ["decode", "encode", "needs_trial"]

_PLAIN = frozenset(
    {
        type(DROPPED),
        int,
        float,
        complex,
        str,
        bytes,
        bool,
        type(None),
        list,
        tuple,
        dict,
        set,
        frozenset,
        range,
    }
)
_TRUSTED = (
    "builtins",
    "datetime",
    "decimal",
    "uuid",
    "collections",
    "numpy",
    "pandas",
    "pathlib",
    "fractions",
)


def encode(values: list[Any]) -> tuple[bytes, dict[int, Exception]]:
    """Return a column's bytes, and the errors of entries that cannot be carried (they become None)."""
    try:
        data = dumps_value(values)
        if not needs_trial(values):
            return data, {}
        pickle.loads(data)
        return data, {}
    except Exception:
        return _encode_each(values)


def needs_trial(values: list[Any]) -> bool:
    """Return whether some value is of a type whose pickle is not known to come back."""
    kinds = set(map(type, values)) - _PLAIN
    return any(kind.__module__.partition(".")[0] not in _TRUSTED for kind in kinds)


def _encode_each(values: list[Any]) -> tuple[bytes, dict[int, Exception]]:
    errors: dict[int, Exception] = {}
    kept: list[Any] = []
    for position, value in enumerate(values):
        try:
            pickle.loads(dumps_value(value))
            kept.append(value)
        except Exception as error:
            errors[position] = error
            kept.append(None)
    return dumps_value(kept), errors


def decode(data: bytes | memoryview, what: str) -> list[Any]:
    """Return the values of a column.

    Raises
    ------
    SerializationError
        If they cannot be restored in this process.
    """
    try:
        values: list[Any] = pickle.loads(data)
    except Exception as error:
        raise SerializationError(
            f"{what} cannot be restored in this process: {type(error).__name__}: {error}; "
            "is a module missing here that was available where it was made?"
        ) from error
    return values
