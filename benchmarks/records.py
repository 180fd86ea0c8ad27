"""What a history costs: bytes per item, and the time to make, write and read its records.

python benchmarks/records.py [--smoke] [--items 1000000] [--repeats 3] [--only plain digests ...]

The reports are made up, with times as of no-op items; nothing is run. `write` commits one report at a time to SQLite with
`synchronous=FULL`, `read` verifies and replays all of it, as `runs show` and resume do.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

from _measure import Line, print_line, timed

from graphflow.histories.sqlite import SqliteHistory
from graphflow.model.anomalies import CHUNK, ErrorRecord, Faults, Variants, pack_chunk
from graphflow.model.records import Dispatch, NodeEntry, Record, RunHeader
from graphflow.model.reports import Report, StepReport, Stored
from graphflow.model.states import Code
from graphflow.records.codec import RecordWriter
from graphflow.records.replay import Replay

BATCH = 2_000
TRACEBACK = 'Traceback (most recent call last):\n  File "flow.py", line 7, in parse\n    return int(text)\n'


def _times(count: int, rng: random.Random) -> tuple[array[float], array[float]]:
    starts, durations, at = array("f"), array("f"), 0.0
    for _ in range(count):
        seconds = rng.expovariate(1 / 2e-6) + 1e-7
        starts.append(at)
        durations.append(seconds)
        at += seconds + 1e-7
    return starts, durations


def _texts(first: int, count: int) -> Variants:
    texts = [f"invalid literal for int(): 'row {first + place}'" for place in range(count)]
    chunks = tuple(pack_chunk(texts[lo : lo + CHUNK], {}) for lo in range(0, count, CHUNK))
    return Variants(records=array("I", bytes(4 * len(chunks))), chunks=chunks)


def report(
    batch: int, count: int, rng: random.Random, *, digests: bool, failing: float, distinct: bool
) -> Report:
    """A report of items that took a microsecond or two."""
    starts, durations = _times(count, rng)
    states, marks = bytearray([Code.COMPLETED]) * count, array("i", bytes(4 * count))
    failed = range(0, count, round(1 / failing)) if failing else range(0)
    for rank, place in enumerate(failed):
        states[place], marks[place] = Code.FAILED, -rank - 1 if distinct else 1
    error = ErrorRecord(
        type_name="ValueError", message="invalid literal", traceback=TRACEBACK, place="flow.py:7"
    )
    step = StepReport(
        node=0,
        states=bytes(states),
        attempts=b"\1" * count,
        starts=starts,
        durations=durations,
        faults=Faults.of(bytes(states), marks),
        stored=Stored(
            name=f"e1-b{batch}-0123456789ab.pack",
            offset=176,
            nbytes=9 * count,
            digest=bytes(range(16)),
            count=count,
        ),
        digests=rng.randbytes(8 * count) if digests else b"",
    )
    return Report(
        batch=batch,
        worker="tcp://127.0.0.1:40123",
        started=1.7e9 + batch,
        elapsed=1.0,
        reached=count,
        steps=(step,),
        errors=(error,) if failing else (),
        variants=_texts(batch * count, len(failed)) if distinct else None,
    )


def records_of(reports: list[Report], size: int) -> Iterator[list[Record]]:
    """The records of each commit."""
    writer = RecordWriter()
    entry = NodeEntry(number=0, key="k", name="n", task_name="n", is_mapped=True, width=len(reports) * size)
    yield [writer.node(entry, 0.0)]
    for each in reports:
        part = range(each.batch * size, (each.batch + 1) * size)
        sent = writer.dispatch(
            Dispatch(batch=each.batch, nodes=(0,), indices=part, is_fresh=True), each.started
        )
        yield [
            sent,
            *writer.report(each, part, number=lambda node: node, load=lambda ref: ref.data, at=each.started),
        ]


CASES: dict[str, Callable[[int, int, random.Random], Report]] = {
    "plain": lambda batch, size, rng: report(batch, size, rng, digests=False, failing=0, distinct=False),
    "digests": lambda batch, size, rng: report(batch, size, rng, digests=True, failing=0, distinct=False),
    "one-in-100-fails": lambda batch, size, rng: report(
        batch, size, rng, digests=False, failing=0.01, distinct=False
    ),
    "all-fail-alike": lambda batch, size, rng: report(
        batch, size, rng, digests=False, failing=1, distinct=False
    ),
    "all-fail-apart": lambda batch, size, rng: report(
        batch, size, rng, digests=False, failing=1, distinct=True
    ),
}


def measure(case: str, items: int, repeats: int) -> None:
    """A line each for making, writing and reading the records of a case."""
    size = min(BATCH, items)
    rng = random.Random(1)
    reports = [CASES[case](batch, size, rng) for batch in range(items // size)]
    making, writing, reading = [], [], []
    nbytes = on_disk = 0
    for _ in range(repeats):
        commits: list[list[Record]] = []
        making.append(timed(lambda: commits.extend(records_of(reports, size))))  # noqa: B023
        nbytes = sum(len(record.body) for commit in commits for record in commit)
        with tempfile.TemporaryDirectory(prefix="graphflow-bench-") as folder:
            history = SqliteHistory(folder, key=bytes(32))
            journal = history.create(
                RunHeader(id="01HZZZZZZZZZZZZZZZZZZZZZ01", name="bench", flow_name="bench")
            )
            writing.append(timed(lambda: [journal.commit(each) for each in commits]))  # noqa: B023
            journal.close()
            on_disk = sum(file.stat().st_size for file in Path(folder).rglob("run.db*"))

            def read() -> None:
                replay = Replay()
                for entry in history.read("01HZZZZZZZZZZZZZZZZZZZZZ01"):  # noqa: B023
                    replay.add(entry)
                assert replay.nodes[0].counts().finished == items // size * size

            reading.append(timed(read))
            history.close()
    for what, seconds in (("make", making), ("write", writing), ("read", reading)):
        print_line(
            Line(
                question="history",
                system=f"{what} {case}",
                sizes={"items": items, "batch": size},
                seconds=seconds,
                items=items,
            ),
            bytes_per_item=nbytes / items,
            bytes_per_item_on_disk=on_disk / items,
        )


def main() -> None:
    """Measure the cases that are asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=CASES, default=list(CASES))
    given = parser.parse_args()
    items, repeats = (4_000, 1) if given.smoke else (given.items, given.repeats)
    for case in given.only:
        measure(case, items, repeats)


if __name__ == "__main__":
    main()
