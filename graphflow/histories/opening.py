"""The history that the environment asks for."""

from __future__ import annotations

import functools
from pathlib import Path

from graphflow.common import settings
from graphflow.ports import History

__all__ = ["open_history"]


def open_history(folder: Path | str | None = None) -> History:
    """Return the histories of a folder, or those that `GRAPHFLOW_HISTORY` and `GRAPHFLOW_HOME` name.

    Histories in memory are the same ones in all of a process. SQLite is loaded here, not before.

    Raises
    ------
    SettingsError
        If the environment says something unknown.
    """
    if folder is None and settings.history_kind() == "memory":
        return _in_memory()
    from graphflow.histories.sqlite import SqliteHistory

    return SqliteHistory(folder)


@functools.cache
def _in_memory() -> History:
    from graphflow.histories.volatile import VolatileHistory

    return VolatileHistory(lease_seconds=settings.lease_seconds())
