"""Files of every version open, older ones are brought up to date, newer ones are refused."""

from __future__ import annotations

import importlib.util
import shutil
import sqlite3
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from graphflow.errors import HistoryError, HistoryTooNew
from graphflow.histories import migrating, schema
from graphflow.histories.databases import Database, build, version_of
from graphflow.histories.sqlite import SqliteHistory
from graphflow.model.records import Entry
from graphflow.testing.contracts.histories import ManualClock

STORED = Path(__file__).parents[2] / "data" / "histories"

_spec = importlib.util.spec_from_file_location("stored_histories", STORED / "make.py")
make = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make)


def opened(folder):
    return SqliteHistory(folder, key=make.KEY, clock=ManualClock(), lease_seconds=30.0)


def stored(tmp_path, version):
    return Path(shutil.copytree(STORED / version, tmp_path / "home"))


def columns(path):
    """The columns of each table of a file, and its indexes, in no order."""
    connection = sqlite3.connect(path)
    tables = {}
    for kind, name in connection.execute("SELECT type, name FROM sqlite_master").fetchall():
        rows = connection.execute(f"PRAGMA table_info({name})").fetchall()
        tables[kind, name] = {(row[1], row[2], row[5]) for row in rows}
    connection.close()
    return tables


def test_there_is_a_stored_file_of_each_version():
    assert schema.RUN.version == schema.CATALOG.version
    assert sorted(place.name for place in STORED.glob("v*")) == [
        f"v{n}" for n in range(schema.RUN.version + 1)
    ]
    for kind in (schema.RUN, schema.CATALOG):
        assert sorted(kind.steps) == list(range(kind.version))


@pytest.mark.parametrize("version", ["v0", "v1"])
def test_a_stored_file_opens(tmp_path, version):
    history = opened(stored(tmp_path, version))
    expected = [
        Entry(seq, place, 1, record) for seq in (1, 2, 3) for place, record in enumerate(make.records(seq))
    ]
    assert list(history.read(make.RUN)) == expected
    (found,) = history.runs()
    assert (found.id, found.name, found.state, found.epoch) == (make.RUN, "calm-otter", "Completed", 1)
    assert history.answer_of(1) == "no"
    assert history.verify(make.RUN) == []
    journal = history.take(make.RUN)
    assert journal.commit(make.records(4), state="Failed") == 4
    number = history.request(make.RUN, "pause", {})
    assert [request.id for request in journal.requests()] == [number]
    journal.close()
    assert history.find("@latest").state == "Failed"
    assert len(list(history.read(make.RUN))) == 8
    assert history.verify(make.RUN) == []
    history.close()


def test_an_older_file_is_copied_before_it_is_brought_up_to_date(tmp_path):
    home = stored(tmp_path, "v0")
    history = opened(home)
    assert len(list(history.read(make.RUN))) == 6
    history.runs()
    for path in (home / "catalog.db", home / "runs" / make.RUN / "run.db"):
        copy = path.with_name(f"{path.name}.v0")
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
        connection = sqlite3.connect(copy)
        assert connection.execute("SELECT value FROM meta WHERE name = 'schema'").fetchall() == [("0",)]
        connection.close()
    history.close()


def test_an_older_file_ends_up_as_a_new_one(tmp_path):
    home = stored(tmp_path, "v0")
    history = opened(home)
    history.head(make.RUN)
    history.runs()
    history.close()
    build(tmp_path / "run.db", schema.RUN, schema.RUN_WRITER_PRAGMAS)
    build(tmp_path / "catalog.db", schema.CATALOG, schema.CATALOG_PRAGMAS)
    assert columns(home / "catalog.db") == columns(tmp_path / "catalog.db")
    assert columns(home / "runs" / make.RUN / "run.db") == columns(tmp_path / "run.db")


def test_a_step_that_fails_leaves_the_older_file(tmp_path, monkeypatch):
    path = stored(tmp_path, "v0") / "runs" / make.RUN / "run.db"
    steps = {0: (*schema.RUN.steps[0], "ALTER TABLE nonsense ADD COLUMN x TEXT")}
    with pytest.raises(HistoryError):
        migrating.bring_up_to_date(path, replace(schema.RUN, steps=steps), pragmas=schema.RUN_WRITER_PRAGMAS)
    database = Database(path, writes=False)
    assert version_of(database, schema.RUN) == 0
    database.close()
    assert ("state", "TEXT", 0) not in columns(path)["table", "commits"]
    migrating.bring_up_to_date(path, schema.RUN, pragmas=schema.RUN_WRITER_PRAGMAS)
    assert ("state", "TEXT", 0) in columns(path)["table", "commits"]


@pytest.mark.parametrize("name", ["catalog.db", "run.db"])
def test_a_newer_file_is_refused_and_left_alone(tmp_path, name):
    home = stored(tmp_path, "v1")
    path = next(home.rglob(name))
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE meta SET value = '99' WHERE name = 'schema'")
    connection.close()
    content = path.read_bytes()
    history = opened(home)
    for call in (
        lambda: history.take(make.RUN),
        (lambda: list(history.read(make.RUN))) if name == "run.db" else history.runs,
    ):
        with pytest.raises(HistoryTooNew, match=rf"{name}.*schema 99.*[Uu]pgrade"):
            call()
    assert any("99" in text for text in history.verify(make.RUN))
    assert path.read_bytes() == content


def test_all_sql_stands_in_one_module():
    folder = Path(schema.__file__).parent
    words = ("SELECT ", "INSERT ", "UPDATE ", "DELETE FROM", "PRAGMA ", "CREATE TABLE")
    for path in folder.glob("*.py"):
        if path.name != "schema.py":
            text = path.read_text()
            assert not [word for word in words if f'"{word}' in text], path
