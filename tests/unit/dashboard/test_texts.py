"""Words for numbers: each unit, at its borders."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphflow.dashboard.texts import masked, percent, ranges, rate, shortened, took


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (float("inf"), "–"),
        (0.0, "0 µs"),
        (2e-6, "2 µs"),
        (0.0076, "7.6 ms"),
        (0.186, "186 ms"),
        (31.0, "31 s"),
        (59.94, "60 s"),
        (59.96, "1 min 00 s"),
        (185.0, "3 min 05 s"),
        (7_440.0, "2 h 04 min"),
        (266_400.0, "3 d 02 h"),
    ],
)
def test_durations_have_the_unit_that_fits(seconds: float | None, text: str) -> None:
    assert took(seconds) == text


@given(st.floats(min_value=0, max_value=1e9))
def test_no_duration_shows_more_than_three_digits_before_its_unit(seconds: float) -> None:
    whole = took(seconds).split(" ")[0].split(".")[0]
    assert len(whole) <= 3 or seconds > 86_400 * 999


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (0, 10, "0.0 %"),
        (1, 1_000_000, "< 0.1 %"),
        (999_999, 1_000_000, "> 99.9 %"),
        (10, 10, "100.0 %"),
        (1, 0, "–"),
    ],
)
def test_a_share_is_never_rounded_to_all_or_nothing(part: int, whole: int, text: str) -> None:
    assert percent(part, whole) == text


def test_rates_and_ranges() -> None:
    assert [rate(each) for each in (None, 0.5, 695, 10_800, 2.5e6)] == [
        "–",
        "0.5/s",
        "695/s",
        "10.8 k/s",
        "2.5 M/s",
    ]
    assert ranges([range(1), range(5, 6), range(1_000, 2_001)]) == "0, 5, 1,000–2,000"


def test_texts_of_one_kind_are_equal_once_masked() -> None:
    assert masked("page 17 of 'a' at 0x7f: 12.5 s") == masked("page 4 of 'bc' at 0x1: 3 s")
    assert masked("no route") != masked("no host")
    assert shortened("a\n b", 10) == "a b" and shortened("x" * 20, 5) == "xxxx…"
