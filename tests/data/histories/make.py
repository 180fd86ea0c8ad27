"""How the stored files were made. They are never made again: a new version gets a folder of its own.

python tests/data/histories/make.py FOLDER
"""

from __future__ import annotations

import shutil
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


if __name__ == "__main__":
    place = Path(sys.argv[1])
    make(place / f"v{schema.RUN.version}", ["Running", None, "Completed"])
    for leftover in [*place.rglob("driver.lock"), *place.rglob("*-journal"), *place.rglob("secret.key")]:
        leftover.unlink()
    for leftover in place.rglob("results"):
        shutil.rmtree(leftover)
