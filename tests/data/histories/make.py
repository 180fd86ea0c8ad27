"""How the stored files of each version were made. They are never made again: add the newest version beside them.

python tests/data/histories/make.py FOLDER
"""

from __future__ import annotations

import shutil
import sqlite3
import sys
from pathlib import Path

from graphflow.histories import schema
from graphflow.histories.sqlite import SqliteHistory
from graphflow.model.records import Kind, Record, RunHeader
from graphflow.testing.contracts.histories import ManualClock

KEY = bytes(range(32))
RUN = "01HZZZZZZZZZZZZZZZZZZZZZ01"


def records(seq):
    """What commit `seq` holds."""
    return [
        Record(Kind.ITEMS, 100.5 + seq, bytes([seq]) * 50, 3, 10 * seq, 10),
        Record(Kind.LOG, 200.5, b"line"),
    ]


def make(folder, states):
    """A home of the newest version, closed as it should be."""
    history = SqliteHistory(folder, key=KEY, clock=ManualClock(), lease_seconds=30.0)
    journal = history.create(RunHeader(id=RUN, name="calm-otter", flow_name="crawl"))
    for seq, state in enumerate(states, 1):
        journal.commit(records(seq), state=state)
    number = history.request(RUN, "pause", {})
    journal.answer(number, "no")
    journal.close()
    history.close()


def change(path, *statements):
    """Make an older version of a file by hand."""
    connection = sqlite3.connect(path)
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.execute("VACUUM")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


if __name__ == "__main__":
    place = Path(sys.argv[1])
    make(place / f"v{schema.RUN.version}", ["Running", None, "Completed"])
    if schema.RUN.version == 1:
        make(place / "v0", [None, None, None])
        change(
            place / "v0" / "runs" / RUN / "run.db",
            "ALTER TABLE commits DROP COLUMN state",
            "UPDATE meta SET value = '0' WHERE name = 'schema'",
        )
        change(
            place / "v0" / "catalog.db",
            "UPDATE run SET state = 'Completed', started = 1700000000.0, ended = 1700000000.0",
            "ALTER TABLE request DROP COLUMN epoch",
            "UPDATE meta SET value = '0' WHERE name = 'schema'",
        )
    for leftover in [*place.rglob("driver.lock"), *place.rglob("*-journal"), *place.rglob("secret.key")]:
        leftover.unlink()
    for leftover in place.rglob("results"):
        shutil.rmtree(leftover)
