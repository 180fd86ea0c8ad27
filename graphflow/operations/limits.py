"""Limits and rates that runs share."""

from __future__ import annotations

from graphflow.errors import NotFound, ParameterError, TaskOptionError
from graphflow.model.asked import AskedLimit, AskedRate
from graphflow.model.map_options import parse_rate
from graphflow.model.views import LimitList, LimitView, RateList, RateView, SlotsView
from graphflow.operations.home import Home
from graphflow.orchestration.stores.limits import Limit

__all__ = [
    "list_limits",
    "list_rates",
    "remove_limit",
    "remove_rate",
    "set_limit",
    "set_rate",
    "show_limit",
]


def list_limits(home: Home) -> LimitList:
    """List limits, and who has slots of them."""
    return LimitList(limits=[_limit(each) for each in home.stores.limits.all()])


def show_limit(home: Home, *, limit: str) -> LimitView:
    """Show a limit, and who has slots of it."""
    found = home.stores.limits.all()
    for each in found:
        if each.name == limit:
            return _limit(each)
    there = ", ".join(each.name for each in found) or "none yet"
    raise NotFound(f"there is no limit {limit!r}; there is {there}")


def set_limit(home: Home, *, limit: str, changes: AskedLimit) -> LimitView:
    """Make a limit or change its size; runs that go on follow within a second."""
    home.stores.limits.set(limit, changes.size)
    return show_limit(home, limit=limit)


def remove_limit(home: Home, *, limit: str) -> LimitList:
    """Remove a limit: its name holds nothing up any more."""
    home.stores.limits.remove(limit)
    return list_limits(home)


def list_rates(home: Home) -> RateList:
    """List rates."""
    rates = home.stores.limits.rates()
    return RateList(
        rates=[RateView(name=each.name, per_second=each.per_second, burst=each.burst) for each in rates]
    )


def set_rate(home: Home, *, rate: str, changes: AskedRate) -> RateView:
    """Make a rate or change it; runs that go on follow within a second."""
    try:
        per_second = parse_rate(f"the rate {rate}", changes.rate) or 0.0
    except TaskOptionError:
        raise ParameterError(
            f"the rate {rate} cannot be {changes.rate!r}; use a number of starts per time, such as 50/s, 600/min or 1000/h"
        ) from None
    home.stores.limits.set_rate(rate, per_second, burst=changes.burst)
    return RateView(name=rate, per_second=per_second, burst=changes.burst)


def remove_rate(home: Home, *, rate: str) -> RateList:
    """Remove a rate: its name holds nothing up any more."""
    home.stores.limits.remove_rate(rate)
    return list_rates(home)


def _limit(limit: Limit) -> LimitView:
    holders = [SlotsView(holder=of.holder, slots=of.slots, wants=of.want) for of in limit.holders]
    return LimitView(
        name=limit.name, size=limit.size, in_use=limit.in_use, wanted=limit.wanted, holders=holders
    )
