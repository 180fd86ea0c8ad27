"""What has become of a run's nodes and items: states, values and errors, as views and futures ask for them."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Any

from graphflow.core.core import Core
from graphflow.driver.dispatch import Dispatcher
from graphflow.errors import GraphflowError, ValueUnavailable
from graphflow.graph.mapping import DROPPED
from graphflow.model.orders import GONE_TEXT, Ref
from graphflow.model.states import FINAL_CODES, FINAL_TABLE, Code
from graphflow.ports import Backend
from graphflow.records.failures import item_failure, node_failure, whole_failure
from graphflow.records.item_index import MemoryHistory, Place
from graphflow.records.known import KnownRun
from graphflow.runner.inputs import joined

__all__ = ["Outcomes"]

KEPT_COLUMNS = 4


class Outcomes:
    """States, values and errors of one run, asked for by any thread.

    Parameters
    ----------
    core, history, backend, dispatcher
        Those of the run's driver.
    known
        The run as its driver knows it, for errors.
    settled
        Held while the books are looked at, so that all that is seen is durable.
    """

    def __init__(
        self,
        core: Core,
        history: MemoryHistory,
        backend: Backend,
        dispatcher: Dispatcher,
        *,
        known: KnownRun,
        settled: threading.Condition,
    ) -> None:
        self.settled = settled
        self._core = core
        self._history = history
        self._backend = backend
        self._dispatcher = dispatcher
        self._known = known
        self._columns: dict[int, tuple[Ref, list[Any]]] = {}
        self._columns_lock = threading.Lock()

    def code_of(self, node: int, index: int | None = None) -> Code:
        """Return the state of a node, or of one of its items, as a code."""
        with self.settled:
            book = self._core.books.get(node)
            if book is None:
                return Code.PENDING
            if index is not None:
                if index < len(book.states):
                    return Code(book.states[index])
                return Code(book.final) if book.final else Code.PENDING
            if book.final:
                return Code(book.final)
            return Code.RUNNING if book.has_started else Code.PENDING

    def is_final(self, node: int, index: int | None = None) -> bool:
        """Return whether a node, or one of its items, has an outcome."""
        with self.settled:
            book = self._core.books.get(node)
            if book is None:
                return False
            if book.is_final:
                return True
            return index is not None and index < len(book.states) and book.states[index] in FINAL_CODES

    def ended_mask(self, node: int, lo: int = 0, hi: int | None = None) -> bytes:
        """Return one byte per item known so far (of a range), 1 where it ended."""
        with self.settled:
            book = self._core.books.get(node)
            return bytes(book.states[lo:hi]).translate(FINAL_TABLE) if book is not None else b""

    def fetch(self, places: Sequence[Place]) -> list[Any]:
        """Return values by place; columns are fetched once each."""
        return self.joined((place.ref, (place.position,)) for place in places)

    def column(self, ref: Ref) -> list[Any]:
        """Return the values of a column; the last restored ones are kept for access item by item."""
        if ref.kind == "gone":
            raise ValueUnavailable(GONE_TEXT)
        if ref.kind == "local":
            return self._backend.fetch([ref])[0]
        with self._columns_lock:
            known = self._columns.get(id(ref))
            if known is not None:
                return known[1]
        values = self._backend.fetch([ref])[0]
        with self._columns_lock:
            self._columns[id(ref)] = (ref, values)
            while len(self._columns) > KEPT_COLUMNS:
                del self._columns[next(iter(self._columns))]
        return values

    def values_of(self, node: int, indices: range) -> list[Any]:
        """Return the values of items that ended well."""
        return self.joined(self._history.node(node).parts(indices, self._dispatcher.filler))

    def joined(self, parts: Iterable[tuple[Ref, Sequence[int]]]) -> list[Any]:
        """Return the entries of columns, one part after the other; each column is fetched once."""
        columns: dict[int, list[Any]] = {}

        def load(ref: Ref) -> list[Any]:
            if id(ref) not in columns:
                columns[id(ref)] = self.column(ref)
            return columns[id(ref)]

        return _kept(list(joined(tuple(parts), load)))

    def gathered(self, node: int) -> list[Any]:
        """Return the values of a map's items, in index order; those of items that have none are left out."""
        gathered = self._dispatcher.gathered(node, None)
        values = self.joined(gathered.parts)
        if gathered.dropped:
            dropped = set(gathered.dropped)
            values = [value for i, value in enumerate(values) if i not in dropped]
        return values

    def exception_of(self, node: int, index: int | None = None) -> BaseException:
        """Return the exception behind a failed node or item; an `UpstreamFailed` names its root cause."""
        known = self._known.known(node)
        if index is not None:
            return item_failure(self._known, known, index)
        error = whole_failure(self._known, known) or node_failure(self._known, known)
        return error or GraphflowError(f"{known.name} ended {known.state_code.state_name}")


def _kept(values: list[Any]) -> list[Any]:
    """Return the values, all of which must be there."""
    if type(DROPPED) in set(map(type, values)):
        raise ValueUnavailable(GONE_TEXT)
    return values
