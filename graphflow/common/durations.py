"""Durations as people write them: `90s`, `15m`, `1h30m`, `2 days`."""

from __future__ import annotations

import re

from graphflow.errors import ParameterError

__all__ = ["duration_seconds", "duration_text"]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)")
_NAMES = {
    "sec": "s",
    "second": "s",
    "min": "m",
    "minute": "m",
    "hour": "h",
    "hr": "h",
    "day": "d",
    "week": "w",
}


def duration_seconds(text: str) -> float:
    """Return the seconds that a text such as `15m` means; a plain number is seconds.

    Raises
    ------
    ParameterError
        If it is not a duration above zero.
    """
    plain = text.strip().lower()
    found, place = 0.0, 0
    for part in _PART.finditer(plain):
        if plain[place : part.start()].strip():
            break
        unit = part[2] or "s"
        unit = unit if unit in _UNITS else _NAMES.get(unit.rstrip("s"), "")
        if not unit:
            break
        found += float(part[1]) * _UNITS[unit]
        place = part.end()
    if not plain or plain[place:].strip() or found <= 0:
        raise ParameterError(
            f"{text!r} is not a duration; use a number with s, m, h, d or w, such as 15m or 1h30m"
        )
    return found


def duration_text(seconds: float) -> str:
    """Return a duration as the shortest text that `duration_seconds` reads back."""
    if seconds != int(seconds):
        return f"{seconds:g}s"
    rest, parts = int(seconds), []
    for unit, size in sorted(_UNITS.items(), key=lambda each: -each[1]):
        if unit == "w" and rest % size:
            continue
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
