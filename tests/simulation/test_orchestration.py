"""Clocks, workers, drivers and keepers that die at any statement: each fire is decided once, each run ends once."""

from __future__ import annotations

from collections import Counter

import pytest

from simulator.orchestrated import live_home

SEEDS, CHUNK = 400, 40


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_every_promise_of_orchestration_holds(first: int) -> None:
    for seed in range(first, first + CHUNK):
        live_home(seed)


def test_every_kind_of_fault_strikes_and_runs_end_in_every_way() -> None:
    faults: Counter[str] = Counter()
    policies = set()
    for seed in range(60):
        home = live_home(seed)
        faults += home.faults
        policies.add((home.policy, home.catchup))
    assert set(faults) == {"died at a statement", "died after a commit", "slept", "set back", "stopped"}
    assert len(policies) == 12
