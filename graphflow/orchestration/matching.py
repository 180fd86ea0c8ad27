"""What automations make of events: patterns, counts in a window, and what is absent. Pure."""

from __future__ import annotations

import bisect
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from graphflow.model.texts import value_at

if TYPE_CHECKING:
    from graphflow.model.automated import Automation, Pattern

__all__ = [
    "LATE_SECONDS",
    "MOST_DEPTH",
    "Window",
    "absence_of",
    "count_in",
    "has_values",
    "is_own",
    "key_of",
    "matches",
]

LATE_SECONDS = 300.0
"""So late may an event come and still be counted where it belongs."""
MOST_DEPTH = 8
"""So many rules may lead to one another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The events that a rule has counted for one key and not fired for, by time, and when it fired last."""

    seen: tuple[tuple[float, str], ...] = ()
    """Time and subject of each, in order of time."""
    fired: float | None = None
    """The time of the event that it fired for."""

    def to_json(self) -> str:
        """Return it as JSON."""
        return json.dumps({"seen": self.seen, "fired": self.fired})

    @classmethod
    def from_json(cls, text: str) -> Window:
        """Return what `to_json` wrote."""
        found = json.loads(text)
        return cls(seen=tuple((at, subject) for at, subject in found["seen"]), fired=found["fired"])


def matches(pattern: Pattern, event: Mapping[str, Any]) -> bool:
    """Return whether an event is meant by a pattern."""
    type = event["type"]
    return any(_type(each).fullmatch(type) for each in pattern.type) and has_values(pattern.where, event)


def has_values(where: Mapping[str, Sequence[Any]], document: Mapping[str, Any]) -> bool:
    """Return whether a document has one of the values at each path; of a list, one in it.

    A deployment is meant by its full name, or by its own alone.
    """
    return all(_is_one(path, values, value_at(document, path)) for path, values in where.items())


def _is_one(path: str, values: Sequence[Any], found: Any) -> bool:
    if path == "related.deployment" and isinstance(found, str):
        return found in values or found.rpartition("/")[2] in values
    every = found if isinstance(found, list | tuple) else (found,)
    # True is not 1 here.
    return any(
        (type(a) is type(b) and a == b) or (_are_numbers(a, b) and a == b) for a in every for b in values
    )


def _are_numbers(*values: Any) -> bool:
    return all(isinstance(each, int | float) and not isinstance(each, bool) for each in values)


@lru_cache(maxsize=1_024)
def _type(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, pattern.split("*"))))


def key_of(paths: Sequence[str], event: Mapping[str, Any]) -> str:
    """Return what is watched apart: the values at the paths, as JSON; empty without paths."""
    return json.dumps([value_at(event, path) for path in paths], sort_keys=True) if paths else ""


def is_own(rule_id: str, event: Mapping[str, Any]) -> bool:
    """Return whether an event comes from what the rule itself did."""
    own = f"rule:{rule_id}"
    related = event["related"]
    return own in (related.get("by"), related.get("origin"))


def count_in(
    window: Window, at: float, subject: str, *, count: int, within: float
) -> tuple[Window, tuple[str, ...] | None]:
    """Count an event; return the window after it, and the subjects of the events that it fires for, if it does.

    It fires when `count` events lie within `within` seconds of each other, by their own times in whatever order they come, and
    then not again for events within that time of the one that it fired for.
    """
    if window.fired is not None and abs(at - window.fired) < within:
        return window, None
    newest = max([at, *(each[0] for each in window.seen[-1:])])
    oldest = newest - within - LATE_SECONDS
    seen = [each for each in window.seen if each[0] >= oldest]
    if at < oldest:
        return Window(seen=tuple(seen), fired=window.fired), None
    place = bisect.bisect_right(seen, at, key=lambda each: each[0])
    seen.insert(place, (at, subject))
    # All runs of `count` neighbours that the new one is in.
    for begin in range(max(0, place - count + 1), min(place, len(seen) - count) + 1):
        if seen[begin + count - 1][0] - seen[begin][0] < within:
            told = tuple(dict.fromkeys(each[1] for each in seen[begin : begin + count]))
            left = [each for each in seen if abs(each[0] - at) >= within]
            return Window(seen=tuple(left), fired=at), told
    return Window(seen=tuple(seen), fired=window.fired), None


def absence_of(automation: Automation, event: Mapping[str, Any]) -> Literal["arm", "disarm", "rearm"] | None:
    """Return what an event does to the bucket of what is absent.

    `arm`: it is due from now on, unless it was before. `disarm`: it happened. `rearm`: it happened, and must happen again.
    """
    absent, after = automation.absent, automation.after
    if absent is not None and matches(absent.pattern, event):
        return "rearm" if after is None else "disarm"
    if after is not None and matches(after, event):
        return "arm"
    return None
