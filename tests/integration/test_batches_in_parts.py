"""Reports of a batch that goes on: what ended is told, what executes is held, the rest is handed back."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from graphflow import Retry
from graphflow.model.orders import Hole, Lane, Literals, StepOrder
from graphflow.model.reports import Report
from graphflow.model.states import Code
from graphflow.runner import watchdog
from graphflow.runner.sequential import STOP_CHECK_SECONDS
from graphflow.testing.contracts.backends import program
from graphflow.testing.faults.hosts import RecordingHost, order_of
from graphflow.testing.waiting import eventually_async

SECONDS = 30.0
SLICE = 0.4
"""Long enough for items that do nothing, whatever else the machine does."""


def positions_of(report: Report) -> list[int]:
    return list(range(report.reached) if report.positions is None else report.positions)


def values_of(report: Report, step: int = 0) -> list[Any]:
    ref = report.steps[step].values
    assert ref is not None
    values: list[Any] = ref.data
    return values


class Gate:
    """Holds an item until something was told."""

    def __init__(self, tells: int = 1) -> None:
        self.event = threading.Event()
        self.host = RecordingHost(self._told)
        self._left = tells

    def _told(self, report: Report) -> None:
        self._left -= 1
        if self._left == 0:
            self.event.set()

    def wait(self) -> None:
        assert self.event.wait(SECONDS)


@pytest.mark.parametrize(
    "options", [{}, {"timeout_seconds": 60.0}, {"task_run_name": "{map_index}"}, {"retries": 1}]
)
def test_a_slow_item_holds_back_only_itself(options: dict[str, Any]) -> None:
    gate = Gate()

    def work(x: int) -> int:
        if x == 3:
            gate.wait()
        return 10 * x

    order = order_of(program(work, **options), Literals(list(range(8))), size=8, slice_seconds=SLICE)
    last = gate.host.run(order)
    assert last is not None
    (first,) = gate.host.told
    assert (positions_of(first), list(first.held)) == ([0, 1, 2], [3])
    assert values_of(first) == [0, 10, 20]
    assert first.steps[0].states == bytes([Code.COMPLETED]) * 3
    assert (positions_of(last), list(last.held)) == ([3], [])
    assert values_of(last) == [30]
    assert last.steps[0].attempts == b"\x01"


def test_the_first_item_may_be_the_slow_one() -> None:
    gate = Gate()

    def work(x: int) -> int:
        if x == 0:
            gate.wait()
        return x

    last = gate.host.run(order_of(program(work), Literals([0, 1, 2]), size=3, slice_seconds=SLICE))
    assert last is not None
    assert [(positions_of(each), list(each.held)) for each in [*gate.host.told, last]] == [
        ([], [0]),
        ([0], []),
    ]


def test_without_a_slice_nothing_is_handed_back() -> None:
    gate = Gate()

    def work(x: int) -> int:
        if x == 2:
            gate.wait()
        return x

    last = gate.host.run(order_of(program(work), Literals(list(range(6))), size=6))
    assert last is not None
    (first,) = gate.host.told
    assert (positions_of(first), list(first.held)) == ([0, 1], [2, 3, 4, 5])
    assert (positions_of(last), values_of(last)) == ([2, 3, 4, 5], [2, 3, 4, 5])


def test_a_lane_is_told_as_a_whole() -> None:
    gate = Gate()

    def first(x: int) -> int:
        return x + 1

    def second(y: int) -> int:
        if y == 3:
            gate.wait()
        if y == 2:
            raise ValueError(y)
        return 10 * y

    def third(z: int) -> int:
        return z + 5

    programs = [program(each, Hole(0)) for each in (first, second, third)]
    order = order_of(
        [
            StepOrder(node=0, program=programs[0], slots=(0,)),
            StepOrder(node=1, program=programs[1], slots=(Lane(0),)),
            StepOrder(node=2, program=programs[2], slots=(Lane(1),)),
        ],
        Literals(list(range(5))),
        size=5,
        slice_seconds=SLICE,
    )
    last = gate.host.run(order)
    assert last is not None
    (told,) = gate.host.told
    assert [values_of(told, step) for step in range(3)] == [[1, 2], [10, None], [15, None]]
    assert told.steps[2].states == bytes([Code.COMPLETED, Code.UPSTREAM_FAILED])
    assert [values_of(last, step) for step in range(3)] == [[3], [30], [35]]


def test_failures_and_labels_name_the_place_in_their_report() -> None:
    gate = Gate()

    def work(x: int) -> int:
        if x == 2:
            gate.wait()
        if x in (1, 2):
            raise Retry(after_seconds=5)
        return x

    order = order_of(
        program(work, task_run_name="item {map_index}"), Literals(list(range(4))), size=4, slice_seconds=SLICE
    )
    last = gate.host.run(order)
    assert last is not None
    (told,) = gate.host.told
    assert [each.position for each in told.steps[0].anomalies] == [1]
    assert [each.position for each in last.steps[0].anomalies] == [0]
    assert told.steps[0].labels is not None and told.steps[0].labels.data == ["item 0", "item 1"]
    assert last.steps[0].labels is not None and last.steps[0].labels.data == ["item 2"]


def test_log_lines_are_told_once() -> None:
    gate = Gate()

    def work(x: int) -> None:
        print("line", x)
        if x == 1:
            gate.wait()
            print("later")

    order = order_of(program(work, log_prints=True), Literals([0, 1]), size=2, slice_seconds=SLICE)
    last = gate.host.run(order)
    assert last is not None
    lines = [[line.message for line in report.logs] for report in [*gate.host.told, last]]
    assert lines == [["line 0", "line 1"], ["later"]]


def test_a_report_that_cannot_be_delivered_is_part_of_the_last_one() -> None:
    gate = threading.Event()

    def refuse(report: Report) -> None:
        gate.set()
        raise OSError("no way through")

    def work(x: int) -> int:
        if x == 2:
            assert gate.wait(SECONDS)
        return x

    host = RecordingHost(refuse)
    last = host.run(order_of(program(work), Literals(list(range(5))), size=5, slice_seconds=SLICE))
    assert last is not None and positions_of(last) == [0, 1, 2]


def test_an_item_that_is_given_up_after_a_report_is_told_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "GRACE_SECONDS", 0.05)
    told = threading.Event()
    host = RecordingHost(lambda report: told.set())

    def work(x: int) -> int:
        if x == 1:
            assert told.wait(SECONDS)
            # In C, where no exception comes through.
            host.has_given_up.wait(SECONDS)
        return x

    order = order_of(program(work, timeout_seconds=2.0), Literals([0, 1, 2]), size=3, slice_seconds=SLICE)
    assert host.run(order) is None
    (first,), (last,) = host.told, host.given_up
    assert (positions_of(first), list(first.held)) == ([0], [1])
    assert (positions_of(last), list(last.held)) == ([1], [])
    assert last.steps[0].states == bytes([Code.TIMED_OUT])


def test_a_batch_that_stops_hands_back_what_it_held_and_did_not_begin() -> None:
    gate = Gate()

    def work(x: int) -> int:
        if x == 1:
            gate.wait()
            gate.host.is_stopping = True
            looked_at = time.perf_counter() + STOP_CHECK_SECONDS
            while time.perf_counter() < looked_at:
                pass
        return x

    last = gate.host.run(order_of(program(work), Literals(list(range(5))), size=5))
    assert last is not None
    assert list(gate.host.told[0].held) == [1, 2, 3, 4]
    assert (positions_of(last), list(last.held)) == ([1], [])


# -- async items --------------------------------------------------------------------------------------------


def outstanding(reports: Sequence[Report], size: int) -> tuple[list[int], set[int]]:
    """The positions told, and those handed back, as the core works them out."""
    out, told, back = set(range(size)), [], set()
    for report in reports:
        positions = positions_of(report)
        assert out.issuperset(positions) and out.issuperset(report.held)
        told += positions
        back |= out.difference(positions, report.held)
        out &= set(report.held)
    assert not out
    return told, back


def test_async_items_are_told_while_others_run() -> None:
    host = RecordingHost()

    async def work(x: int) -> int:
        if x == 1:
            await eventually_async(lambda: bool(host.told))
        return 10 * x

    last = host.run(order_of(program(work), Literals(list(range(6))), size=6, concurrency=3))
    assert last is not None
    first = host.told[0]
    assert positions_of(first) == [0, 2, 3, 4, 5] and values_of(first) == [0, 20, 30, 40, 50]
    assert list(first.held) == [1]
    assert (positions_of(last), values_of(last)) == ([1], [10])


def test_async_items_that_were_not_begun_are_handed_back_at_the_end_of_the_slice() -> None:
    host = RecordingHost()

    async def work(x: int) -> int:
        await eventually_async(lambda: bool(host.told))
        return x

    last = host.run(
        order_of(program(work), Literals(list(range(10))), size=10, concurrency=4, slice_seconds=0.01)
    )
    assert last is not None
    assert [list(each.held) for each in host.told] == [[0, 1, 2, 3]]
    assert outstanding([*host.told, last], 10) == ([0, 1, 2, 3], set(range(4, 10)))


def test_the_concurrency_of_the_order_is_a_bound() -> None:
    now = most = 0

    async def work(x: int) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        now -= 1

    order = order_of(program(work, concurrency=8), Literals(list(range(50))), size=50, concurrency=5)
    last = RecordingHost().run(order)
    assert last is not None and last.reached == 50
    assert most == 5


def test_an_async_loop_that_is_given_up_tells_each_item_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "GRACE_SECONDS", 0.05)
    host = RecordingHost()

    async def work(x: int) -> int:
        if x == 2:
            await eventually_async(lambda: bool(host.told))
            host.has_given_up.wait(SECONDS)
        if x == 3:
            await asyncio.sleep(SECONDS)
        return x

    order = order_of(program(work, timeout_seconds=2.0), Literals(list(range(8))), size=8, concurrency=2)
    assert host.run(order) is None
    (last,) = host.given_up
    told, back = outstanding([*host.told, last], 8)
    states = dict(zip(positions_of(last), last.steps[0].states, strict=True))
    assert states[2] == Code.TIMED_OUT and states[3] == Code.AWAITING_RETRY
    assert sorted(told) == [0, 1, 2, 3] and back == {4, 5, 6, 7}
