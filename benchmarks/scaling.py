"""Runs too long or too wide to wait for, in virtual time: what a driver keeps and costs per item.

python benchmarks/scaling.py [--smoke] [--items N --slots N --seconds S]

The core, the books, the orders and the history on disk are the real ones; workers and the clock are not
(`tests/simulation/simulator/long_runs.py`). Dask's own cost per batch (about 3 ms of CPU in the driver) is not in it.
Prints one JSON line per run, and a table on stderr.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "simulation"))

from graphflow.bench.place import commit, machine, versions
from simulator.long_runs import Shape, run

SHAPES = (
    Shape(items=1_000_000, slots=16, seconds=0.02),
    Shape(items=500_000, slots=512, seconds=0.5),
    Shape(items=5_000_000, slots=10_000, seconds=1.0),
)
SMOKE = (Shape(items=20_000, slots=16, seconds=0.02), Shape(items=50_000, slots=1_000, seconds=1.0))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--items", type=int)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=0.02)
    asked = parser.parse_args()
    shapes = SMOKE if asked.smoke else SHAPES
    if asked.items:
        shapes = (Shape(items=asked.items, slots=asked.slots, seconds=asked.seconds),)
    about = {"commit": commit(), "machine": machine(), "versions": versions(["graphflow"])}
    for shape in shapes:
        with tempfile.TemporaryDirectory(prefix="graphflow-scaling-") as folder:
            found = run(shape, Path(folder))
        print(json.dumps({"benchmark": "scaling", **found, **about}), flush=True)
        shown = "  ".join(f"{name} {value:,}" for name, value in found.items())
        print(shown, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
