"""The options of a map: what may be said of it as a whole, and changed while it runs.

How many of its items may run at once, at what rate they begin, how many may fail, and how long one may take
beside the others.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from graphflow.errors import TaskOptionError

__all__ = ["MAP_OPTION_NAMES", "NO_MAP_OPTIONS", "MapOptions", "checked_map_options", "parse_rate"]

_UNITS = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hour", "hours"), 3_600.0),
    **dict.fromkeys(("d", "day", "days"), 86_400.0),
}
_RATE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*/\s*([a-z]+)\s*", re.IGNORECASE)
_PERCENT = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*%\s*")

MAP_OPTION_NAMES = (
    "max_concurrency",
    "rate_limit",
    "tolerated_failure_count",
    "tolerated_failure_percentage",
    "fail_fast",
    "timeout",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MapOptions:
    """The checked options of a map; None (or False) where nothing was said.

    `rate` is in items per second, `tolerated_percentage` from 0 to 100, `timeout_factor` a multiple of the
    median duration of the items that completed.
    """

    max_concurrency: int | None = None
    rate: float | None = None
    tolerated_count: int | None = None
    tolerated_percentage: float | None = None
    fail_fast: bool = False
    timeout_factor: float | None = None

    @property
    def is_tolerant(self) -> bool:
        """Whether some failures are tolerated: what comes after a tolerated one is skipped."""
        return self.tolerated_count is not None or self.tolerated_percentage is not None

    @property
    def can_halt(self) -> bool:
        """Whether failures may end the map early."""
        return self.fail_fast or self.is_tolerant

    def exceeded(self, failed: int, width: int | None) -> bool:
        """Return whether `failed` failures are too many for a map of `width` items (None while that is unknown)."""
        if self.fail_fast:
            return failed > 0
        if self.tolerated_count is not None and failed > self.tolerated_count:
            return True
        if self.tolerated_percentage is None or width is None:
            return False
        return failed * 100 > self.tolerated_percentage * width * (1 + 1e-12)


NO_MAP_OPTIONS = MapOptions()


def parse_rate(owner: str, value: Any) -> float | None:
    """`rate_limit` as items per second: a text such as "50/s" or "600/min", a number per second, or None."""
    if value is None:
        return None
    rate: float | None = None
    if isinstance(value, str):
        match = _RATE.fullmatch(value)
        unit = _UNITS.get(match[2].lower()) if match else None
        if match and unit:
            rate = float(match[1]) / unit
    elif isinstance(value, int | float) and not isinstance(value, bool):
        rate = float(value)
    if rate is None or not math.isfinite(rate) or rate <= 0:
        raise TaskOptionError(
            f'{owner}: rate_limit must be a number of items per time above 0, such as "50/s", "600/min" or "1000/h", '
            f"not {value!r}"
        )
    return rate


def _whole(owner: str, option: str, value: Any, least: int) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
        raise TaskOptionError(
            f"{owner}: {option} must be an integer, {least} or more, or None for no limit, not {value!r}"
        )
    return value


def _percentage(owner: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, str) and (match := _PERCENT.fullmatch(value)):
        value = float(match[1])
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        raise TaskOptionError(
            f"{owner}: tolerated_failure_percentage must be a number from 0 to 100 (percent of the items), not {value!r}"
        )
    return float(value)


def timeout_factor(owner: str, value: Any) -> float | None:
    """Return a timeout that is relative to the map's median, such as "300%", as a factor; None for anything else.

    Raises
    ------
    TaskOptionError
        If it is a text, but no percentage above 0.
    """
    if not isinstance(value, str) or "%" not in value:
        return None
    match = _PERCENT.fullmatch(value)
    factor = float(match[1]) / 100 if match else 0.0
    if factor <= 0:
        raise TaskOptionError(
            f'{owner}: timeout={value!r} is not a timeout; use a percentage of the map\'s median duration, such as "300%", '
            "or seconds"
        )
    return factor


def checked_map_options(
    owner: str, given: Mapping[str, Any], *, before: MapOptions | None = None
) -> MapOptions:
    """Return the options from options by their public names; those that are not given stay as they were.

    Raises
    ------
    TaskOptionError
        If one is of the wrong kind, or two contradict each other.
    """
    changes: dict[str, Any] = {}
    if "max_concurrency" in given:
        changes["max_concurrency"] = _whole(owner, "max_concurrency", given["max_concurrency"], 1)
    if "rate_limit" in given:
        changes["rate"] = parse_rate(owner, given["rate_limit"])
    if "tolerated_failure_count" in given:
        changes["tolerated_count"] = _whole(
            owner, "tolerated_failure_count", given["tolerated_failure_count"], 0
        )
    if "tolerated_failure_percentage" in given:
        changes["tolerated_percentage"] = _percentage(owner, given["tolerated_failure_percentage"])
    if "fail_fast" in given:
        if not isinstance(given["fail_fast"], bool | None):
            raise TaskOptionError(f"{owner}: fail_fast must be True or False, not {given['fail_fast']!r}")
        changes["fail_fast"] = bool(given["fail_fast"])
    if "timeout" in given:
        changes["timeout_factor"] = timeout_factor(owner, given["timeout"])
    options = replace(before or NO_MAP_OPTIONS, **changes)
    if options.fail_fast and options.is_tolerant:
        raise TaskOptionError(
            f"{owner}: fail_fast=True ends the map at the first failure, so no failures can be tolerated; remove "
            "fail_fast, or the tolerated failures"
        )
    return options
