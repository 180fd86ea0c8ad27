"""`graphflow runs result --save`."""

from __future__ import annotations

import json
import os
import pickle
import stat
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from graphflow import flow, task
from graphflow.cli.main import app


@task
def pair(x: int) -> dict[str, int]:
    return {"x": x}


@flow(backend="inline")
def pairs() -> list[dict[str, int]]:
    return pair.map(range(3))  # type: ignore[return-value]


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".pickle"])
def test_values_are_saved_as_the_name_says(tmp_path: Path, suffix: str) -> None:
    run = pairs.run()
    place = tmp_path / f"values{suffix}"

    done = CliRunner().invoke(app, ["runs", "result", run.id, "--save", str(place)])

    assert done.exit_code == 0, done.output
    data = place.read_bytes()
    found: Any = {
        ".json": lambda: json.loads(data),
        ".jsonl": lambda: [json.loads(line) for line in data.splitlines()],
        ".pickle": lambda: pickle.loads(data),
    }[suffix]()
    assert found == [{"x": 0}, {"x": 1}, {"x": 2}]
    assert sorted(each.name for each in tmp_path.iterdir()) == [place.name]


def test_a_name_that_says_nothing_and_a_value_that_does_not_fit_are_refused(tmp_path: Path) -> None:
    @task
    def odd() -> set[int]:
        return {1}

    @flow(backend="inline")
    def one() -> set[int]:
        return odd()

    run = one.run()
    for name, said in (
        ("values.txt", "has an unknown suffix; use one of"),
        ("values.json", "cannot be written as .json"),
    ):
        done = CliRunner().invoke(app, ["runs", "result", run.id, "--save", str(tmp_path / name)])
        assert done.exit_code == 2
        assert said in " ".join(done.output.replace("│", " ").split())
    assert not list(tmp_path.iterdir())


def test_nothing_that_is_there_is_replaced_opened_up_or_written_through(tmp_path: Path) -> None:
    run = pairs.run()
    place, link = tmp_path / "values.json", tmp_path / "link.json"
    save = ["runs", "result", run.id, "--save"]
    before = os.umask(0)
    try:
        assert CliRunner().invoke(app, [*save, str(place)]).exit_code == 0
        assert stat.S_IMODE(place.stat().st_mode) == 0o600
        for mode in (0o600, 0o644, 0o640):
            place.write_text("mine")
            place.chmod(mode)
            refused = CliRunner().invoke(app, [*save, str(place)])
            assert refused.exit_code == 2 and "already exists" in refused.output
            assert place.read_text() == "mine"
            assert CliRunner().invoke(app, [*save, str(place), "--overwrite"]).exit_code == 0
            assert stat.S_IMODE(place.stat().st_mode) == mode
            assert len(json.loads(place.read_text())) == 3
        place.write_text("mine")
        link.symlink_to(place)
        for arguments in ([], ["--overwrite"]):
            refused = CliRunner().invoke(app, [*save, str(link), *arguments])
            assert refused.exit_code == 2
            assert link.is_symlink() and place.read_text() == "mine"
    finally:
        os.umask(before)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["link.json", "values.json"]
    refused = CliRunner().invoke(app, ["bench", "chart", str(place), "-o", str(place), "--overwrite"])
    assert refused.exit_code == 2 and place.read_text() == "mine"
