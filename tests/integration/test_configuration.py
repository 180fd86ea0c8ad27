"""What is configured wrongly is refused where it is named, before a run exists; what the flow itself raises makes it Failed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graphflow import INPUTS, backends, flow, history, task
from graphflow.errors import (
    BackendError,
    BackendUnreachable,
    GraphflowError,
    HistoryError,
    ResultStoreError,
    SettingsError,
)


@task
def double(x: int) -> int:
    return 2 * x


def total(n: int = 3) -> int:
    return sum(double.map(range(n)).result())


WRONG: dict[str, tuple[type[GraphflowError], Callable[[Path], Any]]] = {
    "serializer of a flow": (SettingsError, lambda _: flow(total, result_serializer="nope")),
    "serializer of a task": (
        SettingsError,
        lambda _: task(total, result_serializer="nope", cache_policy=INPUTS),
    ),
    "store of a flow": (ResultStoreError, lambda _: flow(total, result_storage="nope://bucket")),
    "store of a task": (ResultStoreError, lambda _: task(total, result_storage="nope://bucket")),
    "store without a bucket": (ResultStoreError, lambda _: flow(total, result_storage="s3://")),
    "backend": (BackendError, lambda _: flow(total, backend="thread").run()),
    "cluster class": (
        BackendError,
        lambda _: flow(total, backend=backends.dask(cluster_class="no.Such")).run(),
    ),
    "scheduler file": (BackendUnreachable, lambda path: flow(total, backend=str(path / "none.json")).run()),
    "folder of results": (
        ResultStoreError,
        lambda _: flow(total, backend="inline", result_storage="/dev/null/results").run(),
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_configured_wrongly_leaves_no_run_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setenv("GRAPHFLOW_HOME", str(tmp_path / "home"))
    error, act = WRONG[what]
    with pytest.raises(error):
        act(tmp_path)
    with history() as found:
        assert found.runs() == [] and found.unlisted() == []


@pytest.mark.parametrize("error", [BackendError, ResultStoreError, HistoryError])
@pytest.mark.parametrize("place", ["body", "task", "inner flow"])
def test_an_error_of_ours_that_the_flow_raises_makes_it_failed(
    local_name: str, error: type[GraphflowError], place: str
) -> None:
    @task
    def bad() -> None:
        raise error("mine")

    @flow
    def inner() -> None:
        raise error("mine")

    @flow(backend=local_name)
    def outer() -> Any:
        if place == "body":
            raise error("mine")
        return bad() if place == "task" else inner()

    run = outer.run()
    assert run.state == "Failed" and "mine" in str(run.exception)


def test_a_second_export_to_one_place_fails_its_run(local_name: str, tmp_path: Path) -> None:
    @flow(backend=local_name)
    def export() -> None:
        double.map(range(3)).write(str(tmp_path / "out"), format="jsonl")

    assert export.run().state == "Completed"
    run = export.run()
    assert run.state == "Failed" and "contains another export" in str(run.exception)


def test_a_run_that_cannot_be_resumed_here_stays_as_it_is(tmp_path: Path) -> None:
    @flow(backend="inline")
    def fails() -> None:
        raise ValueError("not yet")

    run = fails.run()
    with pytest.raises(BackendUnreachable):
        fails.with_options(backend=str(tmp_path / "none.json")).resume(run.id)
    with history() as found:
        kept = found.run(run.id)
        assert kept.state_name == "Failed" and len(kept.launches) == 1
