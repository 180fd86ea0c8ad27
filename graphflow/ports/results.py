"""Where results are kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from graphflow.errors import ResultDamaged

__all__ = ["Buffer", "ResultStore", "StoredObject"]

Buffer = bytes | bytearray | memoryview
"""Bytes that need not be copied."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object of a result store, as a listing tells it; `modified` is seconds since the epoch, of the store's clock."""

    name: str
    nbytes: int
    modified: float


@runtime_checkable
class ResultStore(Protocol):
    """Where results are kept, as objects that are written once; can be pickled, so that workers use it too.

    Names are made of segments with `/` between them; nothing is read or written outside the store's own place.
    """

    @property
    def url(self) -> str:
        """How messages name it; without credentials."""
        ...

    @property
    def is_shared(self) -> bool:
        """Whether workers on other machines reach it too."""
        ...

    @property
    def keys(self) -> Sequence[bytes]:
        """What objects are signed with: the first one signs, all are accepted. Never shown, never in the store."""
        ...

    @property
    def can_create(self) -> bool:
        """Whether `create` is exclusive here; the first answer may cost a few requests."""
        ...

    def publish(self, name: str, parts: Sequence[Buffer]) -> int:
        """Write an object of these parts; it is there whole and durable, or not at all. Gives its size.

        Raises
        ------
        ResultStoreError
            If it cannot be written (a full disk, missing rights).
        """
        ...

    def create(self, name: str, data: bytes, *, is_lasting: bool = True) -> bool:
        """Write an object unless there is one: True if this very call made it, False if it was there.

        Of all who try at once, one gets True. `data` is a token that no other call uses, not empty: where the store's
        answer was lost, what is there is read back and compared. What is not `is_lasting` may be gone when
        the machine has lost its power.

        Raises
        ------
        ResultStoreError
            If the store cannot do that exclusively, or cannot be written.
        """
        ...

    def read(self, name: str, offset: int, nbytes: int) -> bytes:
        """Bytes of an object; a negative offset counts from its end.

        Raises
        ------
        ResultDamaged
            If there is no such object, or it is shorter.
        ResultStoreError
            If the store cannot be reached.
        """
        ...

    def read_many(self, ranges: Sequence[tuple[str, int, int]]) -> list[bytes | ResultDamaged]:
        """Many reads of (name, offset, nbytes) at once; in place of what is missing or too short, the error.

        Raises
        ------
        ResultStoreError
            If the store cannot be reached.
        """
        ...

    def entries(self, prefix: str = "") -> Iterator[StoredObject]:
        """The objects whose names begin with a prefix, in no order; one listing. A store may list late, never wrongly.

        Raises
        ------
        ResultStoreError
            If the store cannot be reached.
        """
        ...

    def names(self, prefix: str = "") -> Iterator[str]:
        """The names of `entries`."""
        ...

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects; one that is not there is no error."""
        ...

    def check(self) -> None:
        """Write, read and remove a probe.

        Raises
        ------
        ResultStoreError
            If that does not work, with the reason: a wrong bucket, missing rights, expired credentials.
        """
        ...
