"""Worker processes that die, some of them or all, and a Dask scheduler that is gone: under runs with a history."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flows

POINTS = [
    "batch.begin",
    "batch.pack.before",
    "store.grow.before",
    "store.grow.written",
    "batch.report.before",
]
SIZE = 60


def workers_of(stage: Any) -> set[int]:
    """The processes that executed something."""
    path = Path(f"{stage.tally}.pids")
    return set(map(int, path.read_text().split())) if path.exists() else set()


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def test_workers_that_die_before_and_after_each_step_of_writing_lose_nothing(stage: Any) -> None:
    marks = stage.home.parent / "marks"
    marks.mkdir()
    # Each happens in one process, at the second batch that comes so far there.
    rules = ";".join(f"{name}:kill@2!{marks / name}" for name in POINTS)
    driver = stage.drive(
        "pipeline",
        "run-1",
        parameters={"size": SIZE},
        backend="processes:2",
        env={"GRAPHFLOW_FAILPOINTS": rules},
    )
    found = driver.result()
    assert found["state"] == "Completed", found
    assert found["value"] == flows.plain(SIZE)
    deaths = sorted(path.name for path in marks.iterdir())
    assert deaths == sorted(POINTS)
    counts, expected = stage.counts(), flows.executions(SIZE)
    assert set(counts) == set(expected)
    assert all(counts[item] >= expected[item] for item in expected)
    # A death takes a batch of 3 items with it, of two fused tasks, and one more whose report was still on its way.
    assert sum(counts.values()) - sum(expected.values()) <= len(POINTS) * 2 * 3 * 2
    seen = stage.look("run-1")
    assert seen["wrong"] == [] and seen["state"] == "Completed"


def test_a_run_survives_that_all_its_workers_die_and_then_its_driver_too(
    stage: Any, wait_until: Callable[..., None]
) -> None:
    given = {"parameters": {"width": 20_000}, "backend": "processes:2"}
    driver = stage.drive("big_map", "run-1", **given)
    wait_until(lambda: len(workers_of(stage)) >= 2 and sum(stage.counts().values()) >= 2_000)
    first = workers_of(stage)
    for pid in first:
        kill(pid)
    wait_until(lambda: driver.has_ended or len(workers_of(stage) - first) >= 1)
    before = sum(stage.counts().values())
    wait_until(lambda: driver.has_ended or sum(stage.counts().values()) > before)
    driver.send(signal.SIGKILL)
    driver.wait()
    # A cluster of its own ends with its driver.
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers_of(stage)))
    before_resume = stage.counts()
    seen = stage.look("run-1")
    assert seen["wrong"] == [] and seen["state"] == "Crashed"
    found = stage.drive("big_map", "run-1", **given).result()
    assert found["state"] == "Completed", found
    assert found["value"] == sum(3 * x + 1 for x in range(20_000))
    counts = stage.counts()
    assert sorted(map(int, counts)) == list(range(20_000))
    done = seen["done"]["work"]
    assert all(counts[str(item)] == before_resume[str(item)] for item in done)
    assert max(counts.values()) <= 3
    again = sum(counts.values()) - 20_000
    assert again <= (2 + 2) * 2 * 500, f"{again} items ran twice, more than were in flight"


def test_a_run_whose_scheduler_is_killed_crashes_and_can_be_resumed_on_another(
    stage: Any, new_cluster: Callable[[], Any], wait_until: Callable[..., None]
) -> None:
    first = new_cluster()
    given = {"parameters": {"width": 20_000}}
    driver = stage.drive("big_map", "run-1", backend=first.address, **given)
    wait_until(lambda: sum(stage.counts().values()) >= 3_000)
    first.process.kill()
    found = driver.result()
    assert found["state"] == "Crashed", found
    assert found["error"] in ("BackendError", "BackendUnreachable"), found
    assert first.address in found["message"], found
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers_of(stage)))
    before = stage.counts()
    seen = stage.look("run-1")
    assert seen["wrong"] == [] and seen["state"] == "Crashed"
    found = stage.drive("big_map", "run-1", backend=new_cluster().address, **given).result()
    assert found["state"] == "Completed", found
    assert found["value"] == sum(3 * x + 1 for x in range(20_000))
    counts = stage.counts()
    assert sorted(map(int, counts)) == list(range(20_000))
    assert all(counts[str(item)] == before[str(item)] for item in seen["done"]["work"])
    assert max(counts.values()) <= 2
