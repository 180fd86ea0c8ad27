"""Processes take turns to write the catalog; a turn that somebody keeps holds nobody up for long."""

from __future__ import annotations

import os
import signal

from graphflow.histories.catalogs import TURN_FILE, SqliteCatalog
from graphflow.histories.turns import turn


def test_a_turn_that_is_kept_is_passed_over(tmp_path) -> None:
    catalog = SqliteCatalog(tmp_path, creates=True, patience=0.05)
    with turn(tmp_path / TURN_FILE, 0.0), catalog.transaction():
        catalog.execute("INSERT INTO setting (name, value) VALUES ('a', '1')")
    assert catalog.rows("SELECT value FROM setting WHERE name = 'a'") == [("1",)]
    catalog.close()


def test_a_turn_ends_with_its_holder_also_where_it_was_forked_meanwhile(tmp_path) -> None:
    path = tmp_path / "turn"
    read, write = os.pipe()
    with turn(path, 0.0):
        child = os.fork()
        if child == 0:
            os.read(read, 1)
            os._exit(0)
    taken = path.with_name("taken")
    with turn(path, 0.0):
        other = os.fork()
        if other == 0:
            # The child of before has the file open, and does not keep the lock.
            import fcntl

            file = os.open(path, os.O_RDWR)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                taken.write_text("free")
            except BlockingIOError:
                taken.write_text("held")
            os._exit(0)
        os.waitpid(other, 0)
        assert taken.read_text() == "held"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(read)
    os.close(write)


def test_where_there_is_no_file_nothing_is_waited_for(tmp_path) -> None:
    with turn(None, 60.0), turn(tmp_path / "no folder" / "turn", 60.0):
        pass
