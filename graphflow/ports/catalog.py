"""The catalog of a place's runs: what there is, who drives each run, and what is asked of its driver."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from graphflow.errors import LeaseHeld
from graphflow.model.records import Lease, NodeNews, Request, RunHeader
from graphflow.ports.clock import Clock

__all__ = ["Catalog", "Claim", "Holder", "Row", "claim_of"]


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that can drive runs; `boot_id` names one boot of one machine, empty where that is not known."""

    host: str
    pid: int
    boot_id: str

    def is_beside(self, other: Holder) -> bool:
        """Return whether both run on one kernel, so that they share its steady clock and its locks."""
        if self.boot_id and other.boot_id:
            return self.boot_id == other.boot_id
        return self.host == other.host

    def outlived_boot_of(self, other: Holder) -> bool:
        """Return whether the other ran before this machine was started again."""
        return bool(
            self.host == other.host and self.boot_id and other.boot_id and self.boot_id != other.boot_id
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A lease as the catalog holds it: it ends by the steady clock on its holder's machine, by the wall clock elsewhere."""

    run_id: str
    epoch: int
    holder: Holder
    steady_until: float
    wall_until: float

    def is_alive(self, me: Holder, clock: Clock, *, has_lock: bool) -> bool:
        """Return whether the holder may still drive; `has_lock` is only believed of a holder on the same machine."""
        if me.outlived_boot_of(self.holder):
            return False
        if me.is_beside(self.holder):
            return has_lock and clock.steady() < self.steady_until
        return clock.wall() < self.wall_until

    def lease(self, me: Holder, clock: Clock) -> Lease:
        """Return the same, for people."""
        until = self.wall_until
        if me.is_beside(self.holder):
            until = clock.wall() + (self.steady_until - clock.steady())
        return Lease(epoch=self.epoch, host=self.holder.host, pid=self.holder.pid, until=until)

    def held(self, me: Holder, clock: Clock, what: str) -> LeaseHeld:
        """Return the error for another process that wants the run."""
        lease = self.lease(me, clock)
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(lease.until))
        return LeaseHeld(
            f"run {self.run_id} {what}: process {lease.pid} on {lease.host} drives it, until {moment}"
            f" ({max(0.0, lease.until - clock.wall()):.0f} s from now) unless it renews its lease. Wait for it, or"
            " stop that process",
            host=lease.host,
            pid=lease.pid,
            until=lease.until,
        )


def claim_of(run_id: str, epoch: int, holder: Holder, clock: Clock, seconds: float) -> Claim:
    """Return a claim from now on, by both clocks."""
    return Claim(
        run_id=run_id,
        epoch=epoch,
        holder=holder,
        steady_until=clock.steady() + seconds,
        wall_until=clock.wall() + seconds,
    )


Row = tuple[RunHeader, Claim | None]
"""A run as it was written down, and the claim of its driver; whether that process lives is not known here."""


@runtime_checkable
class Catalog(Protocol):
    """The runs of a place, their leases and the requests to their drivers; may be used by several threads.

    A catalog keeps what it is told and decides nothing: whether the holder of a claim lives is its caller's
    question. Each method is atomic; several are together in a `transaction`. Where the catalog cannot be read or
    written, methods raise `HistoryError`, and nothing was written.
    """

    def transaction(self) -> AbstractContextManager[None]:
        """Write all of what is done inside, or nothing if it raises; no other connection writes meanwhile."""
        ...

    # -- runs ----------------------------------------------------------------------------------------------

    def add(self, header: RunHeader) -> None:
        """Add a run; its id must be new here, which the caller checks in the same transaction."""
        ...

    def run(self, run_id: str) -> Row | None:
        """Return the run of exactly this id."""
        ...

    def named(self, text: str) -> list[Row]:
        """Return the runs that a text may mean: one where that is clear, several where it is not, or none.

        In this order: the run of this id, then whatever its case; the newest few whose id begins with it; and where
        that is not exactly one, the newest run of this name.
        """
        ...

    def runs(
        self,
        *,
        flow_name: str = "",
        since: float | None = None,
        before: RunHeader | None = None,
        hidden: Collection[str] = (),
        deployment: str = "",
        tag: str = "",
    ) -> Iterator[Row]:
        """Iterate over runs, newest first (by `created`, then id).

        Parameters
        ----------
        flow_name, since, deployment, tag
            Only runs of this flow, created then or later, of this deployment, or with this tag.
        before
            The last run of the page before.
        hidden
            No runs whose rows have one of these states.
        """
        ...

    def set_state(
        self,
        run_id: str,
        epoch: int,
        state: str,
        *,
        started: float | None,
        ended: float | None,
        at: float = 0.0,
        commit: int = 0,
    ) -> None:
        """Set a run's state, unless a driver of another epoch has it; a first `started` is kept.

        Where events are kept, there is one for each commit, however often this is told. A final state ends the run's work.
        """
        ...

    def note_state(self, header: RunHeader, before: str, *, commit: int = 0) -> None:
        """Set the state and end of a run whose driver is gone, unless its epoch or its state `before` has changed."""
        ...

    def mend_state(self, run_id: str, epoch: int, state: str, *, ended: float | None) -> None:
        """Set back the state that the driver of this epoch wrote, if others noted another one meanwhile."""
        ...

    def tell_nodes(
        self, run_id: str, epoch: int, news: Sequence[NodeNews], *, at: float, left_out: int = 0
    ) -> None:
        """Write events of a run's nodes, unless a driver of another epoch has it; in a transaction.

        Where events are kept, there is one of each, however often it is told, and one, of the time `at`, that says how many were left out, if any.
        """
        ...

    def set_summary(self, run_id: str, epoch: int, text: str) -> None:
        """Keep what lists show of a run, as JSON, unless a driver of another epoch has it."""
        ...

    def summary(self, run_id: str) -> str:
        """Return what lists show of a run; empty where nothing is kept, or it is not as it was written."""
        ...

    def forget(self, run_id: str) -> None:
        """Delete a run with its lease and its requests."""
        ...

    # -- leases --------------------------------------------------------------------------------------------

    def grant(self, claim: Claim) -> None:
        """Make a holder the driver of a run, in place of the one before."""
        ...

    def renew(self, claim: Claim) -> bool:
        """Extend a claim; False if its epoch does not have the run any more."""
        ...

    def give_back(self, run_id: str, epoch: int, *, at: float = 0.0) -> None:
        """End a claim, if its epoch still has the run; the work of one that is Resuming waits again."""
        ...

    # -- work ----------------------------------------------------------------------------------------------

    def drive(self, claim: Claim, work: int | None) -> bool:
        """Make the run's work its driver's, in the transaction of `grant`; False if that must not be.

        Work that a worker claimed is only for a driver that names the number of this claim. A driver that names none takes
        work that waits, and a run that has no work.
        """
        ...

    def begin(self, header: RunHeader) -> None:
        """Name a run that was made before it was driven, and set its state."""
        ...

    def lose(self, header: RunHeader, *, at: float, crashes: int, most: int, why: str) -> bool:
        """Let the work of a run that lost its driver wait again, unless it was claimed again meanwhile.

        `crashes` are added to those of before; from `most` on, the run is Crashed instead.
        """
        ...

    # -- requests ------------------------------------------------------------------------------------------

    def ask(self, run_id: str, epoch: int, kind: str, body: Mapping[str, Any], *, at: float) -> int:
        """Add a request to the driver of an epoch, in a transaction; returns a number that is never given twice."""
        ...

    def version(self) -> int:
        """Return a number that differs as soon as another connection wrote something; a few microseconds."""
        ...

    def waiting(self, run_id: str, epoch: int) -> list[Request]:
        """Return the requests that a driver has not answered, oldest first."""
        ...

    def answer(self, request: int, run_id: str, epoch: int, error: str, *, at: float) -> None:
        """Answer a request to this run and epoch; only the first answer counts."""
        ...

    def answer_all(self, run_id: str, epoch: int, error: str, *, at: float) -> None:
        """Answer all requests to drivers up to an epoch that have no answer."""
        ...

    def answer_of(self, request: int) -> tuple[str, str | None] | None:
        """Return the run that a request is for, and its answer; None if there is no such request."""
        ...

    def close(self) -> None:
        """Let the connection go; calling it again does nothing."""
        ...
