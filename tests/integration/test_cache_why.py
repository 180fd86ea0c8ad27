"""`graphflow cache why`: which part of a key differs from what was cached before."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from graphflow import DEFAULT, FLOW_PARAMETERS, INPUTS, RUN_ID, flow, task
from graphflow.cli.main import app

STEP = 1
TABLE: Any = {"a": [1]}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("GRAPHFLOW_HOME", str(tmp_path / "home"))
    yield tmp_path / "home"


def cli(*args: str) -> Result:
    return CliRunner().invoke(app, ["cache", "why", *args], env={"COLUMNS": "200"})


def told(*args: str) -> Any:
    result = cli(*args, "-o", "json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def shift(x: Any, y: Any = 2) -> Any:
    return x, y, STEP, TABLE


def ran(values: list[Any], y: Any = 2, *, parameter: int = 0, **options: Any) -> str:
    """The id of a run that maps over values."""
    if "cache_key_fn" not in options:
        options = {"cache_policy": INPUTS, **options}
    work = task(**options)(shift)

    @flow(backend="inline")
    def main(parameter: int) -> Any:
        return work.map(values, y)

    return main.run(parameter=parameter).id


def test_an_item_that_was_cached_tells_whose_value_it_has() -> None:
    first, second = ran([1, 2, 3]), ran([3])
    found = told(second, "shift[0]")
    assert found["state"] == "Cached"
    assert {name: found["cached_from"][name] for name in ("run_id", "node", "index")} == {
        "run_id": first,
        "node": "shift",
        "index": 2,
    }
    text = cli(second, "shift[0]").stdout
    assert f"shift[0] was not executed: its value was computed by shift[2] of run {first}" in text
    assert "made of: argument x, argument y, code, global STEP, global TABLE." in text


def test_the_first_one_is_the_first() -> None:
    assert "This task had no earlier entry" in cli(ran([1]), "shift[0]").stdout


def test_the_part_that_differs_is_named() -> None:
    first = ran([1, 2, 3])
    found = told(ran([1, 2, 3], 5), "shift[1]")
    assert (found["differs"], found["agrees"]) == (
        ["argument y"],
        ["argument x", "code", "global STEP", "global TABLE"],
    )
    assert (found["nearest"]["run_id"], found["nearest"]["index"]) == (first, 1)
    found = told(ran([1, 9, 3]), "shift[1]")
    assert found["differs"] == ["argument x"]


@pytest.mark.parametrize(("name", "value"), [("STEP", 2), ("TABLE", {"a": [2]})])
def test_the_variable_that_differs_is_named(name: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ran([1, 2])
    monkeypatch.setitem(globals(), name, value)
    run = ran([1, 2])
    found = told(run, "shift[1]")
    assert found["state"] == "Completed" and found["differs"] == [f"global {name}"]
    assert f"differs: global {name}: this variable, which the task" in cli(run, "shift[1]").stdout


def test_a_variable_that_cannot_be_told_is_named_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(globals(), "TABLE", iter([]))
    ran([1])
    (line,) = (each.message for each in caplog.records if each.name == "graphflow.cache")
    assert "do not see changes of global 'TABLE' (a list_iterator has no canonical form)" in line


def test_runs_parameters_versions_and_texts_are_named() -> None:
    every = DEFAULT + FLOW_PARAMETERS + RUN_ID
    ran([1], cache_policy=every)
    assert told(ran([1], cache_policy=every), "shift[0]")["differs"] == ["run id"]
    ran([1], cache_policy=FLOW_PARAMETERS)
    assert told(ran([1], cache_policy=FLOW_PARAMETERS, parameter=5), "shift[0]")["differs"] == [
        "flow parameters"
    ]
    ran([7], cache_version="1")
    assert told(ran([7], cache_version="2"), "shift[0]")["differs"] == ["cache_version"]
    ran([8], cache_key_fn=lambda context, parameters: "one")
    found = told(ran([8], cache_key_fn=lambda context, parameters: "two"), "shift[0]")
    assert found["differs"] == ["cache_key_fn"]


def test_an_equal_entry_that_was_not_used_is_explained() -> None:
    # Over before the next run begins.
    ran([1], cache_expiration=1e-6)
    run = ran([1], cache_expiration=1e-6)
    assert "it had expired at" in cli(run, "shift[0]").stdout
    ran([2])
    assert "refresh_cache was set" in cli(ran([2], refresh_cache=True), "shift[0]").stdout


def test_an_item_that_is_not_cached_says_why_where_that_is_known() -> None:
    run = ran([threading.Lock()])
    text = cli(run, "shift[0]").stdout
    assert "shift[0] is Completed, and" in text
    assert "argument x: a lock has no canonical form" in text
    plain = ran([1], cache_policy=None)
    assert "the task does not ask for caching" in cli(plain, "shift[0]").stdout


def test_what_is_not_there_is_said(home: Path) -> None:
    run = ran([1, 2])
    for args, code, text in (
        ((run, "nothing[1]"), 4, "has no node 'nothing'; it has shift"),
        ((run, "shift"), 2, "choose one, such as 'shift[0]'"),
        ((run, "shift[7]"), 4, "shift has 2 items; there is no item 7"),
        (("nobody", "shift[0]"), 4, "nobody"),
    ):
        result = cli(*args)
        assert (result.exit_code, text in result.output) == (code, True), result.output
