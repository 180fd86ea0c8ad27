"""Who reads a run and who drives it do not stand in each other's way."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading

import pytest

from graphflow.errors import RunNotFound
from graphflow.histories import opening
from graphflow.histories.sqlite import SqliteHistory
from graphflow.histories.volatile import VolatileHistory
from graphflow.model.records import Kind, Record, RunHeader

RUN = "01HZZZZZZZZZZZZZZZZZZZZZ01"


def run(name=RUN):
    return RunHeader(id=name, name="n", flow_name="f")


def test_a_reader_that_never_ends_does_not_hold_up_the_driver(tmp_path):
    history = SqliteHistory(tmp_path)
    journal = history.create(run())
    journal.commit([Record(Kind.LOG, 1.0, b"first")])
    folder = history.run_folder(RUN)
    # Somebody else's transaction, open all the time.
    reader = sqlite3.connect(f"file:{folder / 'run.db'}?mode=ro", uri=True, isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT COUNT(*) FROM record").fetchone() == (1,)
    # And one of ours that was begun and left.
    begun = history.read(RUN)
    assert next(begun).record.body == b"first"
    for seq in range(2, 1002):
        assert journal.commit([Record(Kind.ITEMS, 1.0, bytes(8000), place) for place in range(2)]) == seq
    assert reader.execute("SELECT COUNT(*) FROM record").fetchone() == (1,)
    # The log could not be emptied meanwhile.
    assert (folder / "run.db-wal").stat().st_size > 10_000_000
    assert sum(1 for _ in history.read(RUN)) == 2001
    reader.close()
    journal.commit([], state="Completed")
    journal.close()
    log = folder / "run.db-wal"
    assert not log.exists() or log.stat().st_size == 0
    assert history.verify(RUN) == []
    # What was begun ends where the run was when it began.
    assert list(begun) == []
    history.close()


def test_readers_and_the_driver_go_on_at_the_same_time(tmp_path):
    history = SqliteHistory(tmp_path)
    journal = history.create(run())
    stopped = threading.Event()
    seen = []
    errors = []

    def look():
        mine = SqliteHistory(tmp_path)
        last = 0
        try:
            while not stopped.is_set() or last < 200:
                entries = list(mine.read(RUN, after=last))
                if entries:
                    assert [entry.seq for entry in entries] == list(range(last + 1, entries[-1].seq + 1))
                    last = entries[-1].seq
                mine.find(RUN)
                assert mine.verify(RUN) == []
            seen.append(last)
        except BaseException as error:
            errors.append(error)
        finally:
            mine.close()

    threads = [threading.Thread(target=look) for _ in range(3)]
    renewer = threading.Thread(target=lambda: [journal.renew() for _ in range(20)])
    for thread in [*threads, renewer]:
        thread.start()
    for number in range(200):
        journal.commit([Record(Kind.ITEMS, 1.0, bytes(100))], state="Running" if number % 20 == 0 else None)
        journal.requests()
    stopped.set()
    for thread in [*threads, renewer]:
        thread.join(timeout=60)
    assert errors == []
    assert seen == [200, 200, 200]
    journal.close()
    history.close()


def test_requests_are_looked_for_in_the_catalog_only_when_somebody_wrote_there(tmp_path):
    history, outside = SqliteHistory(tmp_path), SqliteHistory(tmp_path)
    journal = history.create(run())
    looks = []
    real = journal._polls.waiting
    journal._polls.waiting = lambda *given: looks.append(given) or real(*given)
    for _ in range(10):
        assert journal.requests() == []
        journal.commit([Record(Kind.LOG, 1.0)])
    assert len(looks) == 1
    asked = [outside.request(RUN, "pause", {}), history.request(RUN, "resume", {})]
    for _ in range(10):
        assert [request.id for request in journal.requests()] == asked
    journal.answer(asked[0])
    assert [request.id for request in journal.requests()] == asked[1:]
    assert len(looks) <= 3
    journal.close()
    for each in (history, outside):
        each.close()


def test_looking_for_requests_waits_for_nobody(tmp_path):
    history = SqliteHistory(tmp_path)
    journal = history.create(run())
    asked = history.request(RUN, "pause", {})
    assert [request.id for request in journal.requests()] == [asked]
    other = sqlite3.connect(tmp_path / "catalog.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    other.execute("UPDATE request SET answer = 'x', answered = 1.0")
    # Without an end to wait for, this would take half a minute.
    for _ in range(10):
        assert [request.id for request in journal.requests()] == [asked]
    other.execute("COMMIT")
    other.close()
    assert journal.requests() == []
    journal.close()
    history.close()


def test_many_runs_are_listed_page_by_page(tmp_path):
    history = SqliteHistory(tmp_path)
    history.create(run("first")).close()
    catalog = history._open()
    with catalog.transaction():
        for number in range(250):
            state = "Failed" if number % 50 == 0 else "Completed"
            header = RunHeader(
                id=f"r{number:03d}", name="n", flow_name="f", state=state, created=1.0 + number // 2
            )
            catalog.add(header)
    ids = [found.id for found in history.runs()]
    assert ids == ["first", *(f"r{number:03d}" for number in range(249, -1, -1))]
    assert [found.id for found in history.runs(states=["Failed"])] == ["r200", "r150", "r100", "r050", "r000"]
    assert [found.id for found in history.runs(limit=2, before="r100")] == ["r099", "r098"]
    assert history.find("@latest").id == "first"
    history.close()


def test_damage_of_one_run_is_not_found_in_another(tmp_path):
    history = SqliteHistory(tmp_path)
    for name in ("one", "two"):
        journal = history.create(run(name))
        journal.commit([Record(Kind.LOG, 1.0, b"x" * 100)], state="Completed")
        journal.close()
    path = history.run_folder("two") / "run.db"
    path.write_bytes(path.read_bytes().replace(b"x" * 100, b"x" * 99 + b"y"))
    assert history.verify("one") == [] and len(history.verify("two")) == 1
    with pytest.raises(RunNotFound, match="no run"):
        history.verify("three")
    history.close()


def test_the_environment_says_where_histories_are(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAPHFLOW_HOME", str(tmp_path))
    monkeypatch.setenv("GRAPHFLOW_LEASE_SECONDS", "7")
    history = opening.open_history()
    assert isinstance(history, SqliteHistory)
    assert (history.folder, history.lease_seconds) == (tmp_path, 7.0)
    monkeypatch.setenv("GRAPHFLOW_HISTORY", "memory")
    history = opening.open_history()
    assert isinstance(history, VolatileHistory)
    assert opening.open_history() is history
    assert list(tmp_path.iterdir()) == []


def test_importing_graphflow_loads_no_sql():
    script = "import sys, graphflow, graphflow.authoring.flows; print([name for name in sys.modules if 'sqlite' in name])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_looking_makes_nothing(tmp_path):
    history = SqliteHistory(tmp_path / "home")
    assert history.runs() == []
    assert not (tmp_path / "home").exists()
