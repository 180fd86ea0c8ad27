"""A result store in a folder of a disk: of this machine, or shared by several."""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from errno import EISDIR, ELOOP, ENOENT, ENOTDIR
from pathlib import Path
from typing import Any

from graphflow.errors import ResultDamaged, ResultStoreError
from graphflow.failpoints import failpoint
from graphflow.ports import Buffer, StoredObject

__all__ = ["LocalStore"]

MAX_NAME_NBYTES = 200
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_FOLDER = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY
_GONE = (ENOENT, ENOTDIR, ELOOP, EISDIR)


class LocalStore:
    """Objects as files of one folder, which is made when the first one is published.

    Parameters
    ----------
    folder
        Where the files are.
    key
        What packs are signed with.
    older_keys
        Keys of which the signatures are accepted too.
    is_shared
        Whether the folder is there, under the same path, on all machines that run batches.
    """

    __slots__ = ("_keys", "folder", "is_shared")

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        key: bytes,
        older_keys: Sequence[bytes] = (),
        is_shared: bool = False,
    ) -> None:
        self.folder = str(Path(folder).absolute())
        self.is_shared = is_shared
        self._keys = (key, *older_keys)

    def __repr__(self) -> str:
        return f"LocalStore({self.folder!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LocalStore) and (self.folder, self._keys, self.is_shared) == (
            other.folder,
            other._keys,
            other.is_shared,
        )

    def __hash__(self) -> int:
        return hash(self.folder)

    def __reduce__(self) -> Any:
        return _known_store, (self.folder, self._keys, self.is_shared)

    @property
    def url(self) -> str:
        """The folder, as a URL."""
        return Path(self.folder).as_uri()

    @property
    def keys(self) -> tuple[bytes, ...]:
        """What packs are signed with, and what is accepted too."""
        return self._keys

    def publish(self, name: str, parts: Sequence[Buffer]) -> int:
        """Write an object: under another name first, which is changed once all is on the disk.

        Raises
        ------
        ResultStoreError
            If it cannot be written; nothing is left of it.
        """
        whole = name
        place, _, name = name.rpartition("/")
        for segment in whole.split("/"):
            check_name(segment)
        temporary = f".{name}.{os.getpid()}.{os.urandom(4).hex()}.tmp"
        try:
            failpoint("store.publish.before")
            folder = self._open_folder(place)
        except OSError as error:
            raise self._not_written(name, parts, error) from error
        try:
            try:
                file = os.open(temporary, _WRITE, 0o600, dir_fd=folder)
                try:
                    total = sum(_write(file, part) for part in parts)
                    failpoint("store.write.after")
                    os.fsync(file)
                    failpoint("store.fsync.after")
                finally:
                    os.close(file)
                os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
                failpoint("store.rename.after")
                os.fsync(folder)
                failpoint("store.publish.after")
            except BaseException:
                _unlink(temporary, folder)
                raise
        except OSError as error:
            raise self._not_written(name, parts, error) from error
        finally:
            os.close(folder)
        return total

    def _open_folder(self, place: str = "") -> int:
        folder = f"{self.folder}/{place}" if place else self.folder
        try:
            return os.open(folder, _FOLDER)
        except FileNotFoundError:
            _make_folder(Path(folder))
            return os.open(folder, _FOLDER)

    def _not_written(self, name: str, parts: Sequence[Buffer], error: OSError) -> ResultStoreError:
        return ResultStoreError(
            f"the result {name} ({sum(map(len, parts)):,} bytes) cannot be written to {self.folder}: "
            f"{error.strerror or error}; make room there and see that it can be written, or set GRAPHFLOW_HOME to another "
            "folder"
        )

    def read(self, name: str, offset: int, nbytes: int) -> bytes:
        """Bytes of an object; a negative offset counts from its end.

        Raises
        ------
        ResultDamaged
            If there is no such object, or it is shorter.
        ResultStoreError
            If it cannot be read.
        """
        for segment in name.split("/"):
            check_name(segment)
        path = f"{self.folder}/{name}"
        try:
            file = os.open(path, _READ)
            try:
                found = os.fstat(file)
                if not stat.S_ISREG(found.st_mode):
                    raise ResultDamaged(f"the stored result {path} is no file; it is not used")
                start = offset if offset >= 0 else found.st_size + offset
                if start < 0 or start + nbytes > found.st_size:
                    raise ResultDamaged(
                        f"the stored result {path} is damaged: it has {found.st_size:,} bytes, not the {nbytes:,} that were "
                        f"asked for from {offset:,} on; it is not used"
                    )
                return _read(file, path, start, nbytes)
            finally:
                os.close(file)
        except OSError as error:
            if error.errno in _GONE:
                raise ResultDamaged(f"the stored result {path} is gone: {error.strerror}") from error
            raise ResultStoreError(
                f"the stored result {path} cannot be read: {error.strerror or error}"
            ) from error

    def read_many(self, ranges: Sequence[tuple[str, int, int]]) -> list[bytes | ResultDamaged]:
        """Bytes of several objects."""
        found: list[bytes | ResultDamaged] = []
        for name, offset, nbytes in ranges:
            try:
                found.append(self.read(name, offset, nbytes))
            except ResultDamaged as error:
                found.append(error)
        return found

    def entries(self, prefix: str = "") -> Iterator[StoredObject]:
        """All objects of which the names begin so."""
        top = prefix.rpartition("/")[0]
        for place, _, files in os.walk(f"{self.folder}/{top}" if top else self.folder):
            for each in files:
                name = os.path.relpath(f"{place}/{each}", self.folder)
                if not each.startswith(".") and name.startswith(prefix):
                    try:
                        found = os.stat(f"{place}/{each}")
                    except FileNotFoundError:
                        continue
                    yield StoredObject(name, found.st_size, found.st_mtime)

    def names(self) -> Iterator[str]:
        """All objects, in no order."""
        try:
            with os.scandir(self.folder) as entries:
                for entry in entries:
                    if not entry.name.startswith(".") and entry.is_file(follow_symlinks=False):
                        yield entry.name
        except FileNotFoundError:
            return
        except OSError as error:
            raise ResultStoreError(
                f"the results in {self.folder} cannot be listed: {error.strerror or error}"
            ) from error

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects; one that is not there is no error."""
        for name in names:
            for segment in name.split("/"):
                check_name(segment)
            try:
                os.unlink(f"{self.folder}/{name}")
            except FileNotFoundError:
                pass
            except OSError as error:
                raise ResultStoreError(
                    f"the result {name} cannot be removed from {self.folder}: {error.strerror or error}"
                ) from error


def check_name(name: str) -> None:
    """Refuse a name that would not be a file of the folder itself, or not be listed.

    Raises
    ------
    ResultStoreError
        If it is empty, too long, begins with a dot, or holds a separator or a control character.
    """
    if (
        not name
        or name[0] == "."
        or len(name.encode(errors="replace")) > MAX_NAME_NBYTES
        or any(character in "/\\" or not character.isprintable() for character in name)
    ):
        raise ResultStoreError(
            f"{name!r} cannot name a result: names have 1 to {MAX_NAME_NBYTES} bytes, do not begin with a dot, and hold no "
            "slash, backslash or control character"
        )


def _write(file: int, part: Buffer) -> int:
    left = memoryview(part)
    while left:
        left = left[os.write(file, left) :]
    return len(part)


def _read(file: int, path: str, start: int, nbytes: int) -> bytes:
    data = os.pread(file, nbytes, start)
    if len(data) == nbytes:
        return data
    # One call reads 2 GiB at most.
    parts, got = [data], len(data)
    while got < nbytes:
        data = os.pread(file, nbytes - got, start + got)
        if not data:
            raise ResultDamaged(f"the stored result {path} became shorter while it was read; it is not used")
        parts.append(data)
        got += len(data)
    return b"".join(parts)


def _unlink(name: str, folder: int) -> None:
    with suppress(OSError):
        os.unlink(name, dir_fd=folder)


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, for its owner alone; its name is on the disk then."""
    if not folder.parent.exists():
        _make_folder(folder.parent)
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        if folder.is_dir():
            return
        raise
    above = os.open(folder.parent, _FOLDER)
    try:
        os.fsync(above)
    finally:
        os.close(above)


@functools.lru_cache(maxsize=64)
def _known_store(folder: str, keys: tuple[bytes, ...], is_shared: bool) -> LocalStore:
    """One store per place and process: many references to columns carry it along."""
    return LocalStore(folder, key=keys[0], older_keys=keys[1:], is_shared=is_shared)
