"""How values become bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from graphflow.ports.results import Buffer

__all__ = ["Serializer"]


@runtime_checkable
class Serializer(Protocol):
    """How values become bytes. One without state: it is made without arguments, once per process."""

    @property
    def name(self) -> str:
        """What options and packs call it."""
        ...

    def dumps(self, values: Sequence[Any]) -> Sequence[Buffer]:
        """Some values as one or more buffers, which are kept in this order.

        Raises
        ------
        SerializationError
            If one cannot be carried, or would not come back as it was; the others are tried again without it.
        """
        ...

    def loads(self, buffers: Sequence[Buffer]) -> list[Any]:
        """The values again. Buffers after the first one are writable, and the values' own."""
        ...
