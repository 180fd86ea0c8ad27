"""Values in blocks: many small ones share one, a large one is an object of its own.

A block is a row of *frames*, each with the bytes that a serializer made of some values; so blocks can be put together
without looking into them. A frame is the number of its values, the number of its buffers, the size of each, and the buffers.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from graphflow.common.wording import with_article
from graphflow.errors import ResultDamaged, SerializationError
from graphflow.ports import Buffer, ResultStore, Serializer
from graphflow.results.packs import compression
from graphflow.results.packs.format import damage, joined
from graphflow.results.packs.serializers import COMPRESSED, serializer_of

__all__ = [
    "BLOB",
    "BLOCK_NBYTES",
    "LARGE_NBYTES",
    "PLAIN",
    "ZSTD",
    "Block",
    "Encoded",
    "digest_of",
    "encode_values",
    "frames_of",
    "read_blob",
    "values_of",
]

BLOCK_NBYTES = 32 << 10
"""About how large a block of small values is, before it is compressed."""
LARGE_NBYTES = 16 << 20
"""A value of more bytes than this is an object of its own."""
CHUNK_NBYTES = 8 << 20
PLAIN, ZSTD, BLOB = 0, 1, 2
"""How a block is kept, as flags: as it is, compressed, in an object of its own."""
FIRST_COUNT = 16
MAX_COUNT = 8192
_FRAME = struct.Struct("<II")
_BLOCK_PERSON = b"graphflow block2"


def digest_of(parts: Iterable[Buffer], salt: bytes) -> bytes:
    """16 bytes for those of a block; the salt is drawn for each pack, and signed with its index."""
    digest = blake2b(digest_size=16, key=salt, person=_BLOCK_PERSON)
    for part in parts:
        digest.update(part)
    return digest.digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A block as it is kept: `count` values, `nbytes` as they are stored and `raw_nbytes` before that.

    `blob` names the object that has its bytes, where the pack has not.
    """

    count: int
    nbytes: int
    raw_nbytes: int
    codec: int
    digest: bytes
    data: Buffer = b""
    blob: str = ""


@dataclass(slots=True)
class Encoded:
    """Values as blocks: `kept` has the positions of those that are in them, in order, and `errors` why others are not."""

    blocks: list[Block] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    errors: dict[int, Exception] = field(default_factory=dict)


def encode_values(
    values: Sequence[Any],
    *,
    serializer: str,
    salt: bytes,
    store: ResultStore,
    folder: str,
    large_nbytes: int = LARGE_NBYTES,
) -> Encoded:
    """Return values as blocks of a pack that is to be written; large ones are written at once, in `folder`.

    Raises
    ------
    ResultStoreError
        If the store does not take a large one.
    """
    made = serializer_of(serializer)
    always = serializer.startswith(COMPRESSED)
    encoded = Encoded()
    at, count = 0, FIRST_COUNT
    while at < len(values):
        count = min(count, len(values) - at)
        parts, kept = _frame(made, values, at, count, encoded.errors)
        nbytes = joined(parts)
        if len(kept) > 1 and nbytes > min(4 * BLOCK_NBYTES, large_nbytes):
            # Of a few large values each has its own block: one can be read without the others.
            for position in range(at, at + count):
                encoded.errors.pop(position, None)
            count = max(1, min(count // 2, len(kept) * BLOCK_NBYTES // nbytes))
            continue
        if kept:
            if nbytes > large_nbytes:
                block = _blob(store, folder, parts, always=always, count=len(kept))
            else:
                block = packed_block(parts, count=len(kept), salt=salt, always=always)
            encoded.blocks.append(block)
            encoded.kept += kept
        at += count
        count = max(1, min(MAX_COUNT, 8 * count, count * BLOCK_NBYTES // max(1, nbytes)))
    return encoded


def packed_block(parts: Sequence[Buffer], *, count: int, salt: bytes, always: bool = False) -> Block:
    """Frames as a block, compressed where that pays."""
    raw: Buffer = parts[0] if len(parts) == 1 else b"".join(parts)
    packed = compression.compress(raw, always=always)
    data = raw if packed is None else packed
    return Block(
        count=count,
        nbytes=len(data),
        raw_nbytes=len(raw),
        codec=PLAIN if packed is None else ZSTD,
        digest=digest_of([data], salt),
        data=data,
    )


def _frame(
    made: Serializer, values: Sequence[Any], at: int, count: int, errors: dict[int, Exception]
) -> tuple[list[Buffer], Sequence[int]]:
    """Return a frame of the values that can be carried, and where they are; the errors of others are added."""
    kept: Sequence[int] = range(at, at + count)
    chosen = values[at : at + count] if at or count < len(values) else values
    try:
        return framed(made.dumps(chosen), count), kept
    except Exception as error:
        if count == 1:
            errors[at] = _named(error, values[at], made)
            return [], ()
    kept = []
    for position in range(at, at + count):
        try:
            made.dumps([values[position]])
            kept.append(position)
        except Exception as error:
            errors[position] = _named(error, values[position], made)
    return (framed(made.dumps([values[each] for each in kept]), len(kept)) if kept else []), kept


def _named(error: Exception, value: Any, made: Serializer) -> Exception:
    if isinstance(error, SerializationError):
        return error
    found = SerializationError(
        f"{with_article(type(value).__qualname__)} cannot be serialized by {made.name!r}: {type(error).__name__}: {error}"
    )
    found.__cause__ = error
    return found


def framed(buffers: Sequence[Buffer], count: int) -> list[Buffer]:
    """Return the frame of buffers, uncopied."""
    flat = [each if isinstance(each, bytes) else memoryview(each).cast("B") for each in buffers]
    return [_FRAME.pack(count, len(flat)), struct.pack(f"<{len(flat)}Q", *map(len, flat)), *flat]


def frames_of(data: Buffer) -> Iterator[tuple[int, list[memoryview]]]:
    """Yield the frames of a block: how many values, and their buffers."""
    view = memoryview(data)
    at = 0
    while at < len(view):
        count, buffers = _FRAME.unpack_from(view, at)
        sizes = struct.unpack_from(f"<{buffers}Q", view, at + _FRAME.size)
        at += _FRAME.size + 8 * buffers
        found = []
        for size in sizes:
            found.append(view[at : at + size])
            at += size
        if at > len(view):
            raise ValueError(f"a frame ends at {at:,}, behind the end of its block at {len(view):,}")
        yield count, found


def values_of(data: Buffer, made: Serializer) -> list[Any]:
    """Return the values of a block whose bytes were verified; buffers of arrays are copied, so that they can be written to.

    Raises
    ------
    SerializationError
        If they cannot be restored in this process.
    """
    values: list[Any] = []
    is_ours = isinstance(data, bytearray)
    try:
        for count, (head, *buffers) in frames_of(data):
            found = made.loads([head, *(each if is_ours else bytearray(each) for each in buffers)])
            if len(found) != count:
                raise ValueError(f"there are {len(found)} values, not {count}")
            values += found
    except Exception as error:
        raise SerializationError(
            f"it cannot be restored in this process: {type(error).__name__}: {error}; is a module missing here that was available "
            "where it was made?"
        ) from error
    return values


# -- large values ------------------------------------------------------------------------------------------


def _blob(store: ResultStore, folder: str, parts: Sequence[Buffer], *, always: bool, count: int) -> Block:
    raw_nbytes = joined(parts)
    is_packed = always or compression.pays(parts)
    chunks = _chunks(parts)
    kept: list[Buffer] = list(compression.compressed_parts(chunks) if is_packed else chunks)
    name = f"blobs/{os.urandom(12).hex()}.blob"
    # Its name is its salt: it stays what it is when its pack is put together with others.
    digest = digest_of(kept, name.encode())
    nbytes = store.publish(f"{folder}/{name}", kept)
    return Block(
        count=count,
        nbytes=nbytes,
        raw_nbytes=raw_nbytes,
        codec=BLOB | (ZSTD if is_packed else PLAIN),
        digest=digest,
        blob=name,
    )


def _chunks(parts: Iterable[Buffer]) -> Iterator[memoryview]:
    for part in parts:
        view = memoryview(part)
        for start in range(0, len(view), CHUNK_NBYTES):
            yield view[start : start + CHUNK_NBYTES]


def read_blob(store: ResultStore, folder: str, block: Block) -> bytearray:
    """Return the bytes of a large value, verified; read piece by piece into the place where they stay.

    Raises
    ------
    ResultDamaged
        If they are not what was written there.
    ResultStoreError
        If the store cannot be read.
    """
    found = bytearray(block.raw_nbytes)
    name = f"{folder}/{block.blob}"
    digest = blake2b(digest_size=16, key=block.blob.encode(), person=_BLOCK_PERSON)
    inflater = compression.Inflater(block.raw_nbytes) if block.codec & ZSTD else None
    at = 0
    try:
        for start in range(0, block.nbytes, CHUNK_NBYTES):
            data = store.read(name, start, min(CHUNK_NBYTES, block.nbytes - start))
            digest.update(data)
            piece = data if inflater is None else inflater.feed(data)
            found[at : at + len(piece)] = piece
            at += len(piece)
        if inflater is not None:
            inflater.end()
    except ValueError as error:
        if isinstance(error, ResultDamaged):
            raise
        raise damage(store, name, str(error)) from error
    if digest.digest() != block.digest or at != block.raw_nbytes:
        raise damage(store, name, f"its {block.nbytes:,} bytes differ")
    return found
