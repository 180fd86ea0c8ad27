"""The options of a map: what is accepted, and what it means."""

from __future__ import annotations

from typing import Any

import pytest

from graphflow import task
from graphflow.errors import TaskOptionError
from graphflow.model.map_options import MapOptions, checked_map_options, parse_rate, timeout_factor


@pytest.mark.parametrize(
    ("given", "per_second"),
    [
        ("50/s", 50.0),
        ("600/min", 10.0),
        ("3600 / hour", 1.0),
        ("0.5/s", 0.5),
        (25, 25.0),
        (2.5, 2.5),
        ("86400/d", 1.0),
    ],
)
def test_a_rate_is_a_number_per_time(given: Any, per_second: float) -> None:
    assert parse_rate("x", given) == pytest.approx(per_second)


@pytest.mark.parametrize(
    "given", ["50", "50/fortnight", "-1/s", "0/s", 0, -3, True, float("inf"), float("nan"), [], "/s"]
)
def test_what_is_no_rate_is_refused_with_an_example(given: Any) -> None:
    with pytest.raises(TaskOptionError, match=r"task 't'.*rate_limit .*50/s"):
        parse_rate("task 't'", given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_concurrency": 0}, "max_concurrency must be an integer, 1 or more"),
        ({"max_concurrency": 2.5}, "max_concurrency"),
        ({"tolerated_failure_count": -1}, "tolerated_failure_count must be an integer, 0 or more"),
        ({"tolerated_failure_percentage": 101}, "from 0 to 100"),
        ({"tolerated_failure_percentage": "many"}, "from 0 to 100"),
        ({"fail_fast": "yes"}, "fail_fast must be True or False"),
        ({"fail_fast": True, "tolerated_failure_count": 3}, "fail_fast"),
        ({"timeout": "0%"}, "not a timeout"),
        ({"timeout": "fast"}, "number of seconds"),
        ({"timeout": "300%", "timeout_seconds": 3}, "not both"),
        ({"max_concurency": 3}, "did you mean max_concurrency"),
    ],
)
def test_wrong_knobs_fail_where_they_are_written(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskOptionError, match=message):
        task(**options)
    with pytest.raises(TaskOptionError, match=message):
        task(lambda x: x).with_options(**options)


def test_one_timeout_takes_the_place_of_the_other() -> None:
    plain = task(timeout_seconds=5)(lambda x: x)
    relative = plain.with_options(timeout="300%")
    assert relative.options.timeout_seconds is None
    assert relative.options.map_options.timeout_factor == 3.0
    assert relative.with_options(timeout_seconds=2).options.map_options.timeout_factor is None
    assert task(timeout_seconds="250%")(lambda x: x).options.map_options.timeout_factor == 2.5
    assert task(timeout=4)(lambda x: x).options.timeout_seconds == 4.0


def test_seconds_are_no_factor() -> None:
    assert timeout_factor("x", 3) is None
    assert timeout_factor("x", None) is None
    assert timeout_factor("x", "50 %") == 0.5


def test_how_many_failures_are_too_many() -> None:
    assert not MapOptions().exceeded(1_000, 10)
    assert MapOptions(fail_fast=True).exceeded(1, None)
    assert not MapOptions(fail_fast=True).exceeded(0, 10)
    by_count = MapOptions(tolerated_count=2)
    assert not by_count.exceeded(2, None)
    assert by_count.exceeded(3, None)
    by_share = MapOptions(tolerated_percentage=10.0)
    assert not by_share.exceeded(10, 100)
    assert by_share.exceeded(11, 100)
    assert not by_share.exceeded(11, None), "of an unknown width, no percentage is known"
    assert MapOptions(tolerated_percentage=0.0).exceeded(1, 1_000_000)
    assert not MapOptions(tolerated_percentage=0.1).exceeded(1_000, 1_000_000)


def test_a_change_leaves_other_knobs_as_they_were() -> None:
    before = checked_map_options("x", {"max_concurrency": 4, "rate_limit": "5/s"})
    after = checked_map_options("x", {"max_concurrency": None}, before=before)
    assert after == MapOptions(rate=5.0)
    with pytest.raises(TaskOptionError, match="fail_fast"):
        checked_map_options("x", {"fail_fast": True}, before=MapOptions(tolerated_count=1))
