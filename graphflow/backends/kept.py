"""Columns that had to be restored, kept for the next batches of the same process."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from graphflow.model.orders import Ref
from graphflow.runner.columns import load_column

__all__ = ["KeptColumns", "load_here"]

MAX_COLUMNS = 64
MAX_NBYTES = 256 << 20


def load_here(ref: Ref) -> list[Any]:
    """Return the values of a column that needs no backend."""
    return load_column(ref, "an upstream result")


class KeptColumns:
    """Loads columns, and keeps the last ones that were not lists already.

    Parameters
    ----------
    restore
        Returns the values of a column that is not a list of this process.
    """

    def __init__(self, restore: Callable[[Ref], list[Any]] = load_here) -> None:
        self._restore = restore
        self._lock = threading.Lock()
        self._columns: OrderedDict[str, tuple[list[Any], int]] = OrderedDict()
        self._nbytes = 0

    def load(self, ref: Ref) -> list[Any]:
        """Return the values of a column."""
        if ref.kind == "local":
            values: list[Any] = ref.data
            return values
        with self._lock:
            known = self._columns.get(ref.id)
            if known is not None:
                self._columns.move_to_end(ref.id)
                return known[0]
        values = self._restore(ref)
        with self._lock:
            if ref.id not in self._columns:
                self._columns[ref.id] = (values, ref.nbytes)
                self._nbytes += ref.nbytes
            while len(self._columns) > 1 and (len(self._columns) > MAX_COLUMNS or self._nbytes > MAX_NBYTES):
                self._nbytes -= self._columns.popitem(last=False)[1][1]
        return values

    def forget(self, refs: Iterable[Ref]) -> None:
        """Forget released columns."""
        with self._lock:
            for ref in refs:
                self._nbytes -= self._columns.pop(ref.id, (None, 0))[1]
