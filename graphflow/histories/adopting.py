"""Restoring runs in a catalog that has lost them, from their own files; and removing abandoned folders."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from graphflow.errors import HistoryError
from graphflow.histories import schema
from graphflow.histories.catalogs import CATALOG_FILE, SqliteCatalog
from graphflow.histories.checks import is_final
from graphflow.histories.databases import open_database
from graphflow.histories.leases import is_locked
from graphflow.histories.marks import UNLISTED, mark_listed
from graphflow.histories.readers import RunReader
from graphflow.histories.repairing import kept_beside
from graphflow.histories.runfiles import RUN_FILE, sync_folder
from graphflow.histories.seals import Seal
from graphflow.model.records import NO_NODE, Kind, RunHeader
from graphflow.model.states import Code, StateType
from graphflow.ports import Holder
from graphflow.records.codec import decode

__all__ = ["adopt", "header_of", "last_holder", "list_marked", "put_aside", "signers", "sweep", "unlisted"]

LEFT_SECONDS = 3600.0
"""The age after which a folder that was being created or removed counts as abandoned."""
_LEFTOVERS = (".new-*", ".unborn-*", ".removed-*")


def _places(folder: Path) -> list[Path]:
    """Return the folders of runs, in order."""
    return sorted(place for place in (folder / "runs").glob("[!.]*") if place.is_dir())


def unlisted(folder: Path, catalog: SqliteCatalog | None) -> list[str]:
    """Return the ids of runs whose folders are there and that the catalog, if there is one, does not list."""
    return [place.name for place in _places(folder) if catalog is None or catalog.run(place.name) is None]


def adopt(folder: Path, seal_of: Callable[[str], Seal], keys: Sequence[bytes]) -> tuple[list[str], list[str]]:
    """Add all runs that are missing from a folder's catalog; a missing catalog is created.

    Return the ids of these runs, and what was wrong with those that cannot be read. They are verified first. A run
    that has not ended is listed as crashed. A catalog that is damaged has to be moved away before.

    Raises
    ------
    HistoryError
        If the catalog cannot be opened or written.
    """
    adopted: list[str] = []
    wrong: list[str] = []
    places = _places(folder)
    if not places:
        return adopted, wrong
    catalog = SqliteCatalog(folder, creates=True, keys=keys)
    try:
        for place in places:
            if catalog.run(place.name) is not None:
                continue
            if is_locked(place):
                wrong.append(
                    f"run {place.name} has a driver now, so it is not listed yet; repeat this when it has ended"
                )
                continue
            try:
                header = header_of(place, seal_of(place.name))
            except HistoryError as error:
                wrong.append(str(error))
                continue
            with catalog.transaction():
                if catalog.run(header.id) is None:
                    catalog.add(header)
                    adopted.append(header.id)
    finally:
        catalog.close()
    return adopted, wrong


def signers(folder: Path) -> frozenset[bytes]:
    """Return the ids of the keys that the runs of a folder say they were signed with; not verified."""
    found: set[bytes] = set()
    for place in _places(folder):
        path = place / RUN_FILE
        with suppress(HistoryError):
            database = open_database(path, schema.RUN, writes=False, pragmas=schema.READER_PRAGMAS)
            try:
                found.update(each[4] for each in database.rows(schema.READ_RUN) if isinstance(each[4], bytes))
            finally:
                database.close()
    return frozenset(found)


def put_aside(folder: Path, moment: str) -> list[str]:
    """Move a damaged catalog away, under another name beside its place; return the new names."""
    moved = []
    # Its journal goes first: without it, the catalog is only more damaged.
    for name in (f"{CATALOG_FILE}-journal", f"{CATALOG_FILE}-wal", f"{CATALOG_FILE}-shm", CATALOG_FILE):
        path = folder / name
        if path.exists():
            place = kept_beside(path, moment)
            os.rename(path, place)
            moved.append(place.name)
    sync_folder(folder)
    return moved


def list_marked(folder: Path, seal_of: Callable[[str], Seal], keys: Sequence[bytes]) -> None:
    """Add the runs to the catalog that began while it was locked and have no driver any more; nothing happens where it still is."""
    with suppress(HistoryError, OSError):
        catalog = SqliteCatalog(folder, creates=True, keys=keys)
        catalog.be_quick()
        try:
            for mark in sorted((folder / UNLISTED).iterdir()):
                place = folder / "runs" / mark.name
                if is_locked(place):
                    continue
                header = header_of(place, seal_of(mark.name)) if place.exists() else None
                with catalog.transaction():
                    row = catalog.run(mark.name)
                    if header is not None and (row is None or row[0].epoch < header.epoch):
                        catalog.forget(mark.name)
                        catalog.add(header)
                mark_listed(folder, mark.name)
        finally:
            catalog.close()


def last_holder(place: Path, seal: Seal) -> Holder | None:
    """Return the process that drove a run last, as its verified history tells; None where it tells none."""
    found: Holder | None = None
    with RunReader(place, seal, run_id=place.name) as reader:
        for entry in reader.entries(kinds=(Kind.LAUNCH,)):
            launch = decode(entry.record)
            found = Holder(launch.host, launch.pid, launch.boot_id)
    return found


def sweep(folder: Path) -> int:
    """Delete folders of runs that were being made or removed when their process died, an hour ago or more."""
    count = 0
    for pattern in _LEFTOVERS:
        for place in (folder / "runs").glob(pattern):
            if time.time() - place.stat().st_mtime > LEFT_SECONDS:
                shutil.rmtree(place, ignore_errors=True)
                count += 1
    return count


def header_of(place: Path, seal: Seal, *, is_live: bool = False) -> RunHeader:
    """Return a run as its verified history tells it; one that has not ended, and is not live, is crashed."""
    holder: Holder | None = None
    started: float | None = None
    with RunReader(place, seal, run_id=place.name) as reader:
        for _ in reader.entries():
            pass
        for entry in reader.entries(kinds=(Kind.LAUNCH, Kind.STATE)):
            if entry.record.kind == Kind.LAUNCH:
                launch = decode(entry.record)
                holder = Holder(launch.host, launch.pid, launch.boot_id)
            elif (
                started is None
                and entry.record.node == NO_NODE
                and Code(decode(entry.record).code).type is StateType.RUNNING
            ):
                started = entry.record.at
        row, last = reader.row, reader.last_state()
        ended = reader.last_time()
    is_over = last is not None and is_final(last[0])
    state = last[0] if last is not None and (is_over or is_live) else "Pending" if is_live else "Crashed"
    return RunHeader(
        id=row.id,
        name=row.name,
        flow_name=row.flow_name,
        state=state,
        created=row.created,
        started=started,
        ended=None if is_live and not is_over else ended,
        host=holder.host if holder is not None else "",
        pid=holder.pid if holder is not None else 0,
        epoch=row.epoch,
    )
