"""Ordinary items beside quick ones: what a long run keeps and costs, and how long reading it back takes.

python benchmarks/ordinary.py [--smoke] [--items 100000] [--slots 16] [--seconds 0.02] [--backend threads]

Full size is 1,000,000 items of 20 ms on 16 slots, which takes 21 minutes (`--items 1000000`); by default a tenth. Each run is a process of
its own; quick items are 1,000,000 that do nothing. joblib runs the same ordinary items in as many threads, and keeps no books.
Prints one JSON line per figure with its bound, and a table on stderr; bounds are those of the full size.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _measure import show

BOUNDS = {
    "result objects": 200,
    "history, B an item": 16,
    "driver memory, B an item": 32,
    "reading back, s": 0.2,
}


def resident_nbytes() -> int:
    """Return what this process has in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def run_here(backend: str, items: int, seconds: float) -> dict[str, Any]:
    """Run a map of items in this process."""
    from graphflow import flow, task

    @task
    def work(i: int) -> int:
        if seconds:
            time.sleep(seconds)
        return 2 * i

    @flow(backend=backend)
    def ordinary(n: int) -> None:
        work.map(range(n)).wait()

    ordinary(64)
    before, cpu = resident_nbytes(), time.process_time()
    begin = time.perf_counter()
    run = ordinary.run(items)
    wall = time.perf_counter() - begin
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "id": run.id,
        "state": str(run.state),
        "wall": wall,
        "cpu": time.process_time() - cpu + children.ru_utime + children.ru_stime,
        "memory": resident_nbytes() - before,
    }


def read_here(run_id: str) -> dict[str, Any]:
    """Read a run's figures back, as `runs show` does."""
    from graphflow import history

    begin = time.perf_counter()
    run = history().run(run_id)
    counts = {node.name: dict(node.counts) for node in run.nodes}
    return {"counts": counts, "wall": time.perf_counter() - begin}


def joblib_here(items: int, seconds: float, slots: int) -> dict[str, Any]:
    """Run the same items with joblib's threads."""
    from joblib import Parallel, delayed

    before, cpu, begin = resident_nbytes(), time.process_time(), time.perf_counter()
    found = Parallel(n_jobs=slots, backend="threading")(delayed(time.sleep)(seconds) for _ in range(items))
    wall = time.perf_counter() - begin
    return {
        "wall": wall,
        "cpu": time.process_time() - cpu,
        "memory": resident_nbytes() - before,
        "count": len(found),
    }


def in_process(what: str, *given: Any, home: str) -> dict[str, Any]:
    """Call a function of this module in a process of its own, and return what it prints."""
    environ = os.environ | {"GRAPHFLOW_HOME": home, "GRAPHFLOW_PROGRESS": "off"}
    command = [sys.executable, __file__, "--call", what, json.dumps(given)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{what} failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(label: str, backend: str, items: int, seconds: float, slots: int) -> list[dict[str, Any]]:
    """Run a map and read it back; return the figures."""
    with tempfile.TemporaryDirectory(prefix="graphflow-ordinary-") as home:
        ran = in_process("run", backend, items, seconds, home=home)
        if ran["state"] != "Completed":
            raise RuntimeError(f"the run ended {ran['state']}")
        folder = Path(home) / "runs" / ran["id"]
        objects = len(list(folder.rglob("*.pack")))
        history = (folder / "run.db").stat().st_size
        reads = [in_process("read", ran["id"], home=home)["wall"] for _ in range(3)]
    figures: dict[str, float] = {
        "result objects": objects,
        "history, B an item": history / items,
        "driver memory, B an item": ran["memory"] / items,
        "reading back, s": sorted(reads)[1],
        "CPU, us an item": 1e6 * ran["cpu"] / items,
        "wall, s": ran["wall"],
    }
    if seconds:
        figures["share of the ideal"] = items * seconds / slots / ran["wall"]
    return [
        {
            "question": "ordinary",
            "run": label,
            "what": what,
            "value": round(value, 4),
            "at_most": BOUNDS.get(what),
        }
        for what, value in figures.items()
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=0.02)
    parser.add_argument("--backend", default="threads")
    parser.add_argument("--call", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.call:
        functions = {"run": run_here, "read": read_here, "joblib": joblib_here}
        print(json.dumps(functions[asked.call[0]](*json.loads(asked.call[1]))))
        return 0
    items = 8_000 if asked.smoke else asked.items
    quick = 20_000 if asked.smoke else 1_000_000
    backend = f"{asked.backend}:{asked.slots}"
    found = measure(
        f"ordinary, {items:,} items of {asked.seconds} s", backend, items, asked.seconds, asked.slots
    )
    found += measure(f"quick, {quick:,} items", backend, quick, 0.0, asked.slots)
    with tempfile.TemporaryDirectory() as home:
        peer = in_process("joblib", items, asked.seconds, asked.slots, home=home)
    found += [
        {
            "question": "ordinary",
            "run": "joblib, threads, the ordinary items",
            "what": what,
            "value": round(value, 4),
        }
        for what, value in (
            ("wall, s", peer["wall"]),
            ("CPU, us an item", 1e6 * peer["cpu"] / items),
            ("driver memory, B an item", peer["memory"] / items),
        )
    ]
    for each in found:
        show(each)
        bound = f"  (at most {each['at_most']})" if each.get("at_most") else ""
        print(f"{each['run']:45} {each['what']:28} {each['value']:>12,}{bound}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
