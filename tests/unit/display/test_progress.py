"""Rows of a run's nodes, and the lines that are made of them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from graphflow.display.consoles import ProgressMode, choose_progress
from graphflow.display.meter import Meter, NodeRow, format_eta, format_rate, format_seconds
from graphflow.display.progress import (
    LiveProgress,
    PlainProgress,
    choose_rows,
    live_table,
    plain_line,
    segments,
)
from graphflow.model.states import Code

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
NOW = BEGIN.timestamp()


@dataclass
class Node:
    id: int = 0
    name: str = "count"
    state_code: Code = Code.RUNNING
    width: int | None = 100
    is_mapped: bool = True
    counts: Mapping[str, int] = field(default_factory=dict)
    started: datetime | None = BEGIN
    ended: datetime | None = None
    is_builtin: bool = False
    retries: int = 0


def row_of(node: Node, *, after: float = 10.0, meter: Meter | None = None) -> NodeRow:
    return (meter or Meter()).read([node], now=NOW + after)[0]


def test_a_row_adds_up_what_ended_however_it_ended() -> None:
    counts = {"Completed": 50, "Cached": 10, "Failed": 2, "TimedOut": 1, "Crashed": 1, "AwaitingRetry": 3}

    row = row_of(Node(counts=counts | {"Pending": 33}))

    assert (row.done, row.completed, row.cached, row.failed, row.retrying) == (64, 50, 10, 4, 3)
    assert row.fraction == pytest.approx(0.64)


def test_the_rate_is_measured_over_the_last_seconds_and_gives_the_time_left() -> None:
    meter = Meter()
    row_of(Node(counts={"Completed": 0}), after=0, meter=meter)

    row = row_of(Node(counts={"Completed": 40}), after=4, meter=meter)

    assert row.rate == pytest.approx(10)
    assert row.eta_seconds == pytest.approx(6)


def test_a_node_that_ended_shows_its_mean_rate_and_no_time_left() -> None:
    node = Node(state_code=Code.COMPLETED, counts={"Completed": 100}, ended=BEGIN + timedelta(seconds=20))

    row = row_of(node, after=1000)

    assert (row.rate, row.eta_seconds, row.seconds) == (5.0, None, 20.0)


def test_an_unknown_width_has_no_fraction_and_an_empty_map_is_whole() -> None:
    assert row_of(Node(width=None)).fraction is None
    assert row_of(Node(width=0)).fraction == 1.0


def test_the_engines_own_nodes_have_a_row_only_if_they_failed() -> None:
    nodes = [
        Node(name="load"),
        Node(name="load['x']", is_builtin=True, counts={"Completed": 1}),
        Node(name="load['y']", is_builtin=True, counts={"Failed": 1}),
    ]

    assert [row.name for row in Meter().read(nodes, now=NOW)] == ["load", "load['y']"]


def test_retries_are_counted_where_asked_for() -> None:
    (plain,) = Meter().read([Node(retries=3)], now=NOW)
    (full,) = Meter().read([Node(retries=3)], now=NOW, counts_retries=True)

    assert (plain.retries, full.retries) == (0, 3)


def test_a_plain_line_tells_numbers_and_what_is_exceptional() -> None:
    meter = Meter()
    row_of(Node(width=10_000), after=0, meter=meter)
    counts = {"Completed": 1_231, "Failed": 3, "AwaitingRetry": 2}

    line = plain_line(row_of(Node(width=10_000, counts=counts), after=3, meter=meter))

    assert line == "count  1,234/10,000 (12 %)  3 failed  2 retrying  411/s  ETA 0:21"


def plain_output(*steps: tuple[float, Node]) -> list[str]:
    out = io.StringIO()
    progress = PlainProgress(Console(file=out, width=200))
    meter = Meter()
    for after, node in steps:
        progress.show(meter.read([node], now=NOW + after), now=NOW + after)
    return out.getvalue().splitlines()


def test_plain_lines_come_every_five_percent_or_ten_seconds() -> None:
    lines = plain_output(
        (0.0, Node(counts={"Completed": 1})),
        (0.1, Node(counts={"Completed": 3})),
        (0.2, Node(counts={"Completed": 6})),
        (9.0, Node(counts={"Completed": 7})),
        (10.3, Node(counts={"Completed": 7})),
    )

    assert [line.split()[1] for line in lines] == ["1/100", "6/100", "7/100"]


def test_a_single_task_says_one_line_when_it_ends_and_none_before() -> None:
    done = Node(
        is_mapped=False,
        width=1,
        state_code=Code.COMPLETED,
        counts={"Completed": 1},
        ended=BEGIN + timedelta(seconds=2),
    )

    lines = plain_output((0.0, Node(is_mapped=False, width=1)), (2.0, done), (3.0, done))

    assert lines == ["count  Completed  2.00 s"]


def test_a_node_that_has_not_begun_says_nothing() -> None:
    assert plain_output((0.0, Node(state_code=Code.PENDING, started=None))) == []


def test_the_live_table_has_a_line_per_node() -> None:
    out = io.StringIO()
    progress = LiveProgress(Console(file=out, width=100, height=30, force_terminal=True, no_color=True))
    nodes = [Node(id=0, name="load", counts={"Completed": 40, "Cached": 2}), Node(id=1, name="total [x]")]

    progress.start()
    progress.show(Meter().read(nodes, now=NOW + 1), now=NOW + 1)
    progress.say("a note")
    progress.stop([], now=NOW + 2)

    text = out.getvalue()
    assert "load" in text
    assert "42/100" in text
    assert "2 cached" in text
    assert "total [x]" in text
    assert "a note" in text


def test_rows_that_do_not_fit_give_way_to_those_at_work() -> None:
    states = [Code.COMPLETED] * 5 + [Code.RUNNING] * 2 + [Code.PENDING] * 5
    rows = Meter().read([Node(id=i, name=str(i), state_code=code) for i, code in enumerate(states)], now=NOW)

    shown, left_out = choose_rows(rows, room=4)

    assert [row.name for row in shown] == ["3", "4", "5", "6"]
    assert left_out == 8


@pytest.mark.parametrize(
    ("environ", "is_terminal", "mode"),
    [
        ({}, True, ProgressMode.LIVE),
        ({}, False, ProgressMode.PLAIN),
        ({"CI": "true"}, True, ProgressMode.LIVE),
        ({"TERM": "dumb"}, True, ProgressMode.PLAIN),
    ],
)
def test_auto_is_live_on_a_terminal_that_can(
    environ: dict[str, str], is_terminal: bool, mode: ProgressMode
) -> None:
    assert choose_progress(ProgressMode.AUTO, is_terminal=is_terminal, environ=environ) is mode


def test_a_mode_that_was_asked_for_is_kept() -> None:
    assert choose_progress(ProgressMode.OFF, is_terminal=True, environ={}) is ProgressMode.OFF


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, ""), (0.034, "0.03 s"), (12.42, "12.4 s"), (185, "3:05"), (7209, "2:00:09")]
)
def test_durations_are_for_people(seconds: float | None, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (None, ""),
        (0, ""),
        (3.21, "3.2/s"),
        (410, "410/s"),
        (9100, "9.1k/s"),
        (212_000, "212k/s"),
        (2e6, "2.0M/s"),
    ],
)
def test_rates_are_short(rate: float | None, text: str) -> None:
    assert format_rate(rate) == text


def test_the_time_left_is_minutes_and_seconds() -> None:
    assert (format_eta(None), format_eta(21), format_eta(3661)) == ("", "0:21", "1:01:01")


MANY = Node(
    name="fetch_a_page_with_a_long_name",
    width=1_234_567,
    counts={"Completed": 900_000, "Cached": 30_000, "Failed": 3, "UpstreamFailed": 1, "AwaitingRetry": 20},
)


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_a_line_fits_the_terminal_and_no_number_is_cut(width: int) -> None:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, no_color=True)
    console.print(
        live_table([row_of(MANY), row_of(Node(name="total", is_mapped=False, width=1))], width=width)
    )

    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) == 2
    assert all(len(line) <= width for line in lines)
    assert "930,004/1,234,567" in lines[0]
    assert ("━" in lines[0]) == (width >= 80)
    assert ("4 failed" in lines[0]) == (width >= 60)


def test_a_bar_has_a_cell_for_each_state_that_there_is() -> None:
    cells = dict(segments(row_of(MANY), 24))

    assert list(cells) == ["completed", "cached", "failed", "blocked", "retrying", "pending"]
    assert sum(cells.values()) == 24
    assert cells["failed"] == cells["blocked"] == cells["retrying"] == 1
    assert segments(row_of(Node(width=0)), 24) == [("completed", 24)]
    assert sum(cells for _, cells in segments(row_of(Node(width=None, counts={"Completed": 7})), 24)) == 24
