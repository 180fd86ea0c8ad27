"""Packs that grow: the columns of many batches of a process in one file, each durable before anything refers to it.

A batch of ordinary items makes little, and often: a file for each would cost more than the values. Bytes that were appended are
never changed, so readers need no lock; whatever stands behind the last column that the history refers to is ignored. While one
batch writes, others that come wait; the next of them takes along all that waits (group commit).
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from graphflow.common.grouping import GroupCommit
from graphflow.model.reports import Stored
from graphflow.ports import GrowingObject, GrowingStore, ResultStore
from graphflow.results.packs.format import GROWN_OF_RUN, header
from graphflow.results.packs.packs import digest_of, publish
from graphflow.results.packs.sections import Section

__all__ = ["GrowingPacks"]

MAX_OPEN = 16
"""Files that are open at a time; what is written after one was closed goes to another file."""
MAX_NBYTES = 64 << 20
"""A file that has so much is closed."""
MAX_LOT_NBYTES = 1 << 20
"""Columns that weigh more are a pack of their own."""


@dataclass(slots=True)
class _Lot:
    """The columns of one batch, and what became of them."""

    sections: Sequence[Section]
    stored: list[Stored]
    is_over: bool = False
    failure: BaseException | None = None


class _Growing(GroupCommit[_Lot]):
    """The file of one run in one store, as this process writes it."""

    def __init__(self, store: GrowingStore, key: bytes, epoch: int) -> None:
        super().__init__()
        self._store = store
        self._key = key
        self._epoch = epoch
        self._object: GrowingObject | None = None

    def append(self, sections: Sequence[Section]) -> list[Stored]:
        """Write columns; they are durable when this returns."""
        lot = _Lot(sections, [])
        self.submit(lot)
        return lot.stored

    def write_all(self, lots: Sequence[_Lot]) -> None:
        try:
            self._place(lots)
        except BaseException as error:
            self.close()
            for lot in lots:
                lot.failure = error
            if not isinstance(error, Exception):
                raise

    def _place(self, lots: Sequence[_Lot]) -> None:
        target = self._object
        if target is None or target.nbytes >= MAX_NBYTES or not target.is_there():
            self.close()
            name = f"e{self._epoch}-grown-{os.urandom(6).hex()}.pack"
            target = self._object = self._store.begin(name, header(GROWN_OF_RUN))
        offset = target.append([each.data for lot in lots for each in lot.sections])
        for lot in lots:
            for each in lot.sections:
                lot.stored.append(
                    Stored(
                        name=target.name,
                        offset=offset,
                        nbytes=len(each.data),
                        digest=digest_of(each.data, self._key),
                        count=each.count,
                        missing=tuple(each.missing),
                        is_whole=each.is_whole,
                    )
                )
                offset += len(each.data)

    def close_in_turn(self) -> None:
        """Close the file once what is being written is there."""
        with self.turn:
            self.close()

    def close(self) -> None:
        """Close the file; what comes later goes to another one."""
        opened, self._object = self._object, None
        if opened is not None:
            opened.close()


class GrowingPacks:
    """The packs that this process writes to, one per run and store.

    A store that cannot grow objects, and columns that weigh much, get a pack per batch.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: OrderedDict[tuple[ResultStore, str, int], _Growing] = OrderedDict()
        self._pid = os.getpid()

    def append(
        self, store: ResultStore, sections: Sequence[Section], *, run_id: str, batch: int, epoch: int
    ) -> list[Stored]:
        """Write columns of a batch, and return where each is; they are durable then.

        Raises
        ------
        ResultStoreError
            If the store does not take them.
        """
        if not isinstance(store, GrowingStore) or sum(len(each.data) for each in sections) > MAX_LOT_NBYTES:
            return publish(store, sections, run_id=run_id, batch=batch, epoch=epoch)
        return self._file(store, (store, run_id, epoch)).append(sections)

    def _file(self, growing: GrowingStore, place: tuple[ResultStore, str, int]) -> _Growing:
        store, _, epoch = place
        with self._lock:
            if self._pid != os.getpid():
                # A fork: these files are its parent's to write.
                self._files, self._pid = OrderedDict(), os.getpid()
            found = self._files.get(place)
            if found is None:
                found = self._files[place] = _Growing(growing, store.keys[0], epoch)
            self._files.move_to_end(place)
            gone = self._files.popitem(last=False)[1] if len(self._files) > MAX_OPEN else None
        if gone is not None:
            gone.close_in_turn()
        return found

    def close(self, run_id: str | None = None) -> None:
        """Close the files of a run, or all."""
        with self._lock:
            places = [place for place in self._files if run_id is None or place[1] == run_id]
            gone = [self._files.pop(place) for place in places]
        for each in gone:
            each.close_in_turn()
