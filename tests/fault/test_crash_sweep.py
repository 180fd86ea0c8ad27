"""A driver that is killed at each place where it reads, writes or tells something, and gone on with by another one."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import flows
import pytest

SIZE = 8
SHARDS = 4


def boundaries(hits: dict[str, int]) -> list[tuple[str, int]]:
    """Each hit of each failpoint in a run that nothing disturbed."""
    return [(name, hit) for name, count in hits.items() for hit in range(1, count + 1)]


def check_value(run: dict[str, Any]) -> None:
    assert run["state"] == "Completed", run
    assert run["value"] == flows.plain(SIZE)


def check_executions(seen: dict[str, Any], before: dict[str, int], after: dict[str, int]) -> None:
    """What was committed is not executed again; all else just as often as is left of it."""
    expected = flows.executions(SIZE)
    for node, names in flows.names(SIZE).items():
        done = set(seen["done"].get(node, ()))
        for index, name in enumerate(names):
            again = after.get(name, 0) - before.get(name, 0)
            tries = seen["tries"].get(node, {}).get(str(index), 0)
            # A task that returned futures runs again until they have ended: nothing else knows what it asked for.
            left = 0 if index in done else expected[name] - (0 if node == "fan" else tries)
            assert again == left, f"{name} ran {again} times after the crash, {left} of it were left"
    assert set(after) == set(expected)


@pytest.mark.parametrize("shard", range(SHARDS))
def test_a_driver_killed_at_any_boundary_loses_nothing(shard: int, new_stage: Callable[[str], Any]) -> None:
    clean = new_stage("clean")
    given = {"parameters": {"size": SIZE}, "backend": "threads:2"}
    whole = clean.drive("pipeline", "run-1", rules="", **given).result()
    check_value(whole)
    assert clean.counts() == flows.executions(SIZE)
    every = boundaries(whole["hits"])
    killed = 0
    for name, hit in every[shard::SHARDS]:
        stage = new_stage(f"{name}-{hit}")
        driver = stage.drive("pipeline", "run-1", rules=f"{name}:kill@{hit}", **given)
        code = driver.wait()
        assert code in (0, -signal.SIGKILL), driver.output()
        killed += code != 0
        before = stage.counts()
        found = stage.drive("pipeline", "run-1", call="resume", **given).result()
        try:
            check_value(found["run"])
            check_executions(found["before"], before, stage.counts())
            assert found["before"]["wrong"] == found["after"]["wrong"] == []
        except AssertionError as error:
            raise AssertionError(f"killed at hit {hit} of {name}: {error}") from error
    print(f"{len(every)} boundaries, {killed} kills in shard {shard} of {SHARDS}")
    assert killed > len(every) // SHARDS * 0.8
