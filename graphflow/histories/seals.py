"""Keyed hashes over what is written, each over its predecessor too: a changed bit is found, never believed."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b

__all__ = ["Seal"]

NBYTES = 16
_COMMIT = struct.Struct("<qqdqqq")
_RECORD = struct.Struct("<qqqqd")
_ANCHOR = struct.Struct("<q")
_PLACE = struct.Struct("<qqq")

Head = tuple[int, int, int, int, float, bytes]
"""Of a record: kind, node, lo, count, at and its digest."""


class Seal:
    """The hashes of one run; blake2b with a key, 16 bytes each.

    A run keeps the key that it started with: `older` are earlier keys, which `of` finds.
    """

    def __init__(self, key: bytes, run_id: str, older: Sequence[bytes] = ()) -> None:
        self._key = key
        self._older = tuple(older)
        self._run = run_id.encode()
        self.key_id = blake2b(b"graphflow key", digest_size=8, key=key).digest()
        """Tells keys apart, so that a history of another key is not called damaged."""
        self._body = blake2b(digest_size=NBYTES, key=key, person=b"gf-body")
        self._record = blake2b(digest_size=NBYTES, key=key, person=b"gf-record")
        self._record.update(struct.pack("<q", len(self._run)) + self._run)

    def of(self, key_id: bytes) -> Seal | None:
        """Return the seal that a run was begun with; None where that key is not known."""
        return next((seal for seal in self.all() if seal.key_id == key_id), None)

    def all(self) -> Iterator[Seal]:
        """Yield the seals of all known keys, this one first."""
        yield self
        for key in self._older:
            yield Seal(key, self._run.decode())

    def genesis(self, name: str, flow_name: str, created: float) -> bytes:
        """Return what the first commit follows."""
        parts = (self._run, name.encode(), flow_name.encode(), struct.pack("<d", created))
        hasher = blake2b(digest_size=NBYTES, key=self._key, person=b"gf-run")
        for part in parts:
            hasher.update(struct.pack("<q", len(part)))
            hasher.update(part)
        return hasher.digest()

    def record(
        self,
        number: int,
        seq: int,
        epoch: int,
        columns: tuple[int, int, int, int, float],
        body: bytes,
    ) -> bytes:
        """Return the digest of a record: of its body, its columns (kind, node, lo, count, at) and its place in this run.

        It alone shows that a record is one of this run, of this launch and at this place, where its commit is lost.

        Raises
        ------
        struct.error, TypeError
            If a value is not of the type that it is kept as.
        """
        hasher = self._record.copy()
        hasher.update(_PLACE.pack(number, seq, epoch))
        hasher.update(_RECORD.pack(*columns))
        hasher.update(body)
        return hasher.digest()

    def is_record(self, digest: bytes, number: int, seq: int, epoch: int, head: Head, body: bytes) -> bool:
        """Return whether this is the body of a record whose commit was found right."""
        if self.record(number, seq, epoch, head[:5], body) == digest:
            return True
        # Older histories have the digest of the body alone.
        hasher = self._body.copy()
        hasher.update(body)
        return hasher.digest() == digest

    def commit(
        self,
        before: bytes,
        seq: int,
        epoch: int,
        at: float,
        first: int,
        state: str | None,
        heads: Iterable[Head],
    ) -> bytes:
        """Return the hash of a commit.

        Raises
        ------
        struct.error, TypeError
            If a value is not of the type that it is kept as.
        """
        hasher = blake2b(before, digest_size=NBYTES, key=self._key, person=b"gf-commit")
        text = b"" if state is None else state.encode()
        packed = bytearray()
        count = 0
        for kind, node, lo, items, moment, digest in heads:
            packed += _RECORD.pack(kind, node, lo, items, moment)
            packed += digest
            count += 1
        hasher.update(_COMMIT.pack(seq, epoch, at, first, count, -1 if state is None else len(text)))
        hasher.update(text)
        hasher.update(packed)
        return hasher.digest()

    def anchor(self, seq: int, head: bytes) -> bytes:
        """Return the hash of an anchor."""
        return blake2b(
            self._run + _ANCHOR.pack(seq) + head, digest_size=NBYTES, key=self._key, person=b"gf-anchor"
        ).digest()
