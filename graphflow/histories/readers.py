"""Reading the file of a run: whatever is given was verified, and nothing is ever written."""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from graphflow.errors import HistoryDamaged, HistoryError, HistoryTooNew, HistoryTooOld
from graphflow.histories import schema
from graphflow.histories.anchors import NAME as ANCHOR
from graphflow.histories.anchors import anchor_bytes, read_anchor
from graphflow.histories.databases import Database, open_database
from graphflow.histories.runfiles import RUN_FILE, RunRow
from graphflow.histories.seals import Head, Seal
from graphflow.model.records import Entry, Kind, Record

__all__ = ["Commit", "RunReader"]

FAULTS_SHOWN = 20
RECORDS_LOOKED_AT = 100_000
DIGESTS_LOOKED_AT = 4
"""How far from the end, and how many, digests are looked for."""
COMMITS_AT_ONCE = 64
"""Commits that are read in one go; no transaction is open while what was read is used."""

_KNOWN = frozenset(int(kind) for kind in Kind)
_ALL = _KNOWN - {Kind.DIGEST}

Commit = tuple[int, int, float, int, int, str | None, bytes]
"""A row of `commits`: seq, epoch, at, first, count, state, mac."""


class RunReader:
    """One look at a run's file; a context manager. Where it is not `is_anchored`, the anchor is not looked at.

    Raises
    ------
    HistoryError
        If it cannot be opened.
    HistoryTooNew, HistoryTooOld
        If another version of graphflow wrote it.
    HistoryDamaged
        If it is not what was written: another file, signed with another key, shorter than it was.
    """

    def __init__(self, folder: Path, seal: Seal, *, run_id: str, is_anchored: bool = True) -> None:
        self.path = folder / RUN_FILE
        self._seal = seal
        # Before the file: it can only have grown since.
        anchor = anchor_bytes(folder) if is_anchored else None
        self.database = _opened(self.path)
        try:
            self.row = self._read_row(run_id)
            self.anchor, self.is_anchor_whole = read_anchor(anchor, self._seal)
        except BaseException:
            self.database.close()
            raise

    def __enter__(self) -> RunReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.database.close()

    def genesis(self) -> bytes:
        """Return what the first commit must follow."""
        return self._seal.genesis(self.row.name, self.row.flow_name, self.row.created)

    def check_end(self) -> None:
        """Check that the end is where the driver left it."""
        seq, head = self.row.seq, self.row.head
        if self._mac(seq) != head:
            raise self.damaged(f"its head is not its last commit, {seq}")
        if self.anchor is None or self.anchor[0] == 0:
            return
        if self.anchor[0] > seq:
            raise self.damaged(
                f"it ends with commit {seq}, but commit {self.anchor[0]} was written: its end was lost"
                " (a damaged or deleted write-ahead log, or an older copy put in its place)"
            )
        if self._mac(self.anchor[0]) != self.anchor[1]:
            raise self.damaged(f"commit {self.anchor[0]} is not the one that was written")

    def entries(
        self,
        *,
        after: int = 0,
        kinds: Collection[int] = (),
        node: int | None = None,
    ) -> Iterator[Entry]:
        """Yield records of commits after a number; see `History.read`.

        The headers of all records are verified, and the bodies of those that are given: a filter hides no damage
        that would change what passes it.
        """
        self.check_end()
        upto = self.row.seq
        if after >= upto:
            return
        wanted = frozenset(int(kind) for kind in kinds) or _ALL
        is_all = wanted >= _ALL and node is None
        before, number = self._mac(after), self._first_after(after)
        for lo in range(max(after, 0), upto, COMMITS_AT_ONCE):
            commits = self._commits(lo, min(lo + COMMITS_AT_ONCE, upto))
            rows = self._rows(number, commits, is_all)
            place = 0
            for commit in commits:
                seq, epoch, _, first, count, _, mac = commit
                mine = rows[place : place + count]
                place += count
                self._check_commit(before, number, commit, mine)
                before, number = mac, first + count
                for found in mine:
                    kind, of = found[2], found[3]
                    if (kind not in wanted and kind in _KNOWN) or (node is not None and of != node):
                        continue
                    body = self._checked_body(found, epoch, is_all)
                    record = Record(kind, found[6], body, of, found[4], found[5])
                    yield Entry(seq, found[0] - first, epoch, record, found[0])
        if before != self.row.head:
            raise self.damaged(f"its commits do not lead to its head, {upto}")

    def records(self, numbers: Iterable[int]) -> Iterator[Entry]:
        """Yield records by their numbers; see `History.records`."""
        self.check_end()
        for number in numbers:
            row = self.database.row(schema.READ_ONE, (number,))
            if row is None or number > self.row.number:
                raise self.damaged(f"record {number} is missing")
            _, seq, kind, node, lo, count, at, digest, body, epoch, first = row
            try:
                found = self._seal.record(number, seq, epoch, (kind, node, lo, count, at), body)
            except (struct.error, TypeError):
                found = b""
            if found != digest:
                raise self.damaged(f"record {number}, of commit {seq}, differs from what was written")
            yield Entry(seq, number - first, epoch, Record(kind, at, body, node, lo, count), number)

    def digests(self) -> Iterator[int]:
        """Yield the numbers of the last digests, newest first; as they are written, not verified."""
        before = self.row.number + 1
        for _ in range(DIGESTS_LOOKED_AT):
            bounds = (before - RECORDS_LOOKED_AT, before)
            row = self.database.row(schema.LAST_OF_KIND, (*bounds, int(Kind.DIGEST)))
            if row is None:
                return
            before = row[0]
            yield before

    def last_time(self) -> float:
        """Return when the last commit was made; as it is written, not verified."""
        if self.row.seq == 0:
            return self.row.created
        return float(self._commits(self.row.seq - 1, self.row.seq)[0][2])

    def last_state(self) -> tuple[str, float, int] | None:
        """Return the state that was written last, when, and in which commit; None where none was."""
        found = self.database.row(schema.READ_LAST_STATE, (self.row.seq,))
        if found is None:
            return None
        seq = found[0]
        commit = self._commits(seq - 1, seq)[0]
        self._check_commit(self._mac(seq - 1), commit[3], commit, self._rows(commit[3], [commit], False))
        return found[2], found[1], seq

    def faults(self) -> list[str]:
        """Yield all problems of this file and its anchor; continue after the first."""
        wrong: list[str] = []
        with self.database.transaction(writes=False):
            # All looks see the same moment, though the run may go on.
            self.row = self._read_row(self.row.id)
            for look in self._looks():
                try:
                    wrong += look()
                except HistoryError as error:
                    wrong.append(str(error))
        return wrong

    def _looks(self) -> list[Callable[[], Iterable[str]]]:
        return [
            self._integrity,
            self._anchor_faults,
            self._broken,
            self._leftovers,
        ]

    def damaged(self, what: str) -> HistoryDamaged:
        """Return the error for something that is wrong with this file."""
        return HistoryDamaged(
            f"{self.path} is not authentic: {what}. The file was not changed; `graphflow fsck {self.row.id}` lists all"
            " problems, and --repair keeps what verifies"
        )

    # -- what is wrong -------------------------------------------------------------------------------------

    def _integrity(self) -> Iterable[str]:
        return [f"{self.path}: {row[0]}" for row in self.database.rows(schema.INTEGRITY) if row[0] != "ok"]

    def _anchor_faults(self) -> Iterable[str]:
        wrong = []
        if not self.is_anchor_whole:
            wrong.append(
                f"{self.path.with_name(ANCHOR)} is missing or damaged (a lost end would not be noticed)"
            )
        try:
            self.check_end()
        except HistoryDamaged as error:
            wrong.append(str(error))
        return wrong

    def _broken(self) -> Iterable[str]:
        wrong: list[str] = []
        before, number = self.genesis(), 1
        for seq in range(1, self.row.seq + 1):
            try:
                commit = self._commits(seq - 1, seq)[0]
                rows = self._rows(commit[3], [commit], False)
                try:
                    self._check_commit(before, number, commit, rows)
                    for row in rows:
                        self._checked_body(row, commit[1], False)
                finally:
                    before, number = commit[6], commit[3] + commit[4]
            except HistoryDamaged as error:
                wrong.append(str(error))
                if len(wrong) >= FAULTS_SHOWN:
                    wrong.append("and maybe more")
                    break
        return wrong

    def _leftovers(self) -> Iterable[str]:
        found = self.database.row(schema.COUNT_ALL)
        row = self.row
        expected = (1, row.seq, row.seq or None, row.number, row.number or None)
        if found == expected:
            return []
        return [
            f"{self.path} has {found} runs, commits and records (counts and last numbers), not {expected}"
        ]

    # -- parts ---------------------------------------------------------------------------------------------

    def _read_row(self, run_id: str) -> RunRow:
        rows = self.database.rows(schema.READ_RUN)
        types: tuple[type, ...] = (str, str, str, float, bytes, int, int, int, bytes)
        if len(rows) != 1 or any(type(value) is not kind for value, kind in zip(rows[0], types, strict=True)):
            raise HistoryDamaged(f"{self.path} is damaged: its row of the run is missing or unreadable")
        row = RunRow(*rows[0])
        self.row = row
        seal = self._seal.of(row.key_id)
        if seal is None:
            raise HistoryDamaged(
                f"{self.path} was signed with another key ({row.key_id.hex()}) than the secret.key in this folder"
                f" ({self._seal.key_id.hex()}); if that file was replaced, restore the old one"
            )
        self._seal = seal
        if row.id != run_id:
            raise HistoryDamaged(
                f"{self.path} is the history of run {row.id}, not of {run_id}; was a folder moved?"
            )
        return row

    def _mac(self, seq: int) -> bytes:
        if seq <= 0:
            return self.genesis()
        row = self.database.row(schema.READ_MAC, (seq,))
        if row is None or type(row[0]) is not bytes:
            raise self.damaged(f"commit {seq} is missing")
        return row[0]

    def _first_after(self, seq: int) -> int:
        if seq <= 0:
            return 1
        commit = self._commits(seq - 1, seq)[0]
        return commit[3] + commit[4]

    def _commits(self, after: int, upto: int) -> list[Commit]:
        rows: list[Any] = self.database.rows(schema.READ_COMMITS, (after, upto))
        seqs = [row[0] for row in rows]
        if seqs != list(range(after + 1, upto + 1)):
            missing = sorted(set(range(after + 1, upto + 1)).difference(seqs))
            raise self.damaged(f"commit {missing[0] if missing else after + 1} is missing")
        for row in rows:
            if type(row[3]) is not int or type(row[4]) is not int or row[4] < 0:
                raise self.damaged(f"commit {row[0]} differs from what was written")
        return rows

    def _rows(self, number: int, commits: Sequence[Commit], has_bodies: bool) -> list[tuple[Any, ...]]:
        last = commits[-1]
        statement = schema.READ_RECORDS if has_bodies else schema.READ_HEADS
        return self.database.rows(statement, (number, last[3] + last[4]))

    def _check_commit(self, before: bytes, number: int, commit: Commit, rows: list[tuple[Any, ...]]) -> None:
        seq, epoch, at, first, count, state, mac = commit
        heads: list[Head] = []
        for place, row in enumerate(rows):
            if row[0] != first + place or row[1] != seq:
                raise self.damaged(f"a record of commit {seq} is missing")
            heads.append((row[2], row[3], row[4], row[5], row[6], row[7]))
        if first != number or len(rows) != count:
            raise self.damaged(f"a record of commit {seq} is missing")
        try:
            found = self._seal.commit(before, seq, epoch, at, first, state, heads)
        except (struct.error, TypeError, AttributeError):
            found = b""
        if found != mac:
            raise self.damaged(
                f"commit {seq} differs from what was written, or does not follow the one before it"
            )

    def _checked_body(self, row: tuple[Any, ...], epoch: int, has_body: bool) -> bytes:
        if has_body:
            body = row[8]
        else:
            found = self.database.row(schema.READ_BODY, (row[0],))
            body = None if found is None else found[0]
        if type(body) is not bytes or not self._seal.is_record(row[7], row[0], row[1], epoch, row[2:8], body):
            raise self.damaged(f"a record of commit {row[1]} differs from what was written")
        return body


def _opened(path: Path) -> Database:
    pragmas = schema.READER_PRAGMAS
    try:
        return open_database(path, schema.RUN, writes=False, pragmas=pragmas)
    except (HistoryDamaged, HistoryTooNew, HistoryTooOld):
        raise
    except HistoryError:
        # On a read-only disk SQLite cannot make the index of a write-ahead log; without a log none is needed.
        log = path.with_name(f"{path.name}-wal")
        if not path.is_file() or (log.exists() and log.stat().st_size > 0):
            raise
        return open_database(path, schema.RUN, writes=False, pragmas=pragmas, is_frozen=True)
