"""What a schedule will do: its next fires, and what happens to them where clocks change."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from graphflow.model.deployed import Schedule
from graphflow.orchestration.timing.times import fires_after, times_of
from graphflow.orchestration.timing.zones import Change, changes, local_of, offset_at, zone_of

__all__ = ["Preview", "PreviewedFire", "preview"]

_AHEAD = 400 * 86_400.0
_AROUND = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewedFire:
    """One fire; `note` says what a change of the clock does to it."""

    at: float
    local: datetime
    offset_seconds: float
    note: str = ""

    @property
    def utc(self) -> datetime:
        """The same moment in UTC."""
        return datetime.fromtimestamp(self.at, UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """The next fires of a schedule, and those on the days on which its zone's clocks change next."""

    explanation: str
    fires: tuple[PreviewedFire, ...]
    changes: tuple[tuple[str, tuple[PreviewedFire, ...]], ...]
    """For each of the next changes of the clock: what it is, and the fires on that day."""


def preview(schedule: Schedule, after: float, *, count: int = 10, changes_shown: int = 2) -> Preview:
    """Return what a schedule does after a moment.

    Raises
    ------
    ScheduleError
        If it is wrong.
    """
    zone = zone_of(schedule.zone)
    found: list[PreviewedFire] = []
    for at in fires_after(schedule, after):
        if len(found) >= count:
            break
        found.append(_fire(schedule, at))
    ahead: list[tuple[str, tuple[PreviewedFire, ...]]] = []
    for change in changes(zone, after, after + _AHEAD):
        if len(ahead) >= changes_shown:
            break
        ahead.append((_change_text(schedule, change), _fires_around(schedule, change)))
    return Preview(explanation=times_of(schedule).explain(), fires=tuple(found), changes=tuple(ahead))


def _fires_around(schedule: Schedule, change: Change) -> tuple[PreviewedFire, ...]:
    """Return the fires of the day on which the clock changes, 30 at most."""
    zone = zone_of(schedule.zone)
    day = local_of(zone, change[0]).date()
    found: list[PreviewedFire] = []
    for at in fires_after(schedule, change[0] - _AROUND - 1):
        if at > change[0] + _AROUND or len(found) >= 30:
            break
        if local_of(zone, at).date() == day:
            found.append(_fire(schedule, at, change))
    return tuple(found)


def _fire(schedule: Schedule, at: float, change: Change | None = None) -> PreviewedFire:
    zone = zone_of(schedule.zone)
    local = local_of(zone, at)
    note = ""
    if change is not None:
        moment, before, after = change
        if before < after and at == moment:
            note = "the first moment after the gap"
        elif before > after and 0 <= at - moment < before - after:
            note = "the second time that the clock shows this"
        elif before > after and 0 < moment - at <= before - after:
            note = "the first time that the clock shows this"
    return PreviewedFire(at=at, local=local, offset_seconds=offset_at(zone, at), note=note)


def _change_text(schedule: Schedule, change: Change) -> str:
    at, before, after = change
    zone = zone_of(schedule.zone)
    shown = local_of(zone, at)
    was = local_of(zone, at - 1)
    direction = "forward" if after > before else "back"
    minutes = abs(after - before) / 60
    size = f"{minutes / 60:g} h" if minutes % 60 == 0 else f"{minutes:g} min"
    return f"{shown:%Y-%m-%d}: the clock goes {direction} by {size}, from {was:%H:%M:%S} to {shown:%H:%M:%S}"
