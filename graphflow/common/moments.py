"""Times as people write them: an age, or a date."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

__all__ = ["parse_moment"]

_AGO = re.compile(r"(\d{1,12}(?:\.\d{0,6})?)\s*(s|m|h|d|w)", re.ASCII)
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}


def parse_moment(text: str) -> float:
    """Return a time (ISO 8601, UTC unless it has a zone) or an age (`90s`, `2h`, `7d`) in seconds since the epoch.

    Raises
    ------
    ValueError
        If it is neither.
    """
    text = text.strip()
    ago = _AGO.fullmatch(text)
    if ago:
        return time.time() - float(ago[1]) * _SECONDS[ago[2]]
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text!r} is not a time; use an age (90s, 15m, 2h, 7d, 1w), or a date such as 2026-01-31 or 2026-01-31T12:00Z"
        ) from None
