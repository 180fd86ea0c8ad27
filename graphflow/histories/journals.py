"""The journal of a run: its driver's commits, lease and requests."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol

from graphflow.common.failpoints import failpoint
from graphflow.errors import HistoryError, HistoryLocked, LeaseLost
from graphflow.histories.checks import GONE, is_final, started_at, state_code
from graphflow.model.records import NodeNews, Record, Request, RunHeader
from graphflow.ports import Catalog, Claim, Clock, Limiter

__all__ = ["RunJournal"]

_logger = logging.getLogger(__name__)


class Writer(Protocol):
    """What adds commits to the records of one run."""

    @property
    def seq(self) -> int:
        """The number of the last commit."""
        ...

    @property
    def number(self) -> int:
        """The number of the last record."""
        ...

    def commit(self, records: Sequence[Record], *, at: float, state: str | None) -> int:
        """Add a commit; see `Journal.commit`."""
        ...

    def check_there(self) -> None:
        """Raise `HistoryError` if what is written would be lost, because the records were removed."""
        ...

    def close(self, *, checkpoint: bool) -> None:
        """End writing; with `checkpoint`, leave the records tidy."""
        ...

    def strand(self) -> None:
        """Close everything as it is, as when this process is killed."""
        ...


class Lock(Protocol):
    """What shows others on this machine that the driver lives."""

    def release(self) -> None:
        """Release it; calling it again does nothing."""
        ...

    def note(self, claim: Claim) -> None:
        """Show others the claim, too, while the catalog cannot be written."""
        ...


class Connection(Catalog, Protocol):
    """A catalog that this process may be killed with."""

    def strand(self) -> None:
        """Forget the connection, as when this process is killed."""
        ...


class RunJournal:
    """A journal; made by a history's `create` and `take`.

    Parameters
    ----------
    polls
        Another connection to the catalog, which does not wait for locks.
    claim
        Makes a claim of the run for another term.
    unlisted
        The run, where the catalog was locked when it began: its row, or its claim alone, follows as soon as that is free.
    listed
        Told when it has followed.
    limiter
        What the driver has of limits that runs share; None where there can be none.

    `commit` is for the driver's thread, `renew` may be called by another one. The catalog is written only when the
    run's state changes, when a request is answered, when the lease is renewed, and when lists are told of a run that goes on. Events of
    nodes are written in these transactions, never in one of their own.
    """

    def __init__(
        self,
        writer: Writer,
        catalog: Connection,
        polls: Connection,
        lock: Lock,
        *,
        run_id: str,
        epoch: int,
        claim: Callable[[str, int], Claim],
        clock: Clock,
        unlisted: RunHeader | None = None,
        listed: Callable[[], None] | None = None,
        limiter: Limiter | None = None,
    ) -> None:
        self._limiter = limiter
        self._writer = writer
        self._catalog = catalog
        self._polls = polls
        self._lock = lock
        self._run_id = run_id
        self._epoch = epoch
        self._claim = claim
        self._clock = clock
        self._pid = os.getpid()
        self._is_closed = False
        self._is_lost = False
        self._state: str | None = None
        self._unpublished: tuple[str, float, int] | None = None
        self._summary = ""
        self._news: list[NodeNews] = []
        self._left_out = 0
        self._news_lock = threading.Lock()
        self._seen_version = -1
        self._waiting: list[Request] = []
        self._unlisted = unlisted
        self._listed = listed
        lock.note(claim(run_id, epoch))

    @property
    def run_id(self) -> str:
        return self._run_id

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def limiter(self) -> Limiter | None:
        return self._limiter

    @property
    def seq(self) -> int:
        """The number of the last commit."""
        return self._writer.seq

    @property
    def number(self) -> int:
        return self._writer.number

    def commit(self, records: Sequence[Record], *, state: str | None = None) -> int:
        self._check()
        if state is not None:
            state_code(state)
        if not records and state is None:
            return self._writer.seq
        at = self._clock.wall()
        failpoint("journal.commit.before")
        try:
            seq = self._writer.commit(records, at=at, state=state)
        except LeaseLost:
            self._is_lost = True
            raise
        if state is not None:
            self._state = state
            self._unpublished = (state, at, seq)
        if self._unpublished is not None:
            self._publish()
        return seq

    def renew(self) -> None:
        self._check()
        self._writer.check_there()
        failpoint("lease.renew.before")
        claim = self._claim(self._run_id, self._epoch)
        self._lock.note(claim)
        if self._unlisted is not None:
            self._list()
            return
        with self._telling():
            is_ours = self._catalog.renew(claim)
            if is_ours and self._state is not None and self._unpublished is None:
                # Somebody may have thought that this driver was dead.
                at = self._clock.wall() if is_final(self._state) else None
                self._catalog.mend_state(self._run_id, self._epoch, self._state, ended=at)
        if not is_ours:
            self._is_lost = True
            raise LeaseLost(
                f"run {self._run_id} was taken over by another driver: this driver (epoch {self._epoch}) did not renew its"
                " lease in time; its writes are now refused"
            )
        failpoint("lease.renew.after")

    def requests(self) -> list[Request]:
        """Return the unanswered requests; takes a few microseconds if the catalog was not written to."""
        self._check()
        # Somebody who has the catalog locked may be at it for long: then there is nothing new yet.
        with suppress(HistoryLocked):
            version = self._polls.version()
            if version != self._seen_version:
                self._waiting = self._polls.waiting(self._run_id, self._epoch)
                self._seen_version = version
        return list(self._waiting)

    def answer(self, request: int, error: str = "") -> None:
        """Answer a request; only the first answer counts."""
        self._check()
        failpoint("request.answer.before")
        self._catalog.answer(request, self._run_id, self._epoch, error, at=self._clock.wall())
        failpoint("request.answer.after")
        self._waiting = [waiting for waiting in self._waiting if waiting.id != request]

    def summarize(self, text: str, *, at_once: bool = False) -> None:
        """Keep what lists show of the run; see `Journal.summarize`."""
        self._summary = text
        if not at_once or self._is_closed or self._unlisted is not None or self._pid != os.getpid():
            return
        try:
            with self._telling():
                self._catalog.set_summary(self._run_id, self._epoch, text)
        except HistoryError as error:
            _logger.debug("run %s: its summary could not be written: %s", self._run_id, error)

    def tell(self, news: Sequence[NodeNews], *, left_out: int = 0) -> None:
        """Keep events of nodes for the next transaction of the catalog; see `Journal.tell`."""
        with self._news_lock:
            self._news += news
            self._left_out = left_out

    @contextmanager
    def _telling(self, *, at_end: bool = False) -> Iterator[None]:
        """Run a transaction of the catalog, which also tells of nodes; if it fails, the next one does."""
        with self._news_lock:
            news, self._news = self._news, []
        try:
            with self._catalog.transaction():
                left_out = self._left_out if at_end else 0
                at = self._clock.wall()
                self._catalog.tell_nodes(self._run_id, self._epoch, news, at=at, left_out=left_out)
                yield
        except BaseException:
            with self._news_lock:
                self._news = [*news, *self._news]
            raise

    def close(self) -> None:
        """Release the lease; calling it again, or in a child process, does nothing."""
        if self._is_closed or self._pid != os.getpid():
            return
        self._is_closed = True
        failpoint("journal.close.before")
        try:
            self._writer.close(checkpoint=not self._is_lost)
            failpoint("journal.close.emptied")
            if self._unlisted is not None:
                self._list()
            if self._unpublished is not None:
                self._publish()
            with self._telling(at_end=True):
                self._catalog.give_back(self._run_id, self._epoch, at=self._clock.wall())
                self._catalog.answer_all(self._run_id, self._epoch, GONE, at=self._clock.wall())
            failpoint("journal.close.after")
        except HistoryError as error:
            # The lock is let go below, which tells the others.
            level = logging.DEBUG if self._unlisted is not None else logging.WARNING
            _logger.log(level, "run %s: its lease could not be released: %s", self._run_id, error)
        finally:
            self._catalog.close()
            self._polls.close()
            self._lock.release()

    def abandon(self) -> None:
        """Close everything without releasing the lease, as when this process is killed; for tests."""
        if not self._is_closed:
            self._is_closed = True
            self._writer.strand()
            self._catalog.strand()
            self._polls.strand()
            self._lock.release()

    def _list(self) -> None:
        """Write what the catalog could not be told when the run began.

        Raises
        ------
        LeaseLost
            If another driver has taken the run meanwhile.
        HistoryLocked, HistoryError
            If it still cannot be told.
        """
        header = self._unlisted
        if header is None:
            return
        with self._catalog.transaction():
            row = self._catalog.run(self._run_id)
            if row is None:
                self._catalog.add(header)
            is_ours = row is None or row[0].epoch <= self._epoch
            if is_ours:
                self._catalog.grant(self._claim(self._run_id, self._epoch))
                self._catalog.answer_all(self._run_id, self._epoch - 1, GONE, at=self._clock.wall())
                if self._state is not None:
                    self._tell_state(
                        *(self._unpublished or (self._state, self._clock.wall(), self._writer.seq))
                    )
        if not is_ours:
            self._is_lost = True
            raise LeaseLost(
                f"run {self._run_id} was taken over by another driver (epoch {self._epoch} was this one's)"
            )
        self._unlisted = None
        if self._listed is not None:
            self._listed()

    def _publish(self) -> None:
        """Write the run's state to the catalog; the commit is durable even if this fails."""
        if self._unpublished is None:
            return
        state, at, seq = self._unpublished
        failpoint("catalog.state.before")
        try:
            self._list()
            with self._telling():
                self._tell_state(state, at, seq)
                if self._summary:
                    self._catalog.set_summary(self._run_id, self._epoch, self._summary)
        except HistoryError as error:
            # Of a catalog that is locked the user was told when the run began.
            level = logging.DEBUG if self._unlisted is not None else logging.WARNING
            _logger.log(
                level,
                "run %s: its state %s could not be written to the catalog: %s",
                self._run_id,
                state,
                error,
            )
        else:
            failpoint("catalog.state.after")
            self._unpublished = None

    def _tell_state(self, state: str, at: float, seq: int) -> None:
        self._catalog.set_state(
            self._run_id,
            self._epoch,
            state,
            started=started_at(state, at),
            ended=at if is_final(state) else None,
            at=at,
            commit=seq,
        )

    def _check(self) -> None:
        if self._pid != os.getpid():
            raise HistoryError(
                f"the journal of run {self._run_id} belongs to process {self._pid}; process {os.getpid()} cannot use it"
            )
        if self._is_closed:
            raise HistoryError(f"the journal of run {self._run_id} is closed")
