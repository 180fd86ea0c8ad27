"""Recurrence rules (RFC 5545), by dateutil."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from dateutil import rrule as rules

from graphflow.errors import ScheduleError
from graphflow.orchestration.timing.zones import EPOCH, instant_of, local_of, naive_utc

__all__ = ["RuleTimes"]

DEFAULT_START = datetime(2020, 1, 1)
MAX_STEPS = 20_000
"""How many times a rule may have before the next one: `after` walks through them all, 2.5 us each."""
_STEP = {rules.WEEKLY: timedelta(weeks=1), rules.DAILY: timedelta(days=1), rules.HOURLY: timedelta(hours=1)}
_STEP[rules.MINUTELY] = timedelta(minutes=1)
_ABOVE_MINUTES = (
    "BYHOUR",
    "BYDAY",
    "BYWEEKDAY",
    "BYMONTHDAY",
    "BYYEARDAY",
    "BYWEEKNO",
    "BYMONTH",
    "BYEASTER",
    "BYSETPOS",
)


class RuleTimes:
    """When a recurrence rule fires in a zone: rules of a day or more by the clock, others in elapsed time.

    A rule without DTSTART begins on 2020-01-01 at 00:00.

    Raises
    ------
    ScheduleError
        If it is not a rule, has a fire each second, or takes too long.
    """

    def __init__(self, text: str, zone: ZoneInfo) -> None:
        self.text = text.strip()
        self._zone = zone
        self._rule = self._parsed()
        named = [
            rules.FREQNAMES.index(each)
            for each in re.findall(r"FREQ=([A-Z]+)", self.text.upper())
            if each in rules.FREQNAMES
        ]
        frequency = max(named, default=rules.YEARLY)
        if frequency >= rules.SECONDLY:
            raise ScheduleError(
                f"the rule {text!r} fires each second; use FREQ=MINUTELY or slower, or an interval in seconds"
            )
        self.is_by_clock = frequency <= rules.DAILY
        if not self.is_by_clock:
            self._check_elapsed()

    def next(self, after: float) -> float | None:
        """Return the first fire after a moment.

        Raises
        ------
        ScheduleError
            If the rule has too many times before it.
        """
        local = local_of(self._zone, after) if self.is_by_clock else naive_utc(after)
        for found in self._after(local):
            at = instant_of(self._zone, found) if self.is_by_clock else (found - EPOCH).total_seconds()
            if at > after:
                return at
        return None

    def explain(self) -> str:
        """Return what it means, in words."""
        return "By the clock" if self.is_by_clock else "In elapsed time"

    def _after(self, local: datetime) -> Iterator[datetime]:
        rule = self._near(local)
        for steps, found in enumerate(rule):
            if steps > MAX_STEPS:
                raise ScheduleError(
                    f"the rule {self.text!r} has over {MAX_STEPS:,} times before {local}, and each of them is looked at; use a"
                    " later DTSTART"
                )
            if found > local:
                yield found

    def _near(self, local: datetime) -> rules.rrule | rules.rruleset:
        """Return the rule from a later start on, where that has the same times: whole steps later, and nothing counted."""
        rule = self._rule
        if not isinstance(rule, rules.rrule) or rule._count is not None or rule._freq not in _STEP:  # type: ignore[attr-defined]
            return rule
        step = _STEP[rule._freq] * rule._interval  # type: ignore[attr-defined]
        steps = (local - rule._dtstart) // step - 1  # type: ignore[attr-defined]
        return rule.replace(dtstart=rule._dtstart + steps * step) if steps > 0 else rule  # type: ignore[attr-defined]

    def _parsed(self) -> rules.rrule | rules.rruleset:
        text = self.text.upper()
        begins_in_utc = re.search(r"DTSTART:\d{8}T\d{6}Z", text) is not None
        if "TZID=" in text or (begins_in_utc and self._zone.key != "UTC"):
            raise ScheduleError(
                f"the rule {self.text!r} names a zone in DTSTART; leave that out, and give the schedule its zone"
            )
        try:
            found = rules.rrulestr(self.text, dtstart=DEFAULT_START, ignoretz=True)
        except (ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
            raise ScheduleError(
                f"{self.text!r} is not a recurrence rule ({error}); use one such as FREQ=WEEKLY;BYDAY=MO;BYHOUR=2"
            ) from error
        return found

    def _check_elapsed(self) -> None:
        for name in _ABOVE_MINUTES:
            if f"{name}=" in self.text.upper():
                raise ScheduleError(
                    f"the rule {self.text!r} has {name}, which a rule of less than a day cannot have: it counts time that has"
                    " passed. Use FREQ=DAILY with BYHOUR, or a cron expression"
                )
