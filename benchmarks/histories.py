"""What the store of histories costs: commits, reading with verification, looking for requests, leases, lists.

    python benchmarks/histories.py [--smoke]

The history that is read has the size of 1,000,000 items: 500 commits of 20 records, 12 MB.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

from _measure import Line, print_line, timed

from graphflow.histories.sqlite import SqliteHistory
from graphflow.model.records import Kind, Record, RunHeader

ITEMS = 1_000_000


def report(question: str, calls: int, call: Callable[[], object], items: int = 1, **sizes: int) -> None:
    """Print how long a call takes: the median, and the slowest hundredth."""
    seconds = [timed(call) for _ in range(calls)]
    slow = sorted(seconds)[int(0.99 * len(seconds))]
    print_line(
        Line(
            question=question,
            system="graphflow",
            sizes={"calls": calls, **sizes},
            seconds=[statistics.median(seconds)],
            items=items,
        ),
        p50_ms=statistics.median(seconds) * 1e3,
        p99_ms=slow * 1e3,
        max_ms=max(seconds) * 1e3,
    )


def header(run_id: str, created: float = 0.0) -> RunHeader:
    """A run."""
    return RunHeader(id=run_id, name=run_id, flow_name="bench", created=created)


def main() -> None:
    """Measure in a folder of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="small sizes, to see that it works")
    is_small = parser.parse_args().smoke
    commits, runs = (40, 100) if is_small else (1000, 10_000)
    with tempfile.TemporaryDirectory(prefix="graphflow-bench-") as folder:
        history = SqliteHistory(Path(folder))
        records = [Record(Kind.ITEMS, 1.0, os.urandom(1000), node, 0, 1000) for node in range(20)]
        journal = history.create(header("writes"))
        report("commit of 20 records, 20 kB", commits, lambda: journal.commit(records), bytes=20_000)
        report("commit with a state", commits // 10, lambda: journal.commit([], state="Running"))
        report("look for requests, none new", commits, journal.requests)
        report("renew the lease", commits // 10, journal.renew)
        report("number of the last commit", commits // 10, lambda: history.head("writes"))
        report(
            "read what is new: one commit",
            commits // 10,
            lambda: list(history.read("writes", after=journal.seq - 1)),
        )
        journal.close()
        numbers = iter(range(commits))
        report(
            "create and close a run",
            commits // 20,
            lambda: history.create(header(f"r{next(numbers)}")).close(),
        )

        journal = history.create(header("million"))
        for _ in range(commits // 2):
            journal.commit([Record(Kind.ITEMS, 1.0, os.urandom(1200), node, 0, 100) for node in range(20)])
        journal.close()
        sizes = {"records": 10 * commits, "bytes": (history.run_folder("million") / "run.db").stat().st_size}
        report("read and verify all", 9, lambda: sum(1 for _ in history.read("million")), ITEMS, **sizes)
        report(
            "read one node of 20", 9, lambda: sum(1 for _ in history.read("million", node=3)), ITEMS, **sizes
        )
        report(
            "read one kind, of which nothing is",
            9,
            lambda: list(history.read("million", kinds=[Kind.LOG])),
            ITEMS,
            **sizes,
        )
        report("fsck", 5, lambda: history.verify("million"), ITEMS, **sizes)
        report("take and close", 5, lambda: history.take("million").close(), ITEMS, **sizes)

        catalog = history._open()
        with catalog.transaction():
            for number in range(runs):
                catalog.add(
                    RunHeader(
                        id=f"x{number:05d}", name="n", flow_name="f", state="Completed", created=1.0 + number
                    )
                )
        report(f"find the latest of {runs:,} runs", commits // 10, lambda: history.find("@latest"))
        report(f"list 20 of {runs:,} runs", commits // 10, lambda: history.runs(limit=20))
        report(f"find a run by a prefix among {runs:,}", commits // 10, lambda: history.find("X00077"))
        history.close()


if __name__ == "__main__":
    main()
