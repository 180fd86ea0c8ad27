"""Rows of a run's file, found byte by byte where SQLite cannot read it any more: in what is left of its pages and its log.

A damaged page, or a damaged frame of the write-ahead log, takes everything from SQLite that is behind it. The rows are there
all the same, each in one piece, for large bodies followed by overflow pages. Nothing that is found here is believed: what it
is worth is decided by its seal. The layout is SQLite's (https://sqlite.org/fileformat.html).
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graphflow.histories.runfiles import RunRow
from graphflow.histories.seals import Head

__all__ = ["Carved", "CommitRow", "carve"]

CommitRow = tuple[int, float, int, int, str | None, bytes]
"""Of a commit: epoch, at, first, count, state, mac."""
PAGE_NBYTES = 4096
MAX_BODY = 1 << 30
_WAL_MAGIC = (0x377F0682, 0x377F0683)
_WAL_HEADER, _FRAME_HEADER = 32, 24
# The header of a row: its length, then the type of each column; a rowid's own column is NULL (0). Integers are types 1-6, or
# 8 and 9 for 0 and 1; a float is 7, or an integer's type where it is whole; 16 and 8 bytes are 0x2c and 0x1c.
_INT, _FLOAT, _TEXT = rb"[\x01-\x06\x08\x09]", rb"[\x01-\x09]", rb"(?:[\x81-\xff]?[\x0d-\x7f])"
_COMMIT = re.compile(rb"\x08\x00" + _INT + _FLOAT + _INT + _INT + rb"[\x00\x0d-\x7f]\x2c", re.DOTALL)
_RECORD = re.compile(rb"[\x0a-\x0f]\x00" + _INT + rb"{5}" + _FLOAT + rb"\x2c", re.DOTALL)
_RUN = re.compile(
    rb"[\x0a-\x0d]" + _TEXT + rb"{3}" + _FLOAT + rb"\x1c" + _INT + rb"{3}\x2c",
    re.DOTALL,
)
_SIZES = {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8, 7: 8, 8: 0, 9: 0}


@dataclass(frozen=True, slots=True)
class _Body:
    """Where a body is: in a source, from `start` on, `local` bytes of `nbytes`; the rest from page `overflow` on."""

    source: Source
    start: int
    local: int
    nbytes: int
    overflow: int


class Source:
    """The bytes of a file, and the pages in it by number; of a log, several versions of each."""

    def __init__(self, path: Path, *, is_log: bool) -> None:
        size = path.stat().st_size
        with open(path, "rb") as file:
            self.data: Any = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        self._is_log = is_log
        self.page_nbytes = self._page_nbytes()
        self.frames: dict[int, list[int]] = {}
        if is_log:
            step = _FRAME_HEADER + self.page_nbytes
            for at in range(_WAL_HEADER, size - _FRAME_HEADER, step):
                (number,) = struct.unpack_from(">I", self.data, at)
                self.frames.setdefault(number, []).append(at + _FRAME_HEADER)

    def _page_nbytes(self) -> int:
        place, code = (8, ">I") if self._is_log else (16, ">H")
        if len(self.data) < place + struct.calcsize(code):
            return PAGE_NBYTES
        (found,) = struct.unpack_from(code, self.data, place)
        return found if found in (512 << each for each in range(8)) else PAGE_NBYTES

    def pages(self, number: int) -> Iterator[int]:
        """Yield where a page begins, its newest version first."""
        if self._is_log:
            yield from reversed(self.frames.get(number, ()))
        elif 0 < number <= -(-len(self.data) // self.page_nbytes):
            yield (number - 1) * self.page_nbytes

    def close(self) -> None:
        """Close the file."""
        if isinstance(self.data, mmap.mmap):
            self.data.close()


@dataclass(slots=True)
class Carved:
    """All rows that were found, by number, each as often as it differs; a context manager."""

    sources: list[Source] = field(default_factory=list)
    runs: list[RunRow] = field(default_factory=list)
    commits: dict[int, list[CommitRow]] = field(default_factory=dict)
    heads: dict[int, dict[tuple[int, Head], list[_Body]]] = field(default_factory=dict)
    """Of records: number -> (seq, head) -> where bodies may be."""

    def __enter__(self) -> Carved:
        return self

    def __exit__(self, *_: object) -> None:
        for source in self.sources:
            source.close()

    def bodies(self, number: int, seq: int, head: Head) -> Iterator[bytes]:
        """Yield what the body of a record may be."""
        for each in self.heads.get(number, {}).get((seq, head), ()):
            yield from self._loaded(each)

    def _loaded(self, body: _Body) -> Iterator[bytes]:
        start = bytes(body.source.data[body.start : body.start + body.local])
        if body.local == body.nbytes:
            yield start
            return
        # Pages of the log are newer than those of the file; a page of a body is written once.
        for order in (self.sources, self.sources[::-1]):
            parts, left, page, seen = [start], body.nbytes - body.local, body.overflow, 0
            while left > 0 and page and seen <= body.nbytes // 500 + 1:
                found = next(((each, at) for each in order for at in each.pages(page)), None)
                if found is None:
                    break
                source, at = found
                chunk = bytes(source.data[at : at + source.page_nbytes])
                if len(chunk) < 5:
                    break
                (page,) = struct.unpack_from(">I", chunk)
                parts.append(chunk[4 : 4 + left])
                left -= len(parts[-1])
                seen += 1
            if left == 0:
                yield b"".join(parts)


def carve(files: list[tuple[Path, bool]]) -> Carved:
    """Return all rows in files that can be read, each with whether it is a write-ahead log; the newest come first."""
    found = Carved()
    for path, is_log in files:
        try:
            found.sources.append(Source(path, is_log=is_log))
        except OSError:
            continue
    for source in found.sources:
        if not len(source.data):
            continue
        for match in _RUN.finditer(source.data):
            _add_run(found, source, match.start())
        for match in _COMMIT.finditer(source.data):
            _add_commit(found, source, match.start())
        for match in _RECORD.finditer(source.data):
            _add_record(found, source, match.start())
    return found


def _add_run(found: Carved, source: Source, at: int) -> None:
    values, _ = _row(source.data, at, 9)
    try:
        run_id, name, flow_name = (bytes(each).decode() for each in values[:3])
        row = RunRow(run_id, name, flow_name, float(values[3]), *values[4:])
    except (TypeError, ValueError, UnicodeError):
        return
    if row not in found.runs:
        found.runs.append(row)


def _add_commit(found: Carved, source: Source, at: int) -> None:
    values, end = _row(source.data, at, 7)
    if not values:
        return
    try:
        state = None if values[5] is None else bytes(values[5]).decode()
    except UnicodeError:
        return
    if values[2] is None:
        return
    row: CommitRow = (values[1], float(values[2]), values[3], values[4], state, values[6])
    for seq in _rowids(source.data, at, end - at):
        rows = found.commits.setdefault(seq, [])
        if row not in rows:
            rows.append(row)


def _add_record(found: Carved, source: Source, at: int) -> None:
    values, end = _row(source.data, at, 8)
    if not values or values[6] is None:
        return
    _, seq, kind, node, lo, count, moment, digest = values
    header, place = _varint(source.data, at)
    types: list[int] = []
    while place < at + header:
        code, place = _varint(source.data, place)
        types.append(code)
    if len(types) != 9 or types[8] < 12 or types[8] % 2:
        return
    nbytes = (types[8] - 12) // 2
    if nbytes > MAX_BODY:
        return
    payload = end - at + nbytes
    usable = source.page_nbytes
    local = payload
    if payload > usable - 35:
        least = (usable - 12) * 32 // 255 - 23
        local = least + (payload - least) % (usable - 4)
        if local > usable - 35:
            local = least
    inside = local - (end - at)
    if inside < 0 or at + local + 4 * (local < payload) > len(source.data):
        return
    overflow = struct.unpack_from(">I", source.data, at + local)[0] if local < payload else 0
    body = _Body(source, end, inside, nbytes, overflow)
    head: Head = (kind, node, lo, count, float(moment), digest)
    for number in _rowids(source.data, at, payload):
        found.heads.setdefault(number, {}).setdefault((seq, head), []).append(body)


def _row(data: Any, at: int, count: int) -> tuple[list[Any], int]:
    """Return the first columns of a row, and where they end; nothing where it does not fit."""
    header, place = _varint(data, at)
    values: list[Any] = []
    where = at + header
    for _ in range(count):
        code, place = _varint(data, place)
        if code >= 12:
            nbytes = (code - 12) // 2
            values.append(bytes(data[where : where + nbytes]))
        elif code in _SIZES:
            nbytes = _SIZES[code]
            chunk = bytes(data[where : where + nbytes])
            if code == 7:
                values.append(struct.unpack(">d", chunk)[0] if len(chunk) == 8 else None)
            elif code:
                values.append(code - 8 if code >= 8 else int.from_bytes(chunk, "big", signed=True))
            else:
                values.append(None)
        else:
            return [], at
        where += nbytes
    if place > at + header or where > len(data):
        return [], at
    return values, where


def _varint(data: Any, at: int) -> tuple[int, int]:
    value = 0
    for place in range(at, min(at + 9, len(data))):
        byte = data[place]
        if place == at + 8:
            return (value << 8) | byte, place + 1
        value = (value << 7) | (byte & 0x7F)
        if byte < 0x80:
            return value, place + 1
    return value, len(data)


def _packed(value: int) -> bytes:
    parts = [value & 0x7F]
    while value := value >> 7:
        parts.append((value & 0x7F) | 0x80)
    return bytes(reversed(parts))


def _rowids(data: Any, at: int, payload: int) -> Iterator[int]:
    """Yield the numbers that a row may have: before it are its size and its number."""
    size = _packed(payload)
    for nbytes in range(1, 9):
        start = at - nbytes
        if start < len(size) or bytes(data[start - len(size) : start]) != size:
            continue
        number, end = _varint(data, start)
        if end == at and number < 1 << 62:
            yield number
