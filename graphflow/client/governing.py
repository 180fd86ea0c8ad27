"""What a connection offers for limits, rates, automations and hooks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from graphflow.client.calling import Caller
from graphflow.model.views import AutomationView, HookView, LimitView, RateView, TriedView

__all__ = ["Automations", "Hooks", "Limits", "Rates"]


class Limits:
    """Slots that all runs share, by name."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def __getitem__(self, name: str) -> LimitView:
        found: LimitView = self._caller.call("limits.show", limit=name)
        return found

    def __iter__(self) -> Iterator[LimitView]:
        yield from self._caller.call("limits.list").limits

    def set(self, name: str, size: int) -> LimitView:
        """Make a limit or change its size; 0 lets nothing begin."""
        found: LimitView = self._caller.call("limits.set", limit=name, changes={"size": size})
        return found

    def remove(self, name: str) -> None:
        """Remove a limit: its name holds nothing up any more."""
        self._caller.call("limits.remove", limit=name)


class Rates:
    """Starts per time that all runs share, by name."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def __iter__(self) -> Iterator[RateView]:
        yield from self._caller.call("rates.list").rates

    def set(self, name: str, rate: str | float, *, burst: int = 1) -> RateView:
        """Make a rate or change it: starts per second, or a text such as `50/s`, `600/min` or `1000/h`."""
        changes = {"rate": rate, "burst": burst}
        found: RateView = self._caller.call("rates.set", rate=name, changes=changes)
        return found

    def remove(self, name: str) -> None:
        """Remove a rate: its name holds nothing up any more."""
        self._caller.call("rates.remove", rate=name)


class Automations:
    """What is done when something happens, or does not, by name; `graphflow deploy apply` stores them."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def __getitem__(self, name: str) -> AutomationView:
        found: AutomationView = self._caller.call("automations.show", automation=name)
        return found

    def __iter__(self) -> Iterator[AutomationView]:
        yield from self._caller.call("automations.list").automations

    def pause(self, name: str) -> AutomationView:
        """Pause an automation: what happens meanwhile it does not see."""
        found: AutomationView = self._caller.call("automations.pause", automation=name)
        return found

    def resume(self, name: str) -> AutomationView:
        """Let an automation go on from now."""
        found: AutomationView = self._caller.call("automations.resume", automation=name)
        return found

    def remove(self, name: str) -> AutomationView:
        """Remove an automation, and return it as it was; what it has to send is still sent."""
        found: AutomationView = self._caller.call("automations.remove", automation=name)
        return found

    def test(self, event: Mapping[str, Any], *, automation: str = "") -> Sequence[TriedView]:
        """Return what automations, or one, would do for an event; nothing is done or sent.

        Parameters
        ----------
        event
            Its `type`, and `subject`, `source`, `related`, `data` and `id` where they matter.
        automation
            Only this one.
        """
        found: Sequence[TriedView] = self._caller.call(
            "automations.test", event=dict(event), automation=automation
        ).automations
        return found


class Hooks:
    """Addresses that take webhooks; `graphflow deploy apply` stores them."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def __iter__(self) -> Iterator[HookView]:
        yield from self._caller.call("hooks.list").hooks

    def remove(self, name: str) -> None:
        """Remove a hook: its address takes nothing any more."""
        self._caller.call("hooks.remove", hook=name)
