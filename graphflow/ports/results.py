"""Where results are kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from graphflow.errors import ResultDamaged

__all__ = ["Buffer", "GrowingObject", "GrowingStore", "ResultStore", "StoredObject"]

Buffer = bytes | bytearray | memoryview
"""Bytes that can be passed without copying."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object of a result store, as listed; `modified` is seconds since the epoch, of the store's clock."""

    name: str
    nbytes: int
    modified: float


@runtime_checkable
class ResultStore(Protocol):
    """A store of results, as objects that are written once; it can be pickled, for workers.

    Names are made of segments with `/` between them; nothing is read or written outside the store's own place.
    """

    @property
    def url(self) -> str:
        """Its name in messages, without credentials."""
        ...

    @property
    def is_shared(self) -> bool:
        """Whether workers on other machines reach it too."""
        ...

    @property
    def keys(self) -> Sequence[bytes]:
        """The signing keys: the first one signs, all are accepted. Never shown, never in the store."""
        ...

    @property
    def can_create(self) -> bool:
        """Whether `create` is exclusive in this store; finding out may cost a few requests."""
        ...

    def publish(self, name: str, parts: Sequence[Buffer]) -> int:
        """Write an object of these parts, atomically and durably, and return its size.

        Raises
        ------
        ResultStoreError
            If it cannot be written (a full disk, missing rights).
        """
        ...

    def create(self, name: str, data: bytes, *, is_lasting: bool = True) -> bool:
        """Write an object unless it exists; return True if this call created it, False if it existed.

        Of concurrent calls, exactly one gets True. `data` is a unique token, not empty: if the store's
        answer was lost, the object is read back and compared. An object that is not `is_lasting` may be gone after
        a power failure.

        Raises
        ------
        ResultStoreError
            If the store cannot do that exclusively, or cannot be written.
        """
        ...

    def read(self, name: str, offset: int, nbytes: int) -> bytes:
        """Return bytes of an object; a negative offset counts from its end.

        Raises
        ------
        ResultDamaged
            If there is no such object, or it is shorter.
        ResultStoreError
            If the store cannot be reached.
        """
        ...

    def read_many(self, ranges: Sequence[tuple[str, int, int]]) -> list[bytes | ResultDamaged]:
        """Return the bytes of many (name, offset, nbytes) reads; an error for each object that is missing or too short.

        Raises
        ------
        ResultStoreError
            If the store cannot be reached.
        """
        ...

    def entries(self, prefix: str = "") -> Iterator[StoredObject]:
        """Yield the objects whose names begin with a prefix, in no order; one listing. It may lag, but is never wrong.

        Raises
        ------
        ResultStoreError
            If the store cannot be reached.
        """
        ...

    def names(self, prefix: str = "") -> Iterator[str]:
        """Yield the names of `entries`."""
        ...

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects; a missing one is not an error."""
        ...

    def check(self) -> None:
        """Write, read and remove a probe.

        Raises
        ------
        ResultStoreError
            If that does not work, with the reason: a wrong bucket, missing rights, expired credentials.
        """
        ...


class GrowingObject(Protocol):
    """An object of a store that one process appends to. Bytes that are there are never changed."""

    @property
    def name(self) -> str:
        """Its name in the store."""
        ...

    @property
    def nbytes(self) -> int:
        """How much it has."""
        ...

    def append(self, parts: Sequence[Buffer]) -> int:
        """Write parts behind what is there, durably, and return the offset of the first.

        Raises
        ------
        ResultStoreError
            If they cannot be written. Nothing may be appended after that.
        """
        ...

    def is_there(self) -> bool:
        """Return whether the object still has its name: what is appended to one that was removed is lost."""
        ...

    def close(self) -> None:
        """Append nothing more."""
        ...


@runtime_checkable
class GrowingStore(Protocol):
    """What a `ResultStore` has whose objects can grow; optional."""

    def begin(self, name: str, data: bytes) -> GrowingObject:
        """Create an object, which must not exist, with these bytes first. It is durable with the first `append`.

        Raises
        ------
        ResultStoreError
            If it cannot be created.
        """
        ...
