"""Columns of values as bytes: one pickle for a whole column, with the entries that cannot be carried named."""

from __future__ import annotations

import os
import pickle
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cloudpickle

from graphflow.errors import SerializationError, ValueUnavailable
from graphflow.mapping import DROPPED
from graphflow.orders import GONE_TEXT, Ref

__all__ = ["MAX_INLINE", "decode", "encode", "load_column", "read_file", "write_pack"]

MAX_INLINE = 16_384
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
    """A column's bytes, and the errors of entries that cannot be carried (they become None)."""
    try:
        data = cloudpickle.dumps(values, protocol=5)
        if not _needs_trial(values):
            return data, {}
        pickle.loads(data)
        return data, {}
    except Exception:
        return _encode_each(values)


def _needs_trial(values: list[Any]) -> bool:
    """Whether some value is of a type whose pickle is not known to come back."""
    kinds = set(map(type, values)) - _PLAIN
    return any(kind.__module__.partition(".")[0] not in _TRUSTED for kind in kinds)


def _encode_each(values: list[Any]) -> tuple[bytes, dict[int, Exception]]:
    errors: dict[int, Exception] = {}
    kept: list[Any] = []
    for position, value in enumerate(values):
        try:
            pickle.loads(cloudpickle.dumps(value, protocol=5))
            kept.append(value)
        except Exception as error:
            errors[position] = error
            kept.append(None)
    return cloudpickle.dumps(kept, protocol=5), errors


def decode(data: bytes | memoryview, what: str) -> list[Any]:
    """The values of a column.

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
            "is a module missing here that was there where it was made?"
        ) from error
    return values


def load_column(ref: Ref, what: str) -> list[Any]:
    """The values behind a ref that needs no backend: of kind `local`, `inline` or `file`.

    Raises
    ------
    SerializationError, ValueUnavailable
        If they cannot be restored, or are gone.
    """
    if ref.kind == "gone":
        raise ValueUnavailable(GONE_TEXT)
    if ref.kind == "local":
        values: list[Any] = ref.data
        return values
    return decode(ref.data if ref.kind == "inline" else read_file(ref), what)


def write_pack(folder: Path, name: str, columns: Sequence[bytes]) -> list[Ref]:
    """Write columns as one file, published by a rename; gives a ref per column."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{name}.pack"
    temporary = folder / f".{name}.{os.getpid()}.tmp"
    refs: list[Ref] = []
    offset = 0
    try:
        with open(temporary, "wb") as file:
            for number, data in enumerate(columns):
                file.write(data)
                refs.append(
                    Ref(
                        kind="file",
                        id=f"{name}/{number}",
                        count=0,
                        nbytes=len(data),
                        path=str(path),
                        offset=offset,
                        digest=zlib.crc32(data).to_bytes(4, "big"),
                    )
                )
                offset += len(data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return refs


def read_file(ref: Ref) -> bytes:
    """A column's bytes from its file, verified.

    Raises
    ------
    ValueUnavailable
        If the file is gone or damaged.
    """
    try:
        with open(ref.path, "rb") as file:
            file.seek(ref.offset)
            data = file.read(ref.nbytes)
    except OSError as error:
        raise ValueUnavailable(f"a stored value is gone: {ref.path}: {error}") from error
    if len(data) != ref.nbytes or zlib.crc32(data).to_bytes(4, "big") != ref.digest:
        raise ValueUnavailable(f"a stored value is damaged: {ref.path} at {ref.offset}; it is not used")
    return data
