"""SQLite files: opening them, waiting for their locks, and errors with the file, the problem and what to do."""

from __future__ import annotations

import ctypes
import os
import random
import sqlite3
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from graphflow.common.machine import is_stopped, lockers
from graphflow.errors import HistoryDamaged, HistoryError, HistoryLocked, HistoryTooNew, HistoryTooOld
from graphflow.histories import schema
from graphflow.histories.schema import Schema

__all__ = ["Database", "build", "migrate", "open_database", "version_of"]

PATIENCE_SECONDS = 30.0
"""How long a lock that others hold is waited for."""
BUSY_SECONDS = 1.0
"""How long SQLite itself waits before it lets us wait, with jitter."""

_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_SURROUNDINGS = {
    sqlite3.SQLITE_FULL: "the disk is full; free some space, then resume",
    sqlite3.SQLITE_READONLY: "its disk, its folder or the file itself is read-only",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; does its folder exist, and do you have permission?",
    sqlite3.SQLITE_PERM: "permission denied",
    sqlite3.SQLITE_AUTH: "permission denied",
    sqlite3.SQLITE_NOMEM: "memory ran out",
    sqlite3.SQLITE_INTERRUPT: "it was interrupted",
}

_open: weakref.WeakSet[Database] = weakref.WeakSet()


def _let_go_after_fork() -> None:
    # A connection must not be used, nor closed, by a child of the process that opened it: it is left lying.
    for database in list(_open):
        database.strand()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_after_fork)


class Database:
    """A connection to a file that is there already; not for use by several threads at once.

    Parameters
    ----------
    path
        The file; it is never created here.
    writes
        Whether it is written; a reader changes nothing, and never waits for a writer of a run.
    pragmas
        Run when it is opened.
    patience
        How many seconds a lock that others hold is waited for; `PATIENCE_SECONDS` by default.

    Raises
    ------
    HistoryError
        If it cannot be opened.
    HistoryDamaged
        If it is not a database.
    """

    def __init__(
        self,
        path: Path,
        *,
        writes: bool,
        pragmas: Sequence[str] = (),
        is_frozen: bool = False,
        patience: float | None = None,
    ) -> None:
        self.path = path
        self.writes = writes
        self._patience = PATIENCE_SECONDS if patience is None else patience
        self._pid = os.getpid()
        self._connection: sqlite3.Connection | None = None
        if not path.is_file():
            raise HistoryError(f"{path} does not exist, or is not a file")
        if path.stat().st_size == 0:
            raise HistoryDamaged(f"{path} is empty: its content was lost. The file was not changed{_HINT}")
        mode = "rw" if writes else "ro&immutable=1" if is_frozen else "ro"
        with self.guard("opened"):
            self._connection = sqlite3.connect(
                f"file:{quote(str(path))}?mode={mode}",
                uri=True,
                timeout=min(BUSY_SECONDS, self._patience),
                isolation_level=None,
                check_same_thread=False,
            )
        _open.add(self)
        try:
            for pragma in pragmas:
                self.execute(pragma)
        except BaseException:
            self.close()
            raise

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection, in the process that opened it.

        Raises
        ------
        HistoryError
            If it is closed, or this is a child of the process that opened it.
        """
        if self._pid != os.getpid():
            raise HistoryError(
                f"{self.path} was opened by process {self._pid}; this is {os.getpid()}: open it again"
            )
        if self._connection is None:
            raise HistoryError(f"{self.path} is closed")
        return self._connection

    def execute(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Run a statement; waits for locks where that is safe."""
        connection = self.connection
        with self.guard("written" if self.writes else "read"):
            if connection.in_transaction and statement != schema.COMMIT:
                return connection.execute(statement, values)
            return self._patiently(connection, statement, values)

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return all rows that a statement gives."""
        with self.guard("read"):
            return self.execute(statement, values).fetchall()

    def row(self, statement: str, values: Sequence[Any] = ()) -> tuple[Any, ...] | None:
        """Return the first row that a statement gives."""
        rows = self.rows(statement, values)
        return rows[0] if rows else None

    def execute_many(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement for each row; only in a transaction."""
        with self.guard("written"):
            self.connection.executemany(statement, rows)

    @contextmanager
    def transaction(self, *, writes: bool = True) -> Iterator[None]:
        """Run a transaction: all of it is written, or nothing; with `writes=False` it is a consistent read."""
        self.execute(schema.BEGIN_WRITING if writes else schema.BEGIN_READING)
        try:
            yield
            self.execute(schema.COMMIT)
        except BaseException:
            self._roll_back()
            raise

    def wait_for(self, seconds: float) -> None:
        """Wait for locks for so many seconds at most from now on."""
        self.execute(schema.WAIT.format(int(1000 * min(seconds, BUSY_SECONDS))))
        self._patience = seconds

    def close(self) -> None:
        """Close it; calling it again does nothing. In a child process the parent's connection is left alone."""
        connection, self._connection = self._connection, None
        _open.discard(self)
        if connection is not None and self._pid == os.getpid():
            with suppress(sqlite3.Error):
                connection.close()

    def strand(self) -> None:
        """Forget the connection without closing it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            # Nothing may close it, the end of this process neither.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))

    @contextmanager
    def guard(self, what: str) -> Iterator[None]:
        """Turn errors of SQLite into ours."""
        try:
            yield
        except (sqlite3.Error, sqlite3.Warning, OverflowError, UnicodeError) as error:
            raise translated(error, self.path, what) from error

    def _patiently(
        self, connection: sqlite3.Connection, statement: str, values: Sequence[Any]
    ) -> sqlite3.Cursor:
        deadline = time.monotonic() + self._patience
        pause = 0.002
        while True:
            try:
                return connection.execute(statement, values)
            except sqlite3.OperationalError as error:
                if _code(error) not in _BUSY or time.monotonic() >= deadline:
                    raise
            # Jitter, or all who wait would knock at the same moments.
            time.sleep(pause * (0.5 + random.random()))
            pause = min(2 * pause, 0.1)

    def _roll_back(self) -> None:
        connection = self._connection
        if connection is not None and self._pid == os.getpid() and connection.in_transaction:
            with suppress(sqlite3.Error):
                connection.execute(schema.ROLLBACK)


_HINT = "; `graphflow fsck --repair` keeps what verifies"


def _code(error: BaseException) -> int:
    return int(getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF


def _locked_by(path: Path) -> str:
    """Return who keeps a file locked, and what to do."""
    pids = lockers(path)
    for pid in pids:
        if is_stopped(pid):
            return (
                f"process {pid} keeps it locked, and is stopped (Ctrl-Z). Continue or end it (kill -CONT {pid}, or kill {pid}),"
                " then try again"
            )
    if pids:
        return f"process {pids[0]} keeps it locked, with a long transaction. Wait for it or end it, then try again"
    return (
        "another process keeps it locked. Is that process stopped (Ctrl-Z), or busy with a long transaction? Continue or end"
        " it, then try again"
    )


def translated(error: BaseException, path: Path, what: str) -> HistoryError:
    """Return what an error of SQLite means."""
    code, name = _code(error), getattr(error, "sqlite_errorname", "") or type(error).__name__
    if code in _BUSY:
        return HistoryLocked(f"{path} cannot be {what}: {_locked_by(path)} ({error})")
    if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_READONLY_DBMOVED:
        return HistoryError(f"{path} cannot be {what}: it was moved or removed while open in this process")
    if code == sqlite3.SQLITE_CANTOPEN and path.exists() and not os.access(path.parent, os.W_OK):
        code = sqlite3.SQLITE_READONLY
    if code in _SURROUNDINGS:
        return HistoryError(f"{path} cannot be {what}: {_SURROUNDINGS[code]} ({name})")
    if code == sqlite3.SQLITE_IOERR:
        return HistoryError(
            f"{path} cannot be {what}: its disk is full or failing ({name}); free some space or repair the disk, then resume"
        )
    if code == sqlite3.SQLITE_NOTADB:
        return HistoryDamaged(f"{path} is not a SQLite database ({error}). The file was not changed{_HINT}")
    return HistoryDamaged(f"{path} is damaged ({name}: {error}). The file was not changed{_HINT}")


def open_database(
    path: Path,
    kind: Schema,
    *,
    writes: bool,
    pragmas: Sequence[str] = (),
    is_frozen: bool = False,
    patience: float | None = None,
) -> Database:
    """Open a file of a version that can be read; one that has steps to the newest is migrated before it is written (`migrate`).

    Raises
    ------
    HistoryTooNew, HistoryTooOld
        If another version of graphflow made it.
    HistoryDamaged
        If it is another kind of file.
    HistoryError
        If it cannot be opened.
    """
    database = Database(path, writes=writes, pragmas=pragmas, is_frozen=is_frozen, patience=patience)
    try:
        _check_version(database, kind)
    except BaseException:
        database.close()
        raise
    return database


def version_of(database: Database) -> int:
    """Return the version of an open file."""
    return int(dict(database.rows(schema.READ_META))["schema"])


def migrate(database: Database, kind: Schema) -> None:
    """Make a file one of the newest version, step by step, in one transaction."""
    with database.transaction():
        # Another process may have done it meanwhile.
        version = _check_version(database, kind)
        for number in range(version, kind.version):
            for statement in kind.steps[number]:
                database.execute(statement)
        database.execute(schema.RENUMBER, (str(kind.version),))


def _check_version(database: Database, kind: Schema) -> int:
    """Return the version of a file, if it can be read."""
    try:
        meta: dict[Any, Any] = dict(database.rows(schema.READ_META))
        version = int(meta["schema"])
    except (HistoryDamaged, KeyError, ValueError, TypeError) as error:
        if isinstance(error, HistoryDamaged) and _code(error.__cause__ or error) != sqlite3.SQLITE_ERROR:
            raise
        raise HistoryDamaged(
            f"{database.path} is a database, but not a {kind.kind} (its table `meta` is missing or unreadable)."
            f" The file was not changed; does it belong to another program, or is it damaged?"
        ) from error
    if meta.get("kind") != kind.kind or version < 0:
        raise HistoryDamaged(
            f"{database.path} is a {meta.get('kind')!r} of version {version}, not a {kind.kind!r}; the file was not changed"
        )
    if version > kind.version:
        raise HistoryTooNew(
            f"{database.path} has the schema {version}, written by a newer graphflow; this one reads schemas up to"
            f" {kind.version}. Upgrade graphflow to read it"
        )
    if version < kind.version and version not in kind.steps:
        raise HistoryTooOld(
            f"{database.path} has the schema {version}, written by an older graphflow; this one reads schema"
            f" {min(kind.steps, default=kind.version)} {'and newer ones' if kind.steps else 'only'}. The file was not changed. Move {database.path.parent} away, or read it with the"
            " graphflow that wrote it"
        )
    return version


def build(
    path: Path, kind: Schema, pragmas: Sequence[str], *, fill: Sequence[tuple[str, Sequence[Any]]] = ()
) -> None:
    """Create a new file with the tables of a schema and a few rows; it must not exist.

    It is on the disk when this returns, but for its name in its folder. Until then nobody relies on it, so it is synced
    once, at the end.

    Raises
    ------
    FileExistsError
        If it is.
    HistoryError
        If it cannot be made.
    """
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_CLOEXEC", 0), 0o600))
    connection = None
    try:
        connection = sqlite3.connect(path, isolation_level=None)
        for pragma in (schema.NO_SYNC, *pragmas, schema.NO_SYNC):
            connection.execute(pragma)
        connection.execute(schema.BEGIN_WRITING)
        for statement in (*kind.create, *(each for step in sorted(kind.steps) for each in kind.steps[step])):
            connection.execute(statement)
        table, named, numbered = schema.META
        connection.execute(table)
        connection.execute(named, (kind.kind,))
        connection.execute(numbered, (str(kind.version),))
        for statement, values in fill:
            connection.execute(statement, values)
        connection.execute(schema.COMMIT)
    except sqlite3.Error as error:
        raise translated(error, path, "made") from error
    finally:
        if connection is not None:
            connection.close()
    with path.open("rb") as file:
        os.fsync(file.fileno())
