"""Values that are to be cached, as one pack.

Loads numpy, so nothing imports this before a cache is used.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphflow.cache.entries import EntryPack, Origin, build_entries, part_name
from graphflow.cache.listing import end_nbytes
from graphflow.cache.nearby import Nearby
from graphflow.ports import Buffer, ResultStore
from graphflow.results.packs.blocks import Block, encode_values

__all__ = ["SALT_NBYTES", "block_columns", "write_entries"]

Array = NDArray[Any]
SALT_NBYTES = 16


def write_entries(
    store: ResultStore,
    folder: str,
    *,
    keys: bytes,
    values: Sequence[Any],
    indices: Sequence[int],
    origin: tuple[str, str, str],
    created: float,
    expires: float | None,
    parts: Mapping[str, bytes],
    serializer: str,
    large_nbytes: int,
    nearby: Nearby | None = None,
) -> tuple[EntryPack | None, dict[int, Exception]]:
    """Publish values by key as one pack; return it (None if there was nothing to write), and the errors of the others.

    Other processes of this machine find the end of the pack in `nearby`.

    Raises
    ------
    ResultStoreError
        If the store does not take it.
    """
    count = len(values)
    if len(keys) != 16 * count or len(indices) != count:
        raise ValueError(f"{count} values need {count} keys of 16 bytes and {count} indices")
    table = np.frombuffer(keys, np.uint8).reshape(count, 16)
    chosen = np.flatnonzero(table.any(axis=1))
    salt = os.urandom(SALT_NBYTES)
    encoded = encode_values(
        values if len(chosen) == count else [values[each] for each in chosen.tolist()],
        serializer=serializer,
        salt=salt,
        store=store,
        folder=folder,
        large_nbytes=large_nbytes,
    )
    errors = {int(chosen[position]): error for position, error in encoded.errors.items()}
    kept = chosen[np.asarray(encoded.kept, np.int64)] if errors else chosen
    if not len(kept):
        return None, errors
    run_id, node, host = origin
    pack = EntryPack(
        name="",
        nbytes=0,
        salt=salt,
        generation=0,
        replaces=(),
        folder=folder.rpartition("/")[2],
        serializers=(serializer,),
        origins=(Origin(run_id, node, host, ""),),
        keys=np.ascontiguousarray(table[kept]).view("S16").reshape(-1),
        places=np.arange(len(kept), dtype=np.uint32),
        created=np.full(len(kept), created),
        expires=np.full(len(kept), math.inf if expires is None else expires),
        indices=_numbers(indices)[kept],
        origin=np.zeros(len(kept), np.uint8),
        ordinals=np.arange(len(kept), dtype=np.uint32),
        **block_columns(encoded.blocks, [0] * len(encoded.blocks)),
    )
    columns = {
        part_name(name, each.dtype.itemsize): each
        for name, data in parts.items()
        for each in _part(name, data, kept, count)
    }
    pieces = build_entries(pack, encoded.blocks, columns, key=store.keys[0])
    try:
        store.publish(f"{folder}/{pack.name}", pieces)
    except BaseException:
        # Whoever cannot write may be unable to remove as well: then they are garbage.
        with suppress(Exception):
            store.delete([f"{folder}/{each}" for each in pack.blobs])
        raise
    if nearby is not None:
        nearby.keep(pack.name, pack.nbytes, _end(pieces, end_nbytes(pack.name, pack.nbytes)))
    return pack, errors


def _end(pieces: Sequence[Buffer], nbytes: int) -> bytes:
    """Return the last bytes of what consists of these pieces."""
    last: list[Buffer] = []
    count = 0
    for piece in reversed(pieces):
        last.append(piece)
        count += len(piece)
        if count >= nbytes:
            break
    return b"".join(reversed(last))[count - nbytes :]


def _numbers(indices: Sequence[int]) -> Array:
    if isinstance(indices, range):
        return np.arange(indices.start, indices.stop, indices.step, dtype=np.int64)
    return np.asarray(indices, np.int64)


def _part(name: str, data: bytes, kept: Array, count: int) -> list[Array]:
    """Return what a part of the key is for each value, as numbers. Of two values, 8 bytes may mean both: both are kept."""
    found = []
    if len(data) == 4 * count:
        found.append(np.frombuffer(data, "<u4")[kept])
    if len(data) == 8:
        found.append(np.full(len(kept), np.frombuffer(data, "<u8")[0]))
    if not found:
        raise ValueError(f"the part {name} has {len(data)} bytes; it has 8, or 4 for each of {count} values")
    return found


def block_columns(blocks: Sequence[Block], serializers: Sequence[int]) -> dict[str, Any]:
    """Return what a pack tells of its blocks; `serializers` has the number of each one's. Offsets are found when it is built."""
    names = [each.blob for each in blocks if each.blob]
    numbers = {name: number for number, name in enumerate(names, 1)}
    return {
        "blobs": tuple(names),
        "firsts": np.cumsum([0, *(each.count for each in blocks)], dtype=np.int64),
        "offsets": np.zeros(len(blocks), np.int64),
        "sizes": np.array([each.nbytes for each in blocks], np.int64),
        "raw_sizes": np.array([each.raw_nbytes for each in blocks], np.int64),
        "codecs": np.array([each.codec for each in blocks], np.uint8),
        "block_serializers": np.array(serializers, np.int64),
        "block_blobs": np.array([numbers.get(each.blob, 0) for each in blocks], np.int64),
        "digests": np.frombuffer(b"".join(each.digest for each in blocks), "S16"),
        "parts_place": (0, 0, b""),
    }
