"""A result store in memory, whose objects can be lost or damaged."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence

from graphflow.errors import ResultDamaged
from graphflow.ports import Buffer, StoredObject

__all__ = ["VolatileStore"]


class VolatileStore:
    """Objects by name, as bytes."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.url = "memory://simulated"
        self.is_shared = True
        self.keys: Sequence[bytes] = (b"k" * 32,)
        self.can_create = True

    def publish(self, name: str, parts: Sequence[Buffer]) -> int:
        """Write an object; it is there whole, or not at all."""
        self.objects[name] = b"".join(parts)
        return len(self.objects[name])

    def create(self, name: str, data: bytes, *, is_lasting: bool = True) -> bool:
        """Write an object unless there is one."""
        return self.objects.setdefault(name, data) is data

    def read(self, name: str, offset: int, nbytes: int) -> bytes:
        """Return bytes of an object; a negative offset counts from its end.

        Raises
        ------
        ResultDamaged
            If there is no such object, or it is shorter.
        """
        data = self.objects.get(name)
        if data is None:
            raise ResultDamaged(f"there is no {name}")
        start = offset if offset >= 0 else len(data) + offset
        found = data[start : start + nbytes]
        if len(found) != nbytes:
            raise ResultDamaged(f"{name} is too short")
        return found

    def read_many(self, ranges: Sequence[tuple[str, int, int]]) -> list[bytes | ResultDamaged]:
        """Many reads; in place of what is missing or too short, the error."""
        return [self._read_or_error(*each) for each in ranges]

    def _read_or_error(self, name: str, offset: int, nbytes: int) -> bytes | ResultDamaged:
        try:
            return self.read(name, offset, nbytes)
        except ResultDamaged as error:
            return error

    def entries(self, prefix: str = "") -> Iterator[StoredObject]:
        """The objects whose names begin with a prefix; it has no clock."""
        for name in self.names(prefix):
            yield StoredObject(name, len(self.objects[name]), 0.0)

    def names(self, prefix: str = "") -> Iterator[str]:
        """The names of objects that begin with a prefix."""
        yield from [name for name in self.objects if name.startswith(prefix)]

    def check(self) -> None:
        """It always works."""

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects."""
        for name in names:
            self.objects.pop(name, None)

    def damage(self, name: str, rng: random.Random) -> None:
        """Lose an object, cut it short, or change each byte of it."""
        data = self.objects[name]
        how = rng.randrange(3)
        if how == 0:
            del self.objects[name]
        elif how == 1:
            self.objects[name] = data[: rng.randrange(len(data) or 1)]
        else:
            self.objects[name] = bytes((byte + 1) % 256 for byte in data)
