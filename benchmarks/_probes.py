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


def _plain(body: Callable[[int], Any], n: int) -> dict[str, float]:
    """The CPU time and the memory of a graph of `n` nodes that are not mapped, from the first call to the value."""
    built = flow(body).with_options(name="plain")
    assert built(100) is not None
    before = rss()
    begin, used = time.perf_counter(), time.process_time()
    run = built.run(n)
    used, seconds = time.process_time() - used, time.perf_counter() - begin
    assert run.result() is not None and len(run.nodes) >= n
    return {"seconds": seconds, "cpu_seconds": used, "rss_before": before, "rss_after": rss()}


def nodes(n: int, repeats: int) -> dict[str, float]:
    """Calls that need nothing of each other."""
    item = task(nothing)
    return _plain(lambda n: [item(i) for i in range(n)], n)


def submitted(n: int, repeats: int) -> dict[str, float]:
    """The same, each started as it is recorded."""
    item = task(nothing)
    return _plain(lambda n: [item.submit(i) for i in range(n)], n)


def chain(n: int, repeats: int) -> dict[str, float]:
    """Calls of which each needs the one before it."""
    item = task(nothing)

    def body(n: int) -> Any:
        value: Any = 0
        for _ in range(n):
            value = item(value)
        return [value]

    return _plain(body, n)


def tree(n: int, repeats: int) -> dict[str, float]:
    """Calls that halve the level below, down to one."""
    item, join = task(nothing), task(lambda one, other=0: one + other).with_options(name="join")

    def body(n: int) -> Any:
        level: list[Any] = [item(i) for i in range((n + 1) // 2)]
        while len(level) > 1:
            level = [join(*level[i : i + 2]) for i in range(0, len(level), 2)]
        return [level[0]]

    return _plain(body, n)


def nested(n: int, repeats: int) -> dict[str, float]:
    """A map whose items return maps, each of 100 items, on workers of its own."""
    leaf = task(nothing)
    branch = task(lambda x: leaf.map(range(100))).with_options(name="branch")
    with warm_workers() as backend:
        spread = flow(lambda n: branch.map(range(n))).with_options(backend=backend, name="nested")
        spread(4)
        begin, used = time.perf_counter(), time.process_time()
        run = spread.run(n // 100)
        seconds, used = time.perf_counter() - begin, time.process_time() - used
        assert run.result() == [list(range(100))] * (n // 100)
    return {"seconds": seconds, "cpu_seconds": used}


def small_runs(n: int, repeats: int) -> dict[str, float]:
    """Warm runs of one task, one after the other in one process: on `local`, and on workers of its own."""
    item = task(nothing)
    found: dict[str, float] = {}
    with warm_workers() as backend:
        for name, given in (("local", {}), ("processes", {"backend": backend})):
            small = flow(lambda x: item(x)).with_options(name="small", **given)
            for _ in range(3):
                small(1)
            walls, used = [], time.process_time()
            for number in range(n):
                begin = time.perf_counter()
                assert small(number) == number
                walls.append(time.perf_counter() - begin)
            found[f"cpu_seconds_{name}"] = (time.process_time() - used) / n
            found[f"seconds_{name}"] = statistics.median(walls)
    return found


PROBES = {
    "memory": memory,
    "first-result": first_result,
    "storm": storm,
    "stream": stream,
    "nodes": nodes,
    "submitted": submitted,
    "chain": chain,
    "tree": tree,
    "nested": nested,
    "small-runs": small_runs,
}

if __name__ == "__main__":
    _, name, n, repeats = sys.argv
    print(json.dumps(PROBES[name](int(n), int(repeats))))
