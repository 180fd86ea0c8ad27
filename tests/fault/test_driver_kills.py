"""A driver that is killed again and again while a large map runs on worker processes."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

WIDTH = 200_000
KILLS = 20
SEED = 4
LINE_NBYTES = 7
"""About what one count takes in the file."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a scheduler with two worker processes, which outlive the drivers."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "programs" / "cluster.py"), "2"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # Dask tells of each client that vanished, with all that it would have been sent.
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait()


def grows_to(path: Path, nbytes: int, is_over: Callable[[], bool]) -> None:
    """Wait until a file has this size, or nothing is to be expected any more."""
    pause = threading.Event()
    while not is_over() and (not path.exists() or path.stat().st_size < nbytes):
        pause.wait(0.001)


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def test_a_driver_killed_at_random_instants_loses_nothing_that_was_committed(
    stage: Any, cluster: str
) -> None:
    chance = random.Random(SEED)
    done_before: set[int] = set()
    counts_before: dict[str, int] = {}
    for life in range(KILLS + 1):
        driver = stage.drive("big_map", "big-1", parameters={"width": WIDTH}, backend=cluster)
        if life < KILLS:
            # Some die before they have begun anything.
            share = chance.choice([0.0, 0.2, 1.0, 1.0]) * chance.random()
            goal = size_of(stage.tally) + int(2 * share * WIDTH * LINE_NBYTES / KILLS)
            grows_to(stage.tally, goal, lambda driver=driver: has_ended(driver.pid))
            driver.send(signal.SIGKILL)
            assert driver.wait() in (-signal.SIGKILL, 0)
        else:
            result = driver.result()
            assert result["state"] == "Completed"
            assert result["value"] == sum(3 * x + 1 for x in range(WIDTH))
        counts = stage.counts()
        for item in done_before:
            assert counts[str(item)] == counts_before[str(item)], f"item {item} was executed again"
        seen = stage.look("big-1")
        assert seen["wrong"] == []
        done = set(seen["done"].get("work", []))
        assert done_before <= done
        fresh = done - done_before
        assert max((counts[str(item)] for item in fresh), default=0) <= life + 1
        done_before, counts_before = done, counts
        print(f"life {life}: {len(done)} items committed, {sum(counts.values())} executed")
    assert done_before == set(range(WIDTH))
    assert sorted(map(int, counts_before)) == list(range(WIDTH))


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or a zombie that nobody waited for yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
