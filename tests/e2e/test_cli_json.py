"""Each command that prints anything prints it as JSON too, with the name of its schema; and times are UTC there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer

from graphflow.cli.main import app

JOBS = """
from graphflow import INPUTS, flow, task

@task(cache_policy=INPUTS)
def double(x):
    if x == 3:
        raise ValueError("three")
    print("a line")
    return 2 * x

@flow(log_prints=True, backend="inline")
def doubles(n: int):
    return double.map(range(n))
"""
NOT_DATA = {
    *("bench chart", "bench table", "bench compare"),
    *("serve", "ui", "pause-all", "resume-all", "worker start", "events emit", "runs rerun"),
    *("limits set", "limits rm", "rates set", "rates rm"),
    *(
        "deploy rm",
        "deploy pause",
        "deploy resume",
        "pool set",
        "pool pause",
        "pool resume",
        "pool create",
        "token rm",
    ),
}
"""What they write is SVG and Markdown, or is made of results that are JSON; or they do something, and say so in a line."""


def commands(command: Any, name: str = "") -> dict[str, Any]:
    if hasattr(command, "commands"):
        found: dict[str, Any] = {}
        for each, inner in command.commands.items():
            found |= commands(inner, f"{name} {each}".strip())
        return found
    return {name: command}


def test_each_command_has_the_option() -> None:
    without = {
        name
        for name, command in commands(typer.main.get_command(app)).items()
        if not any("--output" in parameter.opts for parameter in command.params)
    }
    assert without <= NOT_DATA


@pytest.fixture
def home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAPHFLOW_HOME", str(folder / "home"))
    monkeypatch.delenv("GRAPHFLOW_SECRET_KEY", raising=False)
    (folder / "jobs.py").write_text(JOBS)
    return folder


def test_documents_name_their_schemas(cli: Any, home: Path) -> None:
    assert cli("run", "jobs.py:doubles", "-p", "n=3", "-q").code == 0
    assert cli("run", "jobs.py:doubles", "-p", "n=5", "-q").code == 1

    def document(*arguments: str) -> Any:
        done = cli(*arguments, "-o", "json")
        assert done.code in (0, 1), done.err
        return json.loads(done.out)

    for arguments, schema in (
        (("version",), "graphflow.versions/1"),
        (("runs", "show", "@latest"), "graphflow.run/1"),
        (("runs", "watch", "@latest"), "graphflow.run/1"),
        (("graph", "jobs.py:doubles", "-p", "n=1"), "graphflow.graph.graph/1"),
        (("key", "show"), "graphflow.keys/1"),
        (("key", "rotate"), "graphflow.key/1"),
        (("key", "export"), "graphflow.exported_key/1"),
        (("config", "show"), "graphflow.settings/1"),
        (("cache", "why", "@latest", "double[0]"), "graphflow.caching_reason/1"),
    ):
        assert document(*arguments)["schema"] == schema, arguments
    for arguments, schema in (
        (("runs", "ls"), "graphflow.run_header/1"),
        (("runs", "items", "@latest"), "graphflow.item/1"),
        (("runs", "failures", "@latest"), "graphflow.item/1"),
        (("runs", "logs", "@latest"), "graphflow.log_line/1"),
        (("fsck",), "graphflow.fsck/1"),
        (("cache", "ls"), "graphflow.cache_task/1"),
        (("cache", "stat"), "graphflow.cache_stat/1"),
        (("cache", "verify"), "graphflow.cache_pack/1"),
        (("cache", "gc"), "graphflow.cache_collected/1"),
    ):
        found = document(*arguments)
        assert found and {each["schema"] for each in found} == {schema}, arguments
    first = document("runs", "ls")[-1]
    assert first["created"].endswith(("Z", "+00:00"))
    assert document("runs", "result", first["id"]) == {
        "schema": "graphflow.result/1",
        "run": first["id"],
        "node": None,
        "index": None,
        "value": [0, 2, 4],
    }
    removed = document("cache", "rm", "double", "--yes") if cli("cache", "ls").code == 0 else {}
    assert removed["schema"] == "graphflow.cache_removed/1"
    assert document("runs", "rm", first["id"], "--yes") == {
        "schema": "graphflow.removed/1",
        "runs": [first["id"]],
    }
