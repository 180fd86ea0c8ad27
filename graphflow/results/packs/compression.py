"""zstd where it pays: what does not get clearly smaller is kept as it is."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from graphflow.ports import Buffer

__all__ = ["Inflater", "compress", "compressed_parts", "decompress", "pays"]

LEVEL = 1
RATIO = 0.85
"""What is left must be at most this share of what was there."""
MIN_NBYTES = 200
SAMPLE_NBYTES = 64 << 10


@functools.cache
def _zstd() -> Any:
    try:
        from compression import zstd  # type: ignore[import-not-found, unused-ignore]  # from Python 3.14 on
    except ImportError:
        from backports import zstd
    return zstd


def compress(data: Buffer, *, always: bool = False) -> bytes | None:
    """Return the data compressed; None where that does not pay."""
    if not always:
        if len(data) < MIN_NBYTES:
            return None
        if len(data) > 4 * SAMPLE_NBYTES and not pays([data]):
            return None
    packed = _compressed(data)
    return packed if always or len(packed) <= RATIO * len(data) else None


class _Stream(threading.local):
    """A thread's compressor: making one takes longer than what it does with a few kilobytes."""

    def __init__(self) -> None:
        self.made: Any = None


_stream = _Stream()


def _compressed(data: Buffer) -> bytes:
    """Return one frame."""
    if _stream.made is None:
        _stream.made = _zstd().ZstdCompressor(LEVEL)
    made = _stream.made
    packed: bytes = made.compress(data, made.FLUSH_FRAME)
    return packed


def pays(parts: Iterable[Buffer]) -> bool:
    """Return whether a sample from the middle of the largest part gets clearly smaller."""
    largest = max((memoryview(part) for part in parts), key=len, default=memoryview(b""))
    middle = max(0, (len(largest) - SAMPLE_NBYTES) // 2)
    sample = largest[middle : middle + SAMPLE_NBYTES]
    return len(sample) >= MIN_NBYTES and len(_compressed(sample)) <= RATIO * len(sample)


def compressed_parts(parts: Iterable[Buffer]) -> Iterator[bytes]:
    """Yield one zstd stream of all parts, as it grows."""
    stream = _zstd().ZstdCompressor(LEVEL)
    for part in parts:
        yield from filter(None, [stream.compress(part)])
    yield stream.flush()


def decompress(data: Buffer, nbytes: int) -> bytes:
    """Return what was compressed, of which the size is known: never more memory than that is taken.

    Raises
    ------
    ValueError
        If it is anything else.
    """
    inflater = Inflater(nbytes)
    found = inflater.feed(data)
    inflater.end()
    return found


class Inflater:
    """Decompresses a stream piece by piece, up to the size that is known."""

    __slots__ = ("_left", "_stream")

    def __init__(self, nbytes: int) -> None:
        self._left = nbytes
        self._stream = _zstd().ZstdDecompressor()

    def feed(self, data: Buffer) -> bytes:
        """Return what a piece of the stream gives."""
        try:
            found: bytes = self._stream.decompress(data, self._left + 1)
        except (_zstd().ZstdError, EOFError) as error:
            raise ValueError(f"this is not zstd: {error}") from error
        self._left -= len(found)
        if self._left < 0:
            raise ValueError("there is more data than was declared")
        return found

    def end(self) -> None:
        """Refuse a stream that is not complete."""
        if self._left or not self._stream.eof or self._stream.unused_data:
            raise ValueError("there is less data than was declared, or something after it")
