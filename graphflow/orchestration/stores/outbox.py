"""What is to be sent outside: who sends it now, and what became of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graphflow.common.failpoints import failpoint
from graphflow.histories import statements
from graphflow.histories.catalogs import SqliteCatalog
from graphflow.ports import Clock

__all__ = ["MOST_TRIES", "RETRY_SECONDS", "Outbox", "ToSend"]

RETRY_SECONDS = (10.0, 50.0, 180.0, 360.0)
"""The pauses between the tries: 10 minutes in all."""
MOST_TRIES = len(RETRY_SECONDS) + 1
CLAIM_SECONDS = 120.0
"""Who has not said by then what became of it is dead: it is sent again, with the same key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToSend:
    """Something to send; its id is its key for whoever gets it."""

    id: str
    rule_id: str
    kind: str
    body: Mapping[str, Any]
    tries: int
    """Which try this is, from 1."""
    event_id: str


class Outbox:
    """What rules send; each method is one transaction."""

    def __init__(self, catalog: SqliteCatalog, clock: Clock) -> None:
        self._catalog = catalog
        self._clock = clock

    def next_due(self) -> float | None:
        """Return when something is to be sent next; cheap."""
        rows = self._catalog.rows(statements.NEXT_ACTION)
        return rows[0][0] if rows else None

    def claim(self, *, most: int) -> list[ToSend]:
        """Return what is due, and is nobody else's for two minutes."""
        with self._catalog.transaction():
            now = self._clock.wall()
            found = []
            for id, rule_id, kind, body, tries, event_id in self._catalog.rows(
                statements.DUE_ACTIONS, (now, most)
            ):
                self._catalog.execute(statements.TRY_ACTION, (now + CLAIM_SECONDS, id))
                found.append(
                    ToSend(
                        id=id,
                        rule_id=rule_id,
                        kind=kind,
                        body=json.loads(body),
                        tries=tries + 1,
                        event_id=event_id,
                    )
                )
        return found

    def sent(self, each: ToSend) -> None:
        """Write that it was sent."""
        failpoint("sender.sent.before")
        self._catalog.execute(statements.END_ACTION, ("sent", self._clock.wall(), "", each.id, each.tries))
        failpoint("sender.sent.after")

    def failed(self, each: ToSend, error: str, *, is_final: bool = False) -> bool:
        """Write that it was not sent: it is tried again later, or has failed for good, with an event; return whether."""
        with self._catalog.transaction():
            now = self._clock.wall()
            is_over = is_final or each.tries >= MOST_TRIES
            state = "failed" if is_over else "waiting"
            due = now if is_over else now + RETRY_SECONDS[each.tries - 1]
            if (
                self._catalog.execute(statements.END_ACTION, (state, due, error, each.id, each.tries))
                and is_over
            ):
                tell_failed(
                    self._catalog,
                    each.id,
                    at=now,
                    kind=each.kind,
                    automation=str(each.body.get("automation", "")),
                    rule_id=each.rule_id,
                    error=error,
                    tries=each.tries,
                    depth=int(each.body.get("depth", 0)),
                )
        return is_over


def tell_failed(
    catalog: SqliteCatalog,
    action_id: str,
    *,
    at: float,
    kind: str,
    automation: str,
    rule_id: str,
    error: str,
    depth: int,
    tries: int = 1,
) -> None:
    """Write the event of an action that failed; in a transaction."""
    catalog.emit(
        id=f"{action_id}:failed",
        at=at,
        type="graphflow.action.failed",
        subject=action_id,
        related={"automation": automation, "by": f"rule:{rule_id}"},
        data={"kind": kind, "error": error, "tries": tries},
        depth=depth,
    )
