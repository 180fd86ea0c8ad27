"""Times, indices and settings as they are typed."""

from __future__ import annotations

from typing import Any

import pytest
import typer

from graphflow.cli.runs.texts import parse_indices, parse_settings, parse_since
from graphflow.common import moments


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", 10_000.0 - 90),
        ("1.5h", 10_000.0 - 5_400),
        ("2 m", 10_000.0 - 120),
        ("1970-01-01T01:00", 3_600.0),
        ("1970-01-01T01:00:00Z", 3_600.0),
        ("1970-01-01T01:00:00+01:00", 0.0),
        ("1970-01-02", 86_400.0),
    ],
)
def test_a_time_is_how_long_ago_or_when(text: str, expected: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments.time, "time", lambda: 10_000.0)
    assert parse_since(text) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "5", "5y", "-3h", "2026-13-01"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match=r"is not a time; use an age \(90s, 15m, 2h"):
        parse_since(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("3", [3]), ("3,7:9", [3, 7, 8]), ("7:9, 3 ,8", [7, 8, 3]), ("0:1", [0])],
)
def test_indices_are_single_ones_and_ranges(text: str, expected: list[int]) -> None:
    assert parse_indices(text) == expected


@pytest.mark.parametrize("text", ["", "a", "3,", "-1", "3-5", "1:2:3", ":4", "9:7", "4:4", "0:99999999999"])
def test_what_are_no_indices_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match=repr(text)[1:-1][:3] if text else "not a map index"):
        parse_indices(text)


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        ("max_concurrency=4", {"max_concurrency": 4}),
        ("rate_limit=10/s", {"rate_limit": "10/s"}),
        ("rate_limit=none", {"rate_limit": None}),
        ("fail_fast=true", {"fail_fast": True}),
        ("retry_delay_seconds=[1, 2]", {"retry_delay_seconds": [1, 2]}),
    ],
)
def test_settings_are_json_or_text(pair: str, expected: dict[str, Any]) -> None:
    assert parse_settings([pair]) == expected


@pytest.mark.parametrize("pair", ["max_concurrency", "=4", "a-b=3"])
def test_what_is_no_setting_is_refused(pair: str) -> None:
    with pytest.raises(typer.BadParameter, match="is not a setting; use name=value"):
        parse_settings([pair])
