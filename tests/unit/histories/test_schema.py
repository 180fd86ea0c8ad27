"""Stored files of this version open as they are; those of other versions are refused."""

from __future__ import annotations

import importlib.util
import shutil
import sqlite3
from pathlib import Path

import pytest

from graphflow.errors import HistoryTooNew, HistoryTooOld
from graphflow.histories import schema
from graphflow.histories.catalogs import SqliteCatalog
from graphflow.histories.sqlite import SqliteHistory
from graphflow.model.records import Entry, RunHeader
from graphflow.testing.contracts.histories import ManualClock

STORED = Path(__file__).parents[2] / "data" / "histories"

_spec = importlib.util.spec_from_file_location("stored_histories", STORED / "make.py")
make = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make)


def opened(folder):
    return SqliteHistory(folder, key=make.KEY, clock=ManualClock(), lease_seconds=30.0)


def stored(tmp_path):
    return Path(shutil.copytree(STORED / f"v{schema.RUN.version}", tmp_path / "home"))


def test_a_stored_file_opens(tmp_path):
    history = opened(stored(tmp_path))
    expected = [
        Entry(seq, place, 1, record, 2 * (seq - 1) + place + 1)
        for seq in (1, 2, 3)
        for place, record in enumerate(make.records(seq))
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


@pytest.mark.parametrize("name", ["catalog.db", "run.db"])
@pytest.mark.parametrize(
    ("version", "error", "what_to_do"),
    [
        (99, HistoryTooNew, "schema 99.*Upgrade graphflow"),
        (0, HistoryTooOld, "schema 0,.*older graphflow; this one reads schema 1 .*Move .*away"),
    ],
    ids=["newer", "older"],
)
def test_a_file_of_another_version_is_refused_and_left_alone(tmp_path, name, version, error, what_to_do):
    home = stored(tmp_path)
    path = next(home.rglob(name))
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE meta SET value = ? WHERE name = 'schema'", (str(version),))
    connection.close()
    content = path.read_bytes()
    history = opened(home)
    for call in (
        lambda: history.take(make.RUN),
        (lambda: list(history.read(make.RUN))) if name == "run.db" else history.runs,
    ):
        with pytest.raises(error, match=rf"{name}.*{what_to_do}"):
            call()
    assert any(f"schema {version}" in text for text in history.verify(make.RUN))
    assert path.read_bytes() == content


def test_all_sql_stands_in_three_modules():
    folder = Path(schema.__file__).parent
    words = ("SELECT ", "INSERT ", "UPDATE ", "DELETE FROM", "PRAGMA ", "CREATE TABLE")
    for path in folder.glob("*.py"):
        if path.name not in ("schema.py", "statements.py", "tables.py"):
            text = path.read_text()
            assert not [word for word in words if f'"{word}' in text], path


def test_a_catalog_of_version_1_is_migrated_when_it_is_first_written_and_not_by_readers(tmp_path):
    home = stored(tmp_path)
    catalog = SqliteCatalog(home, creates=False)
    ((found, _),) = catalog.runs()
    assert (found.id, found.plan.deployment, found.work) == (make.RUN, "", None)
    assert [*catalog.runs(hidden=[found.state])] == [*catalog.runs(deployment="a/b")] == []
    assert [*catalog.runs(tag="x")] == [] != [*catalog.runs(hidden=["Odd"])]
    connection = sqlite3.connect(home / "catalog.db")
    assert connection.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone() == ("1",)
    connection.close()
    opened(home).take(make.RUN).close()
    assert next(catalog.runs())[0].state == "Completed"
    catalog.close()
    connection = sqlite3.connect(home / "catalog.db")
    assert connection.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone() == ("2",)
    assert connection.execute("SELECT COUNT(*) FROM work").fetchone() == (0,)
    connection.close()


def test_a_migrated_catalog_has_the_tables_of_a_new_one(tmp_path):
    def tables(path):
        connection = sqlite3.connect(path)
        found = connection.execute("SELECT name, type FROM sqlite_master ORDER BY name").fetchall()
        columns = [
            sorted(connection.execute(f"SELECT name FROM pragma_table_info('{name}')")) for name, _ in found
        ]
        connection.close()
        return found, columns

    home = stored(tmp_path)
    opened(home).take(make.RUN).close()
    new = SqliteHistory(tmp_path / "new", key=make.KEY)
    new.create(RunHeader(id="one", name="calm-otter", flow_name="crawl")).close()
    assert tables(home / "catalog.db") == tables(tmp_path / "new" / "catalog.db")
