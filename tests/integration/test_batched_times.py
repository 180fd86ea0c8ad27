"""Limits of calls for many items, in real time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from graphflow.errors import ItemTimedOut
from graphflow.model.orders import BatchOrder, Literals
from graphflow.model.reports import Report
from graphflow.model.states import Code
from graphflow.runner import watchdog
from graphflow.runner.journal import SEVERAL
from graphflow.testing.contracts.backends import program
from graphflow.testing.faults.hosts import RecordingHost, order_of

SECONDS = 30.0


def batched(fn: Callable[..., Any], values: Any, **options: Any) -> BatchOrder:
    return order_of(program(fn, batched=True, **options), Literals(values), size=len(values))


def run(order: BatchOrder) -> Report:
    host = RecordingHost()
    host.takes_progress = False
    report = host.run(order)
    assert report is not None
    return report


def names_of(report: Report) -> list[str]:
    return [Code(code).name for code in report.steps[0].states]


def errors_of(report: Report) -> list[BaseException | None]:
    return [record.exception for record in report.errors]


def test_the_item_that_takes_too_long_is_found() -> None:
    def work(xs: list[int]) -> list[int]:
        while 2 in xs:
            pass
        return xs

    report = run(batched(work, list(range(4)), timeout_seconds=0.1))
    assert names_of(report) == ["COMPLETED", "COMPLETED", "TIMED_OUT", "COMPLETED"]
    (error,) = errors_of(report)
    assert isinstance(error, ItemTimedOut) and str(error) == "work[2] ran longer than timeout_seconds=0.1"


def test_a_call_for_several_has_several_times_the_limit() -> None:
    def work(xs: list[int]) -> list[int]:
        end = time.perf_counter() + 0.3
        while time.perf_counter() < end:
            pass
        return xs

    assert names_of(run(batched(work, list(range(10)), timeout_seconds=0.2))) == ["COMPLETED"] * 10


def test_an_async_item_that_takes_too_long_is_found() -> None:
    async def work(xs: list[int]) -> list[int]:
        import asyncio

        if 1 in xs:
            await asyncio.sleep(SECONDS)
        return xs

    report = run(batched(work, [0, 1, 2], timeout_seconds=0.1))
    assert names_of(report) == ["COMPLETED", "TIMED_OUT", "COMPLETED"]


def test_a_call_for_several_that_never_yields_is_lost_with_its_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watchdog, "GRACE_SECONDS", 0.05)
    host = RecordingHost()

    def work(xs: list[int]) -> list[int]:
        host.has_given_up.wait(SECONDS)
        return xs

    assert host.run(batched(work, [0, 1], timeout_seconds=0.05)) is None
    (last,) = host.given_up
    assert (last.reached, list(last.held)) == (0, [0, 1])
    assert SEVERAL in host.notes


def test_one_item_that_never_yields_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "GRACE_SECONDS", 0.05)
    host = RecordingHost()

    def work(xs: list[int]) -> list[int]:
        host.has_given_up.wait(SECONDS)
        return xs

    assert host.run(batched(work, [0], timeout_seconds=0.05)) is None
    (last,) = host.given_up
    assert names_of(last) == ["TIMED_OUT"] and not last.held
