"""What durable histories cost: maps with and without, resume and redrive of a million items, readers beside a run.

python benchmarks/durability.py [--smoke] [--items 1000000] [--repeats 3] [--only durable resume ...]

Each measurement has a home of its own in a temporary folder. Prints one JSON line per figure, with its budget.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _measure import home, show
from _measure import timed as seconds

from graphflow import backends, flow, task
from graphflow.runs.run import Run

SLOTS = 2


def first_dispatch(begin: Callable[[], Run]) -> tuple[float, Run]:
    """Seconds until the first batch of another launch was sent, and the run.

    The time is that of the first DISPATCH record, which is durable before the batch goes out.
    """
    started = time.time()
    run = begin()
    from graphflow.driver.durability import open_history
    from graphflow.model.records import Kind

    at = [
        entry.record.at
        for entry in open_history().read(run.id, kinds=(Kind.DISPATCH,))
        if entry.record.at >= started
    ]
    return min(at) - started, run


# -- what is measured ----------------------------------------------------------------------------------------


def durable(items: int, repeats: int) -> None:
    """A no-op map on two warm worker processes, with its history and results on disk, and without."""

    @task
    def noop(x: int) -> int:
        return x

    with backends.processes(slots=SLOTS) as backend:

        @flow(backend=backend)
        def body(count: int) -> None:
            noop.map(range(count))

        for kind in ("memory", "disk"):
            with home(kind) as folder:
                body(items // 10)
                found = [seconds(lambda: body(items)) for _ in range(repeats)]
                show(
                    {
                        "what": f"no-op map, history {kind}",
                        "items": items,
                        "us_per_item": round(statistics.median(found) / items * 1e6, 3),
                        "budget": 2.0,
                    }
                )
                if kind == "disk":
                    weighs = max(place.stat().st_size for place in folder.glob("runs/*/run.db"))
                    show(
                        {
                            "what": "history of a plain item",
                            "bytes_per_item": round(weighs / items, 2),
                            "budget": 32,
                        }
                    )


def failures(items: int, repeats: int) -> None:
    """The history of failed items: of one text, and of a text each."""

    @task
    def fail(x: int, *, apart: bool) -> None:
        raise ValueError(f"bad item {x}" if apart else "bad item")

    @flow(backend="threads:2")
    def body(count: int, apart: bool) -> None:
        fail.map(range(count), apart=apart)

    for apart in (False, True):
        with home() as folder:
            run = body.run(items, apart)
            assert run.nodes["fail"].counts["Failed"] == items
            weighs = max(place.stat().st_size for place in folder.glob("runs/*/run.db"))
            show(
                {
                    "what": "history of a failed item, " + ("a text each" if apart else "one text"),
                    "items": items,
                    "bytes_per_item": round(weighs / items, 1),
                    "budget": 2_000,
                }
            )


def resume(items: int, repeats: int) -> None:
    """Resume of a map of which 100 items are left, and redrive of 37 failed ones."""
    flags = Path(tempfile.mkdtemp(prefix="graphflow-bench-flags-"))
    log = flags / "log"

    @task
    def work(x: int) -> int:
        if x % wanted == 0:
            with open(log, "ab") as file:
                file.write(b"x\n")
            if (flags / "broken").exists():
                raise ValueError("bad item")
        return x

    @task
    def total(values: list[int]) -> int:
        return sum(values)

    @flow(backend="threads:2")
    def body(count: int) -> Any:
        return total(work.map(range(count)))

    for left, name, budget in ((100, "resume", 5.0), (37, "redrive", 2.0)):
        wanted = -(-items // left)
        expected = len(range(0, items, wanted))
        found = []
        for _ in range(repeats):
            with home():
                (flags / "broken").touch()
                run = body.run(items)
                assert run.state == "Failed"
                (flags / "broken").unlink()
                log.write_bytes(b"")
                again = body.resume if name == "resume" else body.redrive
                took, run = first_dispatch(lambda again=again, run=run: again(run.id))  # type: ignore[misc]
                assert run.value == items * (items - 1) // 2, run.exception
                assert log.read_bytes().count(b"x") == expected
                found.append(took)
        show(
            {
                "what": f"{name} of {expected} items to the first dispatch",
                "items": items,
                "seconds": round(statistics.median(found), 3),
                "executed": expected,
                "budget": budget,
            }
        )
    shutil.rmtree(flags)


def lag(items: int, repeats: int) -> None:
    """How long after an item ended it is in the history: a task of 20 ms an item, read from another process."""

    @task
    def stamp(x: int) -> float:
        time.sleep(0.02)
        return time.time()

    @flow(backend="threads:2")
    def body(count: int) -> Any:
        return stamp.with_options(batch_size=1).map(range(count))

    with home():
        run = body.run(min(items, 200))
        from graphflow.driver.durability import open_history
        from graphflow.model.records import Kind

        values, lags = run.value, []
        for entry in open_history().read(run.id, kinds=(Kind.ITEMS,)):
            lags.append(entry.record.at - values[entry.record.lo])
        show(
            {
                "what": "commit lag",
                "ms_median": round(1000 * statistics.median(lags), 1),
                "ms_max": round(1000 * max(lags), 1),
                "budget": 200,
            }
        )


def readers(items: int, repeats: int) -> None:
    """What `runs show` once a second costs a run of tasks that keep both cores busy."""

    @task
    def spin(x: int) -> int:
        end = time.perf_counter() + 0.02
        while time.perf_counter() < end:
            pass
        return x

    polls = "import sys, time\nfrom graphflow import history\nwhile True:\n    with history() as past:\n        past.run('@latest').nodes\n    time.sleep(1)\n"
    with backends.processes(slots=SLOTS) as backend, home():

        @flow(backend=backend)
        def body(count: int) -> None:
            spin.map(range(count))

        count = max(20, min(items // 1_000, 1_000))
        body(20)
        times: dict[str, list[float]] = {"alone": [], "polled": []}
        for _ in range(repeats):
            times["alone"].append(seconds(lambda: body(count)))
            reader = subprocess.Popen([sys.executable, "-c", polls])
            try:
                times["polled"].append(seconds(lambda: body(count)))
            finally:
                reader.send_signal(signal.SIGKILL)
                reader.wait()
        alone, polled = (statistics.median(times[name]) for name in ("alone", "polled"))
        show(
            {
                "what": "a reader that polls once a second",
                "seconds_alone": round(alone, 2),
                "percent_more": round(100 * (polled / alone - 1), 1),
                "budget": 3,
            }
        )


MEASUREMENTS = {each.__name__: each for each in (durable, failures, resume, lag, readers)}


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=sorted(MEASUREMENTS), default=list(MEASUREMENTS))
    given = parser.parse_args()
    items, repeats = (20_000, 1) if given.smoke else (given.items, given.repeats)
    for name in given.only:
        MEASUREMENTS[name](items, repeats)


if __name__ == "__main__":
    main()
