"""Disks that are full, read-only or locked: a clear error, nothing half written, and on it goes when there is room."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import textwrap

import pytest

from graphflow.errors import GraphflowError, HistoryDamaged, HistoryError, HistoryLocked
from graphflow.histories import databases
from graphflow.histories.sqlite import SqliteHistory
from graphflow.model.records import Kind, Record, RunHeader
from graphflow.testing.faults.processes import Script

RUN = "01HZZZZZZZZZZZZZZZZZZZZZ01"


def run(name=RUN):
    return RunHeader(id=name, name="n", flow_name="f")


FULL = """
    import resource, signal, sys
    from graphflow.errors import HistoryDamaged, HistoryError
    from graphflow.histories.sqlite import SqliteHistory
    from graphflow.model.records import Kind, Record, RunHeader
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    history = SqliteHistory(sys.argv[1])
    name = sys.argv[2]
    journal = history.create(RunHeader(id=name, name="n", flow_name="f"))
    journal.commit([], state="Running")
    written = 1
    for limit in (300_000, 700_000, 1_500_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        errors = 0
        while errors < 3:
            try:
                # Of different sizes, so that it breaks at different places.
                size = 500 + 997 * (written % 13)
                seq = journal.commit([Record(Kind.LOG, 1.0, bytes(size), place) for place in range(4)])
            except HistoryError as error:
                assert not isinstance(error, HistoryDamaged), error
                assert "run.db" in str(error) and "full" in str(error), error
                errors += 1
            else:
                written += 1
                assert seq == written, (seq, written)
        # Readers are not harmed.
        assert history.head(name) == written
        assert sum(1 for _ in history.read(name)) == 4 * (written - 1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert journal.commit([], state="Completed") == written + 1
    journal.close()
    assert history.verify(name) == []
    print(written, history.find(name).state)
"""


def test_a_full_disk_loses_nothing_that_was_written(tmp_path):
    script = Script(FULL, tmp_path, RUN)
    (line,) = script.end() or [script.errors]
    written, state = line.split()
    assert int(written) > 30 and state == "Completed"
    history = SqliteHistory(tmp_path)
    assert history.verify(RUN) == []
    history.close()


NO_ROOM = """
    import os, resource, signal, sys
    from graphflow.errors import HistoryError
    from graphflow.histories.sqlite import SqliteHistory
    from graphflow.model.records import RunHeader
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    history = SqliteHistory(sys.argv[1])
    history.create(RunHeader(id="other", name="n", flow_name="f")).close()
    for limit in (0, 100, 5_000, 10_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            history.create(RunHeader(id=sys.argv[2], name="n", flow_name="f"))
        except HistoryError as error:
            assert "full" in str(error) or "cannot be" in str(error), error
        else:
            raise AssertionError("made without room")
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert [run.id for run in history.runs()] == ["other"]
    assert os.listdir(os.path.join(sys.argv[1], "runs")) == ["other"]
    history.create(RunHeader(id=sys.argv[2], name="n", flow_name="f")).close()
    assert history.verify(sys.argv[2]) == []
    print("made")
"""


def test_a_run_that_finds_no_room_to_begin_leaves_nothing(tmp_path):
    script = Script(NO_ROOM, tmp_path, RUN)
    assert (script.end(), script.errors) == (["made"], "")


CATALOG_FULL = """
    import resource, signal, sys
    from graphflow.histories.sqlite import SqliteHistory
    from graphflow.model.records import Kind, Record, RunHeader
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    history = SqliteHistory(sys.argv[1])
    journal = history.create(RunHeader(id=sys.argv[2], name="n", flow_name="f"))
    real = journal._catalog.set_state
    def fails(*arguments, **named):
        # The journal of a transaction on the catalog has no room.
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
        try:
            return real(*arguments, **named)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    journal._catalog.set_state = fails
    assert journal.commit([Record(Kind.LOG, 1.0)], state="Running") == 1
    assert history.find(sys.argv[2]).state == "Pending"
    journal._catalog.set_state = real
    assert journal.commit([Record(Kind.LOG, 1.0)]) == 2
    assert history.find(sys.argv[2]).state == "Running"
    journal._catalog.set_state = fails
    assert journal.commit([Record(Kind.LOG, 1.0)], state="Completed") == 3
    print("written")
"""


def test_a_commit_counts_though_the_catalog_could_not_be_told(tmp_path):
    script = Script(CATALOG_FULL, tmp_path, RUN)
    lines = script.end()
    assert lines == ["written"], script.errors
    assert "could not be written to the catalog" in script.errors
    # The state that the run's own file has is found by whoever sees that its driver is gone.
    history = SqliteHistory(tmp_path)
    assert history.find(RUN).state == "Completed"
    assert history.verify(RUN) == []
    history.close()


def test_a_place_that_cannot_be_made_is_named_before_anything_is_done(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    history = SqliteHistory(tmp_path / "file" / "home", key=bytes(32))
    with pytest.raises(HistoryError, match=r"file/home.*GRAPHFLOW_HOME"):
        history.create(run())
    with pytest.raises(GraphflowError):
        history.take(RUN)
    with pytest.raises(HistoryError, match="cannot be read.*GRAPHFLOW_HOME"):
        history.runs()
    assert (tmp_path / "file").read_text() == "not a folder"


@pytest.fixture
def read_only(monkeypatch):
    """Files are opened as on a read-only disk, once `start` was called."""
    real = sqlite3.connect

    def connect(place, **named):
        return real(str(place).replace("mode=rw", "mode=ro"), **named)

    class Disk:
        def start(self):
            monkeypatch.setattr(databases.sqlite3, "connect", connect)

        def stop(self):
            monkeypatch.setattr(databases.sqlite3, "connect", real)

    return Disk()


def test_a_read_only_disk_is_named_and_can_be_read(tmp_path, read_only):
    SqliteHistory(tmp_path).create(run("crashed")).abandon()
    journal = SqliteHistory(tmp_path).create(run())
    journal.commit([Record(Kind.LOG, 1.0, b"x")], state="Completed")
    journal.close()
    read_only.start()
    history = SqliteHistory(tmp_path)
    for call in (
        lambda: history.take(RUN),
        lambda: history.remove(RUN),
        lambda: history.create(run("new")),
    ):
        with pytest.raises(HistoryError, match="read-only"):
            call()
    # That a driver is gone is seen, though it cannot be written down.
    assert {found.id: found.state for found in history.runs()} == {RUN: "Completed", "crashed": "Crashed"}
    assert [entry.record.body for entry in history.read(RUN)] == [b"x"]
    assert history.verify(RUN) == []
    history.close()
    read_only.stop()
    assert SqliteHistory(tmp_path).take(RUN).epoch == 2


LOOK = """
    import sys
    from graphflow.errors import HistoryError
    from graphflow.histories.sqlite import SqliteHistory
    from graphflow.model.records import RunHeader
    history = SqliteHistory(sys.argv[1])
    assert {run.id: run.state for run in history.runs()} == {"done": "Completed", "crashed": "Crashed"}
    for name in ("done", "crashed"):
        assert [entry.record.body for entry in history.read(name)] == [name.encode()]
        assert history.verify(name) == []
        for call in (history.take, history.remove, lambda name: history.create(RunHeader(id="x", name="n", flow_name="f"))):
            try:
                call(name)
            except HistoryError as error:
                assert "ead-only" in str(error), error
            else:
                raise AssertionError("written on a read-only disk")
    print("looked")
"""


def can_mount():
    return (
        bool(os.geteuid() == 0 and shutil.which("unshare"))
        and not subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode
    )


@pytest.mark.skipif(not can_mount(), reason="a read-only mount needs root")
def test_a_mounted_read_only_disk_can_be_read(tmp_path):
    home = tmp_path / "home"
    history = SqliteHistory(home)
    for name in ("done", "crashed"):
        journal = history.create(run(name))
        journal.commit(
            [Record(Kind.LOG, 1.0, name.encode())], state="Completed" if name == "done" else "Running"
        )
        if name == "done":
            journal.close()
        else:
            journal.abandon()
    history.close()
    mounts = f"mount --bind {home} {home} && mount -o remount,ro,bind {home}"
    done = subprocess.run(
        [
            "unshare",
            "-m",
            "sh",
            "-c",
            f'{mounts} && exec "$@"',
            "sh",
            sys.executable,
            "-c",
            textwrap.dedent(LOOK),
            home,
        ],
        capture_output=True,
        text=True,
    )
    assert done.stderr == "" and done.stdout == "looked\n"


def test_a_disk_that_becomes_read_only_while_a_run_goes_on(tmp_path):
    history = SqliteHistory(tmp_path)
    journal = history.create(run())
    assert journal.commit([Record(Kind.LOG, 1.0)]) == 1
    connection = journal._writer._database.connection
    connection.execute("PRAGMA query_only = 1")
    with pytest.raises(HistoryError, match="read-only") as caught:
        journal.commit([Record(Kind.LOG, 1.0)], state="Failed")
    assert not isinstance(caught.value, HistoryDamaged)
    connection.execute("PRAGMA query_only = 0")
    assert journal.commit([Record(Kind.LOG, 1.0)], state="Running") == 2
    journal.close()
    assert history.verify(RUN) == []
    history.close()


@pytest.mark.parametrize("name", ["run.db", "catalog.db"])
def test_a_lock_that_never_opens_is_an_error_and_no_damage(tmp_path, monkeypatch, name):
    monkeypatch.setattr(databases, "BUSY_SECONDS", 0.01)
    monkeypatch.setattr(databases, "PATIENCE_SECONDS", 0.05)
    history = SqliteHistory(tmp_path)
    journal = history.create(run())
    journal.commit([Record(Kind.LOG, 1.0)])
    path = next(tmp_path.rglob(name))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(HistoryLocked, match=rf"{name}.*locked"):
        journal.commit([Record(Kind.LOG, 1.0)]) if name == "run.db" else journal.renew()
    # Readers do not mind.
    assert len(list(history.read(RUN))) == 1
    assert history.find(RUN).lease is not None
    other.execute("ROLLBACK")
    other.close()
    assert journal.commit([Record(Kind.LOG, 1.0)]) == 2
    journal.renew()
    journal.close()
    assert history.verify(RUN) == []
    history.close()


def test_files_are_for_their_owner_alone(tmp_path):
    home = tmp_path / "home"
    history = SqliteHistory(home)
    journal = history.create(run())
    journal.commit([Record(Kind.LOG, 1.0)], state="Running")
    for place in [home, *home.rglob("*")]:
        assert place.stat().st_mode & 0o077 == 0, place
    journal.close()
    history.close()


def test_a_run_whose_folder_was_taken_away_is_told_when_its_lease_is_renewed(tmp_path):
    history = SqliteHistory(tmp_path)
    journal = history.create(run())
    (tmp_path / "runs" / RUN).rename(tmp_path / "runs" / "away")
    with pytest.raises(HistoryError, match="gone"):
        journal.renew()
    (tmp_path / "runs" / "away").rename(tmp_path / "runs" / RUN)
    journal.renew()
    journal.close()
    history.close()
