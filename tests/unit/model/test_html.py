"""Pages for notebooks: texts of users stay texts, and bars add up."""

from __future__ import annotations

import re

import pytest

from graphflow.model.html import badge, bar, box, duration, element, table
from graphflow.model.looks import LOOKS, kind_of
from graphflow.model.states import Code

NASTY = "<img onerror=x> & \" ' </script> \x1b[2J \u202e \x9b"


def test_texts_of_users_are_escaped_wherever_they_stand() -> None:
    page = box(
        element("div", NASTY, title=NASTY), table([NASTY], [[NASTY], [element("b", NASTY)]]), badge(NASTY)
    )

    assert "<img" not in page and "</script" not in page
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", page)
    assert page.count("&lt;img onerror=x&gt;") == 6
    assert len(element("div", "x" * 100_000)) < 500


@pytest.mark.parametrize(
    ("counts", "width", "told"),
    [
        ({"Completed": 3, "Failed": 1, "Pending": 6}, 10, "3 completed, 1 failed, of 10"),
        ({}, None, "nothing yet, of unknown"),
        ({"Crashed": 1, "TimedOut": 2}, 1_000_000, "3 failed, of 1,000,000"),
    ],
)
def test_a_bar_tells_its_counts_and_stays_within_its_width(
    counts: dict[str, int], width: int | None, told: str
) -> None:
    drawn = bar(counts, width)
    assert f"<title>{told}</title>" in drawn
    assert all(float(each) <= 120 for each in re.findall(r'width="([\d.]+)"', drawn))


def test_each_state_has_a_look() -> None:
    for code in Code:
        if code.state_name in ("Scheduled", "Late", "Pending"):
            assert kind_of(code.state_name) == "pending"
    assert {kind_of(code.state_name) for code in Code} <= set(LOOKS)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (0.0076, "7.6 ms"), (31, "31 s"), (185, "3 min 05 s"), (7440, "2 h 04 min")],
)
def test_durations_are_texts(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text
