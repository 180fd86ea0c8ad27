"""Files of older versions: a copy is kept, then they are brought up to date in one transaction."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from graphflow.errors import HistoryError
from graphflow.histories import schema
from graphflow.histories.databases import Database, translated, version_of
from graphflow.histories.schema import Schema

__all__ = ["bring_up_to_date", "opened"]


def opened(
    path: Path,
    kind: Schema,
    *,
    writes: bool,
    pragmas: Sequence[str] = (),
    writer_pragmas: Sequence[str] = (),
    is_frozen: bool = False,
) -> Database:
    """A file of the newest version; an older one is migrated first.

    Raises
    ------
    HistoryTooNew
        If a newer graphflow made it.
    HistoryDamaged
        If it is another kind of file.
    HistoryError
        If it cannot be opened, or is older and cannot be written.
    """
    database = Database(path, writes=writes, pragmas=pragmas, is_frozen=is_frozen)
    try:
        if version_of(database, kind) == kind.version:
            return database
    except BaseException:
        database.close()
        raise
    database.close()
    bring_up_to_date(path, kind, pragmas=writer_pragmas or pragmas)
    return Database(path, writes=writes, pragmas=pragmas, is_frozen=is_frozen)


def bring_up_to_date(path: Path, kind: Schema, *, pragmas: Sequence[str]) -> None:
    """Migrate an older file, step by step in one transaction, after a copy of it was made beside it."""
    database = Database(path, writes=True, pragmas=pragmas)
    try:
        before = version_of(database, kind)
        if before == kind.version:
            return
        _copy(database, path.with_name(f"{path.name}.v{before}"))
        with database.transaction():
            # Another process may have been quicker.
            for version in range(version_of(database, kind), kind.version):
                for statement in kind.steps[version]:
                    database.execute(statement)
            database.execute(schema.SET_VERSION, (str(kind.version),))
    finally:
        database.close()


def _copy(database: Database, place: Path) -> None:
    """Copy with the backup interface, which knows of what is still in the write-ahead log; complete or not at all."""
    if place.exists():
        return
    temporary = place.with_name(f"{place.name}.{os.getpid()}.tmp")
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_RDWR, 0o600))
        target = sqlite3.connect(temporary, isolation_level=None)
        try:
            database.connection.backup(target)
        finally:
            target.close()
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, place)
    except sqlite3.Error as error:
        raise translated(error, temporary, "written") from error
    except OSError as error:
        raise HistoryError(
            f"{database.path} is of an older version, and no copy of it can be made at {temporary} before it is"
            f" brought up to date: {error.strerror}"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()
