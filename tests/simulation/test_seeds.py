"""Random runs under a virtual clock: every promise on every seed."""

from __future__ import annotations

import pytest

from simulator.scenarios import random_scenario
from simulator.simulation import simulate

CHUNK = 250
SEEDS = 5_000


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_every_promise_holds_on_a_chunk_of_seeds(first: int) -> None:
    for seed in range(first, first + CHUNK):
        outcome = simulate(seed)
        assert outcome.nodes, f"seed {seed} ran nothing"


def test_the_same_seed_gives_the_same_trace() -> None:
    for seed in range(60):
        first = simulate(seed, keeps_trace=True)
        second = simulate(seed, keeps_trace=True)
        assert first.trace
        assert first.trace == second.trace


def test_different_seeds_give_different_traces() -> None:
    traces = {tuple(simulate(seed, keeps_trace=True).trace) for seed in range(20)}
    assert len(traces) == 20


def test_neither_batch_size_nor_fusion_changes_states_or_attempts() -> None:
    compared = 0
    for seed in range(200):
        plain = random_scenario(seed, has_faults=False)
        if any(item.then == "poison" for script in plain.scripts.values() for item in script.items.values()):
            continue
        if plain.may_halt:
            continue
        compared += 1
        first = simulate(plain)
        for shape in (
            plain.with_shape(),
            plain.with_shape(is_fused=False, batch_size=1),
            plain.with_shape(batch_size=3),
        ):
            other = simulate(shape)
            assert other.states == first.states, f"seed {seed}"
            assert other.nodes == first.nodes, f"seed {seed}"
            assert other.attempts == first.attempts, f"seed {seed}"
            assert other.executions == first.executions, f"seed {seed}"
    assert compared > 80


def test_faults_change_no_outcome_that_is_not_stopped() -> None:
    for seed in range(100):
        scenario = random_scenario(seed)
        if scenario.faults.stop_at is None:
            assert simulate(scenario).nodes == simulate(scenario.without_faults()).nodes, f"seed {seed}"
