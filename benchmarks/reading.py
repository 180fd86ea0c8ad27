"""What it takes to read a long run back: 1,000,000 ordinary items, in as many records as their batches made.

python benchmarks/reading.py [--smoke] [--items 1000000] [--batch 9] [--repeats 3] [--failing 0.01]

The history is made up, without waiting: a driver's books write it, in commits of a few reports each. `ordinary` has batches of a few
items of 20 ms, `quick` has few large ones. Each case is read with its digests and, for comparison, from all records.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from _measure import Line, print_line

from graphflow.driver.bookkeeping import Bookkeeper
from graphflow.driver.digesting import Digests
from graphflow.histories.sqlite import SqliteHistory
from graphflow.model.anomalies import ErrorRecord, Faults
from graphflow.model.records import Dispatch, Launch, NodeEntry, Record, RunHeader, Transition
from graphflow.model.reports import Report, StepReport, Stored
from graphflow.model.states import Code
from graphflow.ports import Journal
from graphflow.records.codec import RecordWriter
from graphflow.records.rebuilding import known_replay
from graphflow.records.replay import Replay
from graphflow.runs.history import RunHistory

REPORTS_AT_ONCE = 8
SLOTS = 16
RUN = "01900000-0000-7000-8000-000000000000"


class _Books(Bookkeeper):
    """Books whose records are made up."""

    def write(self, records: list[Record]) -> None:
        """Book and commit records."""
        for record in records:
            self._add(record)
        self.commit()


def report(batch: int, indices: range, *, seconds: float, failing: float, rng: random.Random) -> Report:
    """A report of items that took about so many seconds each."""
    count = len(indices)
    durations = array("f", [seconds * (0.9 + 0.2 * rng.random()) for _ in indices])
    starts, at = array("f"), 0.0
    for each in durations:
        starts.append(at)
        at += each
    states, marks = bytearray([Code.COMPLETED]) * count, array("i", bytes(4 * count))
    for place in range(count):
        if failing and rng.random() < failing:
            states[place], marks[place] = Code.FAILED, 1
    error = ErrorRecord(type_name="ValueError", message="no", traceback="Traceback\n", place="flow.py:7")
    step = StepReport(
        node=0,
        states=bytes(states),
        attempts=b"\1" * count,
        starts=starts,
        durations=durations,
        faults=Faults.of(bytes(states), marks),
        stored=Stored(
            name=f"e1-{batch // 1000}-0123456789ab.pack",
            offset=176,
            nbytes=9 * count,
            digest=rng.randbytes(16),
            count=count,
        ),
        digests=rng.randbytes(8 * count),
    )
    return Report(
        batch=batch,
        worker=f"tcp://127.0.0.1:4{batch % SLOTS:04d}",
        started=1.7e9 + batch * seconds * count / SLOTS,
        elapsed=at,
        reached=count,
        steps=(step,),
        errors=(error,) if any(marks) else (),
    )


def records_of(
    writer: RecordWriter, items: int, size: int, *, seconds: float, failing: float
) -> Iterator[list[Record]]:
    """The records of each commit of a run of one map."""
    rng = random.Random(7)
    launch = Launch(
        epoch=1,
        reason="start",
        host="h",
        pid=1,
        boot_id="",
        flow_name="f",
        run_name="r",
        began=1.7e9,
        results="file:///tmp/graphflow-results",
    )
    entry = NodeEntry(number=0, key="k", name="fetch", task_name="fetch", is_mapped=True, width=items)
    yield [
        writer.launch(launch, 1.7e9),
        writer.state(None, Transition(code=Code.RUNNING), 1.7e9),
        writer.node(entry, 1.7e9),
        writer.state(0, Transition(code=Code.RUNNING, width=items), 1.7e9),
    ]
    records: list[Record] = []
    at = 1.7e9
    for batch, lo in enumerate(range(0, items, size), 1):
        indices = range(lo, min(items, lo + size))
        told = report(batch, indices, seconds=seconds, failing=failing, rng=rng)
        at = told.started + told.elapsed
        records.append(writer.dispatch(Dispatch(batch=batch, nodes=(0,), indices=indices, is_fresh=True), at))
        records += writer.report(told, indices, number=lambda node: node, load=lambda ref: ref.data, at=at)
        if batch % REPORTS_AT_ONCE == 0:
            yield records
            records = []
    yield records
    code = Code.FAILED if failing else Code.COMPLETED
    yield [
        writer.state(0, Transition(code=code, width=items), at),
        writer.state(None, Transition(code=code), at),
    ]


def written(folder: Path, items: int, size: int, *, seconds: float, failing: float) -> tuple[float, Journal]:
    """Write such a run; return the CPU seconds that this took."""
    history = SqliteHistory(folder)
    journal = history.create(RunHeader(id=RUN, name="r", flow_name="f", host="h", pid=1))
    writer = RecordWriter()
    books = _Books(journal, writer, digests=Digests(history, RUN))
    begin = time.process_time()
    for records in records_of(writer, items, size, seconds=seconds, failing=failing):
        books.write(records)
    books.end()
    took = time.process_time() - begin
    books.run_moved(Code.FAILED if failing else Code.COMPLETED)
    books.commit()
    journal.close()
    return took, journal


QUESTIONS: dict[str, Callable[[RunHistory], Any]] = {
    "list": lambda history: [run.state_name for run in history.runs()],
    "counts": lambda history: history.run(RUN).nodes["fetch"].counts,
    "first items": lambda history: [item.worker for item in history.run(RUN).nodes["fetch"].items[:50]],
    "one item": lambda history: history.run(RUN).nodes["fetch"].items[-7].duration_seconds,
    "failures": lambda history: [each.count for each in history.run(RUN).nodes["fetch"].errors],
    "first failures": lambda history: [
        item.exception for item in history.run(RUN).nodes["fetch"].failures()[:50]
    ],
    "digest or all": lambda history: known_replay(history._histories, RUN),
}


def measure(case: str, items: int, size: int, *, seconds: float, failing: float, repeats: int) -> None:
    """A line for each question."""
    with tempfile.TemporaryDirectory(prefix="graphflow-bench-") as folder:
        took, journal = written(Path(folder), items, size, seconds=seconds, failing=failing)
        nbytes = (Path(folder) / "runs" / RUN / "run.db").stat().st_size
        sizes = {"items": items, "batch": size, "records": journal.number}
        print_line(
            Line(question=f"{case}: write", system="graphflow", sizes=sizes, seconds=[took], items=items),
            bytes_per_item=nbytes / items,
        )
        history = RunHistory(SqliteHistory(folder), folder=Path(folder))
        for name, ask in QUESTIONS.items():
            walls, cpus = [], []
            for _ in range(repeats):
                begin, cpu = time.perf_counter(), time.process_time()
                ask(history)
                walls.append(time.perf_counter() - begin)
                cpus.append(time.process_time() - cpu)
            line = Line(
                question=f"{case}: {name}", system="graphflow", sizes=sizes, seconds=walls, items=items
            )
            print_line(line, cpu_seconds=min(cpus))
        begin, cpu = time.perf_counter(), time.process_time()
        whole = Replay()
        for entry in history._histories.read(RUN):
            whole.add(entry)
        line = Line(
            question=f"{case}: all records",
            system="graphflow",
            sizes=sizes,
            seconds=[time.perf_counter() - begin],
            items=items,
        )
        print_line(line, cpu_seconds=time.process_time() - cpu)
        known = known_replay(history._histories, RUN)
        assert known.nodes[0].counts() == whole.nodes[0].counts(), "a digest differs from its records"
        history.close()


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--failing", type=float, default=0.001)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="a size that takes a moment")
    given = parser.parse_args()
    items = 20_000 if given.smoke else given.items
    repeats = 1 if given.smoke else given.repeats
    measure("ordinary", items, given.batch, seconds=0.02, failing=given.failing, repeats=repeats)
    measure("quick", items, max(1, items // 40), seconds=2e-6, failing=given.failing, repeats=repeats)


if __name__ == "__main__":
    main()
