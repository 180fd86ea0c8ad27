"""Durations and busy times are added up exactly, whatever the batches."""

from __future__ import annotations

import itertools
import random
from array import array

import pytest

from graphflow.model.reports import StepReport
from graphflow.model.states import Code
from graphflow.records.figures import BINS, LANES, SLOWEST, TIMES, Durations, Timeline, bin_bounds


def step(durations: list[float], *, attempts: bytes | None = None, states: bytes | None = None) -> StepReport:
    starts, at = array("f"), 0.0
    for each in durations:
        starts.append(at)
        at += each
    count = len(durations)
    return StepReport(
        node=0,
        states=bytes([Code.COMPLETED]) * count if states is None else states,
        attempts=b"\1" * count if attempts is None else attempts,
        starts=starts,
        durations=array("f", durations),
    )


def test_bins_follow_each_other_four_to_a_doubling():
    bounds = [bin_bounds(place) for place in range(BINS)]
    assert all(one[1] == other[0] for one, other in itertools.pairwise(bounds))
    assert all(bounds[place + 4][0] == 2 * bounds[place][0] for place in range(BINS - 4))
    assert 1e-7 < bounds[0][0] < 1.3e-7 and 36 * 3600 < bounds[-1][1] < 37 * 3600


@pytest.mark.parametrize("seed", range(20))
def test_each_duration_is_counted_in_the_bin_that_holds_it(seed):
    rng = random.Random(seed)
    values = [10 ** rng.uniform(-9, 6) for _ in range(rng.randrange(1, 300))] + [0.0]
    found = Durations()
    found.add(range(len(values)), step(values))
    expected = [0] * BINS
    for value in array("f", values):
        place = next((each for each in range(BINS) if value < bin_bounds(each)[1]), BINS - 1)
        expected[place] += 1
    assert list(found.bins) == expected


@pytest.mark.parametrize("seed", range(20))
def test_batches_change_no_figure(seed):
    rng = random.Random(seed)
    values = [rng.choice((0.0, 1e-6, rng.expovariate(10), 5.0)[: 2 + seed % 3]) for _ in range(500)]
    whole, parts = Durations(), Durations()
    whole.add(range(500), step(values))
    at = 0
    while at < 500:
        size = min(500 - at, rng.randrange(1, 60))
        parts.add(range(at, at + size), step(values[at : at + size]))
        at += size
    assert whole.bins == parts.bins and whole.slowest == parts.slowest
    assert (
        whole.slowest
        == sorted(
            ((value, index) for index, value in enumerate(array("f", values))),
            key=lambda each: (-each[0], each[1]),
        )[:SLOWEST]
    )


def test_items_that_were_not_executed_have_no_duration():
    found = Durations()
    seconds = found.add([4, 9, 7], step([1.0, 2.0, 4.0], attempts=b"\1\0\2"))
    assert seconds == 5.0 and sum(found.bins) == 2 and found.slowest == [(4.0, 7), (1.0, 4)]
    assert found.add([1], step([3.0], attempts=b"\0")) == 0.0 == found.add((), step([]))


def test_a_timeline_doubles_its_bins_and_loses_nothing():
    line = Timeline(100.0)
    rng = random.Random(1)
    busy = items = failures = 0.0
    for _ in range(300):
        states = bytes(rng.choice((Code.COMPLETED, Code.FAILED)) for _ in range(3))
        told = step([rng.random() for _ in range(3)], states=states)
        seconds = sum(told.durations)
        line.add(rng.choice("ab"), 100.0 + rng.expovariate(1 / 400), told, seconds)
        busy, items, failures = busy + seconds, items + 3, failures + states.count(Code.FAILED)
    assert line.width in {0.25 * 2**power for power in range(20)} and line.width > 0.25
    assert sum(sum(lane.busy) for lane in line.lanes.values()) == pytest.approx(busy)
    assert sum(sum(lane.items) for lane in line.lanes.values()) == items
    assert sum(sum(lane.failures) for lane in line.lanes.values()) == failures
    assert all(
        len(lane.busy) == len(lane.items) == len(lane.failures) == TIMES for lane in line.lanes.values()
    )


def test_what_began_before_its_launch_is_counted_at_its_begin():
    line = Timeline(100.0)
    line.add("a", 90.0, step([1.0]), 1.0)
    assert line.lanes["a"].busy[0] == 1.0 and line.lanes["a"].items[0] == 1
    line.add("a", float("inf"), step([1.0]), 1.0)
    assert sum(line.lanes["a"].items) == 1


def test_lanes_are_bounded():
    line = Timeline(0.0)
    for place in range(LANES + 5):
        line.add(f"w{place}", 1.0, step([1.0]), 1.0)
    assert len(line.lanes) == LANES + 1 and sum(line.lanes[""].items) == 5
