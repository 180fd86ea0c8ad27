"""Packs: many results in one object of a store, signed, and verified whenever anything of one is read.

The packs of runs: one section per column of values. Those of caches are in `entries`, the frame of both in `format`, and
all is described byte by byte in docs/packs.md.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from itertools import islice

from graphflow.errors import ResultDamaged
from graphflow.model.reports import Stored
from graphflow.ports import ResultStore
from graphflow.results.packs.format import (
    COLUMNS_OF_RUN,
    HEADER_NBYTES,
    RAW,
    TRAILER_NBYTES,
    Column,
    damage,
    end_of,
    header,
    key_id,
    pack_columns,
    read_trailer,
    text_column,
)
from graphflow.results.packs.sections import Pack, PackSection, Section

__all__ = [
    "Pack",
    "PackSection",
    "Section",
    "build",
    "check_pack",
    "damaged",
    "digest_of",
    "key_id",
    "new_name",
    "open_pack",
    "publish",
    "read_section",
    "verify",
]

CHUNK_NBYTES = 16 << 20
_SECTION_PERSON = b"graphflow part 1"
_CODES = {4: "I", 8: "Q"}


def new_name(epoch: int, batch: int) -> str:
    """Return a name that no other pack has: a batch may be run twice, and may report in parts."""
    return f"e{epoch}-b{batch}-{os.urandom(6).hex()}.pack"


# -- writing -----------------------------------------------------------------------------------------------


def build(
    sections: Sequence[Section],
    *,
    name: str,
    run_id: str,
    batch: int,
    epoch: int,
    created: float,
    key: bytes,
) -> tuple[list[bytes], list[Stored]]:
    """Return the parts of a pack's bytes, and where each section is in them."""
    offset = HEADER_NBYTES
    stored: list[Stored] = []
    for each in sections:
        stored.append(
            Stored(
                name=name,
                offset=offset,
                nbytes=len(each.data),
                digest=digest_of(each.data, key),
                count=each.count,
                missing=tuple(each.missing),
                is_whole=each.is_whole,
            )
        )
        offset += len(each.data)
    meta = {"name": name, "run_id": run_id, "batch": batch, "epoch": epoch, "created": created}
    index = pack_columns(
        [
            text_column("meta", meta),
            _numbers("node", "I", [each.node for each in sections]),
            _numbers("offset", "Q", [each.offset for each in stored]),
            _numbers("nbytes", "Q", [each.nbytes for each in stored]),
            _numbers("count", "I", [each.count for each in stored]),
            Column(
                name="digest",
                kind="S",
                width=16,
                count=len(stored),
                encoding=RAW,
                data=b"".join(each.digest for each in stored),
            ),
            _numbers("missing.count", "I", [len(each.missing) for each in stored]),
            _numbers("missing", "I", [position for each in stored for position in each.missing]),
        ]
    )
    trailer = end_of(COLUMNS_OF_RUN, index, offset=offset, key=key)
    return [header(COLUMNS_OF_RUN), *(each.data for each in sections), index, trailer], stored


def _numbers(name: str, code: str, values: Sequence[int]) -> Column:
    data = struct.pack(f"<{len(values)}{code}", *values)
    width = struct.calcsize(code)
    return Column(name=name, kind="u", width=width, count=len(values), encoding=RAW, data=data)


def publish(
    store: ResultStore, sections: Sequence[Section], *, run_id: str, batch: int, epoch: int
) -> list[Stored]:
    """Write sections as one pack; it is durable when this returns.

    Raises
    ------
    ResultStoreError
        If the store does not take it.
    """
    name = new_name(epoch, batch)
    parts, stored = build(
        sections,
        name=name,
        run_id=run_id,
        batch=batch,
        epoch=epoch,
        created=time.time(),
        key=store.keys[0],
    )
    store.publish(name, parts)
    return stored


def digest_of(data: bytes, key: bytes) -> bytes:
    """Return the digest of a section."""
    return blake2b(data, digest_size=16, key=key, person=_SECTION_PERSON).digest()


# -- reading -----------------------------------------------------------------------------------------------


def read_section(store: ResultStore, stored: Stored) -> bytes:
    """Return the bytes of a section, verified.

    Raises
    ------
    ResultDamaged
        If they are not what was written there.
    ResultStoreError
        If the store cannot be read.
    """
    data = store.read(stored.name, stored.offset, stored.nbytes)
    # Of a foreign pack under this name, too, the digest differs: nothing of it is unpickled.
    if len(data) != stored.nbytes or all(digest_of(data, key) != stored.digest for key in store.keys):
        raise damage(store, stored.name, f"the {stored.nbytes:,} bytes from {stored.offset:,} on differ")
    return data


def verify(store: ResultStore, *stored: Stored) -> bool:
    """Return whether sections are what was written there; nothing is unpickled.

    Raises
    ------
    ResultStoreError
        If the store cannot be read.
    """
    return not damaged(store, stored)


def damaged(store: ResultStore, stored: Iterable[Stored]) -> list[Stored]:
    """Return those sections that are not what was written there. Several are read at the same time: hashing takes no lock.

    Raises
    ------
    ResultStoreError
        If the store cannot be read.
    """
    sections = list(stored)
    if len(sections) < 2:
        return [each for each in sections if not _is_whole(store, each)]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(min(8, len(sections), (os.cpu_count() or 1) + 2)) as pool:
        found = list(pool.map(lambda each: _is_whole(store, each), sections))
    return [each for each, is_whole in zip(sections, found, strict=True) if not is_whole]


def _is_whole(store: ResultStore, stored: Stored) -> bool:
    hashes = [blake2b(digest_size=16, key=key, person=_SECTION_PERSON) for key in store.keys]
    try:
        for start in range(0, stored.nbytes, CHUNK_NBYTES):
            data = store.read(stored.name, stored.offset + start, min(CHUNK_NBYTES, stored.nbytes - start))
            for each in hashes:
                each.update(data)
    except ResultDamaged:
        return False
    return any(each.digest() == stored.digest for each in hashes)


def open_pack(store: ResultStore, name: str, *, run_id: str | None = None) -> Pack:
    """Return what a pack says of itself, verified; its sections are verified when they are read.

    Parameters
    ----------
    run_id
        Whose it should be.

    Raises
    ------
    ResultDamaged
        If it is not what was written under this name (for this run), or was signed with a foreign key.
    ResultStoreError
        If the store cannot be read, or another version of graphflow wrote it.
    """
    end = store.read(name, -TRAILER_NBYTES, TRAILER_NBYTES)
    pack = _open(store, name, end)
    if run_id is not None and pack.run_id != run_id:
        raise damage(store, name, f"it belongs to another run, {pack.run_id}, not to {run_id}")
    return pack


def _open(store: ResultStore, name: str, trailer: bytes) -> Pack:
    tail = read_trailer(store, name, trailer, kind=COLUMNS_OF_RUN)
    if store.read(name, 0, HEADER_NBYTES) != header(COLUMNS_OF_RUN):
        raise damage(store, name, "it does not begin like a pack")
    # Its size was not said by any listing, so an offset that leads elsewhere is found here.
    columns = tail.columns(store, store.read(name, -TRAILER_NBYTES - tail.index_nbytes, tail.index_nbytes))
    try:
        meta = columns["meta"].document()
        found = {
            each: _numbers_of(columns[each])
            for each in ("node", "offset", "nbytes", "count", "missing.count")
        }
        digests = bytes(columns["digest"].plain())
        missing = iter(_numbers_of(columns["missing"]))
        sections = tuple(
            PackSection(
                node=node,
                stored=Stored(
                    name=name,
                    offset=offset,
                    nbytes=nbytes,
                    digest=digests[16 * number : 16 * number + 16],
                    count=count,
                    missing=tuple(islice(missing, absent)),
                ),
            )
            for number, (node, offset, nbytes, count, absent) in enumerate(zip(*found.values(), strict=True))
        )
        its_name, its_run = meta["name"], meta["run_id"]
        batch, epoch, created = meta["batch"], meta["epoch"], meta["created"]
    except Exception as error:
        raise damage(store, name, f"its index is invalid: {error}") from error
    # What was signed is what somebody with the key wrote: perhaps for another place.
    if its_name != name:
        raise damage(store, name, f"it is another pack, {its_name}, under this name")
    return Pack(
        name=name,
        run_id=its_run,
        batch=batch,
        epoch=epoch,
        created=created,
        nodes=tuple(each.node for each in sections),
        sections=sections,
        nbytes=tail.nbytes,
    )


def _numbers_of(column: Column) -> tuple[int, ...]:
    return struct.unpack(f"<{column.count}{_CODES[column.width]}", column.plain())


def check_pack(store: ResultStore, name: str, *, run_id: str | None = None) -> Pack:
    """Verify all of a pack.

    Raises
    ------
    ResultDamaged, ResultStoreError
        As `open_pack` and `read_section` do.
    """
    pack = open_pack(store, name, run_id=run_id)
    for each in pack.sections:
        if not _is_whole(store, each.stored):
            raise damage(store, name, f"the column of node {each.node} differs")
    return pack
