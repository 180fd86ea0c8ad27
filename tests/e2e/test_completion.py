"""What Tab offers: read only, quick, and never an error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

JOBS = """
from graphflow import flow, task
open("imported", "w").close()

@task
def double(x): return 2 * x

@flow(name="twice")
def doubles(): return double.map([1, 2])

@flow
def others(): return 1
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "jobs.py").write_text(JOBS)
    (tmp_path / "plain.py").write_text("import os\n")
    (tmp_path / "broken.py").write_text("import graphflow\ndef (\n")
    return tmp_path


def offers(place: Path, *words: str, home: str = "home") -> list[str]:
    """What a shell offers for the last word."""
    line = ["graphflow", *words]
    done = subprocess.run(
        [sys.executable, "-m", "graphflow"],
        cwd=place,
        capture_output=True,
        text=True,
        env=os.environ
        | {
            "_GRAPHFLOW_COMPLETE": "complete_bash",
            "COMP_WORDS": " ".join(line),
            "COMP_CWORD": str(len(line) - 1),
            "GRAPHFLOW_HOME": str(place / home),
        },
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_runs_nodes_and_flows_of_the_history_are_offered(place: Path) -> None:
    command = [sys.executable, "-m", "graphflow", "run", "jobs.py:doubles", "--run-id", "mine", "-q"]
    subprocess.run(
        command,
        cwd=place,
        env=os.environ | {"GRAPHFLOW_HOME": str(place / "home")},
        check=True,
        capture_output=True,
    )

    assert offers(place, "runs", "show", "mi") == ["mine"]
    assert offers(place, "runs", "show", "@") == ["@latest", "@latest-failed"]
    assert offers(place, "runs", "failures", "mine", "--node", "d") == ["double"]
    assert offers(place, "runs", "failures", "gone", "--node", "d") == []
    assert offers(place, "runs", "ls", "--flow", "t") == ["twice"]
    assert offers(place, "runs", "items", "mine", "") == ["double"]


def test_targets_are_found_without_importing_them(place: Path) -> None:
    assert offers(place, "run", "jo") == ["jobs.py:doubles", "jobs.py:others"]
    assert offers(place, "run", "broken") == []
    assert not (place / "imported").exists()
    assert offers(place, "run", "jobs.py", "--backend", "proc")[0] == "processes"


@pytest.mark.parametrize("home", ["none", "jobs.py"])
def test_where_there_is_no_history_nothing_is_offered_and_nothing_made(place: Path, home: str) -> None:
    before = sorted(os.listdir(place))
    assert offers(place, "runs", "show", "0", home=home) == []
    assert sorted(os.listdir(place)) == before
