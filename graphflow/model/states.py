"""The states, and the table of allowed transitions.

A state has a *type*, which decides how the engine treats it, and a *name*, which refines the type.
Inside the engine a state is one byte, its `Code`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from typing import Any

from graphflow.errors import TransitionError, ValueUnavailable

__all__ = [
    "FAILED_CODES",
    "FAILED_TABLE",
    "FINAL_CODES",
    "GOOD_CODES",
    "FINAL_TABLE",
    "TRANSITIONS",
    "Code",
    "Counts",
    "State",
    "StateType",
    "check_transition",
    "checked_states",
    "state_names",
    "transition_table",
]


class StateType(StrEnum):
    """The type of a state; the engine's decisions depend on it only."""

    SCHEDULED = "Scheduled"
    PENDING = "Pending"
    RUNNING = "Running"
    COMPLETED = "Completed"
    FAILED = "Failed"
    CRASHED = "Crashed"
    CANCELLING = "Cancelling"
    CANCELLED = "Cancelled"
    PAUSED = "Paused"


class Code(IntEnum):
    """A state in one byte, as in reports and records. Numbers are never reused."""

    PENDING = 0
    SCHEDULED = 1
    LATE = 2
    RUNNING = 3
    AWAITING_RETRY = 4
    RETRYING = 5
    PAUSED = 6
    RESUMING = 7
    CANCELLING = 8
    GRAFTED = 9
    COMPLETED = 16
    CACHED = 17
    SKIPPED = 18
    FAILED = 24
    TIMED_OUT = 25
    UPSTREAM_FAILED = 26
    CRASHED = 27
    CANCELLED = 28
    INDETERMINATE = 29

    @property
    def state_name(self) -> str:
        """The name users see."""
        return _NAMES[self]

    @property
    def type(self) -> StateType:
        """The type the name refines."""
        return _TYPES[self]

    @classmethod
    def by_name(cls, name: str) -> Code:
        """Return the code of a state name; raise `KeyError` for an unknown one."""
        return _BY_NAME[name]


_NAMES: dict[Code, str] = {
    Code.PENDING: "Pending",
    Code.SCHEDULED: "Scheduled",
    Code.LATE: "Late",
    Code.RUNNING: "Running",
    Code.AWAITING_RETRY: "AwaitingRetry",
    Code.RETRYING: "Retrying",
    Code.PAUSED: "Paused",
    Code.RESUMING: "Resuming",
    Code.CANCELLING: "Cancelling",
    # An item whose task returned futures: it runs on as the fragment that took its place.
    Code.GRAFTED: "Running",
    Code.COMPLETED: "Completed",
    Code.CACHED: "Cached",
    Code.SKIPPED: "Skipped",
    Code.FAILED: "Failed",
    Code.TIMED_OUT: "TimedOut",
    Code.UPSTREAM_FAILED: "UpstreamFailed",
    Code.CRASHED: "Crashed",
    Code.CANCELLED: "Cancelled",
    # Whether a task that runs once only has done its work is not known: its driver or worker died on the way.
    Code.INDETERMINATE: "Indeterminate",
}
_TYPES: dict[Code, StateType] = {
    Code.PENDING: StateType.PENDING,
    Code.SCHEDULED: StateType.SCHEDULED,
    Code.LATE: StateType.SCHEDULED,
    Code.RUNNING: StateType.RUNNING,
    Code.AWAITING_RETRY: StateType.SCHEDULED,
    Code.RETRYING: StateType.RUNNING,
    Code.PAUSED: StateType.PAUSED,
    Code.RESUMING: StateType.SCHEDULED,
    Code.CANCELLING: StateType.CANCELLING,
    Code.GRAFTED: StateType.RUNNING,
    Code.COMPLETED: StateType.COMPLETED,
    Code.CACHED: StateType.COMPLETED,
    Code.SKIPPED: StateType.COMPLETED,
    Code.FAILED: StateType.FAILED,
    Code.TIMED_OUT: StateType.FAILED,
    Code.UPSTREAM_FAILED: StateType.FAILED,
    Code.CRASHED: StateType.CRASHED,
    Code.CANCELLED: StateType.CANCELLED,
    Code.INDETERMINATE: StateType.CRASHED,
}
_BY_NAME = {name: code for code, name in reversed(_NAMES.items())}

FINAL_CODES = frozenset(code for code in Code if code >= Code.COMPLETED)
FINAL_TABLE = bytes(1 if code in FINAL_CODES else 0 for code in range(256))
"""`bytes.translate` table: 1 for final codes, 0 for others."""
GOOD_CODES = frozenset({Code.COMPLETED, Code.CACHED, Code.SKIPPED})
"""The codes of successful ends, which need not run again."""
FAILED_CODES = frozenset(
    {Code.FAILED, Code.TIMED_OUT, Code.UPSTREAM_FAILED, Code.CRASHED, Code.INDETERMINATE}
)
"""The codes that count as a failure; `Cancelled` is an end, but not a failure of the item's own."""
FAILED_TABLE = bytes(1 if code in FAILED_CODES else 0 for code in range(256))
"""`bytes.translate` table: 1 for codes of failures, 0 for others."""

_ENDS = {Code.CANCELLED, Code.CANCELLING, Code.CRASHED, Code.INDETERMINATE}
_START = {Code.RUNNING, Code.CACHED, Code.SKIPPED, Code.UPSTREAM_FAILED, Code.FAILED, Code.COMPLETED}

TRANSITIONS: Mapping[Code, frozenset[Code]] = {
    Code.SCHEDULED: frozenset({Code.PENDING, Code.LATE, Code.PAUSED} | _START | _ENDS),
    Code.LATE: frozenset({Code.PENDING, Code.PAUSED} | _START | _ENDS),
    Code.PENDING: frozenset({Code.SCHEDULED, Code.PAUSED} | _START | _ENDS),
    Code.RUNNING: frozenset(
        {
            Code.COMPLETED,
            Code.CACHED,
            Code.SKIPPED,
            Code.FAILED,
            Code.TIMED_OUT,
            Code.UPSTREAM_FAILED,
            Code.AWAITING_RETRY,
            Code.RETRYING,
            Code.PAUSED,
            Code.GRAFTED,
            Code.PENDING,
        }
        | _ENDS
    ),
    Code.GRAFTED: frozenset({Code.COMPLETED, Code.SKIPPED, Code.UPSTREAM_FAILED, Code.FAILED} | _ENDS),
    Code.AWAITING_RETRY: frozenset({Code.RETRYING, Code.PAUSED} | _ENDS),
    Code.RETRYING: frozenset(
        {
            Code.COMPLETED,
            Code.CACHED,
            Code.SKIPPED,
            Code.FAILED,
            Code.TIMED_OUT,
            Code.AWAITING_RETRY,
            Code.PAUSED,
            Code.GRAFTED,
            Code.RETRYING,
        }
        | _ENDS
    ),
    Code.PAUSED: frozenset({Code.RESUMING} | _ENDS),
    Code.RESUMING: frozenset({Code.RUNNING, Code.PENDING} | _ENDS),
    Code.CANCELLING: frozenset(
        {Code.CANCELLED, Code.COMPLETED, Code.FAILED, Code.TIMED_OUT, Code.CRASHED, Code.SKIPPED}
    ),
    # A final state is left only to run the item again: a retry of the run, or a redrive.
    Code.FAILED: frozenset({Code.AWAITING_RETRY, Code.SCHEDULED}),
    Code.TIMED_OUT: frozenset({Code.AWAITING_RETRY, Code.SCHEDULED}),
    Code.UPSTREAM_FAILED: frozenset({Code.SCHEDULED}),
    Code.CRASHED: frozenset({Code.AWAITING_RETRY, Code.SCHEDULED}),
    Code.INDETERMINATE: frozenset({Code.AWAITING_RETRY, Code.SCHEDULED}),
    Code.CANCELLED: frozenset({Code.SCHEDULED}),
    Code.COMPLETED: frozenset(),
    Code.CACHED: frozenset(),
    Code.SKIPPED: frozenset(),
}
"""The allowed transitions, by code."""


def check_transition(before: Code, after: Code) -> None:
    """Raise `TransitionError` unless the table allows the transition."""
    if after not in TRANSITIONS[before]:
        allowed = (
            ", ".join(sorted({code.state_name for code in TRANSITIONS[before]})) or "nothing: it is final"
        )
        raise TransitionError(
            f"a state cannot move from {before.state_name} to {after.state_name}; allowed from "
            f"{before.state_name}: {allowed}"
        )


def transition_table() -> str:
    """Return the transition table as Markdown, for the docs."""
    lines = ["| from | type | to |", "|---|---|---|"]
    for code in Code:
        if code is Code.GRAFTED:
            continue
        names = sorted({after.state_name for after in TRANSITIONS[code] if after is not Code.GRAFTED})
        lines.append(f"| {code.state_name} | {code.type} | {', '.join(names) or 'final'} |")
    return "\n".join(lines)


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """The state of a run, a node or an item.

    A state equals another of the same type and name, and equals its own name as a string.
    """

    type: StateType
    name: str
    message: str = ""
    timestamp: datetime = field(default_factory=lambda: datetime.now(UTC))
    data: Any = None

    @classmethod
    def of(cls, code: Code, *, message: str = "", at: float | None = None, data: Any = None) -> State:
        """Return the state of a code; `at` is seconds since the epoch, now by default."""
        moment = datetime.fromtimestamp(time.time() if at is None else at, UTC)
        return cls(code.type, code.state_name, message, moment, data)

    def __str__(self) -> str:
        return self.name

    def __eq__(self, other: object) -> bool:
        if isinstance(other, State):
            return (self.type, self.name) == (other.type, other.name)
        if isinstance(other, str):
            return self.name == other
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self.name)

    def is_scheduled(self) -> bool:
        """Return whether it waits for a time."""
        return self.type is StateType.SCHEDULED

    def is_pending(self) -> bool:
        """Return whether it waits to start."""
        return self.type is StateType.PENDING

    def is_running(self) -> bool:
        """Return whether it executes."""
        return self.type is StateType.RUNNING

    def is_completed(self) -> bool:
        """Return whether it ended well (completed, cached or skipped)."""
        return self.type is StateType.COMPLETED

    def is_failed(self) -> bool:
        """Return whether it ended in a failure (failed, timed out, upstream failed)."""
        return self.type is StateType.FAILED

    def is_crashed(self) -> bool:
        """Return whether its process died."""
        return self.type is StateType.CRASHED

    def is_cancelled(self) -> bool:
        """Return whether it was cancelled."""
        return self.type is StateType.CANCELLED

    def is_paused(self) -> bool:
        """Return whether it is paused."""
        return self.type is StateType.PAUSED

    def is_final(self) -> bool:
        """Return whether it is an outcome."""
        return self.type in {
            StateType.COMPLETED,
            StateType.FAILED,
            StateType.CRASHED,
            StateType.CANCELLED,
        }

    def result(self, raise_on_failure: bool = True) -> Any:
        """Return the value or the exception behind the state.

        Raises
        ------
        ValueUnavailable
            If the state is not final.
        """
        if not self.is_final():
            raise ValueUnavailable(f"a {self.name} state has no result yet")
        if isinstance(self.data, BaseException) and raise_on_failure:
            raise self.data
        return self.data


def state_names() -> list[str]:
    """Return the names of all states."""
    return list(dict.fromkeys(code.state_name for code in Code))


def checked_states(state: str | Collection[str] | None) -> tuple[str, ...]:
    """Return checked names of states; None stands for no name.

    Raises
    ------
    ValueError
        If there is no such state.
    """
    given = () if state is None else (state,) if isinstance(state, str) else tuple(state)
    known = {name.lower(): name for name in state_names()}
    for name in given:
        if name.lower() not in known:
            raise ValueError(f"unknown state {name!r}; the states are {', '.join(state_names())}")
    return tuple(known[name.lower()] for name in given)


class Counts(Counter[str]):
    """How many items are in each state, by state name; missing names count 0."""

    @property
    def items_total(self) -> int:
        """All items counted."""
        return sum(self.values())

    @property
    def successful(self) -> int:
        """Items that ended well and have a value (completed or cached)."""
        return self["Completed"] + self["Cached"]

    @property
    def skipped(self) -> int:
        """Items that were skipped."""
        return self["Skipped"]

    @property
    def failed(self) -> int:
        """Items that ended in any failure, a crash among them."""
        return (
            self["Failed"]
            + self["TimedOut"]
            + self["UpstreamFailed"]
            + self["Crashed"]
            + self["Indeterminate"]
        )

    @property
    def finished(self) -> int:
        """Items that ended, in any state."""
        return self.successful + self.skipped + self.failed + self["Cancelled"]
