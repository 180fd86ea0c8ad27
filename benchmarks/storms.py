"""What failures cost: maps of which all items fail, or fail once, beside the same maps that succeed.

python benchmarks/storms.py [--smoke] [--items 1000000] [--repeats 3] [--backends inline threads processes]
                            [--only success same-text ...]

Each measurement has a process of its own, whose driver memory it shows; backends are warm. The ratio is to
`success` (to `chain-success` for chains) on the same backend in the same run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from _measure import Line, print_line

from graphflow import task_context

SLOTS = 2
BACKENDS = ("inline", "threads", "processes")


def succeed(x: int) -> int:
    """No failure at all."""
    return x


def fail_alike(x: int) -> int:
    """One text for all items."""
    raise ValueError("bad item")


def fail_apart(x: int) -> int:
    """A text of its own for each item."""
    raise ValueError(f"bad item {x}")


def fail_once(x: int) -> int:
    """Fails at its first attempt."""
    if task_context().attempt == 1:
        raise ValueError(f"bad item {x}")
    return x


def fail_once_in_a_hundred(x: int) -> int:
    """1 % of the items fail at their first attempt."""
    if x % 100 == 0 and task_context().attempt == 1:
        raise ValueError(f"bad item {x}")
    return x


def _flow(bodies: Sequence[Callable[[int], int]], *, options: dict[str, Any], fused: bool = True) -> Any:
    from graphflow import flow, task

    tasks = [task(body, **options) for body in bodies]
    if not fused:
        tasks[-1] = tasks[-1].with_options(priority=1)

    @flow
    def storm(count: int) -> None:
        values: Any = range(count)
        for each in tasks:
            values = each.map(values)

    return storm


CASES: dict[str, Callable[[], Any]] = {
    "success": lambda: _flow([succeed], options={}),
    "same-text": lambda: _flow([fail_alike], options={}),
    "distinct-texts": lambda: _flow([fail_apart], options={}),
    "retry-all": lambda: _flow([fail_once], options={"retries": 1}),
    "retry-all-later": lambda: _flow([fail_once], options={"retries": 1, "retry_delay_seconds": 0.001}),
    "retry-1%": lambda: _flow([fail_once_in_a_hundred], options={"retries": 1}),
    "chain-success": lambda: _flow([succeed, succeed], options={}),
    "chain-fused": lambda: _flow([fail_alike, succeed], options={}),
    "chain-unfused-success": lambda: _flow([succeed, succeed], options={}, fused=False),
    "chain-unfused": lambda: _flow([fail_alike, succeed], options={}, fused=False),
}
BASES = {"chain-fused": "chain-success", "chain-unfused": "chain-unfused-success"}


def rss(name: str) -> int:
    """`VmRSS` or `VmHWM` of this process, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


def measure(case: str, backend_name: str, items: int, repeats: int) -> None:
    """Run one case in this process, and print what came out as JSON."""
    from graphflow import backends

    maker = getattr(backends, backend_name)
    with maker() if backend_name == "inline" else maker(slots=SLOTS) as backend:
        storm = CASES[case]().with_options(backend=backend)
        storm.run(100)
        before = rss("VmRSS")
        seconds: list[float] = []
        paging: list[float] = []
        for _ in range(repeats):
            begin = time.perf_counter()
            run = storm.run(items)
            seconds.append(time.perf_counter() - begin)
            peak = rss("VmHWM") - before
            begin = time.perf_counter()
            page(run)
            paging.append(time.perf_counter() - begin)
        document = {"seconds": seconds, "paging": statistics.median(paging), "driver_nbytes": peak}
        print(json.dumps(document), flush=True)


def page(run: Any) -> None:
    """What somebody who looks at a storm asks for: how many, the first ones, one in the middle, the kinds."""
    for node in run.nodes:
        failures = node.failures()
        looked_at = [*failures[:20], *failures[len(failures) // 2 :][:1]]
        assert all(each.exception is not None and each.attempts >= 0 for each in looked_at)
        if failures:
            assert node.exception is not None


def main() -> None:
    """Run each case on each backend."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="small sizes, one repeat")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, help="at smoke size: threads")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    items, repeats = (2_000, 1) if given.smoke else (given.items, given.repeats)
    if given.measure:
        measure(*given.measure, items, repeats)
        return
    medians: dict[tuple[str, str], float] = {}
    for backend in given.backends or (("threads",) if given.smoke else BACKENDS):
        for case in given.only:
            command = [sys.executable, __file__, "--measure", case, backend]
            command += ["--items", str(items), "--repeats", str(repeats)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found = json.loads(done.stdout.splitlines()[-1])
            medians[case, backend] = statistics.median(found["seconds"])
            base = medians.get((BASES.get(case, "success"), backend))
            print_line(
                Line(
                    question="storm",
                    system=f"graphflow {case} on {backend}",
                    sizes={"items": items, "slots": 1 if backend == "inline" else SLOTS},
                    seconds=found["seconds"],
                    items=items,
                ),
                **({"ratio": medians[case, backend] / base} if base else {}),
                driver_mb=found["driver_nbytes"] / 1e6,
                paging_seconds=found["paging"],
            )


if __name__ == "__main__":
    main()
