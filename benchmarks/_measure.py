"""What every benchmark prints: one JSON line per measurement, with where it was taken."""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["Line", "home", "print_line", "show", "timed"]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One measurement: `seconds` has one entry per repeat."""

    question: str
    system: str
    sizes: Mapping[str, int]
    seconds: Sequence[float]
    items: int


def timed(call: Callable[[], object]) -> float:
    """The wall seconds of a call."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


@contextmanager
def home(kind: str = "disk") -> Iterator[Path]:
    """A home of its own for what follows; `kind` is that of its histories."""
    folder = Path(tempfile.mkdtemp(prefix="graphflow-bench-"))
    before = dict(os.environ)
    os.environ.update(GRAPHFLOW_HOME=str(folder), GRAPHFLOW_HISTORY=kind)
    try:
        yield folder
    finally:
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(folder, ignore_errors=True)


def show(figures: Mapping[str, Any]) -> None:
    """Print one figure with its budget and the machine."""
    place = {"python": platform.python_version(), "cpus": os.cpu_count(), "dask": metadata.version("dask")}
    print(json.dumps({**figures, **place}), flush=True)


def print_line(line: Line, **extra: float) -> None:
    """Print a measurement with medians, versions and machine."""
    median = statistics.median(line.seconds)
    document = {
        "question": line.question,
        "system": line.system,
        **line.sizes,
        "repeats": len(line.seconds),
        "seconds": round(median, 6),
        "seconds_all": [round(value, 6) for value in line.seconds],
        "us_per_item": round(median / line.items * 1e6, 3),
        **{name: round(value, 5) for name, value in extra.items()},
        # Of this process so far; kB on Linux, bytes on macOS.
        "peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "commit": _commit(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("graphflow", "dask", "distributed")},
        "machine": {"cpus": os.cpu_count(), "system": platform.system(), "arch": platform.machine()},
    }
    print(json.dumps(document), flush=True)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _commit() -> str:
    here = Path(__file__).parent
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True)
    return done.stdout.strip()
