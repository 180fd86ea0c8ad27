"""The table of docs/schedules.md: what happens to fires on the days on which clocks change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from graphflow.model.deployed import Schedule
from graphflow.orchestration.timing.preview import preview
from graphflow.orchestration.timing.times import fires_after
from graphflow.orchestration.timing.zones import changes, local_of, zone_of

SPRING, AUTUMN = datetime(2026, 3, 29, tzinfo=UTC), datetime(2026, 10, 25, tzinfo=UTC)


def fires(kind: str, spec: str, day: datetime, zone: str = "Europe/Paris") -> list[str]:
    """What the clock shows at the fires of one local day."""
    schedule = Schedule(kind=kind, spec=spec, zone=zone)
    shown = []
    for at in fires_after(schedule, (day - timedelta(days=1)).timestamp() - 1):
        local = local_of(zone_of(zone), at)
        if local.date() > day.date():
            return shown
        if local.date() == day.date():
            shown.append(f"{local:%H:%M}")
    return shown


@pytest.mark.parametrize(
    ("kind", "spec", "spring", "autumn"),
    [
        ("cron", "30 2 * * *", ["03:00"], ["02:30"]),
        ("cron", "15,45 2 * * *", ["03:00"], ["02:15", "02:45"]),
        ("cron", "*/30 2 * * *", ["03:00"], ["02:00", "02:30"]),
        ("cron", "30 1-3 * * *", ["01:30", "03:00", "03:30"], ["01:30", "02:30", "03:30"]),
        ("cron", "0 3 * * *", ["03:00"], ["03:00"]),
        ("interval", "1d from 2026-01-01T02:30", ["03:00"], ["02:30"]),
        ("rrule", "FREQ=DAILY;BYHOUR=2;BYMINUTE=30", ["03:00"], ["02:30"]),
        ("interval", "6h", ["01:00", "08:00", "14:00", "20:00"], ["02:00", "07:00", "13:00", "19:00"]),
    ],
)
def test_a_schedule_of_the_clock_fires_once_for_each_of_its_times(kind, spec, spring, autumn) -> None:
    assert fires(kind, spec, SPRING) == spring
    assert fires(kind, spec, AUTUMN) == autumn


def test_an_hour_with_a_wildcard_is_a_rhythm_in_real_time() -> None:
    assert (len(fires("cron", "30 * * * *", SPRING)), len(fires("cron", "30 * * * *", AUTUMN))) == (23, 25)
    assert fires("cron", "0 */2 * * *", SPRING)[:2] == ["00:00", "04:00"]
    assert fires("cron", "0 */2 * * *", AUTUMN)[:4] == ["00:00", "02:00", "02:00", "04:00"]
    assert (len(fires("rrule", "FREQ=HOURLY", SPRING)), len(fires("rrule", "FREQ=HOURLY", AUTUMN))) == (
        23,
        25,
    )


def test_a_moment_that_is_not_on_the_clock_is_the_first_one_after_the_gap() -> None:
    schedule = Schedule(kind="at", spec="2026-03-29T02:30", zone="Europe/Paris")
    assert list(fires_after(schedule, 0)) == [datetime(2026, 3, 29, 1, tzinfo=UTC).timestamp()]
    twice = Schedule(kind="at", spec="2026-10-25T02:30", zone="Europe/Paris")
    assert list(fires_after(twice, 0)) == [datetime(2026, 10, 25, 0, 30, tzinfo=UTC).timestamp()]


def test_a_clock_that_changes_at_midnight_moves_the_fire_of_midnight_to_one() -> None:
    day = datetime(2025, 9, 7, tzinfo=UTC)
    assert fires("cron", "0 0 * * *", day, "America/Santiago") == ["01:00"]


def test_a_clock_that_changes_by_half_an_hour_moves_a_fire_by_no_more() -> None:
    day = datetime(2025, 10, 5, tzinfo=UTC)
    assert fires("cron", "15 2 * * *", day, "Australia/Lord_Howe") == ["02:30"]
    assert fires("cron", "45 2 * * *", day, "Australia/Lord_Howe") == ["02:45"]


def test_the_fire_of_a_day_that_a_zone_left_out_comes_at_the_first_moment_after_it() -> None:
    schedule = Schedule(kind="cron", spec="0 9 * * *", zone="Pacific/Apia")
    begin = datetime(2011, 12, 29, 12, tzinfo=UTC).timestamp()
    zone = zone_of("Pacific/Apia")
    shown = []
    for at in fires_after(schedule, begin):
        shown.append(f"{local_of(zone, at):%d %H:%M}")
        if len(shown) == 4:
            break
    assert shown == ["29 09:00", "31 00:00", "31 09:00", "01 09:00"]


def test_changes_of_a_zone_are_found_to_the_second() -> None:
    begin, end = datetime(2026, 1, 1, tzinfo=UTC).timestamp(), datetime(2027, 1, 1, tzinfo=UTC).timestamp()
    assert [
        datetime.fromtimestamp(at, UTC).isoformat()
        for at, _, _ in changes(zone_of("Europe/Paris"), begin, end)
    ] == [
        "2026-03-29T01:00:00+00:00",
        "2026-10-25T01:00:00+00:00",
    ]
    assert list(changes(zone_of("UTC"), begin, end)) == []


def test_a_preview_is_what_fires_and_says_what_a_change_of_the_clock_does() -> None:
    schedule = Schedule(kind="cron", spec="30 2 * * *", zone="Europe/Paris")
    begin = datetime(2026, 3, 27, tzinfo=UTC).timestamp()
    shown = preview(schedule, begin, count=5)
    times = fires_after(schedule, begin)
    assert [each.at for each in shown.fires] == [next(times) for _ in range(5)]
    assert [text for text, _ in shown.changes] == [
        "2026-03-29: the clock goes forward by 1 h, from 01:59:59 to 03:00:00",
        "2026-10-25: the clock goes back by 1 h, from 02:59:59 to 02:00:00",
    ]
    assert [each.note for _, each_day in shown.changes for each in each_day] == [
        "the first moment after the gap",
        "the first time that the clock shows this",
    ]
