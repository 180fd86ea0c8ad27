"""Local time: zones by name, where their clocks change, and what a time on a clock means there.

All moments are seconds since the epoch; a time on a clock is a datetime without a zone.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from graphflow.errors import ScheduleError

__all__ = [
    "Change",
    "EPOCH",
    "changes",
    "first_change",
    "instant_of",
    "local_of",
    "naive_utc",
    "offset_at",
    "zone_of",
]

EPOCH = datetime(1970, 1, 1)
_DAY = 86_400
Change = tuple[float, float, float]
"""When clocks change, and their offsets before and after, all in seconds."""


@cache
def zone_of(name: str) -> ZoneInfo:
    """Return the zone of an IANA name.

    Raises
    ------
    ScheduleError
        If there is no such zone, or this machine knows none at all.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        known = available_timezones()
    if not known:
        raise ScheduleError(
            f"the time zone {name!r} cannot be found, because this machine has no time zone data; install the package tzdata"
        )
    exact = {each.lower(): each for each in known}.get(name.lower())
    cities = {each.rpartition("/")[2].lower(): each for each in known}
    close = exact or cities.get(name.lower().replace(" ", "_"))
    if close is None:
        close = next(iter(difflib.get_close_matches(name, known, n=1)), None)
    hint = f"; did you mean {close}?" if close else "; use an IANA name such as Europe/Paris, or UTC"
    raise ScheduleError(f"there is no time zone {name!r}{hint}")


def naive_utc(at: float) -> datetime:
    """Return a moment on the clock of UTC, in whole seconds."""
    return EPOCH + timedelta(seconds=at // 1)


def offset_at(zone: ZoneInfo, at: float) -> float:
    """Return how many seconds the clocks of a zone are ahead of UTC at a moment."""
    offset = datetime.fromtimestamp(at // 1, UTC).astimezone(zone).utcoffset()
    return 0.0 if offset is None else offset.total_seconds()


def local_of(zone: ZoneInfo, at: float) -> datetime:
    """Return what the clocks of a zone show at a moment, in whole seconds."""
    return datetime.fromtimestamp(at // 1, UTC).astimezone(zone).replace(tzinfo=None, fold=0)


def instant_of(zone: ZoneInfo, local: datetime) -> float:
    """Return the moment of a time on the clock: the first one where it is twice, the first after the gap where it is not there."""
    before, after = (_offset(zone, local, fold) for fold in (0, 1))
    seconds = (local - EPOCH).total_seconds()
    if before >= after:
        return seconds - before
    change = first_change(zone, seconds - after - 1, seconds - before)
    return seconds - before if change is None else change[0]


def first_change(zone: ZoneInfo, after: float, until: float) -> Change | None:
    """Return the first change of the clock in `(after, until]`, to the second; O(days between)."""
    begin, offset = after, offset_at(zone, after)
    while begin < until:
        end = min(begin + _DAY, until)
        if offset_at(zone, end) != offset:
            low, high = begin // 1, end // 1
            while high - low > 1:
                middle = (low + high) // 2
                if offset_at(zone, middle) == offset:
                    low = middle
                else:
                    high = middle
            return high, offset, offset_at(zone, high)
        begin = end
    return None


def changes(zone: ZoneInfo, after: float, until: float) -> Iterator[Change]:
    """Yield the changes of the clock in `(after, until]`."""
    while (change := first_change(zone, after, until)) is not None:
        yield change
        after = change[0]


def _offset(zone: ZoneInfo, local: datetime, fold: int) -> float:
    offset = local.replace(tzinfo=zone, fold=fold).utcoffset()
    return 0.0 if offset is None else offset.total_seconds()
