"""What a remote store asks of a file system of fsspec: one request each, no retries, errors as they come."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from graphflow.ports import StoredObject

__all__ = ["FileSystem", "Files", "Memory", "Range"]

Range = tuple[str, int, int]
"""A name, an offset (negative: from the end) and a number of bytes, which is not 0."""


class FileSystem(Protocol):
    """One place in one file system."""

    def put(self, name: str, data: bytes) -> None:
        """Write an object, whole or not at all."""
        ...

    def create(self, name: str, data: bytes) -> None:
        """Write an object; FileExistsError where there is one. Only where `can_create`."""
        ...

    def can_create(self) -> bool:
        """Return whether `create` is exclusive; may ask the server."""
        ...

    def get(self, ranges: Sequence[Range]) -> list[bytes | BaseException]:
        """Return bytes of objects, at once: shorter where the object ends before; in place of a failed one, its error."""
        ...

    def size(self, name: str) -> int:
        """Return the size of an object; FileNotFoundError where there is none."""
        ...

    def pages(self, prefix: str) -> Iterator[list[StoredObject]]:
        """Return the objects whose names begin with a prefix; each step may be one request, and may be taken again."""
        ...

    def remove(self, names: Sequence[str]) -> None:
        """Remove objects; a missing one is not an error."""
        ...


class Files:
    """A place in any file system: objects are written under another name and then moved.

    Parameters
    ----------
    fs
        The file system.
    root
        Where the objects are, in its own terms.
    puts_whole
        Whether an object appears whole anyway.
    """

    def __init__(self, fs: Any, root: str, *, puts_whole: bool) -> None:
        self.fs = fs
        self.root = root.rstrip("/")
        self.puts_whole = puts_whole
        self._made: set[str] = set()

    def put(self, name: str, data: bytes) -> None:
        """Write an object."""
        path = self.path(name)
        if self.puts_whole:
            self.fs.pipe_file(path, data)
            return
        above = path.rpartition("/")[0]
        if above in self._made:
            try:
                self._put_and_move(path, data)
                return
            except FileNotFoundError:
                # Somebody removed the folder.
                self._made.discard(above)
        self.fs.makedirs(above, exist_ok=True)
        self._put_and_move(path, data)
        self._made.add(above)

    def _put_and_move(self, path: str, data: bytes) -> None:
        above, _, last = path.rpartition("/")
        temporary = f"{above}/.{last}.{os.getpid()}.{os.urandom(4).hex()}.tmp"
        try:
            self.fs.pipe_file(temporary, data)
            self.fs.mv(temporary, path)
        except BaseException:
            with suppress(Exception):
                self.fs.rm_file(temporary)
            raise

    def create(self, name: str, data: bytes) -> None:
        """Refuse, as exclusive creation is not supported."""
        raise NotImplementedError

    def can_create(self) -> bool:
        """Return False, as nothing is known about it."""
        return False

    def get(self, ranges: Sequence[Range]) -> list[bytes | BaseException]:
        """Return bytes of objects."""
        names, offsets, sizes = zip(*ranges, strict=True)
        ends = [None if offset < 0 else offset + size for offset, size in zip(offsets, sizes, strict=True)]
        found: list[bytes | BaseException] = self.fs.cat_ranges(
            [self.path(name) for name in names], list(offsets), ends, on_error="return"
        )
        return found

    def size(self, name: str) -> int:
        """Return the size of an object."""
        found = self.fs.info(self.path(name))
        if found["type"] != "file":
            raise FileNotFoundError(name)
        return int(found["size"])

    def pages(self, prefix: str) -> Iterator[list[StoredObject]]:
        """Yield all objects below the folder of a prefix, in one page."""
        below = self.path(prefix.rpartition("/")[0]) if "/" in prefix else self.root
        start = self.fs._strip_protocol(self.root).rstrip("/") + "/"
        with suppress(FileNotFoundError, NotADirectoryError):
            found = self.fs.find(below, detail=True)
            yield [
                StoredObject(path.removeprefix(start), int(info["size"] or 0), _moment(info))
                for path, info in found.items()
                if path.startswith(start + prefix) and not info.get("islink")
            ]

    def remove(self, names: Sequence[str]) -> None:
        """Remove objects."""
        for name in names:
            with suppress(FileNotFoundError):
                self.fs.rm_file(self.path(name))

    def path(self, name: str) -> str:
        """Return where an object is, in the file system's terms."""
        return f"{self.root}/{name}"


class Memory(Files):
    """A place in fsspec's memory, which all threads of a process share; its files have one position for all readers."""

    def put(self, name: str, data: bytes) -> None:
        """Write an object."""
        with _memory_lock:
            super().put(name, data)

    def create(self, name: str, data: bytes) -> None:
        """Write an object unless there is one."""
        with _memory_lock:
            if self.fs.exists(self.path(name)):
                raise FileExistsError(name)
            super().put(name, data)

    def can_create(self) -> bool:
        """Return a lock of the process does it."""
        return True

    def get(self, ranges: Sequence[Range]) -> list[bytes | BaseException]:
        """Return bytes of objects."""
        with _memory_lock:
            return super().get(ranges)

    def remove(self, names: Sequence[str]) -> None:
        """Remove objects."""
        with _memory_lock:
            super().remove(names)


def _moment(info: Mapping[str, Any]) -> float:
    for name in ("mtime", "modified", "LastModified", "last_modified", "updated", "created"):
        value = info.get(name)
        if value is not None:
            with suppress(AttributeError, TypeError, ValueError):
                return float(value.timestamp() if hasattr(value, "timestamp") else value)
    return 0.0


_memory_lock = threading.RLock()


def _begin_anew() -> None:
    global _memory_lock
    _memory_lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
