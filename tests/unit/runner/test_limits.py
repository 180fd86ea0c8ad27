"""What surrounds an item in a batch: limits that follow from a median, tolerated failures."""

from __future__ import annotations

import pytest

from graphflow import Skip
from graphflow.model.orders import Hole, Lane, Literals, StepOrder
from graphflow.model.reports import Report
from graphflow.model.states import Code
from graphflow.testing.contracts.backends import program
from graphflow.testing.faults.hosts import RecordingHost, order_of


def names_of(report: Report | None, step: int = 0) -> list[str]:
    assert report is not None
    return [Code(code).name for code in report.steps[step].states]


def test_without_a_median_there_is_no_limit() -> None:
    step = StepOrder(node=0, program=program(lambda x: x, timeout="300%"), slots=(0,))
    assert names_of(RecordingHost().run(order_of([step], Literals([0, 1]), size=2))) == ["COMPLETED"] * 2


@pytest.mark.parametrize("tolerates, after", [(True, "SKIPPED"), (False, "UPSTREAM_FAILED")])
def test_what_comes_after_a_tolerated_failure_is_skipped(tolerates: bool, after: str) -> None:
    def first(x: int) -> int:
        if x == 1:
            raise ValueError
        if x == 2:
            raise Skip
        return x

    second = program(lambda x: x, Hole(0))
    order = order_of(
        [
            StepOrder(node=0, program=program(first), slots=(0,), tolerates=tolerates),
            StepOrder(node=1, program=second, slots=(Lane(0),)),
            StepOrder(node=2, program=second, slots=(Lane(1),)),
        ],
        Literals([0, 1, 2]),
        size=3,
    )
    report = RecordingHost().run(order)
    assert names_of(report, 0) == ["COMPLETED", "FAILED", "SKIPPED"]
    assert names_of(report, 1) == names_of(report, 2) == ["COMPLETED", after, "SKIPPED"]


def test_a_failure_that_is_not_tolerated_beats_one_that_is() -> None:
    def boom(x: int) -> int:
        raise ValueError

    def pair(x: int, y: int) -> int:
        return x + y

    order = order_of(
        [
            StepOrder(node=0, program=program(boom), slots=(0,), tolerates=True),
            StepOrder(node=1, program=program(boom), slots=(0,)),
            StepOrder(node=2, program=program(pair, Hole(0), Hole(1)), slots=(Lane(0), Lane(1))),
        ],
        Literals([0]),
        size=1,
    )
    assert names_of(RecordingHost().run(order), 2) == ["UPSTREAM_FAILED"]
