"""Packs: many results in one object of a store, signed, and verified whenever anything of one is read.

The format is described byte by byte in docs/packs.md. Version 1: a header, one section per column of values, a footer
that says where they are, and a trailer with one MAC over header and footer.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from graphflow.errors import ResultDamaged, ResultStoreError
from graphflow.ports import ResultStore
from graphflow.reports import Stored

__all__ = [
    "Pack",
    "PackSection",
    "Section",
    "build",
    "check_pack",
    "damaged",
    "key_id",
    "new_name",
    "open_pack",
    "publish",
    "read_section",
    "verify",
]

VERSION = 1
MAGIC = b"\x89GFPACK\n"
END = b"\nGFEND\r\n"
VALUES = 1
"""The kind of a section: a column of values."""
PICKLE = 1
"""The serializer of a section: one pickle of the list."""
CHUNK_NBYTES = 16 << 20
MAX_HEADER_NBYTES = 1 << 20
_HEADER = struct.Struct("<8sHHIQQd8sHHI")
_ENTRY = struct.Struct("<IHHQQII16s")
_TRAILER = struct.Struct("<QII32s8s")
_SIGNED_OF_TRAILER = 16
_SECTION_PERSON = b"graphflow part 1"
_PACK_PERSON = b"graphflow pack 1"
_KEY_PERSON = b"graphflow key id"


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A column that is to be written: the pickle of `count` values, of which those at `missing` are not there.

    Not `is_whole` where those are missing that nothing outside their batch needed.
    """

    node: int
    data: bytes
    count: int
    missing: Sequence[int] = ()
    is_whole: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class PackSection:
    """A column of a pack: whose it is, and where."""

    node: int
    stored: Stored


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """What a pack says of itself, verified; `created` is seconds since the epoch, `nbytes` the size of the object."""

    name: str
    run_id: str
    batch: int
    epoch: int
    created: float
    nodes: tuple[int, ...]
    sections: tuple[PackSection, ...]
    nbytes: int


def new_name(epoch: int, batch: int) -> str:
    """A name that no other pack has: a batch may be run twice, and may report in parts."""
    return f"e{epoch}-b{batch}-{os.urandom(6).hex()}.pack"


def key_id(key: bytes) -> bytes:
    """Names a key in a pack, without telling it: 8 bytes."""
    return blake2b(key=key, digest_size=8, person=_KEY_PERSON).digest()


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
    """The parts of a pack's bytes, and where each section is in them."""
    name_bytes, run_bytes = name.encode(), run_id.encode()
    nodes = struct.pack(f"<{len(sections)}I", *(each.node for each in sections))
    header_nbytes = _HEADER.size + len(name_bytes) + len(run_bytes) + len(nodes)
    header = b"".join(
        (
            _HEADER.pack(
                MAGIC,
                VERSION,
                0,
                header_nbytes,
                batch,
                epoch,
                created,
                key_id(key),
                len(name_bytes),
                len(run_bytes),
                len(sections),
            ),
            name_bytes,
            run_bytes,
            nodes,
        )
    )
    offset = header_nbytes
    stored: list[Stored] = []
    entries: list[bytes] = []
    for each in sections:
        digest = _digest(each.data, key)
        stored.append(
            Stored(
                name=name,
                offset=offset,
                nbytes=len(each.data),
                digest=digest,
                count=each.count,
                missing=tuple(each.missing),
                is_whole=each.is_whole,
            )
        )
        entries.append(
            _ENTRY.pack(
                each.node, VALUES, PICKLE, offset, len(each.data), each.count, len(each.missing), digest
            )
        )
        offset += len(each.data)
    missing = [position for each in sections for position in each.missing]
    footer = b"".join((*entries, struct.pack(f"<{len(missing)}I", *missing)))
    unsigned = _TRAILER.pack(offset, len(footer), len(sections), bytes(32), END)
    mac = _mac(header, footer, unsigned, key)
    trailer = _TRAILER.pack(offset, len(footer), len(sections), mac, END)
    return [header, *(each.data for each in sections), footer, trailer], stored


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


def _digest(data: bytes, key: bytes) -> bytes:
    return blake2b(data, digest_size=16, key=key, person=_SECTION_PERSON).digest()


def _mac(header: bytes, footer: bytes, trailer: bytes, key: bytes) -> bytes:
    mac = blake2b(header, digest_size=32, key=key, person=_PACK_PERSON)
    mac.update(footer)
    mac.update(trailer[:_SIGNED_OF_TRAILER])
    return mac.digest()


# -- reading -----------------------------------------------------------------------------------------------


def read_section(store: ResultStore, stored: Stored) -> bytes:
    """The bytes of a section, verified.

    Raises
    ------
    ResultDamaged
        If they are not what was written there.
    ResultStoreError
        If the store cannot be read.
    """
    data = store.read(stored.name, stored.offset, stored.nbytes)
    # Of a foreign pack under this name, too, the digest differs: nothing of it is unpickled.
    if len(data) != stored.nbytes or all(_digest(data, key) != stored.digest for key in store.keys):
        raise _damage(store, stored.name, f"the {stored.nbytes:,} bytes from {stored.offset:,} on differ")
    return data


def verify(store: ResultStore, *stored: Stored) -> bool:
    """Whether sections are what was written there; nothing is unpickled.

    Raises
    ------
    ResultStoreError
        If the store cannot be read.
    """
    return not damaged(store, stored)


def damaged(store: ResultStore, stored: Iterable[Stored]) -> list[Stored]:
    """Those sections that are not what was written there. Several are read at the same time: hashing takes no lock.

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
    """What a pack says of itself, verified; its sections are verified when they are read.

    Parameters
    ----------
    run_id
        Whose it should be.

    Raises
    ------
    ResultDamaged
        If it is not what was written under this name (for this run), or was signed with a foreign key.
    ResultStoreError
        If the store cannot be read, or a newer graphflow wrote it.
    """
    trailer = store.read(name, -_TRAILER.size, _TRAILER.size)
    footer_offset, footer_nbytes, count, mac, end = _TRAILER.unpack(trailer)
    if end != END:
        raise _damage(store, name, "its end is missing")
    fixed = store.read(name, 0, _HEADER.size)
    magic, version, _, header_nbytes, batch, epoch, created, signer, name_nbytes, run_nbytes, nodes = (
        _HEADER.unpack(fixed)
    )
    if magic != MAGIC:
        raise _damage(store, name, "it is no pack")
    if version > VERSION:
        raise ResultStoreError(
            f"the stored result {name} in {store.url} was written by a newer graphflow (format {version}, this one knows "
            f"{VERSION}); use that one"
        )
    if (
        header_nbytes != _HEADER.size + name_nbytes + run_nbytes + 4 * nodes
        or header_nbytes > MAX_HEADER_NBYTES
        or footer_nbytes < count * _ENTRY.size
        or footer_offset < header_nbytes
    ):
        raise _damage(store, name, "its header and its end do not fit together")
    key = next((key for key in store.keys if key_id(key) == signer), None)
    if key is None:
        raise _damage(store, name, "it was signed with another key than this installation's")
    header = store.read(name, 0, header_nbytes)
    footer = store.read(name, footer_offset, footer_nbytes)
    if _mac(header, footer, trailer, key) != mac:
        raise _damage(store, name, "its signature does not fit")
    # What follows was signed, so it is what somebody with the key wrote.
    at = _HEADER.size
    its_name = header[at : at + name_nbytes].decode()
    its_run = header[at + name_nbytes : at + name_nbytes + run_nbytes].decode()
    if its_name != name:
        raise _damage(store, name, f"it is another pack, {its_name}, under this name")
    if run_id is not None and its_run != run_id:
        raise _damage(store, name, f"it is of another run, {its_run}, not of {run_id}")
    return Pack(
        name=name,
        run_id=its_run,
        batch=batch,
        epoch=epoch,
        created=created,
        nodes=struct.unpack_from(f"<{nodes}I", header, at + name_nbytes + run_nbytes),
        sections=_sections(name, footer, count),
        nbytes=footer_offset + footer_nbytes + _TRAILER.size,
    )


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
            raise _damage(store, name, f"the column of node {each.node} differs")
    return pack


def _sections(name: str, footer: bytes, count: int) -> tuple[PackSection, ...]:
    at = count * _ENTRY.size
    found = []
    for number in range(count):
        node, _, _, offset, nbytes, size, missing, digest = _ENTRY.unpack_from(footer, number * _ENTRY.size)
        positions = struct.unpack_from(f"<{missing}I", footer, at)
        at += 4 * missing
        found.append(
            PackSection(
                node=node,
                stored=Stored(
                    name=name, offset=offset, nbytes=nbytes, digest=digest, count=size, missing=positions
                ),
            )
        )
    return tuple(found)


def _damage(store: ResultStore, name: str, what: str) -> ResultDamaged:
    return ResultDamaged(f"the stored result {name} in {store.url} is damaged: {what}; it is not used")
