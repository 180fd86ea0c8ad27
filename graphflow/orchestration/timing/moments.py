"""Times as people write them, and schedules of one moment."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

from graphflow.errors import ScheduleError
from graphflow.orchestration.timing.zones import instant_of

__all__ = ["OnceTimes", "local_time", "moment_of"]


def local_time(text: str, zone: ZoneInfo) -> datetime:
    """Return a time on the clock of a zone; a time that names its own offset is converted.

    Raises
    ------
    ScheduleError
        If it is not a time in ISO 8601.
    """
    found = _parsed(text)
    return found if found.tzinfo is None else found.astimezone(zone).replace(tzinfo=None)


def moment_of(text: str, zone: ZoneInfo) -> float:
    """Return the moment of a time in ISO 8601, on the clock of a zone unless it names its own offset.

    Raises
    ------
    ScheduleError
        If it is not one.
    """
    found = _parsed(text)
    return instant_of(zone, found) if found.tzinfo is None else found.timestamp()


def _parsed(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text.strip())
    except ValueError:
        raise ScheduleError(
            f"{text!r} is not a time; use ISO 8601, such as 2026-01-31 or 2026-01-31T02:30"
        ) from None


class OnceTimes:
    """When a schedule of one moment fires.

    Raises
    ------
    ScheduleError
        If it is not a time.
    """

    def __init__(self, text: str, zone: ZoneInfo) -> None:
        self.at = moment_of(text, zone)

    def next(self, after: float) -> float | None:
        """Return the moment, while it lies ahead."""
        return self.at if self.at > after else None

    def explain(self) -> str:
        """Return what it means, in words."""
        return "Once"
