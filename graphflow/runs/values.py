"""Stored values of ended runs, read from the result store column by column."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from graphflow.errors import ValueUnavailable
from graphflow.model.orders import Ref
from graphflow.runner.columns import load_column

__all__ = ["NOT_KEPT", "Values"]

KEPT_COLUMNS = 8
NOT_KEPT = (
    "was not stored: its task or flow has persist_result=False, it could not be pickled, or the result store could not be "
    "written; run it again to get it"
)


class Values:
    """Reads columns, and keeps the last few, for access item by item."""

    def __init__(self) -> None:
        self._columns: dict[str, list[Any]] = {}

    def column(self, ref: Ref) -> list[Any]:
        """Return all values of a column.

        Raises
        ------
        ValueUnavailable, ResultDamaged
            If they are missing, or differ from what was written.
        SerializationError
            If they cannot be restored in this process.
        """
        known = self._columns.pop(ref.id, None)
        if known is None:
            known = load_column(ref, "a result")
        self._columns[ref.id] = known
        while len(self._columns) > KEPT_COLUMNS:
            del self._columns[next(iter(self._columns))]
        return known

    def value(self, ref: Ref | None, position: int, what: str) -> Any:
        """Return one value."""
        if ref is None or ref.kind == "gone":
            raise ValueUnavailable(f"the value of {what} {NOT_KEPT}")
        return self.column(ref)[position]

    def joined(self, parts: Iterable[tuple[Ref, Sequence[int]]]) -> list[Any]:
        """Return the entries of columns, one part after the other."""
        found: list[Any] = []
        for ref, positions in parts:
            column = self.column(ref)
            if isinstance(positions, range) and positions.step == 1:
                found += column[positions.start : positions.stop]
            else:
                found += [column[position] for position in positions]
        return found
