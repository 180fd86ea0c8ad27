"""A result store in a folder of a disk: of this machine, or shared by several."""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from errno import EISDIR, ELOOP, EMLINK, ENOENT, ENOSYS, ENOTDIR, ENOTSUP, EOPNOTSUPP, EPERM
from functools import partial
from pathlib import Path
from typing import Any

from graphflow.common.failpoints import failpoint
from graphflow.errors import ResultDamaged, ResultStoreError
from graphflow.ports import Buffer, StoredObject
from graphflow.results.stores.names import check_name, check_prefix
from graphflow.results.stores.probing import probe

__all__ = ["LocalStore"]

CONCURRENT_NBYTES = 4 << 20
"""Of less than this, several reads cost less than the threads for them."""

_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_FOLDER = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY
_GONE = (ENOENT, ENOTDIR, ELOOP, EISDIR)
_NO_LINKS = (EPERM, ENOTSUP, EOPNOTSUPP, ENOSYS, EMLINK)


class LocalStore:
    """Objects as files of one folder and those below it, which are made when something is published there.

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
    allow_unsigned
        Whether packs may be used that were signed with none of the keys.
    """

    __slots__ = ("_keys", "allow_unsigned", "folder", "is_shared")

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        key: bytes,
        older_keys: Sequence[bytes] = (),
        is_shared: bool = False,
        allow_unsigned: bool = False,
    ) -> None:
        self.folder = str(Path(folder).absolute())
        self.is_shared = is_shared
        self.allow_unsigned = allow_unsigned
        self._keys = (key, *older_keys)

    def __repr__(self) -> str:
        return f"LocalStore({self.folder!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LocalStore) and self._state() == other._state()

    def __hash__(self) -> int:
        return hash(self.folder)

    def __reduce__(self) -> Any:
        return _known_store, self._state()

    def _state(self) -> tuple[str, tuple[bytes, ...], bool, bool]:
        return self.folder, self._keys, self.is_shared, self.allow_unsigned

    @property
    def url(self) -> str:
        """The folder, as a URL."""
        return Path(self.folder).as_uri()

    @property
    def keys(self) -> tuple[bytes, ...]:
        return self._keys

    @property
    def can_create(self) -> bool:
        """A hard link is made once; where the file system has none, `create` says so."""
        return True

    # -- writing -------------------------------------------------------------------------------------------

    def publish(self, name: str, parts: Sequence[Buffer]) -> int:
        """Write an object: under another name first, which is changed once all is on the disk.

        Raises
        ------
        ResultStoreError
            If it cannot be written; nothing is left of it.
        """
        check_name(name)
        above, _, last = name.rpartition("/")

        def rename(temporary: str, folder: int) -> None:
            os.replace(temporary, last, src_dir_fd=folder, dst_dir_fd=folder)
            failpoint("store.rename.after")

        try:
            failpoint("store.publish.before")
            folder = self._open_folder(above, makes=True)
            try:
                total = _write_and(rename, last, parts, folder)
            finally:
                os.close(folder)
            failpoint("store.publish.after")
        except OSError as error:
            raise self._not_written(name, parts, error) from error
        return total

    def begin(self, name: str, data: bytes) -> GrowingFile:
        """Create a file that grows.

        Raises
        ------
        ResultStoreError
            If it exists, or cannot be created.
        """
        check_name(name)
        above, _, last = name.rpartition("/")
        try:
            folder = self._open_folder(above, makes=True)
            try:
                file = os.open(last, _WRITE, 0o600, dir_fd=folder)
                try:
                    _write(file, data)
                    os.fsync(folder)
                except BaseException:
                    os.close(file)
                    raise
            finally:
                os.close(folder)
        except OSError as error:
            raise self._not_written(name, [data], error) from error
        path = f"{self.folder}/{name}"
        return GrowingFile(name, file, len(data), path=path, refused=partial(self._not_written, name))

    def create(self, name: str, data: bytes, *, is_lasting: bool = True) -> bool:
        """Write an object unless there is one: a complete file gets its name by a hard link, which is made once.

        Raises
        ------
        ResultStoreError
            If it cannot be written, or the file system has no hard links.
        """
        check_name(name)
        if not data:
            raise ResultStoreError(f"the claim {name} is empty; write a unique token")
        above, _, last = name.rpartition("/")
        is_mine = True

        def link(temporary: str, folder: int) -> None:
            nonlocal is_mine
            try:
                os.link(temporary, last, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
            except FileExistsError:
                # A network file system may tell this of its own second try: then it is the same file.
                is_mine = _is_same(temporary, last, folder)
            failpoint("store.link.after")
            os.unlink(temporary, dir_fd=folder)

        try:
            failpoint("store.create.before")
            folder = self._open_folder(above, makes=True)
            try:
                _write_and(link, last, [data], folder, is_lasting=is_lasting)
            finally:
                os.close(folder)
            failpoint("store.create.after")
        except OSError as error:
            if error.errno in _NO_LINKS:
                raise ResultStoreError(
                    f"nothing can be claimed in {self.folder}: its file system has no hard links ({error.strerror}); use a "
                    "folder on another file system, or S3"
                ) from error
            raise self._not_written(name, [data], error) from error
        return is_mine

    def _not_written(self, name: str, parts: Sequence[Buffer], error: OSError) -> ResultStoreError:
        return ResultStoreError(
            f"the result {name} ({sum(map(len, parts)):,} bytes) cannot be written to {self.folder}: "
            f"{error.strerror or error}; free some space and check its permissions, or set GRAPHFLOW_HOME to another "
            "folder"
        )

    def _open_folder(self, below: str = "", *, makes: bool = False) -> int:
        """Return the folder below the store's that holds a name; links below the store's folder are not followed."""
        try:
            folder = os.open(self.folder, _FOLDER)
        except FileNotFoundError:
            if not makes:
                raise
            _make_folder(Path(self.folder))
            folder = os.open(self.folder, _FOLDER)
        for segment in below.split("/") if below else ():
            try:
                following = _step_into(segment, folder, makes=makes)
            finally:
                os.close(folder)
            folder = following
        return folder

    # -- reading -------------------------------------------------------------------------------------------

    def read(self, name: str, offset: int, nbytes: int) -> bytes:
        check_name(name)
        path = f"{self.folder}/{name}"
        try:
            file = self._open(name)
            try:
                found = os.fstat(file)
                if not stat.S_ISREG(found.st_mode):
                    raise ResultDamaged(f"stored result {path} is not a regular file; ignoring it")
                start = offset if offset >= 0 else found.st_size + offset
                if start < 0 or start + nbytes > found.st_size:
                    raise ResultDamaged(
                        f"the stored result {path} is damaged: it has {found.st_size:,} bytes, not the {nbytes:,} that were "
                        f"expected from {offset:,} on; ignoring it"
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

    def _open(self, name: str) -> int:
        above, _, last = name.rpartition("/")
        if not above:
            return os.open(f"{self.folder}/{name}", _READ)
        folder = self._open_folder(above)
        try:
            return os.open(last, _READ, dir_fd=folder)
        finally:
            os.close(folder)

    def read_many(self, ranges: Sequence[tuple[str, int, int]]) -> list[bytes | ResultDamaged]:
        """Return many reads, in threads where they are large; in place of what is missing or too short, the error.

        Raises
        ------
        ResultStoreError
            If something cannot be read although it is there.
        """
        if len(ranges) < 2 or sum(nbytes for _, _, nbytes in ranges) < CONCURRENT_NBYTES:
            return [self._read_or_error(each) for each in ranges]
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(min(8, len(ranges))) as pool:
            return list(pool.map(self._read_or_error, ranges))

    def _read_or_error(self, part: tuple[str, int, int]) -> bytes | ResultDamaged:
        try:
            return self.read(*part)
        except ResultDamaged as error:
            return error

    def entries(self, prefix: str = "") -> Iterator[StoredObject]:
        for name, entry in self._files(prefix):
            try:
                found = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            yield StoredObject(name, found.st_size, found.st_mtime)

    def names(self, prefix: str = "") -> Iterator[str]:
        for name, _ in self._files(prefix):
            yield name

    def _files(self, prefix: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
        check_prefix(prefix)
        below, _, start = prefix.rpartition("/")
        waiting = [(f"{below}/" if below else "", start)]
        try:
            while waiting:
                above, start = waiting.pop()
                with suppress(FileNotFoundError), os.scandir(f"{self.folder}/{above}") as entries:
                    for entry in entries:
                        if entry.name.startswith(".") or not entry.name.startswith(start):
                            continue
                        if entry.is_file(follow_symlinks=False):
                            yield above + entry.name, entry
                        elif entry.is_dir(follow_symlinks=False):
                            waiting.append((f"{above}{entry.name}/", ""))
        except NotADirectoryError:
            if not os.path.isdir(self.folder):
                raise self._not_listed("it is not a folder") from None
        except OSError as error:
            raise self._not_listed(error.strerror or str(error)) from error

    def _not_listed(self, why: str) -> ResultStoreError:
        return ResultStoreError(f"the results in {self.folder} cannot be listed: {why}")

    # -- care ----------------------------------------------------------------------------------------------

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects; a missing one is not an error. Folders stay: a writer may be about to use them."""
        for name in names:
            check_name(name)
            above, _, last = name.rpartition("/")
            try:
                folder = self._open_folder(above)
                try:
                    os.unlink(last, dir_fd=folder)
                finally:
                    os.close(folder)
            except OSError as error:
                if error.errno in (ENOENT, ENOTDIR, ELOOP):
                    continue
                raise ResultStoreError(
                    f"the result {name} cannot be removed from {self.folder}: {error.strerror or error}"
                ) from error

    def sweep(self, prefix: str, *, before: float) -> int:
        """Remove what killed writers left below a prefix, last written before a time; how many files that were.

        Raises
        ------
        ResultStoreError
            If the folder cannot be read or written.
        """
        check_prefix(prefix)
        count = 0
        try:
            for place, _, names in os.walk(f"{self.folder}/{prefix.rpartition('/')[0]}"):
                for name in names:
                    path = f"{place}/{name}"
                    if name.startswith(".") and name.endswith(".tmp"):
                        with suppress(FileNotFoundError):
                            if os.lstat(path).st_mtime < before:
                                os.unlink(path)
                                count += 1
        except OSError as error:
            raise self._not_listed(error.strerror or str(error)) from error
        return count

    def check(self) -> None:
        probe(self, self.folder)


class GrowingFile:
    """A file that is appended to.

    Parameters
    ----------
    name
        Its name in the store.
    file
        Its descriptor, which is closed with it.
    nbytes
        How much it has.
    path
        Where it is, as long as nobody moves it.
    refused
        Makes the error for parts that cannot be written.
    """

    __slots__ = ("_file", "_name", "_nbytes", "_path", "_refused")

    def __init__(
        self,
        name: str,
        file: int,
        nbytes: int,
        *,
        path: str,
        refused: Callable[[Sequence[Buffer], OSError], ResultStoreError],
    ) -> None:
        self._name = name
        self._file = file
        self._nbytes = nbytes
        self._path = path
        self._refused = refused

    @property
    def name(self) -> str:
        return self._name

    @property
    def nbytes(self) -> int:
        return self._nbytes

    def append(self, parts: Sequence[Buffer]) -> int:
        offset = self._nbytes
        try:
            failpoint("store.grow.before")
            left = memoryview(b"".join(parts))
            at = offset
            while left:
                written = os.pwrite(self._file, left, at)
                left, at = left[written:], at + written
            failpoint("store.grow.written")
            _sync_data(self._file)
            failpoint("store.grow.after")
        except OSError as error:
            raise self._refused(parts, error) from error
        self._nbytes = at
        return offset

    def is_there(self) -> bool:
        try:
            return os.path.samestat(os.stat(self._path, follow_symlinks=False), os.fstat(self._file))
        except OSError:
            return False

    def close(self) -> None:
        os.close(self._file)


_sync_data = getattr(os, "fdatasync", os.fsync)
"""The size of a file is data too."""


def _write_and(
    finish: Callable[[str, int], None],
    name: str,
    parts: Sequence[Buffer],
    folder: int,
    *,
    is_lasting: bool = True,
) -> int:
    """Return a complete file under another name, what `finish` does with it, and that on the disk; or nothing."""
    temporary = f".{name}.{os.getpid()}.{os.urandom(4).hex()}.tmp"
    try:
        file = os.open(temporary, _WRITE, 0o600, dir_fd=folder)
        try:
            total = sum(_write(file, part) for part in parts)
            failpoint("store.write.after")
            if is_lasting:
                os.fsync(file)
            failpoint("store.fsync.after")
        finally:
            os.close(file)
        finish(temporary, folder)
        if is_lasting:
            os.fsync(folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise
    return total


def _write(file: int, part: Buffer) -> int:
    left = memoryview(part)
    while left:
        left = left[os.write(file, left) :]
    return len(part)


def _is_same(one: str, other: str, folder: int) -> bool:
    try:
        first, second = (os.stat(each, dir_fd=folder, follow_symlinks=False) for each in (one, other))
    except FileNotFoundError:
        return False
    return os.path.samestat(first, second)


def _step_into(segment: str, folder: int, *, makes: bool) -> int:
    flags = _FOLDER | os.O_NOFOLLOW
    try:
        return os.open(segment, flags, dir_fd=folder)
    except FileNotFoundError:
        if not makes:
            raise
    with suppress(FileExistsError):
        os.mkdir(segment, 0o700, dir_fd=folder)
    # Also where another process made it: what it holds is found only if its name is on the disk.
    os.fsync(folder)
    return os.open(segment, flags, dir_fd=folder)


def _read(file: int, path: str, start: int, nbytes: int) -> bytes:
    data = os.pread(file, nbytes, start)
    if len(data) == nbytes:
        return data
    # One call reads 2 GiB at most.
    parts, got = [data], len(data)
    while got < nbytes:
        data = os.pread(file, nbytes - got, start + got)
        if not data:
            raise ResultDamaged(f"the stored result {path} became shorter while it was read; ignoring it")
        parts.append(data)
        got += len(data)
    return b"".join(parts)


def _make_folder(folder: Path) -> None:
    """Create a folder and its parents, for its owner alone, durably."""
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
def _known_store(
    folder: str, keys: tuple[bytes, ...], is_shared: bool, allow_unsigned: bool = False
) -> LocalStore:
    """Return one store per place and process: many references to columns carry it along."""
    return LocalStore(
        folder, key=keys[0], older_keys=keys[1:], is_shared=is_shared, allow_unsigned=allow_unsigned
    )
