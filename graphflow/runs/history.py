"""Runs as recorded in their histories: of any process, finished or active.

`history()` lists runs and opens them. What a run did is read on first access; `refresh` reads what was added
since. Nothing here needs the flow's code, except to restore values of its own types.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from graphflow.common import settings
from graphflow.errors import (
    HistoryDamaged,
    HistoryError,
    HistoryTooNew,
    HistoryTooOld,
    LeaseHeld,
    ResultStoreError,
)
from graphflow.histories.opening import open_history
from graphflow.histories.whereabouts import results_of
from graphflow.model.records import RunHeader
from graphflow.model.states import checked_states
from graphflow.ports import History
from graphflow.results.stores.opening import open_store
from graphflow.runs.html import runs_html
from graphflow.runs.listed import Listed
from graphflow.runs.recorded import RecordedRun

__all__ = ["RunHistory", "history"]

FIRST_PAGE = 50


def history(home: str | Path | None = None) -> RunHistory:
    """Open the histories of all runs: in a folder, or in `GRAPHFLOW_HOME` (default: the user's data folder).

    A context manager; runs that it returns can be used until it is closed.
    """
    return RunHistory(open_history(home), folder=None if home is None else Path(home).expanduser())


class RunHistory:
    """The histories of all runs in a folder."""

    def __init__(self, histories: History, *, folder: Path | None = None) -> None:
        self._histories = histories
        self._folder = folder

    def __repr__(self) -> str:
        return f"<RunHistory of {self._folder or settings.home()}>"

    def _repr_html_(self) -> str:
        return runs_html(self.runs(limit=20))

    def __enter__(self) -> RunHistory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the open files; they are reopened on further use."""
        close = getattr(self._histories, "close", None)
        if close is not None:
            close()

    def runs(
        self,
        flow: str | None = None,
        state: str | Sequence[str] | None = None,
        since: datetime | timedelta | float | None = None,
        limit: int | None = FIRST_PAGE,
        before: str | RecordedRun | None = None,
        *,
        deployment: str | None = None,
        tag: str | None = None,
    ) -> list[RecordedRun]:
        """Return runs, newest first.

        Parameters
        ----------
        flow
            The name of their flow.
        state
            One or several names of states, such as `"Failed"`.
        since
            Only runs created at this time or later: a time, an age (a `timedelta`), or seconds since the epoch.
        limit
            Maximum number of runs; None for all.
        before
            A run (or its id): only older runs. Pass the last run of a page to get the next page.
        deployment
            Only runs of this deployment: `flow/name`.
        tag
            Only runs that their deployment, or who made them, gave this tag.

        Raises
        ------
        ValueError
            If there is no such state, or the limit is below 1.
        """
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1, or None for all runs, not {limit!r}")
        headers = self._histories.runs(
            flow_name=flow,
            states=checked_states(state),
            since=_seconds_of(since),
            limit=limit,
            before=before.id if isinstance(before, RecordedRun) else before,
            deployment=deployment or "",
            tag=tag or "",
        )
        return Listed(self._opened(header) for header in headers)

    def run(self, run: str) -> RecordedRun:
        """Return the run with an id, a unique prefix of one, a name (the newest), `@latest` or `@latest-failed`.

        Raises
        ------
        RunNotFound
            If there is none, or several.
        """
        return self._opened(self._histories.find(run))

    def verify(self, run: str, *, results: bool = True) -> list[str]:
        """All that is wrong with a run's history, and with its stored results unless told not to look, as texts."""
        header = self._histories.find(run)
        wrong = self._histories.verify(header.id)
        if not wrong and results:
            wrong = self._opened(header).damage()
        return wrong

    def unlisted(self) -> list[str]:
        """Return the ids of runs whose records are there although no list has them: the catalog has lost them."""
        lost = getattr(self._histories, "unlisted", None)
        return [] if lost is None else list(lost())

    def repair(self, run: str | None = None) -> dict[str, list[str]]:
        """Keep what verifies of damaged histories, and make runs with them that can be resumed; what is lost runs again.

        Damaged files stay beside the new ones. The catalog is restored first, if it is damaged.

        Parameters
        ----------
        run
            The run to repair; all by default.

        Returns
        -------
        By run id, what was done and what is lost, as texts; `""` stands for the catalog.

        Raises
        ------
        HistoryError
            If the catalog cannot be repaired now: a run has a driver.
        SettingsError
            If the key is damaged, and has no copy.
        """
        histories: Any = self._histories
        if not hasattr(histories, "repair"):
            return {}
        told: dict[str, list[str]] = {"": [*histories.repair_key(), *histories.repair_catalog()]}
        lost, _ = histories.adopt()
        for run_id in lost:
            told[run_id] = [f"run {run_id} is listed again"]
        ids = [each.id for each in histories.runs()] + histories.unlisted()
        if run is not None:
            ids = [histories.find(run).id]
        for run_id in ids:
            try:
                done = histories.repair(run_id)
            except LeaseHeld:
                continue
            except HistoryError as error:
                done = [str(error)]
            if done:
                told.setdefault(run_id, []).extend(done)
        return {run_id: texts for run_id, texts in told.items() if texts}

    def remove(self, run: str) -> None:
        """Remove a run, with its results, wherever they are; cached results stay.

        Raises
        ------
        LeaseHeld
            If a driver holds the run.
        ResultStoreError
            If the results cannot be removed from their store.
        """
        run_id = self._histories.find(run).id
        try:
            url = results_of(self._histories, run_id)
        except (HistoryDamaged, HistoryTooNew, HistoryTooOld):
            url = ""
        self._histories.remove(run_id)
        # Results beside the history went with it; nothing but a run's own folder is emptied.
        if url.rstrip("/").endswith(f"/runs/{run_id}"):
            store = open_store(url)
            try:
                store.delete(list(store.names()))
            except ResultStoreError as error:
                raise ResultStoreError(
                    f"the history of run {run_id} was removed, but not its results in {url}: {error}; remove them there"
                ) from error

    def _opened(self, header: RunHeader) -> RecordedRun:
        return RecordedRun(self._histories, header, folder=self._folder)


def _seconds_of(since: datetime | timedelta | float | None) -> float | None:
    if isinstance(since, timedelta):
        return time.time() - since.total_seconds()
    if isinstance(since, datetime):
        return since.timestamp()
    return since
