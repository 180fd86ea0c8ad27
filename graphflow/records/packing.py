"""Columns as bytes: small, quick to make, and exact. What one packs, the other unpacks in the same order.

A column of bytes is stored as one byte where all are equal, raw, or compressed. A column of words (numbers of 4 or 8
bytes) is taken apart into planes, one per byte of a word, since exponents and high bytes hardly vary while low bytes
never compress. Whether compressing pays is judged by a sample, because trying costs more than all the rest.
"""

from __future__ import annotations

import json
import struct
import sys
import zlib
from array import array
from collections.abc import Sequence
from typing import Any

__all__ = ["Packer", "Unpacker", "pressed", "unpressed"]

_DOUBLE = struct.Struct("<d")
_EQUAL, _RAW, _PRESSED, _PLANES = range(4)
SMALL = 48
"""Entries below which a column is not looked at closely."""
SAMPLE = 64
SAMPLE_KINDS = 24
"""Different bytes in a sample of a column that is worth compressing, at most."""
MAX_TEXT_NBYTES = 1 << 28
MAX_ENTRIES = 1 << 27
"""Entries of a column that are read: a damaged count must not fill the memory."""
_JSON = json.JSONEncoder(separators=(",", ":"), default=str)
_IS_BIG = sys.byteorder == "big"


class Packer:
    """Puts values one after the other; `data()` gives the result."""

    __slots__ = ("_parts",)

    def __init__(self, version: int) -> None:
        self._parts: list[bytes] = [bytes([version])]

    def data(self) -> bytes:
        """Everything so far."""
        return b"".join(self._parts)

    def number(self, value: int) -> None:
        """Pack a number of 0 or more, in as few bytes as possible."""
        if value < 128:
            self._parts.append(value.to_bytes(1, "little"))
            return
        made = bytearray()
        while value >= 128:
            made.append(value & 127 | 128)
            value >>= 7
        made.append(value)
        self._parts.append(bytes(made))

    def double(self, value: float) -> None:
        """Pack a number of 8 bytes."""
        self._parts.append(_DOUBLE.pack(value))

    def blob(self, data: bytes) -> None:
        """Pack bytes with their length."""
        self.number(len(data))
        self._parts.append(data)

    def text(self, text: str) -> None:
        """Pack any text."""
        self.blob(text.encode("utf-8", "surrogatepass"))

    def json(self, value: Any) -> None:
        """Pack a small plain value."""
        self.blob(_JSON.encode(value).encode("ascii"))

    def column(self, data: bytes) -> None:
        """Pack a column of bytes, whose length the reader knows."""
        size = len(data)
        if not size:
            return
        if data.count(data[0]) == size:
            self._parts.append(bytes((_EQUAL, data[0])))
            return
        if size >= SMALL and len(set(data[:: max(1, size // SAMPLE)])) <= SAMPLE_KINDS:
            # Runs and a skewed alphabet are all that there is to find; small windows are set up quickly.
            packer = zlib.compressobj(1, zlib.DEFLATED, -12, 5, zlib.Z_RLE)
            packed = packer.compress(data) + packer.flush()
            if len(packed) + 4 < size:
                self._parts.append(bytes((_PRESSED,)))
                self.blob(packed)
                return
        self._parts.append(bytes((_RAW,)))
        self._parts.append(data)

    def words(self, words: array[Any]) -> None:
        """Pack a column of numbers, whose count and kind the reader knows."""
        size, width = len(words), words.itemsize
        if not size:
            return
        if _IS_BIG:
            words = words[:]
            words.byteswap()
        data = words.tobytes()
        first = data[:width]
        if data[width : 2 * width] in (first, b"") and data == first * size:
            self._parts += (bytes((_EQUAL,)), first)
        elif size < SMALL:
            self._parts += (bytes((_RAW,)), data)
        else:
            self._parts.append(bytes((_PLANES,)))
            for plane in range(width):
                self.column(data[plane::width])

    def ints(self, values: Sequence[int]) -> None:
        """Whole numbers of 0 or more, whose count the reader knows; a range is two of them."""
        if not len(values):
            return
        if isinstance(values, range) and values.step == 1:
            self.number(0)
            self.number(values.start)
            return
        kind = "I" if max(values) < 1 << 32 else "Q"
        self.number(4 if kind == "I" else 8)
        self.words(values if isinstance(values, array) and values.typecode == kind else array(kind, values))


class Unpacker:
    """Takes the values of a `Packer` out again.

    All methods raise `ValueError`, `IndexError` or `zlib.error` where the bytes are not such values.
    """

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 1

    def _take(self, size: int) -> bytes:
        at = self._at
        self._at = at + size
        if self._at > len(self._data):
            raise ValueError(f"{size} bytes are asked for at {at} of {len(self._data)}")
        return self._data[at : self._at]

    def end(self) -> None:
        """Check that nothing is left."""
        if self._at != len(self._data):
            raise ValueError(f"{len(self._data) - self._at} bytes are left")

    def number(self) -> int:
        """Return a number of 0 or more."""
        value = shift = 0
        while True:
            byte = self._data[self._at]
            self._at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    def double(self) -> float:
        """Return a number of 8 bytes."""
        value: float = _DOUBLE.unpack(self._take(8))[0]
        return value

    def blob(self) -> bytes:
        """Return bytes with their length."""
        return self._take(self.number())

    def text(self) -> str:
        """Return a text."""
        return self.blob().decode("utf-8", "surrogatepass")

    def json(self) -> Any:
        """Return a small plain value."""
        return json.loads(self.text())

    def column(self, size: int) -> bytes:
        """Return a column of so many bytes."""
        if not size:
            return b""
        if size > 8 * MAX_ENTRIES:
            raise ValueError(f"a column of {size:,} bytes is too large")
        how = self._take(1)[0]
        if how == _EQUAL:
            return self._take(1) * size
        if how == _RAW:
            return self._take(size)
        if how != _PRESSED:
            raise ValueError(f"unknown column encoding {how}")
        return _unpressed(self.blob(), size, zlib.decompressobj(-12))

    def words(self, kind: str, size: int) -> array[Any]:
        """Return a column of so many numbers, of a type code of `array`."""
        words: array[Any] = array(kind)
        if not size:
            return words
        if size > MAX_ENTRIES:
            raise ValueError(f"a column of {size:,} numbers is too large")
        width = words.itemsize
        how = self._take(1)[0]
        if how == _EQUAL:
            words.frombytes(self._take(width) * size)
        elif how == _RAW:
            words.frombytes(self._take(width * size))
        elif how == _PLANES:
            data = bytearray(width * size)
            for plane in range(width):
                data[plane::width] = self.column(size)
            words.frombytes(data)
        else:
            raise ValueError(f"unknown column encoding {how}")
        if _IS_BIG:
            words.byteswap()
        return words

    def ints(self, count: int) -> Sequence[int]:
        """So many whole numbers; a range where they were one."""
        if not count:
            return ()
        width = self.number()
        if not width:
            first = self.number()
            return range(first, first + count)
        if width not in (4, 8):
            raise ValueError(f"no numbers have {width} bytes")
        return self.words("I" if width == 4 else "Q", count)


def _unpressed(data: bytes, size: int, opened: zlib._Decompress) -> bytes:
    """Return what was compressed, which must be of this size: never more is made."""
    made = opened.decompress(data, size + 1)
    if len(made) != size or not opened.eof:
        raise ValueError(f"a compressed column is not of {size} bytes")
    return made


def pressed(rows: Sequence[Any]) -> bytes:
    """Plain values, such as texts, compressed."""
    # Escaped: lone surrogates come through too.
    data = _JSON.encode(rows).encode("ascii")
    return len(data).to_bytes(4, "little") + zlib.compress(data, 1)


def unpressed(data: bytes) -> list[Any]:
    """Return the values again; `ValueError` or `zlib.error` where that is not what the bytes are."""
    size = int.from_bytes(data[:4], "little")
    if size > MAX_TEXT_NBYTES:
        raise ValueError(f"texts of {size:,} bytes are too large")
    rows = json.loads(_unpressed(data[4:], size, zlib.decompressobj()))
    if not isinstance(rows, list):
        raise ValueError("these are not rows")
    return rows
