"""The errors of a run, kept once each: across batches, and counted per node with the items that they ended."""

from __future__ import annotations

import pickle
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, overload

from graphflow.common.exceptions import filled, made_of
from graphflow.common.wording import count_text
from graphflow.errors import GraphflowError, RemoteError
from graphflow.model.anomalies import CHUNK, NO_ERROR, ErrorRecord, Faults, Parts, Told, Variants, retold
from graphflow.model.reports import Report
from graphflow.model.states import Code
from graphflow.records.plain import made_again

__all__ = [
    "BatchErrors",
    "DistinctError",
    "DistinctErrors",
    "ErrorBook",
    "ErrorTally",
    "Ranges",
    "exception_of",
    "says",
]

MAX_RECORDS = 10_000
"""Errors that a run keeps in full."""
MAX_LIVE = 10
"""Exceptions of one type and place that a run keeps with the variables of the frames that raised them."""
MAX_NBYTES = 64 << 20
"""What the texts of all errors of a run may weigh, packed as they are."""
MAX_TALLIED = 10_000
"""The maximum number of distinct errors of a node."""
MAX_LISTED = 1_000
_NOT_KEPT = "<its text was not kept: this run has too many different errors>"


class BatchErrors:
    """The errors of one report, by their numbers."""

    __slots__ = ("_book", "records", "variants")

    def __init__(self, records: tuple[ErrorRecord, ...], variants: Variants | None, book: ErrorBook) -> None:
        self.records = records
        self.variants = variants
        self._book = book

    def record(self, number: int) -> ErrorRecord | None:
        """Return the error of a number, None for none."""
        if number > 0:
            return self.records[number - 1]
        if number == NO_ERROR or self.variants is None:
            return None
        variant = -number - 1
        like = self.records[self.variants.records[variant // CHUNK]]
        if not self.variants.chunks:
            return replace(like, message=_NOT_KEPT, exception=None, pickled=None, like=like)
        texts, parts = self._book.chunk(self.variants, variant // CHUNK)
        text = texts[variant % CHUNK]
        return ErrorRecord(
            type_name=like.type_name,
            message=text,
            traceback=retold(like.traceback, like.message, text),
            place=like.place,
            like=like,
            parts=parts.get(variant % CHUNK, ((text,), {})),
        )

    def keys(self, numbers: Iterable[int]) -> Iterator[tuple[str, str, str]]:
        """Yield what makes the errors of these numbers distinct: type, text and place."""
        known: dict[int, tuple[str, str, str]] = {}
        heads = [(each.type_name, each.place) for each in self.records]
        for number in numbers:
            if number < 0 and self.variants is not None and self.variants.chunks:
                variant = -number - 1
                kind, place = heads[self.variants.records[variant // CHUNK]]
                yield kind, self._book.chunk(self.variants, variant // CHUNK)[0][variant % CHUNK], place
                continue
            key = known.get(number)
            if key is None:
                record = self.record(number)
                key = known[number] = record.key if record is not None else ("", "", "")
            yield key


class ErrorBook:
    """All errors of a run: equal ones of different batches are one, and what they weigh is bounded."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, str, bytes], ErrorRecord] = {}
        self._live: dict[tuple[str, str], int] = {}
        self._nbytes = 0
        self._last: tuple[Variants, int, tuple[list[str], dict[int, Parts | None]]] | None = None

    def take(self, report: Report) -> BatchErrors | None:
        """Return the errors of a report, None if it has none."""
        if not report.errors:
            return None
        records = tuple(self._kept(each) for each in report.errors)
        variants = report.variants
        if variants is not None:
            if self._nbytes + variants.nbytes > MAX_NBYTES:
                variants = Variants(records=variants.records, chunks=())
            self._nbytes += variants.nbytes
        return BatchErrors(records, variants, self)

    def _kept(self, record: ErrorRecord) -> ErrorRecord:
        known = self._known.get(record.identity)
        if known is not None:
            return known
        weight = len(record.message) + len(record.traceback) + len(record.pickled or b"")
        if len(self._known) >= MAX_RECORDS or self._nbytes + weight > MAX_NBYTES:
            return replace(record, exception=None, pickled=None, traceback="")
        self._nbytes += weight
        if record.exception is not None:
            live = self._live[record.type_name, record.place] = (
                self._live.get((record.type_name, record.place), 0) + 1
            )
            if live > MAX_LIVE:
                _forget_locals(record.exception)
        self._known[record.identity] = record
        return record

    def chunk(self, variants: Variants, number: int) -> tuple[list[str], dict[int, Parts | None]]:
        """Return a chunk of texts; the last one is kept unpacked."""
        last = self._last
        if last is None or last[0] is not variants or last[1] != number:
            last = self._last = (variants, number, variants.chunk(number))
        return last[2]


def _forget_locals(error: BaseException) -> None:
    """Clear the variables of an exception's frames."""
    tb = error.__traceback__
    while tb is not None:
        # A frame that still executes cannot be cleared.
        with suppress(RuntimeError):
            tb.tb_frame.clear()
        tb = tb.tb_next


# -- exceptions made of records ------------------------------------------------------------------------------


def exception_of(record: ErrorRecord) -> Exception:
    """Return the exception of a record: the object itself, its restored pickle, one like it, or a `RemoteError`.

    What is not an `Exception` becomes the cause of one: it would end the caller's program. So does what cannot
    be shown.
    """
    error = _raw(record)
    if isinstance(error, Exception):
        if _text(error) is not None:
            return error
        wrapped: Exception = RemoteError(record.type_name, record.message, record.traceback)
    else:
        text = f"{record.type_name}: {record.message}" if record.message else record.type_name
        wrapped = GraphflowError(f"the task raised {text}, which in a task ends only its item")
    wrapped.__cause__ = error
    return wrapped


def _raw(record: ErrorRecord) -> BaseException:
    if record.exception is not None:
        return record.exception
    if isinstance(record.parts, Told):
        error = made_again(record.parts.values)
        if error is not None and says(error, record.message):
            return _noted(error, record)
    elif record.pickled is not None:
        try:
            error = pickle.loads(record.pickled)
            if isinstance(error, BaseException):
                return _noted(error, record)
        except Exception:
            pass
    elif record.like is not None and record.parts is not None:
        like = _raw(record.like)
        is_known = isinstance(record.parts, bytes) or not isinstance(like, RemoteError)
        made = _made_like(like, record) if is_known else None
        if made is not None:
            if like.__traceback__ is not None:
                return made.with_traceback(like.__traceback__)
            return _noted(made, record)
    return RemoteError(record.type_name, record.message, record.traceback)


def _noted(error: BaseException, record: ErrorRecord) -> BaseException:
    if record.traceback:
        error.add_note(f"on the worker:\n{record.traceback.rstrip()}")
    return error


def _made_like(like: BaseException, record: ErrorRecord) -> BaseException | None:
    """Return an exception of the same type that says what the record says."""
    assert record.parts is not None and not isinstance(record.parts, Told)
    try:
        if isinstance(record.parts, bytes):
            error = pickle.loads(record.parts)
        else:
            args, attributes, *members = record.parts
            error = filled(made_of(type(like), args), (attributes, members[0] if members else {}, {}))
    except Exception:
        return None
    return error if says(error, record.message) else None


def says(error: Any, message: str) -> bool:
    """Return whether an exception says a message, or the message is the bounded form of its text."""
    text = _text(error) if isinstance(error, BaseException) else None
    return text is not None and (text == message or _is_cut(message, text))


def _is_cut(message: str, text: str) -> bool:
    """Return whether a message is the bounded form of a text."""
    head = message.removesuffix(f"... ({len(text)} characters)")
    return head != message and text.startswith(head)


def _text(error: BaseException) -> str | None:
    try:
        return str(error)
    except BaseException:
        return None


# -- counted per node ------------------------------------------------------------------------------------------


class Ranges(Sequence[range]):
    """Ascending ranges of indices, packed; equal to a list of the same ranges."""

    __slots__ = ("_bounds",)

    def __init__(self, bounds: array[int]) -> None:
        self._bounds = bounds

    @classmethod
    def of(cls, bounds: array[int]) -> Ranges:
        """Pairs of (first, last + 1) in any order, merged where they touch."""
        merged = array("q")
        for lo, hi in sorted(zip(bounds[::2], bounds[1::2], strict=True)):
            if merged and merged[-1] >= lo:
                merged[-1] = max(merged[-1], hi)
            else:
                merged.extend((lo, hi))
        return cls(merged)

    def __len__(self) -> int:
        return len(self._bounds) // 2

    @overload
    def __getitem__(self, which: int) -> range: ...
    @overload
    def __getitem__(self, which: slice) -> list[range]: ...
    def __getitem__(self, which: int | slice) -> range | list[range]:
        if isinstance(which, slice):
            return [self[each] for each in range(*which.indices(len(self)))]
        at = range(len(self))[which]
        return range(self._bounds[2 * at], self._bounds[2 * at + 1])

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = ", ".join(_shown(each) for each in self[:8])
        return f"[{shown}{', ...' if len(self) > 8 else ''}]"


def _shown(part: range) -> str:
    return str(part.start) if len(part) == 1 else f"{part.start}-{part.stop - 1}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DistinctError:
    """One exception that ended items of a node: equal type, text and line are one.

    `indices` are the items as ascending ranges, `count` is their number.
    """

    type_name: str
    message: str
    traceback: str
    count: int
    indices: Sequence[range]

    def __repr__(self) -> str:
        return f"<{self.count:,} × {self.type_name}: {self.message[:200]}, {'item' if self.count == 1 else 'items'} {self.indices!r}>"


class DistinctErrors(Sequence[DistinctError]):
    """The exceptions of a node, most frequent first.

    Attributes
    ----------
    left_out
        Failed items whose exception is not among these: it is too rare in a node of too many different ones.
    """

    def __init__(self, errors: Sequence[DistinctError], left_out: int) -> None:
        self._errors = errors
        self.left_out = left_out

    def __len__(self) -> int:
        return len(self._errors)

    @overload
    def __getitem__(self, which: int) -> DistinctError: ...
    @overload
    def __getitem__(self, which: slice) -> Sequence[DistinctError]: ...
    def __getitem__(self, which: int | slice) -> DistinctError | Sequence[DistinctError]:
        return self._errors[which]

    def __repr__(self) -> str:
        shown = ", ".join(repr(each) for each in self[:5])
        more = f", and {len(self) - 5} more" if len(self) > 5 else ""
        return f"[{shown}{more}]" + (
            f" and {count_text(self.left_out, 'item')} left out" if self.left_out else ""
        )


class _Entry:
    __slots__ = ("bounds", "count", "errors", "number")

    def __init__(self, errors: BatchErrors, number: int) -> None:
        self.errors = errors
        self.number = number
        self.count = 0
        self.bounds = array("q")

    def add(self, lo: int, hi: int) -> None:
        self.count += hi - lo
        if self.bounds and self.bounds[-1] == lo:
            self.bounds[-1] = hi
        else:
            self.bounds.append(lo)
            self.bounds.append(hi)


class ErrorTally:
    """Counts the exceptions of a node, segment by segment. O(failed items) in all, O(1) where a batch has one error."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str, str], _Entry] = {}
        self._total = 0

    def add(self, indices: Sequence[int], faults: Faults, states: bytes, errors: BatchErrors) -> None:
        """Count the items that ended in an error of their own."""
        if states.count(Code.SKIPPED) or states.count(Code.UPSTREAM_FAILED):
            faults = faults.only(states, (Code.FAILED, Code.TIMED_OUT))
        if not len(faults):
            return
        positions = faults.positions
        self._total += len(positions)
        if isinstance(faults.errors, int):
            key = next(errors.keys((faults.errors,)))
            entry = self._entry(key, errors, faults.errors)
            if entry is None:
                return
            if isinstance(positions, range) and isinstance(indices, range):
                entry.add(indices[positions[0]], indices[positions[-1]] + 1)
                return
            for position in positions:
                entry.add(indices[position], indices[position] + 1)
            return
        for position, number, key in zip(positions, faults.errors, errors.keys(faults.errors), strict=True):
            entry = self._entry(key, errors, number)
            if entry is not None:
                entry.add(indices[position], indices[position] + 1)

    def _entry(self, key: tuple[str, str, str], errors: BatchErrors, number: int) -> _Entry | None:
        entry = self._entries.get(key)
        if entry is None and len(self._entries) < MAX_TALLIED:
            entry = self._entries[key] = _Entry(errors, number)
        return entry

    def listed(self) -> DistinctErrors:
        """Return the most frequent ones, those of equal count by their first item."""
        chosen = sorted(self._entries.values(), key=lambda entry: (-entry.count, min(entry.bounds)))
        listed = [_listed(entry) for entry in chosen[:MAX_LISTED]]
        return DistinctErrors(listed, self._total - sum(each.count for each in listed))


def _listed(entry: _Entry) -> DistinctError:
    record: Any = entry.errors.record(entry.number)
    return DistinctError(
        type_name=record.type_name,
        message=record.message,
        traceback=record.traceback,
        count=entry.count,
        indices=Ranges.of(entry.bounds),
    )
