"""What a dry run tells is what the run then does."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from graphflow import INPUTS, flow, task
from graphflow.cli.main import app
from graphflow.runs.forecasting import Forecast

CALLS: Counter[str] = Counter()


@task(cache_policy=INPUTS)
def urls(n: int) -> list[int]:
    CALLS["urls"] += 1
    return list(range(n))


@task(cache_policy=INPUTS)
def fetch(url: int, prefix: str = "") -> str:
    CALLS["fetch"] += 1
    return f"{prefix}{url}"


@task(cache_policy=INPUTS)
def length(page: str) -> int:
    CALLS["length"] += 1
    return len(page)


@task
def plain(page: str) -> str:
    CALLS["plain"] += 1
    return page


@task
def total(values: list[int]) -> int:
    return sum(values)


@flow(backend="inline")
def given(numbers: list[int], prefix: str = "") -> int:
    return total(length.map(fetch.map(numbers, prefix=prefix)))


@flow(backend="inline")
def found(n: int) -> int:
    return total(length.map(fetch.map(urls(n))))


@flow(backend="inline")
def through_plain(n: int) -> int:
    return total(length.map(plain.map(fetch.map(range(n)))))


@flow(backend="inline")
def forcing(n: int) -> int:
    pages = fetch.map(range(n))
    if fetch(n).result():
        return total(length.map(pages))
    return 0


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHFLOW_HOME", str(tmp_path / "home"))
    CALLS.clear()


def counts(told: Forecast) -> dict[str, tuple[int | None, int, int, int]]:
    return {each.name: (each.width, each.cached, each.executed, each.unknown) for each in told.nodes}


def test_nothing_is_cached_at_first_and_nothing_runs() -> None:
    assert counts(given.forecast([1, 2, 3])) == {
        "fetch": (3, 0, 3, 0),
        "length": (3, 0, 0, 3),
        "total": (1, 0, 1, 0),
    }
    assert counts(found.forecast(3))["fetch"] == (None, 0, 0, 0)
    assert not CALLS


def test_the_forecast_is_what_the_run_then_does() -> None:
    given([1, 2, 3])
    CALLS.clear()

    told = counts(given.forecast([3, 4, 1, 55]))

    assert told["fetch"] == (4, 2, 2, 0)
    # Values of cached items are known, and the keys that follow from them.
    assert told["length"] == (4, 2, 0, 2)
    assert not CALLS
    given([3, 4, 1, 55])
    assert CALLS["fetch"] == 2
    assert counts(given.forecast([1], prefix="x"))["fetch"] == (1, 0, 1, 0)


def test_widths_that_follow_from_cached_values_are_known() -> None:
    found(5)
    CALLS.clear()

    assert counts(found.forecast(5)) == {
        "urls": (1, 1, 0, 0),
        "fetch": (5, 5, 0, 0),
        "length": (5, 5, 0, 0),
        "total": (1, 0, 1, 0),
    }
    assert not CALLS


def test_what_follows_from_a_task_without_a_cache_is_unknown() -> None:
    through_plain(4)

    assert counts(through_plain.forecast(4)) == {
        "fetch": (4, 4, 0, 0),
        "plain": (4, 0, 4, 0),
        "length": (4, 0, 0, 4),
        "total": (1, 0, 1, 0),
    }


def test_a_flow_that_asks_for_a_value_is_shown_up_to_there_and_options_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = forcing.forecast(2)
    assert list(counts(told)) == ["fetch", "fetch-1"]
    assert "was forced" in told.forced

    given([1])
    assert counts(given.with_options(refresh_cache=True).forecast([1]))["fetch"] == (1, 0, 1, 0)
    monkeypatch.setenv("GRAPHFLOW_REFRESH_CACHE", "1")
    assert counts(given.forecast([1]))["fetch"] == (1, 0, 1, 0)


def test_the_command_prints_it_and_leaves_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "jobs.py").write_text(
        "from graphflow import INPUTS, flow, task\n\n"
        "@task(cache_policy=INPUTS)\ndef double(x):\n    return 2 * x\n\n"
        "@flow\ndef doubles(n: int = 3):\n    return double.map(range(n))\n"
    )
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> str:
        sys.modules.pop("jobs", None)  # each call is a command of its own
        with pytest.raises(SystemExit) as ended:
            app([*arguments], prog_name="graphflow")
        assert not ended.value.code
        return capsys.readouterr().out

    call("run", "jobs.py", "--backend", "inline", "-q")
    shown = call("run", "jobs.py", "--dry-run", "-p", "n=5")
    assert "3 cached, 2 items to execute" in shown
    document = json.loads(call("run", "jobs.py", "--dry-run", "-p", "n=5", "-o", "json"))
    assert document["schema"] == "graphflow.forecast/1"
    assert document["nodes"][0]["cached"] == 3
    assert len(json.loads(call("runs", "ls", "-o", "json"))) == 1
