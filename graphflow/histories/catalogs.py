"""The catalog of all runs: small, shared by all processes, and written only when something changes that lists show."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from graphflow.errors import HistoryDamaged, HistoryError, HistoryTooNew, HistoryTooOld
from graphflow.histories import schema
from graphflow.histories.databases import Database, build, open_database
from graphflow.histories.leases import Claim, Holder
from graphflow.histories.runfiles import sync_folder
from graphflow.model.records import Request, RunHeader

__all__ = ["CATALOG_FILE", "Catalog", "Row"]

CATALOG_FILE = "catalog.db"
RUNS_AT_ONCE = 100

Row = tuple[RunHeader, Claim | None]
"""A run as it was written down, and who drives it."""


class Catalog:
    """One connection to the catalog; may be used by several threads.

    Parameters
    ----------
    folder
        Where it is.
    creates
        Whether it is made where there is none.

    Raises
    ------
    HistoryError, HistoryDamaged, HistoryTooNew, HistoryTooOld
        If it cannot be opened, or read.
    """

    def __init__(self, folder: Path, *, creates: bool) -> None:
        self.path = folder / CATALOG_FILE
        if creates and not self.path.exists():
            _create(self.path)
        self._lock = threading.RLock()
        self._database = _opened(self.path)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run a transaction: everything in this context is written, or nothing; no other process writes meanwhile."""
        with self._lock, self._database.transaction():
            yield

    def be_quick(self) -> None:
        """Wait for locks for 20 ms at most from now on, then raise `HistoryLocked`."""
        with self._lock:
            self._database.be_quick()

    def close(self) -> None:
        """Close the connection; calling it again does nothing."""
        with self._lock:
            self._database.close()

    def strand(self) -> None:
        """Forget the connection, as when this process is killed."""
        self._database.strand()

    def integrity(self) -> list[str]:
        """Return what SQLite finds wrong."""
        with self._lock:
            return [row[0] for row in self._database.rows(schema.INTEGRITY) if row[0] != "ok"]

    # -- runs ----------------------------------------------------------------------------------------------

    def add(self, header: RunHeader) -> None:
        """Write down a new run."""
        self._execute(
            schema.ADD_RUN,
            header.id,
            header.name,
            header.flow_name,
            header.state,
            header.created,
            header.started,
            header.ended,
            header.host,
            header.pid,
            header.epoch,
        )

    def run(self, run_id: str) -> Row | None:
        """Return the run of exactly this id."""
        rows = self._runs(schema.RUN_BY_ID, run_id)
        return rows[0] if rows else None

    def by_upper_id(self, text: str) -> list[Row]:
        """Return runs of an id, whatever its case: none, one or several."""
        return self._runs(schema.RUN_BY_UPPER_ID, text.upper())

    def by_prefix(self, text: str) -> list[Row]:
        """Return the newest runs whose id begins so; a few."""
        return self._runs(schema.RUNS_BY_PREFIX, len(text), text.upper())

    def by_name(self, name: str) -> list[Row]:
        """Return the newest run of a name."""
        return self._runs(schema.RUNS_BY_NAME, name)

    def runs(
        self, *, flow_name: str = "", since: float | None = None, before: RunHeader | None = None
    ) -> Iterator[Row]:
        """Yield runs, the newest first; fetched as they are asked for."""
        oldest = float("-inf") if since is None else since
        while True:
            created, run_id = (before.created, before.id) if before is not None else (float("inf"), "")
            rows = self._runs(schema.RUNS, flow_name, flow_name, oldest, created, run_id, RUNS_AT_ONCE)
            yield from rows
            if len(rows) < RUNS_AT_ONCE:
                return
            before = rows[-1][0]

    def set_state(
        self, run_id: str, epoch: int, state: str, *, started: float | None, ended: float | None
    ) -> None:
        """Set a run's state; do nothing if a later driver has it."""
        self._execute(schema.SET_STATE, state, started, ended, run_id, epoch)

    def note_state(self, header: RunHeader, before: str) -> None:
        """Set the state of a run whose driver is gone, if no other one was written since."""
        self._execute(schema.NOTE_STATE, header.state, header.ended, header.id, header.epoch, before)

    def mend_state(self, run_id: str, epoch: int, state: str, *, ended: float | None) -> None:
        """Restore a run's state that another process has overwritten."""
        self._execute(schema.MEND_STATE, state, ended, run_id, epoch, state)

    def forget(self, run_id: str) -> None:
        """Delete all that concerns a run."""
        for statement in schema.DELETE_RUN:
            self._execute(statement, run_id)

    # -- leases --------------------------------------------------------------------------------------------

    def grant(self, claim: Claim) -> None:
        """Grant a run to a holder, replacing the previous one."""
        holder = claim.holder
        self._execute(schema.DELETE_LEASE, claim.run_id)
        self._execute(
            schema.ADD_LEASE,
            claim.run_id,
            claim.epoch,
            holder.host,
            holder.pid,
            holder.boot_id,
            claim.steady_until,
            claim.wall_until,
        )
        self._execute(schema.DRIVE_RUN, holder.host, holder.pid, claim.epoch, claim.run_id)

    def renew(self, claim: Claim) -> bool:
        """Extend a claim; False if it is another's by now."""
        return (
            self._execute(schema.RENEW_LEASE, claim.steady_until, claim.wall_until, claim.run_id, claim.epoch)
            == 1
        )

    def give_back(self, run_id: str, epoch: int) -> None:
        """End a claim, if it is still there."""
        self._execute(schema.RETURN_LEASE, run_id, epoch)

    # -- requests ------------------------------------------------------------------------------------------

    def version(self) -> int:
        """Return a number that differs as soon as another connection wrote something; a few microseconds."""
        with self._lock:
            row = self._database.row(schema.DATA_VERSION)
        return int(row[0]) if row else 0

    def ask(self, run_id: str, epoch: int, kind: str, body: Mapping[str, Any], *, at: float) -> int:
        """Add a request; in a transaction."""
        text = json.dumps(dict(body))
        self._execute(schema.NEXT_REQUEST)
        row = self._database.row(schema.READ_REQUEST_NUMBER)
        if row is None:
            raise HistoryDamaged(f"{self.path} is damaged: its request counter is missing")
        number = int(row[0])
        self._execute(schema.ADD_REQUEST, number, run_id, epoch, kind, text, at)
        return number

    def waiting(self, run_id: str, epoch: int) -> list[Request]:
        """Requests that a driver has not answered, oldest first."""
        with self._lock:
            rows = self._database.rows(schema.WAITING_REQUESTS, (run_id, epoch))
        try:
            return [
                Request(id=number, run_id=of, kind=kind, body=json.loads(body), at=at)
                for number, of, kind, body, at in rows
            ]
        except (ValueError, TypeError) as error:
            raise HistoryDamaged(
                f"{self.path} is damaged: a request of run {run_id} is unreadable"
            ) from error

    def answer(self, request: int, run_id: str, epoch: int, error: str, *, at: float) -> None:
        """Answer a request, once."""
        self._execute(schema.ANSWER_REQUEST, error, at, request, run_id, epoch)

    def answer_all(self, run_id: str, epoch: int, error: str, *, at: float) -> None:
        """Answer all that was asked of drivers up to an epoch and never answered."""
        self._execute(schema.ANSWER_ALL, error, at, run_id, epoch)

    def answer_of(self, request: int) -> tuple[str, str | None] | None:
        """Return the run that a request is for, and its answer."""
        with self._lock:
            row = self._database.row(schema.READ_ANSWER, (request,))
        return None if row is None else (str(row[0]), row[1])

    # -- parts ---------------------------------------------------------------------------------------------

    def _execute(self, statement: str, *values: Any) -> int:
        with self._lock:
            return self._database.execute(statement, values).rowcount

    def _runs(self, statement: str, *values: Any) -> list[Row]:
        with self._lock:
            rows = self._database.rows(statement, values)
        try:
            return [_row(*row) for row in rows]
        except (TypeError, ValueError) as error:
            raise HistoryDamaged(f"{self.path} is damaged: a row of a run is unreadable ({error})") from error


def _row(
    run_id: str,
    name: str,
    flow_name: str,
    state: str,
    created: float,
    started: float | None,
    ended: float | None,
    host: str,
    pid: int,
    epoch: int,
    lease_epoch: int | None,
    lease_host: str,
    lease_pid: int,
    boot_id: str,
    steady_until: float,
    wall_until: float,
) -> Row:
    header = RunHeader(
        id=run_id,
        name=name,
        flow_name=flow_name,
        state=state,
        created=created,
        started=started,
        ended=ended,
        host=host,
        pid=int(pid),
        epoch=int(epoch),
    )
    if lease_epoch is None:
        return header, None
    return header, Claim(
        run_id=run_id,
        epoch=int(lease_epoch),
        holder=Holder(lease_host, int(lease_pid), boot_id),
        steady_until=float(steady_until),
        wall_until=float(wall_until),
    )


def _create(path: Path) -> None:
    """Create the catalog; of several concurrent processes one wins, and it is never visible incomplete."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        build(temporary, schema.CATALOG, schema.CATALOG_PRAGMAS)
        with suppress(FileExistsError):
            os.link(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise HistoryError(
            f"the catalog {path} cannot be created: {error.strerror}; set GRAPHFLOW_HOME to a writable folder"
        ) from error
    finally:
        for leftover in (temporary, temporary.with_name(f"{temporary.name}-journal")):
            with suppress(OSError):
                leftover.unlink()


def _opened(path: Path) -> Database:
    try:
        return open_database(path, schema.CATALOG, writes=True, pragmas=schema.CATALOG_PRAGMAS)
    except (HistoryDamaged, HistoryTooNew, HistoryTooOld):
        raise
    except HistoryError:
        if not path.is_file():
            raise
        # On a read-only disk it can still be looked at.
        return open_database(path, schema.CATALOG, writes=False, pragmas=schema.READER_PRAGMAS)
