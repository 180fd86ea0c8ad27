"""A driver that is killed at each place where it reads, writes or tells something, and resumed by another one."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from typing import Any

import flows
import pytest

SIZE = 8
SHARDS = 3
MOST = 150
"""So many boundaries are tried; GRAPHFLOW_SWEEP=all tries all of them."""
SEQUENCES = 12
SEED = 9


def boundaries(hits: dict[str, int]) -> list[tuple[str, int]]:
    """Each hit of each failpoint in a run that nothing disturbed."""
    return [(name, hit) for name, count in hits.items() for hit in range(1, count + 1)]


def chosen(every: list[tuple[str, int]], hits: dict[str, int], most: int) -> list[tuple[str, int]]:
    """The first and the last hit of each failpoint, and others at a fixed distance."""
    if len(every) <= most or os.environ.get("GRAPHFLOW_SWEEP") == "all":
        return every
    ends = [place for place in every if place[1] in (1, hits[place[0]])]
    inner = [place for place in every if place[1] not in (1, hits[place[0]])]
    stride = -(-len(inner) // max(1, most - len(ends)))
    return sorted({*ends, *inner[::stride]}, key=every.index)


def check_value(run: dict[str, Any]) -> None:
    assert run["state"] == "Completed", run
    assert run["value"] == flows.plain(SIZE)


def check_executions(
    seen: dict[str, Any], before: dict[str, int], after: dict[str, int], *, is_alone: bool = True
) -> None:
    """What was committed is not executed again; all else just as often as is left of it."""
    expected = flows.executions(SIZE)
    for node, names in flows.names(SIZE).items():
        done = set(seen["done"].get(node, ()))
        for index, name in enumerate(names):
            again = after.get(name, 0) - before.get(name, 0)
            tries = seen["tries"].get(node, {}).get(str(index), 0)
            # A task that returned futures runs again until they have ended: nothing else knows what it asked for.
            left = 0 if index in done else expected[name] - (0 if node == "fan" else tries)
            ran = f"{name} ran {again} times after the crash, {left} of it were left"
            assert again == left if is_alone or index in done else left <= again <= left + 1, ran
    assert set(after) == set(expected)


def survive(stage: Any, name: str, hit: int, given: dict[str, Any], *, is_alone: bool = True) -> bool:
    """Kill a driver there, and go on with its run; whether it died (another one may get there in other steps)."""
    # Its own id: on a cluster that is shared, runs of other homes have others too.
    run_id = f"{name}-{hit}"
    driver = stage.drive("pipeline", run_id, rules=f"{name}:kill@{hit}", **given)
    code = driver.wait()
    assert code in (0, -signal.SIGKILL), driver.output()
    before = stage.counts()
    found = stage.drive("pipeline", run_id, call="resume", **given).result()
    try:
        check_value(found["run"])
        check_executions(found["before"], before, stage.counts(), is_alone=is_alone)
        assert found["before"]["wrong"] == found["after"]["wrong"] == []
    except AssertionError as error:
        raise AssertionError(f"killed at hit {hit} of {name}: {error}") from error
    return code != 0


@pytest.mark.parametrize("shard", range(SHARDS))
def test_a_driver_killed_at_any_boundary_loses_nothing(shard: int, new_stage: Callable[[str], Any]) -> None:
    clean = new_stage("clean")
    given = {"parameters": {"size": SIZE}, "backend": "threads:2"}
    whole = clean.drive("pipeline", "run-1", rules="", **given).result()
    check_value(whole)
    assert clean.counts() == flows.executions(SIZE)
    every = boundaries(whole["hits"])
    tried = chosen(every, whole["hits"], MOST)[shard::SHARDS]
    killed = sum(survive(new_stage(f"{name}-{hit}"), name, hit, given) for name, hit in tried)
    print(f"{len(every)} boundaries; shard {shard} of {SHARDS}: {len(tried)} tried, {killed} kills")
    assert killed >= len(tried) * 0.7


def test_a_driver_on_worker_processes_killed_at_its_boundaries_loses_nothing(
    new_stage: Callable[[str], Any], cluster: str
) -> None:
    given = {"parameters": {"size": SIZE}, "backend": cluster}
    whole = new_stage("clean").drive("pipeline", "run-1", rules="", **given).result()
    check_value(whole)
    every = boundaries(whole["hits"])
    tried = chosen(every, whole["hits"], 0)[::4]
    # What is under way on a worker goes on when the driver dies: it may count itself after that.
    killed = sum(survive(new_stage(f"{name}-{hit}"), name, hit, given, is_alone=False) for name, hit in tried)
    print(f"{len(every)} boundaries: {len(tried)} tried, {killed} kills")
    assert killed >= len(tried) * 0.7


def test_a_driver_that_is_killed_again_and_again_loses_nothing(new_stage: Callable[[str], Any]) -> None:
    chance = random.Random(SEED)
    given = {"parameters": {"size": SIZE}, "backend": "threads:2"}
    hits = new_stage("clean").drive("pipeline", "run-1", rules="", **given).result()["hits"]
    total, killed = sum(hits.values()), 0
    for sequence in range(SEQUENCES):
        stage = new_stage(f"sequence-{sequence}")
        kept: dict[str, int] = {}
        for _ in range(chance.randint(2, 4)):
            hit = chance.randint(1, total // 2)
            killed += stage.drive("pipeline", "run-1", rules=f"*:kill@{hit}", **given).wait() != 0
            counts = stage.counts()
            assert all(counts[item] == count for item, count in kept.items()), f"sequence {sequence}"
            done = stage.look("run-1")["done"]
            names = flows.names(SIZE)
            kept = {names[node][i]: counts[names[node][i]] for node in names for i in done.get(node, ())}
        check_value(stage.drive("pipeline", "run-1", **given).result())
        counts = stage.counts()
        assert all(counts[item] == count for item, count in kept.items()), f"sequence {sequence}"
        assert set(counts) == set(flows.executions(SIZE))
        assert stage.look("run-1")["wrong"] == []
    print(f"{SEQUENCES} sequences, {killed} kills")
    assert killed >= SEQUENCES * 1.5
