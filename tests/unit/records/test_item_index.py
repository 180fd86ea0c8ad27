"""The history of one run: the newest segment of an item, and all that happened to it."""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence
from typing import Any

from graphflow.model.anomalies import Anomaly, AnomalyTable, ErrorRecord, Faults
from graphflow.model.orders import Ref
from graphflow.model.reports import LogRecord, Report, StepReport
from graphflow.model.states import Code
from graphflow.records.item_index import MemoryHistory, Place

FILLER = Ref(kind="local", id="none", count=1, data=[None])


def commit(
    history: MemoryHistory,
    indices: Sequence[int],
    codes: Sequence[Code],
    *,
    tag: str = "",
    anomalies: Sequence[Anomaly] = (),
    message: str = "bad",
) -> None:
    states = bytes(codes)
    size = len(codes)
    marks = array("i", [1 if code == Code.FAILED else 0 for code in codes])
    step = StepReport(
        node=0,
        states=states,
        attempts=bytes([1] * size),
        starts=array("f", bytes(4 * size)),
        durations=array("f", bytes(4 * size)),
        values=Ref(kind="local", id="", count=size, data=[f"{tag}{index}" for index in indices]),
        faults=Faults.of(states, marks),
        anomalies=AnomalyTable.of(anomalies),
    )
    record = ErrorRecord(type_name="ValueError", message=message, traceback="", place="a.py:1")
    history.commit(
        Report(
            batch=1, worker=f"w{tag}", started=0.0, elapsed=0.0, reached=size, steps=(step,), errors=(record,)
        ),
        indices,
    )


def values(history: MemoryHistory, indices: Sequence[int]) -> list[Any]:
    return [
        ref.data[position]
        for ref, positions in history.node(0).parts(indices, FILLER)
        for position in positions
    ]


def test_what_came_back_later_replaces_what_was_there() -> None:
    history = MemoryHistory()
    commit(history, range(4), [Code.COMPLETED] * 4, tag="a")
    commit(history, range(4, 8), [Code.COMPLETED] * 4, tag="b")
    commit(history, [5, 1], [Code.COMPLETED] * 2, tag="c")
    commit(history, range(3, 6), [Code.COMPLETED] * 3, tag="d")
    assert values(history, range(9)) == ["a0", "c1", "a2", "d3", "d4", "d5", "b6", "b7", None]
    assert values(history, [5, 0]) == ["d5", "a0"]
    history.node(0).alias(4, Place(Ref(kind="local", id="", count=1, data=["alias"]), 0))
    assert values(history, range(3, 6)) == ["d3", "alias", "d5"]


def test_an_item_that_ran_again_has_its_own_value_and_not_the_one_that_stood_in() -> None:
    history = MemoryHistory()
    stands_in = Place(Ref(kind="local", id="", count=1, data=["alias"]), 0)
    commit(history, range(3), [Code.GRAFTED] * 3, tag="a")
    for index in range(3):
        history.node(0).alias(index, stands_in)
    commit(history, [1], [Code.COMPLETED], tag="b")
    assert values(history, range(3)) == ["alias", "b1", "alias"]


def test_columns_that_are_lost_are_forgotten_without_what_came_later() -> None:
    history = MemoryHistory()
    commit(history, range(3), [Code.COMPLETED, Code.SKIPPED, Code.COMPLETED], tag="a")
    commit(history, [2], [Code.COMPLETED], tag="b")
    lost = next(history.node(0).refs())
    history.node(0).forget(lambda ref: ref is lost)
    assert values(history, range(3)) == [None, None, "b2"]
    assert [ref is lost for ref in history.node(0).refs()] == [False]


def test_parts_agree_with_a_plain_dict_whatever_the_order() -> None:
    rng = random.Random(5)
    for _ in range(30):
        history, plain = MemoryHistory(), dict[int, str]()
        for step in range(12):
            lo = rng.randrange(40)
            indices: Sequence[int] = range(lo, lo + rng.randint(1, 12))
            if rng.random() < 0.5:
                indices = rng.sample(list(indices), len(indices))
            commit(history, indices, [Code.COMPLETED] * len(indices), tag=f"{step}/")
            plain.update((index, f"{step}/{index}") for index in indices)
        assert values(history, range(60)) == [plain.get(index) for index in range(60)]
        assert [ref is not FILLER for ref in history.node(0).refs()]


def test_all_attempts_of_an_item_are_found_oldest_first() -> None:
    history = MemoryHistory()
    waits = Anomaly(
        position=1,
        attempt=1,
        code=Code.AWAITING_RETRY,
        started=1.0,
        duration=0.5,
        error=1,
        outcome=Code.FAILED,
    )
    commit(history, range(3), [Code.COMPLETED, Code.AWAITING_RETRY, Code.FAILED], tag="a", anomalies=[waits])
    again = Anomaly(
        position=0, attempt=2, code=Code.RETRYING, started=2.0, duration=0.5, error=1, outcome=Code.FAILED
    )
    commit(history, [1], [Code.FAILED], tag="b", anomalies=[again], message="worse")
    found = history.node(0).anomalies_of(1)
    assert [
        (each.attempt, each.code, record.message, worker) for each, record, worker in found if record
    ] == [
        (1, Code.AWAITING_RETRY, "bad", "wa"),
        (2, Code.RETRYING, "worse", "wb"),
        (1, Code.FAILED, "worse", "wb"),
    ]
    assert history.node(0).anomalies_of(0) == []
    last = history.last_error(0, 1)
    assert last is not None and last.message == "worse"
    assert [index for index, _ in history.node(0).first_errors(10)] == [1, 2]


def test_ends_without_a_run_are_remembered_item_by_item() -> None:
    history = MemoryHistory()
    history.ended(0, range(2, 5), 10.0)
    history.ended(0, [7, 3], 11.0)
    assert [history.node(0).ended_at(index) for index in range(9)] == [
        None, None, 10.0, 11.0, 10.0, None, None, 11.0, None,
    ]  # fmt: skip


def test_the_log_of_an_item_is_found_as_it_grows() -> None:
    history = MemoryHistory()

    def line(message: str, index: int | None) -> LogRecord:
        return LogRecord(timestamp=0.0, level=20, message=message, node="n", index=index)

    history.log([line("a", 1), line("b", 2), line("c", 1)])
    assert [each.message for each in history.log_of("n", 1)] == ["a", "c"]
    history.log([line("d", 1)])
    assert [each.message for each in history.log_of("n", 1)] == ["a", "c", "d"]
    assert history.log_of("n", None) == [] and history.log_of("m", 1) == []
