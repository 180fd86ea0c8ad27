"""Words for numbers, durations, times and ranges, the same on all pages."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import islice

__all__ = ["clock", "masked", "number", "percent", "ranges", "rate", "shortened", "took", "utc"]

_MASKED = re.compile(r"0x[0-9a-fA-F]+|'[^']*'|\"[^\"]*\"|\b[0-9a-fA-F]{8,}\b|\d+(?:\.\d+)?")


def number(value: int | None) -> str:
    """Return a count with commas; a question mark where it is not known."""
    return "?" if value is None else f"{value:,}"


def percent(part: int, whole: int | None) -> str:
    """Return a part of a whole; never 100 % while something is missing, nor 0 % where there is something."""
    if not whole:
        return "–"
    found = 100 * part / whole
    if part < whole and found > 99.9:
        return "> 99.9 %"
    return "< 0.1 %" if part and found < 0.1 else f"{found:.1f} %"


def took(seconds: float | None) -> str:
    """Return a duration: `2 µs`, `7.6 ms`, `31 s`, `3 min 05 s`, `2 h 04 min`, `3 d 02 h`."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    for unit, size in (("µs", 1e-6), ("ms", 1e-3), ("s", 1.0)):
        value = seconds / size
        if unit == "s":
            if value >= 59.95:
                break
        elif value >= 999.5:
            continue
        return f"{value:.0f} {unit}" if value >= 10 or unit == "µs" else f"{value:.2g} {unit}"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24:02} h"
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def rate(per_second: float | None) -> str:
    """Return items per second: `695/s`, `10.8 k/s`."""
    if per_second is None or not math.isfinite(per_second):
        return "–"
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if per_second >= size:
            return f"{per_second / size:.3g} {unit}/s"
    return f"{per_second:.3g}/s"


def utc(moment: datetime | None) -> str:
    """Return a time as ISO 8601 in UTC, for programs; empty where there is none."""
    if moment is None:
        return ""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def clock(moment: datetime | None) -> str:
    """Return a time in UTC for people without a script, which shows it in their own zone."""
    return "–" if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def masked(text: str) -> str:
    """Return a text with `…` in place of what differs between texts of one kind: numbers, hex and quoted strings."""
    return _MASKED.sub("…", text)


def shortened(text: str, most: int = 200) -> str:
    """Return a text in one line of at most so many characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def ranges(parts: Iterable[range], most: int = 6) -> str:
    """Return the first ranges of indices: `0, 5, 10-12`."""
    found: Sequence[range] = list(islice(parts, most))
    return ", ".join(
        number(each.start) if len(each) == 1 else f"{each.start:,}–{each.stop - 1:,}" for each in found
    )
