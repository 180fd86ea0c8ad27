"""Limits and starting slots of items in a batch, in real time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from graphflow.errors import ItemTimedOut
from graphflow.model.orders import Literals, Pace, Program, StepOrder
from graphflow.model.reports import Report
from graphflow.model.states import Code
from graphflow.testing.contracts.backends import program
from graphflow.testing.faults.hosts import RecordingHost, order_of

SECONDS = 30.0


TEXT = "work[0] ran longer than 0.1 s, which is timeout=300% of the map's median"


def names_of(report: Report | None, step: int = 0) -> list[str]:
    assert report is not None
    return [Code(code).name for code in report.steps[step].states]


def spin(_: Any) -> None:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        pass


async def rest(_: Any) -> None:
    await asyncio.sleep(SECONDS)


def named(fn: Callable[..., Any], **options: Any) -> Program:
    return replace(program(fn, **options), node_name="work")


@pytest.mark.parametrize("fn", [spin, rest])
def test_the_limit_of_an_order_replaces_the_tasks_own(fn: Any) -> None:
    step = StepOrder(node=0, program=named(fn, timeout="300%"), slots=(0,), timeout_seconds=0.1)
    report = RecordingHost().run(order_of([step], Literals([0]), size=1))
    assert names_of(report) == ["TIMED_OUT"]
    assert report is not None
    error = report.errors[0].exception
    assert isinstance(error, ItemTimedOut) and str(error) == TEXT


@pytest.mark.parametrize("fn", [spin, rest])
@pytest.mark.parametrize("batched", [False, True])
def test_a_limit_is_learned_while_the_item_runs(fn: Any, batched: bool) -> None:
    host = RecordingHost()
    asked = []

    def limit_of(run_id: str, node: int) -> float | None:
        asked.append((run_id, node))
        return 0.1 if len(asked) > 2 else None

    host.limit_of = limit_of  # type: ignore[method-assign]
    step = StepOrder(node=7, program=named(fn, timeout="300%", batched=batched), slots=(0,))
    report = host.run(order_of([step], Literals([0]), size=1))
    assert names_of(report) == ["TIMED_OUT"]
    assert report is not None and str(report.errors[0].exception) == TEXT
    assert set(asked) == {("run", 7)}


def begun(fn_kind: str, pace: Pace, size: int, **options: Any) -> tuple[list[float], Report]:
    times: list[float] = []
    reached_worker = time.perf_counter()

    def plain(x: Any) -> Any:
        times.append(time.perf_counter() - reached_worker)
        return x

    async def awaits(x: Any) -> Any:
        return plain(x)

    fn = awaits if fn_kind == "async" else plain
    work = program(fn, batched=fn_kind == "batched", **options)
    report = RecordingHost().run(order_of(work, Literals(list(range(size))), size=size, pace=pace))
    assert report is not None
    return times, report


@pytest.mark.parametrize("kind", ["plain", "async", "batched"])
def test_no_item_begins_before_its_slot(kind: str) -> None:
    times, report = begun(kind, Pace(delay=0.3, interval=0.05), 4)
    assert report.reached <= 4
    for place, at in enumerate(times):
        assert at >= 0.3 + 0.05 * place
    # The wait is not part of the first one's time.
    assert all(duration < 0.3 for duration in report.steps[0].durations)


@pytest.mark.parametrize("kind", ["plain", "async", "batched"])
def test_slots_that_were_missed_are_lost_and_the_rest_is_handed_back(kind: str) -> None:
    times, report = begun(kind, Pace(delay=-10.0, interval=0.001), 100)
    assert times == [] and report.reached == 0


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_each_attempt_counts_against_the_rate(kind: str) -> None:
    def fails(x: Any) -> None:
        raise OSError

    async def afails(x: Any) -> None:
        raise OSError

    work = program(afails if kind == "async" else fails, retries=3)
    pace = Pace(delay=0.0, interval=60.0)
    # The second item's slot is a minute away, beyond the slice.
    report = RecordingHost().run(order_of(work, Literals([0, 1]), size=2, pace=pace, slice_seconds=0.05))
    assert report is not None and report.reached == 1
    assert names_of(report) == ["AWAITING_RETRY"]
    (anomaly,) = report.steps[0].anomalies
    assert (anomaly.attempt, anomaly.delay, anomaly.code) == (1, 0.0, Code.AWAITING_RETRY)


@pytest.mark.parametrize("kind", ["plain", "async", "batched"])
def test_a_batch_that_waits_for_a_slot_can_be_stopped(kind: str) -> None:
    host = RecordingHost()
    looks = iter(range(4))

    def is_stopped(run_id: str) -> bool:
        return next(looks, None) is None

    host.is_stopped = is_stopped  # type: ignore[method-assign]

    async def awaits(x: Any) -> Any:
        return x

    work = program(awaits if kind == "async" else lambda x: x, batched=kind == "batched")
    pace = Pace(delay=SECONDS * 10, interval=1.0)
    report = host.run(order_of(work, Literals([0]), size=1, pace=pace))
    assert report is not None and report.reached == 0
