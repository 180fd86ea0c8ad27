"""Values of a batch in the result store: one pack per report, written before the report is there."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from graphflow import Retry
from graphflow.errors import ResultDamaged
from graphflow.graph.mapping import DROPPED
from graphflow.identity.hashing import UNTOLD, combined_digests, item_digests
from graphflow.model.orders import BatchOrder, Column, Given, Hole, Lane, Literals, Ref, StepOrder, Whole
from graphflow.model.reports import Report, Stored, stored_ref
from graphflow.model.states import Code
from graphflow.records.errors import exception_of
from graphflow.results.packs.here import store_report
from graphflow.results.packs.packs import Section, publish, verify
from graphflow.results.packs.pickling import encode
from graphflow.results.stores.local import LocalStore
from graphflow.runner.columns import load_column
from graphflow.testing.contracts.backends import program
from graphflow.testing.faults.hosts import RecordingHost, order_of
from graphflow.testing.waiting import eventually_async

SECONDS = 30.0


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "results", key=bytes(32))


def step(fn: Any, node: int = 0, *slots: Any, persists: bool = True, **more: Any) -> StepOrder:
    options = more.pop("options", {})
    each = program(fn, Hole(0), **options)
    return StepOrder(node=node, program=each, slots=slots or (0,), persists=persists, **more)


def order(steps: Sequence[StepOrder], values: list[Any], store: Any, **more: Any) -> BatchOrder:
    each = order_of(steps, Literals(values), size=len(values), **more)
    return replace(each, results=store, epoch=5)


def run(each: BatchOrder) -> tuple[Report, RecordingHost]:
    host = RecordingHost()
    report = host.run(each)
    assert report is not None
    return report, host


def read(store: LocalStore, stored: Stored | None) -> list[Any]:
    assert stored is not None
    return load_column(stored_ref(stored, store), "a result")


def double(x: Any) -> Any:
    return x * 2


def halve(x: int) -> float:
    return x / 2


def test_the_columns_of_all_steps_are_in_one_pack(store: LocalStore) -> None:
    report, _ = run(order([step(double), step(str, 4, Lane(0))], [1, 2, 3], store))
    first, second = report.steps
    assert (read(store, first.stored), read(store, second.stored)) == ([2, 4, 6], ["2", "4", "6"])
    assert first.stored is not None and second.stored is not None
    assert first.stored.name == second.stored.name and list(store.names()) == [first.stored.name]
    assert first.stored.name.startswith("e5-grown-")
    # In this process, the values are there as they are, too.
    assert first.values is not None and first.values.kind == "local"
    assert report.store_error == ""


def test_without_a_store_or_a_step_that_persists_nothing_is_written(store: LocalStore) -> None:
    report, _ = run(order([step(double)], [1], None))
    assert report.steps[0].stored is None
    report, _ = run(order([step(double, persists=False)], [1], store))
    assert report.steps[0].stored is None
    report, _ = run(order([step(double, persists=False), step(str, 1, Lane(0))], [1], store))
    assert [each.stored is None for each in report.steps] == [True, False]
    assert len(list(store.names())) == 1


def test_a_column_without_any_value_needs_no_pack(store: LocalStore) -> None:
    report, _ = run(order([step(halve)], ["a", "b"], store))
    assert report.steps[0].states == bytes([Code.FAILED] * 2)
    assert report.steps[0].stored is None
    report, _ = run(order([step(halve)], ["a", 4], store))
    assert read(store, report.steps[0].stored) == [None, 2.0]
    assert len(list(store.names())) == 1


def test_values_that_nothing_needs_any_more_are_not_written(store: LocalStore) -> None:
    def fails_for_two(x: int) -> int:
        if x == 4:
            raise Retry("later", after_seconds=60)
        return x

    first = step(double, keeps=False)
    report, _ = run(order([first, step(str, 1, Lane(0))], [1, 2], store))
    assert [each.stored is None for each in report.steps] == [True, False]
    # A lane that goes on later needs what was made.
    later = step(fails_for_two, 1, Lane(0), options={"retries": 1})
    report, _ = run(order([first, later], [1, 2, 3], store))
    assert read(store, report.steps[0].stored) == [2, 4, 6]
    # Large ones were let go as their lanes ended.
    report, _ = run(order([first, later], ["x" * 2_000, 2], store))
    stored = report.steps[0].stored
    assert stored is not None and stored.missing == (0,)
    assert read(store, stored) == [DROPPED, 4]


def test_what_cannot_be_stored_is_named_and_stays_usable(store: LocalStore) -> None:
    lock = threading.Lock()
    report, host = run(order([step(lambda x: lock if x % 2 else x)], [0, 1, 2, 3], store))
    (only,) = report.steps
    assert only.states == bytes([Code.COMPLETED] * 4)
    assert only.values is not None and only.values.data == [0, lock, 2, lock]
    assert only.stored is not None and only.stored.missing == (1, 3)
    assert read(store, only.stored) == [0, None, 2, None]
    assert verify(store, only.stored)
    (text,) = host.said
    assert "the result of <lambda>[1], a lock, cannot be stored: TypeError" in text


def test_a_store_that_fails_is_told_and_costs_no_value(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    broken = LocalStore(tmp_path / "file", key=bytes(32))
    report, _ = run(order([step(double)], [1, 2], broken))
    assert "cannot be written to" in report.store_error
    assert report.steps[0].states == bytes([Code.COMPLETED] * 2)
    assert report.steps[0].stored is None
    assert report.steps[0].values is not None and report.steps[0].values.data == [2, 4]


def test_a_store_may_raise_whatever_it_likes() -> None:
    class Broken:
        is_shared = True

        @property
        def keys(self) -> Any:
            raise ZeroDivisionError

    report, _ = run(order([step(double)], [1, 2], Broken()))
    assert report.store_error == "ZeroDivisionError"


def test_the_parts_of_a_report_are_in_one_pack(store: LocalStore) -> None:
    told = threading.Event()
    host = RecordingHost(lambda report: told.set())

    def slow(x: int) -> int:
        if x == 3:
            assert told.wait(SECONDS)
        return x * 10

    last = host.run(order([step(slow)], [0, 1, 2, 3, 4], store, slice_seconds=0.2))
    assert last is not None
    reports = [*host.told, last]
    found = {}
    for report in reports:
        positions = range(report.reached) if report.positions is None else report.positions
        if len(positions):
            found.update(zip(positions, read(store, report.steps[0].stored), strict=True))
    assert found[3] == 30 and {0: 0, 1: 10, 2: 20}.items() <= found.items()
    assert len([each for each in reports if each.reached]) > 1
    assert len(list(store.names())) == 1


def test_a_slow_item_in_a_grown_slice_hands_back_those_behind_it(store: LocalStore) -> None:
    handed_back = threading.Event()

    def told(report: Report) -> None:
        # Only what executes is held: what has not begun is in no report.
        if len(report.held) == 1:
            handed_back.set()

    host = RecordingHost(told)

    def slow(x: int) -> int:
        if x == 3:
            assert handed_back.wait(SECONDS)
        return x * 10

    each = order([step(slow)], list(range(1_000)), store, slice_seconds=600.0)
    last = host.run(replace(each, tell_seconds=0.05))
    assert last is not None
    reports = [*host.told, last]
    assert sum(report.reached for report in reports) == 4
    assert len(list(store.names())) == 1


@pytest.mark.parametrize("kind", ["async", "batched"])
def test_all_ways_of_running_write_packs(store: LocalStore, kind: str) -> None:
    async def plus(x: int) -> int:
        return x + 1

    def many(xs: list[int]) -> list[int]:
        return [x + 1 for x in xs]

    each = step(plus if kind == "async" else many, options={"batched": kind == "batched"})
    report, _ = run(order([each], list(range(100)), store))
    assert read(store, report.steps[0].stored) == list(range(1, 101))


# -- stored values as inputs ---------------------------------------------------------------------------------


def stored(store: LocalStore, values: list[Any]) -> Ref:
    section = Section(node=0, data=encode(values)[0], count=len(values))
    (place,) = publish(store, [section], run_id="run", batch=0, epoch=0)
    return stored_ref(place, store)


def test_stored_values_are_inputs(store: LocalStore) -> None:
    one, other = stored(store, [10, 20]), stored(store, [30])
    column = Column(((one, (1, 0)), (other, (0,))))
    each = program(lambda x, y: (x, y), Hole(0), Hole(1))
    report, _ = run(order_of(each, column, Whole(other, 0), size=3))
    assert report.steps[0].values is not None
    assert report.steps[0].values.data == [(20, 30), (10, 30), (30, 30)]


def test_a_damaged_input_fails_the_items_that_need_it(store: LocalStore) -> None:
    good, bad = stored(store, [1, 2]), stored(store, [3, 4])
    path = Path(store.folder) / bad.path
    path.write_bytes(path.read_bytes()[:-1])
    data = bytearray(path.read_bytes())
    data[bad.offset] ^= 1
    path.write_bytes(data)
    column = Column(((good, (0,)), (bad, (0, 1)), (good, (1,))))
    report, _ = run(order_of(program(double, Hole(0)), column, size=4))
    (only,) = report.steps
    assert list(only.states) == [Code.COMPLETED, Code.FAILED, Code.FAILED, Code.COMPLETED]
    assert only.values is not None and only.values.data == [2, None, None, 4]
    error = exception_of(report.errors[0])
    assert isinstance(error, ResultDamaged) and bad.path in str(error)
    # What all items need fails them all.
    report, _ = run(order_of(program(double, Hole(0)), Whole(bad, 0), size=2))
    assert list(report.steps[0].states) == [Code.FAILED] * 2


# -- reports that the driver stores --------------------------------------------------------------------------


def test_a_driver_stores_what_its_workers_could_not(store: LocalStore) -> None:
    steps = [step(double), step(str, 1, Lane(0)), step(halve, 2, Lane(1))]
    report, _ = run(order(steps, [1, 2], None))
    loaded: list[Ref] = []

    def load(ref: Ref) -> list[Any]:
        loaded.append(ref)
        return load_column(ref, "a result")

    done = store_report(report, store, load, run_id="run", epoch=2, nodes={1, 2})
    assert [each.stored is None for each in done.steps] == [True, False, True]
    assert read(store, done.steps[1].stored) == ["2", "4"]
    assert loaded == [report.steps[1].values]
    assert store_report(done, store, load, run_id="run", epoch=2, nodes={1, 2}) is done
    data = encode([5, 6])[0]
    inline = replace(report.steps[0], values=Ref(kind="inline", id="x", count=2, data=data))
    done = store_report(replace(report, steps=(inline,)), store, load, run_id="run", epoch=2)
    assert read(store, done.steps[0].stored) == [5, 6]
    assert len(loaded) == 1


def test_a_driver_tells_what_it_could_not_store(
    store: LocalStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lock = threading.Lock()
    report, _ = run(order([step(lambda x: lock if x else x)], [0, 1], None))

    def load(ref: Ref) -> list[Any]:
        return load_column(ref, "a result")

    done = store_report(report, store, load, run_id="run", epoch=2)
    assert done.steps[0].stored is not None and done.steps[0].stored.missing == (1,)
    assert "a lock, cannot be stored" in caplog.text
    (tmp_path / "file").write_text("")
    broken = LocalStore(tmp_path / "file", key=bytes(32))
    done = store_report(report, broken, load, run_id="run", epoch=2)
    assert "cannot be written to" in done.store_error and done.steps[0].stored is None
    gone = replace(report.steps[0], values=Ref(kind="file", id="x", count=2, path=str(tmp_path / "no")))
    done = store_report(replace(report, steps=(gone,)), store, load, run_id="run", epoch=2)
    assert done.steps[0].stored is None and "is gone" in caplog.text


# -- what items are known by ---------------------------------------------------------------------------------


def digests(each: BatchOrder) -> bytes:
    return run(each)[0].steps[0].digests


def test_items_are_told_by_what_they_are_mapped_over() -> None:
    wanting = step(double, wants_digests=True)
    values = [1, "a", object()]
    found = digests(order([wanting], values, None))
    assert found == item_digests(values) and found[16:] == UNTOLD
    assert digests(order([step(double)], values, None)) == b""
    assert digests(order_of([wanting], Given(3), size=2)) == b""
    assert digests(order_of([wanting], Literals(range(2)), size=2)) == b""


def test_zipped_sources_tell_items_together() -> None:
    each = program(lambda x, y, z: x, Hole(0), Hole(1), Hole(2))
    wanting = StepOrder(node=0, program=each, slots=(2, 1, 0), wants_digests=True)
    found = digests(order_of([wanting], Literals(range(5, 7)), Given(0), Literals(["a", "b"]), size=2))
    assert found == combined_digests([item_digests(["a", "b"]), item_digests([5, 6])])


def test_an_item_that_changes_its_input_is_known_by_what_it_was() -> None:
    values = [[1], [2]]
    before = item_digests(values)
    wanting = step(lambda x: x.append(0), wants_digests=True)
    assert digests(order([wanting], values, None)) == before


def test_a_part_of_a_report_has_the_digests_of_its_items() -> None:
    told = threading.Event()
    host = RecordingHost(lambda report: told.set())

    async def plus(x: int) -> int:
        if x == 1:
            await eventually_async(told.is_set)
        return x

    last = host.run(order([step(plus, wants_digests=True)], [0, 1, 2], None))
    assert last is not None
    whole = item_digests([0, 1, 2])
    for report in [*host.told, last]:
        positions = range(report.reached) if report.positions is None else report.positions
        assert report.steps[0].digests == b"".join(whole[8 * p : 8 * p + 8] for p in positions)
