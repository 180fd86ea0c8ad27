"""A home as programs see it: its runs and what orchestrates them, open until closed."""

from __future__ import annotations

from pathlib import Path

from graphflow.common.times import moment
from graphflow.errors import BackendError, ParameterError
from graphflow.orchestration.stores.opening import Stores, open_stores
from graphflow.runs.history import RunHistory, history

__all__ = ["Home", "check_backend", "iso", "open_home"]


class Home:
    """What operations work on; may be used by several threads."""

    def __init__(self, runs: RunHistory, stores: Stores) -> None:
        self.runs = runs
        self.stores = stores

    def __enter__(self) -> Home:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        self.stores.close()
        self.runs.close()


def open_home(folder: Path | str | None = None) -> Home:
    """Open a home: a folder, or `GRAPHFLOW_HOME`.

    Raises
    ------
    HistoryError
        If histories are kept in memory, or the catalog cannot be opened.
    """
    return Home(history(folder), open_stores(folder))


def check_backend(spec: str) -> None:
    """Check where runs compute, as text; empty is nothing said.

    Raises
    ------
    ParameterError
        If there is no such backend.
    """
    if not spec:
        return
    from graphflow.backends import check_spec

    try:
        check_spec(spec)
    except BackendError as error:
        raise ParameterError(str(error)) from error


def iso(at: float | None) -> str | None:
    """Return a time as ISO 8601 in UTC."""
    return None if at is None else moment(at).isoformat(timespec="seconds").replace("+00:00", "Z")
