"""Intervals: from an anchor on, in elapsed time, or by the days of a calendar."""

from __future__ import annotations

from datetime import datetime, timedelta
from math import floor
from zoneinfo import ZoneInfo

from graphflow.common.durations import duration_seconds
from graphflow.errors import ParameterError, ScheduleError
from graphflow.orchestration.timing.moments import local_time
from graphflow.orchestration.timing.zones import EPOCH, instant_of, local_of

__all__ = ["IntervalTimes"]

_DAY = 86_400
_FROM = " from "


class IntervalTimes:
    """When an interval fires: `15m`, or `1d from 2026-01-01T02:30`; without an anchor, from 1970-01-01 on.

    Whole days in a zone other than UTC fire at the same time on the clock each day; else time that has passed counts.

    Raises
    ------
    ScheduleError
        If it is not an interval of at least a second.
    """

    def __init__(self, text: str, zone: ZoneInfo) -> None:
        length, _, anchor = text.partition(_FROM)
        try:
            self.seconds = duration_seconds(length)
        except ParameterError as error:
            raise ScheduleError(f"the interval {error}") from None
        if self.seconds < 1:
            raise ScheduleError(f"the interval {text!r} is {self.seconds:g} s; use at least 1 s")
        self._zone = zone
        self._local: datetime = local_time(anchor.strip(), zone) if anchor else EPOCH
        self.is_by_clock = self.seconds % _DAY == 0 and zone.key != "UTC"
        self._anchor = instant_of(zone, self._local) if anchor else 0.0

    def next(self, after: float) -> float | None:
        """Return the first fire after a moment."""
        if not self.is_by_clock:
            return self._anchor + (floor((after - self._anchor) / self.seconds) + 1) * self.seconds
        passed = (local_of(self._zone, after) - self._local).total_seconds()
        number = floor(passed / self.seconds)
        while True:
            at = instant_of(self._zone, self._local + timedelta(seconds=number * self.seconds))
            if at > after:
                return at
            number += 1

    def explain(self) -> str:
        """Return what it means, in words."""
        return "At the same time on the clock" if self.is_by_clock else "In elapsed time"
