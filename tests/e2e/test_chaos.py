"""`graphflow chaos`: real flows in processes of their own, killed at random."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]

FLOWS = """
import time
from pathlib import Path
from graphflow import flow, task

@task(batch_size=3)
def square(x: int) -> int:
    return x * x

@task
def total(values: list[int]) -> int:
    return sum(values)

@flow(backend="threads:2")
def good(n: int) -> int:
    return total(square.map(range(n)))

@flow(backend="threads:2")
async def later(n: int) -> int:
    return await total(square.map(range(n)))

@task
def now() -> int:
    return time.time_ns()

@flow(backend="threads:2")
def never_the_same() -> int:
    return now()

@flow(backend="threads:2")
def only_once(mark: str) -> int:
    if Path(mark).exists():
        raise RuntimeError("somebody was here already")
    Path(mark).touch()
    return total([1, 2])

@flow(backend="threads:2")
def bad() -> int:
    raise RuntimeError("it never works")
"""


@pytest.fixture
def file(folder: Path) -> str:
    """A file with flows."""
    (folder / "jobs.py").write_text(FLOWS)
    return "jobs.py"


@pytest.mark.parametrize("name", ["good", "later"])
def test_a_flow_survives_and_gives_the_same(cli: Cli, file: str, name: str) -> None:
    found = cli("chaos", f"{file}:{name}", "-p", "n=20", "--kills", 3, "-o", "json")
    assert found.code == 0, found.err
    report = json.loads(found.out)
    assert report["value"] == str(sum(x * x for x in range(20)))
    assert len(report["kills"]) == 3 and report["problems"] == []
    assert report["launches"] >= report["runs"] + 1
    assert report["boundaries"] > 50
    assert found.err.count("killed at") == 3
    assert "same value" in found.err


def test_a_value_that_cannot_be_compared_is_told(cli: Cli, file: str) -> None:
    found = cli("chaos", f"{file}:never_the_same", "--kills", 1)
    assert found.code == 1
    assert "differs between undisturbed runs" in found.err


def test_a_run_that_does_not_come_to_its_end_is_told(cli: Cli, file: str, folder: Path) -> None:
    found = cli("chaos", f"{file}:only_once", "-p", f"mark={folder / 'mark'}", "--kills", 1)
    assert found.code == 1
    assert "was not completed by launch" in found.err and "somebody was here already" in found.err
    found = cli("chaos", f"{file}:bad", "--kills", 1)
    assert found.code == 1
    assert "does not complete undisturbed" in found.err and "it never works" in found.err


def test_what_cannot_be_run_is_refused_before_anything_is(cli: Cli, file: str) -> None:
    assert cli("chaos", f"{file}:good").code == 3
    assert cli("chaos", f"{file}:goood", "-p", "n=3").code == 3
    assert cli("chaos", f"{file}:good", "-p", "n=3", "--backend", "cloud").code == 2
    assert cli("chaos", f"{file}:good", "-p", "n=3", "--kills", 0).code == 2
    assert cli("chaos", f"{file}:good", "--params", "-").code == 2
