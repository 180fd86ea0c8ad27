"""Exceptions as data, on the worker's side: what is kept in full, and what as a text."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest

from graphflow.authoring.tasks import task
from graphflow.errors import ItemTimedOut
from graphflow.model.anomalies import CHUNK
from graphflow.model.policies import Fail, Pause, Retry, Skip, TaskOptions
from graphflow.model.states import Code
from graphflow.runner.faults import MAX_LIVE, MAX_RECORDS, MAX_VARIANT, ErrorTable, sure_end


class Coded(Exception):
    def __init__(self, message: str, code: Any) -> None:
        super().__init__(message)
        self.code = code


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def options(**given: Any) -> TaskOptions:
    return task(lambda: None, name="t", **given).options


def caught(raiser: Callable[[], Any]) -> BaseException:
    try:
        raiser()
    except BaseException as error:
        return error
    raise AssertionError


def fail(error: BaseException) -> Any:
    raise error


def add_all(table: ErrorTable, make: Callable[[int], BaseException], count: int) -> list[int]:
    return [table.add(caught(lambda i=i: fail(make(i)))) for i in range(count)]  # type: ignore[misc]


def test_equal_errors_of_one_place_are_one_record() -> None:
    table = ErrorTable(is_local=True)
    assert add_all(table, lambda i: ValueError("bad"), 5) == [1] * 5
    assert add_all(table, lambda i: TypeError("bad"), 2) == [2, 2]
    assert [record.type_name for record in table.records] == ["ValueError", "TypeError"]
    assert "in fail" in table.records[0].traceback and table.records[0].place.startswith(__file__)
    assert table.variants() is None


def test_equal_errors_of_two_places_are_two_records() -> None:
    table = ErrorTable(is_local=False)

    def elsewhere() -> None:
        raise ValueError("bad")

    numbers = [table.add(caught(elsewhere)), *add_all(table, lambda i: ValueError("bad"), 1)]
    assert numbers == [1, 2]


def test_errors_of_many_texts_are_variants_of_the_first() -> None:
    table = ErrorTable(is_local=False)
    count = 2 * CHUNK + 10
    numbers = add_all(table, lambda i: ValueError(f"bad {i}"), count)
    assert numbers == [1, *(-k for k in range(1, count))]
    assert add_all(table, lambda i: ValueError("bad 5"), 1) == [numbers[5]]
    variants = table.variants()
    assert variants is not None and len(table.records) == 1 and len(variants.chunks) == 3
    assert variants.chunk(1)[0][0] == f"bad {CHUNK + 1}" and list(variants.records) == [0, 0, 0]


def test_variants_of_two_kinds_do_not_share_a_chunk() -> None:
    table = ErrorTable(is_local=False)
    add_all(table, lambda i: ValueError(f"bad {i}") if i % 2 else KeyError(f"bad {i}"), 10)
    variants = table.variants()
    assert variants is not None
    assert list(variants.records) == [0, 1]
    texts, parts = variants.chunk(0)
    assert texts == ["'bad 2'", "'bad 4'", "'bad 6'", "'bad 8'"] and parts[0] == (("bad 2",), {})
    assert variants.chunk(1) == (["bad 3", "bad 5", "bad 7", "bad 9"], {})


def test_a_few_live_exceptions_are_kept_in_this_process() -> None:
    table = ErrorTable(is_local=True)
    add_all(table, lambda i: ValueError(f"bad {i}"), MAX_LIVE + 5)
    assert len(table.records) == MAX_LIVE
    assert all(str(record.exception) == record.message for record in table.records)
    assert table.records[3].traceback.endswith("ValueError: bad 3\n")


def test_attributes_that_are_plain_travel_with_a_variant() -> None:
    table = ErrorTable(is_local=False)
    add_all(table, lambda i: Coded(f"bad {i}", i), 3)
    variants = table.variants()
    assert variants is not None and len(table.records) == 1
    assert variants.chunk(0)[1] == {0: (("bad 1",), {"code": 1}), 1: (("bad 2",), {"code": 2})}


def test_exceptions_that_are_more_than_plain_values_are_kept_in_full_up_to_a_number() -> None:
    table = ErrorTable(is_local=False)
    numbers = add_all(table, lambda i: Coded(f"bad {i}", (each for each in ())), MAX_RECORDS + 3)
    assert numbers[:MAX_RECORDS] == list(range(1, MAX_RECORDS + 1)) and numbers[MAX_RECORDS:] == [-1, -2, -3]
    variants = table.variants()
    assert variants is not None
    lacking = pickle.loads(variants.chunk(0)[1][0])  # type: ignore[arg-type]
    assert (
        str(lacking) == f"bad {MAX_RECORDS}"
        and "it cannot be pickled or is large: code" in lacking.__notes__[0]
    )


def test_huge_texts_are_cut() -> None:
    table = ErrorTable(is_local=False)
    add_all(table, lambda i: ValueError(f"{i}" + "x" * 1_000_000), 3)
    assert len(table.records[0].message) < 3_000 and len(table.records[0].traceback) < 7_000
    variants = table.variants()
    assert variants is not None and all(len(text) < MAX_VARIANT + 40 for text in variants.chunk(0)[0])


def test_an_exception_whose_text_cannot_be_shown_is_a_record_all_the_same() -> None:
    table = ErrorTable(is_local=False)
    assert add_all(table, lambda i: Mute(), 3) == [1, 1, 1]
    assert table.records[0].message == "<its text cannot be shown: RuntimeError>"


def test_an_exception_without_a_traceback_is_a_record() -> None:
    table = ErrorTable(is_local=False)
    assert table.add(ValueError("made, not raised")) == 1
    assert table.records[0].place == ""


@pytest.mark.parametrize(
    ("kind", "given", "code"),
    [
        (ValueError, {}, Code.FAILED),
        (ItemTimedOut, {}, Code.TIMED_OUT),
        (Skip, {"retries": 3}, Code.SKIPPED),
        (Fail, {"retries": 3}, Code.FAILED),
        (Pause, {}, 0),
        (Retry, {}, 0),
        (KeyboardInterrupt, {}, 0),
        (ValueError, {"retries": 1}, -Code.FAILED),
        (ValueError, {"retries": 1, "retry_on": (OSError,)}, Code.FAILED),
        (FileNotFoundError, {"retries": 1, "retry_on": (OSError,)}, -Code.FAILED),
        (ValueError, {"retries": 1, "retry_condition_fn": lambda *_: True}, 0),
    ],
)
def test_what_a_type_alone_tells_of_an_items_end(kind: Any, given: dict[str, Any], code: int) -> None:
    assert sure_end(kind, options(**given)) == code
