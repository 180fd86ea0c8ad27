"""Automations: rules that are watched for, what each has fired, and what was done then."""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from graphflow.errors import NotFound
from graphflow.histories import statements
from graphflow.histories.catalogs import SqliteCatalog
from graphflow.model.automated import Automation
from graphflow.orchestration.naming import rule_id
from graphflow.ports import Clock

__all__ = ["Bucket", "Rules", "StoredAction", "StoredRule"]

logger = logging.getLogger("graphflow.orchestration.rules")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRule:
    """An automation as it is stored."""

    id: str
    automation: Automation
    revision: int
    since: float
    """It sees events from then on: since it was stored, changed or resumed."""
    made_by: str
    """The file that `deploy apply` made it from, else empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAction:
    """Something that was done, or is to be sent."""

    id: str
    kind: str
    body: Mapping[str, Any]
    state: str
    """`done`, `waiting`, `sent` or `failed`."""
    tries: int
    due: float
    error: str
    event_id: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """What a rule remembers of one key: events in a window, or when something is absent."""

    opened: float
    due: float | None = None
    event_id: str = ""
    body: str = ""


class Rules:
    """The automations of a home."""

    def __init__(self, catalog: SqliteCatalog, clock: Clock) -> None:
        self._catalog = catalog
        self._clock = clock
        self._parsed: dict[tuple[str, str], Automation] = {}

    # -- writing ---------------------------------------------------------------------------------------------

    def put(self, automation: Automation, *, made_by: str = "") -> tuple[StoredRule, str]:
        """Store an automation in place of the one of its name; return it, and `added`, `changed` or `unchanged`.

        One that changed begins again: it sees events from now on, and has counted none.
        """
        now = self._clock.wall()
        key = rule_id(automation.name)
        with self._catalog.whole():
            known = next((each for each in self.all() if each.id == key), None)
            if known is not None and known.automation == automation and known.made_by == made_by:
                return known, "unchanged"
            revision = 1 if known is None else known.revision + 1
            stored = StoredRule(id=key, automation=automation, revision=revision, since=now, made_by=made_by)
            self._write(stored)
            verb = "added" if known is None else "changed"
            self._audit(verb, automation.name)
        return stored, verb

    def pause(self, name: str, is_paused: bool) -> StoredRule:
        """Pause an automation, or let it go on; what happens meanwhile it does not see.

        Raises
        ------
        NotFound
            If there is none.
        """
        with self._catalog.whole():
            known = self.find(name)
            if known.automation.is_paused == is_paused:
                return known
            changed = known.automation.model_copy(update={"is_paused": is_paused})
            stored = replace(known, automation=changed, revision=known.revision + 1, since=self._clock.wall())
            self._write(stored)
            self._audit("paused" if is_paused else "resumed", name)
        return stored

    def remove(self, name: str) -> StoredRule:
        """Remove an automation; what it has to send is still sent.

        Raises
        ------
        NotFound
            If there is none.
        """
        with self._catalog.whole():
            stored = self.find(name)
            self._catalog.execute(statements.DELETE_BUCKETS, (stored.id,))
            self._catalog.execute(statements.DELETE_RULE, (stored.id,))
            self._audit("removed", name)
        return stored

    def _write(self, stored: StoredRule) -> None:
        of = stored.automation
        body = of.model_dump_json()
        row = (
            stored.id,
            of.name,
            body,
            int(not of.is_paused),
            stored.revision,
            stored.since,
            stored.made_by,
        )
        self._catalog.execute(statements.PUT_RULE, row)
        self._catalog.execute(statements.DELETE_BUCKETS, (stored.id,))
        if of.absent is not None and of.after is None and not of.for_each and not of.is_paused:
            # Always armed.
            due = stored.since + of.absent.within_seconds
            self.put_bucket(stored.id, "", Bucket(opened=stored.since, due=due))

    def _audit(self, verb: str, name: str) -> None:
        self._catalog.audit(verb, name, at=self._clock.wall(), related={"automation": name})

    # -- reading ---------------------------------------------------------------------------------------------

    def all(self) -> list[StoredRule]:
        """Return all automations, by name."""
        return sorted(
            map(self._stored, self._catalog.rows(statements.RULES)), key=lambda each: each.automation.name
        )

    def watching(self) -> list[StoredRule]:
        """Return those that are not paused, locked in the order of their ids; in a transaction."""
        found = []
        for row in self._catalog.rows(statements.LOCKED_RULES):
            try:
                found.append(self._stored(row))
            except ValidationError as error:
                # One that another version wrote must not stop all others.
                logger.error("the automation %s cannot be read, and does not fire: %s", row[1], error)
        return found

    def find(self, name: str) -> StoredRule:
        """Return the automation of a name.

        Raises
        ------
        NotFound
            If there is none.
        """
        every = self.all()
        for each in every:
            if name in (each.automation.name, each.id):
                return each
        close = difflib.get_close_matches(name, [each.automation.name for each in every], n=1)
        hint = f"did you mean {close[0]}?" if close else "`graphflow automations ls` lists them"
        raise NotFound(f"there is no automation {name!r}; {hint}")

    def firings(self, rule: str, *, limit: int = 20) -> list[tuple[str, str, float]]:
        """Return the event, key and time of the last firings, newest first."""
        return [tuple(row) for row in self._catalog.rows(statements.FIRINGS_OF, (rule, limit))]

    def last_firings(self) -> dict[str, tuple[float, int]]:
        """Return when each rule fired last, and how often, by its id."""
        return {rule: (at, count) for rule, at, count in self._catalog.rows(statements.LAST_FIRINGS)}

    def actions(self, rule: str, *, limit: int = 20) -> list[StoredAction]:
        """Return what was done last, newest first."""
        return [
            StoredAction(
                id=id,
                kind=kind,
                body=json.loads(body),
                state=state,
                tries=tries,
                due=due,
                error=error,
                event_id=event_id,
                at=at,
            )
            for id, kind, body, state, tries, due, error, event_id, at in self._catalog.rows(
                statements.ACTIONS_OF, (rule, limit)
            )
        ]

    def _stored(self, row: Sequence[Any]) -> StoredRule:
        key, _, body, _, revision, since, made_by = row
        automation = self._parsed.get((key, body))
        if automation is None:
            automation = Automation.model_validate_json(body)
            if len(self._parsed) > 1_000:
                self._parsed.clear()
            self._parsed[key, body] = automation
        return StoredRule(id=key, automation=automation, revision=revision, since=since, made_by=made_by)

    # -- what the reactor keeps; in its transaction ----------------------------------------------------------------

    def bucket(self, rule: str, key: str) -> Bucket | None:
        """Return what is remembered of a key."""
        rows = self._catalog.rows(statements.BUCKET, (rule, key))
        if not rows:
            return None
        opened, _, due, event_id, body = rows[0]
        return Bucket(opened=opened, due=due, event_id=event_id, body=body)

    def put_bucket(self, rule: str, key: str, bucket: Bucket, *, count: int = 0) -> None:
        """Remember something of a key."""
        row = (rule, key, bucket.opened, count, bucket.due, bucket.event_id, bucket.body)
        self._catalog.execute(statements.PUT_BUCKET, row)

    def drop_bucket(self, rule: str, key: str) -> None:
        """Forget a key."""
        self._catalog.execute(statements.DELETE_BUCKET, (rule, key))

    def due_buckets(self, at: float, limit: int) -> list[tuple[str, str, Bucket]]:
        """Return what is absent by a time: rule, key and bucket."""
        return [
            (rule, key, Bucket(opened=opened, due=due, event_id=event_id, body=body))
            for rule, key, opened, due, event_id, body in self._catalog.rows(
                statements.DUE_BUCKETS, (at, limit)
            )
        ]

    def next_bucket(self) -> float | None:
        """Return when something is absent next; cheap."""
        rows = self._catalog.rows(statements.NEXT_BUCKET)
        return rows[0][0] if rows else None

    def add_firing(self, rule: str, event_id: str, key: str) -> bool:
        """Write that a rule fires for an event; False if it has."""
        row = (rule, event_id, key, self._clock.wall())
        return self._catalog.execute(statements.ADD_FIRING, row) == 1

    def add_action(self, stored: StoredAction, rule: str) -> None:
        """Write what was done, or is to be sent."""
        self._catalog.execute(
            statements.ADD_ACTION,
            (
                stored.id,
                rule,
                stored.kind,
                json.dumps(dict(stored.body), default=str),
                stored.state,
                stored.tries,
                stored.due,
                stored.error,
                stored.event_id,
                stored.at,
            ),
        )
