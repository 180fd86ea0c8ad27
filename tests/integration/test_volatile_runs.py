"""Runs with `GRAPHFLOW_HISTORY=memory`: all that histories do, and no file."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from graphflow import flow, history, task
from graphflow.errors import FlowFailed, RunNotFound
from graphflow.histories import opening
from graphflow.histories.volatile import VolatileHistory
from graphflow.model.records import RunHeader
from graphflow.results import open_store


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("GRAPHFLOW_HISTORY", "memory")
    monkeypatch.setenv("GRAPHFLOW_HOME", str(tmp_path / "home"))
    own = VolatileHistory()
    monkeypatch.setattr(opening, "_in_memory", lambda: own)
    yield tmp_path / "home"
    assert not (tmp_path / "home").exists()


def objects_of(run_id: str) -> list[str]:
    return list(open_store(f"memory://graphflow/runs/{run_id}").names())


def test_a_run_is_listed_shown_resumed_and_removed(tmp_path: Path) -> None:
    mended = tmp_path / "mended"
    executed: list[int] = []

    @task
    def double(x: int) -> int:
        executed.append(x)
        if x == 3 and not mended.exists():
            raise ValueError("three")
        return 2 * x

    @flow(backend="threads")
    def main(n: int) -> Any:
        return double.map(range(n))

    failed = main.run(6)
    assert failed.state.is_failed()
    with history() as known:
        (shown,) = known.runs()
        assert (shown.id, shown.name, shown.state_name) == (failed.id, failed.name, "Failed")
        node = shown.nodes["double"]
        assert (node.counts["Completed"], node.counts["Failed"]) == (5, 1)
        assert [item.value for item in node.items.where(states=["Completed"])] == [0, 2, 4, 8, 10]
        assert "three" in str(node.items[3].exception)
        assert known.verify(failed.id) == []

    assert sorted(executed) == list(range(6))
    mended.touch()
    assert main.resume("@latest-failed").value == [0, 2, 4, 6, 8, 10]
    assert sorted(executed) == [0, 1, 2, 3, 3, 4, 5]
    with history() as known:
        (shown,) = known.runs()
        assert (shown.id, shown.state_name, len(shown.launches)) == (failed.id, "Completed", 2)
        assert shown.result() == [0, 2, 4, 6, 8, 10]
        assert objects_of(shown.id)
        known.remove(shown.id)
        assert known.runs() == [] and objects_of(shown.id) == []
        with pytest.raises(RunNotFound):
            known.run(failed.id)


def test_values_of_worker_processes_are_kept_without_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    @task
    def who(x: int) -> tuple[int, int]:
        return x, os.getpid()

    @task
    def first(pairs: list[tuple[int, int]]) -> list[int]:
        return [pair[0] for pair in pairs]

    @flow(backend="processes")
    def main(n: int) -> Any:
        return first(who.map(range(n)))

    with caplog.at_level(logging.WARNING, "graphflow"):
        run = main.run(5)
    assert run.value == [0, 1, 2, 3, 4]
    assert [each.getMessage() for each in caplog.records if each.name.startswith("graphflow")] == []
    with history() as known:
        values = [item.value for item in known.run(run.id).nodes["who"].items]
    assert [value[0] for value in values] == [0, 1, 2, 3, 4]
    assert os.getpid() not in {value[1] for value in values}


def test_the_oldest_runs_that_ended_are_removed_with_their_results(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = VolatileHistory(most_ended=3)
    monkeypatch.setattr(opening, "_in_memory", lambda: kept)
    # It has not ended, however old it is.
    journal = kept.create(RunHeader(id="running", name="running", flow_name="other", created=1.0))

    @task
    def double(x: int) -> int:
        return 2 * x

    @flow(backend="inline")
    def main(n: int) -> Any:
        return double.map(range(n))

    ids = [main.run(2).id for _ in range(6)]
    with history() as known:
        # The last one was new when the others were counted.
        assert [run.id for run in known.runs()] == [*reversed(ids[-4:]), "running"]
        assert known.run(ids[-1]).result() == [0, 2]
    assert [bool(objects_of(run_id)) for run_id in ids] == [False, False, True, True, True, True]
    journal.close()


def test_a_flow_that_fails_raises_as_it_does_on_disk() -> None:
    @task
    def broken() -> None:
        raise KeyError("nothing")

    @flow(backend="inline")
    def main() -> None:
        broken()

    with pytest.raises((FlowFailed, KeyError)):
        main()
    assert history().run("@latest").state_name == "Failed"
