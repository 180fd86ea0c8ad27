"""Batches that a pool of threads is asked to give back."""

from __future__ import annotations

import threading

import pytest

from graphflow.backends.local import ThreadsBackend
from graphflow.model.orders import Literals, StepOrder
from graphflow.ports import BatchDone
from graphflow.testing.contracts.backends import Probe, program


def test_what_waits_is_taken_back_and_what_is_under_way_hands_back_its_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("graphflow.runner.sequential.STOP_CHECK_SECONDS", 0.0)
    begun, goes_on = threading.Event(), threading.Event()

    def wait(x: int) -> int:
        begun.set()
        goes_on.wait(30)
        return x

    backend = ThreadsBackend(1)
    probe = Probe(backend, "r")
    step = StepOrder(node=0, program=program(wait), slots=(0,))
    orders = [probe.order([step], [Literals(range(1_000))], range(1_000), 60.0) for _ in range(3)]
    for order in orders:
        backend.submit(order)
    assert begun.wait(30)
    taken = backend.take_back("r", [order.id for order in orders])
    assert taken == orders[1:]
    goes_on.set()
    event = probe.event()
    assert isinstance(event, BatchDone)
    assert event.report.batch == orders[0].id
    assert event.report.reached == 1
    # The same order may come again.
    backend.submit(taken[0])
    event = probe.event()
    assert isinstance(event, BatchDone)
    assert event.report.batch == orders[1].id
    assert event.report.reached == 1_000
    backend.close()


def test_a_batch_whose_size_somebody_fixed_goes_on_to_its_end() -> None:
    begun, goes_on = threading.Event(), threading.Event()

    def wait(x: int) -> int:
        begun.set()
        goes_on.wait(30)
        return x

    backend = ThreadsBackend(1)
    probe = Probe(backend, "r")
    step = StepOrder(node=0, program=program(wait), slots=(0,))
    order = probe.order([step], [Literals(range(1_000))], range(1_000))
    backend.submit(order)
    assert begun.wait(30)
    assert backend.take_back("r", [order.id]) == []
    goes_on.set()
    event = probe.event()
    assert isinstance(event, BatchDone)
    assert event.report.reached == 1_000
    backend.close()
