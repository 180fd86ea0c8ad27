"""The packed columns of what was out of the ordinary."""

from __future__ import annotations

import pickle
from array import array
from collections.abc import Sequence
from dataclasses import replace

import pytest

from graphflow.model.anomalies import (
    CHUNK,
    NO_ERROR,
    Anomaly,
    AnomalyTable,
    Faults,
    Variants,
    pack_chunk,
    retold,
    waiting,
)
from graphflow.model.states import Code

F, C, S = int(Code.FAILED), int(Code.COMPLETED), int(Code.SKIPPED)


def anomaly(position: int, code: Code, *, attempt: int = 1, delay: float = 0.0, inputs: str = "") -> Anomaly:
    return Anomaly(
        position=position,
        attempt=attempt,
        code=code,
        started=1000.5,
        duration=0.25,
        error=3,
        delay=delay,
        inputs=inputs,
        outcome=Code.FAILED,
    )


def test_faults_of_a_storm_are_a_range_and_one_number() -> None:
    faults = Faults.of(bytes([F] * 5), array("i", [7] * 5))
    assert faults.positions == range(5) and faults.errors == 7
    assert [faults.error_at(position) for position in range(6)] == [7] * 5 + [None]


def test_faults_name_only_the_items_that_an_error_ended() -> None:
    states = bytes([C, F, Code.UPSTREAM_FAILED, S, F])
    faults = Faults.of(states, array("i", [0, 2, 0, -1, 1]), {1: "x=1"})
    assert list(faults.positions) == [1, 3, 4] and list(faults.numbers()) == [2, -1, 1]
    assert [faults.error_at(position) for position in range(5)] == [None, 2, None, -1, 1]
    only = faults.only(states, {Code.FAILED})
    assert list(only.positions) == [1, 4] and list(only.numbers()) == [2, 1]
    assert faults.without_inputs().inputs == {}


def test_no_faults_are_no_columns() -> None:
    assert len(Faults.of(bytes([C, C]), array("i", [0, 0]))) == 0
    assert len(Faults.of(bytes([Code.UPSTREAM_FAILED]), array("i", [NO_ERROR]))) == 0


def test_faults_of_what_was_reached_leave_out_the_rest() -> None:
    assert Faults.of(bytes([F]), array("i", [1, 2, 3])).positions == range(1)


def test_a_table_gives_the_anomalies_that_were_put_in() -> None:
    given = [
        anomaly(4, Code.RETRYING),
        anomaly(4, Code.PAUSED, attempt=2, inputs="x=4"),
        anomaly(9, Code.RETRYING),
    ]
    table = pickle.loads(pickle.dumps(AnomalyTable.of(given)))
    assert list(table) == given and table[-1] == given[-1] and table[1:] == given[1:]
    assert table.rows_of(4) == [0, 1] and table.rows_of(5) == []
    assert list(table.rows_with(Code.RETRYING)) == [0, 2]
    with pytest.raises(IndexError):
        table[3]


def test_a_part_of_a_table_does_not_grow_with_it() -> None:
    table = AnomalyTable.of([anomaly(0, Code.RETRYING)])
    part = table.part(range(10))
    table.add(anomaly(1, Code.RETRYING))
    assert len(part) == 1 and len(table) == 2


@pytest.mark.parametrize("positions", [range(4, 9), [4, 5, 7]])
def test_rows_of_a_part_name_the_places_in_it(positions: Sequence[int]) -> None:
    table = AnomalyTable.of(
        [anomaly(3, Code.PAUSED), anomaly(5, Code.PAUSED, inputs="x=5"), anomaly(4, Code.RETRYING, attempt=2)]
    )
    assert [(each.position, each.attempt, each.inputs) for each in table.part(positions)] == [
        (1, 1, "x=5"),
        (0, 2, ""),
    ]


def test_texts_that_no_number_names_are_left_out() -> None:
    variants = Variants(records=array("I", [0, 0, 0]), chunks=(b"a", b"b", b"c"))
    table = AnomalyTable.of([replace(anomaly(0, Code.RETRYING), error=-1)])
    named = variants.named_by([array("i", [1, -CHUNK - 1]), 2, table, ()])
    assert named is not None and named.chunks == (b"a", b"b", b"")
    assert variants.named_by([5]) is None


def test_waiting_gives_the_rows_with_a_code_from_tables_and_plain_sequences() -> None:
    given = [anomaly(0, Code.RETRYING), anomaly(0, Code.AWAITING_RETRY, attempt=2, delay=1.5)]
    assert list(waiting(given, Code.AWAITING_RETRY)) == [(0, 2, 1.5)]
    assert list(waiting(AnomalyTable.of(given[1:]), Code.AWAITING_RETRY)) == [(0, 2, 1.5)]
    assert list(waiting(given, Code.PAUSED)) == []


def test_texts_of_variants_are_packed_by_the_chunk() -> None:
    texts = [f"bad item {i}" for i in range(CHUNK)]
    variants = Variants(records=array("I", [0]), chunks=(pack_chunk(texts, {2: ((1, "x"), {"code": 5})}),))
    assert variants.chunk(0) == (texts, {2: ((1, "x"), {"code": 5})})
    assert variants.nbytes < 4 * CHUNK


def test_a_traceback_is_retold_with_another_message() -> None:
    text = 'Traceback\n  File "a.py", line 1, in f\nValueError: bad 1\n'
    assert retold(text, "bad 1", "bad 2") == text.replace("bad 1", "bad 2")
    assert retold(text, "other", "bad 2") == text
