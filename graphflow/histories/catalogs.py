"""The catalog of all runs: small, shared by all processes, and written only when something changes that lists show."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from types import MappingProxyType
from typing import Any

from graphflow.common import ids
from graphflow.common.acting import ACTOR
from graphflow.errors import HistoryDamaged, HistoryError, HistoryLocked, HistoryTooNew, HistoryTooOld
from graphflow.histories import schema, statements
from graphflow.histories.checks import is_final
from graphflow.histories.databases import Database, build, migrate, open_database, version_of
from graphflow.histories.runfiles import sync_folder
from graphflow.histories.turns import turn
from graphflow.model.records import NodeNews, Plan, Request, RunHeader, Work
from graphflow.ports import Claim, Holder, Row

__all__ = ["CATALOG_FILE", "SqliteCatalog"]

CATALOG_FILE = "catalog.db"
TURN_FILE = "catalog.turn"
RUNS_AT_ONCE = 100
PATIENCE_SECONDS = 2.0
"""How long a lock that others hold is waited for: a run goes on without its row in the catalog."""

MOMENT_SECONDS = 0.02
HANDED_OVER = "its driver handed it over"
SOURCE = "graphflow"
"""What events come from."""
MAC_PLACE = 10
"""Where the seal is in a row that was read."""


class SqliteCatalog:
    """One connection to the catalog; may be used by several threads.

    Parameters
    ----------
    folder
        Where it is.
    creates
        Whether it is made where there is none.
    keys
        What its rows are sealed with: the first seals, each is accepted. Without any, rows are believed as they are.
    patience
        How many seconds a lock that others hold is waited for.

    Raises
    ------
    HistoryError, HistoryDamaged, HistoryTooNew, HistoryTooOld
        If it cannot be opened, or read; where others have it locked, only its methods do.
    """

    _turn: Path | None = None
    """The file whose lock is had in turn by those who write."""

    def __init__(
        self,
        folder: Path,
        *,
        creates: bool,
        keys: Sequence[bytes] = (),
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self.path = folder / CATALOG_FILE
        if creates and not self.path.exists():
            _create(self.path)
        self._turn = self.path.with_name(TURN_FILE)
        self._lock = threading.RLock()
        self._patience = self._waits = patience
        self._is_closed = False
        self._keys = tuple(keys)
        self._has_mac = True
        self._is_version_1 = False
        self._opened: Database | None = None
        self._cause: tuple[str, int] | None = None
        with suppress(HistoryLocked), self._patiently():
            self._open()

    def _open(self) -> Database:
        if self._opened is None:
            if self._is_closed:
                raise HistoryError(f"{self.path} is closed")
            opened = _opened(self.path, self._waits)
            try:
                self._has_mac = _with_mac(opened)
                self._is_version_1 = version_of(opened) == 1
            except BaseException:
                opened.close()
                raise
            self._opened = opened
        return self._opened

    @property
    def _database(self) -> Database:
        with self._lock:
            return self._open()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        waits = turn(self._turn, self._waits)
        with self._lock, waits, self._patiently(), self._newest().transaction():
            yield

    def _newest(self) -> Database:
        """Return the connection for writing; a catalog of version 1 is migrated first."""
        database = self._database
        if self._is_version_1 and database.writes:
            migrate(database, schema.CATALOG)
            self._is_version_1 = False
        return database

    @contextmanager
    def _patiently(self) -> Iterator[None]:
        """Wait once for others who have it locked, and then only for a moment until it was free."""
        try:
            yield
        except HistoryLocked:
            self._wait_for(MOMENT_SECONDS)
            raise
        if self._waits != self._patience:
            self._wait_for(self._patience)

    def _wait_for(self, seconds: float) -> None:
        self._waits = seconds
        if self._opened is not None:
            self._opened.wait_for(seconds)

    def be_quick(self) -> None:
        """Wait for locks for 20 ms at most from now on, then raise `HistoryLocked`."""
        with self._lock:
            self._patience = MOMENT_SECONDS
            self._wait_for(MOMENT_SECONDS)

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            if self._opened is not None:
                self._opened.close()

    def strand(self) -> None:
        """Forget the connection, as when this process is killed."""
        self._is_closed = True
        if self._opened is not None:
            self._opened.strand()

    def integrity(self) -> list[str]:
        """Return what SQLite finds wrong."""
        with self._lock:
            return [row[0] for row in self._database.rows(schema.INTEGRITY) if row[0] != "ok"]

    # -- runs ----------------------------------------------------------------------------------------------

    def add(self, header: RunHeader) -> None:
        with self._sealing(header.id, is_new=True):
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
                *_plan_values(header.plan),
                header.message,
                header.plan.request_key,
            )

    def correct(self, header: RunHeader) -> None:
        """Write and seal a row as its run's history tells it, unless another driver has the run."""
        with self._sealing(header.id, is_new=True):
            self._execute(
                schema.CORRECT_RUN,
                header.name,
                header.flow_name,
                header.state,
                header.created,
                header.started,
                header.ended,
                header.host,
                header.pid,
                header.id,
                header.epoch,
            )

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Run a transaction, or a part of the one that is open."""
        with self._lock, nullcontext() if self._database.connection.in_transaction else self.transaction():
            yield

    @contextmanager
    def part(self) -> Iterator[None]:
        """Undo what is done inside if it raises, and nothing else of the transaction that is open."""
        with self._lock:
            self._execute(statements.SAVEPOINT)
            try:
                yield
            except BaseException:
                self._execute(statements.UNDO_PART)
                raise
            finally:
                self._execute(statements.END_PART)

    @contextmanager
    def caused_by(self, by: str, depth: int) -> Iterator[None]:
        """Note in each event that is written inside who did it, and how many rules led there; in a transaction."""
        with self._lock:
            before, self._cause = self._cause, (by, depth)
            try:
                yield
            finally:
                self._cause = before

    @contextmanager
    def _sealing(self, run_id: str, *, is_new: bool = False) -> Iterator[None]:
        """Seal a row after it was changed, in the same transaction; one that was not as written before stays unsealed."""
        with self.whole():
            if not self._keys:
                yield
                return
            before = None if is_new else self.run(run_id)
            yield
            if is_new or (before is not None and before[0].is_verified):
                after = self.run(run_id)
                if after is not None:
                    self._execute(schema.SEAL_RUN, _row_mac(self._keys[0], after[0]), run_id)

    def run(self, run_id: str) -> Row | None:
        rows = self._runs(schema.RUN_BY_ID, run_id)
        return rows[0] if rows else None

    def named(self, text: str) -> list[Row]:
        rows = (
            self._runs(schema.RUN_BY_ID, text)
            or self._runs(schema.RUN_BY_UPPER_ID, text.upper())
            or self._runs(schema.RUNS_BY_PREFIX, len(text), text.upper())
        )
        return rows if len(rows) == 1 else self._runs(schema.RUNS_BY_NAME, text) or rows

    def runs(
        self,
        *,
        flow_name: str = "",
        since: float | None = None,
        before: RunHeader | None = None,
        hidden: Collection[str] = (),
        deployment: str = "",
        tag: str = "",
    ) -> Iterator[Row]:
        oldest = float("-inf") if since is None else since
        while True:
            created, run_id = (before.created, before.id) if before is not None else (float("inf"), "")
            rows = self._runs(
                schema.RUNS,
                *(flow_name, flow_name, oldest, created, run_id, json.dumps(sorted(hidden))),
                *(deployment, deployment, tag, tag, RUNS_AT_ONCE),
            )
            yield from rows
            if len(rows) < RUNS_AT_ONCE:
                return
            before = rows[-1][0]

    def set_state(
        self,
        run_id: str,
        epoch: int,
        state: str,
        *,
        started: float | None,
        ended: float | None,
        at: float = 0.0,
        commit: int = 0,
    ) -> None:
        with self._sealing(run_id):
            if self._execute(schema.SET_STATE, state, started, ended, run_id, epoch):
                self._tell(run_id, state, at=at, key=str(commit) if commit else f"{epoch}.{state}")

    def note_state(self, header: RunHeader, before: str, *, commit: int = 0) -> None:
        with self._sealing(header.id):
            changed = self._execute(
                schema.NOTE_STATE, header.state, header.ended, header.id, header.epoch, before
            )
            if changed:
                key = str(commit) if commit else f"{header.epoch}.{header.state}"
                self._tell(header.id, header.state, at=header.ended or 0.0, key=key)

    def mend_state(self, run_id: str, epoch: int, state: str, *, ended: float | None) -> None:
        with self._sealing(run_id):
            self._execute(schema.MEND_STATE, state, ended, run_id, epoch, state)

    def tell_nodes(
        self, run_id: str, epoch: int, news: Sequence[NodeNews], *, at: float, left_out: int = 0
    ) -> None:
        row = self.run(run_id) if news or left_out else None
        if row is None or row[0].epoch != epoch:
            return
        header = row[0]
        told: dict[str, Any] = {
            "subject": run_id,
            "related": self._related(header),
            "depth": header.plan.depth,
        }
        for each in news:
            data = {"node": each.name, "task": each.task_name, "state": each.state, "width": each.width}
            self.emit(
                id=f"{run_id}:{epoch}.{each.key}",
                at=each.at,
                type=f"graphflow.node.{each.state.lower()}",
                data={**data, "counts": dict(each.counts)},
                **told,
            )
        if left_out:
            omitted = f"{run_id}:{epoch}.omitted"
            self.emit(id=omitted, at=at, type="graphflow.node.omitted", data={"events": left_out}, **told)

    def set_summary(self, run_id: str, epoch: int, text: str) -> None:
        mac = _summary_mac(self._keys[0], run_id, text) if self._keys else None
        with self._lock:
            is_inside = self._database.connection.in_transaction
            with nullcontext() if is_inside else self.transaction():
                self._execute(schema.CLEAR_SUMMARY, run_id, run_id, epoch)
                self._execute(schema.ADD_SUMMARY, text, mac, run_id, epoch)

    def summary(self, run_id: str) -> str:
        if self._is_version_1:
            return ""
        with self._lock, self._patiently():
            row = self._database.row(schema.READ_SUMMARY, (run_id,))
        if row is None or not isinstance(row[0], str):
            return ""
        is_sealed = any(_summary_mac(key, run_id, row[0]) == row[1] for key in self._keys)
        return row[0] if is_sealed or not self._keys else ""

    def forget(self, run_id: str) -> None:
        for statement in schema.DELETE_RUN:
            self._execute(statement, run_id)

    # -- leases --------------------------------------------------------------------------------------------

    def grant(self, claim: Claim) -> None:
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
        self._execute(statements.END_GRANTS, claim.run_id, claim.epoch - 1)
        with self._sealing(claim.run_id):
            self._execute(schema.DRIVE_RUN, holder.host, holder.pid, claim.epoch, claim.run_id)

    def renew(self, claim: Claim) -> bool:
        values = claim.steady_until, claim.wall_until, claim.run_id, claim.epoch
        # What it has of limits ends with its lease.
        self._execute(statements.RENEW_GRANTS, *values)
        return self._execute(schema.RENEW_LEASE, *values) == 1

    def give_back(self, run_id: str, epoch: int, *, at: float = 0.0) -> None:
        with self.whole():
            self._execute(schema.RETURN_LEASE, run_id, epoch)
            self._execute(statements.END_GRANTS, run_id, epoch)
            self._execute(statements.GIVE_BACK_WORK, at, HANDED_OVER, run_id, epoch)

    # -- work ----------------------------------------------------------------------------------------------

    def drive(self, claim: Claim, work: int | None) -> bool:
        until = claim.steady_until, claim.wall_until, claim.holder.boot_id, claim.run_id
        with self._sealing(claim.run_id):
            self._execute(schema.SET_MESSAGE, "", claim.run_id)
            if work is not None:
                return self._execute(statements.DRIVE_CLAIMED, *until, work) == 1
            is_ours = self._execute(statements.DRIVE_WAITING, *until) == 1
            return is_ours or not self.rows(statements.WORK, (claim.run_id,))

    def begin(self, header: RunHeader) -> None:
        with self._sealing(header.id):
            self._execute(schema.RENAME_RUN, header.name, header.state, header.id)

    def lose(self, header: RunHeader, *, at: float, crashes: int, most: int, why: str) -> bool:
        work = header.work
        if work is None:
            return False
        with self._sealing(header.id):
            if not self._execute(statements.REQUEUE, at, crashes, why, header.id, work.epoch):
                return False
            self._execute(schema.DELETE_LEASE, header.id)
            self._execute(statements.END_GRANTS, header.id, header.epoch)
            is_over = crashes > 0 and work.crashes + crashes >= most
            state = "Crashed" if is_over else "Scheduled" if header.epoch == 0 else "Resuming"
            message = f"it lost {work.crashes + crashes} drivers: {why}" if is_over else ""
            self._execute(statements.SET_RUN_STATE, state, at if is_over else None, message, header.id)
            told = "lost" if crashes else "yielded"
            self.emit(
                id=f"{header.id}:{told}.{work.epoch}",
                at=at,
                type=f"graphflow.run.{told}",
                subject=header.id,
                related=self._related(header),
                data={"why": why, "crashes": work.crashes + crashes, "epoch": work.epoch},
            )
            if is_over:
                self._tell(header.id, state, at=at, key=f"{work.epoch}.{state}", message=message)
        return True

    def emit(
        self,
        *,
        id: str,
        at: float,
        type: str,
        subject: str,
        related: Mapping[str, Any],
        data: Mapping[str, Any],
        depth: int = 0,
    ) -> bool:
        """Write an event; False if there is one of this id."""
        if type.startswith("graphflow.audit."):
            data = {**data, **ACTOR.get()}
        with self._lock:
            # The cause is that of the thread that holds the lock.
            if self._cause is not None:
                by, least = self._cause
                related, depth = {**related, "by": by}, max(depth, least)
            texts = json.dumps(dict(related)), depth, json.dumps(dict(data))
            return self._execute(statements.ADD_EVENT, id, at, type, SOURCE, subject, *texts) == 1

    def audit(
        self,
        verb: str,
        subject: str,
        *,
        at: float,
        related: Mapping[str, Any] = MappingProxyType({}),
        data: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Write the event of a change that somebody asked for."""
        self.emit(
            id=ids.run_id(),
            at=at,
            type=f"graphflow.audit.{verb}",
            subject=subject,
            related=related,
            data=data,
        )

    def _tell(self, run_id: str, state: str, *, at: float, key: str, message: str = "") -> None:
        """Write the event of a run's new state, in the transaction that sets it; an end is also that of its work."""
        row = self.run(run_id)
        if row is None:
            return
        header = row[0]
        self.emit(
            id=f"{run_id}:{key}",
            at=at or header.ended or header.started or header.created,
            type=f"graphflow.run.{state.lower()}",
            subject=run_id,
            related=self._related(header),
            data={"state": state, "name": header.name, **({"message": message} if message else {})},
            depth=header.plan.depth,
        )
        if is_final(state):
            self._execute(statements.END_WORK, run_id)

    @staticmethod
    def _related(header: RunHeader) -> dict[str, Any]:
        plan = header.plan
        told = {
            "flow": header.flow_name,
            "deployment": plan.deployment,
            "origin": plan.origin,
            "tags": list(plan.tags),
        }
        return {name: value for name, value in told.items() if value}

    # -- statements of others ------------------------------------------------------------------------------

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return what a statement finds; also one that writes and returns rows."""
        with self._lock, self._patiently():
            return self._newest().rows(statement, values)

    def execute(self, statement: str, values: Sequence[Any] = ()) -> int:
        """Run a statement; return how many rows it changed."""
        return self._execute(statement, *values)

    def set_run(
        self, run_id: str, state: str, *, at: float, ended: float | None, message: str, key: str
    ) -> None:
        """Set the state of a run that has no driver, with its event."""
        with self._sealing(run_id):
            self._execute(statements.SET_RUN_STATE, state, ended, message, run_id)
            self._tell(run_id, state, at=at, key=key, message=message)

    def deepen(self, run_id: str, depth: int) -> None:
        """Count rules that act on a run among those that it comes from: what follows ends at the same depth."""
        with self._sealing(run_id):
            self._execute(statements.DEEPEN_RUN, depth, run_id, depth)

    # -- requests ------------------------------------------------------------------------------------------

    def version(self) -> int:
        with self._lock:
            row = self._database.row(schema.DATA_VERSION)
        return int(row[0]) if row else 0

    def ask(self, run_id: str, epoch: int, kind: str, body: Mapping[str, Any], *, at: float) -> int:
        text = json.dumps(dict(body))
        self._execute(schema.NEXT_REQUEST)
        row = self._database.row(schema.READ_REQUEST_NUMBER)
        if row is None:
            raise HistoryDamaged(f"{self.path} is damaged: its request counter is missing")
        number = int(row[0])
        self._execute(schema.ADD_REQUEST, number, run_id, epoch, kind, text, at)
        return number

    def waiting(self, run_id: str, epoch: int) -> list[Request]:
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
        self._execute(schema.ANSWER_REQUEST, error, at, request, run_id, epoch)

    def answer_all(self, run_id: str, epoch: int, error: str, *, at: float) -> None:
        self._execute(schema.ANSWER_ALL, error, at, run_id, epoch)

    def answer_of(self, request: int) -> tuple[str, str | None] | None:
        with self._lock:
            row = self._database.row(schema.READ_ANSWER, (request,))
        return None if row is None else (str(row[0]), row[1])

    # -- parts ---------------------------------------------------------------------------------------------

    def _execute(self, statement: str, *values: Any) -> int:
        with self._lock, self._patiently():
            return self._newest().execute(statement, values).rowcount

    def _runs(self, statement: str, *values: Any) -> list[Row]:
        with self._lock, self._patiently():
            database = self._database
            if self._is_version_1 and version_of(database) == 1:
                for newer, older in schema.IN_VERSION_1:
                    statement = statement.replace(newer, older)
            if not self._has_mac:
                statement = statement.replace(*schema.NO_MAC)
            rows = database.rows(statement, values)
        try:
            return [self._verified(_row(*row), row[MAC_PLACE]) for row in rows]
        except (TypeError, ValueError) as error:
            raise HistoryDamaged(f"{self.path} is damaged: a row of a run is unreadable ({error})") from error

    def _verified(self, row: Row, mac: Any) -> Row:
        if not self._keys or any(_row_mac(key, row[0]) == mac for key in self._keys):
            return row
        return replace(row[0], is_verified=False), row[1]


def _row_mac(key: bytes, header: RunHeader) -> bytes:
    """Return what seals the row of a run."""
    columns = [header.id, header.name, header.flow_name, header.state, header.host, header.pid, header.epoch]
    times = [
        None if each is None else float(each).hex() for each in (header.created, header.started, header.ended)
    ]
    sealed: list[Any] = [columns, times]
    if header.plan != Plan() or header.message:
        # Runs that nothing was planned for have the seal that they had before there were plans.
        plan = header.plan
        nominal = None if plan.nominal is None else float(plan.nominal).hex()
        sealed.append(
            [plan.deployment_id, plan.deployment, plan.revision, nominal, plan.origin, plan.parameters]
        )
        sealed.append([plan.source, list(plan.tags), plan.depth, plan.request_key, header.message])
    return blake2b(json.dumps(sealed).encode(), digest_size=16, key=key, person=b"gf-catalog-row").digest()


def _with_mac(database: Database) -> bool:
    """Return whether rows have a seal; a catalog of before gets the column, where it can be written."""
    if database.row(schema.HAS_MAC) != (0,):
        return True
    if not database.writes:
        return False
    with database.transaction():
        if database.row(schema.HAS_MAC) == (0,):
            database.execute(schema.ADD_MAC)
    return True


def _summary_mac(key: bytes, run_id: str, text: str) -> bytes:
    """Return what seals the summary of a run."""
    return blake2b(
        json.dumps([run_id, text]).encode(), digest_size=16, key=key, person=b"gf-summary"
    ).digest()


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
    mac: bytes | None,
    lease_epoch: int | None,
    lease_host: str,
    lease_pid: int,
    boot_id: str,
    steady_until: float,
    wall_until: float,
    *planned: Any,
) -> Row:
    *plan, message, request_key, work_state, why, pool, due, crashes, work_epoch, worker_id = planned
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
        plan=_plan(*plan, request_key=request_key),
        message=message,
        work=None
        if work_state is None
        else Work(
            state=work_state,
            why=why,
            pool=pool,
            due=float(due),
            crashes=int(crashes),
            epoch=int(work_epoch),
            worker_id=worker_id,
        ),
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


def _plan_values(plan: Plan) -> tuple[Any, ...]:
    return (
        plan.deployment_id,
        plan.deployment,
        plan.revision,
        plan.nominal,
        plan.origin,
        plan.parameters,
        json.dumps(list(plan.tags)) if plan.tags else "",
        plan.source,
        plan.depth,
    )


def _plan(
    deployment_id: str,
    deployment: str,
    revision: int,
    nominal: float | None,
    origin: str,
    parameters: str,
    tags: str,
    source: str,
    depth: int,
    *,
    request_key: str | None,
) -> Plan:
    return Plan(
        deployment_id=deployment_id,
        deployment=deployment,
        revision=int(revision),
        nominal=nominal,
        origin=origin,
        parameters=parameters,
        tags=tuple(json.loads(tags)) if tags else (),
        source=source,
        depth=int(depth),
        request_key=request_key,
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


def _opened(path: Path, patience: float) -> Database:
    try:
        return open_database(
            path, schema.CATALOG, writes=True, pragmas=schema.CATALOG_PRAGMAS, patience=patience
        )
    except (HistoryDamaged, HistoryLocked, HistoryTooNew, HistoryTooOld):
        raise
    except HistoryError:
        if not path.is_file():
            raise
        # On a read-only disk it can still be looked at.
        return open_database(path, schema.CATALOG, writes=False, pragmas=schema.READER_PRAGMAS)
