"""Cron expressions, in local time.

cronsim knows what an expression means on a clock that never changes; what happens when clocks change is decided here, since
cronsim's own rules leave fires out where the minute has a wildcard. Where the hour is given, a fire belongs to a time on the
clock. Where the hour is a wildcard, it belongs to a rhythm, which goes on in real time.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from graphflow.errors import ScheduleError
from graphflow.orchestration.timing.zones import EPOCH, first_change, instant_of, local_of, offset_at

__all__ = ["CronTimes"]

_NAMED = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


class CronTimes:
    """When a cron expression fires in a zone.

    Raises
    ------
    ScheduleError
        If it is not a cron expression of five fields.
    """

    def __init__(self, text: str, zone: ZoneInfo) -> None:
        self.expression = _checked(text)
        self.is_rhythm = self.expression.split()[1].startswith("*")
        self._zone = zone

    def next(self, after: float) -> float | None:
        """Return the first fire after a moment; None if there is none in the next 50 years."""
        return self._in_rhythm(after) if self.is_rhythm else self._by_clock(after)

    def explain(self) -> str:
        """Return what the expression means, in words."""
        return CronSim(self.expression, EPOCH).explain()

    def _by_clock(self, after: float) -> float | None:
        # The moments of later times on the clock are never earlier ones, so the first that lies ahead is the next.
        times = CronSim(self.expression, local_of(self._zone, after))
        for local in times:
            at = instant_of(self._zone, local)
            if at > after:
                return at
        return None

    def _in_rhythm(self, after: float) -> float | None:
        at, offset = after // 1, offset_at(self._zone, after)
        local = local_of(self._zone, after)
        while True:
            found = next(CronSim(self.expression, local), None)
            if found is None:
                return None
            fire = _seconds(found) - offset
            change = first_change(self._zone, at, fire)
            if change is None:
                return fire
            # On from the change, which may itself be a fire.
            at, _, offset = change
            local = EPOCH + timedelta(seconds=at + offset - 1)


def _seconds(local: datetime) -> float:
    return (local - EPOCH).total_seconds()


def _checked(text: str) -> str:
    words = text.split()
    if not words:
        raise ScheduleError(
            'the cron expression is empty; use five fields, such as "0 2 * * *" for each day at 02:00'
        )
    if words[0].startswith("@"):
        named = _NAMED.get(text.strip().lower())
        if named is None:
            raise ScheduleError(
                f"the cron expression {text!r} is unknown; use one of {', '.join(_NAMED)}, or five fields"
            )
        return named
    if len(words) != 5:
        raise ScheduleError(_miscounted(text, words))
    expression = " ".join(words)
    try:
        CronSim(expression, EPOCH)
    except CronSimError as error:
        field = str(error).removeprefix("Bad ")
        raise ScheduleError(
            f"the cron expression {text!r} has a wrong {field}; the fields are minute, hour, day of month, month, day of week"
        ) from error
    return expression


def _miscounted(text: str, words: list[str]) -> str:
    begins = f"the cron expression {text!r} has {len(words)} {'field' if len(words) == 1 else 'fields'}"
    if len(words) < 5:
        return f"{begins}, not 5 (minute, hour, day of month, month, day of week); did you mean {_filled(words)}?"
    if len(words) == 6:
        return (
            f"{begins}, but seconds are not supported; did you mean {' '.join(words[1:])}? For several times a minute, use"
            " an interval"
        )
    return f"{begins}, not 5 (minute, hour, day of month, month, day of week)"


def _filled(words: list[str]) -> str:
    return " ".join([*words, "*", "*", "*", "*"][:5])
