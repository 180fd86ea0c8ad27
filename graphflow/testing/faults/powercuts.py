"""Power cuts without a plug: what SQLite writes and syncs is recorded, then any moment of it is played back.

After a cut, a disk holds all that was synced, and of the rest any part, sector by sector.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import random
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["FileLog", "after_cut", "is_available", "recorded"]

SECTOR = 512

Operation = tuple[str, str, int, bytes]
"""`write` (path, offset, data), `truncate` (path, size), `sync` (path), `delete` (path) or `note` (text, number)."""


class FileLog:
    """What was done to files, in order."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []

    def add(self, what: str, path: str, number: int = 0, data: bytes = b"") -> None:
        """Add an operation, or a `note` of what was promised to whom."""
        self.operations.append((what, path, number, data))

    def save(self, path: Path) -> None:
        """Keep it in a file."""
        path.write_bytes(pickle.dumps(self.operations))

    @classmethod
    def load(cls, path: Path) -> FileLog:
        """Return the log that was kept in a file."""
        log = cls()
        log.operations = pickle.loads(path.read_bytes())
        return log


class _Disk:
    """Files as they are on the disk, and what was written since they were synced."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.safe = {path: bytearray(content) for path, content in files.items()}
        self.waiting: dict[str, list[Operation]] = {}

    def take(self, operation: Operation) -> None:
        what, path, _, _ = operation
        if what == "sync":
            for one in self.waiting.pop(path, []):
                _apply(self.safe, one)
            self.safe.setdefault(path, bytearray())
        elif what != "note":
            self.waiting.setdefault(path, []).append(operation)

    def cut(self, generator: random.Random) -> dict[str, bytes]:
        files = {path: bytearray(content) for path, content in self.safe.items()}
        kept = generator.choice((0.0, 0.2, 0.5, 0.8, 1.0))
        for operations in self.waiting.values():
            for operation in operations:
                for part in _sectors(operation):
                    if generator.random() < kept:
                        _apply(files, part)
        return {path: bytes(content) for path, content in files.items()}


def after_cut(
    files: dict[str, bytes], log: Iterable[Operation], generator: random.Random
) -> tuple[dict[str, bytes], list[tuple[str, int]]]:
    """Cut the power somewhere in a log that began with these files; return the files, and the notes until then."""
    operations = list(log)
    disk = _Disk(files)
    notes = []
    for operation in operations[: generator.randrange(len(operations) + 1)]:
        disk.take(operation)
        if operation[0] == "note":
            notes.append((operation[1], operation[2]))
    return disk.cut(generator), notes


def _sectors(operation: Operation) -> Iterator[Operation]:
    what, path, number, data = operation
    if what != "write":
        yield operation
        return
    lo = number
    while lo < number + len(data):
        hi = min((lo // SECTOR + 1) * SECTOR, number + len(data))
        yield "write", path, lo, data[lo - number : hi - number]
        lo = hi


def _apply(files: dict[str, bytearray], operation: Operation) -> None:
    what, path, number, data = operation
    if what == "delete":
        files.pop(path, None)
        return
    content = files.setdefault(path, bytearray())
    if what == "truncate":
        del content[number:]
        content.extend(bytes(number - len(content)))
    else:
        content.extend(bytes(max(0, number - len(content))))
        content[number : number + len(data)] = data


# -- listening to SQLite -----------------------------------------------------------------------------------

_pointer = ctypes.c_void_p
_int = ctypes.c_int
_offset = ctypes.c_int64
# Names are pointers: SQLite keeps them as long as a file is open.
_OPEN = ctypes.CFUNCTYPE(_int, _pointer, _pointer, _pointer, _int, _pointer)
_DELETE = ctypes.CFUNCTYPE(_int, _pointer, _pointer, _int)
_WRITE = ctypes.CFUNCTYPE(_int, _pointer, _pointer, _int, _offset)
_TRUNCATE = ctypes.CFUNCTYPE(_int, _pointer, _offset)
_SYNC = ctypes.CFUNCTYPE(_int, _pointer, _int)


class _Vfs(ctypes.Structure):
    _fields_ = (
        ("version", _int),
        ("file_size", _int),
        ("path_size", _int),
        ("next", _pointer),
        ("name", ctypes.c_char_p),
        ("data", _pointer),
        ("open", _pointer),
        ("delete", _pointer),
        ("others", _pointer * 13),
    )


class _Methods(ctypes.Structure):
    _fields_ = (
        ("version", _int),
        ("close", _pointer),
        ("read", _pointer),
        ("write", _pointer),
        ("truncate", _pointer),
        ("sync", _pointer),
        ("others", _pointer * 13),
    )


def _library() -> ctypes.CDLL | None:
    """Return the library that `sqlite3` uses, where it is one of its own."""
    sqlite3.connect(":memory:").close()
    places = set()
    maps = Path("/proc/self/maps")
    if maps.exists():
        places = {
            line.split()[-1] for line in maps.read_text().splitlines() if "sqlite3" in line.rsplit("/", 1)[-1]
        }
    for place in sorted(places, key=lambda path: "libsqlite3" not in path):
        library = ctypes.CDLL(place)
        if hasattr(library, "sqlite3_vfs_find") and hasattr(library, "sqlite3_libversion"):
            library.sqlite3_libversion.restype = ctypes.c_char_p
            if library.sqlite3_libversion().decode() == sqlite3.sqlite_version:
                return library
    return None


def is_available() -> bool:
    """Return whether SQLite can be listened to in this Python."""
    return os.name == "posix" and _library() is not None


@contextmanager
def recorded(log: FileLog) -> Iterator[None]:
    """Record what SQLite does to files that are opened inside, in all threads; all of them have to be closed inside."""
    library = _library()
    if library is None:
        raise RuntimeError("SQLite is built into this Python; what it writes cannot be recorded")
    library.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
    library.sqlite3_vfs_find.argtypes = (ctypes.c_char_p,)
    library.sqlite3_vfs_register.argtypes = (ctypes.POINTER(_Vfs), _int)
    real = library.sqlite3_vfs_find(None)
    paths: dict[int, str] = {}
    methods: dict[int, tuple[_Methods, list[Any]]] = {}

    def listening(address: int) -> _Methods:
        if address not in methods:
            given = _Methods.from_address(address)
            copy = _Methods()
            ctypes.pointer(copy)[0] = given
            real_write, real_truncate, real_sync = (
                _WRITE(given.write),
                _TRUNCATE(given.truncate),
                _SYNC(given.sync),
            )

            def write(file: int, data: int, count: int, offset: int) -> int:
                code = real_write(file, data, count, offset)
                if code == 0:
                    log.add("write", paths[file], offset, ctypes.string_at(data, count))
                return int(code)

            def truncate(file: int, size: int) -> int:
                code = real_truncate(file, size)
                if code == 0:
                    log.add("truncate", paths[file], size)
                return int(code)

            def sync(file: int, flags: int) -> int:
                code = real_sync(file, flags)
                if code == 0:
                    log.add("sync", paths[file])
                return int(code)

            kept = [_WRITE(write), _TRUNCATE(truncate), _SYNC(sync)]
            copy.write, copy.truncate, copy.sync = (ctypes.cast(one, _pointer).value for one in kept)
            methods[address] = copy, kept
        return methods[address][0]

    real_open, real_delete = _OPEN(real.contents.open), _DELETE(real.contents.delete)

    def open_file(vfs: int, name: int | None, file: int, flags: int, out: int | None) -> int:
        code = real_open(vfs, name, file, flags, out)
        place = _pointer.from_address(file)
        if code == 0 and name is not None and place.value:
            paths[file] = os.fsdecode(ctypes.string_at(name))
            place.value = ctypes.addressof(listening(place.value))
        return int(code)

    def delete(vfs: int, name: int, sync: int) -> int:
        code = real_delete(vfs, name, sync)
        if code == 0:
            log.add("delete", os.fsdecode(ctypes.string_at(name)))
        return int(code)

    listener = _Vfs()
    ctypes.pointer(listener)[0] = real.contents
    kept = [_OPEN(open_file), _DELETE(delete)]
    listener.name = b"graphflow-recorder"
    listener.open, listener.delete = (ctypes.cast(one, _pointer).value for one in kept)
    library.sqlite3_vfs_register(ctypes.byref(listener), 1)
    try:
        yield
    finally:
        library.sqlite3_vfs_unregister(ctypes.byref(listener))
        library.sqlite3_vfs_register(real, 1)
