"""What a schedule fires at: the one place that knows its kinds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Protocol
from zoneinfo import ZoneInfo

from graphflow.errors import ScheduleError
from graphflow.model.deployed import Schedule
from graphflow.orchestration.timing.cron import CronTimes
from graphflow.orchestration.timing.intervals import IntervalTimes
from graphflow.orchestration.timing.moments import OnceTimes
from graphflow.orchestration.timing.rules import RuleTimes
from graphflow.orchestration.timing.zones import zone_of

__all__ = ["Times", "check_schedule", "fires_after", "jitter_of", "next_fire", "times_of"]

YEARS_SECONDS = 5 * 366 * 86_400.0
"""How far a schedule is looked ahead for its first fire."""


class Times(Protocol):
    """Moments in order, without an end or with one."""

    def next(self, after: float) -> float | None:
        """Return the first moment after another; None if there is none."""
        ...

    def explain(self) -> str:
        """Return what they are, in words."""
        ...


_KINDS: dict[str, Callable[[str, ZoneInfo], Times]] = {
    "cron": CronTimes,
    "interval": IntervalTimes,
    "rrule": RuleTimes,
    "at": OnceTimes,
}


def times_of(schedule: Schedule) -> Times:
    """Return the times of a schedule, whatever its start and end.

    Raises
    ------
    ScheduleError
        If its expression or zone is wrong.
    """
    return _KINDS[schedule.kind](schedule.spec, zone_of(schedule.zone))


def next_fire(schedule: Schedule, after: float, *, times: Times | None = None) -> float | None:
    """Return when a schedule fires after a moment, within its start and end."""
    if schedule.starts is not None:
        # A fire at the start itself counts.
        after = max(after, schedule.starts - 1.0)
    found = (times or times_of(schedule)).next(after)
    if found is None or (schedule.ends is not None and found > schedule.ends):
        return None
    return found


def fires_after(schedule: Schedule, after: float) -> Iterator[float]:
    """Yield when a schedule fires after a moment, in order."""
    times = times_of(schedule)
    found = next_fire(schedule, after, times=times)
    while found is not None:
        yield found
        found = next_fire(schedule, found, times=times)


def check_schedule(schedule: Schedule, now: float) -> float:
    """Return the first fire of a schedule.

    Raises
    ------
    ScheduleError
        If there is none in the next 5 years, or the schedule is wrong.
    """
    found = next_fire(schedule, now)
    if schedule.kind == "at" and found is None:
        raise ScheduleError(
            f"the schedule {schedule} does not fire any more: that moment has passed; correct it, or leave it out"
        )
    if found is None or (schedule.kind != "at" and found > max(now, schedule.starts or now) + YEARS_SECONDS):
        raise ScheduleError(
            f"the schedule {schedule} does not fire in the next 5 years; correct it, or leave it out"
        )
    return found


def jitter_of(deployment_id: str, nominal: float, jitter_seconds: float) -> float:
    """Return how much later than its nominal time a fire is due: the same for each process that asks."""
    if not jitter_seconds:
        return 0.0
    digest = hashlib.blake2b(f"{deployment_id}\x1f{nominal:.3f}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64 * jitter_seconds
