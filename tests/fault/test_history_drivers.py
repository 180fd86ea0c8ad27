"""Drivers of one place as real processes: two at once, killed, stopped, forked, and many beside each other."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import ExitStack

import pytest

from graphflow.errors import LeaseHeld
from graphflow.histories.leases import SystemClock
from graphflow.histories.sqlite import SqliteHistory
from graphflow.model.records import Kind, RunHeader
from graphflow.testing.faults.processes import Script

RUN = "01HZZZZZZZZZZZZZZZZZZZZZ01"


class Later(SystemClock):
    """A clock of this machine that is ahead: what has yet to run out has run out."""

    def steady(self):
        return time.monotonic() + 3600

    def wall(self):
        return time.time() + 3600


@pytest.fixture
def started():
    """Start scripts that end with the test."""
    with ExitStack() as stack:
        yield lambda *arguments: stack.enter_context(Script(*arguments))


DIE = """
    import os, sys
    from graphflow.histories.sqlite import SqliteHistory
    from graphflow.model.records import Kind, Record, RunHeader
    history = SqliteHistory(sys.argv[1])
    for name in sys.argv[2:]:
        journal = history.create(RunHeader(id=name, name=name, flow_name="crawl"))
        journal.commit([Record(Kind.LOG, 1.0, name.encode())], state="Running")
    os._exit(9)
"""

TAKE = """
    import sys
    from graphflow.errors import LeaseHeld
    from graphflow.histories.sqlite import SqliteHistory
    history = SqliteHistory(sys.argv[1])
    print("ready")
    sys.stdin.readline()
    held = []
    for name in sys.argv[2:]:
        try:
            held.append(history.take(name))
        except LeaseHeld as error:
            assert error.pid, error
    print(*[journal.run_id for journal in held])
    sys.stdin.readline()
    for journal in held:
        assert journal.commit([], state="Completed") == 2
        journal.close()
"""


def test_of_several_takers_exactly_one_wins_each_run(tmp_path, started):
    names = [f"run-{number}" for number in range(12)]
    assert Script(DIE, tmp_path, *names).end() == []
    takers = [started(TAKE, tmp_path, *names) for _ in range(4)]
    assert [taker.hear() for taker in takers] == ["ready"] * 4
    for taker in takers:
        taker.say()
    won = [taker.hear().split() for taker in takers]
    assert sorted(name for some in won for name in some) == sorted(names)
    history = SqliteHistory(tmp_path)
    for name in names:
        with pytest.raises(LeaseHeld):
            history.take(name)
    for taker in takers:
        taker.say()
        taker.end()
        assert taker.process.returncode == 0, taker.errors
    assert {run.state for run in history.runs()} == {"Completed"}
    assert {run.epoch for run in history.runs()} == {2}
    assert all(history.verify(name) == [] for name in names)
    history.close()


WRITE = """
    import sys
    from graphflow.histories.sqlite import SqliteHistory
    from graphflow.model.records import Kind, Record, RunHeader
    history = SqliteHistory(sys.argv[1])
    name, first = sys.argv[2], int(sys.argv[3])
    if first == 0:
        journal = history.create(RunHeader(id=name, name=name, flow_name="crawl"))
    else:
        journal = history.take(name)
    print("began", journal.epoch)
    while True:
        records = [Record(Kind.ITEMS, 1.0, bytes([journal.seq % 256]) * 700, place, journal.seq, 1) for place in range(8)]
        seq = journal.commit(records, state="Running" if journal.seq % 7 == 0 else None)
        print(seq)
"""


@pytest.mark.slow
def test_what_a_killed_driver_was_told_is_written_is_there(tmp_path):
    generator = random.Random(11)
    history = SqliteHistory(tmp_path)
    last = 0
    for launch in range(1, 13):
        with Script(WRITE, tmp_path, RUN, last) as script:
            assert script.hear() == f"began {launch}"
            told = [last]
            for _ in range(generator.randrange(40)):
                told.append(int(script.hear()))
            # A line may be cut by the kill; then it was not told.
            told += [int(line) for line in script.kill() if line.isdigit()]
        found = history.head(RUN)
        assert told[-1] <= found <= told[-1] + 1
        assert history.verify(RUN) == []
        entries = list(history.read(RUN, after=last))
        assert [(entry.seq, entry.place) for entry in entries] == [
            (seq, place) for seq in range(last + 1, found + 1) for place in range(8)
        ]
        for entry in entries:
            assert entry.record.kind == Kind.ITEMS and entry.epoch == launch
            assert entry.record.body == bytes([(entry.seq - 1) % 256]) * 700
        assert history.find(RUN).state == "Crashed"
        last = found
    assert last > 100
    history.close()


STOPPED = """
    import sys
    from graphflow.errors import LeaseLost
    from graphflow.histories.sqlite import SqliteHistory
    from graphflow.model.records import Kind, Record, RunHeader
    journal = SqliteHistory(sys.argv[1], lease_seconds=10).create(RunHeader(id=sys.argv[2], name="n", flow_name="f"))
    print(journal.commit([Record(Kind.LOG, 1.0, b"before")], state="Running"))
    sys.stdin.readline()
    for call in (lambda: journal.commit([Record(Kind.LOG, 1.0, b"after")], state="Completed"), journal.renew):
        try:
            call()
            print("written")
        except LeaseLost as error:
            print(error)
    journal.close()
    print("closed")
"""


def test_a_stopped_driver_that_wakes_up_too_late_writes_nothing(tmp_path):
    with Script(STOPPED, tmp_path, RUN) as zombie:
        assert zombie.hear() == "1"
        zombie.process.send_signal(signal.SIGSTOP)
        with pytest.raises(LeaseHeld) as caught:
            SqliteHistory(tmp_path).take(RUN)
        assert caught.value.pid == zombie.pid
        # Its lease is over for whoever looks an hour later, though it still lives and has its lock.
        later = SqliteHistory(tmp_path, clock=Later())
        journal = later.take(RUN)
        assert journal.epoch == 2
        assert journal.commit([], state="Running") == 2
        zombie.process.send_signal(signal.SIGCONT)
        zombie.say()
        assert "taken over" in zombie.hear()
        assert "taken over" in zombie.hear()
        assert zombie.hear() == "closed"
        zombie.end()
    assert journal.commit([], state="Completed") == 3
    journal.renew()
    journal.close()
    assert [entry.record.body for entry in later.read(RUN)] == [b"before"]
    found = later.find(RUN)
    assert (found.state, found.epoch) == ("Completed", 2)
    assert later.verify(RUN) == []
    later.close()


FORK = """
    import os, signal, sys
    from graphflow.errors import HistoryError
    from graphflow.histories.sqlite import SqliteHistory
    from graphflow.model.records import Kind, Record, RunHeader
    history = SqliteHistory(sys.argv[1])
    journal = history.create(RunHeader(id=sys.argv[2], name="n", flow_name="f"))
    journal.commit([], state="Running")
    history.runs()
    if os.fork() == 0:
        for call in (lambda: journal.commit([Record(Kind.LOG, 1.0)]), journal.renew, journal.requests):
            try:
                call()
            except HistoryError as error:
                assert "process" in str(error), error
            else:
                raise AssertionError("written by a child")
        journal.close()
        # The child has a connection of its own for reading.
        assert history.find(sys.argv[2]).lease is not None
        history.close()
        print(os.getpid())
        while True:
            signal.pause()
    sys.stdin.readline()
    print("commit", journal.commit([Record(Kind.LOG, 1.0)]))
    os._exit(0)
"""


def test_a_forked_child_neither_writes_nor_keeps_the_run(tmp_path):
    history = SqliteHistory(tmp_path)
    with Script(FORK, tmp_path, RUN) as script:
        child = int(script.hear())
        try:
            assert history.find(RUN).lease.pid == script.pid
            script.say()
            assert script.hear() == "commit 2"
            assert script.process.wait(timeout=30) == 0
            # The child launches, with all that it was given; the driver is gone.
            assert history.find(RUN).state == "Crashed"
            journal = history.take(RUN)
            assert journal.epoch == 2
            journal.close()
        finally:
            os.kill(child, signal.SIGKILL)
    assert history.verify(RUN) == []
    history.close()


BUSY = """
    import sys
    from graphflow.histories.sqlite import SqliteHistory
    from graphflow.model.records import Kind, Record, RunHeader
    history = SqliteHistory(sys.argv[1])
    print("ready")
    sys.stdin.readline()
    for number in range(int(sys.argv[3])):
        name = f"run-{sys.argv[2]}-{number}"
        journal = history.create(RunHeader(id=name, name=name, flow_name="crawl"))
        journal.commit([Record(Kind.LOG, 1.0, b"x")], state="Running")
        asked = history.request(name, "update", {"rate": number})
        # While others write to the catalog it may be looked at later.
        while not (found := journal.requests()):
            pass
        assert [request.id for request in found] == [asked]
        journal.answer(asked)
        journal.renew()
        history.runs(limit=5)
        journal.commit([Record(Kind.LOG, 1.0, b"x")], state="Completed")
        journal.close()
    print("done")
"""


@pytest.mark.slow
def test_many_drivers_write_at_once_and_none_finds_a_lock(tmp_path, started):
    scripts = [started(BUSY, tmp_path, number, 8) for number in range(8)]
    assert [script.hear() for script in scripts] == ["ready"] * 8
    # All of them make the catalog.
    for script in scripts:
        script.say()
    assert [script.hear() for script in scripts] == ["done"] * 8
    for script in scripts:
        assert script.end() == []
        assert (script.process.returncode, script.errors) == (0, "")
    history = SqliteHistory(tmp_path)
    runs = history.runs()
    assert len(runs) == 64
    assert {(run.state, run.epoch, run.lease) for run in runs} == {("Completed", 1, None)}
    assert sum(len(list(history.read(run.id))) for run in runs) == 128
    history.close()


def test_a_run_that_was_never_written_down_makes_way(tmp_path):
    history = SqliteHistory(tmp_path)
    history.create(RunHeader(id="other", name="n", flow_name="f")).close()
    journal = history.create(RunHeader(id=RUN, name="n", flow_name="f"))
    journal.close()
    # As if its maker had died between its folder and its row in the catalog.
    catalog = history._open()
    with catalog.transaction():
        catalog.forget(RUN)
    journal = history.create(RunHeader(id=RUN, name="m", flow_name="f"))
    assert history.find(RUN).name == "m"
    assert sorted(place.name for place in (tmp_path / "runs").iterdir()) == [RUN, "other"]
    journal.close()
    history.close()
