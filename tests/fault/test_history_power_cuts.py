"""Power cuts at any moment: what was acknowledged is there, and nothing is torn.

A driver's writes and syncs, those of its run and of the catalog, are recorded once; then the power is cut at random
points of the record, and of what was not synced by then random sectors are lost.
"""

from __future__ import annotations

import random
import shutil

import pytest

from graphflow.histories.sqlite import SqliteHistory
from graphflow.model.records import RunHeader
from graphflow.testing.faults import powercuts
from graphflow.testing.faults.processes import Script

RUN = "01HZZZZZZZZZZZZZZZZZZZZZ01"
CUTS = 150

pytestmark = pytest.mark.skipif(not powercuts.is_available(), reason="SQLite is built into this Python")

DRIVE = """
    import os, sys
    from pathlib import Path
    from graphflow.histories import anchors, databases
    from graphflow.histories.sqlite import SqliteHistory
    from graphflow.model.records import Kind, Record
    from graphflow.testing.faults.powercuts import FileLog, recorded

    log = FileLog()
    real = os.pwrite
    def pwrite(descriptor, data, offset):
        log.add("write", os.readlink(f"/proc/self/fd/{descriptor}"), offset, bytes(data))
        return real(descriptor, data, offset)
    os.pwrite = pwrite
    statement = sys.argv[4]
    if statement:
        schema = databases.schema
        schema.RUN_WRITER_PRAGMAS = (*schema.RUN_WRITER_PRAGMAS, statement)
    with recorded(log):
        history = SqliteHistory(sys.argv[1])
        journal = history.take(sys.argv[2])
        log.add("note", "taken", journal.epoch)
        for seq in range(1, 61):
            state = ("Running", "Paused")[seq // 10 % 2] if seq % 10 == 0 else None
            records = [Record(Kind.ITEMS, 1.0, bytes([seq]) * (3000 * (seq % 5)), place) for place in range(5)]
            assert journal.commit(records, state=state) == seq
            log.add("note", state or "", seq)
            if seq == 40:
                # A log that is begun anew: frames of two turns lie in one file.
                journal._writer._database.execute("PRAGMA wal_checkpoint(RESTART)")
        journal.renew()
        journal.close()
        log.add("note", "closed", 0)
        history.close()
    log.save(Path(sys.argv[3]))
"""


def recorded_run(tmp_path, statement=""):
    """The files that a driver began with, and what it did."""
    history = SqliteHistory(tmp_path / "home")
    history.create(RunHeader(id=RUN, name="n", flow_name="f")).close()
    history.close()
    home = tmp_path / "home"
    before = {str(place): place.read_bytes() for place in home.rglob("*") if place.is_file()}
    script = Script(DRIVE, home, RUN, tmp_path / "log", statement)
    assert (script.end(), script.errors) == ([], "")
    return before, powercuts.FileLog.load(tmp_path / "log").operations


def put(home, files):
    """Make the files what the disk holds after a cut."""
    shutil.rmtree(home)
    for path, content in files.items():
        place = home / path.removeprefix(f"{home}/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)


@pytest.mark.slow
def test_nothing_that_was_acknowledged_is_lost(tmp_path):
    before, operations = recorded_run(tmp_path)
    assert sum(operation[0] == "sync" for operation in operations) > 70
    home = tmp_path / "home"
    generator = random.Random(5)
    lengths = set()
    for turn in range(CUTS):
        files, notes = powercuts.after_cut(before, operations, generator)
        put(home, files)
        told = max((number for text, number in notes if text not in ("taken", "closed")), default=0)
        states = [text for text, _ in notes if text in ("Running", "Paused")]
        history = SqliteHistory(home)
        # The catalog is whole, and knows the state that was acknowledged last, or the one on its way.
        catalog = history._open()
        assert catalog.integrity() == []
        header = catalog.run(RUN)[0]
        possible = {states[-1] if states else "Pending"}
        if told % 10 == 9:
            possible |= {"Running", "Paused"}
        assert header.state in possible
        entries = list(history.read(RUN))
        found = history.head(RUN)
        assert told <= found <= told + 1
        lengths.add(found)
        assert [(entry.seq, entry.place) for entry in entries] == [
            (seq, place) for seq in range(1, found + 1) for place in range(5)
        ]
        for entry in entries:
            assert entry.record.body == bytes([entry.seq]) * (3000 * (entry.seq % 5))
        wrong = [text for text in history.verify(RUN) if "anchor" not in text]
        assert wrong == []
        if any(text == "taken" for text, _ in notes):
            assert header.epoch == 2
        if turn % 5 == 0:
            # And the run can be driven on.
            journal = history.take(RUN)
            assert journal.commit([], state="Completed") == found + 1
            journal.close()
            assert history.find(RUN).state == "Completed"
            assert history.verify(RUN) == []
        history.close()
    assert len(lengths) > 30


@pytest.mark.slow
def test_the_power_cuts_do_cut(tmp_path):
    """With syncs turned off, the same cuts lose what was acknowledged: so the test above would notice."""
    before, operations = recorded_run(tmp_path, "PRAGMA synchronous = OFF")
    home = tmp_path / "home"
    generator = random.Random(6)
    lost = 0
    for _ in range(30):
        files, notes = powercuts.after_cut(before, operations, generator)
        put(home, files)
        told = max((number for text, number in notes if text not in ("taken", "closed")), default=0)
        history = SqliteHistory(home)
        lost += bool(history.verify(RUN)) or history.head(RUN) < told
        history.close()
    assert lost > 5
