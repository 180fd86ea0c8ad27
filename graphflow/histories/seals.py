"""Keyed hashes over what is written, each over its predecessor too: a changed bit is found, never believed."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from hashlib import blake2b

__all__ = ["Seal"]

NBYTES = 16
_COMMIT = struct.Struct("<qqdqqq")
_RECORD = struct.Struct("<qqqqd")
_ANCHOR = struct.Struct("<q")

Head = tuple[int, int, int, int, float, bytes]
"""Of a record: kind, node, lo, count, at and the digest of its body."""


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

    def of(self, key_id: bytes) -> Seal | None:
        """Return the seal that a run was begun with; None where that key is not known."""
        if key_id == self.key_id:
            return self
        seals = (Seal(key, self._run.decode()) for key in self._older)
        return next((seal for seal in seals if seal.key_id == key_id), None)

    def genesis(self, name: str, flow_name: str, created: float) -> bytes:
        """Return what the first commit follows."""
        parts = (self._run, name.encode(), flow_name.encode(), struct.pack("<d", created))
        hasher = blake2b(digest_size=NBYTES, key=self._key, person=b"gf-run")
        for part in parts:
            hasher.update(struct.pack("<q", len(part)))
            hasher.update(part)
        return hasher.digest()

    def body(self, body: bytes) -> bytes:
        """Return the digest of a record's body."""
        hasher = self._body.copy()
        hasher.update(body)
        return hasher.digest()

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
