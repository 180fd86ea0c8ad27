"""One question about graphflow per process: `python _probes.py NAME N REPEATS`; prints one JSON document."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from graphflow import backends, flow, task
from graphflow.bench.items import add_up, nothing
from graphflow.bench.probes import forget_peak_rss, peak_rss, rss

SLOTS = 2


def refuse(x: int) -> int:
    """An item that fails."""
    raise ValueError("no item of this map succeeds")


def count_up(n: int) -> Iterator[int]:
    """A source of which nobody knows the length."""
    yield from range(n)


@contextmanager
def warm_workers() -> Iterator[Any]:
    """A local cluster whose workers have run something."""
    with backends.processes(slots=SLOTS) as backend:
        item = task(nothing)
        warm_up = flow(lambda: item.map(range(1_000))).with_options(backend=backend, name="warm-up")
        assert warm_up() == list(range(1_000))
        yield backend


def memory(n: int, repeats: int) -> dict[str, float]:
    """The driver's memory for a map of `n` items whose run is still held."""
    with warm_workers() as backend:
        item, total = task(nothing), task(add_up)
        summed = flow(lambda: total(item.map(range(n)))).with_options(backend=backend, name="memory")
        forget_peak_rss()
        before = rss()
        begin = time.perf_counter()
        run = summed.run()
        seconds = time.perf_counter() - begin
        after, peak = rss(), peak_rss()
        assert run.result() == n * (n - 1) // 2
        return {"seconds": seconds, "rss_before": before, "rss_after": after, "rss_peak": peak}


def first_result(n: int, repeats: int) -> dict[str, float]:
    """From the call of a map to its first item's value in the driver."""
    item = task(nothing)
    found: list[float] = []

    def body() -> None:
        begin = time.perf_counter()
        assert item.map(range(n))[0].result() == 0
        found.append(time.perf_counter() - begin)

    with warm_workers() as backend:
        for _ in range(repeats):
            flow(body).with_options(backend=backend, name="first-result")()
    return {"seconds": statistics.median(found)}


def storm(n: int, repeats: int) -> dict[str, float]:
    """A map of which every item fails, beside one of which every item succeeds."""
    with warm_workers() as backend:

        def seconds_of(function: Callable[[int], int], failed: int) -> float:
            item = task(function)
            mapped = flow(lambda: [item.map(range(n)), None][1]).with_options(backend=backend, name="storm")
            found = []
            for _ in range(repeats):
                begin = time.perf_counter()
                run = mapped.run()
                found.append(time.perf_counter() - begin)
                (node,) = run.nodes
                assert node.counts["Failed" if failed else "Completed"] == n, node.counts
            return statistics.median(found)

        succeed = seconds_of(nothing, 0)
        fail = seconds_of(refuse, n)
    return {"seconds_succeed": succeed, "seconds_fail": fail}


def stream(n: int, repeats: int) -> dict[str, float]:
    """A map over a generator whose items are consumed one by one."""
    item = task(nothing)
    assert sum(future.result() for future in item.map(count_up(1_000))) == 499_500
    forget_peak_rss()
    before = rss()
    begin = time.perf_counter()
    total = sum(future.result() for future in item.map(count_up(n)))
    assert total == n * (n - 1) // 2, total
    return {"seconds": time.perf_counter() - begin, "rss_before": before, "rss_peak": peak_rss()}


PROBES = {"memory": memory, "first-result": first_result, "storm": storm, "stream": stream}

if __name__ == "__main__":
    _, name, n, repeats = sys.argv
    print(json.dumps(PROBES[name](int(n), int(repeats))))
