"""Packs of a cache: values by key. What is in one, as columns of numbers, and how that is written and read.

Loads numpy, so nothing imports this before a cache is used.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphflow.errors import ResultDamaged
from graphflow.ports import Buffer, ResultStore
from graphflow.results.packs import compression
from graphflow.results.packs.blocks import Block, digest_of
from graphflow.results.packs.format import (
    CONSTANT,
    DELTA,
    ENTRIES,
    HEADER_NBYTES,
    NEWEST,
    RAW,
    ZSTD,
    Column,
    Tail,
    damage,
    end_of,
    header,
    pack_columns,
    text_column,
    unpack_columns,
)

__all__ = [
    "SCHEME",
    "EntryPack",
    "Origin",
    "build_entries",
    "halves",
    "index_nbytes_of",
    "new_entries_name",
    "part_name",
    "parts_at",
    "parse_entries",
    "read_parts",
]

Array = NDArray[Any]
SCHEME = 1
"""The version of how keys are made of tasks and inputs; another one's keys never fit."""
SUFFIX = ".pack"
KEY_NBYTES = 16


@dataclass(frozen=True, slots=True)
class Origin:
    """Who made values: a run, its node, on a host; and the pack that they were first in."""

    run_id: str
    node: str
    host: str
    pack: str


@dataclass(slots=True, kw_only=True)
class EntryPack:
    """A pack as a process knows it.

    A value's *place* is its number in the pack. `keys` are sorted, and `places` has the value of each; all columns but
    these two are by place, those of `blocks` by block: `firsts` has the place of each block's first value, and that after
    the last one.
    """

    name: str
    nbytes: int
    modified: float = 0.0
    is_signed: bool = True
    salt: bytes
    generation: int
    replaces: tuple[str, ...]
    folder: str
    serializers: tuple[str, ...]
    origins: tuple[Origin, ...]
    blobs: tuple[str, ...]
    keys: Array
    places: Array
    created: Array
    expires: Array
    indices: Array
    origin: Array
    ordinals: Array
    firsts: Array
    offsets: Array
    sizes: Array
    raw_sizes: Array
    codecs: Array
    block_serializers: Array
    block_blobs: Array
    digests: Array
    parts_place: tuple[int, int, bytes]

    def without_keys(self) -> EntryPack:
        """Return the same, for those who have the keys elsewhere."""
        none = np.zeros(0, np.uint32)
        return replace(self, keys=none.astype("S16"), places=none)

    @property
    def count(self) -> int:
        """How many values are in it."""
        return int(self.firsts[-1])

    def block(self, number: int) -> Block:
        """Return what is to be known of a block."""
        blob = int(self.block_blobs[number])
        return Block(
            count=int(self.firsts[number + 1] - self.firsts[number]),
            nbytes=int(self.sizes[number]),
            raw_nbytes=int(self.raw_sizes[number]),
            codec=int(self.codecs[number]),
            # One entry of numpy by itself would lose the zeros at its end.
            digest=self.digests[number : number + 1].tobytes(),
            blob=self.blobs[blob - 1] if blob else "",
        )


# -- names -------------------------------------------------------------------------------------------------


def new_entries_name(index_nbytes: int, drawn: str) -> str:
    """Return a name of a fixed length; it tells how much of the end is to be read, which is a hint and nothing more."""
    return f"v{NEWEST}-{index_nbytes:08x}-{drawn}{SUFFIX}"


def index_nbytes_of(name: str) -> int:
    """Return how large the index of a pack is by its name; 0 where that does not tell."""
    try:
        return int(name.split("-")[1], 16)
    except (IndexError, ValueError):
        return 0


# -- columns -----------------------------------------------------------------------------------------------


def column(name: str, values: Array, *, is_ordered: bool = False) -> Column:
    """Return a column, in the encoding that takes least room; `is_ordered` where differences are likely to be small."""
    flat = np.ascontiguousarray(values)
    plain = raw_column(name, flat)
    kind, width, count, data, encoding = plain.kind, plain.width, plain.count, bytes(plain.data), RAW
    if count > 1 and data == data[:width] * count:
        data, encoding = data[:width], CONSTANT
    elif count > 1 and kind == "u" and is_ordered:
        packed = compression.compress(np.diff(flat, prepend=flat.dtype.type(0)).tobytes())
        if packed is not None:
            data, encoding = packed, DELTA
    elif (packed := compression.compress(data)) is not None:
        data, encoding = packed, ZSTD
    return Column(name=name, kind=kind, width=width, count=count, encoding=encoding, data=data)


def raw_column(name: str, values: Array, *, is_ordered: bool = False) -> Column:
    """Return a column as it is."""
    plain = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return Column(
        name=name,
        kind=plain.dtype.kind,
        width=plain.dtype.itemsize,
        count=len(plain),
        encoding=RAW,
        data=plain.tobytes(),
    )


def array_of(found: Column) -> Array:
    """Return the entries of a column; not to be written to."""
    dtype = np.dtype(f"S{found.width}" if found.kind == "S" else f"<{found.kind}{found.width}")
    if found.encoding == CONSTANT:
        # One entry that is seen many times: it takes no room here either.
        return np.broadcast_to(np.frombuffer(found.data, dtype).copy(), found.count)
    if found.encoding == DELTA:
        data = compression.decompress(found.data, found.width * found.count)
        return np.cumsum(np.frombuffer(data, dtype), dtype=dtype)
    # Its own bytes: a view would keep the whole index in memory.
    return np.frombuffer(found.plain(), dtype).copy()


def narrow(values: Array) -> Array:
    """Unsigned numbers in as few bytes as the largest needs."""
    top = int(values.max()) if len(values) else 0
    for kind in (np.uint8, np.uint16, np.uint32):
        if top <= np.iinfo(kind).max:
            return values.astype(kind)
    return values.astype(np.uint64)


def halves(keys: Array) -> tuple[Array, Array]:
    """Return keys of 16 bytes as two numbers each, in the order of the bytes."""
    numbers = np.frombuffer(keys, ">u8").reshape(-1, 2)
    return numbers[:, 0].astype(np.uint64), numbers[:, 1].astype(np.uint64)


def sorted_order(keys: Array) -> Array:
    """Return how keys of 16 bytes are sorted."""
    high, low = halves(keys)
    order = np.argsort(high, kind="stable")
    first = high[order]
    return order if (first[1:] != first[:-1]).all() else np.lexsort((low, high))


# -- writing -----------------------------------------------------------------------------------------------


def build_entries(
    pack: EntryPack,
    blocks: Sequence[Block],
    parts: Mapping[str, Array],
    *,
    key: bytes,
    drawn: str = "",
    is_plain: bool = False,
) -> list[Buffer]:
    """Return the bytes of a pack; the pack learns its name, its size, and where its blocks are.

    Parameters
    ----------
    parts
        Columns by place, named by `part_name`, for those who ask why a key differs.
    drawn
        What makes the name unlike any other's; drawn at random where it is left out.
    is_plain
        Whether columns are written as they are.
    """
    shape = raw_column if is_plain else column
    offset = HEADER_NBYTES
    offsets = []
    body: list[Buffer] = []
    for each in blocks:
        offsets.append(0 if each.blob else offset)
        if not each.blob:
            body.append(each.data)
            offset += len(each.data)
    parts_data = pack_columns([shape(name, parts[name]) for name in sorted(parts)])
    body.append(parts_data)
    pack.parts_place = (offset, len(parts_data), digest_of([parts_data], pack.salt))
    offset += len(parts_data)
    pack.offsets = np.array(offsets, np.uint64)
    order = sorted_order(pack.keys)
    pack.keys, pack.places = pack.keys[order], pack.places[order]
    lists = {
        "origins": [[each.run_id, each.node, each.host, each.pack] for each in pack.origins],
        "blobs": pack.blobs,
        "replaces": pack.replaces,
    }
    columns = [
        text_column("lists", lists, None if is_plain else compression.compress),
        shape("created", pack.created),
        shape("expires", pack.expires),
        shape("indices", narrow(pack.indices), is_ordered=True),
        shape("origin", narrow(pack.origin)),
        shape("ordinals", narrow(pack.ordinals), is_ordered=True),
        shape("places", narrow(pack.places)),
        raw_column("keys", pack.keys),
        shape("block.count", narrow(np.diff(pack.firsts))),
        shape("block.offset", pack.offsets, is_ordered=True),
        shape("block.nbytes", narrow(pack.sizes)),
        shape("block.raw_nbytes", narrow(pack.raw_sizes)),
        shape("block.codec", narrow(pack.codecs)),
        shape("block.serializer", narrow(pack.block_serializers)),
        shape("block.blob", narrow(pack.block_blobs)),
        raw_column("block.digest", pack.digests),
    ]
    drawn = drawn or os.urandom(10).hex()
    # The name tells the size of the index, and is in it; whatever it tells, it has the same length.
    pack.name = new_entries_name(0, drawn)
    pack.name = new_entries_name(len(pack_columns([_meta(pack), *columns])), drawn)
    index = pack_columns([_meta(pack), *columns])
    trailer = end_of(ENTRIES, index, offset=offset, key=key)
    pack.nbytes = offset + len(index) + len(trailer)
    return [header(ENTRIES), *body, index, trailer]


def _meta(pack: EntryPack) -> Column:
    offset, nbytes, digest = pack.parts_place
    document = {
        "name": pack.name,
        "folder": pack.folder,
        "scheme": SCHEME,
        "salt": pack.salt.hex(),
        "generation": pack.generation,
        "serializers": pack.serializers,
        "parts": [offset, nbytes, digest.hex()],
    }
    return text_column("meta", document)


# -- reading -----------------------------------------------------------------------------------------------


def parse_entries(
    store: ResultStore,
    name: str,
    folder: str,
    tail: Tail,
    index: Buffer,
    *,
    modified: float = 0.0,
    asks_for_signer: bool = True,
) -> EntryPack | None:
    """Return a pack of what its end says, verified; None where its keys were made in another way than today's.

    Raises
    ------
    ResultDamaged
        If it is not what was written under this name, in this folder.
    """
    columns = tail.columns(store, index, asks_for_signer=asks_for_signer)
    try:
        meta = columns["meta"].document()
        if meta["name"] != name.rpartition("/")[2]:
            raise damage(store, name, f"it is another pack, {meta['name']}, under this name")
        if meta["folder"] != folder.rpartition("/")[2]:
            raise damage(store, name, f"it belongs to {meta['folder']}")
        if meta["scheme"] != SCHEME:
            return None
        return replace(_parsed(columns, meta, tail), modified=modified, is_signed=tail.is_signed(store))
    except ResultDamaged:
        raise
    except Exception as error:
        raise damage(store, name, f"its index is invalid: {type(error).__name__}: {error}") from error


def _parsed(columns: Mapping[str, Column], meta: Mapping[str, Any], tail: Tail) -> EntryPack:
    lists = columns["lists"].document()
    found = {name: array_of(each) for name, each in columns.items() if each.kind != "T"}
    firsts = np.zeros(len(found["block.count"]) + 1, np.uint64)
    np.cumsum(found["block.count"], out=firsts[1:])
    count = int(firsts[-1])
    by_place = ("created", "expires", "indices", "origin", "ordinals")
    if any(len(found[each]) != count for each in by_place):
        raise ValueError("columns differ in length")
    places = found["places"].astype(np.uint32)
    if len(places) != len(found["keys"]) or (len(places) and int(places.max()) >= count):
        raise ValueError("keys and places differ")
    offset, nbytes, digest = meta["parts"]
    return EntryPack(
        name=meta["name"],
        nbytes=tail.nbytes,
        salt=bytes.fromhex(meta["salt"]),
        generation=meta["generation"],
        replaces=tuple(lists["replaces"]),
        folder=meta["folder"],
        serializers=tuple(meta["serializers"]),
        origins=tuple(Origin(*each) for each in lists["origins"]),
        blobs=tuple(lists["blobs"]),
        keys=found["keys"],
        places=places,
        created=found["created"],
        expires=found["expires"],
        indices=found["indices"],
        origin=found["origin"],
        ordinals=found["ordinals"],
        firsts=firsts.astype(np.int64),
        offsets=found["block.offset"].astype(np.int64),
        sizes=found["block.nbytes"].astype(np.int64),
        raw_sizes=found["block.raw_nbytes"].astype(np.int64),
        codecs=found["block.codec"],
        block_serializers=found["block.serializer"],
        block_blobs=found["block.blob"],
        digests=found["block.digest"],
        parts_place=(offset, nbytes, bytes.fromhex(digest)),
    )


def part_name(name: str, width: int) -> str:
    """Return what the column of a part is called: packs that are put together may have one of each width."""
    return f"{width}:{name}"


def parts_at(parts: Mapping[str, Array], place: int) -> dict[str, tuple[bytes, ...]]:
    """Return what the key of a value was made of, by the name of the part: 8 bytes, or 4, or what may be either."""
    found: dict[str, tuple[bytes, ...]] = {}
    for column in sorted(parts):
        value = parts[column][place]
        if value:
            name = column.partition(":")[2]
            found[name] = (*found.get(name, ()), value.tobytes())
    return dict(sorted(found.items()))


def read_parts(
    store: ResultStore, folder: str, pack: EntryPack, data: Buffer | None = None
) -> dict[str, Array]:
    """Return the columns that keys were made of, by `part_name` and by place; zeros where a value has no such part.

    They are verified also where their bytes are given as `data`.

    Raises
    ------
    ResultDamaged
        If they are not what was written.
    ResultStoreError
        If the store cannot be read.
    """
    offset, nbytes, digest = pack.parts_place
    name = f"{folder}/{pack.name}"
    if data is None:
        data = store.read(name, offset, nbytes)
    if digest_of([data], pack.salt) != digest:
        raise damage(store, name, "the parts of its keys differ")
    return {each: array_of(found) for each, found in unpack_columns(data).items()}
