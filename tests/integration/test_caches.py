"""Cached results, looked at and cared for by a program; the command line is in `test_cli_cache`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from graphflow import INPUTS, flow, history, task
from graphflow.errors import NotFound
from graphflow.runs.cache_documents import reason_document, stat_document, task_document
from graphflow.runs.caches import caches
from graphflow.runs.caching_reasons import caching_reason


@pytest.fixture(autouse=True)
def run_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("GRAPHFLOW_HOME", str(tmp_path / "home"))

    @task(cache_policy=INPUTS)
    def double(x: int) -> int:
        return 2 * x

    @flow(backend="inline")
    def main(values: list[int]) -> Any:
        return double.map(values)

    return str(main.run([1, 2, 3]).id)


def test_what_is_cached_is_told_as_data() -> None:
    found = caches()
    (listed,) = found.tasks()
    assert listed.task.startswith("double-") and listed.objects > 0 and listed.nbytes > 0
    assert task_document(listed)["modified"].endswith(("Z", "+00:00"))
    (counted,) = found.stat(["double"])
    assert (counted.live, counted.damaged, stat_document(counted)["task"]) == (3, 0, listed.task)
    entries = found.entries("")
    assert sorted(found.value(entry) for entry in entries) == [2, 4, 6]
    assert [problem for _, problem in found.verify()] == [""] * len(list(found.verify()))


def test_names_and_keys_that_fit_nothing_are_refused_at_once() -> None:
    found = caches()
    for ask in (found.tasks, found.stat, found.verify, found.compact, found.collect, found.removal):
        with pytest.raises(NotFound, match="no cached results of a task 'triple'"):
            ask(["triple"])
    missing = "0" * 32
    with pytest.raises(NotFound, match="no cached value in"):
        found.entries(missing)
    with pytest.raises(ValueError, match="not the beginning of a key"):
        found.entries("xyz")
    with pytest.raises(ValueError, match="no claim begins"):
        found.unsettled(missing)


def test_what_is_removed_is_chosen_first() -> None:
    found = caches()
    (task_name,) = [each.task for each in found.tasks()]
    key = next(entry.key for entry in found.entries("") if found.value(entry) == 4)
    chosen = found.removal(["double"], [key.hex()])
    assert chosen.counts == {task_name: 1}
    assert len(found.entries("")) == 3
    assert list(found.remove(chosen)) == [(task_name, 1)]
    assert sorted(found.value(entry) for entry in found.entries("")) == [2, 6]
    assert [name for name, _ in found.remove(found.removal(["double"]))] == [task_name]
    assert found.tasks() == []


def test_why_an_item_was_executed_is_told_as_data(run_id: str) -> None:
    with history() as known:
        run = known.run(run_id)
        document = reason_document(caching_reason(run, "double", 1))
        assert (document["item"], document["state"], document["equal"]) == ("double[1]", "Completed", None)
        assert document["entry"]["run_id"] == run_id
        with pytest.raises(NotFound, match="has no node 'triple'"):
            caching_reason(run, "triple", 1)
        with pytest.raises(NotFound, match="there is no item 9"):
            caching_reason(run, "double", 9)
        with pytest.raises(ValueError, match="choose one"):
            caching_reason(run, "double")
