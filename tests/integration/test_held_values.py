"""Values of this process leave memory once they are many, and can be asked for all the same."""

from __future__ import annotations

import gc
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from graphflow import flow, task
from graphflow.driver import spilling
from graphflow.runner import batch

NBYTES = 100_000


@task(persist_result=False)
def unkept(n: int) -> bytes:
    return bytes([n]) * NBYTES


@task
def kept(n: int) -> bytes:
    return bytes([n]) * NBYTES


@task
def size(data: bytes) -> int:
    return len(data)


@pytest.fixture(autouse=True)
def few_in_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(spilling, "HELD_NBYTES", 10 * NBYTES)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield


def held(run: Any) -> Counter[str]:
    """How many bytes of a run's values are where."""
    found: Counter[str] = Counter()
    for node in run._record.recorder.driver.history.nodes.values():
        for step in node.steps():
            found[step.values.kind] += step.values.nbytes
    return found


@pytest.mark.parametrize(("make", "place"), [(unkept, "file"), (kept, "stored")])
def test_values_of_a_forced_chain_leave_memory_and_can_be_read(
    local_name: str, make: Any, place: str
) -> None:
    again: list[bytes] = []

    @flow(backend=local_name)
    def main() -> Any:
        made = make.map(range(50))
        total = sum(size.map(made).result())
        again.append(made[3].result())
        return total, size.map(made)

    run = main.run()
    assert run.value == (50 * NBYTES, [NBYTES] * 50)
    assert again == [b"\3" * NBYTES]
    places = held(run)
    assert places["local"] <= 12 * NBYTES
    assert places[place] >= 35 * NBYTES


def test_values_that_nobody_takes_can_be_looked_at_after_the_run(local_name: str) -> None:
    @flow(backend=local_name)
    def main() -> int:
        unkept.map(range(50))
        return 1

    run = main.run()
    assert held(run)["local"] <= 12 * NBYTES
    assert [item.value[:1] for item in run.nodes["unkept"].items] == [bytes([n]) for n in range(50)]


def test_the_folder_of_values_goes_with_the_run(tmp_path: Path) -> None:
    @flow(backend="threads")
    def main() -> int:
        unkept.map(range(50))
        return 1

    run = main.run()
    assert len(list(tmp_path.glob("graphflow-values-*"))) == 1
    del run
    gc.collect()
    assert list(tmp_path.glob("graphflow-values-*")) == []


def test_what_cannot_be_written_stays_in_memory() -> None:
    class Large:
        nbytes = NBYTES

        def __init__(self) -> None:
            self.lock = threading.Lock()

    @task(persist_result=False)
    def large(n: int) -> Large:
        return Large()

    @flow(backend="threads")
    def main() -> Any:
        made = large.map(range(30))
        made.wait()
        return sum(type(each.result().lock).__name__ == "lock" for each in made)

    assert main() == 30


def test_a_batch_ends_early_where_its_values_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "MAX_RESULT_NBYTES", 3 * NBYTES)
    monkeypatch.setattr("graphflow.runner.sequential.STOP_CHECK_SECONDS", 0.0)

    @flow(backend="threads:1")
    def main() -> Any:
        return sum(size.map(unkept.map(range(40))).result())

    run = main.run()
    assert run.value == 40 * NBYTES
    sizes = [step.values.count for step in run._record.recorder.driver.history.nodes[0].steps()]
    assert max(sizes) <= 4
