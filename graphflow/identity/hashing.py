"""Digests of values that are the same in every process, with whatever hash seed, and that tell types apart."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any

from graphflow.identity.canonical import Encoder, register_hash
from graphflow.identity.fingerprints import code_fingerprint

__all__ = [
    "UNTOLD",
    "canonical_digest",
    "combined_digests",
    "item_digests",
    "register_hash",
    "source_digests",
]

DIGEST_NBYTES = 16
ITEM_NBYTES = 8
UNTOLD = bytes(ITEM_NBYTES)
"""Stands for an item that cannot be told from others by its value."""
_INT_TAG = b"\x9d\x5b\xa7\x31\xe8\xc4\x76\x8b"
_FLOAT_TAG = b"\xc3\x2e\x94\x6d\x1b\xf9\x58\xd7"
_TEXT_HASH = blake2b(b"text", digest_size=ITEM_NBYTES)
_BYTES_HASH = blake2b(b"bytes", digest_size=ITEM_NBYTES)
_NEVER_ZERO = b"\x01" + bytes(ITEM_NBYTES - 1)


def canonical_digest(value: Any) -> bytes | None:
    """Return the digest of a value, 16 bytes; None if it cannot be told from others by its content.

    `(1, 2)` and `[1, 2]`, `{1: x}` and `{"1": x}`, `1`, `True` and `1.0` all differ; dicts and sets have no order.
    """
    data = _encoded(value)
    return None if data is None else blake2b(data, digest_size=DIGEST_NBYTES).digest()


def _encoded(value: Any) -> bytes | None:
    try:
        return Encoder(code_fingerprint).encode(value)
    except Exception:
        # Also what an object's own methods raise: it cannot be told.
        return None


def item_digests(values: Sequence[Any]) -> bytes:
    """Return what each value is compared by: 8 bytes per value, zeros where that cannot be told.

    The digest of a value does not depend on the others. Of a range, nothing needs to be compared: no bytes at all.
    """
    if isinstance(values, range):
        return b""
    if type(values) is not list:
        values = list(values)
    kinds = set(map(type, values))
    if len(kinds) == 1:
        fast = _FAST.get(kinds.pop())
        found = fast(values) if fast is not None else None
        if found is not None:
            return found
    return _each(values)


def combined_digests(columns: Sequence[bytes]) -> bytes:
    """Return the digests of items that are made of several values each; zeros where one of them cannot be told."""
    if len(columns) == 1:
        return columns[0]
    rows = zip(*([each[at : at + 8] for at in range(0, len(each), 8)] for each in columns), strict=True)
    return b"".join(UNTOLD if UNTOLD in row else _short(b"".join(row)) for row in rows)


def source_digests(columns: Sequence[Sequence[Any]]) -> bytes:
    """Return what items are compared by that are mapped over these sequences together, one after the other in the order of the call.

    Empty where all of them are ranges: the values of these follow from the indices.
    """
    if all(isinstance(each, range) for each in columns):
        return b""
    return combined_digests([item_digests(list(each)) for each in columns])


def _short(data: bytes) -> bytes:
    digest = blake2b(data, digest_size=ITEM_NBYTES).digest()
    return digest if digest != UNTOLD else _NEVER_ZERO


def _each(values: Sequence[Any]) -> bytes:
    encode = Encoder(code_fingerprint).encode
    found = []
    for value in values:
        fast = _FAST.get(type(value))
        digest = fast((value,)) if fast is not None else None
        if digest is None:
            try:
                digest = _short(encode(value))
            except Exception:
                digest = UNTOLD
        found.append(digest)
    return b"".join(found)


def _numbers(values: Sequence[Any], kind: str, tag: bytes) -> bytes:
    """Return the numbers themselves, mixed with a tag."""
    numbers = array(kind, values)
    if sys.byteorder == "big":
        numbers.byteswap()
    size = len(numbers) * ITEM_NBYTES
    mixed = int.from_bytes(numbers.tobytes(), "little") ^ int.from_bytes(tag * len(numbers), "little")
    data = mixed.to_bytes(size, "little")
    at = data.find(UNTOLD)
    while at >= 0:
        if at % ITEM_NBYTES == 0:
            data = data[:at] + _NEVER_ZERO + data[at + ITEM_NBYTES :]
        at = data.find(UNTOLD, at + 1)
    return data


def _ints(values: Sequence[int]) -> bytes | None:
    try:
        return _numbers(values, "q", _INT_TAG)
    except OverflowError:
        return None if len(values) == 1 else _each(values)


def _floats(values: Sequence[float]) -> bytes:
    return _numbers(values, "d", _FLOAT_TAG)


def _texts(values: Sequence[str]) -> bytes:
    try:
        blocks = [value.encode() for value in values]
    except UnicodeEncodeError:
        blocks = [value.encode("utf-8", "surrogatepass") for value in values]
    return _hashed(_TEXT_HASH, blocks)


def _blocks(values: Sequence[bytes]) -> bytes:
    return _hashed(_BYTES_HASH, values)


def _hashed(begun: Any, blocks: Sequence[bytes]) -> bytes:
    """Return each block's hash, begun with a tag: a copy of that costs less than a new hash."""
    copy, digests = begun.copy, []
    for block in blocks:
        each = copy()
        each.update(block)
        digests.append(each.digest())
    if UNTOLD in digests:
        digests = [_NEVER_ZERO if each == UNTOLD else each for each in digests]
    return b"".join(digests)


_FAST: dict[type, Callable[[Any], bytes | None]] = {int: _ints, float: _floats, str: _texts, bytes: _blocks}
