from __future__ import annotations

import struct

import pytest

from graphflow.common.ids import run_id
from graphflow.errors import HistoryError
from graphflow.histories import checks
from graphflow.model.records import Kind, Record, RunHeader


def test_ids_are_names_of_folders():
    for text in (run_id(), "nightly-2024.01_3", "x"):
        assert checks.check_id(text) == text
    for text in ("", ".", "..", "a/b", "-x", "a b", "a\n", "x" * 129):
        with pytest.raises(HistoryError, match="is not a valid run id"):
            checks.check_id(text)


def test_states_are_known_ones():
    assert [checks.is_final(state) for state in ("Completed", "Crashed", "Running", "Paused", "?")] == [
        True,
        True,
        False,
        False,
        False,
    ]
    with pytest.raises(ValueError, match="'Sleepy'"):
        checks.state_code("Sleepy")
    assert checks.started_at("Running", 5.0) == 5.0
    assert checks.started_at("Paused", 5.0) is None
    states = ("Failed", "TimedOut", "Crashed", "Cancelled", "Running", "?")
    failed = [checks.is_failed(RunHeader(id="x", name="n", flow_name="f", state=state)) for state in states]
    assert failed == [True, True, True, False, False, False]


def test_a_record_becomes_plain():
    record = checks.plain(Record(Kind.ITEMS, -0.0, bytearray(b"x"), True, 2, 3))
    assert record == Record(4, 0.0, b"x", 1, 2, 3)
    assert [type(value) for value in (record.kind, record.at, record.body, record.node)] == [
        int,
        float,
        bytes,
        int,
    ]
    assert struct.pack("<d", record.at) == bytes(8)


@pytest.mark.parametrize(
    "record",
    [
        Record(Kind.ITEMS, float("nan")),
        Record(Kind.ITEMS, 1.0, b"", 2**63),
        Record(Kind.ITEMS, 1.0, b"", 0, -(2**63) - 1),
        Record(Kind.ITEMS, 1.0, "text"),
        Record(Kind.ITEMS, 1.0, b"", 0.5),
        Record("log", 1.0),
    ],
)
def test_what_cannot_be_written_is_refused(record):
    with pytest.raises(ValueError, match="cannot be written"):
        checks.plain(record)
