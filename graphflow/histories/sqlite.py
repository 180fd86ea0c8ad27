"""Histories on disk: a file for each run, and a catalog of all.

<home>/catalog.db
<home>/runs/<run id>/run.db, anchor, driver.lock, results/
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from graphflow.common import settings
from graphflow.common.failpoints import failpoint
from graphflow.errors import (
    HistoryDamaged,
    HistoryError,
    HistoryLocked,
    HistoryTooNew,
    HistoryTooOld,
    LeaseLost,
    RunNotFound,
)
from graphflow.histories.catalogs import CATALOG_FILE, PATIENCE_SECONDS, SqliteCatalog
from graphflow.histories.catalogued import CatalogHistory
from graphflow.histories.checks import GONE, check_id, is_final, is_id, state_code
from graphflow.histories.journals import RunJournal
from graphflow.histories.leases import DriverLock, is_locked, noted_claim
from graphflow.histories.limiting import CatalogLimiter, waits_for
from graphflow.histories.marks import UNLISTED, is_marked, mark_listed, mark_unlisted
from graphflow.histories.readers import RunReader
from graphflow.histories.runfiles import RUN_FILE, RunWriter, build_run, sync_folder, wait_for_turn
from graphflow.histories.seals import Seal
from graphflow.histories.waiting import ask_waiting
from graphflow.model.records import Entry, RunHeader
from graphflow.ports import Catalog, Claim, Clock, Holder, Row

__all__ = ["SqliteHistory"]

_logger = logging.getLogger(__name__)
WORK_PATIENCE_SECONDS = 30.0
"""How long a driver that begins for a worker waits for the catalog, which has the claim that it begins by."""


class SqliteHistory(CatalogHistory):
    """The histories of a folder; may be used by several threads, and by many processes at once.

    Parameters
    ----------
    folder
        Where they are; `settings.home()` by default. Made at the first run.
    key
        What they are signed with; `settings.secret_keys(folder)` by default, of which the first signs new runs.
    clock
        What leases go by.
    lease_seconds
        How long a driver that is not heard of keeps its run; `settings.lease_seconds()` by default.
    holder
        Who takes leases; this process by default.
    """

    def __init__(
        self,
        folder: Path | str | None = None,
        *,
        key: bytes | None = None,
        clock: Clock | None = None,
        lease_seconds: float | None = None,
        holder: Holder | None = None,
    ) -> None:
        self.folder = (settings.home() if folder is None else Path(folder).expanduser()).absolute()
        super().__init__(
            clock=clock,
            lease_seconds=settings.lease_seconds() if lease_seconds is None else lease_seconds,
            holder=holder,
        )
        self._keys: tuple[bytes, ...] = () if key is None else (key,)
        self._guard = threading.Lock()
        self._catalog: SqliteCatalog | None = None
        self._pid = os.getpid()

    # -- drivers -------------------------------------------------------------------------------------------

    def create(self, header: RunHeader, *, work: int | None = None) -> RunJournal:
        run_id = check_id(header.id)
        state_code(header.state)
        created = float(header.created or self._clock.wall())
        self._make_folders()
        catalog = self._connected(creates=True, is_patient=work is not None)
        folder = self.run_folder(run_id)
        newborn = folder.with_name(f".new-{run_id}-{os.urandom(4).hex()}")
        lock = None
        try:
            failpoint("history.create.before")
            os.mkdir(newborn, 0o700)
            build_run(
                newborn,
                self._seal(run_id),
                run_id=run_id,
                name=header.name,
                flow_name=header.flow_name,
                created=created,
            )
            lock = DriverLock(newborn)
            lock.publish()
            failpoint("history.create.built")
            listed = replace(header, created=created, started=None, ended=None, lease=None)
            unlisted: RunHeader | None = None
            try:
                with catalog.transaction():
                    self._check_new(catalog.run(run_id), run_id, work)
                    self._move_in(newborn, folder)
                    failpoint("history.create.moved")
                    claim = self._claim(run_id, 1)
                    if work is None:
                        catalog.add(listed)
                    elif catalog.drive(claim, work):
                        catalog.begin(listed)
                    else:
                        raise self._not_ours(run_id, work)
                    catalog.grant(claim)
            except HistoryLocked as error:
                if work is not None:
                    raise
                # The run's own file is what counts; its row follows.
                self._warn_of_lock(run_id, error)
                unlisted = replace(listed, host=header.host, pid=header.pid, epoch=1)
                mark_unlisted(self.folder, run_id)
                if newborn.exists():
                    self._move_in(newborn, folder)
            failpoint("history.create.listed")
            sync_folder(folder.parent)
            return self._journal(catalog, lock, run_id=run_id, epoch=1, seen=0, unlisted=unlisted)
        except BaseException as error:
            catalog.close()
            if lock is not None:
                lock.release()
            shutil.rmtree(newborn, ignore_errors=True)
            if isinstance(error, OSError):
                raise HistoryError(
                    f"the folder {folder} of run {run_id} cannot be created: {error.strerror}; set GRAPHFLOW_HOME to a"
                    " writable folder"
                ) from error
            raise

    def _connected(self, *, creates: bool, is_patient: bool) -> SqliteCatalog:
        """Return a connection for a driver; what it does for a worker is written in the catalog, however long that takes."""
        patience = WORK_PATIENCE_SECONDS if is_patient else PATIENCE_SECONDS
        return SqliteCatalog(self.folder, creates=creates, keys=self._all_keys(), patience=patience)

    def _check_new(self, row: Row | None, run_id: str, work: int | None) -> None:
        """Raise if a run cannot begin: it is there already, or not there to be begun for a worker."""
        if work is not None and (row is None or row[0].work is None):
            raise self._not_ours(run_id, work)
        if row is not None and (work is None or row[0].epoch > 0):
            raise HistoryError(
                f"run {run_id} already exists, in {self.run_folder(run_id)}; resume it, or use another id"
            )

    def _not_ours(self, run_id: str, work: int) -> LeaseLost:
        return LeaseLost(
            f"run {run_id} is not this worker's any more (its claim {work}): it was cancelled, or given to another worker"
        )

    def take(self, run_id: str, *, work: int | None = None) -> RunJournal:
        found, claim = self._known(run_id)
        self._check_free(claim, "cannot be taken")
        with self._reader(run_id) as reader:
            # Nothing is opened for writing before all of it was found in order.
            for _ in reader.entries():
                pass
            epoch_there, seen = reader.row.epoch, reader.row.seq
        failpoint("history.take.before")
        catalog = self._connected(creates=False, is_patient=work is not None)
        try:
            lock = DriverLock(self.run_folder(run_id))
            try:
                # Before anything is granted: a driver that cannot be shut out keeps its lease.
                wait_for_turn(self.run_folder(run_id))
                unlisted: RunHeader | None = None
                try:
                    with catalog.transaction():
                        header, claim = self._row(catalog, run_id)
                        self._check_free(claim, "cannot be taken")
                        epoch = max(header.epoch, epoch_there, 0 if claim is None else claim.epoch) + 1
                        mine = self._claim(run_id, epoch)
                        if not catalog.drive(mine, work):
                            if work is not None:
                                raise self._not_ours(run_id, work)
                            raise HistoryError(
                                f"run {run_id} cannot be taken: a worker has it, and is about to drive it; wait for it, or cancel it"
                            )
                        catalog.grant(mine)
                        catalog.answer_all(run_id, epoch - 1, GONE, at=self._clock.wall())
                        lock.publish()
                except HistoryLocked as error:
                    if work is not None:
                        raise
                    # What shuts out others is the run's own file, and the lock shows them who drives it.
                    self._warn_of_lock(run_id, error)
                    claim = self._newer(run_id, claim)
                    self._check_free(claim, "cannot be taken")
                    epoch = max(found.epoch, epoch_there, 0 if claim is None else claim.epoch) + 1
                    unlisted = replace(found, epoch=epoch, lease=None)
                    mark_unlisted(self.folder, run_id)
                    lock.publish()
                failpoint("history.take.granted")
            except BaseException:
                lock.discard()
                raise
            try:
                return self._journal(catalog, lock, run_id=run_id, epoch=epoch, seen=seen, unlisted=unlisted)
            except BaseException:
                lock.release()
                with suppress(HistoryError):
                    catalog.give_back(run_id, epoch)
                raise
        except BaseException:
            catalog.close()
            raise

    def _warn_of_lock(self, run_id: str, error: HistoryLocked) -> None:
        _logger.warning(
            "run %s goes on without the catalog, which follows when it is free: %s", run_id, error
        )

    def _journal(
        self,
        catalog: SqliteCatalog,
        lock: DriverLock,
        *,
        run_id: str,
        epoch: int,
        seen: int,
        unlisted: RunHeader | None = None,
    ) -> RunJournal:
        folder = self.run_folder(run_id)
        writer = RunWriter(folder, self._seal(run_id), run_id=run_id, epoch=epoch)
        try:
            row = writer.begin()
            failpoint("history.take.fenced")
            if row.seq != seen:
                # The driver before was not dead, and wrote until it was shut out.
                with self._reader(run_id) as reader:
                    for _ in reader.entries(after=min(seen, row.seq)):
                        pass
            # A driver that looks for requests must not be held up by whoever has the catalog locked.
            polls = SqliteCatalog(self.folder, creates=False, keys=self._all_keys())
            polls.be_quick()
        except BaseException:
            writer.close(checkpoint=False)
            raise
        return RunJournal(
            writer,
            catalog,
            polls,
            lock,
            run_id=run_id,
            epoch=epoch,
            claim=self._claim,
            clock=self._clock,
            unlisted=unlisted,
            listed=partial(mark_listed, self.folder, run_id),
            limiter=CatalogLimiter(
                catalog,
                polls,
                clock=self._clock,
                holder=run_id,
                epoch=epoch,
                term_seconds=self.lease_seconds,
            ),
        )

    def _move_in(self, newborn: Path, folder: Path) -> None:
        """Give a new run's folder its name, unless something else has that name."""
        if folder.exists():
            run_id = folder.name
            unborn = folder.with_name(f".unborn-{run_id}-{os.urandom(4).hex()}")
            with self._reader(run_id) as reader:
                seq = reader.row.seq
            if seq > 0 or is_locked(folder):
                raise HistoryError(
                    f"{folder} contains the history of a run that is not in {self.folder / CATALOG_FILE}; see `graphflow"
                    " fsck`. Use another id, or move that folder away"
                )
            # Its maker died before it was written down, and before anything happened in it.
            os.rename(folder, unborn)
            shutil.rmtree(unborn, ignore_errors=True)
        os.rename(newborn, folder)

    def connect(self, *, patience: float) -> SqliteCatalog:
        """Return a connection of one's own to the catalog, which is created where there is none."""
        self._make_folders()
        return SqliteCatalog(self.folder, creates=True, keys=self._all_keys(), patience=patience)

    def claim_of(self, run_id: str, epoch: int) -> Claim:
        """Return a claim of this process, from now on."""
        return self._claim(run_id, epoch)

    # -- readers -------------------------------------------------------------------------------------------

    def read(
        self, run_id: str, *, after: int = 0, kinds: Collection[int] = (), node: int | None = None
    ) -> Iterator[Entry]:
        if self._has_not_begun(run_id):
            return
        with self._reader(run_id) as reader:
            yield from reader.entries(after=after, kinds=kinds, node=node)

    def records(self, run_id: str, numbers: Iterable[int]) -> Iterator[Entry]:
        if self._has_not_begun(run_id):
            return
        with self._reader(run_id) as reader:
            yield from reader.records(numbers)

    def digests(self, run_id: str) -> Iterator[int]:
        if self._has_not_begun(run_id):
            return
        with self._reader(run_id) as reader:
            yield from reader.digests()

    def head(self, run_id: str) -> int:
        if self._has_not_begun(run_id):
            return 0
        with self._reader(run_id) as reader:
            return reader.row.seq

    def results_folder(self, run_id: str) -> str:
        return str(self.run_folder(check_id(run_id)) / "results")

    def run_folder(self, run_id: str) -> Path:
        """Return where all of a run is."""
        return self.folder / "runs" / run_id

    def _has_not_begun(self, run_id: str) -> bool:
        """Return whether a run was made, and no driver has had it."""
        if (self.run_folder(check_id(run_id)) / RUN_FILE).exists():
            return False
        catalog = self._readable()
        row = None if catalog is None else catalog.run(run_id)
        return row is not None and row[0].epoch == 0 and bool(row[0].plan.origin)

    def waits_for(self, run_id: str) -> str:
        catalog = self._readable()
        return "" if catalog is None else waits_for(catalog, self._clock, run_id)

    # -- care ----------------------------------------------------------------------------------------------

    def verify(self, run_id: str) -> list[str]:
        from graphflow.histories.fsck import check_run

        folder = self.run_folder(check_id(run_id))
        wrong: list[str] = []
        row: Row | None = None
        try:
            catalog = self._readable()
            if catalog is not None:
                wrong += catalog.integrity()
                row = catalog.run(run_id)
        except HistoryError as error:
            wrong.append(str(error))
        if row is None and not folder.exists():
            raise self._missing(run_id)
        if row is not None and self._has_not_begun(run_id):
            return wrong
        header = None if row is None else row[0]
        if row is not None and row[0].is_verified:
            header = self._seen(*row)
        return wrong + check_run(folder, self._seal(run_id), run_id=run_id, header=header)

    def remove(self, run_id: str) -> None:
        self._known(run_id)
        catalog, folder = self._open(), self.run_folder(run_id)
        trash = folder.with_name(f".removed-{run_id}-{os.urandom(4).hex()}")
        try:
            with catalog.transaction():
                _, claim = self._row(catalog, run_id)
                self._check_free(claim, "cannot be removed")
                if claim is not None:
                    self._shut_out(run_id, claim.epoch + 1)
                catalog.forget(run_id)
                with suppress(FileNotFoundError):
                    os.rename(folder, trash)
        except OSError as error:
            raise HistoryError(f"the folder {folder} cannot be removed: {error.strerror}") from error
        except HistoryError:
            if trash.exists():
                os.rename(trash, folder)
            raise
        shutil.rmtree(trash, ignore_errors=True)

    def close(self) -> None:
        """Close what is open for reading; journals stay. It opens again by itself."""
        with self._guard:
            catalog, self._catalog = self._catalog, None
            if catalog is not None and self._pid == os.getpid():
                catalog.close()

    def unlisted(self) -> list[str]:
        """Return the ids of runs whose folders are there and that the catalog has lost."""
        from graphflow.histories.adopting import unlisted

        return unlisted(self.folder, self._readable())

    def adopt(self) -> tuple[list[str], list[str]]:
        """Restore runs that the catalog has lost; return their ids, and the problems of those that cannot be read.

        A missing catalog is created; a damaged one has to be moved away first.
        """
        from graphflow.histories.adopting import adopt

        return adopt(self.folder, self._seal, self._all_keys())

    def repair_key(self) -> list[str]:
        """Restore a damaged key from its copy; see `graphflow.common.signing.repair_key`."""
        from graphflow.common.signing import repair_key
        from graphflow.histories.adopting import signers

        known = signers(self.folder)
        told = repair_key(self.folder, lambda key: Seal(key, "").key_id in known)
        if told:
            self._keys = ()
        return told

    def repair_catalog(self) -> list[str]:
        """Put a damaged catalog aside, and list all runs again from their own records; return what was done.

        Raises
        ------
        HistoryError
            If a run has a driver, which would lose its lease, or the folder cannot be written.
        """
        from graphflow.histories.adopting import put_aside

        path = self.folder / CATALOG_FILE
        if not path.exists():
            return []
        try:
            wrong = self._open().integrity()
        except (HistoryTooNew, HistoryTooOld):
            raise
        except HistoryDamaged as error:
            wrong = [str(error)]
        if not wrong:
            return []
        held = [each.name for each in sorted((self.folder / "runs").glob("[!.]*")) if is_locked(each)]
        if held:
            raise HistoryError(
                f"{path} is damaged, and cannot be repaired while runs have a driver: {', '.join(held[:5])}. Wait for them, or"
                " stop them, and repeat this"
            )
        self.close()
        moved = put_aside(self.folder, time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()))
        return [
            f"{path} was damaged ({wrong[0]}); it is {moved[-1]} now, and all runs are listed again",
            *self._relisted(),
        ]

    def _relisted(self) -> list[str]:
        _, wrong = self.adopt()
        return wrong

    def repair(self, run_id: str) -> list[str]:
        """Repair what is damaged of a run that has no driver; see `graphflow.histories.repairing`.

        Raises
        ------
        LeaseHeld
            If it has a driver.
        HistoryError
            If nothing of it can be verified.
        """
        from graphflow.histories.adopting import header_of
        from graphflow.histories.fsck import check_run
        from graphflow.histories.repairing import repair_run

        folder, seal = self.run_folder(check_id(run_id)), self._seal(run_id)
        if self._has_not_begun(run_id):
            return []
        catalog = SqliteCatalog(self.folder, creates=True, keys=self._all_keys())
        try:
            # Nobody takes the run meanwhile: that, too, is a transaction of the catalog.
            with catalog.transaction():
                row = catalog.run(run_id)
                if row is None and not folder.exists():
                    raise self._missing(run_id)
                header, claim = (None, None) if row is None else row
                self._check_free(claim, "cannot be repaired")
                if is_locked(folder):
                    raise HistoryError(
                        f"run {run_id} cannot be repaired: a process has it open, as its driver"
                    )
                if not folder.exists():
                    raise HistoryDamaged(
                        f"{folder} is gone, and with it the history of run {run_id}; remove the run"
                    )
                epoch = 0 if header is None else header.epoch
                told = repair_run(folder, seal, run_id=run_id, header=header, epoch=epoch)
                if header is None or check_run(folder, seal, run_id=run_id, header=header):
                    found = header_of(folder, seal)
                    catalog.forget(run_id)
                    catalog.add(replace(found, epoch=max(found.epoch, epoch)))
                    told.append(f"run {run_id} is listed again as its history tells it: {found.state}")
            return told
        except OSError as error:
            raise HistoryError(
                f"run {run_id} cannot be repaired: {error.strerror}: {error.filename}"
            ) from error
        finally:
            catalog.close()

    def _shut_out(self, run_id: str, epoch: int) -> None:
        """Refuse further writes of a driver that lost its lease, in case it wakes up."""
        with suppress(HistoryError):
            writer = RunWriter(self.run_folder(run_id), self._seal(run_id), run_id=run_id, epoch=epoch)
            try:
                writer.begin()
            finally:
                writer.close(checkpoint=False)

    # -- parts ---------------------------------------------------------------------------------------------

    def _all_keys(self) -> tuple[bytes, ...]:
        if not self._keys:
            self._keys = settings.secret_keys(self.folder)
        return self._keys

    def _seal(self, run_id: str) -> Seal:
        first, *older = self._all_keys()
        return Seal(first, run_id, older)

    def _make_folders(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            (self.folder / "runs").mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            raise HistoryError(
                f"the folder {self.folder} for histories cannot be created: {error.strerror}; set GRAPHFLOW_HOME to a"
                " writable folder"
            ) from error

    def _open(self) -> SqliteCatalog:
        """Return the catalog; a child process has its own connection."""
        with self._guard:
            if self._catalog is None or self._pid != os.getpid():
                self._catalog, self._pid = (
                    SqliteCatalog(self.folder, creates=False, keys=self._all_keys()),
                    os.getpid(),
                )
            return self._catalog

    def _readable(self) -> SqliteCatalog | None:
        """Return the catalog, where there is one."""
        if self._catalog is None:
            try:
                os.stat(self.folder / CATALOG_FILE)
            except FileNotFoundError:
                return None
            except OSError as error:
                raise HistoryError(
                    f"the folder {self.folder} for histories cannot be read: {error.strerror}; set GRAPHFLOW_HOME to a folder"
                    " of yours"
                ) from error
        return self._open()

    def _reader(self, run_id: str) -> RunReader:
        folder = self.run_folder(check_id(run_id))
        if not (folder / RUN_FILE).exists():
            self._known(run_id)
            raise HistoryDamaged(f"{folder / RUN_FILE} is gone, and with it the history of run {run_id}")
        return RunReader(folder, self._seal(run_id), run_id=run_id)

    @property
    def _where(self) -> str:
        return f"in {self.folder}"

    def _is_locked(self, run_id: str) -> bool:
        return is_locked(self.run_folder(run_id))

    def _newer(self, run_id: str, claim: Claim | None) -> Claim | None:
        """Return the claim that the driver of a run shows beside its lock, if that is newer than the catalog's."""
        noted = noted_claim(self.run_folder(run_id))
        if noted is None or (claim is not None and noted.epoch < claim.epoch):
            return claim
        return noted

    def _row(self, catalog: Catalog, run_id: str) -> Row:
        header, claim = super()._row(catalog, run_id)
        return header, self._newer(run_id, claim)

    def _seen(self, header: RunHeader, claim: Claim | None) -> RunHeader:
        if claim is not None or not is_final(header.state):
            claim = self._newer(header.id, claim)
        if not header.is_verified:
            header = self._verified(header, is_live=claim is not None and self._is_alive(claim))
            if not header.is_verified:
                return header
        return super()._seen(header, claim)

    def _verified(self, header: RunHeader, *, is_live: bool) -> RunHeader:
        """Return a run whose row is not sealed from its own history, and seal that; without one, nothing but its id is shown."""
        from graphflow.histories.adopting import header_of

        try:
            found = header_of(self.run_folder(check_id(header.id)), self._seal(header.id), is_live=is_live)
        except HistoryError:
            return replace(header, name="?", flow_name="?", state="Crashed", host="", pid=0)
        found = replace(found, epoch=header.epoch)
        with suppress(HistoryError):
            self._open().correct(found)
        return found

    def _readable_now(self, run_id: str, error: HistoryLocked) -> Row:
        """Return a run from its own file, while the catalog cannot even be read.

        Raises
        ------
        HistoryLocked
            If its last driver was on another machine: whether that one lives, only the catalog tells.
        """
        from graphflow.histories.adopting import header_of, last_holder

        folder = self.run_folder(run_id)
        holder = last_holder(folder, self._seal(run_id)) if (folder / RUN_FILE).exists() else None
        if holder is None or not self._me().is_beside(holder):
            raise error
        return header_of(folder, self._seal(run_id)), self._newer(run_id, None)

    def _known(self, run_id: str) -> Row:
        self._list_marked()
        try:
            return super()._known(run_id)
        except HistoryLocked as error:
            return self._readable_now(check_id(run_id), error)
        except RunNotFound:
            if not is_marked(self.folder, run_id):
                raise
            return self._readable_now(check_id(run_id), HistoryLocked("the catalog is locked"))

    def find(self, text: str) -> RunHeader:
        self._list_marked()
        try:
            return super().find(text)
        except (HistoryLocked, RunNotFound) as error:
            is_there = is_id(text) and (self.run_folder(text) / RUN_FILE).exists()
            if not is_there or not (isinstance(error, HistoryLocked) or is_marked(self.folder, text)):
                raise
            held = error if isinstance(error, HistoryLocked) else HistoryLocked("the catalog is locked")
            return self._seen(*self._readable_now(text, held))

    def runs(self, **given: Any) -> list[RunHeader]:
        self._list_marked()
        return super().runs(**given)

    def _list_marked(self) -> None:
        """Add the runs that began while the catalog was locked, and have ended since."""
        if os.path.isdir(self.folder / UNLISTED):
            from graphflow.histories.adopting import list_marked

            list_marked(self.folder, self._seal, self._all_keys())

    def _last(self, header: RunHeader) -> tuple[str, float, int]:
        state, ended, commit = super()._last(header)
        try:
            with self._reader(header.id) as reader:
                ended = reader.last_time()
                last = reader.last_state()
                if last is not None and is_final(last[0]):
                    # It ended, and its driver was gone before the catalog heard of it.
                    state, ended, commit = last
        except HistoryError:
            pass
        return state, ended, commit

    def _ask_waiting(self, catalog: Catalog, header: RunHeader, kind: str, *, at: float) -> str:
        if not isinstance(catalog, SqliteCatalog) or header.work is None:
            return super()._ask_waiting(catalog, header, kind, at=at)
        return ask_waiting(catalog, header, kind, at=at)
