"""The contract of a backend, as a test suite: an adapter's tests subclass it and give a backend.

class TestMine(BackendContract):
    @pytest.fixture
    def backend(self):
        ...
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from graphflow.common.functions import is_async
from graphflow.identity.hashing import item_digests
from graphflow.model.orders import (
    BatchOrder,
    Column,
    Gathered,
    Hole,
    Input,
    Literals,
    Program,
    StepOrder,
    Whole,
)
from graphflow.model.policies import Skip, TaskOptions
from graphflow.model.reports import Report, Stored, stored_ref
from graphflow.model.states import Code
from graphflow.ports import (
    Backend,
    BackendEvent,
    BatchDone,
    BatchLost,
    Capacity,
    CapacityChanged,
    ResultStore,
)
from graphflow.results.packs.here import store_report
from graphflow.results.packs.packs import Section, publish, verify
from graphflow.results.packs.pickling import encode
from graphflow.results.stores.local import LocalStore

__all__ = ["BackendContract", "Probe", "program", "put"]

SECONDS = 30.0


def program(fn: Callable[..., Any], *args: Any, is_mapped: bool = True, **options: Any) -> Program:
    """Return a program around a function; without arguments, it takes the first input."""
    name = getattr(fn, "__name__", "fn")
    return Program(
        id=name,
        fn=fn,
        kind="async" if is_async(fn) else "sync",
        args=args or (Hole(0),),
        kwargs={},
        has_nested=False,
        options=TaskOptions.checked(f"task {name!r}", options, name=name),
        node_name=name,
        node_key=name,
        flow_name="contract",
        is_mapped=is_mapped,
    )


class Probe:
    """One run on a backend, driven by hand."""

    def __init__(self, backend: Backend, run_id: str) -> None:
        self.backend = backend
        self.run_id = run_id
        self.events: queue.SimpleQueue[BackendEvent] = queue.SimpleQueue()
        self._batches = 0
        backend.start()
        backend.open_run(run_id, self.deliver)

    def deliver(self, event: BackendEvent) -> None:
        """Receive an event, from any thread."""
        self.events.put(event)

    def order(
        self,
        steps: Sequence[StepOrder],
        inputs: Sequence[Input],
        indices: Sequence[int],
        slice_seconds: float | None = None,
    ) -> BatchOrder:
        """Return a batch of this run, with a number of its own."""
        self._batches += 1
        return BatchOrder(
            id=self._batches,
            run_id=self.run_id,
            steps=tuple(steps),
            indices=indices,
            width=len(indices),
            inputs=tuple(inputs),
            slice_seconds=slice_seconds,
        )

    def event(self) -> BackendEvent:
        """Return the next event but a change of capacity, which may come at any time.

        Batches of a backend that runs in its caller are run here.
        """
        while True:
            while self.backend.runs_in_caller and self.events.empty() and self.backend.step(self.run_id):
                pass
            event = self.events.get(timeout=SECONDS)
            if not isinstance(event, CapacityChanged):
                return event

    def run(self, fn: Callable[..., Any], values: Sequence[Any], **options: Any) -> Report:
        """Run a function over values as one batch."""
        step = StepOrder(node=0, program=program(fn, **options), slots=(0,))
        order = self.order([step], [Literals(values)], range(len(values)))
        self.backend.submit(order)
        event = self.event()
        assert isinstance(event, BatchDone), event
        assert event.report.batch == order.id
        return event.report

    def persist(self, fn: Callable[..., Any], values: Sequence[Any], store: ResultStore) -> Report:
        """Run a function over values as one batch whose values go to a result store, written by the process that reaches it."""
        step = StepOrder(node=0, program=program(fn), slots=(0,), persists=True)
        order = self.order([step], [Literals(values)], range(len(values)))
        self.backend.submit(replace(order, results=store, epoch=7))
        event = self.event()
        assert isinstance(event, BatchDone), event
        report = event.report
        if report.store_error:
            return report
        return store_report(
            report, store, lambda ref: self.backend.fetch([ref])[0], run_id=self.run_id, epoch=7
        )

    def values(self, report: Report, step: int = 0) -> list[Any]:
        """Return the values that a report refers to."""
        ref = report.steps[step].values
        assert ref is not None
        return self.backend.fetch([ref])[0]


def _double(x: int) -> int:
    return 2 * x


def _add(x: int, y: int) -> int:
    return x + y


def _total(xs: list[int]) -> int:
    return sum(xs)


def _join(x: int, y: str, all_of_them: list[str]) -> str:
    return f"{x}{y}{len(''.join(all_of_them))}"


def put(store: ResultStore, run_id: str, values: list[Any]) -> Stored:
    """Return values in a store, as an earlier launch of a run left them."""
    data, _ = encode(values)
    section = Section(node=0, data=data, count=len(values))
    return publish(store, [section], run_id=run_id, batch=1, epoch=1)[0]


def _fussy(x: int) -> int:
    if x == 1:
        raise ValueError(f"not {x}")
    if x == 2:
        raise Skip("no need")
    if x == 3:
        raise SystemExit(3)
    return x


class BackendContract:
    """What every backend keeps. Subclasses give the fixture `backend`."""

    _runs = 0

    def probe(self, backend: Backend) -> Probe:
        """Return a new run."""
        BackendContract._runs += 1
        return Probe(backend, f"contract-{BackendContract._runs}")

    def test_it_has_a_name_and_at_least_one_slot(self, backend: Backend) -> None:
        backend.start()
        capacity = backend.capacity()
        assert backend.name
        assert isinstance(capacity, Capacity)
        assert capacity.slots >= 1

    def test_starting_twice_does_nothing(self, backend: Backend) -> None:
        backend.start()
        backend.start()
        assert self.probe(backend).run(_double, [1]).reached == 1

    def test_a_batch_comes_back_with_a_state_and_a_value_for_each_item(self, backend: Backend) -> None:
        probe = self.probe(backend)
        report = probe.run(_double, [1, 2, 3])
        assert report.reached == 3
        assert report.steps[0].states == bytes([Code.COMPLETED]) * 3
        assert report.steps[0].attempts == b"\1\1\1"
        assert len(report.steps[0].starts) == len(report.steps[0].durations) == 3
        assert probe.values(report) == [2, 4, 6]

    def test_large_columns_come_back_too(self, backend: Backend) -> None:
        probe = self.probe(backend)
        values = [b"x" * 1_000 + bytes([i % 256]) for i in range(2_000)]
        report = probe.run(bytes, values)
        assert probe.values(report) == values

    def test_each_item_fails_alone_whatever_it_raises(self, backend: Backend) -> None:
        probe = self.probe(backend)
        report = probe.run(_fussy, range(5))
        states = [Code(code) for code in report.steps[0].states]
        assert states == [Code.COMPLETED, Code.FAILED, Code.SKIPPED, Code.FAILED, Code.COMPLETED]
        assert {record.type_name for record in report.errors} >= {"ValueError", "SystemExit"}
        values = probe.values(report)
        assert (values[0], values[4]) == (0, 4)

    def test_a_retry_without_delay_happens_in_the_batch(self, backend: Backend) -> None:
        def once_more(x: int) -> int:
            from graphflow.graph.context import task_context

            if task_context().attempt == 1:
                raise ValueError("again")
            return x

        report = self.probe(backend).run(once_more, [7, 8], retries=1)
        assert report.steps[0].states == bytes([Code.COMPLETED]) * 2
        assert report.steps[0].attempts == b"\2\2"

    def test_a_retry_with_a_delay_is_handed_back(self, backend: Backend) -> None:
        report = self.probe(backend).run(_fussy, [0, 1], retries=1, retry_delay_seconds=60)
        assert report.steps[0].states[1] == Code.AWAITING_RETRY
        assert report.steps[0].anomalies[0].delay == 60

    def test_fused_steps_hand_values_on_and_a_failure_ends_the_lane_only(self, backend: Backend) -> None:
        from graphflow.model.orders import Lane

        probe = self.probe(backend)
        steps = [
            StepOrder(node=0, program=program(_fussy), slots=(0,)),
            StepOrder(node=1, program=program(_double), slots=(Lane(0),)),
        ]
        probe.backend.submit(probe.order(steps, [Literals(range(5))], range(5)))
        event = probe.event()
        assert isinstance(event, BatchDone)
        states = [Code(code) for code in event.report.steps[1].states]
        failed = Code.UPSTREAM_FAILED
        assert states == [Code.COMPLETED, failed, Code.SKIPPED, failed, Code.COMPLETED]
        assert probe.values(event.report, 1)[4] == 8

    def test_stored_columns_are_inputs_of_later_batches(self, backend: Backend) -> None:
        probe = self.probe(backend)
        ref = probe.run(_double, range(6)).steps[0].values
        assert ref is not None
        add = program(_add, Hole(0), Hole(1))
        step = StepOrder(node=1, program=add, slots=(0, 1))
        inputs: list[Input] = [Column(((ref, (5, 0)), (ref, range(2, 3)))), Whole(ref, 1)]
        probe.backend.submit(probe.order([step], inputs, [5, 0, 2]))
        event = probe.event()
        assert isinstance(event, BatchDone)
        assert probe.values(event.report) == [12, 2, 6]

    def test_a_gathered_column_is_one_list_without_what_dropped_out(self, backend: Backend) -> None:
        probe = self.probe(backend)
        ref = probe.run(_double, range(6)).steps[0].values
        assert ref is not None
        step = StepOrder(node=1, program=program(_total, is_mapped=False), slots=(0,))
        gathered = Gathered("all", ((ref, range(6)),), dropped=(5,))
        probe.backend.submit(probe.order([step], [gathered], range(1)))
        event = probe.event()
        assert isinstance(event, BatchDone)
        assert probe.values(event.report) == [20]

    def test_values_that_persist_are_in_the_result_store(self, backend: Backend, tmp_path: Path) -> None:
        probe, store = self.probe(backend), LocalStore(tmp_path / "results", key=bytes(32))
        values = [b"x" * 1_000 + bytes([i % 256]) for i in range(100)]
        for source in ([1, 2, 3], values):
            report = probe.persist(bytes, source, store)
            stored = report.steps[0].stored
            assert stored is not None and stored.count == len(source)
            assert verify(store, stored)
            assert stored.name.startswith("e7-")
            # Both where this run has them, and where a later one finds them.
            refs = [report.steps[0].values, stored_ref(stored, store)]
            for ref in refs:
                assert ref is not None
                assert backend.fetch([ref])[0] == [bytes(each) for each in source]
            # What is stored outlives what a run lets go.
            backend.free([stored_ref(stored, store)])
            assert verify(store, stored)

    def test_values_of_an_earlier_launch_are_inputs(self, backend: Backend, tmp_path: Path) -> None:
        probe, store = self.probe(backend), LocalStore(tmp_path / "results", key=bytes(32))
        small = stored_ref(put(store, probe.run_id, list(range(6))), store)
        large = stored_ref(put(store, probe.run_id, ["x" * 50_000, "y"]), store)
        step = StepOrder(node=1, program=program(_join, Hole(0), Hole(1), Hole(2)), slots=(0, 1, 2))
        inputs: list[Input] = [
            Column(((small, (5, 0)), (small, range(2, 3)))),
            Whole(large, 1),
            Gathered("all", ((large, range(2)),)),
        ]
        for _ in range(2):
            probe.backend.submit(probe.order([step], inputs, [5, 0, 2]))
            event = probe.event()
            assert isinstance(event, BatchDone)
            assert probe.values(event.report) == ["5y50001", "0y50001", "2y50001"]

    def test_a_damaged_value_is_never_an_input(self, backend: Backend, tmp_path: Path) -> None:
        probe, store = self.probe(backend), LocalStore(tmp_path / "results", key=bytes(32))
        stored = put(store, probe.run_id, [1, 2, 3])
        path = tmp_path / "results" / stored.name
        data = bytearray(path.read_bytes())
        data[stored.offset + stored.nbytes - 3] ^= 1
        path.write_bytes(data)
        step = StepOrder(node=1, program=program(_double), slots=(0,))
        ref = stored_ref(stored, store)
        probe.backend.submit(probe.order([step], [Column(((ref, range(3)),))], range(3)))
        event = probe.event()
        assert isinstance(event, BatchDone)
        assert event.report.steps[0].states == bytes([Code.FAILED]) * 3
        assert all(record.type_name.endswith("ResultDamaged") for record in event.report.errors)

    def test_a_store_that_cannot_be_written_is_told(self, backend: Backend, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        probe, store = self.probe(backend), LocalStore(tmp_path / "file", key=bytes(32))
        report = probe.persist(_double, [1, 2], store)
        assert "cannot be written to" in report.store_error
        assert report.steps[0].stored is None
        assert probe.values(report) == [2, 4]

    def test_a_report_tells_what_its_items_were_mapped_over(self, backend: Backend) -> None:
        probe = self.probe(backend)
        step = StepOrder(node=0, program=program(str), slots=(0,), wants_digests=True)
        values = [1, "two", (3, None)]
        probe.backend.submit(probe.order([step], [Literals(values)], range(3)))
        event = probe.event()
        assert isinstance(event, BatchDone)
        assert event.report.steps[0].digests == item_digests(values)

    def test_a_stopped_run_hands_back_what_it_did_not_begin(self, backend: Backend) -> None:
        probe = self.probe(backend)
        backend.stop(probe.run_id)

        def slow(x: int) -> int:
            import time

            time.sleep(0.01)
            return x

        step = StepOrder(node=0, program=program(slow), slots=(0,))
        backend.submit(probe.order([step], [Literals(range(10_000))], range(10_000)))
        backend.stop(probe.run_id)
        event = probe.event()
        if isinstance(event, BatchDone):
            assert event.report.reached < 10_000
        else:
            assert isinstance(event, BatchLost)
            assert event.had_started is False

    def test_within_a_grown_slice_a_batch_tells_what_has_ended_and_hands_back_the_rest_when_it_is_recalled(
        self, backend: Backend
    ) -> None:
        probe = self.probe(backend)

        def slow(x: int) -> int:
            import time

            time.sleep(0.01)
            return x

        step = StepOrder(node=0, program=program(slow), slots=(0,))
        if not backend.capacity().tells:
            # It has nothing to hand back but at the end of a slice, and gets no grown ones.
            order = probe.order([step], [Literals(range(3))], range(3), slice_seconds=60.0)
            backend.submit(order)
            backend.recall(probe.run_id, [order.id])
            assert isinstance(probe.event(), BatchDone)
            return
        order = probe.order([step], [Literals(range(100_000))], range(100_000), slice_seconds=600.0)
        order = replace(order, tell_seconds=0.1)
        backend.submit(order)
        reports: list[Report] = []
        while not reports or reports[-1].held:
            event = probe.event()
            assert isinstance(event, BatchDone) and event.report.batch == order.id
            reports.append(event.report)
            if len(reports) == 2:
                # Two are enough to see that it goes on; one that is not here is passed over.
                backend.recall(probe.run_id, [order.id + 77, order.id])
        assert len(reports) > 2
        told = [
            position
            for report in reports
            for position in (range(report.reached) if report.positions is None else report.positions)
        ]
        assert told == list(range(len(told))) and len(told) < 100_000

    def test_a_slice_that_is_over_hands_back_the_rest(self, backend: Backend) -> None:
        probe = self.probe(backend)

        def slow(x: int) -> int:
            import time

            time.sleep(0.01)
            return x

        step = StepOrder(node=0, program=program(slow), slots=(0,))
        backend.submit(probe.order([step], [Literals(range(1_000))], range(1_000), slice_seconds=0.05))
        event = probe.event()
        assert isinstance(event, BatchDone)
        assert 1 <= event.report.reached < 1_000
        assert len(probe.values(event.report)) == event.report.reached

    def test_a_closed_run_hears_nothing_more(self, backend: Backend) -> None:
        probe = self.probe(backend)
        report = probe.run(_double, [21])
        backend.close_run(probe.run_id)
        assert probe.values(report) == [42]
        assert probe.events.empty()

    def test_two_runs_share_it_without_mixing(self, backend: Backend) -> None:
        first, second = self.probe(backend), self.probe(backend)
        one, two = first.run(_double, [1]), second.run(_double, [2])
        assert (first.values(one), second.values(two)) == ([2], [4])

    def test_it_offers_no_resources_that_it_does_not_have(self, backend: Backend) -> None:
        import pytest

        from graphflow.errors import BackendError

        backend.start()
        options = TaskOptions.checked("task 't'", {"resources": {"UNOBTAINIUM": 1}}, name="t")
        with pytest.raises(BackendError, match="UNOBTAINIUM"):
            backend.check(options)
