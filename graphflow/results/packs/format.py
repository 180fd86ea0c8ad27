"""The frame of a pack, version 2: header, body, index, trailer; and the columns that indexes are made of.

Described byte by byte in docs/packs.md. One read of the tail gives trailer and index, and nothing of an index is looked
at before its signature was found right.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from graphflow.common.signing import fingerprint
from graphflow.errors import ResultDamaged, ResultNotSigned, ResultStoreError
from graphflow.ports import Buffer, ResultStore
from graphflow.results.packs.compression import decompress

__all__ = [
    "COLUMNS_OF_RUN",
    "GROWN_OF_RUN",
    "DELTA",
    "CONSTANT",
    "ENTRIES",
    "HEADER_NBYTES",
    "NEWEST",
    "RAW",
    "SHARE_KEY",
    "TRAILER_NBYTES",
    "ZSTD",
    "Column",
    "Tail",
    "damage",
    "end_of",
    "header",
    "key_id",
    "key_of",
    "other_key",
    "pack_columns",
    "read_trailer",
    "text_column",
    "unpack_columns",
]

NEWEST = 2
"""The version that is written."""
MAGIC = b"\x89GFPACK\n"
END = b"\nGFPK\x1a\r\n"
_END_OF_VERSION_1 = b"\nGFEND\r\n"
COLUMNS_OF_RUN = 1
"""The kind of a pack: columns of values that a run made."""
ENTRIES = 2
"""The kind of a pack: values by key, of a cache."""
GROWN_OF_RUN = 3
"""The kind of a pack: columns of values that a process appended while it ran batches of a run."""
RAW, ZSTD, CONSTANT, DELTA = 0, 1, 2, 3
"""How a column is written: as it is; compressed; one entry for all; differences, compressed."""
_HEADER = struct.Struct("<8sHHI")
_TRAILER = struct.Struct("<QQHHI8s16s32s8s")
_SIGNED_OF_TRAILER = 48
_COLUMN = struct.Struct("<HBBIIQ")
HEADER_NBYTES = _HEADER.size
TRAILER_NBYTES = _TRAILER.size
SHARE_KEY = "share the key (`graphflow key export` there and `graphflow key import` here, or the same GRAPHFLOW_SECRET_KEY in both)"
NO_KEY = bytes(8)
"""The key id of a pack that was not signed."""
_MAC_PERSON = b"graphflow pack 2"
_SUM_PERSON = b"graphflow sum 2."


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of an index: `count` entries of `width` bytes; `kind` is u, f, S (bytes of a fixed width) or T (text)."""

    name: str
    kind: str
    width: int
    count: int
    encoding: int
    data: Buffer

    def plain(self) -> Buffer:
        """Return the entries one after the other; for `RAW`, `ZSTD` and `CONSTANT`."""
        if self.encoding == RAW:
            found = self.data
        elif self.encoding == CONSTANT:
            found = bytes(self.data) * self.count
        elif self.encoding == ZSTD:
            found = decompress(self.data, self.width * self.count)
        else:
            raise ValueError(f"the column {self.name} has the unknown encoding {self.encoding}")
        if len(found) != self.width * self.count:
            raise ValueError(f"the column {self.name} has {len(found)} bytes, not {self.width * self.count}")
        return found

    def document(self) -> dict[str, Any]:
        """Return what a text column tells."""
        found: dict[str, Any] = json.loads(bytes(self.plain()))
        return found


def text_column(name: str, document: Mapping[str, Any], encode: Any = None) -> Column:
    """Return a document as a column of its JSON text; `encode` may compress it."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
    packed = None if encode is None else encode(text)
    return Column(
        name=name,
        kind="T",
        width=1,
        count=len(text),
        encoding=RAW if packed is None else ZSTD,
        data=text if packed is None else packed,
    )


def pack_columns(columns: Sequence[Column]) -> bytes:
    """Return columns as bytes: how many, what each is, and then their data one after the other."""
    parts: list[Buffer] = [struct.pack("<I", len(columns))]
    for each in columns:
        name = each.name.encode()
        parts.append(
            _COLUMN.pack(len(name), ord(each.kind), each.encoding, each.width, each.count, len(each.data))
        )
        parts.append(name)
    return b"".join([*parts, *(each.data for each in columns)])


def unpack_columns(data: Buffer) -> dict[str, Column]:
    """Return columns by name; those of a later version are there too, and are of no harm."""
    view = memoryview(data)
    (count,) = struct.unpack_from("<I", view, 0)
    at = 4
    heads = []
    for _ in range(count):
        name_nbytes, kind, encoding, width, entries, nbytes = _COLUMN.unpack_from(view, at)
        at += _COLUMN.size
        heads.append(
            (bytes(view[at : at + name_nbytes]).decode(), chr(kind), encoding, width, entries, nbytes)
        )
        at += name_nbytes
    columns = {}
    for name, kind_name, encoding, width, entries, nbytes in heads:
        columns[name] = Column(
            name=name,
            kind=kind_name,
            width=width,
            count=entries,
            encoding=encoding,
            data=view[at : at + nbytes],
        )
        at += nbytes
    if at != len(view):
        raise ValueError(f"the columns end at {at}, not at {len(view)}")
    return columns


# -- the frame ---------------------------------------------------------------------------------------------


def key_id(key: bytes) -> bytes:
    """Return names a key in a pack, without telling it: its fingerprint, 8 bytes."""
    return bytes.fromhex(fingerprint(key))


def key_of(keys: Iterable[bytes], signer: bytes) -> bytes | None:
    """Return the key that a pack names as its signer's."""
    return next((key for key in keys if key_id(key) == signer), None)


def other_key(signer: str, store: ResultStore) -> str:
    """Return the text for a result signed with a foreign key: both fingerprints, and how to share the key."""
    own = ", ".join(fingerprint(key) for key in store.keys[:1]) or "none"
    return f"signed with another key than this installation's (fingerprint {signer}, here {own})"


def header(kind: int) -> bytes:
    """Return the first bytes of a pack."""
    return _HEADER.pack(MAGIC, NEWEST, kind, 0)


def end_of(kind: int, index: bytes, *, offset: int, key: bytes) -> bytes:
    """Return the trailer of a pack whose index is at an offset."""
    checksum = blake2b(index, digest_size=16, person=_SUM_PERSON).digest()
    signer = key_id(key) if key else NO_KEY
    fields = (offset, len(index), NEWEST, kind, 0, signer, checksum)
    unsigned = _TRAILER.pack(*fields, bytes(32), END)
    return _TRAILER.pack(*fields, _mac(kind, index, unsigned, key), END)


def _mac(kind: int, index: Buffer, trailer: Buffer, key: bytes) -> bytes:
    mac = blake2b(header(kind), digest_size=32, key=key, person=_MAC_PERSON)
    mac.update(index)
    mac.update(trailer[:_SIGNED_OF_TRAILER])
    return mac.digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """What a trailer says; `nbytes` is the size of the whole object."""

    name: str
    kind: int
    offset: int
    index_nbytes: int
    signer: bytes
    checksum: bytes
    mac: bytes
    trailer: bytes

    @property
    def nbytes(self) -> int:
        return self.offset + self.index_nbytes + TRAILER_NBYTES

    def is_signed(self, store: ResultStore) -> bool:
        """Return whether it says that a key of this installation signed it."""
        return key_of(store.keys, self.signer) is not None

    def columns(
        self, store: ResultStore, index: Buffer, *, asks_for_signer: bool = True
    ) -> dict[str, Column]:
        """Return the columns of the index, verified.

        Parameters
        ----------
        asks_for_signer
            Whether only what a key of this installation signed is taken. Without it, nothing in the columns can be
            believed.

        Raises
        ------
        ResultDamaged
            If it differs from what was written, or was written without a key of this installation.
        """
        if len(index) != self.index_nbytes:
            raise damage(store, self.name, "its index is truncated")
        allows = bool(getattr(store, "allow_unsigned", False)) or not asks_for_signer
        key = key_of(store.keys, self.signer)
        if key is not None:
            if _mac(self.kind, index, self.trailer, key) != self.mac:
                raise damage(store, self.name, "its signature does not match")
        elif not allows:
            signer = "" if self.signer == NO_KEY else self.signer.hex()
            how = f"was {other_key(signer, store)}" if signer else "was not signed"
            raise ResultNotSigned(
                f"the stored result {self.name} in {store.url} {how}; ignoring it: {SHARE_KEY}, or allow unsigned "
                "results",
                signer=signer,
            )
        elif blake2b(index, digest_size=16, person=_SUM_PERSON).digest() != self.checksum:
            raise damage(store, self.name, "its index differs")
        try:
            return unpack_columns(index)
        except Exception as error:
            raise damage(store, self.name, f"its index is invalid: {error}") from error


def read_trailer(store: ResultStore, name: str, data: Buffer, *, kind: int, nbytes: int = 0) -> Tail:
    """Return what the last bytes of a pack say; `nbytes` is its size, where that is known.

    Raises
    ------
    ResultDamaged
        If it is not a pack of this kind.
    ResultStoreError
        If another version of graphflow wrote it.
    """
    if len(data) < TRAILER_NBYTES:
        raise damage(store, name, f"it has {len(data)} bytes, too few for a pack")
    trailer = bytes(data[-TRAILER_NBYTES:])
    if trailer.endswith(_END_OF_VERSION_1):
        raise _other_version(store, name, 1)
    offset, index_nbytes, version, found, _, signer, checksum, mac, end = _TRAILER.unpack(trailer)
    if end != END:
        raise damage(store, name, "its end is missing")
    if version == 0:
        raise damage(store, name, "it has no version")
    if version != NEWEST:
        raise _other_version(store, name, version)
    tail = Tail(
        name=name,
        kind=found,
        offset=offset,
        index_nbytes=index_nbytes,
        signer=signer,
        checksum=checksum,
        mac=mac,
        trailer=trailer,
    )
    if found != kind or offset < HEADER_NBYTES or (nbytes and tail.nbytes != nbytes):
        raise damage(store, name, "its end does not match the rest")
    return tail


def _other_version(store: ResultStore, name: str, version: int) -> ResultStoreError:
    if version > NEWEST:
        return ResultStoreError(
            f"the stored result {name} in {store.url} was written by a newer graphflow (format {version}, this one knows "
            f"{NEWEST}); upgrade graphflow"
        )
    return ResultStoreError(
        f"the stored result {name} in {store.url} was written by an older graphflow (format {version}), and this one reads "
        f"format {NEWEST} only; remove it and run again, or read it with the graphflow that wrote it"
    )


def damage(store: ResultStore, name: str, what: str) -> ResultDamaged:
    """Return the error for an object that is not what was written."""
    return ResultDamaged(f"the stored result {name} in {store.url} is damaged: {what}; ignoring it")


def joined(parts: Iterable[Buffer]) -> int:
    """Return the size of parts together."""
    return sum(map(len, parts))
