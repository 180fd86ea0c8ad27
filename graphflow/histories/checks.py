"""Ids, states and records as histories take them: ids are names of folders too, states have to be known ones."""

from __future__ import annotations

import re
import struct

from graphflow.errors import HistoryError
from graphflow.model.records import Record, RunHeader
from graphflow.model.states import FINAL_CODES, Code, StateType

__all__ = [
    "FAILED_TYPES",
    "GONE",
    "check_id",
    "is_failed",
    "is_final",
    "is_id",
    "plain",
    "started_at",
    "state_code",
]

_NUMBERS = struct.Struct("<qqqq")
_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_.\-]{0,127}")
GONE = "the driver of this run ended before it acted on the request"
"""The answer to requests that no driver will answer any more."""

FAILED_TYPES = frozenset({StateType.FAILED, StateType.CRASHED})


def check_id(run_id: str) -> str:
    """Return a run's id as it was given.

    Raises
    ------
    HistoryError
        If it could not be a folder's name everywhere.
    """
    if not _ID.fullmatch(run_id):
        raise HistoryError(
            f"{run_id!r} is not a valid run id; use at most 128 letters, digits, '-', '_' and '.', beginning"
            " with a letter or digit"
        )
    return run_id


def is_id(text: str) -> bool:
    """Return whether a text could be a run's id."""
    return _ID.fullmatch(text) is not None


def state_code(state: str) -> Code:
    """Return the code of a state's name.

    Raises
    ------
    ValueError
        If there is no such state.
    """
    try:
        return Code.by_name(state)
    except KeyError:
        raise ValueError(f"{state!r} is not a run state") from None


def is_final(state: str) -> bool:
    """Return whether a run in this state has ended."""
    try:
        return Code.by_name(state) in FINAL_CODES
    except KeyError:
        return False


def is_failed(header: RunHeader) -> bool:
    """Return whether a run ended badly."""
    try:
        return Code.by_name(header.state).type in FAILED_TYPES
    except KeyError:
        return False


def started_at(state: str, at: float) -> float | None:
    """Return the moment, if this is a state in which a run has begun."""
    return at if Code.by_name(state).type is StateType.RUNNING else None


def plain(record: Record) -> Record:
    """Return a record as it will be read back, of plain types.

    Raises
    ------
    ValueError
        If a number does not fit 64 bits, or the moment is none.
    """
    try:
        _NUMBERS.pack(record.kind, record.node, record.lo, record.count)
        # Minus zero would come back as zero.
        at = float(record.at) + 0.0
        if at != at:
            raise ValueError("its time is not a number")
        return Record(
            int(record.kind), at, bytes(record.body), int(record.node), int(record.lo), int(record.count)
        )
    except (struct.error, TypeError, ValueError) as error:
        raise ValueError(
            f"a record (kind {record.kind!r}, node {record.node!r}, items from {record.lo!r}, {record.count!r} of them,"
            f" at {record.at!r}) cannot be written: {error}"
        ) from error
