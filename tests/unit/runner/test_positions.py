"""What of a batch has begun, ended and been told."""

from __future__ import annotations

import random
import threading
from array import array
from collections.abc import Sequence
from itertools import islice

import pytest

from graphflow.model.reports import Graft
from graphflow.runner.positions import Positions, part_of, records_of


def test_before_anything_was_taken_there_is_nothing_to_say() -> None:
    assert Positions(3, in_turn=True).part() is None
    assert Positions(3, in_turn=False).part() is None


def test_of_items_in_turn_the_last_one_taken_is_held() -> None:
    progress = Positions(5, in_turn=True)
    list(islice(progress.rest, 3))
    assert progress.part() == (range(2), range(2, 5))
    progress.told(range(2))
    assert progress.part() is None
    next(progress.rest)
    assert progress.part() == (range(2, 3), range(3, 5))
    assert progress.last(5) == range(2, 5)


def test_what_is_cut_off_is_not_held() -> None:
    progress = Positions(5, in_turn=True)
    next(progress.rest)
    progress.cut()
    assert list(progress.rest) == []
    assert progress.part() == (range(0), range(1))
    progress.told(range(0))
    assert progress.part() is None
    assert progress.last(1) == range(1)


def test_cutting_off_nothing_says_nothing() -> None:
    progress = Positions(1, in_turn=True)
    next(progress.rest)
    progress.cut()
    assert progress.part() is None


def test_a_report_that_was_not_delivered_is_made_again() -> None:
    progress = Positions(4, in_turn=True)
    list(islice(progress.rest, 2))
    progress.cut()
    assert progress.part() == progress.part() == (range(1), range(1, 2))
    assert progress.last(2) == range(2)


def test_items_that_end_in_any_order_are_told_as_they_end() -> None:
    progress = Positions(6, in_turn=False)
    list(islice(progress.rest, 4))
    progress.mark_ended([0, 2])
    assert progress.part() == ([0, 2], [1, 3, 4, 5])
    progress.told([0, 2])
    assert progress.part() is None
    progress.cut()
    assert progress.part() == (range(0), [1, 3])
    progress.told(range(0))
    progress.mark_ended([1])
    assert progress.part() == (range(1, 2), range(3, 4))
    progress.mark_ended([3])
    assert progress.part() is None
    assert progress.last() == [1, 3]


@pytest.mark.parametrize("in_turn", [True, False])
@pytest.mark.parametrize("seed", range(20))
def test_each_position_is_told_once_or_handed_back(in_turn: bool, seed: int) -> None:
    rng = random.Random(seed)
    size = rng.randint(1, 3_000)
    progress = Positions(size, in_turn=in_turn)
    ran: list[int] = []
    told: list[int] = []
    out = set(range(size))
    back: list[int] = []

    def take(positions: Sequence[int], held: Sequence[int]) -> None:
        assert out.issuperset(positions) and out.issuperset(held)
        told.extend(positions)
        back.extend(out.difference(positions, held))
        out.intersection_update(held)

    def run() -> None:
        position = -1
        for position in progress.rest:
            ran.append(position)
            if not in_turn:
                progress.mark_ended((position,))
        with progress.lock:
            take(progress.last(position + 1), ())

    def tell() -> None:
        while True:
            with progress.lock:
                if progress.is_over:
                    return
                if progress.taken and rng.random() < 0.05:
                    progress.cut()
                part = progress.part()
                if part is not None:
                    take(*part)
                    progress.told(part[0])

    threads = [threading.Thread(target=run), threading.Thread(target=tell)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(told) == sorted(ran)
    assert sorted([*told, *back]) == list(range(size))
    assert not out


def test_columns_and_records_are_cut_to_the_positions() -> None:
    assert part_of([1, 2, 3, 4], range(1, 3)) == [2, 3]
    assert part_of([1, 2, 3, 4], [0, 3]) == [1, 4]
    assert part_of(bytearray(b"abcd"), [3, 0]) == bytearray(b"da")
    assert part_of(array("f", [1, 2, 3]), [2]) == array("f", [3])
    grafts = [Graft(position=each, fragment=each) for each in (1, 4, 2)]
    assert records_of(grafts, range(3)) == (grafts[0], grafts[2])
    assert [each.position for each in records_of(grafts, range(1, 5))] == [0, 3, 1]
    assert [(each.position, each.fragment) for each in records_of(grafts, [2, 4])] == [(1, 4), (0, 2)]
