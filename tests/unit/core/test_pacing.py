"""Starting slots: no two batches share one, and none is nearer to another than the rate says."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from graphflow.core.pacing import WINDOW_SECONDS, Pacer


def slots_of(pacer: Pacer, *, until: float, rng: random.Random | None = None) -> list[float]:
    """All slots that are reserved by somebody who asks whenever something is due (or later, by chance)."""
    now, found = 0.0, []
    while now < until:
        now = max(now, pacer.due()) + (rng.random() * 0.1 if rng else 0.0)
        got = pacer.reserve(now=now, count=1_000)
        found += [now + got.delay + k * got.interval for k in range(got.count)]
    return sorted(found)


@pytest.mark.parametrize("rate", [0.3, 5.0, 50.0, 1_000.0])
@pytest.mark.parametrize("lanes", [1, 3, 16])
def test_slots_are_as_far_apart_as_the_rate_says(rate: float, lanes: int) -> None:
    found = slots_of(Pacer(rate=rate, lanes=lanes, now=0.0), until=20.0)
    gaps = [after - before for before, after in pairwise(found)]
    assert min(gaps) >= (1 - 1e-6) / rate


@pytest.mark.parametrize("rate", [5.0, 50.0, 1_000.0])
def test_nothing_of_the_rate_is_lost_by_who_asks_in_time(rate: float) -> None:
    found = [each for each in slots_of(Pacer(rate=rate, lanes=4, now=0.0), until=20.0) if each < 20.0]
    assert len(found) >= 0.99 * rate * 20.0


def test_slots_that_nobody_asked_for_in_time_are_lost() -> None:
    pacer = Pacer(rate=10.0, lanes=1, now=0.0)
    got = pacer.reserve(now=5.03, count=2)
    assert got.delay == pytest.approx(0.07)
    assert got.count == 2


def test_a_batch_reserves_a_window_and_no_more() -> None:
    pacer = Pacer(rate=100.0, lanes=2, now=0.0)
    got = pacer.reserve(now=0.0, count=1_000)
    assert got.interval == pytest.approx(0.02)
    assert got.count == int(WINDOW_SECONDS / 0.02)


def test_a_slow_rate_is_not_waited_for_in_a_slot() -> None:
    pacer = Pacer(rate=0.1, lanes=1, now=0.0)
    pacer.reserve(now=0.0, count=1)
    assert pacer.due() == pytest.approx(10.0, abs=0.05)


@pytest.mark.parametrize("seed", range(20))
def test_a_change_of_rate_or_lanes_keeps_what_is_reserved(seed: int) -> None:
    rng = random.Random(seed)
    pacer = Pacer(rate=20.0, lanes=3, now=0.0)
    first = slots_of(pacer, until=3.0, rng=rng)
    rate = rng.choice((5.0, 20.0, 80.0))
    changed = pacer.changed(rate=rate, lanes=rng.choice((1, 2, 5)), now=3.0)
    got = changed.reserve(now=3.0, count=1_000)
    assert 3.0 + got.delay - first[-1] >= (1 - 1e-6) / 20.0


def test_no_change_is_no_change() -> None:
    pacer = Pacer(rate=20.0, lanes=3, now=0.0)
    assert pacer.changed(rate=20.0, lanes=3, now=9.0) is pacer
