"""Histories in memory, with the rules of those on disk: for tests, the simulator, and runs that leave nothing behind.

No file, no thread and no clock of its own: what happens follows from the calls and the clock that was given.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from graphflow.errors import HistoryDamaged, HistoryError, LeaseHeld, LeaseLost, RunNotFound
from graphflow.histories.catalogued import CatalogHistory
from graphflow.histories.checks import GONE, check_id, plain, state_code
from graphflow.histories.journals import RunJournal
from graphflow.histories.volatile_catalog import VolatileCatalog
from graphflow.model.records import Entry, Kind, Record, RunHeader
from graphflow.ports import Claim, Clock, Holder

__all__ = ["VolatileHistory", "VolatileWriter"]

LEASE_SECONDS = 30.0
MOST_ENDED = 1_000
"""A process keeps so many runs that have ended; older ones are removed with what is in memory of their results."""


@dataclass(slots=True)
class _Records:
    """What was written of one run."""

    epoch: int = 0
    """What commits are guarded by."""
    has_lock: bool = True
    """Whether the driver of this epoch lives."""
    commits: list[tuple[int, tuple[Record, ...]]] = field(default_factory=list)
    """The epoch and records of each."""
    guard: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, epoch: int) -> None:
        """Shut out earlier drivers."""
        with self.guard:
            self.epoch, self.has_lock = epoch, True


class VolatileHistory(CatalogHistory):
    """The histories of this process.

    Parameters
    ----------
    clock
        What leases go by.
    lease_seconds
        How long a driver that is not heard of keeps its run.
    holder
        Who takes leases; this process by default.
    folder
        What `results_folder` is below, where results do not stay in memory too; nothing is made there.
    most_ended
        How many runs are kept that have ended: a new run removes the oldest.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        lease_seconds: float = LEASE_SECONDS,
        holder: Holder | None = None,
        folder: Path | str | None = None,
        most_ended: int = MOST_ENDED,
    ) -> None:
        super().__init__(clock=clock, lease_seconds=lease_seconds, holder=holder)
        self._folder = None if folder is None else Path(folder).absolute()
        self._most_ended = most_ended
        self._catalog = VolatileCatalog()
        self._records: dict[str, _Records] = {}

    def beside(self, holder: Holder) -> VolatileHistory:
        """Return the same histories as another process, or another machine, sees them."""
        other = VolatileHistory(
            clock=self._clock,
            lease_seconds=self.lease_seconds,
            holder=holder,
            folder=self._folder,
            most_ended=self._most_ended,
        )
        other._catalog, other._records = self._catalog, self._records
        return other

    # -- drivers -------------------------------------------------------------------------------------------

    def create(self, header: RunHeader, *, work: int | None = None) -> RunJournal:
        run_id = check_id(header.id)
        _check_no_work(run_id, work)
        state_code(header.state)
        created = float(header.created or self._clock.wall())
        with self._catalog.transaction():
            if self._catalog.run(run_id) is not None:
                raise HistoryError(f"run {run_id} already exists, in memory; resume it, or use another id")
            self._catalog.add(replace(header, created=created, started=None, ended=None, lease=None))
            self._records[run_id] = _Records()
            journal = self._journal(run_id, 1)
        self._drop_oldest()
        return journal

    def take(self, run_id: str, *, work: int | None = None) -> RunJournal:
        _check_no_work(run_id, work)
        with self._catalog.transaction():
            header, claim = self._row(self._catalog, run_id)
            self._check_free(claim, "cannot be taken")
            self._catalog.answer_all(run_id, header.epoch, GONE, at=self._clock.wall())
            return self._journal(run_id, header.epoch + 1)

    def _journal(self, run_id: str, epoch: int) -> RunJournal:
        self._catalog.grant(self._claim(run_id, epoch))
        self._records[run_id].begin(epoch)
        writer = VolatileWriter(self._records, run_id, epoch)
        return RunJournal(
            writer,
            self._catalog,
            self._catalog,
            writer,
            run_id=run_id,
            epoch=epoch,
            claim=self._claim,
            clock=self._clock,
        )

    # -- readers -------------------------------------------------------------------------------------------

    def read(
        self, run_id: str, *, after: int = 0, kinds: Collection[int] = (), node: int | None = None
    ) -> Iterator[Entry]:
        for entry in self._entries(run_id):
            record = entry.record
            is_wanted = record.kind in kinds if kinds else record.kind != Kind.DIGEST
            if entry.seq > after and is_wanted and (node is None or record.node == node):
                yield entry

    def _entries(self, run_id: str) -> Iterator[Entry]:
        number = 0
        for seq, (epoch, records) in enumerate(list(self._written(run_id).commits), 1):
            for place, record in enumerate(records):
                number += 1
                yield Entry(seq, place, epoch, record, number)

    def records(self, run_id: str, numbers: Iterable[int]) -> Iterator[Entry]:
        entries = list(self._entries(run_id))
        for number in numbers:
            if not 0 < number <= len(entries):
                raise HistoryDamaged(f"run {run_id} has no record {number}")
            yield entries[number - 1]

    def digests(self, run_id: str) -> Iterator[int]:
        found = [each.number for each in self._entries(run_id) if each.record.kind == Kind.DIGEST]
        yield from reversed(found)

    def head(self, run_id: str) -> int:
        return len(self._written(run_id).commits)

    def results_folder(self, run_id: str) -> str:
        if self._folder is None:
            return f"memory://graphflow/runs/{check_id(run_id)}"
        return str(self._folder / "runs" / check_id(run_id) / "results")

    # -- care ----------------------------------------------------------------------------------------------

    def verify(self, run_id: str) -> list[str]:
        """Return no problems, as memory is never damaged; see `History.verify`."""
        self._written(run_id)
        return []

    def remove(self, run_id: str) -> None:
        with self._catalog.transaction():
            self._check_free(self._row(self._catalog, run_id)[1], "cannot be removed")
            self._catalog.forget(run_id)
            del self._records[run_id]
        if self._folder is None:
            # No file system is loaded before it is needed.
            from graphflow.results.stores.opening import open_store

            store = open_store(self.results_folder(run_id))
            store.delete(list(store.names()))

    def _drop_oldest(self) -> None:
        """Remove the runs that have ended, but for the newest."""
        if len(self._records) <= self._most_ended:
            return
        ended = [
            header.id for header, claim in self._catalog.runs() if claim is None or not self._is_alive(claim)
        ]
        for run_id in ended[self._most_ended :]:
            # Another thread may remove it, or take it.
            with suppress(RunNotFound, LeaseHeld):
                self.remove(run_id)

    # -- parts ---------------------------------------------------------------------------------------------

    @property
    def _where(self) -> str:
        return "in memory"

    def _open(self) -> VolatileCatalog:
        return self._catalog

    def _is_locked(self, run_id: str) -> bool:
        return run_id in self._records and self._records[run_id].has_lock

    def _written(self, run_id: str) -> _Records:
        records = self._records.get(run_id)
        if records is None:
            raise self._missing(run_id)
        return records


class VolatileWriter:
    """What adds commits to the records of one run in memory, and what shows that its driver lives."""

    def __init__(self, records: dict[str, _Records], run_id: str, epoch: int) -> None:
        self._records = records
        self._run_id = run_id
        self._epoch = epoch

    @property
    def seq(self) -> int:
        return len(self._mine().commits)

    @property
    def number(self) -> int:
        return sum(len(records) for _, records in self._mine().commits)

    def commit(self, records: Sequence[Record], *, at: float, state: str | None) -> int:
        kept = tuple(map(plain, records))
        mine = self._mine()
        with mine.guard:
            self._check_fence(mine)
            mine.commits.append((self._epoch, kept))
            return len(mine.commits)

    def check_there(self) -> None:
        self._mine()

    def close(self, *, checkpoint: bool) -> None:
        """Nothing is to be done."""

    def strand(self) -> None:
        """Nothing is to be done."""

    def release(self) -> None:
        mine = self._records.get(self._run_id)
        if mine is not None:
            with mine.guard:
                mine.has_lock &= mine.epoch != self._epoch

    def note(self, claim: Claim) -> None:
        """Nothing is to be done: others see the catalog."""

    def _mine(self) -> _Records:
        mine = self._records.get(self._run_id) or _Records()
        self._check_fence(mine)
        return mine

    def _check_fence(self, mine: _Records) -> None:
        if mine.epoch != self._epoch:
            other = f"a driver of epoch {mine.epoch}" if mine.epoch else "nobody"
            raise LeaseLost(
                f"run {self._run_id} was taken over by {other}; this driver (epoch {self._epoch}) did not renew its"
                " lease in time; its writes are now refused"
            )


def _check_no_work(run_id: str, work: int | None) -> None:
    if work is not None:
        raise LeaseLost(f"run {run_id} is not a worker's: histories in memory have no work")
