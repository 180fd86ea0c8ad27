"""Schedules as users write them, in Prefect's spellings: `Cron`, `Interval`, `RRule`, and `At` for a single moment."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, TypedDict, Unpack

from graphflow.common.durations import duration_seconds, duration_text
from graphflow.errors import ParameterError, ScheduleError
from graphflow.model.deployed import Catchup, Schedule

__all__ = [
    "At",
    "Cron",
    "CronSchedule",
    "Interval",
    "IntervalSchedule",
    "RRule",
    "RRuleSchedule",
    "ScheduleOptions",
    "schedule_given",
    "seconds_of",
]

Duration = float | str | timedelta
"""Seconds, a text such as `15m`, or a timedelta."""


class ScheduleOptions(TypedDict, total=False):
    """Options of every kind of schedule."""

    slug: str
    """Its name among the schedules of a deployment; by default its place."""
    parameters: Mapping[str, Any]
    """For the runs of this schedule, over those of the deployment."""
    active: bool
    """False for a schedule that is paused."""
    catchup: Catchup
    """Which missed times run after all: the `latest` (default), `none`, or `all`."""
    catchup_limit: int
    """How many of `all`: the last 100."""
    catchup_window: Duration
    """How old a missed time may be: a day."""
    jitter: Duration
    """Up to so much later a run is due; always the same for one time."""
    starts: datetime
    ends: datetime


class Cron(Schedule):
    """A cron expression of five fields, in the time zone of an IANA name (UTC by default).

    Raises
    ------
    ScheduleError
        If days are asked for that a cron expression cannot have.
    """

    def __init__(
        self,
        cron: str,
        timezone: str | None = None,
        day_or: bool = True,
        **options: Unpack[ScheduleOptions],
    ) -> None:
        if not day_or:
            raise ScheduleError(
                "day_or=False is not supported: in cron, a day of month and a day of week are alternatives; use an RRule with"
                " BYMONTHDAY and BYDAY, which must both hold"
            )
        super().__init__(kind="cron", spec=cron, zone=timezone or "UTC", **_common(options))


class Interval(Schedule):
    """An interval from an anchor on (by default 1970-01-01): whole days in a zone by the clock, else elapsed time."""

    def __init__(
        self,
        interval: Duration,
        anchor_date: datetime | None = None,
        timezone: str | None = None,
        **options: Unpack[ScheduleOptions],
    ) -> None:
        spec = duration_text(seconds_of(interval))
        if anchor_date is not None:
            spec += f" from {anchor_date.isoformat()}"
        super().__init__(kind="interval", spec=spec, zone=timezone or "UTC", **_common(options))


class RRule(Schedule):
    """A recurrence rule (RFC 5545), such as `FREQ=WEEKLY;BYDAY=MO;BYHOUR=2`."""

    def __init__(self, rrule: str, timezone: str | None = None, **options: Unpack[ScheduleOptions]) -> None:
        super().__init__(kind="rrule", spec=rrule, zone=timezone or "UTC", **_common(options))


class At(Schedule):
    """A single moment: ISO 8601, or a datetime."""

    def __init__(
        self, at: str | datetime, timezone: str | None = None, **options: Unpack[ScheduleOptions]
    ) -> None:
        spec = at.isoformat() if isinstance(at, datetime) else at
        super().__init__(kind="at", spec=spec, zone=timezone or "UTC", **_common(options))


CronSchedule, IntervalSchedule, RRuleSchedule = Cron, Interval, RRule
_KINDS = {"cron": Cron, "interval": Interval, "rrule": RRule, "at": At}


def seconds_of(given: Duration) -> float:
    """Return seconds, from a number, a text such as `15m`, or a timedelta.

    Raises
    ------
    ParameterError
        If it is not a duration.
    """
    if isinstance(given, timedelta):
        return given.total_seconds()
    if isinstance(given, str):
        return duration_seconds(given)
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise ParameterError(
            f"{given!r} is not a duration; use seconds, a text such as '15m', or a timedelta"
        )
    return float(given)


def schedule_given(given: Schedule | Mapping[str, Any]) -> Schedule:
    """Return a schedule from one, or from a mapping such as `{"cron": "0 2 * * *", "timezone": "Europe/Paris"}`.

    Raises
    ------
    ScheduleError
        If it is neither.
    """
    if isinstance(given, Schedule):
        return given
    if isinstance(given, Mapping):
        kinds = [kind for kind in _KINDS if given.get(kind) is not None]
        if len(kinds) == 1:
            options = {name: value for name, value in given.items() if value is not None}
            try:
                made: Schedule = _KINDS[kinds[0]](**options)
            except TypeError as error:
                raise ScheduleError(f"the schedule {dict(given)!r} is wrong: {error}") from None
            return made
        if len(kinds) > 1:
            raise ScheduleError(
                f"the schedule {dict(given)!r} has {' and '.join(kinds)}; use one of them, or two schedules"
            )
    raise ScheduleError(
        f"{given!r} is not a schedule; use Cron(...), Interval(...), RRule(...), At(...), or a mapping with one of"
        f" {', '.join(_KINDS)}"
    )


def _common(options: ScheduleOptions) -> dict[str, Any]:
    given: dict[str, Any] = dict(options)
    unknown = set(given) - set(ScheduleOptions.__annotations__)
    if unknown:
        raise ScheduleError(
            f"a schedule has no option {min(unknown)!r}; it takes timezone, {', '.join(ScheduleOptions.__annotations__)}"
        )
    plain: tuple[str, ...] = ("slug", "parameters", "catchup", "catchup_limit")
    found: dict[str, Any] = {name: given[name] for name in plain if name in given}
    for name, field in (("catchup_window", "window_seconds"), ("jitter", "jitter_seconds")):
        if name in given:
            found[field] = seconds_of(given[name])
    found.update({name: given[name].timestamp() for name in ("starts", "ends") if name in given})
    return {**found, "is_paused": not given.get("active", True)}
