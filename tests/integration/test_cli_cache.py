"""`graphflow cache`: what it tells, what it removes, and its exit codes."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from graphflow.cache.cached import CacheFolder
from graphflow.cli.exits import ExitCode
from graphflow.cli.main import app
from graphflow.results.stores.opening import open_store

TASK = "square-0123456789abcdef"
OTHER = "load-0123456789abcdef"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("GRAPHFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("GRAPHFLOW_RESULT_STORAGE", raising=False)
    yield tmp_path / "home"


def cli(*args: str) -> Result:
    return CliRunner().invoke(app, ["cache", *args], env={"COLUMNS": "200"})


def told(*args: str) -> Any:
    result = cli(*args, "-o", "json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def key(number: int) -> bytes:
    return struct.pack(">IIQ", number, 0, 77)


def filled(home: Path, task: str = TASK, packs: int = 3) -> CacheFolder:
    folder = CacheFolder(open_store(home / "results"), f"cache/{task}", large_nbytes=2_000)
    for pack in range(packs):
        numbers = range(pack * 10 + 1, pack * 10 + 11)
        folder.publish(
            keys=b"".join(map(key, numbers)),
            values=[{"n": number, "x": ":x:"} for number in numbers],
            indices=range(10),
            run_id=f"run-{pack}",
            node="square",
            created=time.time(),
            expires=None if pack else 5.0,
            parts={"inputs:x": struct.pack("<10I", *numbers), "code": b"codecode"},
        )
    return folder


def test_what_is_cached_is_listed_and_told_in_numbers(home: Path) -> None:
    assert told("ls") == [] and told("stat") == []
    filled(home)
    filled(home, OTHER, 1)
    assert [(each["task"], each["objects"]) for each in told("ls")] == [(OTHER, 1), (TASK, 3)]
    assert [each["task"] for each in told("ls", "squ")] == [TASK]
    (found,) = told("stat", TASK)
    assert (found["live"], found["expired"], found["packs"], found["damaged"]) == (20, 10, 3, 0)
    assert TASK in cli("ls").stdout and TASK in cli("stat").stdout
    assert cli("ls", "-o", "jsonl").stdout.count("\n") == 2


def test_a_value_is_shown_by_the_beginning_of_its_key(home: Path) -> None:
    filled(home)
    (found,) = told("show", key(12).hex()[:8], "--value")
    assert (found["run_id"], found["node"], found["index"], found["state"]) == (
        "run-1",
        "square",
        1,
        "current",
    )
    assert found["key"] == key(12).hex() and found["value_repr"] == "{'n': 12, 'x': ':x:'}"
    assert found["parts"] == {"code": [b"codecode".hex()], "inputs:x": ["0c000000"]}
    assert found["expires"] is None and found["shared_with"] == 9
    (over,) = told("show", key(2).hex())
    assert over["state"] == "expired" and over["expires"] == "1970-01-01T00:00:05Z"
    text = cli("show", "0000000c", "--value").stdout
    assert "inputs:x: 0c000000" in text and "value: {'n': 12, 'x': ':x:'}" in text and "expires never" in text
    result = cli("show", "0000", "--limit", "2", "-o", "json")
    assert len(json.loads(result.stdout)) == 2 and "28 more" in result.stderr
    assert cli("show", "ffff").exit_code == ExitCode.NOT_FOUND
    assert cli("show", "no hex").exit_code == ExitCode.USAGE
    assert cli("show", "0000", "--task", "nobody").exit_code == ExitCode.NOT_FOUND


def test_verification_tells_what_is_damaged(home: Path) -> None:
    folder = filled(home)
    result = cli("verify")
    assert result.exit_code == 0 and "3 packs verified, 0 damaged" in result.stderr
    path = home / "results" / "cache" / TASK / folder._packs[0].name
    data = bytearray(path.read_bytes())
    data[30] ^= 1
    path.write_bytes(data)
    result = cli("verify")
    assert result.exit_code == ExitCode.FAILED and path.name in result.stdout
    assert "3 packs verified, 1 damaged" in result.stderr
    (found,) = (each for each in json.loads(cli("verify", "-o", "json").stdout) if each["problem"])
    assert found["object"] == f"cache/{TASK}/{path.name}"
    (shown,) = told("show", key(3).hex(), "--value")
    assert "is damaged" in shown["value_repr"]


def test_objects_are_put_together_and_old_ones_wait(home: Path) -> None:
    filled(home)
    result = cli("compact")
    assert (
        result.exit_code == 0
        and "3 packs read, 1 written, 0 removed, 2 kept for the grace time" in result.stderr
    )
    (found,) = told("compact", "--grace", "0")
    assert (found["packs_written"], found["packs_removed"]) == (0, 3)
    assert told("ls")[0]["objects"] == 1 and told("show", key(12).hex())[0]["run_id"] == "run-1"
    (collected,) = told("gc", TASK, "--grace", "0")
    assert collected["packs"] == 0 and collected["kept"] == {}
    assert "removed 0 packs" in cli("gc").stderr


def test_results_are_removed_by_task_and_by_key(home: Path) -> None:
    filled(home)
    filled(home, OTHER, 1)
    assert cli("rm", TASK).exit_code == ExitCode.USAGE
    assert cli("rm", "nobody", "--yes").exit_code == ExitCode.NOT_FOUND
    result = cli("rm", TASK, "--key", key(12).hex(), "--yes")
    assert result.exit_code == 0 and "removed 1 value\n" in result.stderr
    assert cli("show", key(12).hex()).exit_code == ExitCode.NOT_FOUND
    assert told("show", key(13).hex(), "--value")[0]["value_repr"] == "{'n': 13, 'x': ':x:'}"
    result = cli("rm", TASK, "--yes")
    assert result.exit_code == 0 and "removed 3 objects" in result.stderr
    assert [each["task"] for each in told("ls")] == [OTHER]


def test_a_store_is_chosen_by_url(home: Path, tmp_path: Path) -> None:
    filled(tmp_path / "elsewhere")
    assert told("ls") == []
    assert told("ls", "--storage", str(tmp_path / "elsewhere" / "results"))[0]["task"] == TASK
    assert told("ls", "--storage", (tmp_path / "elsewhere" / "results").as_uri())[0]["task"] == TASK
    assert cli("ls", "--storage", "nonsense://x").exit_code == ExitCode.INFRASTRUCTURE
