"""Result lines: written and read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graphflow.bench.lines import BenchError, Status, newest, read_lines


def test_a_line_is_read_as_it_was_written(line: Any, write: Callable[..., Path]) -> None:
    lines = [line(), line("pool", seconds=None, status=Status.SKIPPED, reason="too slow")]

    assert read_lines(write(*lines)) == lines


def test_what_was_not_measured_is_not_written(line: Any) -> None:
    assert "startup_seconds" not in line().to_json()


def test_fields_of_a_newer_version_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "newer.jsonl"
    path.write_text(
        '{"workload": "W1", "peer": "pool", "n": 1, "slots": 2, "colour": 3}\n\n', encoding="utf-8"
    )

    (found,) = read_lines(path)

    assert (found.key, found.peer, found.is_ok) == ("W1", "pool", False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no measurements; `graphflow bench run --output FILE` writes them"),
        ("{", "line 1 of"),
        ('{"workload": "W1", "peer": "pool", "slots": 2}', "n: Field required"),
        (
            '{"workload": "W1", "peer": "pool", "n": 1, "slots": 2, "status": "fine"}',
            "status: Input should be",
        ),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "other.txt"
    path.write_text(text, encoding="utf-8")

    with pytest.raises(BenchError) as caught:
        read_lines(path)

    assert message in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="cannot read .*gone.jsonl': No such file"):
        read_lines(tmp_path / "gone.jsonl")


def test_the_last_of_several_lines_counts(line: Any) -> None:
    assert newest([line(seconds=1.0), line(seconds=2.0)])["W1", "graphflow", 100].seconds == 2.0
