"""The file of one run, `run.db`: making it, and adding commits to it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from graphflow.common.failpoints import failpoint
from graphflow.errors import HistoryDamaged, HistoryError, LeaseLost
from graphflow.histories import schema
from graphflow.histories.anchors import Anchor
from graphflow.histories.checks import plain
from graphflow.histories.databases import build, open_database
from graphflow.histories.seals import Head, Seal
from graphflow.model.records import Record

__all__ = ["RUN_FILE", "RunRow", "RunWriter", "build_run", "wait_for_turn"]

RUN_FILE = "run.db"


@dataclass(frozen=True, slots=True)
class RunRow:
    """The one row of a run's file that says what it is and how far it goes."""

    id: str
    name: str
    flow_name: str
    created: float
    key_id: bytes
    epoch: int
    seq: int
    number: int
    head: bytes


def build_run(folder: Path, seal: Seal, *, run_id: str, name: str, flow_name: str, created: float) -> None:
    """Create the file of a new run in its folder, durably; it must not exist."""
    genesis = seal.genesis(name, flow_name, created)
    row = (run_id, name, flow_name, created, seal.key_id, 0, genesis)
    build(folder / RUN_FILE, schema.RUN, schema.RUN_WRITER_PRAGMAS, fill=[(schema.BEGIN_RUN, row)])
    anchor = Anchor(folder, seal)
    anchor.write(0, genesis)
    anchor.close()
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def wait_for_turn(folder: Path) -> None:
    """Wait until no process is in the middle of a commit.

    Raises
    ------
    HistoryLocked
        If that takes long: a driver was stopped there.
    """
    database = open_database(folder / RUN_FILE, schema.RUN, writes=True, pragmas=schema.RUN_WRITER_PRAGMAS)
    try:
        with database.transaction():
            pass
    finally:
        database.close()


class RunWriter:
    """The one connection that writes a run: its driver's.

    Parameters
    ----------
    folder
        The run's.
    seal
        What its commits are sealed with.
    run_id
        The run's id.
    epoch
        The number of this driver; what it writes is refused as soon as there is a newer one.
    """

    def __init__(self, folder: Path, seal: Seal, *, run_id: str, epoch: int) -> None:
        self.path = folder / RUN_FILE
        self.seq = 0
        self._run_id = run_id
        self._epoch = epoch
        self._seal = seal
        self.number = 0
        self._head = b""
        self._database = open_database(self.path, schema.RUN, writes=True, pragmas=schema.RUN_WRITER_PRAGMAS)
        try:
            self._anchor = Anchor(folder, seal)
        except BaseException:
            self._database.close()
            raise

    def begin(self) -> RunRow:
        """Shut out earlier drivers; return their last commit.

        Raises
        ------
        LeaseLost
            If a later driver began already.
        """
        with self._database.transaction():
            cursor = self._database.execute(schema.TAKE_RUN, (self._epoch, self._run_id, self._epoch))
            if cursor.rowcount != 1:
                raise LeaseLost(
                    f"run {self._run_id} was taken over by a later driver than this one (epoch {self._epoch})"
                )
            row = RunRow(*(self._database.row(schema.READ_RUN) or ()))
            seal = self._seal.of(row.key_id)
            if seal is None:
                raise HistoryDamaged(f"{self.path} was signed with an unknown key")
        self._seal = seal
        self._anchor.use(seal)
        self.seq, self.number, self._head = row.seq, row.number, row.head
        self._anchor.write(self.seq, self._head)
        return row

    def commit(self, records: Sequence[Record], *, at: float, state: str | None) -> int:
        """Add a commit; see `Journal.commit`."""
        seq, first = self.seq + 1, self.number + 1
        rows: list[tuple[int, int, int, int, int, int, float, bytes, bytes]] = []
        heads: list[Head] = []
        for number, record in enumerate(map(plain, records), first):
            kind, node, lo, count, moment = record.kind, record.node, record.lo, record.count, record.at
            columns = (kind, node, lo, count, moment)
            digest = self._seal.record(number, seq, self._epoch, columns, record.body)
            rows.append((number, seq, kind, node, lo, count, moment, digest, record.body))
            heads.append((kind, node, lo, count, moment, digest))
        mac = self._seal.commit(self._head, seq, self._epoch, at, first, state, heads)
        last = first + len(rows) - 1
        database = self._database
        with database.transaction():
            failpoint("journal.commit.begun")
            fence = (seq, last, mac, self._run_id, self._epoch, self._head)
            if database.execute(schema.ADVANCE, fence).rowcount != 1:
                self._refused()
            database.execute(schema.ADD_COMMIT, (seq, self._epoch, at, first, len(rows), state, mac))
            database.execute_many(schema.ADD_RECORD, rows)
            failpoint("journal.commit.filled")
        failpoint("journal.commit.after")
        self.seq, self.number, self._head = seq, last, mac
        self._anchor.write(seq, mac)
        failpoint("anchor.write.after")
        return seq

    def check_there(self) -> None:
        """Raise `HistoryError` if the file is not at its place any more."""
        if not self.path.exists():
            raise HistoryError(
                f"{self.path} is gone: somebody removed the folder of run {self._run_id} while it runs; what is"
                " written from now on is lost"
            )

    def close(self, *, checkpoint: bool) -> None:
        """Close the file; with `checkpoint`, the write-ahead log is emptied into it."""
        try:
            if checkpoint:
                self._database.execute(schema.CHECKPOINT)
        except HistoryError:
            # Readers may still be there; the next one who opens the file does it.
            pass
        finally:
            self._database.close()
            self._anchor.close()

    def strand(self) -> None:
        """Close everything as it is, as when this process is killed."""
        self._database.strand()
        self._anchor.close()

    def _refused(self) -> None:
        found = self._database.row(schema.READ_FENCE, (self._run_id,))
        if found is not None and found[0] == self._epoch:
            raise HistoryDamaged(
                f"{self.path} ends in commit {found[1]}, which is not the commit {self.seq} that this driver wrote"
                " last; another process wrote it. Nothing more is written"
            )
        other = "nobody" if found is None else f"a driver of epoch {found[0]}"
        raise LeaseLost(
            f"run {self._run_id} was taken over by {other}; this driver (epoch {self._epoch}) did not renew its lease in time;"
            " its writes are now refused"
        )
