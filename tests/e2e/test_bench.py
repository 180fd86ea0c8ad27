"""`graphflow bench`: run, compare, chart and table, on what runs in this process at smoke sizes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]
SMALL = ("--smoke", "--peer", "graphflow-inline", "--peer", "loop")


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def results(cli: Cli, folder: Path) -> Path:
    """A small run."""
    assert cli("bench", "run", "W1", "W2", *SMALL, "--output", "a.jsonl").code == 0
    return folder / "a.jsonl"


def test_a_run_prints_a_line_per_measurement_and_writes_the_same(cli: Cli, folder: Path) -> None:
    done = cli("bench", "run", *SMALL, "--output", "a.jsonl")

    assert done.code == 0, done.err
    assert done.out == (folder / "a.jsonl").read_text(encoding="utf-8")
    lines = lines_of(done.out)
    assert {line["workload"] for line in lines} == {f"W{number}" for number in range(1, 9)}
    statuses = {(line["workload"], line["peer"]): line["status"] for line in lines if not line["variant"]}
    assert set(statuses.values()) == {"ok", "cannot"}
    assert [key for key, status in statuses.items() if status == "cannot"] == [("W8", "loop")]
    first = next(line for line in lines if line["status"] == "ok")
    assert {"startup_seconds", "first_seconds", "seconds", "seconds_all", "cpu_us_per_item"} <= first.keys()
    assert first["command"].startswith("graphflow bench run --peer graphflow-inline --peer loop")
    assert str(folder) not in done.out


def test_a_run_compared_with_itself_has_not_changed(cli: Cli, results: Path) -> None:
    done = cli("bench", "compare", results, results)

    assert done.code == 0
    assert "same" in done.out
    assert "slower" not in done.out


def test_a_slower_run_is_exit_code_1(cli: Cli, results: Path, folder: Path) -> None:
    slower = [{**line, "seconds": 1.5 * line["seconds"]} for line in lines_of(results.read_text())]
    later = folder / "b.jsonl"
    later.write_text("".join(json.dumps(line) + "\n" for line in slower), encoding="utf-8")

    worse = cli("bench", "compare", results, later)
    assert worse.code == 1
    assert f"{len(slower)} of {len(slower)} got slower (threshold 1.1)" in worse.out
    assert cli("bench", "compare", results, later, "--threshold", "1.6").code == 0
    assert cli("bench", "compare", later, results).code == 0


def test_one_run_is_compared_peer_by_peer(cli: Cli, results: Path) -> None:
    text = results.read_text(encoding="utf-8").replace("graphflow-inline", "graphflow")
    results.write_text(text, encoding="utf-8")

    done = cli("bench", "compare", results)

    assert done.code == 0
    assert "loop" in done.out


def test_charts_and_tables_are_made_of_a_run(cli: Cli, results: Path, folder: Path) -> None:
    assert cli("bench", "chart", results, "-o", "c.svg").code == 0
    assert cli("bench", "chart", results, "-o", "c.html", "--workload", "W2").code == 0
    table = cli("bench", "table", results, "W1")

    assert "graphflow-inline" in (folder / "c.svg").read_text(encoding="utf-8")
    assert "three chained maps" in (folder / "c.html").read_text(encoding="utf-8")
    assert table.out.startswith("| workload | n | figure | graphflow-inline | loop |")
    assert "graphflow bench run W1 W2 --peer" in table.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "W9"), "unknown workload 'W9'; use W1"),
        (("run", "--peer", "dusk"), "unknown peer 'dusk'; use graphflow"),
        (("run", "--sizes", "10,many"), "'10,many' is not a list of whole numbers above 0"),
        (("run", "--sizes", "0"), "whole numbers above 0"),
        (("run", "--repeats", "0"), "repeats must be an integer, 1 or more, not 0"),
        (("run", "--slots", "-1"), "slots must be an integer, 1 or more"),
        (("run", "--limit", "0"), "limit must be a positive number of seconds"),
        (("run", "--timeout", "nan"), "timeout must be a positive number of seconds"),
        (("run", "W1", "--output", "no/such/folder/a.jsonl"), "cannot write"),
        (("compare", "gone.jsonl"), "cannot read 'gone.jsonl': No such file"),
        (("compare",), "Missing argument"),
        (("chart", "gone.jsonl", "-o", "c.svg"), "cannot read 'gone.jsonl'"),
        (("chart", "gone.jsonl", "-o", "c.png"), "ends in neither .html nor .svg"),
        (("chart", "gone.jsonl"), "Missing option"),
        (("table", "gone.jsonl"), "cannot read 'gone.jsonl'"),
    ],
)
def test_bad_input_is_told_and_exit_code_2(cli: Cli, arguments: tuple[str, ...], message: str) -> None:
    done = cli("bench", *arguments)

    assert done.code == 2
    assert message in " ".join(done.err.split())
    assert done.out == ""


def test_what_a_file_does_not_have_is_exit_code_2(cli: Cli, results: Path) -> None:
    for arguments in (
        ("chart", results, "-o", "c.svg", "-w", "W7"),
        ("table", results, "W7"),
        ("compare", results),
        ("compare", results, results, "--threshold", "0.5"),
    ):
        done = cli("bench", *arguments)

        assert done.code == 2, arguments
        assert done.err.startswith("error: ")
