"""Parsing of times, map indices and settings given to the `runs` commands."""

from __future__ import annotations

import json
import re
from typing import Any

import typer

from graphflow.common.moments import parse_moment

__all__ = ["parse_indices", "parse_settings", "parse_since"]

_RANGE = re.compile(r"(\d+)(?::(\d+))?")
MAX_INDICES = 10_000_000


def parse_since(text: str) -> float:
    """Return a time (ISO 8601, UTC unless it has a zone) or an age (`90s`, `2h`, `7d`) in seconds since the epoch."""
    try:
        return parse_moment(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def parse_indices(text: str) -> list[int]:
    """Return the map indices of `3,7:9`: single ones, and ranges that exclude their end, as in Python."""
    found: dict[int, None] = {}
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            raise typer.BadParameter(
                f"{part.strip()!r} in {text!r} is not a map index; use 3 for an item, 7:9 for items 7 and 8, and commas between"
            )
        lo = int(match[1])
        hi = lo + 1 if match[2] is None else int(match[2])
        if hi <= lo:
            raise typer.BadParameter(
                f"{part.strip()!r} in {text!r} is an empty range; its end must be above its start"
            )
        if hi - lo > MAX_INDICES:
            raise typer.BadParameter(f"{part.strip()!r} in {text!r} names more than {MAX_INDICES:,} items")
        found.update(dict.fromkeys(range(lo, hi)))
    return list(found)


def parse_settings(pairs: list[str]) -> dict[str, Any]:
    """Return the settings of `name=value` pairs; a value is parsed as JSON if it is JSON, else kept as text."""
    settings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise typer.BadParameter(f"{pair!r} is not a setting; use name=value, such as max_concurrency=4")
        try:
            settings[name] = json.loads(text)
        except ValueError:
            settings[name] = None if text.lower() == "none" else text
    return settings
