"""Columns of values as refs name them: lists of this process, bytes at hand, parts of files, or stored results."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graphflow.errors import ValueUnavailable
from graphflow.model.orders import GONE_TEXT, Ref
from graphflow.model.reports import Stored
from graphflow.results.packs.packs import read_section
from graphflow.results.packs.pickling import decode, encode

__all__ = [
    "MAX_INLINE",
    "bytes_of",
    "decode",
    "encode",
    "load_column",
    "read_file",
    "read_stored",
    "write_pack",
]

MAX_INLINE = 16_384


def load_column(ref: Ref, what: str) -> list[Any]:
    """Return the values behind a ref that needs no backend: of kind `local`, `inline`, `file` or `stored`.

    Raises
    ------
    SerializationError, ValueUnavailable, ResultStoreError
        If they cannot be restored, are gone, or cannot be read.
    """
    if ref.kind == "gone":
        raise ValueUnavailable(GONE_TEXT)
    if ref.kind == "local":
        values: list[Any] = ref.data
        return values
    return decode(bytes_of(ref), what)


def bytes_of(ref: Ref) -> bytes:
    """Return the bytes behind a ref of kind `inline`, `file` or `stored`, verified.

    Raises
    ------
    ValueUnavailable, ResultStoreError
        If they are gone or damaged, or cannot be read.
    """
    if ref.kind == "inline":
        data: bytes = ref.data
        return data
    return read_stored(ref) if ref.kind == "stored" else read_file(ref)


def read_stored(ref: Ref) -> bytes:
    """Return a column's bytes from the result store that the ref carries, verified.

    Raises
    ------
    ResultDamaged
        If they are not what was written.
    ResultStoreError
        If the store cannot be read.
    """
    stored = Stored(name=ref.path, offset=ref.offset, nbytes=ref.nbytes, digest=ref.digest, count=ref.count)
    return read_section(ref.data, stored)


def write_pack(folder: Path, name: str, columns: Sequence[bytes]) -> list[Ref]:
    """Write columns as one file, published by a rename; return a ref per column."""
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
    """Return a column's bytes from its file, verified.

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
        raise ValueUnavailable(f"a stored value is damaged: {ref.path} at {ref.offset}; ignoring it")
    return data
