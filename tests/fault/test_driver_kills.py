"""A driver that is killed again and again while a large map runs on worker processes."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WIDTH = 200_000
KILLS = 10
SEED = 4
LINE_NBYTES = 7
"""About what one count takes in the file."""


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@pytest.mark.timeout(400)
def test_a_driver_killed_at_random_instants_loses_nothing_that_was_committed(
    stage: Any, cluster: str, wait_until: Callable[..., None]
) -> None:
    chance = random.Random(SEED)
    done_before: set[str] = set()
    counts_before: dict[str, int] = {}
    for launch in range(KILLS + 1):
        driver = stage.drive("big_map", "big-1", parameters={"width": WIDTH}, backend=cluster)
        if launch < KILLS:
            # Some die before they have begun anything.
            share = chance.choice([0.0, 0.2, 1.0, 1.0]) * chance.random()
            goal = size_of(stage.tally) + int(2 * share * WIDTH * LINE_NBYTES / KILLS)
            wait_until(lambda driver=driver, goal=goal: driver.has_ended or size_of(stage.tally) >= goal)
            driver.send(signal.SIGKILL)
            assert driver.wait() in (-signal.SIGKILL, 0)
        else:
            result = driver.result()
            assert result["state"] == "Completed"
            assert result["value"] == sum(3 * x + 1 for x in range(WIDTH))
        counts = stage.counts()
        again = [item for item in done_before if counts[item] != counts_before[item]]
        assert not again, f"{len(again)} items were executed again, such as {again[0]}"
        # All of the history is verified now and then, and in the end.
        seen = stage.look("big-1", verifies=launch % 7 == 6)
        assert seen["wrong"] == []
        done = set(map(str, seen["done"].get("work", [])))
        assert done_before <= done
        assert max((counts[item] for item in done - done_before), default=0) <= launch + 1
        done_before, counts_before = done, counts
        print(f"launch {launch}: {len(done)} items committed, {sum(counts.values())} executed")
    assert done_before == set(counts_before) == set(map(str, range(WIDTH)))
    assert stage.look("big-1")["wrong"] == []
