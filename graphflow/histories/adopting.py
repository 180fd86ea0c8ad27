"""Restoring runs in a catalog that has lost them, from their own files; and removing abandoned folders."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from graphflow.errors import HistoryError
from graphflow.histories.catalogs import SqliteCatalog
from graphflow.histories.checks import is_final
from graphflow.histories.readers import RunReader
from graphflow.histories.seals import Seal
from graphflow.model.records import RunHeader

__all__ = ["adopt", "sweep", "unlisted"]

LEFT_SECONDS = 3600.0
"""The age after which a folder that was being created or removed counts as abandoned."""
_LEFTOVERS = (".new-*", ".unborn-*", ".removed-*")


def _places(folder: Path) -> list[Path]:
    """Return the folders of runs, in order."""
    return sorted(place for place in (folder / "runs").glob("[!.]*") if place.is_dir())


def unlisted(folder: Path, catalog: SqliteCatalog | None) -> list[str]:
    """Return the ids of runs whose folders are there and that the catalog, if there is one, does not list."""
    return [place.name for place in _places(folder) if catalog is None or catalog.run(place.name) is None]


def adopt(folder: Path, seal_of: Callable[[str], Seal]) -> tuple[list[str], list[str]]:
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
    catalog = SqliteCatalog(folder, creates=True)
    try:
        for place in places:
            if catalog.run(place.name) is not None:
                continue
            try:
                header = _header(place, seal_of(place.name))
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


def sweep(folder: Path) -> int:
    """Delete folders of runs that were being made or removed when their process died, an hour ago or more."""
    count = 0
    for pattern in _LEFTOVERS:
        for place in (folder / "runs").glob(pattern):
            if time.time() - place.stat().st_mtime > LEFT_SECONDS:
                shutil.rmtree(place, ignore_errors=True)
                count += 1
    return count


def _header(place: Path, seal: Seal) -> RunHeader:
    with RunReader(place, seal, run_id=place.name) as reader:
        for _ in reader.entries():
            pass
        row, last = reader.row, reader.last_state()
        ended = reader.last_time()
    state = "Crashed" if last is None or not is_final(last[0]) else last[0]
    return RunHeader(
        id=row.id,
        name=row.name,
        flow_name=row.flow_name,
        state=state,
        created=row.created,
        started=row.created if last is not None else None,
        ended=ended,
        epoch=row.epoch,
    )
