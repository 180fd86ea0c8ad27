"""What is refused, and what schedules of each kind fire at."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice

import pytest

from graphflow.common.durations import duration_seconds, duration_text
from graphflow.errors import ParameterError, ScheduleError
from graphflow.model.deployed import Schedule
from graphflow.orchestration.timing.times import check_schedule, fires_after, jitter_of, times_of

NOW = datetime(2026, 11, 30, 21, 30, tzinfo=UTC).timestamp()


def shown(kind: str, spec: str, count: int = 3, **given) -> list[str]:
    fires = fires_after(Schedule(kind=kind, spec=spec, **given), NOW)
    return [f"{datetime.fromtimestamp(at, UTC):%m-%d %H:%M}" for at in islice(fires, count)]


@pytest.mark.parametrize(
    ("kind", "spec", "told"),
    [
        ("cron", "0 2 *", r"has 3 fields, .*; did you mean 0 2 \* \* \*\?"),
        ("cron", "0 0 2 * * *", r"seconds are not supported; did you mean 0 2 \* \* \*\?"),
        ("cron", "61 * * * *", "wrong minute"),
        ("cron", "0 0 31 2 *", "wrong day-of-month"),
        ("cron", "0 0 30 2 *", "wrong day-of-month"),
        ("cron", "@dayly", "use one of @yearly"),
        ("cron", " ", "is empty"),
        ("rrule", "FREQ=SECONDLY", "fires each second"),
        ("rrule", "FREQ=HOURLY;BYHOUR=2", "has BYHOUR"),
        ("rrule", "DTSTART;TZID=Europe/Paris:20260101T000000\nRRULE:FREQ=DAILY", "names a zone"),
        ("rrule", "sometimes", "is not a recurrence rule"),
        ("rrule", "FREQ=MINUTELY;COUNT=9000000", "has over 20,000 times"),
        ("rrule", "FREQ=DAILY;UNTIL=20250101T000000", "does not fire in the next 5 years"),
        ("interval", "5x", "is not a duration"),
        ("interval", "0.5s", "use at least 1 s"),
        ("at", "2020-01-01", "that moment has passed"),
        ("at", "tomorrow", "is not a time"),
    ],
)
def test_a_schedule_that_is_wrong_is_refused_with_what_to_do(kind, spec, told) -> None:
    with pytest.raises(ScheduleError, match=told):
        check_schedule(Schedule(kind=kind, spec=spec), NOW)


def test_a_zone_that_is_not_there_is_refused_with_one_that_is() -> None:
    with pytest.raises(ScheduleError, match="did you mean Europe/Paris"):
        check_schedule(Schedule(kind="cron", spec="0 2 * * *", zone="paris"), NOW)


def test_day_of_month_and_day_of_week_are_alternatives_as_in_cron() -> None:
    assert shown("cron", "0 0 13 * 5", 4) == ["12-04 00:00", "12-11 00:00", "12-13 00:00", "12-18 00:00"]


def test_names_and_last_days_are_understood() -> None:
    assert shown("cron", "0 6 * JAN MON#1", 1) == ["01-04 06:00"]
    assert shown("cron", "0 6 L * *", 2) == ["12-31 06:00", "01-31 06:00"]
    assert shown("cron", "@daily", 1) == ["12-01 00:00"]


def test_an_interval_counts_from_its_anchor() -> None:
    assert shown("interval", "15m") == ["11-30 21:45", "11-30 22:00", "11-30 22:15"]
    assert shown("interval", "1h from 2026-11-30T21:31", 2) == ["11-30 21:31", "11-30 22:31"]


def test_a_rule_that_began_long_ago_is_as_quick_as_a_new_one() -> None:
    rule = "DTSTART:20010101T000500\nRRULE:FREQ=MINUTELY;INTERVAL=7"
    expected = datetime(2001, 1, 1, 0, 5, tzinfo=UTC).timestamp()
    (at,) = islice(fires_after(Schedule(kind="rrule", spec=rule), NOW), 1)
    assert (at - expected) % 420 == 0 and 0 < at - NOW <= 420


def test_a_rule_with_two_weeks_between_keeps_its_weeks() -> None:
    assert shown("rrule", "DTSTART:20200106T040000\nRRULE:FREQ=WEEKLY;INTERVAL=2", 2) == [
        "12-14 04:00",
        "12-28 04:00",
    ]


def test_a_schedule_fires_within_its_start_and_end() -> None:
    begin = datetime(2026, 12, 2, tzinfo=UTC).timestamp()
    schedule = Schedule(kind="cron", spec="0 0 * * *", starts=begin, ends=begin + 86_400)
    assert list(fires_after(schedule, NOW)) == [begin, begin + 86_400]


def test_jitter_is_the_same_for_each_process_and_below_its_limit() -> None:
    values = [jitter_of("d", NOW + number, 30.0) for number in range(200)]
    assert values == [jitter_of("d", NOW + number, 30.0) for number in range(200)]
    assert all(0 <= each < 30 for each in values) and len(set(values)) > 190
    assert jitter_of("d", NOW, 0) == 0


def test_what_an_expression_means_is_said_in_words() -> None:
    assert times_of(Schedule(kind="cron", spec="30 2 * * *")).explain() == "At 02:30 every day"


def test_durations_are_read_and_written() -> None:
    assert [duration_seconds(each) for each in ("90", "1h30m", "2 days", "1.5h")] == [90, 5400, 172800, 5400]
    assert [duration_text(each) for each in (90, 5400, 172800, 604800, 0.5)] == [
        "1m30s",
        "1h30m",
        "2d",
        "1w",
        "0.5s",
    ]
    for wrong in ("", "m", "5 parsecs", "0", "5m x"):
        with pytest.raises(ParameterError, match="is not a duration"):
            duration_seconds(wrong)
