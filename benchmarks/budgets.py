"""Every budget of the design that concerns maps, measured, beside the peers where it names one.

python benchmarks/budgets.py [--smoke] [--repeats 3] [--only noop tail ...]

Prints one JSON line per budget, and a table on stderr. A budget that is missed does not change the exit
code; one that cannot be measured does. At smoke sizes nothing is judged.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine import IMPORT, run_command

from graphflow.bench.harness import run_benchmark
from graphflow.bench.isolated import run_isolated
from graphflow.bench.lines import Line
from graphflow.bench.place import commit, machine, versions
from graphflow.bench.plan import Asked

PROBES = Path(__file__).parent / "_probes.py"
TIMEOUT_SECONDS = 900.0
OWN = ("graphflow", "graphflow-default")
SMOKE_PEERS = ["graphflow", "graphflow-default", "client.map", "joblib", "pool"]
SMOKE_WORKLOADS = ["W1", "W3", "W3/cold", "W5", "W6", "W8"]
MEGABYTE = 1e6


class NotMeasured(Exception):
    """A measurement gave no figure; the text says why."""


@dataclass(frozen=True)
class Found:
    """A figure and what it may be at most, or at least; None where it is only shown."""

    what: str
    value: float
    unit: str
    at_most: float | None = None
    at_least: float | None = None
    details: Mapping[str, Any] | None = None

    @property
    def is_met(self) -> bool:
        """Whether the figure is within its budget."""
        is_low = self.at_most is None or self.value <= self.at_most
        return is_low and (self.at_least is None or self.value >= self.at_least)


class Measure:
    """Measures by the harness and by the probes, at full or smoke size."""

    def __init__(self, *, is_smoke: bool, repeats: int) -> None:
        self._is_smoke = is_smoke
        self._repeats = 1 if is_smoke else repeats
        self._lines: dict[tuple[str, str, int], Line] = {}

    def size(self, full: int, smoke: int) -> int:
        """A number of items."""
        return smoke if self._is_smoke else full

    def line(self, key: str, peer: str, n: int) -> Line:
        """A measurement by the harness, made once."""
        if self._is_smoke and not self._lines:
            # All in a few processes: the sizes are the harness's own then.
            asked = Asked(workloads=SMOKE_WORKLOADS, peers=SMOKE_PEERS, repeats=1, is_smoke=True)
            self._lines = {(line.key, line.peer, 0): line for line in run_benchmark(asked)}
        place = key, peer, 0 if self._is_smoke else n
        if place not in self._lines:
            asked = Asked(
                workloads=[key],
                peers=[peer],
                sizes=[n],
                repeats=self._repeats,
                limit_seconds=120,
                timeout_seconds=TIMEOUT_SECONDS,
            )
            (self._lines[place],) = [line for line in run_benchmark(asked) if line.key == key]
        line = self._lines[place]
        if not line.is_ok:
            raise NotMeasured(f"{key} by {peer}: {line.status}: {line.reason}")
        return line

    def seconds(self, key: str, peer: str, n: int) -> float:
        """Its median."""
        seconds = self.line(key, peer, n).seconds
        assert seconds is not None
        return seconds

    def probe(self, name: str, n: int) -> dict[str, Any]:
        """A question of `_probes.py`, in a process of its own."""
        command = [sys.executable, str(PROBES), name, str(n), str(self._repeats)]
        ended = run_isolated(command, timeout_seconds=TIMEOUT_SECONDS)
        if ended.is_timeout:
            raise NotMeasured(f"{name} of {n:,} items: not done after {TIMEOUT_SECONDS:g} s")
        if ended.code:
            raise NotMeasured(f"{name} of {n:,} items: exit code {ended.code}; {ended.last_words}")
        found: dict[str, Any] = json.loads(ended.out.splitlines()[-1])
        return {**found, "n": n, "rss_tree": ended.tree_peak_rss_bytes}

    def import_seconds(self) -> float:
        """Of `from graphflow import flow, task`, the median of cold processes."""
        with tempfile.TemporaryDirectory() as folder:
            script = Path(folder) / "imports.py"
            script.write_text(IMPORT, encoding="utf-8")
            return sorted(float(run_command([sys.executable, str(script)])) for _ in range(5))[2]


def noop(measure: Measure) -> Iterator[Found]:
    """No-op items, warm."""
    n = measure.size(1_000_000, 1_000)
    own = measure.line("W1", "graphflow", n)
    assert own.us_per_item is not None
    details = {"cpu_us_per_item": own.cpu_us_per_item}
    yield Found(
        f"no-op map of {own.n:,} items, local cluster, warm", own.us_per_item, "µs", 1.0, details=details
    )
    few = measure.size(10_000, 100)
    raw = measure.line("W1", "client.map", few).us_per_item
    assert raw is not None
    details = {"us_per_item": raw, "n": few}
    yield Found("client.map costs so many times as much", raw / own.us_per_item, "×", None, 500, details)
    for peer, budget in (("joblib", 1.0), ("pool", 4.0)):
        theirs = measure.seconds("W1", peer, n)
        details = {"us_per_item": theirs / n * 1e6}
        yield Found(
            f"time over that of {peer}",
            measure.seconds("W1", "graphflow", n) / theirs,
            "×",
            budget,
            None,
            details,
        )


def cpu(measure: Measure) -> Iterator[Found]:
    """CPU-bound items, workers up and from cold."""
    n = measure.size(400, 10)
    for peer in OWN:
        share = measure.line("W3", peer, n).percent_of_ideal
        assert share is not None
        yield Found(f"{n} items of 50 ms CPU work, {peer}, workers up", share, "%", None, 98)
    joblib = measure.seconds("W3/cold", "joblib", n)
    for peer in OWN:
        ratio = measure.seconds("W3/cold", peer, n) / joblib
        yield Found(f"the same from cold process to exit, {peer} over joblib", ratio, "×", 1.0)


def tail(measure: Measure) -> Iterator[Found]:
    """Heavy-tailed items."""
    for key, full, budget in (
        ("W5", 1_000, 1.05),
        ("W5/slow-last", 1_000, 1.05),
        ("W5/16-slots", 10_000, 1.15),
        ("W5/16-slots-slow-last", 10_000, 1.15),
    ):
        ratio = measure.line(key, "graphflow", measure.size(full, 20)).times_ideal
        assert ratio is not None
        yield Found(f"{key}, over work / slots + longest item", ratio, "×", budget)


def requests(measure: Measure) -> Iterator[Found]:
    """Async items."""
    line = measure.line("W8", "graphflow", measure.size(5_000, 50))
    ratio = line.times_ideal
    assert ratio is not None
    yield Found(f"{line.n:,} requests of 100 ms, over the ideal", ratio, "×", 1.3)


def memory(measure: Measure) -> Iterator[Found]:
    """The driver's memory, and that of everything at ten million items."""
    few = measure.probe("memory", measure.size(1_000_000, 1_000))
    many = measure.probe("memory", measure.size(10_000_000, 10_000))
    for found in (few, many):
        per_item = (found["rss_peak"] - found["rss_before"]) / found["n"]
        yield Found(f"driver memory of {found['n']:,} items, at its peak", per_item, "B/item", details=found)
    per_item = (many["rss_peak"] - few["rss_peak"]) / (many["n"] - few["n"])
    yield Found("driver memory per further item", per_item, "B/item", 16)
    yield Found(f"all processes, {many['n']:,} items", many["rss_tree"] / MEGABYTE, "MB", 16_000)
    yield Found(f"wall time of {many['n']:,} items", many["seconds"] / many["n"] * 1e6, "µs/item")


def first_result(measure: Measure) -> Iterator[Found]:
    """How long the first value takes."""
    found = measure.probe("first-result", measure.size(1_000_000, 1_000))
    yield Found(f"first result of {found['n']:,} items, warm", found["seconds"] * 1e3, "ms", 100)


def start(measure: Measure) -> Iterator[Found]:
    """Cold starts."""
    yield Found(
        "one-task flow, cold process to exit", measure.seconds("W6", "graphflow-default", 1), "s", 1.0
    )
    yield Found("from graphflow import flow, task", measure.import_seconds() * 1e3, "ms", 150)


def storm(measure: Measure) -> Iterator[Found]:
    """Maps of which every item fails."""
    found = measure.probe("storm", measure.size(1_000_000, 1_000))
    ratio = found["seconds_fail"] / found["seconds_succeed"]
    yield Found(f"{found['n']:,} items that fail, over as many that succeed", ratio, "×", 2.0, details=found)


def stream(measure: Measure) -> Iterator[Found]:
    """A map over a generator, consumed item by item."""
    few = measure.probe("stream", measure.size(500_000, 1_000))
    many = measure.probe("stream", measure.size(5_000_000, 10_000))
    # Of two sizes, as what is in flight costs the same in both; all that was held before the end would show.
    per_item = (many["rss_peak"] - few["rss_peak"]) / (many["n"] - few["n"])
    what = f"memory per further item, {many['n']:,} streamed items"
    yield Found(what, per_item, "B/item", 16, details={"few": few, "many": many})
    yield Found("wall time of a streamed item", many["seconds"] / many["n"] * 1e6, "µs/item")


def plain(measure: Measure) -> Iterator[Found]:
    """Nodes that are not mapped, by tens of thousands in one graph."""
    for shape in ("nodes", "submitted", "chain", "tree"):
        found = measure.probe(shape, measure.size(50_000, 500))
        cpu = found["cpu_seconds"] / found["n"] * 1e6
        yield Found(f"{shape}, {found['n']:,} calls, built and run", cpu, "µs CPU", 200, details=found)
        if shape == "nodes":
            per_node = (found["rss_after"] - found["rss_before"]) / found["n"]
            yield Found(f"memory of a node, {found['n']:,} calls", per_node, "B", 2_000)


def nested(measure: Measure) -> Iterator[Found]:
    """Fan-out in fan-out."""
    found = measure.probe("nested", measure.size(10_000, 1_000))
    per_leaf = found["seconds"] / found["n"] * 1e6
    yield Found(f"fan-out in fan-out, {found['n']:,} leaves", per_leaf, "µs", 20, details=found)


def fixed(measure: Measure) -> Iterator[Found]:
    """What a warm durable run of one task costs; `small_runs.py` says where it goes."""
    found = measure.probe("small-runs", measure.size(200, 5))
    for name, budget in (("local", 10), ("processes", 15)):
        seconds = found[f"seconds_{name}"]
        yield Found(f"a warm run of one task, {name}", seconds * 1e3, "ms", budget, details=found)


BUDGETS: dict[str, Callable[[Measure], Iterator[Found]]] = {
    "noop": noop,
    "cpu": cpu,
    "tail": tail,
    "requests": requests,
    "memory": memory,
    "first-result": first_result,
    "start": start,
    "storm": storm,
    "stream": stream,
    "plain": plain,
    "nested": nested,
    "fixed": fixed,
}


def report(name: str, found: Found, *, is_smoke: bool) -> None:
    """A JSON line on stdout, and one for a person on stderr."""
    is_judged = not is_smoke and (found.at_most is not None or found.at_least is not None)
    document = {
        "budget": name,
        "what": found.what,
        "value": round(found.value, 4),
        "unit": found.unit,
        "at_most": found.at_most,
        "at_least": found.at_least,
        "is_met": found.is_met if is_judged else None,
        "is_smoke": is_smoke,
        "details": dict(found.details or {}),
        "commit": commit(),
        "versions": versions(["graphflow", "dask", "distributed"]),
        "machine": machine(),
    }
    print(json.dumps(document), flush=True)
    limits = [f"{sign} {limit:g}" for sign, limit in (("<=", found.at_most), (">=", found.at_least)) if limit]
    verdict = ("met" if found.is_met else "MISSED") if is_judged else ""
    value = f"{found.value:,.2f} {found.unit}"
    print(f"{verdict:<7}{value:>18}  {' '.join(limits):<9} {found.what}", file=sys.stderr)


def main() -> int:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smoke", action="store_true", help="small sizes, one repeat")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=BUDGETS, default=list(BUDGETS))
    given = parser.parse_args()
    measure = Measure(is_smoke=given.smoke, repeats=given.repeats)
    is_whole = True
    for name in given.only:
        try:
            for found in BUDGETS[name](measure):
                report(name, found, is_smoke=given.smoke)
        except NotMeasured as error:
            is_whole = False
            print(json.dumps({"budget": name, "error": str(error)}), flush=True)
            print(f"ERROR  {name}: {error}", file=sys.stderr)
    return 0 if is_whole else 1


if __name__ == "__main__":
    sys.exit(main())
