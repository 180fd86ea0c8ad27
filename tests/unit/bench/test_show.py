"""Figures as text, the Markdown table and the charts, on fixed input."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from typing import Any

import pytest

from graphflow.bench.chart import chart_of, decades, number_text
from graphflow.bench.lines import BenchError, Status
from graphflow.bench.show import format_seconds, progress_of, text_of
from graphflow.bench.svg import BOTTOM, LEFT, RIGHT, TOP, svg_of
from graphflow.bench.table import markdown_table


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.000_000_07, "0.07 µs"),
        (0.000_001_26, "1.3 µs"),
        (0.000_042, "42 µs"),
        (0.001_778, "1.8 ms"),
        (0.178, "178 ms"),
        (0.999, "1.0 s"),
        (61.2, "61 s"),
    ],
)
def test_times_have_two_digits_and_a_unit(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_each_workload_shows_its_own_figure(line: Any) -> None:
    assert text_of(line(n=100, seconds=0.1)) == "1.0 ms"
    assert text_of(line(workload="W3", percent_of_ideal=97.94)) == "97.9 %"
    assert text_of(line(workload="W3", percent_of_ideal=43.2)) == "43 %"
    assert text_of(line(workload="W5", times_ideal=1.026)) == "1.03"
    assert text_of(line(workload="W6", n=1, seconds=0.15)) == "150 ms"
    assert text_of(line(seconds=None, status=Status.CANNOT)) == "–"
    assert text_of(line(seconds=None, status=Status.TIMEOUT)) == "timeout"


def test_progress_says_what_was_found_or_why_not(line: Any) -> None:
    assert progress_of(line()).endswith("1.0 ms per item, 100 ms a run")
    skipped = line(seconds=None, status=Status.SKIPPED, reason="it would take too long")
    assert progress_of(skipped).endswith("skipped: it would take too long")


TABLE = """\
| workload | n | figure | graphflow | pool | client.map |
| --- | --: | --- | --: | --: | --: |
| W1: no-op map, then sum | 100 | per item | 1.0 ms | 2.0 µs | 2.0 ms |
| W1: no-op map, then sum | 1,000,000 | per item | 1.3 µs | 0.20 µs | – |
| W3: items of 50 ms CPU work, workers up | 400 | of ideal | 98.0 % |  |  |

* skipped: one run would take more than 60 s: client.map (W1 1,000,000, W1 10,000,000)

Medians of 3, warm unless it says cold; 2 cores, Linux x86_64; python 3.11.7, graphflow 0.1.0, \
dask 2026.8.0; commit abc1234.

    graphflow bench run --repeats 3 --slots 2
"""


def test_the_table_has_a_row_per_size_a_column_per_peer_and_what_is_missing(line: Any) -> None:
    late = "one run would take about 2,000 s, and the limit is 60 s"
    later = "one run would take about 20,000 s, and the limit is 60 s"
    lines = [
        line("client.map", seconds=0.2),
        line("client.map", n=1_000_000, seconds=None, status=Status.SKIPPED, reason=late, repeats=0),
        line("client.map", n=10_000_000, seconds=None, status=Status.SKIPPED, reason=later, repeats=0),
        line("pool", seconds=0.0002),
        line("pool", n=1_000_000, seconds=0.2),
        line(workload="W3", n=400, seconds=10.2, percent_of_ideal=98.04),
        line(),
        line(n=1_000_000, seconds=1.3),
    ]

    rows = markdown_table(lines).splitlines()

    assert [row for row in rows if "10,000,000 |" not in row] == TABLE.splitlines()


def test_the_table_can_be_of_some_workloads(line: Any) -> None:
    lines = [line(), line(workload="W5", variant="slow-last", times_ideal=1.0)]

    assert "W5/slow-last" in markdown_table(lines, workloads=["W5"])
    assert "no-op" not in markdown_table(lines, workloads=["W5/slow-last"])
    with pytest.raises(BenchError, match="no measurements of W7; there are W1, W5/slow-last"):
        markdown_table(lines, workloads=["W7"])


@pytest.mark.parametrize(
    ("values", "expected"),
    [([100, 1_000_000], (2, 6)), ([0.07, 1778.0], (-2, 4)), ([100], (2, 3)), ([1000.0, 1000.0], (3, 4))],
)
def test_a_scale_goes_from_decade_to_decade(values: list[float], expected: tuple[int, int]) -> None:
    assert decades(values) == expected


def test_powers_of_ten_are_written_as_people_do() -> None:
    assert [number_text(each) for each in (-2, 0, 3, 5, 6, 7)] == [
        "0.01", "1", "1,000", "100,000", "1 M", "10 M",
    ]  # fmt: skip


def chart_lines(line: Any) -> list[Any]:
    return [
        line("pool", n=10_000, seconds=0.01),
        line(n=10_000, seconds=0.1),
        line(n=100, seconds=0.1),
        line("client.map", n=10_000, seconds=None, status=Status.SKIPPED),
        line("<&>", n=100, seconds=0.1),
    ]


def test_a_chart_has_a_series_per_peer_in_order_of_n(line: Any) -> None:
    chart = chart_of(chart_lines(line), workload="W1")

    assert [(each.peer, list(each.points)) for each in chart.series] == [
        ("graphflow", [(100, 1000.0), (10_000, 10.0)]),
        ("pool", [(10_000, 1.0)]),
        ("<&>", [(100, 1000.0)]),
    ]
    assert (chart.x_range, chart.y_range) == ((2, 4), (0, 3))


def test_a_chart_of_nothing_is_refused(line: Any) -> None:
    with pytest.raises(BenchError, match="workload 'W2' was not measured; measured: W1"):
        chart_of([line()], workload="W2")


def test_the_svg_is_well_formed_and_draws_within_its_axes(line: Any) -> None:
    root = ElementTree.fromstring(svg_of(chart_of(chart_lines(line), workload="W1")))
    names = {"svg": "http://www.w3.org/2000/svg"}

    texts = {each.text for each in root.findall("svg:text", names)}
    assert {
        "graphflow",
        "pool",
        "<&>",
        "100",
        "10,000",
        "items in the map",
        "W1: no-op map, then sum",
    } <= texts
    points = [
        (float(each.get("cx", "")), float(each.get("cy", ""))) for each in root.findall("svg:circle", names)
    ]
    assert len(points) == 4
    assert all(LEFT <= x <= RIGHT and TOP <= y <= BOTTOM for x, y in points)
    assert (LEFT, TOP) in points
    assert (RIGHT, BOTTOM) in points


def test_names_beside_the_lines_do_not_overlap(line: Any) -> None:
    peers = ["graphflow", "pool", "joblib", "dask.bag", "ray", "loop"]
    lines = [line(peer, n=100, seconds=0.1 + 0.0001 * index) for index, peer in enumerate(peers)]

    root = ElementTree.fromstring(svg_of(chart_of(lines, workload="W1")))

    heights = sorted(
        float(each.get("y", ""))
        for each in root.iter("{http://www.w3.org/2000/svg}text")
        if each.text in peers
    )
    assert len(heights) == len(peers)
    assert all(later - earlier >= 16 for earlier, later in pairwise(heights))
