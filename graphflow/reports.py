"""What comes back from a backend: the report of a batch, and the records inside it."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from graphflow.orders import Ref

__all__ = ["Anomaly", "ErrorRecord", "Graft", "LogRecord", "Report", "StepReport", "ValueInfo"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorRecord:
    """An exception as it was found, once per distinct (type, text, place).

    `exception` is the live object in this process, `pickled` its bytes where it came from another and
    can be restored there; both may be missing, the texts never are.
    """

    type_name: str
    message: str
    traceback: str
    exception: BaseException | None = None
    pickled: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Anomaly:
    """One attempt that did not simply succeed.

    `code` is the state it ended in (`AWAITING_RETRY` when another follows), `delay` the seconds until
    the next attempt, `error` an index into the report's errors or -1, `started` seconds since the
    epoch, `duration` seconds.
    """

    position: int
    attempt: int
    code: int
    started: float
    duration: float
    error: int = -1
    delay: float = 0.0
    inputs: str = ""
    label: str | None = None
    outcome: int = 0
    """What the attempt itself ended as (`FAILED`, `TIMED_OUT`, ...) when `code` is `AWAITING_RETRY`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueInfo:
    """What a value is to a map: its length, or why it is not mapped."""

    kind: Literal["sized", "scalar", "refused"]
    type_name: str
    length: int = 0
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Graft:
    """A fragment that a task recorded: it takes the item's place. `fragment` is opaque to the core."""

    position: int
    fragment: Any


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One line of a task's or flow's log."""

    timestamp: float
    level: int
    message: str
    logger: str = "graphflow"
    node: str = ""
    index: int | None = None
    attempt: int = 0
    worker: str = ""
    run_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What happened to each item at one task.

    `states` has one code per position reached, `attempts` the attempts made in all (also in earlier
    batches), `starts` seconds after the report's `started`, `durations` seconds. `values` and `labels`
    are columns with one entry per position reached, None where there is no value.
    """

    node: int
    states: bytes
    attempts: bytes
    starts: array[float]
    durations: array[float]
    values: Ref | None = None
    labels: Ref | None = None
    info: ValueInfo | None = None
    anomalies: Sequence[Anomaly] = ()
    grafts: Sequence[Graft] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a batch gives back: the outcome of the first `reached` positions; the rest was not begun.

    `cpu_seconds` is the CPU time of the batch's thread, `is_remote` tells that it ran in another process than
    the driver's, `is_refused` that nothing was executed because the batch could not be read there.
    """

    batch: int
    worker: str
    started: float
    elapsed: float
    reached: int
    steps: tuple[StepReport, ...]
    errors: Sequence[ErrorRecord] = ()
    logs: Sequence[LogRecord] = ()
    logs_dropped: int = 0
    cpu_seconds: float = 0.0
    is_remote: bool = False
    is_refused: bool = False
