"""Packs of version 1, which earlier versions of graphflow wrote: they stay readable.

A header, one section per column of values, a footer that says where they are, and a trailer with one MAC over header and
footer; described byte by byte in docs/packs.md.
"""

from __future__ import annotations

import struct
from hashlib import blake2b

from graphflow.model.reports import Stored
from graphflow.ports import ResultStore
from graphflow.results.packs.format import damage, key_of, newer
from graphflow.results.packs.sections import Pack, PackSection

__all__ = ["END", "open_first"]

VERSION = 1
MAGIC = b"\x89GFPACK\n"
END = b"\nGFEND\r\n"
TRAILER_NBYTES = 56
MAX_HEADER_NBYTES = 1 << 20
_HEADER = struct.Struct("<8sHHIQQd8sHHI")
_ENTRY = struct.Struct("<IHHQQII16s")
_TRAILER = struct.Struct("<QII32s8s")
_SIGNED_OF_TRAILER = 16
_PACK_PERSON = b"graphflow pack 1"


def open_first(store: ResultStore, name: str, trailer: bytes) -> Pack:
    """What a pack of version 1 says of itself, verified; `trailer` has its last 56 bytes.

    Raises
    ------
    ResultDamaged
        If it is not what was written under this name, or was signed with a foreign key.
    ResultStoreError
        If the store cannot be read.
    """
    footer_offset, footer_nbytes, count, mac, _ = _TRAILER.unpack(trailer)
    fixed = store.read(name, 0, _HEADER.size)
    magic, version, _, header_nbytes, batch, epoch, created, signer, name_nbytes, run_nbytes, nodes = (
        _HEADER.unpack(fixed)
    )
    if magic != MAGIC:
        raise damage(store, name, "it is no pack")
    if version > VERSION:
        raise newer(store, name, version)
    if (
        header_nbytes != _HEADER.size + name_nbytes + run_nbytes + 4 * nodes
        or header_nbytes > MAX_HEADER_NBYTES
        or footer_nbytes < count * _ENTRY.size
        or footer_offset < header_nbytes
    ):
        raise damage(store, name, "its header and its end do not fit together")
    key = key_of(store.keys, signer)
    if key is None:
        raise damage(store, name, "it was signed with another key than this installation's")
    header = store.read(name, 0, header_nbytes)
    footer = store.read(name, footer_offset, footer_nbytes)
    if _mac(header, footer, trailer, key) != mac:
        raise damage(store, name, "its signature does not fit")
    # What follows was signed, so it is what somebody with the key wrote.
    at = _HEADER.size
    its_name = header[at : at + name_nbytes].decode()
    its_run = header[at + name_nbytes : at + name_nbytes + run_nbytes].decode()
    if its_name != name:
        raise damage(store, name, f"it is another pack, {its_name}, under this name")
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


def _mac(header: bytes, footer: bytes, trailer: bytes, key: bytes) -> bytes:
    mac = blake2b(header, digest_size=32, key=key, person=_PACK_PERSON)
    mac.update(footer)
    mac.update(trailer[:_SIGNED_OF_TRAILER])
    return mac.digest()
