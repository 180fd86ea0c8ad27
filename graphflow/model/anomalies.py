"""What was out of the ordinary in a batch, packed: attempts that did not simply succeed, and their errors.

Nothing here is an object per item. An item that failed at its last attempt is one entry of `Faults`, since the
step's own columns tell the rest; other attempts (retried, parked) are rows of an `AnomalyTable`. An error is
named by a number in its batch: k > 0 is the full record k - 1, -k the *variant* k - 1, which is an error that differs
from a full record by its text alone, and 0 is none.
"""

from __future__ import annotations

import bisect
import operator
import pickle
import zlib
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from typing import Any, SupportsIndex, overload

from graphflow.model.states import Code

__all__ = [
    "CHUNK",
    "NO_ERROR",
    "Anomaly",
    "AnomalyTable",
    "ErrorRecord",
    "Faults",
    "Parts",
    "Told",
    "Variants",
    "pack_chunk",
    "retold",
    "waiting",
]

NO_ERROR = 0
CHUNK = 1_024
"""Texts of variants that are packed together."""
MAX_ATTEMPT = 65_535
_ENDS = (Code.FAILED, Code.TIMED_OUT, Code.SKIPPED, Code.UPSTREAM_FAILED, Code.INDETERMINATE)
"""The states that an error may lead to."""
_ENDS_TABLE = bytes(code in _ENDS for code in range(256))


@dataclass(frozen=True, slots=True)
class Told:
    """What a history knows of an exception, as values of JSON."""

    values: Any


Parts = (
    tuple[tuple[Any, ...], Mapping[str, Any]]
    | tuple[tuple[Any, ...], Mapping[str, Any], Mapping[str, Any]]
    | bytes
    | Told
)
"""What an exception is made of: its arguments, its attributes, and what it may hold beside them; or its pickle, or what a history knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorRecord:
    """An exception as it was found, once per distinct content.

    `exception` is the live object in this process, `pickled` its bytes where it came from another and
    can be restored there; both may be missing, the texts never are. `place` is the line that raised. A variant has
    neither: its exception is made like that of the record `like`, of `parts`, or cannot be made. `content` tells it from
    others of the same type, text and place: empty where it is nothing but its text.
    """

    type_name: str
    message: str
    traceback: str
    exception: BaseException | None = None
    pickled: bytes | None = None
    place: str = ""
    like: ErrorRecord | None = None
    parts: Parts | None = None
    content: bytes = b""

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is counted by."""
        return self.type_name, self.message, self.place

    @property
    def identity(self) -> tuple[str, str, str, bytes]:
        """What makes it distinct."""
        return self.type_name, self.message, self.place, self.content


@dataclass(frozen=True, slots=True, kw_only=True)
class Variants:
    """Errors that differ from a full record by their text alone.

    They come in chunks of up to `CHUNK`; `records` holds, per chunk, the place of the record that its errors are
    like. A chunk packs the texts, and the parts of errors that are more than their text.
    """

    records: array[int]
    chunks: tuple[bytes, ...]

    @property
    def nbytes(self) -> int:
        """What it weighs."""
        return sum(map(len, self.chunks)) + len(self.records) * self.records.itemsize

    def named_by(self, numbers: Iterable[int | Sequence[int] | Sequence[Anomaly]]) -> Variants | None:
        """Return the same without the texts of chunks that no number, or error of an anomaly, names."""
        named: set[int] = set()
        for each in numbers:
            if isinstance(each, AnomalyTable):
                each = each.errors
            named.update((each,) if isinstance(each, int) else set(each))  # type: ignore[arg-type]
        kept = {(-number - 1) // CHUNK for number in named if number < 0}
        if not kept:
            return None
        return replace(
            self, chunks=tuple(data if place in kept else b"" for place, data in enumerate(self.chunks))
        )

    def chunk(self, number: int) -> tuple[list[str], dict[int, Parts | None]]:
        """Return the texts of a chunk, and by their place in it the parts of those that are more than a text.

        Where the parts are None, they could not be kept.
        """
        unpacked: tuple[list[str], dict[int, Parts | None]] = pickle.loads(
            zlib.decompress(self.chunks[number])
        )
        return unpacked


def pack_chunk(texts: Sequence[str], parts: Mapping[int, Parts | None]) -> bytes:
    """Return a chunk of variants; what cannot be pickled must not be among the parts."""
    return zlib.compress(pickle.dumps((list(texts), dict(parts)), protocol=5), 1)


def retold(traceback: str, message: str, other: str) -> str:
    """Return a traceback that ends with a message, as that of an error of the same type and place with another message."""
    head = traceback.rstrip()
    if not message or not head.endswith(message.rstrip()):
        return traceback
    return f"{head[: len(head) - len(message.rstrip())]}{other}\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """The items of a step that ended in an error at their last attempt, by ascending position.

    `errors` has one number per position, or is the one that all share. `inputs` are summaries of arguments, of
    some. State, attempts and times are the step's own.
    """

    positions: Sequence[int] = ()
    errors: Sequence[int] | int = NO_ERROR
    inputs: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, states: bytes, marks: array[int], inputs: Mapping[int, str] | None = None) -> Faults:
        """Pack what a step booked: `marks` holds the number of the error per position."""
        if not any(map(states.count, _ENDS)):
            return cls()
        positions = array("I", compress(range(len(states)), states.translate(_ENDS_TABLE)))
        numbers = marks[: len(states)]
        if len(positions) < len(states):
            numbers = array("i", map(numbers.__getitem__, positions))
        if 0 in numbers:
            # An item that ended because of another has no error of its own.
            positions = array("I", compress(positions, numbers))
            numbers = array("i", filter(None, numbers))
        if not numbers:
            return cls()
        is_range = positions[-1] - positions[0] == len(positions) - 1
        is_one = numbers.tobytes() == numbers[:1].tobytes() * len(numbers)
        return cls(
            positions=range(positions[0], positions[-1] + 1) if is_range else positions,
            errors=numbers[0] if is_one else numbers,
            inputs=inputs or {},
        )

    def __len__(self) -> int:
        return len(self.positions)

    def error_at(self, position: int) -> int | None:
        """Return the number of the error at a position, None if no error ended it. O(log items)."""
        positions = self.positions
        if isinstance(positions, range):
            if position not in positions:
                return None
            at = position - positions.start
        else:
            at = bisect.bisect_left(positions, position)
            if at == len(positions) or positions[at] != position:
                return None
        return self.errors if isinstance(self.errors, int) else self.errors[at]

    def numbers(self) -> Iterable[int]:
        """Return the numbers of the errors, one per position."""
        return [self.errors] * len(self.positions) if isinstance(self.errors, int) else self.errors

    def only(self, states: bytes, codes: Collection[int]) -> Faults:
        """Return those of items in some states."""
        kept = [
            (position, number)
            for position, number in zip(self.positions, self.numbers(), strict=True)
            if states[position] in codes
        ]
        return Faults(
            positions=array("I", [position for position, _ in kept]),
            errors=array("i", [number for _, number in kept]),
        )

    def without_inputs(self) -> Faults:
        """Return the same without summaries."""
        return replace(self, inputs={}) if self.inputs else self


@dataclass(frozen=True, slots=True, kw_only=True)
class Anomaly:
    """One attempt that did not simply succeed.

    `code` is the state it ended in (`AWAITING_RETRY` when another follows), `delay` the seconds until
    the next attempt, `error` the number of its error or `NO_ERROR`, `started` seconds since the
    epoch, `duration` seconds.
    """

    position: int
    attempt: int
    code: int
    started: float
    duration: float
    error: int = NO_ERROR
    delay: float = 0.0
    inputs: str = ""
    outcome: int = 0
    """What the attempt itself ended as (`FAILED`, `TIMED_OUT`, ...) when `code` is `AWAITING_RETRY`."""


class AnomalyTable(Sequence[Anomaly]):
    """Anomalies in the order in which they were booked, in columns of 32 bytes a row; gives `Anomaly` objects."""

    __slots__ = (
        "attempts",
        "codes",
        "delays",
        "durations",
        "errors",
        "inputs",
        "outcomes",
        "positions",
        "started",
    )

    def __init__(self) -> None:
        self.positions = array("I")
        self.attempts = array("H")
        self.codes = bytearray()
        self.outcomes = bytearray()
        self.errors = array("i")
        self.started = array("d")
        self.durations = array("f")
        self.delays = array("d")
        self.inputs: dict[int, str] = {}
        """Summaries of arguments, by row."""

    @classmethod
    def of(cls, anomalies: Iterable[Anomaly]) -> AnomalyTable:
        """Return a table of anomalies; the same one if it is a table."""
        if isinstance(anomalies, cls):
            return anomalies
        table = cls()
        for each in anomalies:
            table.add(each)
        return table

    def add(self, anomaly: Anomaly) -> None:
        """Add a row."""
        if anomaly.inputs:
            self.inputs[len(self)] = anomaly.inputs
        self.book(
            anomaly.position,
            anomaly.attempt,
            anomaly.code,
            anomaly.outcome,
            anomaly.error,
            anomaly.started,
            anomaly.duration,
            anomaly.delay,
        )

    def book(
        self,
        position: int,
        attempt: int,
        code: int,
        outcome: int,
        error: int,
        started: float,
        duration: float,
        delay: float,
    ) -> None:
        """Add a row by its columns."""
        self.positions.append(position)
        self.attempts.append(attempt if attempt < MAX_ATTEMPT else MAX_ATTEMPT)
        self.codes.append(code)
        self.outcomes.append(outcome)
        self.errors.append(error)
        self.started.append(started)
        self.durations.append(duration)
        self.delays.append(delay)

    def __len__(self) -> int:
        # The column that is written last.
        return len(self.delays)

    @overload
    def __getitem__(self, row: SupportsIndex) -> Anomaly: ...
    @overload
    def __getitem__(self, row: slice) -> list[Anomaly]: ...
    def __getitem__(self, row: SupportsIndex | slice) -> Anomaly | list[Anomaly]:
        if isinstance(row, slice):
            return [self[each] for each in range(*row.indices(len(self)))]
        row = operator.index(row)
        at = row if row >= 0 else len(self) + row
        return Anomaly(
            position=self.positions[at],
            attempt=self.attempts[at],
            code=self.codes[at],
            outcome=self.outcomes[at],
            error=self.errors[at],
            started=self.started[at],
            duration=self.durations[at],
            delay=self.delays[at],
            inputs=self.inputs.get(at, ""),
        )

    def __iter__(self) -> Iterator[Anomaly]:
        return (self[row] for row in range(len(self)))

    def __repr__(self) -> str:
        return f"<AnomalyTable of {len(self):,} rows>"

    def rows_of(self, position: int) -> list[int]:
        """Return the rows of a position, in order. O(rows), at the speed of `array.index`."""
        found: list[int] = []
        start = 0
        try:
            while True:
                start = self.positions.index(position, start) + 1
                found.append(start - 1)
        except ValueError:
            return found

    def rows_with(self, code: int) -> Iterable[int]:
        """Return the rows with a code, in order."""
        total = self.codes.count(code)
        if total == len(self.codes):
            return range(total)
        found: list[int] = []
        at = -1
        for _ in range(total):
            at = self.codes.find(code, at + 1)
            found.append(at)
        return found

    def part(self, positions: Sequence[int]) -> AnomalyTable:
        """Return the rows of these positions, which are then named by their places among them.

        Rows that another thread adds meanwhile are left out.
        """
        total = len(self)
        if isinstance(positions, range):
            rows: Sequence[int] = [row for row in range(total) if self.positions[row] in positions]
            places = array("I", [self.positions[row] - positions.start for row in rows])
        else:
            known = {position: place for place, position in enumerate(positions)}
            rows = [row for row in range(total) if self.positions[row] in known]
            places = array("I", [known[self.positions[row]] for row in rows])
        made = AnomalyTable()
        for name in ("attempts", "codes", "delays", "durations", "errors", "outcomes", "started"):
            column = getattr(self, name)
            part = column[:total]
            if len(rows) < total:
                part = column[:0]
                part.extend([column[row] for row in rows])
            setattr(made, name, part)
        made.positions = places
        inputs = dict(self.inputs)
        made.inputs = (
            {place: inputs[row] for place, row in enumerate(rows) if row in inputs} if inputs else {}
        )
        return made


def waiting(anomalies: Sequence[Anomaly], code: Code) -> Iterator[tuple[int, int, float]]:
    """Yield (position, attempt, delay) of the anomalies with a code; creates no objects if they are a table."""
    if not isinstance(anomalies, AnomalyTable):
        anomalies = AnomalyTable.of(anomalies)
    rows = anomalies.rows_with(code)
    if isinstance(rows, range):
        return zip(anomalies.positions, anomalies.attempts, anomalies.delays, strict=True)
    positions, attempts, delays = anomalies.positions, anomalies.attempts, anomalies.delays
    return ((positions[row], attempts[row], delays[row]) for row in rows)
