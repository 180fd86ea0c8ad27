"""Ready work of a stage: ranges in the order of their indices, whatever order they come in."""

from __future__ import annotations

import random

import pytest

from graphflow.core.nodes import Stage


def stage() -> Stage:
    return Stage(id=1, members=[1], depth=0, priority=0, batch_size=None)


@pytest.mark.parametrize("seed", range(30))
def test_what_is_handed_back_is_taken_before_what_comes_after_it(seed: int) -> None:
    dice = random.Random(seed)
    each, left = stage(), set[int]()
    pieces = [range(lo, lo + 5) for lo in range(0, 200, 5)]
    dice.shuffle(pieces)
    for piece in pieces:
        each.add_fresh(piece.start, piece.stop)
        left.update(piece)
        if dice.random() < 0.3:
            taken = each.take_fresh(dice.randint(1, 12))
            assert taken.start == min(left)
            left.difference_update(taken)
            if dice.random() < 0.5:
                each.add_fresh(taken.start, taken.stop)
                left.update(taken)
        assert each.ready == len(left)
        assert [*each.fresh] == sorted(each.fresh)
    while left:
        taken = each.take_fresh(9)
        assert taken.start == min(left)
        left.difference_update(taken)
    assert each.ready == 0 and not each.fresh


def test_ranges_that_touch_are_one() -> None:
    each = stage()
    for lo, hi in ((0, 5), (10, 15), (5, 10)):
        each.add_fresh(lo, hi)
    assert each.fresh == [(0, 15)]
