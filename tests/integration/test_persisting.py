"""Flows whose values go to a result store, on every backend."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from graphflow import backends, flow, history, task
from graphflow.backends.automatic.candidates import Thresholds
from graphflow.backends.automatic.switching import LocalBackend
from graphflow.errors import ValueUnavailable
from graphflow.model.orders import BatchOrder
from graphflow.model.reports import Report, stored_ref
from graphflow.model.states import Code
from graphflow.ports import Backend, BackendEvent, BatchDone
from graphflow.results.packs.packs import verify
from graphflow.results.stores.local import LocalStore
from graphflow.runner.columns import load_column


class Persisting:
    """A backend whose batches persist, as they do where a run has a history."""

    def __init__(self, backend: Backend, store: LocalStore) -> None:
        self._backend = backend
        self.store = store
        self.reports: list[Report] = []
        self.indices: dict[int, Any] = {}
        for name in dir(Backend):
            # Whether something is a backend is told by what it has itself.
            if not name.startswith("_") and name not in dir(type(self)):
                setattr(self, name, getattr(backend, name))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def open_run(self, run_id: str, deliver: Callable[[BackendEvent], None]) -> None:
        def tee(event: BackendEvent) -> None:
            if isinstance(event, BatchDone):
                self.reports.append(event.report)
            deliver(event)

        self._backend.open_run(run_id, tee)

    def submit(self, order: BatchOrder) -> None:
        self.indices[order.id] = order.indices
        steps = tuple(
            replace(step, persists=step.program.options.persist_result is not False) for step in order.steps
        )
        self._backend.submit(replace(order, steps=steps, results=self.store, epoch=1))

    def stored(self, node: int) -> dict[int, Any]:
        """The stored values of a node, by index."""
        found: dict[int, Any] = {}
        for report in self.reports:
            assert not report.store_error
            positions = range(report.reached) if report.positions is None else report.positions
            for step in report.steps:
                if step.node == node and step.stored is not None:
                    values = load_column(stored_ref(step.stored, self.store), "a result")
                    for place, position in enumerate(positions):
                        if step.states[place] == Code.COMPLETED and place not in step.stored.missing:
                            found[self.indices[report.batch][position]] = values[place]
        return found


@pytest.fixture
def persisting(backend_name: Any, tmp_path: Path) -> Persisting:
    backend = backend_name
    if isinstance(backend, str):
        backend = getattr(backends, backend)()
    return Persisting(backend, LocalStore(tmp_path / "results", key=bytes(32)))


@task
def double(x: int) -> int:
    return 2 * x


@task
def text(x: int) -> str:
    if x % 1_000 == 0:
        raise ValueError(x)
    return f"{x}" * 20


@task
async def soon(x: int) -> int:
    return x + 1


@task(batched=True)
def many(xs: list[int]) -> list[int]:
    return [x + 2 for x in xs]


@task(persist_result=False)
def unkept(x: int) -> int:
    return x + 3


def test_all_values_of_a_flow_are_stored(persisting: Persisting) -> None:
    @flow(backend=persisting)
    def body() -> Any:
        doubled = double.map(range(1, 5_001))
        texts = text.map(doubled)
        later, batched, not_kept = soon.map(doubled), many.map(doubled), unkept.map(doubled)
        texts.failures()
        return doubled, later, batched, not_kept

    run = body.run()
    doubled, later, batched, not_kept = run.value
    numbers = {node.name: number for number, node in enumerate(run.nodes)}
    assert persisting.stored(numbers["double"]) == dict(enumerate(doubled))
    assert persisting.stored(numbers["soon"]) == dict(enumerate(later))
    assert persisting.stored(numbers["many"]) == dict(enumerate(batched))
    assert persisting.stored(numbers["unkept"]) == {} and len(not_kept) == 5_000
    texts = {i: f"{x}" * 20 for i, x in enumerate(doubled) if x % 1_000}
    assert persisting.stored(numbers["text"]) == texts
    # Far fewer packs than reports, and each column is as it was written.
    assert len(list(persisting.store.names())) <= 3 < len(persisting.reports)
    columns = [
        step.stored for report in persisting.reports for step in report.steps if step.stored is not None
    ]
    assert columns and verify(persisting.store, *columns)


def test_what_an_inner_flow_says_of_its_values_holds_for_its_tasks() -> None:
    @task(persist_result=True)
    def own(x: int) -> int:
        return x

    @flow(persist_result=False)
    def inner() -> Any:
        return inmost(), double.map([1, 2]), own(3)

    @flow
    def inmost() -> Any:
        return many.map([1, 2])

    @flow(backend="inline")
    def outer() -> Any:
        return inner(), text.map([1, 2])

    run = outer.run()
    nodes = history().run(run.id).nodes
    assert [node.name for node in nodes if not node.is_builtin and _is_kept(node)] == ["own", "text"]


def _is_kept(node: Any) -> bool:
    try:
        return node.items[0].value is not None
    except ValueUnavailable:
        return False


def test_tasks_that_move_to_processes_store_their_values(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "results", key=bytes(32))
    with LocalBackend(2, thresholds=Thresholds(moves_all=True)) as backend:
        persisting = Persisting(backend, store)
        assert flow(backend=persisting)(lambda: text.map(double.map(range(1, 400))))() == [
            f"{2 * x}" * 20 for x in range(1, 400)
        ]
        assert persisting.stored(1) == {x - 1: f"{2 * x}" * 20 for x in range(1, 400)}


def test_what_cannot_be_stored_is_warned_of_once_per_task(
    local_name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lock = threading.Lock()

    @task
    def locks(x: int) -> Any:
        return lock if x % 2 else x

    backend = getattr(backends, local_name)()
    persisting = Persisting(backend, LocalStore(tmp_path / "results", key=bytes(32)))
    with caplog.at_level(logging.WARNING, logger="graphflow.results"):
        found = flow(backend=persisting)(lambda: locks.with_options(batch_size=2).map(range(10)))()
    assert found == [lock if x % 2 else x for x in range(10)]
    assert persisting.stored(0) == {x: x for x in range(0, 10, 2)}
    assert len(persisting.reports) == 5
    (record,) = [each for each in caplog.records if each.name == "graphflow.results"]
    assert "locks[" in record.getMessage() and "a lock, cannot be stored" in record.getMessage()
