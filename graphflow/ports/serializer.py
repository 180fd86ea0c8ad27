"""How values become bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from graphflow.ports.results import Buffer

__all__ = ["Serializer"]


@runtime_checkable
class Serializer(Protocol):
    """Converts values to bytes. Stateless: it is created without arguments, once per process."""

    @property
    def name(self) -> str:
        """Its name in options and packs."""
        ...

    def dumps(self, values: Sequence[Any]) -> Sequence[Buffer]:
        """Return values as one or more buffers, which are stored in this order.

        Raises
        ------
        SerializationError
            If a value cannot be serialized, or would not survive a round trip; the others are tried again without it.
        """
        ...

    def loads(self, buffers: Sequence[Buffer]) -> list[Any]:
        """Restore the values. Buffers after the first one are writable, and owned by the values."""
        ...
