"""Histories in memory, with the rules of those on disk: for tests, the simulator, and runs that leave nothing behind.

No file, no thread and no clock of its own: what happens follows from the calls and the clock that was given.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from graphflow.errors import HistoryError, LeaseLost, RunNotFound
from graphflow.histories.checks import GONE, check_id, is_failed, is_final, plain, started_at, state_code
from graphflow.histories.leases import Claim, Holder, SystemClock, claim_of, this_process
from graphflow.model.records import Entry, Record, Request, RunHeader
from graphflow.ports import Clock

__all__ = ["VolatileHistory", "VolatileJournal"]

LEASE_SECONDS = 30.0


@dataclass(slots=True)
class _Run:
    header: RunHeader
    epoch: int = 1
    """What commits are guarded by."""
    claim: Claim | None = None
    has_lock: bool = True
    """Whether the holder of the claim lives."""
    commits: list[tuple[int, tuple[Record, ...]]] = field(default_factory=list)
    """The epoch and records of each."""


class VolatileHistory:
    """The histories of this process.

    Parameters
    ----------
    clock
        What leases go by.
    lease_seconds
        How long a driver that is not heard of keeps its run.
    holder
        Who takes leases; this process by default.
    folder
        What `results_folder` is below, where results do not stay in memory too; nothing is made there.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        lease_seconds: float = LEASE_SECONDS,
        holder: Holder | None = None,
        folder: Path | str | None = None,
    ) -> None:
        self.lease_seconds = lease_seconds
        self._clock: Clock = clock or SystemClock()
        self._holder = holder or this_process()
        self._folder = None if folder is None else Path(folder).absolute()
        self._lock = threading.RLock()
        self._runs: dict[str, _Run] = {}
        self._requests: list[tuple[Request, int]] = []
        """With the epoch of the driver that each was made to."""

    def beside(self, holder: Holder) -> VolatileHistory:
        """Return the same histories as another process, or another machine, sees them."""
        other = VolatileHistory(
            clock=self._clock, lease_seconds=self.lease_seconds, holder=holder, folder=self._folder
        )
        other._lock, other._runs, other._requests = self._lock, self._runs, self._requests
        return other

    # -- drivers -------------------------------------------------------------------------------------------

    def create(self, header: RunHeader) -> VolatileJournal:
        run_id = check_id(header.id)
        state_code(header.state)
        with self._lock:
            if run_id in self._runs:
                raise HistoryError(f"run {run_id} already exists, in memory; resume it, or use another id")
            created = header.created or self._clock.wall()
            run = _Run(replace(header, created=created, started=None, ended=None, lease=None))
            self._runs[run_id] = run
            return self._driven(run, 1)

    def take(self, run_id: str) -> VolatileJournal:
        with self._lock:
            run = self._known(run_id)
            if run.claim is not None and self._is_alive(run):
                raise run.claim.held(self._holder, self._clock, "cannot be taken")
            self._answer_all(run_id)
            return self._driven(run, run.epoch + 1)

    def _driven(self, run: _Run, epoch: int) -> VolatileJournal:
        holder, run_id = self._holder, run.header.id
        run.epoch, run.has_lock = epoch, True
        run.claim = claim_of(run_id, epoch, holder, self._clock, self.lease_seconds)
        run.header = replace(run.header, epoch=epoch, host=holder.host, pid=holder.pid)
        return VolatileJournal(self, run_id, epoch)

    # -- readers -------------------------------------------------------------------------------------------

    def find(self, text: str) -> RunHeader:
        with self._lock:
            newest = self._newest()
            if text in ("@latest", "@latest-failed"):
                found = [header for header in newest if text == "@latest" or is_failed(header)][:1]
            else:
                upper = text.upper()
                found = [header for header in newest if header.id == text]
                found = found or [header for header in newest if header.id.upper() == upper]
                found = found or [header for header in newest if header.id.upper().startswith(upper)]
                if len(found) != 1:
                    found = [header for header in newest if header.name == text][:1] or found
            if not found or not text:
                raise self._missing(text)
            if len(found) > 1:
                ids = ", ".join(header.id for header in found[:3])
                raise RunNotFound(
                    f"several runs have an id that begins with {text!r}: {ids}, ...; use a longer prefix"
                )
            return found[0]

    def runs(
        self,
        *,
        flow_name: str | None = None,
        states: Collection[str] = (),
        since: float | None = None,
        limit: int | None = None,
        before: str | None = None,
    ) -> list[RunHeader]:
        with self._lock:
            last = None if before is None else self._known(before).header
            found = [
                header
                for header in self._newest()
                if (not flow_name or header.flow_name == flow_name)
                and (not states or header.state in states)
                and (since is None or header.created >= since)
                and (last is None or (header.created, header.id) < (last.created, last.id))
            ]
        return found if limit is None else found[:limit]

    def read(
        self, run_id: str, *, after: int = 0, kinds: Collection[int] = (), node: int | None = None
    ) -> Iterator[Entry]:
        with self._lock:
            commits = list(enumerate(self._known(run_id).commits, 1))
        for seq, (epoch, records) in commits[max(after, 0) :]:
            for place, record in enumerate(records):
                if (not kinds or record.kind in kinds) and (node is None or record.node == node):
                    yield Entry(seq, place, epoch, record)

    def head(self, run_id: str) -> int:
        with self._lock:
            return len(self._known(run_id).commits)

    def results_folder(self, run_id: str) -> str:
        if self._folder is None:
            return f"memory://graphflow/runs/{check_id(run_id)}"
        return str(self._folder / "runs" / check_id(run_id) / "results")

    # -- requests ------------------------------------------------------------------------------------------

    def request(self, run_id: str, kind: str, body: Mapping[str, Any]) -> int:
        with self._lock:
            run = self._known(run_id)
            if run.claim is None or not self._is_alive(run):
                raise HistoryError(
                    f"run {run_id} ({run.header.name}) has no driver, so it cannot be asked to {kind}"
                )
            number = len(self._requests) + 1
            copied = json.loads(json.dumps(dict(body)))
            request = Request(id=number, run_id=run_id, kind=kind, body=copied, at=self._clock.wall())
            self._requests.append((request, run.epoch))
            return number

    def answer_of(self, request: int) -> str | None:
        with self._lock:
            if not 0 < request <= len(self._requests):
                raise HistoryError(f"there is no request {request}")
            asked = self._requests[request - 1][0]
            run = self._runs.get(asked.run_id)
            if asked.answer is None and (run is None or run.claim is None or not self._is_alive(run)):
                return GONE
            return asked.answer

    # -- care ----------------------------------------------------------------------------------------------

    def verify(self, run_id: str) -> list[str]:
        """Return no problems, as memory is never damaged; see `History.verify`."""
        with self._lock:
            self._known(run_id)
        return []

    def remove(self, run_id: str) -> None:
        with self._lock:
            run = self._known(run_id)
            if run.claim is not None and self._is_alive(run):
                raise run.claim.held(self._holder, self._clock, "cannot be removed")
            del self._runs[run_id]

    # -- parts ---------------------------------------------------------------------------------------------

    def _missing(self, text: str) -> RunNotFound:
        return RunNotFound(
            f"no run matches {text!r} in memory; use an id, a unique prefix of one, a name, @latest or @latest-failed"
        )

    def _known(self, run_id: str) -> _Run:
        run = self._runs.get(run_id)
        if run is None:
            raise self._missing(run_id)
        return run

    def _is_alive(self, run: _Run) -> bool:
        return run.claim is not None and run.claim.is_alive(self._holder, self._clock, has_lock=run.has_lock)

    def _newest(self) -> list[RunHeader]:
        runs = sorted(self._runs.values(), key=lambda run: (run.header.created, run.header.id), reverse=True)
        return [self._seen(run) for run in runs]

    def _seen(self, run: _Run) -> RunHeader:
        if run.claim is not None and self._is_alive(run):
            return replace(run.header, lease=run.claim.lease(self._holder, self._clock))
        if not is_final(run.header.state):
            run.header = replace(run.header, state="Crashed", ended=self._clock.wall())
        return run.header

    def _answer(self, request: int, run_id: str, epoch: int, error: str) -> None:
        if 0 < request <= len(self._requests):
            asked, of = self._requests[request - 1]
            if asked.run_id == run_id and of == epoch and asked.answer is None:
                self._requests[request - 1] = (replace(asked, answer=error), of)

    def _answer_all(self, run_id: str) -> None:
        for asked, epoch in list(self._requests):
            self._answer(asked.id, run_id, epoch, GONE)


class VolatileJournal:
    """A journal in memory; made by `VolatileHistory.create` and `take`."""

    def __init__(self, history: VolatileHistory, run_id: str, epoch: int) -> None:
        self._history = history
        self._run_id = run_id
        self._epoch = epoch
        self._state: str | None = None
        self._is_closed = False

    @property
    def run_id(self) -> str:
        return self._run_id

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def seq(self) -> int:
        """The number of the last commit."""
        with self._history._lock:
            return len(self._mine().commits)

    def commit(self, records: Sequence[Record], *, state: str | None = None) -> int:
        history = self._history
        with history._lock:
            run = self._mine()
            if state is not None:
                state_code(state)
            if not records and state is None:
                return len(run.commits)
            kept = tuple(plain(record) for record in records)
            run.commits.append((self._epoch, kept))
            if state is not None:
                self._state = state
                self._tell(run)
            return len(run.commits)

    def renew(self) -> None:
        history = self._history
        with history._lock:
            run = self._mine()
            run.claim = claim_of(
                self._run_id, self._epoch, history._holder, history._clock, history.lease_seconds
            )
            if self._state is not None and run.header.state != self._state:
                self._tell(run)

    def requests(self) -> list[Request]:
        history = self._history
        with history._lock:
            self._open()
            return [
                asked
                for asked, epoch in history._requests
                if asked.run_id == self._run_id and epoch == self._epoch and asked.answer is None
            ]

    def answer(self, request: int, error: str = "") -> None:
        """Answer a request; only the first answer counts."""
        with self._history._lock:
            self._open()
            self._history._answer(request, self._run_id, self._epoch, error)

    def close(self) -> None:
        history = self._history
        with history._lock:
            run = history._runs.get(self._run_id)
            if not self._is_closed and run is not None and run.epoch == self._epoch:
                run.claim = None
                history._answer_all(self._run_id)
            self._is_closed = True

    def abandon(self) -> None:
        """Close everything without releasing the lease, as when this process is killed."""
        with self._history._lock:
            run = self._history._runs.get(self._run_id)
            if not self._is_closed and run is not None and run.epoch == self._epoch:
                run.has_lock = False
            self._is_closed = True

    def _open(self) -> None:
        if self._is_closed:
            raise HistoryError(f"the journal of run {self._run_id} is closed")

    def _mine(self) -> _Run:
        self._open()
        run = self._history._runs.get(self._run_id)
        if run is None or run.epoch != self._epoch:
            other = "nobody" if run is None else f"a driver of epoch {run.epoch}"
            raise LeaseLost(
                f"run {self._run_id} was taken over by {other}; this driver (epoch {self._epoch}) did not renew its"
                " lease in time; its writes are now refused"
            )
        return run

    def _tell(self, run: _Run) -> None:
        state = self._state
        if state is not None:
            at = self._history._clock.wall()
            started = run.header.started if run.header.started is not None else started_at(state, at)
            run.header = replace(
                run.header, state=state, started=started, ended=at if is_final(state) else None
            )
