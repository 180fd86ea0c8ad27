"""A catalog in memory."""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from graphflow.model.records import NodeNews, Request, RunHeader
from graphflow.ports import Claim, Row

__all__ = ["VolatileCatalog"]

MOST_NAMED = 4


class VolatileCatalog:
    """The catalog of histories in memory; all that use it share one object."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._headers: dict[str, RunHeader] = {}
        self._claims: dict[str, Claim] = {}
        self._summaries: dict[str, str] = {}
        self._requests: dict[int, tuple[Request, int]] = {}
        """With the epoch of the driver that each was made to."""
        self._asked = 0
        self._version = 0

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self._lock:
            before = dict(self._headers), dict(self._claims), dict(self._requests)
            try:
                yield
            except BaseException:
                self._headers, self._claims, self._requests = before
                raise

    # -- runs ----------------------------------------------------------------------------------------------

    def add(self, header: RunHeader) -> None:
        self._set(header)

    def run(self, run_id: str) -> Row | None:
        with self._lock:
            header = self._headers.get(run_id)
            return None if header is None else (header, self._claims.get(run_id))

    def named(self, text: str) -> list[Row]:
        upper = text.upper()
        rows = [*self.runs()]
        found = (
            [row for row in rows if row[0].id == text]
            or [row for row in rows if row[0].id.upper() == upper]
            or [row for row in rows if row[0].id.upper().startswith(upper)][:MOST_NAMED]
        )
        return found if len(found) == 1 else [row for row in rows if row[0].name == text][:1] or found

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
        with self._lock:
            rows = [(header, self._claims.get(header.id)) for header in self._headers.values()]
        rows.sort(key=lambda row: (row[0].created, row[0].id), reverse=True)
        for row in rows:
            header = row[0]
            if (
                (not flow_name or header.flow_name == flow_name)
                and (since is None or header.created >= since)
                and (before is None or (header.created, header.id) < (before.created, before.id))
                and header.state not in hidden
                and deployment in ("", header.plan.deployment)
                and (not tag or tag in header.plan.tags)
            ):
                yield row

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
        with self._lock:
            header = self._headers.get(run_id)
            if header is not None and header.epoch == epoch:
                first = header.started if header.started is not None else started
                self._set(replace(header, state=state, started=first, ended=ended))

    def note_state(self, header: RunHeader, before: str, *, commit: int = 0) -> None:
        with self._lock:
            known = self._headers.get(header.id)
            if known is not None and (known.epoch, known.state) == (header.epoch, before):
                self._set(replace(known, state=header.state, ended=header.ended))

    def mend_state(self, run_id: str, epoch: int, state: str, *, ended: float | None) -> None:
        with self._lock:
            header = self._headers.get(run_id)
            if header is not None and header.epoch == epoch and header.state != state:
                self._set(replace(header, state=state, ended=ended))

    def tell_nodes(
        self, run_id: str, epoch: int, news: Sequence[NodeNews], *, at: float, left_out: int = 0
    ) -> None:
        """No events are kept in memory."""

    def set_summary(self, run_id: str, epoch: int, text: str) -> None:
        with self._lock:
            header = self._headers.get(run_id)
            if header is not None and header.epoch == epoch:
                self._summaries[run_id] = text

    def summary(self, run_id: str) -> str:
        return self._summaries.get(run_id, "")

    def forget(self, run_id: str) -> None:
        with self._lock:
            self._summaries.pop(run_id, None)
            self._headers.pop(run_id, None)
            self._claims.pop(run_id, None)
            self._requests = {
                number: asked for number, asked in self._requests.items() if asked[0].run_id != run_id
            }
            self._version += 1

    # -- leases --------------------------------------------------------------------------------------------

    def grant(self, claim: Claim) -> None:
        with self._lock:
            self._claims[claim.run_id] = claim
            holder, header = claim.holder, self._headers.get(claim.run_id)
            if header is not None:
                self._set(replace(header, host=holder.host, pid=holder.pid, epoch=claim.epoch))

    def renew(self, claim: Claim) -> bool:
        with self._lock:
            known = self._claims.get(claim.run_id)
            if known is None or known.epoch != claim.epoch:
                return False
            self._claims[claim.run_id] = replace(
                known, steady_until=claim.steady_until, wall_until=claim.wall_until
            )
            return True

    # -- work: nothing waits in memory for another process --------------------------------------------------

    def drive(self, claim: Claim, work: int | None) -> bool:
        return work is None

    def begin(self, header: RunHeader) -> None:
        """No run is made before it is driven."""

    def lose(self, header: RunHeader, *, at: float, crashes: int, most: int, why: str) -> bool:
        return False

    def give_back(self, run_id: str, epoch: int, *, at: float = 0.0) -> None:
        with self._lock:
            known = self._claims.get(run_id)
            if known is not None and known.epoch == epoch:
                del self._claims[run_id]

    # -- requests ------------------------------------------------------------------------------------------

    def ask(self, run_id: str, epoch: int, kind: str, body: Mapping[str, Any], *, at: float) -> int:
        with self._lock:
            self._asked += 1
            self._version += 1
            # A copy, of what could be written down.
            copied = json.loads(json.dumps(dict(body)))
            request = Request(id=self._asked, run_id=run_id, kind=kind, body=copied, at=at)
            self._requests[request.id] = request, epoch
            return request.id

    def version(self) -> int:
        return self._version

    def waiting(self, run_id: str, epoch: int) -> list[Request]:
        with self._lock:
            return [
                request
                for request, of in self._requests.values()
                if request.run_id == run_id and of == epoch and request.answer is None
            ]

    def answer(self, request: int, run_id: str, epoch: int, error: str, *, at: float) -> None:
        with self._lock:
            asked, of = self._requests.get(request, (None, 0))
            if asked is not None and asked.run_id == run_id and of == epoch and asked.answer is None:
                self._requests[request] = replace(asked, answer=error), of
                self._version += 1

    def answer_all(self, run_id: str, epoch: int, error: str, *, at: float) -> None:
        with self._lock:
            for asked, of in list(self._requests.values()):
                if of <= epoch:
                    self.answer(asked.id, run_id, of, error, at=at)

    def answer_of(self, request: int) -> tuple[str, str | None] | None:
        with self._lock:
            asked, _ = self._requests.get(request, (None, 0))
            return None if asked is None else (asked.run_id, asked.answer)

    def close(self) -> None:
        """Nothing is open."""

    def strand(self) -> None:
        """Nothing is open."""

    def _set(self, header: RunHeader) -> None:
        with self._lock:
            self._headers[header.id] = header
            self._version += 1
