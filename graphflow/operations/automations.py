"""Automations and hooks: looked at, paused, tried and removed. `graphflow deploy apply` stores them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphflow.common.durations import duration_text
from graphflow.model.asked import AskedTrial
from graphflow.model.automated import Automation, Pattern
from graphflow.model.happening import Happening
from graphflow.model.views import (
    AutomationList,
    AutomationView,
    DoneAction,
    HookList,
    HookView,
    TriedAction,
    TriedList,
    TriedView,
)
from graphflow.operations.home import Home, iso
from graphflow.orchestration.reactor import try_event
from graphflow.orchestration.stores.rules import StoredRule

__all__ = [
    "list_automations",
    "list_hooks",
    "pause",
    "remove",
    "remove_hook",
    "resume",
    "show",
    "test",
]


def list_automations(home: Home) -> AutomationList:
    """List automations."""
    last = home.stores.rules.last_firings()
    return AutomationList(automations=[_view(each, last) for each in home.stores.rules.all()])


def show(home: Home, *, automation: str) -> AutomationView:
    """Show an automation, and what it did last."""
    stored = home.stores.rules.find(automation)
    actions = [
        DoneAction(
            at=iso(each.at),
            action=each.kind,
            target=each.body.get("target"),
            state=each.state,
            tries=each.tries,
            error=each.error,
            event=each.event_id,
            id=each.id,
        )
        for each in home.stores.rules.actions(stored.id)
    ]
    return _view(stored, home.stores.rules.last_firings(), actions=actions)


def pause(home: Home, *, automation: str) -> AutomationView:
    """Pause an automation: what happens meanwhile it does not see."""
    return _view(home.stores.rules.pause(automation, True), home.stores.rules.last_firings())


def resume(home: Home, *, automation: str) -> AutomationView:
    """Let an automation go on from now."""
    return _view(home.stores.rules.pause(automation, False), home.stores.rules.last_firings())


def remove(home: Home, *, automation: str) -> AutomationView:
    """Remove an automation; what it has to send is still sent."""
    last = home.stores.rules.last_firings()
    return _view(home.stores.rules.remove(automation), last)


def test(home: Home, *, event: AskedTrial, automation: str = "") -> TriedList:
    """Return what automations, or one, would do for an event; nothing is done or sent."""
    happening = Happening(seq=0, time=home.stores.clock.wall(), **event.model_dump())
    return TriedList(
        automations=[
            TriedView(
                automation=each.automation,
                fires=each.fires,
                why=each.why,
                actions=[
                    TriedAction(state=of.state, error=of.error, body=dict(of.body)) for of in each.actions
                ],
            )
            for each in try_event(home.stores, happening, automation)
        ]
    )


def list_hooks(home: Home) -> HookList:
    """List hooks; of their secrets there are the names alone."""
    return HookList(
        hooks=[HookView(**each.model_dump(), made_by=made_by) for each, made_by in home.stores.hooks.all()]
    )


def remove_hook(home: Home, *, hook: str) -> HookList:
    """Remove a hook: its address takes nothing any more."""
    home.stores.hooks.remove(hook)
    return list_hooks(home)


def _view(stored: StoredRule, last: Mapping[str, tuple[float, int]], **more: Any) -> AutomationView:
    of = stored.automation
    at, count = last.get(stored.id, (None, 0))
    fields = {name: getattr(of, name) for name in Automation.model_fields}
    return AutomationView.model_validate(
        {
            **{name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()},
            "id": stored.id,
            "watches": _watches(of),
            "revision": stored.revision,
            "since": iso(stored.since),
            "made_by": stored.made_by,
            "fired": count,
            "last_fired": iso(at),
            **more,
        }
    )


def _watches(of: Automation) -> str:
    each = f" for each {', '.join(of.for_each)}" if of.for_each else ""
    if of.absent is not None:
        after = "" if of.after is None else f" after {_pattern(of.after)}"
        return (
            f"no {_pattern(of.absent.pattern)} within {duration_text(of.absent.within_seconds)}{after}{each}"
        )
    within = "" if of.within_seconds is None else f", {of.count} within {duration_text(of.within_seconds)}"
    return f"{'' if of.when is None else _pattern(of.when)}{within}{each}"


def _pattern(pattern: Pattern) -> str:
    where = [f"{path}={'|'.join(map(str, values))}" for path, values in pattern.where.items()]
    return " ".join([" or ".join(pattern.type), *where])
