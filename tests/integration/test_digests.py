"""Runs that are read through their digests are what they are when all of their records are read."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import graphflow
from graphflow import Skip, flow, get_run_logger, task
from graphflow.common import failpoints
from graphflow.driver import durability
from graphflow.driver.digesting import Digests
from graphflow.errors import HistoryError
from graphflow.histories.sqlite import SqliteHistory
from graphflow.model.records import Kind
from graphflow.runs.documents import item_document, listed_document, run_document
from graphflow.runs.history import RunHistory
from graphflow.runs.recorded import RecordedRun


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Histories of this test alone, whose digests follow quickly."""
    monkeypatch.setenv("GRAPHFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(durability, "Digests", partial(Digests, every=7, least=3, share=1e9))
    return tmp_path / "home"


@task(retries=1, task_run_name="half of {x}")
def half(x: int) -> float:
    if x % 7 == 3:
        raise Skip("not today")
    if x % 5 == 2:
        raise ValueError(f"bad {x % 3}")
    get_run_logger().info("half of %d", x)
    return x / 2


@task
def plus(x: float) -> float:
    return x + 1


@task
def deeper(x: int) -> Any:
    return plus(x) if x % 2 else [x]


@task
def total(values: list[float]) -> int:
    return len(values)


@flow(backend="inline", log_prints=True)
def calculate(count: int = 40) -> int:
    print("on we go")
    halves = half.with_options(batch_size=3).map(range(count))
    grafted = deeper.with_options(batch_size=2).map(range(9))
    one = total(plus.map(halves))
    return len(grafted.result()) + int(one.result())


def _run(count: int = 40) -> str:
    calculate.run(count, run_id="run-1")
    return "run-1"


def _told(run: RecordedRun) -> dict[str, Any]:
    """Everything that commands show of a run."""
    return {
        "run": run_document(run),
        "items": {
            node.name: [item_document(item, details=True, values=True) for item in node.items]
            for node in run.nodes
        },
        "failures": {
            node.name: [item_document(item, details=True) for item in node.failures()] for node in run.nodes
        },
        "errors": {node.name: [*node.errors] for node in run.nodes},
        "states": {node.name: [(each.name, each.timestamp) for each in node.history] for node in run.nodes},
        "log": [*run.logs],
        "events": [str(each) for each in run.events],
        "damage": run.damage(),
    }


@pytest.fixture
def undigested(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Reads a run from all of its records."""

    def read(run_id: str) -> dict[str, Any]:
        with monkeypatch.context() as patched:
            patched.setattr(SqliteHistory, "digests", lambda self, run_id: iter(()))
            with graphflow.history() as history:
                run = history.run(run_id)
                assert run.replay.folded is None
                return _told(run)

    return read


@pytest.fixture
def history(home: Path) -> Iterator[RunHistory]:
    with graphflow.history() as found:
        yield found


def test_every_figure_is_what_all_records_tell(history, undigested):
    run = history.run(_run())
    told = _told(run)
    assert run.replay.folded is not None
    assert told["errors"]["half"] and told["log"] and told["damage"] == []
    assert told == undigested("run-1")


def test_a_run_that_was_resumed_and_redriven_is_told_as_it_is(history, undigested):
    _run()
    for again in (
        lambda: calculate.resume("run-1"),
        lambda: calculate.redrive("run-1", node="half", indices=[4, 5]),
    ):
        again()
        run = history.run("run-1")
        assert _told(run) == undigested("run-1")
        assert run.replay.folded is not None
    assert [launch.reason for launch in run.launches] == ["start", "resume", "retry"]


def _digests(home: Path) -> tuple[Path, list[tuple[int, bytes]]]:
    path = home / "runs" / "run-1" / "run.db"
    with sqlite3.connect(path) as database:
        rows = database.execute(
            "SELECT number, body FROM record WHERE kind = ?", (int(Kind.DIGEST),)
        ).fetchall()
    database.close()
    return path, rows


def _put(path: Path, column: str, number: int, value: Any) -> None:
    with sqlite3.connect(path) as database:
        database.execute(f"UPDATE record SET {column} = ? WHERE number = ?", (value, number))
    database.close()


def test_a_flipped_bit_in_a_digest_costs_a_replay_and_changes_no_figure(home, history, undigested):
    _run()
    expected = undigested("run-1")
    path, rows = _digests(home)
    rng = random.Random(3)
    assert len(rows) > 3
    for trial in range(40):
        number, body = rows[-1] if trial % 2 else rng.choice(rows)
        flipped = bytearray(body)
        flipped[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
        _put(path, "body", number, bytes(flipped))
        run = history.run("run-1")
        assert run_document(run) == expected["run"]
        assert history.verify("run-1") != []
        if not trial % 10:
            assert _told(run) == {**expected, "damage": []}
        _put(path, "body", number, body)
    assert history.verify("run-1") == []


def _without_unread_values(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Take what was expected of values that are said to be unreadable."""
    for name, items in found["items"].items():
        for place, item in enumerate(items):
            if item.pop("value_error", ""):
                item["value"] = expected["items"][name][place]["value"]


def test_what_a_digest_names_is_verified_too(home, history, undigested):
    _run(12)
    expected = undigested("run-1")
    path, _ = _digests(home)
    with sqlite3.connect(path) as database:
        rows = database.execute("SELECT number, kind, lo, body FROM record").fetchall()
    database.close()
    rng = random.Random(5)
    refused = 0
    for number, kind, lo, body in rng.sample([row for row in rows if row[1] != Kind.DIGEST], 25):
        before = {"body": body, "lo": lo, "kind": kind}
        column = rng.choice([*before])
        damaged = {"body": bytes([*body[:-1], body[-1] ^ 1]), "lo": lo + 1, "kind": 99}
        _put(path, column, number, damaged[column])
        try:
            found = _told(history.run("run-1"))
        except HistoryError:
            refused += 1
        else:
            # What was asked for did not need it, or it was found; it was never believed.
            _without_unread_values(found, expected)
            assert {**found, "damage": []} == {**expected, "damage": []}
        _put(path, column, number, before[column])
    assert refused > 5


def test_a_run_whose_digest_is_damaged_can_be_resumed_and_repaired(home, history):
    _run()
    path, rows = _digests(home)
    for number, body in rows:
        _put(path, "body", number, b"\x01" + bytes(len(body) - 1))
    calculate.resume("run-1")
    assert history.verify("run-1") != []
    told = history.repair("run-1")
    assert told["run-1"] and history.verify("run-1") == []
    run = history.run("run-1")
    assert run.replay.folded is None and run.nodes["half"].counts["Completed"] > 20
    assert not any("runs again" in each for each in told["run-1"])


@pytest.mark.parametrize("name", [each for each in failpoints.NAMES if each.startswith("digest.")])
@pytest.mark.parametrize("hit", [1, 3, 8])
def test_a_crash_around_a_digest_loses_nothing(name, hit, history, undigested):
    failpoints.activate(f"{name}:raise=OSError@{hit}")
    try:
        calculate.run(40, run_id="run-1")
    finally:
        failpoints.deactivate()
    assert _told(history.run("run-1")) == undigested("run-1")
    calculate.resume("run-1")
    run = history.run("run-1")
    assert _told(run) == undigested("run-1")
    assert run.nodes["half"].counts["Failed"] == 7 and run.state.name == "Failed"


def test_lists_know_what_the_history_tells(home, history):
    _run()
    (run,) = history.runs()
    assert run.summary is not None
    shown = {node.name: node for node in run.summary.nodes}
    for node in run.nodes:
        if not node.is_builtin:
            assert dict(shown[node.name].counts) == dict(node.counts)
            assert shown[node.name].width == (node.width if node.is_mapped else 1)
    assert run.summary.message == run.state.message and run.summary.failures[0].startswith(
        "half: ValueError: bad "
    )
    assert listed_document(run)["counts"] == dict(run.summary.counts)


def test_a_changed_summary_is_not_believed(home, history):
    _run(12)
    with sqlite3.connect(home / "catalog.db") as database:
        database.execute("UPDATE summary SET body = replace(body, 'Completed', 'Cached')")
    database.close()
    assert history.run("run-1").summary is None


def test_a_run_that_goes_on_is_read_on_from_where_it_was(history, undigested):
    run_id = _run(12)
    early = history.run(run_id)
    before = early.nodes["half"].counts
    calculate.redrive(run_id, node="half", indices=[1])
    early.refresh()
    assert _told(early) == undigested(run_id)
    assert early.nodes["half"].counts == before and len(early.launches) == 2
