"""What histories do by their catalog alone, wherever records are: finding runs, noticing dead drivers, and requests."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from graphflow.errors import HistoryError, RunNotFound
from graphflow.histories.checks import GONE, is_failed, is_final
from graphflow.histories.leases import SystemClock, this_process
from graphflow.model.records import RunHeader
from graphflow.model.states import state_names
from graphflow.ports import Catalog, Claim, Clock, Holder, Row, claim_of

__all__ = ["CatalogHistory"]

CRASHED = "Crashed"
MOST_CRASHES = 3
"""So many drivers may a run lose: a flow that kills its driver must not run for ever."""
DRIVER_GONE = "its driver died; it waits for a worker, which resumes it"


class CatalogHistory(ABC):
    """A part of `History`; what keeps records derives from it.

    Parameters
    ----------
    clock
        What leases go by; this machine's by default.
    lease_seconds
        How long a driver that is not heard of keeps its run.
    holder
        Who takes leases; this process by default.
    """

    def __init__(self, *, clock: Clock | None, lease_seconds: float, holder: Holder | None) -> None:
        self.lease_seconds = lease_seconds
        self._clock: Clock = clock or SystemClock()
        self._holder = holder

    # -- what derives from it gives ------------------------------------------------------------------------

    @property
    @abstractmethod
    def _where(self) -> str:
        """Where it is, for messages: `in <folder>`."""

    @abstractmethod
    def _open(self) -> Catalog:
        """The catalog."""

    def _readable(self) -> Catalog | None:
        """The catalog, where there is one."""
        return self._open()

    @abstractmethod
    def _is_locked(self, run_id: str) -> bool:
        """Whether a driver on this machine lives."""

    def _last(self, header: RunHeader) -> tuple[str, float, int]:
        """The state in which a driver that is gone left its run, since when, and by which commit (0: none)."""
        return CRASHED, self._clock.wall(), 0

    def _ask_waiting(self, catalog: Catalog, header: RunHeader, kind: str, *, at: float) -> str:
        """Do what is asked of a run that waits for a worker; return what is wrong, or nothing."""
        return f"it waits for a worker, so it cannot be asked to {kind}"

    # -- readers -------------------------------------------------------------------------------------------

    def find(self, text: str) -> RunHeader:
        catalog = self._readable()
        if catalog is None or not text:
            raise self._missing(text)
        if text in ("@latest", "@latest-failed"):
            for header in self._newest(catalog.runs()):
                if text == "@latest" or is_failed(header):
                    return header
            raise RunNotFound(f"there is no {'failed ' if text == '@latest-failed' else ''}run {self._where}")
        rows = catalog.named(text)
        if not rows:
            raise self._missing(text)
        if len(rows) > 1:
            ids = ", ".join(header.id for header, _ in rows[:3])
            raise RunNotFound(
                f"several runs have an id that begins with {text!r}: {ids}, ...; use a longer prefix"
            )
        seen = self._seen(*rows[0])
        if seen.name != text and not seen.id.upper().startswith(text.upper()):
            # It only had this name in the catalog.
            raise self._missing(text)
        return seen

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
        catalog = self._readable()
        if catalog is None:
            return []
        last = None if before is None else self._known(before)[0]
        # What has not ended by its row may have ended when it is looked at; what has ended stays so.
        hidden = [name for name in state_names() if states and name not in states and is_final(name)]
        rows = catalog.runs(
            flow_name=flow_name or "",
            since=since,
            before=last,
            hidden=hidden,
            deployment=deployment,
            tag=tag,
        )
        found: list[RunHeader] = []
        for header in self._newest(rows):
            if limit is not None and len(found) >= limit:
                break
            if (
                (not states or header.state in states)
                and flow_name in (None, header.flow_name)
                and deployment in ("", header.plan.deployment)
                and (not tag or tag in header.plan.tags)
            ):
                found.append(header)
        return found

    # -- requests ------------------------------------------------------------------------------------------

    def request(self, run_id: str, kind: str, body: Mapping[str, Any]) -> int:
        self._known(run_id)
        catalog = self._open()
        with catalog.transaction():
            number, error = self.request_in(catalog, run_id, kind, body)
        if number is None:
            raise HistoryError(error)
        return number

    def request_in(
        self, catalog: Catalog, run_id: str, kind: str, body: Mapping[str, Any]
    ) -> tuple[int | None, str]:
        """Ask something of a run, in the transaction that is open.

        Returns
        -------
        The number of the request, None where nobody can be asked; and what is wrong, empty if it is done or the driver has yet
        to answer.

        Raises
        ------
        RunNotFound
            If there is no such run.
        """
        header, claim = self._row(catalog, run_id)
        is_driven = claim is not None and self._is_alive(claim)
        at = self._clock.wall()
        if header.work is not None and not is_driven:
            number = catalog.ask(run_id, header.epoch, kind, body, at=at)
            error = self._ask_waiting(catalog, header, kind, at=at)
            catalog.answer(number, run_id, header.epoch, error, at=at)
            return number, error
        if claim is None or not is_driven:
            return None, f"run {run_id} ({header.name}) has no driver, so it cannot be asked to {kind}"
        return catalog.ask(run_id, claim.epoch, kind, body, at=at), ""

    def summary(self, run_id: str) -> str:
        catalog = self._readable()
        return "" if catalog is None else catalog.summary(run_id)

    def answer_of(self, request: int) -> str | None:
        catalog = self._readable()
        found = None if catalog is None else catalog.answer_of(request)
        if catalog is None or found is None:
            raise HistoryError(f"there is no request {request} {self._where}")
        run_id, answer = found
        if answer is None:
            row = catalog.run(run_id)
            if row is None or row[1] is None or not self._is_alive(row[1]):
                # It may have answered just before it went.
                later = catalog.answer_of(request)
                return GONE if later is None or later[1] is None else later[1]
        return answer

    def waits_for(self, run_id: str) -> str:
        # Where limits are kept, it is overridden.
        return ""

    # -- parts ---------------------------------------------------------------------------------------------

    def _me(self) -> Holder:
        return self._holder or this_process()

    def _claim(self, run_id: str, epoch: int) -> Claim:
        """A claim of this process, from now on."""
        return claim_of(run_id, epoch, self._me(), self._clock, self.lease_seconds)

    def _missing(self, text: str) -> RunNotFound:
        return RunNotFound(
            f"no run matches {text!r} {self._where}; use an id, a unique prefix of one, a name, @latest or"
            " @latest-failed. `graphflow runs ls` lists them"
        )

    def _known(self, run_id: str) -> Row:
        catalog = self._readable()
        if catalog is None:
            raise self._missing(run_id)
        return self._row(catalog, run_id)

    def _row(self, catalog: Catalog, run_id: str) -> Row:
        row = catalog.run(run_id)
        if row is None:
            raise self._missing(run_id)
        return row

    def _check_free(self, claim: Claim | None, what: str) -> None:
        """Raise `LeaseHeld` if a run has a driver."""
        if claim is not None and self._is_alive(claim):
            raise claim.held(self._me(), self._clock, what)

    def _is_alive(self, claim: Claim) -> bool:
        me = self._me()
        has_lock = me.is_beside(claim.holder) and self._is_locked(claim.run_id)
        return claim.is_alive(me, self._clock, has_lock=has_lock)

    def _newest(self, rows: Iterable[Row]) -> Iterator[RunHeader]:
        for row in rows:
            yield self._seen(*row)

    def _seen(self, header: RunHeader, claim: Claim | None) -> RunHeader:
        """Return a run as it is now; that its driver is gone is noticed here, and written down."""
        if claim is not None and self._is_alive(claim):
            return replace(header, lease=claim.lease(self._me(), self._clock))
        if is_final(header.state) or self._waits(header, claim):
            return header
        state, ended, commit = self._last(header)
        if header.work is not None and not is_final_by(state, commit):
            return self._lost(header)
        seen = replace(header, state=state, ended=ended)
        with suppress(HistoryError):
            self._open().note_state(seen, header.state, commit=commit)
        return seen

    def _waits(self, header: RunHeader, claim: Claim | None) -> bool:
        """Return whether a run has no driver because it waits for one."""
        work = header.work
        return work is not None and (work.state != "claimed" or claim is None)

    def _lost(self, header: RunHeader) -> RunHeader:
        """Let a run whose driver died wait for the next one."""
        with suppress(HistoryError):
            catalog = self._open()
            at = self._clock.wall()
            if catalog.lose(header, at=at, crashes=1, most=MOST_CRASHES, why=DRIVER_GONE):
                row = catalog.run(header.id)
                return header if row is None else row[0]
        return header


def is_final_by(state: str, commit: int) -> bool:
    """Return whether a run's own records say that it ended."""
    return commit > 0 and is_final(state)
