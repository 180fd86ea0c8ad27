"""Cron expressions fire at just the minutes that a walk over all minutes of three years finds, in twelve zones."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import numpy
import pytest

from graphflow.model.deployed import Schedule
from graphflow.orchestration.timing.times import fires_after
from graphflow.orchestration.timing.zones import offset_at, zone_of

BEGIN, END = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) for year in (2024, 2027))
ZONES = [
    "UTC",
    "Europe/Paris",
    "Europe/London",
    "Europe/Dublin",
    "America/New_York",
    "America/Santiago",
    "America/St_Johns",
    "Australia/Lord_Howe",
    "Asia/Kolkata",
    "Africa/Casablanca",
    "Africa/Cairo",
    "Pacific/Chatham",
]
SPECS = [
    "30 2 * * *",
    "*/30 2 * * *",
    "15 0-3 * * *",
    "0 */6 * * *",
    "45 */5 1-7 * *",
    "10 1 13 * 5",
    "0 0 L * *",
    "*/20 * 29 3,9,10 *",
]


def minutes_of(zone_name: str) -> tuple[numpy.ndarray, numpy.ndarray]:
    """All minutes of the years, and what the clock shows at each, in minutes since 1970."""
    zone = zone_of(zone_name)
    minutes = numpy.arange(BEGIN // 60 - 2880, END // 60)
    hours = numpy.arange(minutes[0], minutes[-1] + 30, 30)
    offsets = numpy.array([offset_at(zone, float(each) * 60) // 60 for each in hours], dtype=numpy.int64)
    return minutes, minutes + offsets[(minutes - hours[0]) // 30]


def field(text: str, low: int, high: int) -> set[int]:
    found: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        begin, _, end = span.partition("-")
        first, last = (low, high) if span == "*" else (int(begin), int(end or begin))
        found |= set(range(first, last + 1, int(step or 1)))
    return found


def is_match(spec: str, shown: numpy.ndarray) -> numpy.ndarray:
    """Which minutes on the clock an expression names."""
    minute, hour, day, month, weekday = spec.split()
    days = shown // 1440
    first = int(days.min())
    named = []
    of_day, of_weekday, months = (
        field(day.replace("L", "1"), 1, 31),
        field(weekday, 0, 6),
        field(month, 1, 12),
    )
    for number in range(first, int(days.max()) + 1):
        at = date(1970, 1, 1) + timedelta(days=number)
        is_last = (at + timedelta(days=1)).day == 1
        of_month = is_last if day == "L" else at.day in of_day
        of_week = at.isoweekday() % 7 in of_weekday
        both = of_month and of_week if "*" in (day[0], weekday[0]) else of_month or of_week
        named.append(both and at.month in months)
    minutes = numpy.isin(shown % 60, list(field(minute, 0, 59)))
    return minutes & numpy.isin(shown // 60 % 24, list(field(hour, 0, 23))) & numpy.array(named)[days - first]


def walked(spec: str, minutes: numpy.ndarray, shown: numpy.ndarray) -> list[float]:
    """The fires, minute by minute: by what the clock shows, and for times on the clock once each."""
    fires = is_match(spec, shown)
    if not spec.split()[1].startswith("*"):
        latest = numpy.maximum.accumulate(shown)
        # Shown for the first time; and after a jump, for all that was jumped over.
        fires &= numpy.concatenate([[True], shown[1:] > latest[:-1]])
        for place in numpy.flatnonzero(shown[1:] - shown[:-1] > 1) + 1:
            gap = numpy.arange(shown[place - 1] + 1, shown[place])
            fires[place] |= bool(is_match(spec, gap).any())
    return [float(each) * 60 for each in minutes[fires] if each * 60 > BEGIN]


@pytest.mark.parametrize("zone", ZONES)
def test_what_fires_is_what_a_walk_over_each_minute_finds(zone: str) -> None:
    minutes, shown = minutes_of(zone)
    for spec in SPECS:
        expected = walked(spec, minutes, shown)
        found = []
        for at in fires_after(Schedule(kind="cron", spec=spec, zone=zone), float(BEGIN)):
            if at >= END:
                break
            found.append(at)
        assert found == expected, spec
        assert all(one < other for one, other in pairwise(found))
