"""Work: runs that wait, are claimed, lost, handed over and late."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from graphflow.common.failpoints import failpoint
from graphflow.histories import statements
from graphflow.histories.catalogs import SqliteCatalog
from graphflow.histories.catalogued import MOST_CRASHES
from graphflow.histories.leases import SystemClock
from graphflow.histories.sqlite import SqliteHistory
from graphflow.model.records import RunHeader
from graphflow.orchestration.deciding import are_met
from graphflow.orchestration.stores.limits import Limits
from graphflow.orchestration.stores.pools import WorkerSeen
from graphflow.ports import Clock

__all__ = ["Claimed", "Given", "WorkStore", "open_work"]

CLAIM_SECONDS = 30.0
"""How long a claim holds until the driver of the run has a lease of its own, for workers of other machines."""
CANDIDATES_AT_ONCE = 20
PATIENCE_SECONDS = 30.0
"""How long orchestration waits for a catalog that others have locked."""
MOST_PASSED_OVER = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A run that was given to a worker, by the claim of this number."""

    run_id: str
    epoch: int
    pool_backend: str
    pool_env: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """Work that a worker has claimed."""

    run_id: str
    epoch: int
    worker_id: str
    wall_until: float


class _Candidate(NamedTuple):
    run_id: str
    overlap_key: str
    deployment_id: str
    needs: str
    epoch: int
    why: str
    is_deployment_paused: int
    concurrency: str
    tags: str


class WorkStore:
    """The work of a home; each method is one transaction."""

    def __init__(self, catalog: SqliteCatalog, clock: Clock) -> None:
        self._catalog = catalog
        self._clock = clock
        self._limits = Limits(catalog, clock)

    # -- claims ----------------------------------------------------------------------------------------------

    def is_due(self, pool: str) -> bool:
        """Return whether any work of a pool is due; cheap."""
        return bool(self._catalog.rows(statements.IS_ANY_DUE, (pool, self._clock.wall())))

    def claim(self, worker: WorkerSeen, *, slots: int, queues: Sequence[str] = ()) -> list[Given]:
        """Claim up to `slots` runs for a worker, in order; those that must wait longer are told why."""
        failpoint("work.claim.before")
        with self._catalog.transaction():
            row = next(iter(self._catalog.rows(statements.LOCK_POOL, (worker.pool,))), None)
            if row is None:
                return []
            _, size, is_paused, backend, env = row
            use = dict(self._catalog.rows(statements.POOL_USE, (worker.pool,)))
            busy = sum(use.values())
            free = slots if size is None else min(slots, size - busy)
            stopped = ""
            if self._is_all_paused():
                stopped = "everything is paused; `graphflow resume-all` lets it go on"
            elif is_paused:
                stopped = f"the pool {worker.pool} is paused"
            elif free <= 0:
                stopped = f"the pool {worker.pool} is full: {busy} of {size} run"
            given: list[Given] = []
            for name, queue_size, is_queue_paused in self._catalog.rows(statements.QUEUES_OF, (worker.pool,)):
                if queues and name not in queues:
                    continue
                room = free - len(given)
                why = stopped or (f"the queue {name} is paused" if is_queue_paused else "")
                if queue_size is not None and not why:
                    room = min(room, queue_size - use.get(name, 0))
                    if queue_size <= use.get(name, 0):
                        why = f"the queue {name} is full: {use[name]} of {queue_size} run"
                for each in self._chosen(worker, name, room, why):
                    epoch = self._claim_one(each, worker)
                    given.append(
                        Given(run_id=each.run_id, epoch=epoch, pool_backend=backend, pool_env=json.loads(env))
                    )
            failpoint("work.claim.decided")
        failpoint("work.claim.after")
        return given

    def _chosen(self, worker: WorkerSeen, queue: str, room: int, stopped: str) -> Iterator[_Candidate]:
        """Yield runs of a queue that can be claimed, which the caller does; the others are told why not."""
        now = self._clock.wall()
        chosen = passed = 0
        while chosen < room or stopped:
            rows = self._catalog.rows(
                statements.CANDIDATES, (worker.pool, queue, now, CANDIDATES_AT_ONCE, passed)
            )
            for row in rows:
                each = _Candidate(*row)
                why = stopped or self._held_up(each, worker)
                if not why:
                    chosen += 1
                    yield each
                    if chosen == room:
                        return
                    continue
                passed += 1
                if why != each.why:
                    self._catalog.execute(statements.SET_WHY, (why, each.run_id, why))
            if stopped or len(rows) < CANDIDATES_AT_ONCE or passed >= MOST_PASSED_OVER:
                return

    def _held_up(self, each: _Candidate, worker: WorkerSeen) -> str:
        """Return why a run is not given to a worker; empty if it can be."""
        if each.is_deployment_paused:
            return "its deployment is paused"
        if each.concurrency:
            # No model: the process of a run, which uses this module too, loads none.
            limit = int(json.loads(each.concurrency)["limit"])
            ((active,),) = self._catalog.rows(statements.KEY_USE, (each.deployment_id, each.overlap_key))
            if active >= limit:
                of = f" of {each.overlap_key}" if each.overlap_key else ""
                return f"{active} of {limit} runs{of} are active"
        lacks = are_met(json.loads(each.needs), worker.labels, worker.versions)
        if lacks:
            return f"it needs {lacks}, which no worker that asked has"
        return self._limits.full(json.loads(each.tags)) if each.tags else ""

    def _claim_one(self, each: _Candidate, worker: WorkerSeen) -> int:
        steady, wall = self._until()
        values = (worker.id, steady, wall, worker.boot_id, each.run_id, each.epoch)
        ((epoch,),) = self._catalog.rows(statements.CLAIM, values)
        message = f"worker {worker.name} starts it"
        self._catalog.set_run(
            each.run_id, "Pending", at=self._clock.wall(), ended=None, message=message, key=f"pending.{epoch}"
        )
        return int(epoch)

    def renew(self, worker_id: str) -> None:
        """Extend the claims of a worker."""
        self._catalog.execute(statements.RENEW_CLAIMS, (*self._until(), worker_id))

    # -- what holds no more ----------------------------------------------------------------------------------

    def claimed(self) -> list[Claimed]:
        """Return all work that is claimed."""
        return [
            Claimed(run_id=run_id, epoch=epoch, worker_id=worker_id, wall_until=wall_until)
            for run_id, epoch, worker_id, _, wall_until, _, _ in self._catalog.rows(statements.CLAIMED)
        ]

    def give_back(self, run_id: str, epoch: int, *, why: str, crashes: int = 0) -> bool:
        """Let work wait again, unless it has ended or was claimed again; True if it does."""
        with self._catalog.whole():
            row = self._catalog.run(run_id)
            if row is None or row[0].work is None or row[0].work.epoch != epoch:
                return False
            return self._catalog.lose(
                row[0], at=self._clock.wall(), crashes=crashes, most=MOST_CRASHES, why=why
            )

    def is_retry(self, header: RunHeader) -> bool:
        """Return whether the next driver of a run runs again what failed."""
        return any(each.kind == "retry" for each in self._catalog.waiting(header.id, header.epoch))

    def end(self, run_id: str, epoch: int, state: str, message: str) -> bool:
        """End a run that could not begin, by the claim of this number; False if that claim does not hold any more."""
        with self._catalog.transaction():
            row = self._catalog.run(run_id)
            if row is None or row[0].work is None or row[0].work.epoch != epoch:
                return False
            at = self._clock.wall()
            self._catalog.set_run(
                run_id, state, at=at, ended=at, message=message, key=f"{state.lower()}.{epoch}"
            )
            return True

    def header(self, run_id: str) -> RunHeader | None:
        """Return a run as the catalog has it."""
        row = self._catalog.run(run_id)
        return None if row is None else row[0]

    # -- late runs -------------------------------------------------------------------------------------------

    def note_late(self, late_after_seconds: float) -> int:
        """Make runs that have waited too long late, a hundred at most; return how many."""
        now = self._clock.wall()
        if not self._catalog.rows(statements.LATE, (now - late_after_seconds,)):
            return 0
        with self._catalog.transaction():
            rows = self._catalog.rows(statements.LATE, (now - late_after_seconds,))
            for (run_id,) in rows:
                row = self._catalog.run(run_id)
                why = "" if row is None or row[0].work is None else row[0].work.why
                self._catalog.set_run(run_id, "Late", at=now, ended=None, message=why, key="late")
            return len(rows)

    def _is_all_paused(self) -> bool:
        rows = self._catalog.rows(statements.SETTING, ("is_paused",))
        return bool(rows) and rows[0][0] == "1"

    def _until(self) -> tuple[float, float]:
        return self._clock.steady() + CLAIM_SECONDS, self._clock.wall() + CLAIM_SECONDS


@contextmanager
def open_work() -> Iterator[WorkStore]:
    """Open the work of this home alone, for the process of a run.

    Raises
    ------
    HistoryError
        If the catalog cannot be opened.
    """
    catalog = SqliteHistory().connect(patience=PATIENCE_SECONDS)
    try:
        yield WorkStore(catalog, SystemClock())
    finally:
        catalog.close()
