"""Damaged histories: whatever is changed is found, and is never given as if it had been written so."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3

import pytest

from graphflow.errors import HistoryDamaged, HistoryError, RunNotFound
from graphflow.histories.adopting import sweep
from graphflow.histories.sqlite import SqliteHistory
from graphflow.model.records import Kind, Record, RunHeader

RUN = "01HZZZZZZZZZZZZZZZZZZZZZ01"
FLIPS = 1000


class Written:
    """A history that was written, and what it said."""

    def __init__(self, home, *, is_closed, commits=24):
        self.home = home
        self.history = SqliteHistory(home)
        journal = self.history.create(RunHeader(id=RUN, name="calm-otter", flow_name="crawl"))
        for seq in range(commits):
            records = [Record(Kind.ITEMS, seq + 0.25, bytes([seq]) * 300, seq % 3, seq, 1)]
            records += [Record(Kind.LOG, seq + 0.5, b"%d" % place, 7) for place in range(3)]
            journal.commit(records, state="Running" if seq == 0 else None)
        self.entries = list(self.history.read(RUN))
        if is_closed:
            journal.commit([], state="Completed")
            journal.close()
            self.head = commits + 1
        else:
            journal.abandon()
            self.head = commits
        self.folder = self.history.run_folder(RUN)

    def copied(self, home):
        """The same in a folder where nobody has it open."""
        shutil.copytree(self.home, home, ignore=shutil.ignore_patterns("*-shm"))
        self.home, self.history = home, SqliteHistory(home)
        self.folder = self.history.run_folder(RUN)
        return self

    def put(self, name, content):
        """Change a file behind the back of everybody."""
        (self.folder / f"{name}.tmp").write_bytes(content)
        os.replace(self.folder / f"{name}.tmp", self.folder / name)
        (self.folder / "run.db-shm").unlink(missing_ok=True)

    def believed(self, only=None):
        """How often something was given that differs from what was written."""
        wrong = 0
        looks = (((), None), ((Kind.ITEMS,), None), ((), 7), ((Kind.STATE,), None))
        for kinds, node in looks if only is None else [looks[only % len(looks)]]:
            expected = [
                entry
                for entry in self.entries
                if (not kinds or entry.record.kind in kinds) and (node is None or entry.record.node == node)
            ]
            given = []
            try:
                given.extend(self.history.read(RUN, kinds=kinds, node=node))
            except HistoryError:
                # What came before the damage was given already, and was verified.
                wrong += given != expected[: len(given)]
            else:
                wrong += given != expected
        return wrong


def flipped(content, generator):
    place = generator.randrange(len(content))
    return content[:place] + bytes([content[place] ^ (1 << generator.randrange(8))]) + content[place + 1 :]


@pytest.mark.slow
def test_a_flipped_bit_of_the_file_is_found_or_harmless(tmp_path):
    written = Written(tmp_path / "made", is_closed=True).copied(tmp_path / "home")
    content = (written.folder / "run.db").read_bytes()
    generator = random.Random(1)
    found = 0
    for turn in range(FLIPS):
        written.put("run.db", flipped(content, generator))
        assert written.believed(turn) == 0
        wrong = written.history.verify(RUN)
        found += bool(wrong)
        if not wrong:
            assert list(written.history.read(RUN)) == written.entries
    # The others fell on bytes that nothing is kept in.
    assert found > FLIPS / 3
    written.put("run.db", content)
    assert written.history.verify(RUN) == []


@pytest.mark.slow
def test_a_flipped_bit_of_the_log_is_found_or_harmless(tmp_path):
    written = Written(tmp_path / "made", is_closed=False).copied(tmp_path / "home")
    content = (written.folder / "run.db-wal").read_bytes()
    assert len(content) > 24 * 4096
    generator = random.Random(2)
    found = 0
    for turn in range(FLIPS):
        written.put("run.db-wal", flipped(content, generator))
        assert written.believed(turn) == 0
        found += bool(written.history.verify(RUN))
    assert found > FLIPS * 0.9
    written.put("run.db-wal", content)
    assert written.history.verify(RUN) == []
    assert written.believed() == 0


@pytest.mark.parametrize("name", ["run.db", "run.db-wal"])
def test_a_file_that_was_cut_short_is_found(tmp_path, name):
    written = Written(tmp_path / "made", is_closed=name == "run.db").copied(tmp_path / "home")
    content = (written.folder / name).read_bytes()
    for size in {0, 1, 100, 4096, len(content) // 2, len(content) - 4096, len(content) - 1}:
        written.put(name, content[:size])
        assert written.believed() == 0
        assert written.history.verify(RUN) != []
        with pytest.raises(HistoryDamaged):
            list(written.history.read(RUN))
        with pytest.raises(HistoryDamaged):
            written.history.take(RUN)
        assert (written.folder / name).read_bytes() == content[:size]


def test_a_log_that_was_deleted_is_found(tmp_path):
    written = Written(tmp_path / "made", is_closed=False).copied(tmp_path / "home")
    (written.folder / "run.db-wal").unlink()
    with pytest.raises(HistoryDamaged):
        list(written.history.read(RUN))
    assert written.history.verify(RUN) != []


def test_an_older_copy_in_place_of_the_file_is_found(tmp_path):
    history = SqliteHistory(tmp_path)
    journal = history.create(RunHeader(id=RUN, name="n", flow_name="f"))
    journal.commit([Record(Kind.LOG, 1.0, b"one")])
    journal.close()
    path = history.run_folder(RUN) / "run.db"
    older = path.read_bytes()
    journal = history.take(RUN)
    journal.commit([Record(Kind.LOG, 1.0, b"two")])
    journal.close()
    path.write_bytes(older)
    with pytest.raises(HistoryDamaged, match="its end was lost"):
        list(history.read(RUN))
    with pytest.raises(HistoryDamaged, match="its end was lost"):
        history.take(RUN)
    assert path.read_bytes() == older


def test_a_row_that_was_changed_with_sql_is_found(tmp_path):
    written = Written(tmp_path / "home", is_closed=True)
    path = written.folder / "run.db"
    content = path.read_bytes()
    for statement in (
        "UPDATE record SET body = x'00' WHERE number = 9",
        "UPDATE record SET kind = 3 WHERE number = 9",
        "UPDATE record SET lo = lo + 1 WHERE number = 9",
        "UPDATE record SET at = NULL || 'x' WHERE 0",
        "DELETE FROM record WHERE number = 9",
        "DELETE FROM record WHERE number = (SELECT MAX(number) FROM record)",
        "DELETE FROM commits WHERE seq = 4",
        "UPDATE commits SET state = 'Failed' WHERE seq = 1",
        "UPDATE commits SET epoch = 2 WHERE seq = 1",
        "UPDATE commits SET mac = x'00112233445566778899aabbccddeeff' WHERE seq = 4",
        "UPDATE run SET seq = seq - 1",
        "UPDATE run SET head = (SELECT mac FROM commits WHERE seq = 24), seq = 24",
        "UPDATE run SET name = 'other'",
        "DELETE FROM run",
        "DROP TABLE record",
        "INSERT INTO commits SELECT seq + 1, epoch, at, first, count, state, mac FROM commits WHERE seq = 25",
    ):
        connection = sqlite3.connect(path)
        with connection:
            connection.execute(statement)
        connection.close()
        is_changed = path.read_bytes() != content
        assert written.believed() == 0, statement
        assert bool(written.history.verify(RUN)) == (is_changed and "WHERE 0" not in statement), statement
        for leftover in ("run.db-wal", "run.db-shm"):
            (written.folder / leftover).unlink(missing_ok=True)
        path.write_bytes(content)


def test_all_that_is_wrong_is_told_and_not_the_first_alone(tmp_path):
    written = Written(tmp_path / "home", is_closed=True)
    connection = sqlite3.connect(written.folder / "run.db")
    with connection:
        connection.execute("UPDATE record SET body = x'00' WHERE seq IN (3, 17)")
    connection.close()
    wrong = written.history.verify(RUN)
    assert len(wrong) == 2
    assert "commit 3 " in wrong[0] and "commit 17 " in wrong[1]


@pytest.mark.parametrize("content", [b"", b"# a note of mine\n" * 1000, b"SQLite format 3\0" + bytes(8000)])
def test_a_foreign_file_is_refused_and_left_alone(tmp_path, content):
    written = Written(tmp_path / "home", is_closed=True)
    path = written.folder / "run.db"
    path.write_bytes(content)
    calls = [
        lambda: list(written.history.read(RUN)),
        lambda: written.history.take(RUN),
        lambda: written.history.head(RUN),
    ]
    for call in calls:
        with pytest.raises(HistoryDamaged, match=r"run\.db.*was not changed"):
            call()
    assert written.history.verify(RUN) != []
    assert path.read_bytes() == content
    with pytest.raises(HistoryError, match="already"):
        written.history.create(RunHeader(id=RUN, name="n", flow_name="f"))
    assert path.read_bytes() == content


def test_another_programs_database_is_refused_and_left_alone(tmp_path):
    written = Written(tmp_path / "home", is_closed=True)
    path = written.folder / "run.db"
    path.unlink()
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    connection.close()
    content = path.read_bytes()
    with pytest.raises(HistoryDamaged, match="not a graphflow run"):
        list(written.history.read(RUN))
    with pytest.raises(HistoryDamaged, match="not a graphflow run"):
        written.history.take(RUN)
    assert path.read_bytes() == content


def test_a_damaged_catalog_is_refused_and_left_alone(tmp_path):
    written = Written(tmp_path / "home", is_closed=True)
    written.history.close()
    path = tmp_path / "home" / "catalog.db"
    for content in (b"", b"nothing of the kind" * 500):
        path.write_bytes(content)
        history = SqliteHistory(tmp_path / "home")
        for call in (
            history.runs,
            lambda history=history: history.take(RUN),
            lambda history=history: history.create(RunHeader(id="other", name="n", flow_name="f")),
        ):
            with pytest.raises(HistoryDamaged, match=r"catalog\.db"):
                call()
        assert history.verify(RUN) != []
        assert path.read_bytes() == content
        # What is in the run's own file can still be read.
        assert list(history.read(RUN)) == written.entries


def test_a_run_whose_file_is_gone_says_so(tmp_path):
    written = Written(tmp_path / "home", is_closed=True)
    shutil.rmtree(written.folder)
    with pytest.raises(HistoryDamaged, match="gone"):
        list(written.history.read(RUN))
    with pytest.raises(HistoryDamaged, match="gone"):
        written.history.take(RUN)
    assert written.history.verify(RUN) != []
    written.history.remove(RUN)
    with pytest.raises(RunNotFound):
        written.history.find(RUN)


def test_a_run_that_the_catalog_forgot_is_told_and_never_overwritten(tmp_path):
    written = Written(tmp_path / "home", is_closed=True)
    written.history.close()
    (tmp_path / "home" / "catalog.db").unlink()
    history = SqliteHistory(tmp_path / "home")
    with pytest.raises(HistoryError, match="history of a run that is not in"):
        history.create(RunHeader(id=RUN, name="n", flow_name="f"))
    assert list(history.read(RUN)) == written.entries
    assert any("catalog" in text for text in history.verify(RUN))
    assert history.adopt() == ([RUN], [])
    assert history.adopt() == ([], [])
    found = history.find("calm-otter")
    assert (found.id, found.state, found.flow_name, found.epoch) == (RUN, "Completed", "crawl", 1)
    assert history.verify(RUN) == []
    journal = history.take(RUN)
    assert journal.epoch == 2
    journal.close()
    history.close()


def test_a_catalog_that_says_something_else_than_the_run_is_told(tmp_path):
    written = Written(tmp_path / "home", is_closed=True)
    for column, value in (
        ("name", "other"),
        ("flow_name", "x"),
        ("state", "Failed"),
        ("created", 1.5),
        ("epoch", 0),
    ):
        connection = sqlite3.connect(tmp_path / "home" / "catalog.db")
        ((before,),) = connection.execute(f"SELECT {column} FROM run").fetchall()
        with connection:
            connection.execute(f"UPDATE run SET {column} = ?", (value,))
        (wrong,) = written.history.verify(RUN)
        assert "the catalog" in wrong
        with connection:
            connection.execute(f"UPDATE run SET {column} = ?", (before,))
        connection.close()
    assert written.history.verify(RUN) == []


def changed(home, statement, *values):
    connection = sqlite3.connect(home / "catalog.db")
    with connection:
        connection.execute(statement, values)
    connection.close()


def test_what_the_catalog_says_is_shown_only_as_the_history_has_it(tmp_path):
    written = Written(tmp_path / "home", is_closed=True)
    home, history = tmp_path / "home", written.history
    (true,) = history.runs()
    for column, value in (
        ("name", "nightly"),
        ("flow_name", "billing"),
        ("state", "Failed"),
        ("created", 1.5),
        ("started", 2.5),
        ("ended", 1e12),
        ("host", "elsewhere"),
        ("pid", 1),
    ):
        changed(home, f"UPDATE run SET {column} = ?", value)
        (shown,) = history.runs()
        assert (shown.name, shown.flow_name, shown.state) == ("calm-otter", "crawl", "Completed"), column
        assert (shown.created, shown.ended) == (true.created, true.ended) and shown.is_verified
        # It is sealed again, and found by what it is.
        assert history.find("calm-otter").id == RUN and history.verify(RUN) == []
    changed(home, "UPDATE run SET name = 'nightly', flow_name = 'billing'")
    with pytest.raises(RunNotFound):
        history.find("nightly")
    changed(home, "UPDATE run SET name = 'nightly', flow_name = 'billing'")
    assert history.runs(flow_name="billing") == []
    # A list by state is of what the catalog says, and then checked.
    changed(home, "UPDATE run SET state = 'Failed'")
    assert history.runs(states=["Completed"]) == history.runs(states=["Failed"]) == []
    assert [run.state for run in history.runs(states=["Completed"])] == ["Completed"]
    # Another driver does not seal what somebody changed.
    changed(home, "UPDATE run SET name = 'nightly'")
    journal = history.take(RUN)
    journal.commit([], state="Running")
    assert [run.name for run in SqliteHistory(home).runs()] == ["calm-otter"]
    journal.commit([], state="Failed")
    journal.close()
    assert [(run.name, run.state) for run in history.runs()] == [("calm-otter", "Failed")]


def test_rows_of_an_older_catalog_are_read_from_the_history_once_and_sealed(tmp_path):
    written = Written(tmp_path / "home", is_closed=True)
    written.history.close()
    changed(tmp_path / "home", "ALTER TABLE run DROP COLUMN mac")
    history = SqliteHistory(tmp_path / "home")
    assert [run.name for run in history.runs()] == ["calm-otter"]
    history.close()
    (written.folder / "run.db").rename(written.folder / "away")
    # Nothing but the row is read now.
    assert [run.name for run in SqliteHistory(tmp_path / "home").runs()] == ["calm-otter"]
    changed(tmp_path / "home", "UPDATE run SET name = 'nightly'")
    (shown,) = SqliteHistory(tmp_path / "home").runs()
    assert (shown.name, shown.flow_name, shown.is_verified) == ("?", "?", False)


def test_runs_that_cannot_be_read_are_not_adopted(tmp_path):
    written = Written(tmp_path / "home", is_closed=True)
    other = written.history.create(RunHeader(id="other", name="n", flow_name="f"))
    other.commit([], state="Running")
    other.abandon()
    written.history.close()
    (tmp_path / "home" / "catalog.db").unlink()
    written.put("run.db", b"nothing of the kind" * 500)
    leftover = tmp_path / "home" / "runs" / ".removed-x-1"
    leftover.mkdir()
    history = SqliteHistory(tmp_path / "home")
    adopted, (wrong,) = history.adopt()
    assert adopted == ["other"] and "run.db" in wrong
    assert [(run.id, run.state) for run in history.runs()] == [("other", "Crashed")]
    # What nobody finished goes, once it is old.
    assert sweep(tmp_path / "home") == 0
    os.utime(leftover, (1.0, 1.0))
    assert sweep(tmp_path / "home") == 1
    assert sorted(place.name for place in (tmp_path / "home" / "runs").iterdir()) == [RUN, "other"]
    history.close()


def test_another_key_is_told_from_damage(tmp_path):
    written = Written(tmp_path / "home", is_closed=True)
    (tmp_path / "home" / "secret.key").write_bytes(bytes(32))
    history = SqliteHistory(tmp_path / "home")
    with pytest.raises(HistoryDamaged, match="another key"):
        list(history.read(RUN))
    with pytest.raises(HistoryDamaged, match="another key"):
        history.take(RUN)
    assert len(written.entries) == 96


def test_a_run_in_the_folder_of_another_is_refused(tmp_path):
    written = Written(tmp_path / "home", is_closed=True)
    other = written.history.create(RunHeader(id="other", name="n", flow_name="f"))
    other.close()
    shutil.copy(written.folder / "run.db", written.history.run_folder("other") / "run.db")
    with pytest.raises(HistoryDamaged, match=RUN):
        list(written.history.read("other"))


def test_a_damaged_anchor_is_told_and_harms_nothing(tmp_path):
    written = Written(tmp_path / "home", is_closed=True)
    content = (written.folder / "anchor").read_bytes()
    generator = random.Random(3)
    for _ in range(50):
        written.put("anchor", flipped(content, generator))
        assert written.believed() == 0
        assert list(written.history.read(RUN)) == written.entries
    for other in (b"", content[:70], bytes(128)):
        written.put("anchor", other)
        assert list(written.history.read(RUN)) == written.entries
    (written.folder / "anchor").unlink()
    assert any("anchor" in text for text in written.history.verify(RUN))
    written.history.take(RUN).close()
    assert written.history.verify(RUN) == []
