"""The page of a chart."""

from __future__ import annotations

from graphflow.bench.chart import chart_of
from graphflow.bench.html import html_of
from graphflow.bench.lines import Line


def test_the_html_holds_its_script_and_loads_nothing() -> None:
    lines = [
        Line(workload="W1", peer=peer, n=n, slots=2, repeats=3, seconds=n / 1e6, us_per_item=1.0)
        for peer in ("graphflow", "joblib")
        for n in (100, 1_000)
    ]
    page = html_of(chart_of(lines, workload="W1"))

    assert "graphflow" in page
    assert "<script src=" not in page
    assert '<link rel="stylesheet"' not in page
