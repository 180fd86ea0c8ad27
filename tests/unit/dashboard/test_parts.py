"""Bars, strips and percentiles as figures; the style has the colours of states."""

from __future__ import annotations

import math
import re
from array import array
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphflow.dashboard.parts import KINDS, bar, by_kind, percentile, strip
from graphflow.dashboard.plots import duration_columns
from graphflow.dashboard.rendering import asset, embedded, render
from graphflow.model.looks import LOOKS
from graphflow.model.reports import StepReport
from graphflow.model.states import Code, Counts
from graphflow.records.figures import Durations


def node_of(codes: bytes) -> Any:
    counts = Counts({code.state_name: codes.count(code) for code in Code if code in codes})
    known = SimpleNamespace(size=len(codes), width=len(codes), codes=lambda lo, hi: codes[lo:hi])
    return SimpleNamespace(known=known, counts=counts)


def areas(svg: str) -> dict[str, int]:
    """Cells by look."""
    return {
        look: sum(int(each) for each in re.findall(r"h(\d+)v1", path))
        for look, path in re.findall(r'class="f-(\w+)" d="([^"]*)"', svg)
    }


def test_a_bar_shows_each_kind_that_is_there() -> None:
    svg = bar({"Completed": 999_999, "Failed": 1}, 1_000_000)
    assert 'class="f-failed" x="996.0" width="4.0"' in svg
    assert "999,999 completed, 1 failed" in svg


def test_counts_by_kind_add_up_to_the_counts() -> None:
    counts = {code.state_name: place + 1 for place, code in enumerate(Code) if code != Code.GRAFTED}
    assert sum(by_kind(counts).values()) == sum(counts.values())
    assert list(by_kind(counts)) == [kind for kind in KINDS if kind in by_kind(counts)]
    assert set(KINDS) == set(LOOKS)


@given(st.binary(min_size=1, max_size=6_000).map(lambda data: bytes(16 + each % 2 for each in data)))
def test_each_item_is_in_one_cell(codes: bytes) -> None:
    svg = strip(node_of(codes))
    per_cell = int(re.search(r'data-cell="(\d+)"', svg)[1])  # type: ignore[index]
    assert sum(areas(svg).values()) == -(-len(codes) // per_cell) <= 2_400


@pytest.mark.parametrize(("failed", "look"), [(1, "tint1"), (20, "tint2"), (100, "failed")])
def test_failures_tint_a_cell_by_how_many_they_are(failed: int, look: str) -> None:
    codes = bytearray([Code.COMPLETED]) * (2_400 * 400)
    codes[:failed] = bytes([Code.FAILED]) * failed
    assert areas(strip(node_of(bytes(codes)))) == {look: 1, "completed": 2_399}


def test_what_moves_wins_over_what_most_items_are() -> None:
    codes = bytearray([Code.COMPLETED]) * 24_000
    codes[5] = Code.RUNNING
    assert areas(strip(node_of(bytes(codes)))) == {"running": 1, "completed": 2_399}


@given(st.lists(st.floats(2.0**-16, 1024, width=32), min_size=1, max_size=200))
def test_percentiles_lie_within_a_bin_of_the_true_ones(values: list[float]) -> None:
    durations = Durations()
    size = len(values)
    step = StepReport(
        node=0,
        states=bytes([Code.COMPLETED]) * size,
        attempts=b"\1" * size,
        starts=array("f", bytes(4 * size)),
        durations=array("f", values),
    )
    durations.add(range(size), step)
    for part in (0.5, 0.95):
        found = percentile(durations, part)
        # The value at that rank and the one after it bound it, up to the width of a bin.
        ordered = sorted(values)
        rank = math.ceil(part * size)
        lo, hi = ordered[rank - 1], ordered[min(rank, size - 1)]
        assert found is not None and lo / 1.26 <= found <= hi * 1.26


def test_the_style_has_the_colours_of_states() -> None:
    style = asset("style.css")
    light, dark = style.split(":root[data-theme=dark]", 1)
    for kind, look in LOOKS.items():
        # A pending part of a bar is its ground; as a line or text on a terminal it needs more.
        if kind != "pending":
            assert f"--{kind}:{look.colour}" in light
            assert f"--{kind}:{look.dark}" in dark
    assert dark.count("--t-failed:#ff7b78") == 2


def contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_words_of_states_can_be_read_on_cards() -> None:
    light, dark = asset("style.css").split(":root[data-theme=dark]", 1)
    for part, card in ((light, "#ffffff"), (dark, "#151a21")):
        texts = re.findall(r"--t-\w+:(#\w{6})", part)[:10]
        assert len(texts) == 10
        assert min(contrast(text, card) for text in texts) >= 5.5


def test_script_and_style_keep_their_size() -> None:
    assert len(asset("app.js").encode()) <= 10 * 1_024
    assert len(asset("style.css").encode()) <= 16 * 1_024


def test_what_users_wrote_is_text() -> None:
    hostile = "</script><img src=x onerror=alert(1)>\u202e{{7*7}}\x1b[2J"
    assert "<" not in embedded({"text": hostile}) and "\u202e" not in embedded(hostile)
    html = render(
        "problem.html",
        base="/",
        page="",
        title=hostile,
        theme="",
        style="s",
        script="s",
        plots="p",
        bokeh="b",
        detail=hostile,
    )
    assert "<img" not in html and "\u202e" not in html and "\x1b" not in html
    assert "&lt;img src=x onerror=alert(1)&gt;\\u202e{{7*7}}\\u001b[2J" in html


def test_a_histogram_of_equal_durations_has_room_on_both_sides() -> None:
    durations = Durations()
    durations.add(
        range(3),
        StepReport(
            node=1,
            states=b"\x10" * 3,
            attempts=b"\1" * 3,
            starts=array("f", [0.0] * 3),
            durations=array("f", [0.2] * 3),
        ),
    )
    columns = duration_columns(durations)["durations"]
    assert columns["top"] == [0, 3, 0]
    assert columns["left"][0] < 0.2 / 3 and columns["right"][2] > 0.2 * 3
