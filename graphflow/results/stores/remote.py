"""A result store at any URL that fsspec knows: S3 and what speaks its protocol, memory, and others."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from graphflow.common.wording import count_text
from graphflow.errors import ResultDamaged, ResultStoreError
from graphflow.ports import Buffer, StoredObject
from graphflow.results.stores.connections import file_system
from graphflow.results.stores.filesystems import FileSystem, Range
from graphflow.results.stores.locations import Location, check_options, frozen, parse, scrub, secrets_of
from graphflow.results.stores.names import check_name, check_prefix
from graphflow.results.stores.probing import probe
from graphflow.results.stores.retries import Retries, explain, is_missing, is_transient, is_unsatisfiable

__all__ = ["FsspecStore"]

T = TypeVar("T")

PART_NBYTES = 32 << 20
"""Larger reads are made of several at once, each of which is tried again on its own."""

REMOVED_AT_ONCE = 1000
"""As many objects as one request of S3 removes."""


class FsspecStore:
    """Objects below a URL. It holds options, never connections: each process that uses it makes its own.

    Parameters
    ----------
    url
        Where the objects are; without credentials, and without a query.
    storage_options
        What fsspec's file system gets beside what it finds by itself (environment, profiles): plain values.
    key
        What packs are signed with.
    older_keys
        Keys of which the signatures are accepted too.
    allow_unsigned
        Whether packs may be used that were signed with none of the keys.
    retries
        How often requests are tried; as the environment says by default.

    Raises
    ------
    ResultStoreError
        If the URL or an option cannot be used.
    """

    __slots__ = ("_frozen", "_keys", "_location", "_options", "allow_unsigned", "retries")

    def __init__(
        self,
        url: str,
        storage_options: Mapping[str, Any] | None = None,
        *,
        key: bytes,
        older_keys: Sequence[bytes] = (),
        allow_unsigned: bool = False,
        retries: Retries | None = None,
    ) -> None:
        self._location: Location = parse(url)
        self._options = check_options(storage_options or {})
        self._frozen = frozen(self._options)
        self._keys = (key, *older_keys)
        self.allow_unsigned = allow_unsigned
        self.retries = Retries.configured() if retries is None else retries

    def __repr__(self) -> str:
        return f"FsspecStore({self.url!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FsspecStore) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self.url)

    def __reduce__(self) -> Any:
        return _restored, (self._location.url, _Options(self._options), *self._identity()[2:])

    def _identity(self) -> tuple[str, Any, tuple[bytes, ...], bool, Retries]:
        return self._location.url, self._frozen, self._keys, self.allow_unsigned, self.retries

    @property
    def url(self) -> str:
        return self._location.shown

    @property
    def is_shared(self) -> bool:
        """Whether workers on other machines reach it too: all but memory."""
        return self._location.protocol not in ("memory", "local", "file")

    @property
    def is_in_process(self) -> bool:
        """Whether this process alone reaches it."""
        return self._location.protocol == "memory"

    @property
    def keys(self) -> tuple[bytes, ...]:
        return self._keys

    @property
    def can_create(self) -> bool:
        """Whether `create` is exclusive; S3 servers are asked once per process, with a probe.

        Raises
        ------
        ResultStoreError
            If the store cannot be asked.
        """
        return self._try(f"claims in {self.url} cannot be tested", self._files.can_create)

    # -- writing -------------------------------------------------------------------------------------------

    def publish(self, name: str, parts: Sequence[Buffer]) -> int:
        """Write an object, whole or not at all; tried again, it is the same object.

        Raises
        ------
        ResultStoreError
            If it cannot be written.
        """
        check_name(name)
        data = b"".join(parts)
        files = self._files
        self._try(
            f"the result {name} ({len(data):,} bytes) cannot be written to {self.url}",
            lambda: files.put(name, data),
        )
        return len(data)

    def create(self, name: str, data: bytes, *, is_lasting: bool = True) -> bool:
        """Write an object unless there is one: True if this very call made it.

        A server may have written it and yet answer with an error, so what is there is read back and compared.

        Raises
        ------
        ResultStoreError
            If the store cannot do that exclusively, or cannot be written.
        """
        check_name(name)
        if not data:
            raise ResultStoreError(f"the claim {name} is empty; write a unique token")
        if not self.can_create:
            raise ResultStoreError(
                f"nothing can be claimed in {self.url}: it has no exclusive create; use a folder on a shared disk, or "
                "S3 with conditional writes"
            )
        files = self._files
        last: Exception | None = None
        is_unsure = False
        for wait in self.retries.waits():
            try:
                files.create(name, data)
                # Read back before it is believed: not every server checks and writes in one step.
                held = self._held(name, len(data))
                return held is None or held == data
            except FileExistsError as error:
                last = error
                held = self._held(name, len(data))
                if held is not None:
                    return held == data
                # Whoever held it has let it go meanwhile: once more.
            except Exception as error:
                last = error
                if not is_transient(error):
                    self._raise(f"the claim {name} cannot be created in {self.url}", error)
                is_unsure = True
            if not wait():
                break
        if is_unsure and self._held(name, len(data)) == data:
            return True
        assert last is not None
        self._raise(f"the claim {name} cannot be created in {self.url}", last)

    def _held(self, name: str, nbytes: int) -> bytes | None:
        """Return what is there under a name, if it is as long; other bytes if it is not; None if nothing is there."""
        try:
            size = self._size(name)
            return self.read(name, 0, size) if size == nbytes else b""
        except ResultDamaged:
            return None

    # -- reading -------------------------------------------------------------------------------------------

    def read(self, name: str, offset: int, nbytes: int) -> bytes:
        if nbytes > PART_NBYTES and offset >= 0:
            starts = range(offset, offset + nbytes, PART_NBYTES)
            parts = self.read_many(
                [(name, start, min(PART_NBYTES, offset + nbytes - start)) for start in starts]
            )
        else:
            parts = self.read_many([(name, offset, nbytes)])
        for each in parts:
            if isinstance(each, ResultDamaged):
                raise each
        return b"".join(each for each in parts if isinstance(each, bytes)) if len(parts) > 1 else _only(parts)

    def read_many(self, ranges: Sequence[Range]) -> list[bytes | ResultDamaged]:
        for name in dict.fromkeys(name for name, _, _ in ranges):
            check_name(name)
        found: dict[int, bytes | ResultDamaged] = {}
        for at, (name, offset, nbytes) in enumerate(ranges):
            if offset < 0 and nbytes > -offset:
                found[at] = self._too_short(name, offset, nbytes)
            elif nbytes == 0:
                found[at] = self._nothing_of(name, offset)
        left = [at for at in range(len(ranges)) if at not in found]
        if not left:
            return [found[at] for at in range(len(ranges))]
        files = self._files
        for wait in self.retries.waits():
            tried = [ranges[at] for at in left]
            last, again = None, []
            for at, each, got in zip(left, tried, files.get(tried), strict=True):
                if isinstance(got, BaseException) and is_transient(got):
                    last = got
                    again.append(at)
                else:
                    found[at] = self._read(each, got)
            left = again
            if last is None or not left:
                break
            if not wait():
                self._raise(f"the stored result {ranges[left[0]][0]} cannot be read from {self.url}", last)
        return [found[at] for at in range(len(ranges))]

    def _read(self, part: Range, got: bytes | BaseException) -> bytes | ResultDamaged:
        name, offset, nbytes = part
        if isinstance(got, BaseException):
            if is_missing(got):
                return self._gone(name)
            if is_unsatisfiable(got):
                return self._too_short(name, offset, nbytes)
            self._raise(f"the stored result {name} cannot be read from {self.url}", got)
        if len(got) != (nbytes if offset >= 0 else -offset):
            return self._too_short(name, offset, nbytes)
        return got if offset >= 0 else got[:nbytes]

    def _nothing_of(self, name: str, offset: int) -> bytes | ResultDamaged:
        try:
            size = self._size(name)
        except ResultDamaged as error:
            return error
        return b"" if (offset if offset >= 0 else -offset) <= size else self._too_short(name, offset, 0)

    def _size(self, name: str) -> int:
        try:
            return self.retries.call(lambda: self._files.size(name))
        except ResultStoreError:
            raise
        except Exception as error:
            if is_missing(error):
                raise self._gone(name) from None
            self._raise(f"the stored result {name} cannot be read from {self.url}", error)

    def _gone(self, name: str) -> ResultDamaged:
        return ResultDamaged(f"the stored result {name} in {self.url} is gone")

    def _too_short(self, name: str, offset: int, nbytes: int) -> ResultDamaged:
        return ResultDamaged(
            f"the stored result {name} in {self.url} is damaged: it does not have the {nbytes:,} bytes expected from "
            f"{offset:,} on; ignoring it"
        )

    def entries(self, prefix: str = "") -> Iterator[StoredObject]:
        check_prefix(prefix)
        pages = self._files.pages(prefix)
        while True:
            page = self._try(f"the results in {self.url} cannot be listed", lambda: next(pages, None))
            if page is None:
                return
            for each in page:
                if each.name.startswith(prefix) and _is_name(each.name):
                    yield each

    def names(self, prefix: str = "") -> Iterator[str]:
        for each in self.entries(prefix):
            yield each.name

    # -- care ----------------------------------------------------------------------------------------------

    def delete(self, names: Iterable[str]) -> None:
        files, waiting = self._files, list(names)
        for name in waiting:
            check_name(name)
        for start in range(0, len(waiting), REMOVED_AT_ONCE):
            some = waiting[start : start + REMOVED_AT_ONCE]
            self._try(
                f"{count_text(len(some), 'result')} cannot be removed from {self.url}, {some[0]} among them",
                functools.partial(files.remove, some),
            )

    def check(self) -> None:
        probe(self, f"the result store {self.url}")

    # -- parts ---------------------------------------------------------------------------------------------

    @property
    def _files(self) -> FileSystem:
        try:
            return file_system(
                self._location,
                self._options,
                frozen_options=self._frozen,
                timeout_seconds=self.retries.timeout_seconds,
            )
        except (ImportError, ValueError, TypeError, OSError) as error:
            self._raise(f"the result store {self.url} cannot be opened", error)

    def _try(self, what: str, act: Callable[[], T]) -> T:
        try:
            return self.retries.call(act)
        except ResultStoreError:
            raise
        except Exception as error:
            self._raise(what, error)

    def _raise(self, what: str, error: BaseException) -> NoReturn:
        """Raise an error without secrets: other libraries' errors are shown only if they contain none."""
        text = f"{what}: {explain(error)}"
        secrets = secrets_of(self._location, self._options)
        if scrub(text, secrets) == text and not _tells(error, secrets):
            raise ResultStoreError(text) from error
        raise ResultStoreError(scrub(text, secrets)) from None


def _tells(error: BaseException, secrets: tuple[str, ...]) -> bool:
    each: BaseException | None = error
    while each is not None:
        if any(secret in f"{each} {each!r}" for secret in secrets):
            return True
        each = each.__cause__ or each.__context__
    return False


def _only(parts: list[bytes | ResultDamaged]) -> bytes:
    (part,) = parts
    assert isinstance(part, bytes)
    return part


def _is_name(name: str) -> bool:
    try:
        check_name(name)
    except ResultStoreError:
        return False
    return True


class _Options(dict[str, Any]):
    """Options on their way: told apart by what they hold, and never shown."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozen(self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Options) and bool(frozen(self) == frozen(other))

    def __repr__(self) -> str:
        return "storage_options(***)"


@functools.lru_cache(maxsize=64)
def _restored(
    url: str, options: _Options, keys: tuple[bytes, ...], allow_unsigned: bool, retries: Retries
) -> FsspecStore:
    """Return one store per place and process: many references to columns carry it along."""
    return FsspecStore(
        url,
        options,
        key=keys[0],
        older_keys=keys[1:],
        allow_unsigned=allow_unsigned,
        retries=retries,
    )
