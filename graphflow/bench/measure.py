"""In the measured process: bring one peer up, do its workloads, and print what they took.

`python -m graphflow.bench.measure JSON` measures the cases of one order, all of the same peer and the
same number of slots, and prints one JSON line for each.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from graphflow.bench import items
from graphflow.bench.peers import CannotDo, Peer, make_peer
from graphflow.bench.probes import cpu_seconds_of_tree, forget_peak_rss, peak_rss, rss
from graphflow.bench.workloads import CONCURRENCY, REQUEST_MILLISECONDS, durations_of, workload_of

__all__ = ["Order", "measure_all"]

_BYTES_PER_ITEM_FROM = 10_000
"""Below so many items the memory of a run is not that of its items."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What one process is to measure: cases are (workload key, n)."""

    peer: str
    slots: int
    cases: list[tuple[str, int]]
    repeats: int
    limit_seconds: float
    is_smoke: bool = False
    port: int = 0

    def to_json(self) -> str:
        """For a command line."""
        return json.dumps(asdict(self))


Run = Callable[[], int]


def _prepared(peer: Peer, key: str, n: int, order: Order, folder: str) -> tuple[Run, int]:
    """Return one run of a workload, and the result that it must have."""
    workload = workload_of(key)
    whole = n * (n - 1) // 2
    match workload.name:
        case "W1":
            return lambda: peer.total(items.nothing, range(n)), whole
        case "W2":
            return lambda: peer.chain(range(n)), 2 * whole - n
        case "W3" | "W5":
            seconds = durations_of(workload, n, is_smoke=order.is_smoke)
            work: Callable[[Any], int] = items.nap if workload.variant.startswith("16-slots") else items.burn
            return lambda: peer.total(work, seconds), n
        case "W4":
            leaves = sum(width * (width - 1) // 2 for width in items.widths_of(n))
            return lambda: peer.fan_out(n), leaves
        case "W7":

            def retried() -> int:
                place = tempfile.mkdtemp(dir=folder)
                outcome = peer.retried(n, place)
                failed = len(os.listdir(place))
                if failed != len(range(0, n, 100)):
                    raise RuntimeError(f"{failed} items failed once, not {len(range(0, n, 100))}")
                return outcome

            return retried, whole
        case "W8":
            return lambda: peer.requests(n, order.port, REQUEST_MILLISECONDS, CONCURRENCY), whole
        case name:
            raise LookupError(f"unknown workload {name}")


def _measured(run: Run, expected: int, n: int, order: Order) -> dict[str, Any]:
    forget_peak_rss()
    before = rss()
    begin = time.perf_counter()
    outcome = run()
    first = time.perf_counter() - begin
    seconds: list[float] = []
    cpu = cpu_seconds_of_tree()
    # A slow system is not asked again and again: what was measured is in the line.
    while len(seconds) < order.repeats and (not seconds or sum(seconds) < 2 * order.limit_seconds):
        if outcome != expected:
            return {
                "status": "wrong",
                "reason": f"returned {outcome!r}, but a plain loop returns {expected!r}",
            }
        begin = time.perf_counter()
        outcome = run()
        seconds.append(time.perf_counter() - begin)
    cpu = cpu_seconds_of_tree() - cpu
    peak = peak_rss()
    if outcome != expected:
        return {"status": "wrong", "reason": f"returned {outcome!r}, but a plain loop returns {expected!r}"}
    found: dict[str, Any] = {
        "repeats": len(seconds),
        "first_seconds": round(first, 6),
        "seconds": round(statistics.median(seconds), 6),
        "seconds_all": [round(value, 6) for value in seconds],
        "cpu_us_per_item": round(cpu / len(seconds) / n * 1e6, 3),
        "peak_rss_bytes": peak,
    }
    if n >= _BYTES_PER_ITEM_FROM:
        found["driver_bytes_per_item"] = round(max(0, peak - before) / n, 1)
    return found


def _guarded(call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return call()
    except CannotDo as error:
        return {"status": "cannot", "reason": str(error)}
    except ModuleNotFoundError as error:
        return {"status": "skipped", "reason": f"package {error.name!r} is not installed"}
    except Exception as error:
        traceback.print_exc()
        return {"status": "error", "reason": f"{type(error).__name__}: {error}"[:500]}


def measure_all(order: Order, emit: Callable[[Mapping[str, Any]], None]) -> None:
    """Measure the cases one after the other on one system that stays up; emits one document for each."""
    peer: Peer | None = None
    startup = 0.0

    def opened() -> dict[str, Any]:
        nonlocal peer, startup
        begin = time.perf_counter()
        peer = make_peer(order.peer)
        peer.open(order.slots)
        with suppress(CannotDo):
            peer.total(items.nothing, range(order.slots))
        startup = time.perf_counter() - begin
        return {}

    refused = _guarded(opened)
    folder = tempfile.mkdtemp(prefix="graphflow-bench-")
    try:
        for key, n in order.cases:

            def measured(key: str = key, n: int = n) -> dict[str, Any]:
                assert peer is not None
                run, expected = _prepared(peer, key, n, order, folder)
                note = peer.notes.get(workload_of(key).name, peer.notes.get("", ""))
                found = {"startup_seconds": round(startup, 6), **_measured(run, expected, n, order)}
                return {**found, "note": note}

            emit({"key": key, "n": n, **(refused or _guarded(measured))})
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if peer is not None and not refused:
            peer.close()


def main() -> None:
    """Measure what the command line says."""
    given = json.loads(sys.argv[1])
    order = Order(**{**given, "cases": [(key, n) for key, n in given["cases"]]})
    # Lines go to the real stdout; whatever a peer prints goes to stderr.
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def emit(document: Mapping[str, Any]) -> None:
        lines.write(json.dumps(document) + "\n")
        lines.flush()

    measure_all(order, emit)


if __name__ == "__main__":
    main()
