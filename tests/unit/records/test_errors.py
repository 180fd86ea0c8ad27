"""The errors of a run: one of each across batches, exceptions made of texts, counts with ranges."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import pytest

from graphflow.errors import RemoteError
from graphflow.model.anomalies import ErrorRecord, Faults, Variants, pack_chunk
from graphflow.model.reports import Report
from graphflow.model.states import Code
from graphflow.records import errors as history_errors
from graphflow.records.errors import BatchErrors, ErrorBook, ErrorTally, Ranges, exception_of

F, S = int(Code.FAILED), int(Code.SKIPPED)


class Coded(Exception):
    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def record(message: str, *, exception: BaseException | None = None, place: str = "a.py:1") -> ErrorRecord:
    name = "ValueError" if exception is None else type(exception).__name__
    traceback = f"Traceback\n{name}: {message}\n"
    return ErrorRecord(type_name=name, message=message, traceback=traceback, place=place, exception=exception)


def report(records: Sequence[ErrorRecord], variants: Variants | None = None) -> Report:
    return Report(
        batch=1,
        worker="w",
        started=0.0,
        elapsed=0.0,
        reached=0,
        steps=(),
        errors=tuple(records),
        variants=variants,
    )


def variants_of(texts: Sequence[str], parts: dict[int, object] | None = None) -> Variants:
    return Variants(records=array("I", [0]), chunks=(pack_chunk(texts, parts or {}),))  # type: ignore[arg-type]


def taken(book: ErrorBook, made: Report) -> BatchErrors:
    errors = book.take(made)
    assert errors is not None
    return errors


def test_equal_errors_of_two_batches_are_one_record() -> None:
    book = ErrorBook()
    first = taken(book, report([record("bad")]))
    second = taken(book, report([record("other"), record("bad"), record("bad", place="b.py:2")]))
    assert second.record(2) is first.record(1)
    assert second.record(3) is not first.record(1)
    assert second.record(0) is None


def test_a_variant_is_an_exception_of_the_same_type_with_its_own_text() -> None:
    raised = ValueError("bad 0")
    errors = taken(ErrorBook(), report([record("bad 0", exception=raised)], variants_of(["bad 1", "bad 2"])))
    second = errors.record(-2)
    assert (
        second is not None and second.message == "bad 2" and second.traceback.endswith("ValueError: bad 2\n")
    )
    error = exception_of(second)
    assert type(error) is ValueError and error.args == ("bad 2",)


def test_a_variant_keeps_plain_attributes() -> None:
    raised = Coded("bad 0", 0)
    parts: dict[int, object] = {0: (("bad 1",), {"code": 1})}
    errors = taken(ErrorBook(), report([record("bad 0", exception=raised)], variants_of(["bad 1"], parts)))
    found = errors.record(-1)
    assert found is not None
    error = exception_of(found)
    assert isinstance(error, Coded) and str(error) == "bad 1" and error.code == 1


def test_a_variant_that_cannot_be_made_again_is_a_remote_error() -> None:
    raised = Coded("bad 0", 0)
    errors = taken(
        ErrorBook(), report([record("bad 0", exception=raised)], variants_of(["bad 1"], {0: None}))
    )
    found = errors.record(-1)
    assert found is not None
    error = exception_of(found)
    assert isinstance(error, RemoteError) and error.message == "bad 1" and error.type_name == "Coded"


def test_the_texts_of_a_run_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_errors, "MAX_NBYTES", 100)
    errors = taken(ErrorBook(), report([record("bad 0")], variants_of([f"bad {i}" for i in range(500)])))
    found = errors.record(-7)
    assert found is not None and found.type_name == "ValueError" and "not kept" in found.message
    assert errors.record(1) is not None


def test_live_exceptions_keep_variables_of_a_few_frames_only() -> None:
    def fail(i: int) -> None:
        big = [i]
        raise ValueError(f"bad {big[0]}")

    caught: list[BaseException] = []
    for i in range(history_errors.MAX_LIVE + 1):
        try:
            fail(i)
        except ValueError as error:
            caught.append(error)
    taken(ErrorBook(), report([record(str(error), exception=error) for error in caught]))
    frames = [error.__traceback__.tb_next.tb_frame for error in caught]  # type: ignore[union-attr]
    assert [bool(frame.f_locals) for frame in frames] == [True] * history_errors.MAX_LIVE + [False]


def test_a_tally_counts_items_by_exception_with_their_ranges() -> None:
    book, tally = ErrorBook(), ErrorTally()
    first = taken(book, report([record("a"), record("b")]))
    tally.add(range(4), Faults.of(bytes([F] * 4), array("i", [1, 1, 2, 1])), bytes([F] * 4), first)
    second = taken(book, report([record("a")]))
    tally.add(range(4, 10), Faults.of(bytes([F] * 6), array("i", [1] * 6)), bytes([F] * 6), second)
    listed = tally.listed()
    assert [(each.message, each.count) for each in listed] == [("a", 9), ("b", 1)]
    assert listed[0].indices == [range(2), range(3, 10)] and listed[1].indices == [range(2, 3)]
    assert repr(listed[0]) == "<9 × ValueError: a, items [0-1, 3-9]>" and listed.left_out == 0


def test_a_tally_counts_neither_skips_nor_upstream_failures() -> None:
    tally = ErrorTally()
    states = bytes([S, F, Code.UPSTREAM_FAILED])
    errors = taken(ErrorBook(), report([record("a")]))
    tally.add([7, 3, 5], Faults.of(states, array("i", [1, 1, 1])), states, errors)
    (only,) = tally.listed()
    assert only.count == 1 and list(only.indices) == [range(3, 4)]


def test_a_tally_of_too_many_errors_says_how_many_items_it_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_errors, "MAX_LISTED", 5)
    texts = [f"bad {i}" for i in range(20)]
    errors = taken(ErrorBook(), report([record("bad")], variants_of(texts)))
    numbers = array("i", [-1 - i for i in range(20)])
    tally = ErrorTally()
    tally.add(range(20), Faults.of(bytes([F] * 20), numbers), bytes([F] * 20), errors)
    listed = tally.listed()
    assert len(listed) == 5 and listed.left_out == 15 and "15 items left out" in repr(listed)


def test_ranges_that_touch_are_one() -> None:
    ranges = Ranges.of(array("q", [5, 7, 0, 3, 3, 5, 9, 10]))
    assert ranges == [range(7), range(9, 10)] and ranges[-1] == range(9, 10)
    assert repr(ranges) == "[0-6, 9]"
