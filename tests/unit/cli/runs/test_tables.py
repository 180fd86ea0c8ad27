"""Tables of runs: ids and numbers stay whole, however narrow the terminal."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from graphflow.cli.runs.tables import show_runs
from graphflow.display.consoles import time_text
from graphflow.records.summary import NodeSummary, RunSummary

AT = datetime(2026, 1, 31, 12, 0, 5, tzinfo=UTC)
RUN: Any = SimpleNamespace(
    id="01M8PSSZ398BY3TXGM7F7H74G2",
    name="crawl-7h74g2-with-a-long-name",
    flow_name="crawl",
    state_name="Completed",
    started=AT,
    ended=AT,
    seconds=1.5,
    created=AT,
    summary=RunSummary(
        nodes=[NodeSummary(name="n", width=3_000, counts={"Completed": 2_988, "Failed": 12})],
        other_nodes=1,
        other_counts={"Completed": 1},
    ),
    why="",
)


@pytest.mark.parametrize("width", [50, 60, 80, 120])
def test_ids_stay_whole_and_columns_are_left_out(width: int) -> None:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, no_color=True)
    show_runs([RUN], console)

    (line,) = [each for each in console.file.getvalue().splitlines() if RUN.id in each]  # type: ignore[attr-defined]
    assert "crawl" in line and "Completed" in line
    assert ("2026-01-31" in line) == (width >= 80)
    assert ("long-name" in line) == (width >= 120)


def test_items_and_failures_are_shown_as_far_as_lists_know() -> None:
    lines = []
    for summary in (RUN.summary, None):
        console = Console(file=io.StringIO(), width=140, no_color=True)
        unknown: Any = SimpleNamespace(**{**vars(RUN), "summary": summary})
        show_runs([unknown], console)
        lines += [each for each in console.file.getvalue().splitlines() if RUN.id in each]  # type: ignore[attr-defined]
    known, blank = (line.split() for line in lines)
    assert known == [*blank, "3,001", "12"]


def test_times_are_utc_where_programs_read_them() -> None:
    assert time_text(AT, stream=io.StringIO()) == "2026-01-31 12:00:05Z"
    assert time_text(AT, stream=io.StringIO(), timespec="milliseconds") == "2026-01-31T12:00:05.000Z"
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    assert time_text(AT, stream=terminal) == AT.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    assert time_text(None) == ""
