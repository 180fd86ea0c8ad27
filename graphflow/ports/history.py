"""The records of runs: one driver writes those of a run, and anybody reads them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from graphflow.model.records import Entry, NodeNews, Record, Request, RunHeader
from graphflow.ports.limiter import Limiter

__all__ = ["History", "Journal"]


@runtime_checkable
class Journal(Protocol):
    """The history of one run as its driver writes it. Not thread-safe, except for `renew` and `summarize`."""

    @property
    def run_id(self) -> str:
        """The run's."""
        ...

    @property
    def epoch(self) -> int:
        """The number of this driver among the run's; every commit is guarded by it."""
        ...

    @property
    def number(self) -> int:
        """The number of the last record that was written, 0 before any."""
        ...

    @property
    def limiter(self) -> Limiter | None:
        """The driver's part of limits and rates that runs share; None where there are none."""
        ...

    def commit(self, records: Sequence[Record], *, state: str | None = None) -> int:
        """Write records durably, all of them or none; return the commit's number.

        `state` is the run's state from now on, for lists of runs.

        Raises
        ------
        LeaseLost
            If another driver took the run; nothing was written.
        HistoryError
            If the disk is full, the file locked or gone; nothing was written.
        """
        ...

    def summarize(self, text: str, *, at_once: bool = False) -> None:
        """Keep what lists show of the run, as JSON: with its next state, or at once; if that fails, the next one counts."""
        ...

    def tell(self, news: Sequence[NodeNews], *, left_out: int = 0) -> None:
        """Keep events of nodes for the next write of the catalog that is made anyway; nothing is written for them alone.

        Parameters
        ----------
        left_out
            How many have no event of their own, so far: one event says so at the end.
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
        """Return the unanswered requests, oldest first; cheap if there is nothing new."""
        ...

    def answer(self, request: int, error: str = "") -> None:
        """Answer a request: it was carried out, or why it was not."""
        ...

    def close(self) -> None:
        """Release the lease; calling it again does nothing."""
        ...


@runtime_checkable
class History(Protocol):
    """The histories of all runs in a folder, for drivers that write and for readers."""

    def create(self, header: RunHeader, *, work: int | None = None) -> Journal:
        """Create the history of a new run, and take the run; with `work`, of one that a worker claimed under this number.

        Raises
        ------
        HistoryError
            If there is such a run already, or the folder cannot be written.
        LeaseLost
            If the claim of that number does not have the run's work any more.
        """
        ...

    def take(self, run_id: str, *, work: int | None = None) -> Journal:
        """Become the driver of a run that has none: the next epoch begins; with `work`, by a worker's claim of this number.

        Raises
        ------
        LeaseHeld
            If it has one.
        LeaseLost
            If the claim of that number does not have the run's work any more.
        RunNotFound
            If there is no such run.
        HistoryDamaged, HistoryTooNew, HistoryTooOld
            If what was written cannot be trusted or read.
        """
        ...

    def find(self, text: str) -> RunHeader:
        """Return the run with an id, a unique prefix of one, a name (the newest), `@latest` or `@latest-failed`.

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
        deployment: str = "",
        tag: str = "",
    ) -> list[RunHeader]:
        """Return runs, newest first; `before` is the id of the last run of the previous page."""
        ...

    def summary(self, run_id: str) -> str:
        """Return what a run's driver last told lists, as JSON; empty where nothing is known."""
        ...

    def read(
        self, run_id: str, *, after: int = 0, kinds: Collection[int] = (), node: int | None = None
    ) -> Iterator[Entry]:
        """Yield the records of commits after a number, in order, each verified; never block the run's driver.

        Digests are left out, unless `kinds` names them: one that is damaged hinders nobody who does not use it.

        Raises
        ------
        HistoryDamaged
            At the first record that differs from what was written.
        """
        ...

    def records(self, run_id: str, numbers: Iterable[int]) -> Iterator[Entry]:
        """Yield the records of these numbers, in this order, each verified by itself. O(numbers).

        Whether there are others is not looked at: the caller knows which records it needs, from a digest.

        Raises
        ------
        HistoryDamaged
            At the first record that is missing, or differs from what was written.
        """
        ...

    def digests(self, run_id: str) -> Iterator[int]:
        """Yield the numbers of the last few digests, newest first, as far as they are found without reading the records."""
        ...

    def head(self, run_id: str) -> int:
        """Return the number of the last commit; cheap."""
        ...

    def request(self, run_id: str, kind: str, body: Mapping[str, Any]) -> int:
        """Send a request to a run's driver; return the request's number.

        Raises
        ------
        HistoryError
            If the run has no driver.
        """
        ...

    def answer_of(self, request: int) -> str | None:
        """Return the driver's answer: None until there is one, empty if it succeeded. For one that is gone, that is said."""
        ...

    def waits_for(self, run_id: str) -> str:
        """Return which limits a run that is driven waits for, in words; empty for none."""
        ...

    def verify(self, run_id: str) -> list[str]:
        """Return the problems of a run's history, as texts; empty if it is intact."""
        ...

    def remove(self, run_id: str) -> None:
        """Forget a run.

        Raises
        ------
        LeaseHeld
            If a driver holds the run.
        """
        ...

    def results_folder(self, run_id: str) -> str:
        """Where the results of a run go by default: an absolute path, or the URL of a store."""
        ...
