"""Two runs side by side, and peers beside graphflow."""

from __future__ import annotations

from typing import Any

import pytest

from graphflow.bench.compare import Verdict, against_base, compare, differences
from graphflow.bench.lines import BenchError, Status


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        (1.0, 1.1, Verdict.SAME),
        (1.0, 1.11, Verdict.SLOWER),
        (1.1, 1.0, Verdict.SAME),
        (1.2, 1.0, Verdict.FASTER),
    ],
)
def test_a_median_has_changed_beyond_the_threshold(
    line: Any, before: float, after: float, verdict: Verdict
) -> None:
    (row,) = compare([line(seconds=before)], [line(seconds=after)], threshold=1.1)

    assert row.verdict is verdict
    assert row.ratio == pytest.approx(after / before)
    assert row.is_worse is (verdict is Verdict.SLOWER)


@pytest.mark.parametrize("status", [Status.TIMEOUT, Status.WRONG, Status.ERROR])
def test_what_does_not_work_any_more_is_worse(line: Any, status: Status) -> None:
    (row,) = compare([line()], [line(seconds=None, status=status)], threshold=1.1)

    assert row.verdict is Verdict.BROKEN
    assert row.is_worse


def test_what_was_not_tried_again_is_not_worse(line: Any) -> None:
    after = [line(seconds=None, status=Status.SKIPPED), line("pool")]

    rows = compare([line(), line("joblib")], after, threshold=1.1)

    assert [(row.peer, row.verdict) for row in rows] == [
        ("graphflow", Verdict.MISSING),
        ("joblib", Verdict.MISSING),
        ("pool", Verdict.MISSING),
    ]
    assert not any(row.is_worse for row in rows)


def test_variants_and_sizes_are_measurements_of_their_own(line: Any) -> None:
    old = [line(n=100), line(n=1000), line(variant="slow-last", workload="W5")]

    rows = compare(old, old, threshold=1.1)

    assert [(row.key, row.n) for row in rows] == [("W1", 100), ("W1", 1000), ("W5/slow-last", 100)]


def test_runs_without_a_common_measurement_are_refused(line: Any) -> None:
    with pytest.raises(BenchError, match="no measurement .* in common"):
        compare([line()], [line("pool")], threshold=1.1)


@pytest.mark.parametrize("threshold", [0.9, 0.0, -1.0, float("nan")])
def test_a_threshold_below_one_is_refused(line: Any, threshold: float) -> None:
    with pytest.raises(BenchError, match="a factor of 1 or more"):
        compare([line()], [line()], threshold=threshold)


def test_peers_are_set_beside_graphflow_at_the_same_size(line: Any) -> None:
    lines = [line(seconds=2.0), line("pool", seconds=1.0), line("joblib", seconds=8.0), line("pool", n=7)]

    rows = against_base(lines, threshold=1.1)

    assert [(row.peer, row.ratio, row.verdict) for row in rows] == [
        ("pool", 0.5, Verdict.FASTER),
        ("joblib", 4.0, Verdict.SLOWER),
    ]


def test_one_run_needs_figures_of_graphflow(line: Any) -> None:
    with pytest.raises(
        BenchError, match="peer 'graphflow', which the others are compared with, was not measured"
    ):
        against_base([line("pool")], threshold=1.1)


def test_runs_of_different_places_are_told_apart(line: Any) -> None:
    other = line(machine={"cpus": 8, "system": "Linux", "arch": "x86_64"}, is_smoke=True)

    assert [text.partition(":")[0] for text in differences([line()], [other])] == ["machine", "is_smoke"]
    assert differences([line()], [line("pool")]) == []
