"""The starting slots of a batch."""

from __future__ import annotations

from graphflow.model.orders import Pace
from graphflow.runner.pace import GRACE_SECONDS, Slots


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def slots(clock: Clock, *, delay: float, interval: float, count: int) -> Slots:
    return Slots(Pace(delay=delay, interval=interval), count, clock=clock, start=100.0)


def test_slots_open_at_their_times() -> None:
    clock = Clock()
    given = slots(clock, delay=0.5, interval=1.0, count=2)
    assert given.take() == 0.5
    clock.now = 100.5
    assert given.take() == 0.0
    assert given.take() == 1.0
    clock.now = 101.5
    assert given.take() == 0.0
    assert given.take() is None


def test_one_slot_starts_one_item() -> None:
    clock = Clock()
    given = slots(clock, delay=0.0, interval=1.0, count=3)
    assert given.take() == 0.0
    assert given.take() == 1.0


def test_a_slot_that_nobody_took_within_an_interval_is_lost() -> None:
    clock = Clock()
    given = slots(clock, delay=0.0, interval=1.0, count=4)
    clock.now = 102.5
    assert given.take() == 0.0
    assert given.take() == 0.5
    clock.now = 110.0
    assert given.take() is None


def test_short_intervals_leave_time_to_be_woken_late() -> None:
    clock = Clock()
    given = slots(clock, delay=0.0, interval=0.001, count=100)
    clock.now = 100.0 + GRACE_SECONDS / 2
    taken = 0
    while given.take() == 0.0:
        taken += 1
    assert taken == int(GRACE_SECONDS / 2 / 0.001) + 1


def test_a_slot_is_usable_up_to_its_window() -> None:
    clock = Clock()
    given = slots(clock, delay=0.0, interval=1.0, count=1)
    clock.now = 100.999
    assert given.take() == 0.0
    given = slots(clock, delay=0.0, interval=1.0, count=1)
    clock.now = 101.0
    assert given.take() is None
