"""Lines as a run would write them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graphflow.bench.lines import Line

MakeLine = Callable[..., Line]


def _line(peer: str = "graphflow", n: int = 100, seconds: float | None = 0.1, **given: Any) -> Line:
    fields: dict[str, Any] = {
        "workload": "W1",
        "slots": 2,
        "repeats": 3,
        "seconds": seconds,
        "us_per_item": None if seconds is None else seconds / n * 1e6,
        "versions": {"python": "3.11.7", "graphflow": "0.1.0", "dask": "2026.8.0"},
        "machine": {"cpus": 2, "system": "Linux", "arch": "x86_64"},
        "commit": "abc1234",
        "command": "graphflow bench run --repeats 3 --slots 2",
        **given,
    }
    return Line(peer=peer, n=n, **fields)


@pytest.fixture
def line() -> MakeLine:
    """Make a line; what is not given is that of a plain measurement."""
    return _line


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write lines to a file."""

    def write(*lines: Line, name: str = "results.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(line.to_json() + "\n" for line in lines), encoding="utf-8")
        return path

    return write
