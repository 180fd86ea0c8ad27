"""The records of runs: one driver writes those of a run, and anybody reads them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from graphflow.model.records import Entry, Record, Request, RunHeader

__all__ = ["History", "Journal"]


@runtime_checkable
class Journal(Protocol):
    """The history of one run as its driver writes it. Not for use by several threads, but for `renew`."""

    @property
    def run_id(self) -> str:
        """The run's."""
        ...

    @property
    def epoch(self) -> int:
        """The number of this driver among the run's; every commit is guarded by it."""
        ...

    def commit(self, records: Sequence[Record], *, state: str | None = None) -> int:
        """Make records durable, all of them or none; gives the commit's number.

        `state` is the run's state from now on, for lists of runs.

        Raises
        ------
        LeaseLost
            If another driver took the run; nothing was written.
        HistoryError
            If the disk is full, the file locked or gone; nothing was written.
        """
        ...

    def renew(self) -> None:
        """Keep the lease for another term; may be called by another thread.

        Raises
        ------
        LeaseLost
            If another driver took the run.
        """
        ...

    def requests(self) -> list[Request]:
        """What was asked from outside and is not answered yet, oldest first; cheap where there is nothing new."""
        ...

    def answer(self, request: int, error: str = "") -> None:
        """Say that a request was carried out, or what was wrong with it."""
        ...

    def close(self) -> None:
        """Give the lease back; calling it again does nothing."""
        ...


@runtime_checkable
class History(Protocol):
    """The histories of all runs of a place, for drivers that write and anybody who reads."""

    def create(self, header: RunHeader) -> Journal:
        """Begin the history of a new run, and take it.

        Raises
        ------
        HistoryError
            If there is such a run already, or the place cannot be written.
        """
        ...

    def take(self, run_id: str) -> Journal:
        """Become the driver of a run that has none: the next epoch begins.

        Raises
        ------
        LeaseHeld
            If it has one.
        RunNotFound
            If there is no such run.
        HistoryDamaged, HistoryTooNew, HistoryTooOld
            If what was written cannot be trusted or read.
        """
        ...

    def find(self, text: str) -> RunHeader:
        """The run of an id, a unique prefix of one, a name (the newest), `@latest` or `@latest-failed`.

        Raises
        ------
        RunNotFound
            If there is none, or several.
        """
        ...

    def runs(
        self,
        *,
        flow_name: str | None = None,
        states: Collection[str] = (),
        since: float | None = None,
        limit: int | None = None,
        before: str | None = None,
    ) -> list[RunHeader]:
        """Runs, the newest first; `before` is the id of the last one of the page before."""
        ...

    def read(
        self, run_id: str, *, after: int = 0, kinds: Collection[int] = (), node: int | None = None
    ) -> Iterator[Entry]:
        """Records of commits after a number, in order, each of them verified; never blocks the run's driver.

        Raises
        ------
        HistoryDamaged
            At the first record that is not what was written.
        """
        ...

    def head(self, run_id: str) -> int:
        """The number of the last commit; cheap."""
        ...

    def request(self, run_id: str, kind: str, body: Mapping[str, Any]) -> int:
        """Ask something of a run's driver; gives the request's number.

        Raises
        ------
        HistoryError
            If the run has no driver that could answer.
        """
        ...

    def answer_of(self, request: int) -> str | None:
        """What the driver answered: None until it did, empty where all is well. For one that is gone, that is said."""
        ...

    def verify(self, run_id: str) -> list[str]:
        """All that is wrong with a run's history, as texts; empty where it is just as it was written."""
        ...

    def remove(self, run_id: str) -> None:
        """Forget a run.

        Raises
        ------
        LeaseHeld
            If a driver is at it.
        """
        ...

    def results_folder(self, run_id: str) -> str:
        """Where the results of a run go by default: an absolute path, or the URL of a store."""
        ...
