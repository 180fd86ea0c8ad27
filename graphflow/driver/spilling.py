"""Values of this process that a run may still be asked for: in memory while they are few, else on disk."""

from __future__ import annotations

import itertools
import logging
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from graphflow.driver.dispatch import Persistence
from graphflow.model.orders import Ref
from graphflow.model.reports import Report, Stored, stored_ref
from graphflow.ports import Backend
from graphflow.records.item_index import MemoryHistory, NodeHistory
from graphflow.results.packs.pickling import encode
from graphflow.runner.columns import write_pack

__all__ = ["HELD_NBYTES", "HeldValues"]

logger = logging.getLogger("graphflow.driver")
HELD_NBYTES = 128 << 20
"""What the values that batches of this process gave may weigh together in memory."""


class HeldValues:
    """Lets columns of this process go from memory once they are many, oldest nodes first; they are read back where needed.

    What is in the result store already is read from there. Other columns are written to a folder of the run, which is
    removed with the run. Values that cannot be pickled stay.

    Parameters
    ----------
    history, backend, persistence
        Those of the run's driver.
    """

    def __init__(self, history: MemoryHistory, backend: Backend, persistence: Persistence) -> None:
        self._history = history
        self._backend = backend
        self._store = persistence.store
        self._held = 0
        self._numbers = itertools.count()
        self._folder: Path | None = None
        self._stays: set[int] = set()
        """Columns that cannot be written, by the id of their ref, which the history keeps."""

    def committed(self, report: Report) -> None:
        """Take the columns of a report, which the history has."""
        for step in report.steps:
            if step.values is not None and step.values.kind == "local":
                self._held += step.values.nbytes
        if self._held > HELD_NBYTES:
            self._let_go()

    @staticmethod
    def drop(refs: Iterable[Ref]) -> None:
        """Remove files of columns that nobody will ask for any more."""
        for ref in refs:
            if ref.is_spilled:
                Path(ref.path).unlink(missing_ok=True)

    def _let_go(self) -> None:
        held = [each for each in self._columns() if id(each[1]) not in self._stays]
        self._held = sum(ref.nbytes for _, ref, _ in held)
        moved: dict[int, Ref] = {}
        touched: dict[int, NodeHistory] = {}
        for history, ref, stored in held:
            if self._held <= HELD_NBYTES // 2:
                break
            self._held -= ref.nbytes
            if id(ref) in moved:
                continue
            found = self._elsewhere(ref, stored)
            if found is None:
                self._stays.add(id(ref))
            else:
                moved[id(ref)] = found
                touched[id(history)] = history
        for history in touched.values():
            history.move(moved)
        self._backend.free([ref for _, ref, _ in held if id(ref) in moved])

    def _columns(self) -> Iterator[tuple[NodeHistory, Ref, Stored | None]]:
        for history in list(self._history.nodes.values()):
            for step in history.steps():
                if step.values is not None and step.values.kind == "local":
                    yield history, step.values, step.stored

    def _elsewhere(self, ref: Ref, stored: Stored | None) -> Ref | None:
        """Return a ref of the same values on disk; None if they cannot be written."""
        if self._store is not None and stored is not None and stored.has_all:
            return stored_ref(stored, self._store)
        data, errors = encode(ref.data)
        if errors:
            return None
        try:
            if self._folder is None:
                self._folder = Path(tempfile.mkdtemp(prefix="graphflow-values-"))
                weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
            return replace(write_pack(self._folder, str(next(self._numbers)), [data])[0], is_spilled=True)
        except OSError as error:
            logger.warning("values stay in memory, as they cannot be written to %s: %s", self._folder, error)
            return None
