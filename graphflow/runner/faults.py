"""Exceptions as data: records that always travel, and the decision whether to try again."""

from __future__ import annotations

import inspect
import os
import pickle
import random
import reprlib
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import cloudpickle

from graphflow.errors import ItemTimedOut, SerializationError
from graphflow.policies import Fail, Pause, Retry, Skip, TaskOptions
from graphflow.reports import ErrorRecord
from graphflow.runner.loops import run_awaitable
from graphflow.states import Code, State

__all__ = ["Decision", "ErrorTable", "decide", "error_record", "summarize", "user_traceback"]

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_OWN = tuple(_PACKAGE + each + os.sep for each in ("runner", "backends", "engine"))
MAX_MESSAGE = 2_000
MAX_TRACEBACK = 6_000


@dataclass(frozen=True, slots=True)
class TaskView:
    """What retry conditions and hooks see of the task."""

    name: str
    tags: frozenset[str]
    version: str | None
    retries: int
    fn: Callable[..., Any]

    @classmethod
    def of(cls, options: TaskOptions, fn: Callable[..., Any]) -> TaskView:
        """The view of a task with these options."""
        return cls(options.name, options.tags, options.version, options.retry.retries, fn)


@dataclass(frozen=True, slots=True)
class TaskRunView:
    """What a retry condition sees of the task run."""

    name: str
    map_index: int | None
    run_count: int
    run_id: str


@dataclass(frozen=True, slots=True)
class Decision:
    """How an attempt ended: `code` for the item, `outcome` for the attempt, `delay` in seconds before another."""

    code: Code
    outcome: Code
    delay: float = 0.0


def is_user_frame(frame: TracebackType) -> bool:
    """Whether a traceback entry is outside the engine's own code."""
    return not frame.tb_frame.f_code.co_filename.startswith(_OWN)


def user_traceback(error: BaseException) -> str:
    """The traceback as text, without the engine's frames, bounded in size."""
    tb = error.__traceback__
    while tb is not None and not is_user_frame(tb):
        tb = tb.tb_next
    try:
        text = "".join(traceback.format_exception(type(error), error, tb, limit=-20))
    except Exception:
        text = f"{type(error).__name__} (its traceback cannot be shown)\n"
    if len(text) > MAX_TRACEBACK:
        half = MAX_TRACEBACK // 2
        text = f"{text[:half]}\n  ... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"
    return text


def _message(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception as broken:
        text = f"<its text cannot be shown: {type(broken).__name__}>"
    if len(text) > MAX_MESSAGE:
        text = f"{text[:MAX_MESSAGE]}... ({len(text)} characters)"
    return text


def _type_name(error: BaseException) -> str:
    kind = type(error)
    return (
        kind.__qualname__
        if kind.__module__ in ("builtins", "__main__")
        else f"{kind.__module__}.{kind.__qualname__}"
    )


def error_record(error: BaseException, *, is_local: bool) -> ErrorRecord:
    """An exception as a record; its pickle is kept only if it can be restored."""
    pickled: bytes | None = None
    if not is_local:
        try:
            pickled = cloudpickle.dumps(error)
            if len(pickled) > 65_536 or not isinstance(pickle.loads(pickled), BaseException):
                pickled = None
        except Exception:
            pickled = None
    return ErrorRecord(
        type_name=_type_name(error),
        message=_message(error),
        traceback=user_traceback(error),
        exception=error if is_local else None,
        pickled=pickled,
    )


class ErrorTable:
    """The distinct errors of a batch: equal type, text and place are one."""

    def __init__(self, *, is_local: bool) -> None:
        self.records: list[ErrorRecord] = []
        self._is_local = is_local
        self._known: dict[tuple[str, str, str, int], int] = {}

    def add(self, error: BaseException) -> int:
        """The index of the error's record."""
        tb = error.__traceback__
        while tb is not None and tb.tb_next is not None:
            tb = tb.tb_next
        place = (tb.tb_frame.f_code.co_filename, tb.tb_lineno) if tb is not None else ("", 0)
        try:
            text = str(error)[:MAX_MESSAGE]
        except Exception:
            text = ""
        key = (type(error).__qualname__, text, *place)
        index = self._known.get(key)
        if index is None:
            index = len(self.records)
            self._known[key] = index
            self.records.append(error_record(error, is_local=self._is_local))
        return index


def decide(
    error: BaseException,
    *,
    options: TaskOptions,
    fn: Callable[..., Any],
    attempt: int,
    run_id: str,
    label: str,
    map_index: int | None,
) -> Decision:
    """What follows from an exception that an attempt (counted from 1) raised."""
    if isinstance(error, Skip):
        return Decision(Code.SKIPPED, Code.SKIPPED)
    if isinstance(error, Pause):
        return Decision(Code.PAUSED, Code.PAUSED)
    if isinstance(error, Retry):
        return Decision(Code.AWAITING_RETRY, Code.FAILED, error.after_seconds)
    outcome = Code.TIMED_OUT if isinstance(error, ItemTimedOut) else Code.FAILED
    retry = options.retry
    if isinstance(error, Fail) or attempt > retry.retries:
        return Decision(outcome, outcome)
    if retry.retry_on is not None and not isinstance(error, retry.retry_on):
        return Decision(outcome, outcome)
    if not isinstance(error, Exception) or isinstance(error, SerializationError):
        # SystemExit, KeyboardInterrupt and their like end the item, not the worker; they are not retried.
        return Decision(outcome, outcome)
    if retry.condition is not None and not _condition_holds(
        error, options, fn, attempt, run_id, label, map_index, outcome
    ):
        return Decision(outcome, outcome)
    delay = retry.delay(attempt)
    if retry.jitter_factor and delay:
        delay *= 1 + random.random() * retry.jitter_factor
    return Decision(Code.AWAITING_RETRY, outcome, delay)


def _condition_holds(
    error: BaseException,
    options: TaskOptions,
    fn: Callable[..., Any],
    attempt: int,
    run_id: str,
    label: str,
    map_index: int | None,
    outcome: Code,
) -> bool:
    task = TaskView.of(options, fn)
    run = TaskRunView(label, map_index, attempt, run_id)
    state = State.of(outcome, message=_message(error), data=error)
    try:
        assert options.retry.condition is not None
        answer = options.retry.condition(task, run, state)
        if inspect.isawaitable(answer):
            answer = run_awaitable(answer)
        return bool(answer)
    except Exception as broken:
        error.add_note(
            f"its retry_condition_fn raised {type(broken).__name__}: {broken}; so it was not retried"
        )
        return False


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = _SHORT.maxset = 4


def summarize(names: tuple[str, ...], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """The arguments of a call in at most 300 characters."""
    parts = []
    for i, value in enumerate(args):
        name = f"{names[i]}=" if i < len(names) else ""
        parts.append(name + _repr(value))
    parts += [f"{name}={_repr(value)}" for name, value in kwargs.items()]
    text = ", ".join(parts)
    return text if len(text) <= 300 else text[:297] + "..."


def _repr(value: Any) -> str:
    try:
        return _SHORT.repr(value)
    except Exception:
        return f"<{type(value).__name__}>"
