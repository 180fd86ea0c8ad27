"""A measurement as one JSON line: what is written, read, compared and shown."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from graphflow.errors import GraphflowError

__all__ = ["BenchError", "Line", "Status", "newest", "read_lines"]


class BenchError(GraphflowError, ValueError):
    """A benchmark cannot be run, read or shown as asked."""


class Status(StrEnum):
    """How a measurement ended."""

    OK = "ok"
    SKIPPED = "skipped"
    """Not run: it would take too long, or a package is missing."""
    CANNOT = "cannot"
    """The system has no way to do this."""
    TIMEOUT = "timeout"
    WRONG = "wrong"
    """It ended with another result than a plain loop."""
    ERROR = "error"


class Line(BaseModel):
    """One (workload, peer, n).

    Seconds are wall time. `startup_seconds` is from nothing to the end of a map of one no-op item per
    slot, imports included; `first_seconds` the first run after that; `seconds` the median of the runs
    after it, all of which are in `seconds_all`. CPU time is that of the whole process tree.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    workload: str
    variant: str = ""
    peer: str
    n: int
    slots: int
    status: Status = Status.OK
    reason: str = ""
    note: str = ""
    is_smoke: bool = False

    repeats: int = 0
    startup_seconds: float | None = None
    first_seconds: float | None = None
    seconds: float | None = None
    seconds_all: tuple[float, ...] = ()
    us_per_item: float | None = None
    cpu_us_per_item: float | None = None
    ideal_seconds: float | None = None
    percent_of_ideal: float | None = None
    times_ideal: float | None = None

    peak_rss_bytes: int | None = None
    """Of the driver process."""
    driver_bytes_per_item: float | None = None
    """By how much the runs raised the driver's resident memory at its peak, per item."""
    tree_peak_rss_bytes: int | None = None
    """Of the process and its descendants together, looked at twice a second."""

    versions: dict[str, str] = {}
    machine: dict[str, int | str] = {}
    commit: str = ""
    command: str = ""

    @property
    def key(self) -> str:
        """Workload and variant."""
        return f"{self.workload}/{self.variant}" if self.variant else self.workload

    @property
    def is_ok(self) -> bool:
        """Whether there are figures."""
        return self.status is Status.OK and self.seconds is not None

    def to_json(self) -> str:
        """Return the line, without what was not measured."""
        return self.model_dump_json(exclude_none=True)


def read_lines(path: Path) -> list[Line]:
    """Return the measurements of a file, one JSON document per line.

    Raises
    ------
    BenchError
        If the file cannot be read, has a line that is not a measurement, or has none at all.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BenchError(f"cannot read {str(path)!r}: {reason}") from error
    found = [
        _parsed(line, f"line {number} of {str(path)!r}")
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip()
    ]
    if not found:
        raise BenchError(
            f"{str(path)!r} has no measurements; `graphflow bench run --output FILE` writes them"
        )
    return found


def _parsed(line: str, where: str) -> Line:
    try:
        return Line.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        what = f"{place}: {first['msg']}" if place else first["msg"]
        raise BenchError(f"{where} is not a measurement of `graphflow bench run`: {what}") from error


def newest(lines: Iterable[Line]) -> dict[tuple[str, str, int], Line]:
    """Return the last line of each (workload, peer, n)."""
    return {(line.key, line.peer, line.n): line for line in lines}
