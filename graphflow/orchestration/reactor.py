"""The reactor: lets automations fire. Any number of processes may have one; each turn is a transaction that is safe to repeat.

It takes events that are pending, oldest first, and not those after a number: numbers of concurrent transactions become visible
out of order. What an automation does inside graphflow is in the transaction of its firing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from graphflow.common.durations import duration_text
from graphflow.common.failpoints import failpoint
from graphflow.common.service import Service
from graphflow.common.times import moment
from graphflow.histories import statements
from graphflow.model.happening import Happening
from graphflow.orchestration.actions import Outcome, act
from graphflow.orchestration.matching import (
    MOST_DEPTH,
    Window,
    absence_of,
    count_in,
    is_own,
    key_of,
    matches,
)
from graphflow.orchestration.naming import action_id
from graphflow.orchestration.stores.events import happening_of
from graphflow.orchestration.stores.opening import Stores
from graphflow.orchestration.stores.outbox import tell_failed
from graphflow.orchestration.stores.rules import Bucket, StoredAction, StoredRule

__all__ = ["Reacted", "Reactor", "Tried", "react", "try_event"]

logger = logging.getLogger("graphflow.orchestration.reactor")
ERROR_SECONDS = 1.0
LONGEST_SECONDS = 0.2
"""How long an event of another process may go unseen."""
EVENTS_AT_ONCE = 200
DUE_AT_ONCE = 100
DOWN_SECONDS = 60.0
"""What is absent and was due so long ago was due while no reactor ran."""
TOO_DEEP = f"{MOST_DEPTH} automations led to one another, and this would be one more; it is not done"


@dataclass(slots=True)
class Reacted:
    """What one turn did."""

    events: int = 0
    firings: int = 0
    actions: list[tuple[StoredRule, Outcome]] = field(default_factory=list)


class Reactor:
    """Lets automations fire in a thread of its own.

    Parameters
    ----------
    stores
        Where events and automations are.
    acted
        Called when automations did something: there may be runs to claim, or something to send.
    """

    def __init__(self, stores: Stores, acted: Callable[[], None] = lambda: None) -> None:
        self._stores = stores
        self._acted = acted
        self.service = Service(self.turn, name="graphflow-reactor", interval=ERROR_SECONDS)

    def turn(self) -> float:
        """Look at what is pending, and at what is absent now; return the seconds until the next turn."""
        stores = self._stores
        now = stores.clock.wall()
        due = stores.rules.next_bucket()
        is_due = due is not None and due <= now
        if not is_due and not stores.events.is_any_pending():
            return LONGEST_SECONDS if due is None else min(LONGEST_SECONDS, due - now)
        done = react(stores)
        if done.actions:
            self._acted()
        return 0.0 if done.events == EVENTS_AT_ONCE else LONGEST_SECONDS


def react(stores: Stores, *, most: int = EVENTS_AT_ONCE) -> Reacted:
    """Let automations fire for events that are pending, and for what is absent by now; one transaction."""
    failpoint("reactor.turn.before")
    done = Reacted()
    with stores.catalog.transaction():
        rules = stores.rules.watching()
        pending = [happening_of(*row) for row in stores.catalog.rows(statements.PENDING_EVENTS, (most,))]
        for event in pending:
            _see(stores, rules, event, done)
            stores.catalog.execute(statements.EVENT_IS_DONE, (event.seq,))
        done.events = len(pending)
        if len(pending) < most:
            # Whatever happened before now is known, and has been seen.
            _fire_absent(stores, {each.id: each for each in rules}, done)
        failpoint("reactor.turn.decided")
    failpoint("reactor.turn.after")
    return done


def _see(stores: Stores, rules: list[StoredRule], event: Happening, done: Reacted) -> None:
    if event.depth > MOST_DEPTH:
        return
    plain = _plain(event)
    for rule in rules:
        if event.time >= rule.since:
            _see_one(stores, rule, event, plain, done)


def _see_one(
    stores: Stores, rule: StoredRule, event: Happening, plain: Mapping[str, Any], done: Reacted
) -> None:
    of = rule.automation
    if of.when is None:
        _note_absence(stores, rule, event, plain)
        return
    if is_own(rule.id, plain) or not matches(of.when, plain):
        return
    key = key_of(of.for_each, plain)
    subjects: tuple[str, ...] = (event.subject,)
    if of.within_seconds is not None:
        bucket = stores.rules.bucket(rule.id, key)
        before = Window() if bucket is None else Window.from_json(bucket.body)
        after, fired = count_in(before, event.time, event.subject, count=of.count, within=of.within_seconds)
        if after != before:
            opened = max(event.time, 0.0 if bucket is None else bucket.opened)
            changed = Bucket(opened=opened, event_id=event.id, body=after.to_json())
            stores.rules.put_bucket(rule.id, key, changed, count=len(after.seen))
        if fired is None:
            return
        subjects = fired
    told = {"name": of.name, "count": len(subjects), "subjects": list(subjects)}
    if of.within_seconds is not None:
        told["within"] = duration_text(of.within_seconds)
    _fire(stores, rule, event.id, key, plain, told, event.depth, done)


def _note_absence(stores: Stores, rule: StoredRule, event: Happening, plain: Mapping[str, Any]) -> None:
    of = rule.automation
    step = absence_of(of, plain)
    if step is None or of.absent is None or (step == "arm" and is_own(rule.id, plain)):
        return
    key = key_of(of.for_each, plain)
    bucket = stores.rules.bucket(rule.id, key)
    if step == "disarm":
        if bucket is not None and event.time >= bucket.opened:
            stores.rules.drop_bucket(rule.id, key)
        return
    if bucket is not None and (step == "arm" or event.time < bucket.opened):
        return
    due = event.time + of.absent.within_seconds
    stores.rules.put_bucket(rule.id, key, Bucket(opened=event.time, due=due, event_id=event.id))


def _fire_absent(stores: Stores, rules: Mapping[str, StoredRule], done: Reacted) -> None:
    now = stores.clock.wall()
    for rule_id, key, bucket in stores.rules.due_buckets(now, DUE_AT_ONCE):
        rule = rules.get(rule_id)
        if rule is None or rule.automation.absent is None or bucket.due is None:
            stores.rules.drop_bucket(rule_id, key)
            continue
        absent = rule.automation.absent
        if key or rule.automation.after is not None:
            stores.rules.drop_bucket(rule_id, key)
        else:
            # Always armed.
            again = Bucket(opened=now, due=now + absent.within_seconds)
            stores.rules.put_bucket(rule_id, key, again)
        event = stores.events.find(bucket.event_id) if bucket.event_id else None
        late = now - bucket.due
        told = {
            "name": rule.automation.name,
            "count": 0,
            "subjects": [],
            "absent": " or ".join(absent.pattern.type),
            "within": duration_text(absent.within_seconds),
            "due": moment(bucket.due).isoformat(),
            "late_seconds": late if late > DOWN_SECONDS else 0.0,
            "last": "" if event is None else f"{event.type} of {event.subject} at {_iso(event.time)}",
        }
        firing = f"absent:{bucket.event_id}:{key}:{bucket.due:.3f}"
        plain = _nothing(rule, bucket) if event is None else _plain(event)
        _fire(stores, rule, firing, key, plain, told, 0 if event is None else event.depth, done)


def _nothing(rule: StoredRule, bucket: Bucket) -> dict[str, Any]:
    """Return what stands for the event that did not happen: what it would have had."""
    absent = rule.automation.absent
    where = {} if absent is None else absent.pattern.where
    related = {
        path.removeprefix("related."): values[0]
        for path, values in where.items()
        if path.startswith("related.") and len(values) == 1
    }
    return {
        "id": "",
        "type": "graphflow.automation.absent",
        "source": "graphflow",
        "subject": rule.automation.name,
        "time": _iso(bucket.due or 0.0),
        "related": related,
        "data": {},
    }


def _fire(
    stores: Stores,
    rule: StoredRule,
    event_id: str,
    key: str,
    plain: Mapping[str, Any],
    told: Mapping[str, Any],
    depth: int,
    done: Reacted,
) -> None:
    if not stores.rules.add_firing(rule.id, event_id, key):
        return
    done.firings += 1
    document = {"event": plain, "run": _run(stores, str(plain["subject"])), "automation": told}
    now = stores.clock.wall()
    for place, action in enumerate(rule.automation.then):
        id = action_id(rule.id, event_id, place)
        if depth >= MOST_DEPTH:
            outcome = Outcome(state="failed", body={"target": action.target}, error=TOO_DEEP)
        else:
            outcome = act(stores, rule, action, document, key=id, depth=depth + 1)
        stores.rules.add_action(
            StoredAction(
                id=id,
                kind=action.kind,
                body=outcome.body,
                state=outcome.state,
                tries=0 if outcome.state == "waiting" else 1,
                due=now,
                error=outcome.error,
                event_id=event_id,
                at=now,
            ),
            rule.id,
        )
        if outcome.state == "failed":
            logger.warning("automation %s: %s failed: %s", rule.automation.name, action.kind, outcome.error)
            tell_failed(
                stores.catalog,
                id,
                at=now,
                kind=action.kind,
                automation=rule.automation.name,
                rule_id=rule.id,
                error=outcome.error,
                depth=depth + 1,
            )
        done.actions.append((rule, replace(outcome, body={"kind": action.kind, **outcome.body})))
        failpoint("reactor.turn.fired")


def _plain(event: Happening) -> dict[str, Any]:
    return {
        "id": event.id,
        "type": event.type,
        "source": event.source,
        "subject": event.subject,
        "time": _iso(event.time),
        "related": event.related,
        "data": event.data,
    }


def _iso(at: float) -> str:
    return moment(at).isoformat(timespec="seconds").replace("+00:00", "Z")


def _run(stores: Stores, subject: str) -> dict[str, Any]:
    """Return what texts may say of the run that an event is about; nothing if it is about something else."""
    header = stores.work.header(subject) if subject else None
    if header is None:
        return {}
    plan = header.plan
    return {
        "id": header.id,
        "name": header.name,
        "flow": header.flow_name,
        "deployment": plan.deployment,
        "state": header.state,
        "message": header.message,
        "origin": plan.origin,
        "tags": list(plan.tags),
        "parameters": json.loads(plan.parameters or "{}"),
    }


# -- trying --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What an automation would do for an event."""

    automation: str
    fires: bool
    why: str
    """Why it would not fire."""
    actions: tuple[Outcome, ...] = ()


class _Undo(Exception):
    """Ends the transaction of a trial."""


def try_event(stores: Stores, event: Happening, name: str = "") -> list[Tried]:
    """Return what each automation, or one, would do for an event now; all of it is undone, and nothing is sent.

    Raises
    ------
    NotFound
        If there is no such automation.
    """
    found: list[Tried] = []
    rules = stores.rules.all() if not name else [stores.rules.find(name)]
    try:
        with stores.catalog.transaction():
            for rule in rules:
                # Each alone: what one does, the next must not see.
                try:
                    with stores.catalog.part():
                        found.append(_try_one(stores, rule, event))
                        raise _Undo
                except _Undo:
                    pass
            raise _Undo
    except _Undo:
        return found


def _try_one(stores: Stores, rule: StoredRule, event: Happening) -> Tried:
    done, plain, of = Reacted(), _plain(event), rule.automation
    _see_one(stores, rule, event, plain, done)
    why = ""
    if not done.firings:
        why = _why_not(stores, rule, plain)
    elif of.is_paused:
        why = "it is paused; this is what it would do if it were not"
    return Tried(
        automation=of.name,
        fires=done.firings > 0 and not of.is_paused,
        why=why,
        actions=tuple(outcome for _, outcome in done.actions),
    )


def _why_not(stores: Stores, rule: StoredRule, plain: Mapping[str, Any]) -> str:
    of = rule.automation
    if of.when is None:
        within = "" if of.absent is None else duration_text(of.absent.within_seconds)
        match absence_of(of, plain):
            case "arm":
                return f"it would be armed, and fire in {within} unless what it waits for happens"
            case "disarm":
                return "this is what it waits for: it would be disarmed"
            case "rearm":
                return f"this is what it waits for: it would fire when {within} pass without it"
            case _:
                return "the event is neither what arms it nor what it waits for"
    if is_own(rule.id, plain):
        return "the event comes from what it did itself"
    if not matches(of.when, plain):
        return "the event does not match"
    bucket = stores.rules.bucket(rule.id, key_of(of.for_each, plain))
    window = Window() if bucket is None else Window.from_json(bucket.body)
    within = duration_text(of.within_seconds or 0.0)
    if window.fired is not None and not window.seen:
        return f"it has fired within {within}, and fires once in that time"
    return f"it would count this one: {len(window.seen)} of {of.count} within {within}"
