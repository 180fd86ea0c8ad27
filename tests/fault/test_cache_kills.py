"""Drivers that are killed while they keep results by their keys: nothing is lost, and nothing wrong is found later."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import graphflow

JOB = """
import sys
from graphflow import INPUTS, flow, task

@task(cache_policy=INPUTS - "path", batch_size=10, run_once="once" in sys.argv)
def square(x: int, path: str) -> int:
    with open(path, "a") as file:
        file.write(f"{x}\\n")
    return x * x

@task
def total(values: list[int]) -> int:
    return sum(values)

@flow(backend="inline")
def squares(path: str) -> int:
    return total(square.map(range(40), path))

if __name__ == "__main__":
    print(squares.resume("@latest").result() if "resume" in sys.argv else squares(sys.argv[1]))
"""


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAPHFLOW_HOME", str(tmp_path / "home"))
    (tmp_path / "calls").touch()
    place = tmp_path / "job.py"
    place.write_text(JOB)
    return place


def run(job: Path, *arguments: str, failpoints: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(job), str(job.parent / "calls"), *arguments],
        env={**os.environ, "GRAPHFLOW_FAILPOINTS": failpoints},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def seen(job: Path) -> Counter[str]:
    return Counter((job.parent / "calls").read_text().split())


@pytest.mark.parametrize(
    ("point", "way"),
    [
        ("batch.cache.before", "resume"),
        ("batch.cache.after", "resume"),
        ("batch.cache.after", "anew"),
        ("claims.flight.after", "resume"),
        ("batch.report.before", "anew"),
    ],
)
def test_a_driver_that_was_killed_at_the_cache_loses_a_batch_at_most(job: Path, point: str, way: str) -> None:
    assert run(job, failpoints=f"{point}:kill@2").returncode == -9
    before = seen(job)

    again = run(job, *(["resume"] if way == "resume" else []))

    assert (again.returncode, again.stdout) == (0, f"{sum(x * x for x in range(40))}\n"), again.stderr
    counts = seen(job)
    assert set(counts) == {str(x) for x in range(40)}
    repeated = [x for x, count in counts.items() if count > 1]
    # What was kept by its key is not made again, though the run knew nothing of it.
    assert len(repeated) == (10 if point == "batch.cache.before" else 0)
    assert set(repeated) <= set(before)
    assert set(run(job).stdout.split()) == {again.stdout.strip()}
    assert seen(job) == counts


def test_what_was_claimed_by_a_driver_that_was_killed_is_indeterminate(job: Path) -> None:
    assert run(job, "once", failpoints="claims.once.after:kill@13").returncode == -9

    again = run(job, "once", "resume")

    assert again.returncode == 1
    assert "IndeterminateError" in again.stderr
    assert max(seen(job).values()) == 1
    counts = graphflow.history().runs()[0].nodes["square"].counts
    # The first batch was kept; of the second, three items were claimed.
    assert counts == {"Completed": 37, "Indeterminate": 3} or counts == {
        "Completed": 27,
        "Cached": 10,
        "Indeterminate": 3,
    }
