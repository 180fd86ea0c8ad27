"""Exceptions as data: records that always travel, and the decision whether to try again."""

from __future__ import annotations

import inspect
import itertools
import os
import pickle
import random
import reprlib
import threading
import traceback
import types
from array import array
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from types import TracebackType
from typing import Any

from graphflow.common.exceptions import chain_of, filled, is_structural, made_of, members_of, members_of_type
from graphflow.common.secrets import are_known, mask, masked, scrub
from graphflow.errors import ItemTimedOut, SerializationError
from graphflow.model.anomalies import CHUNK, ErrorRecord, Parts, Variants, pack_chunk, retold
from graphflow.model.policies import Fail, Pause, Retry, Skip, TaskOptions
from graphflow.model.states import Code, State
from graphflow.results.packs.classes import dumps_value
from graphflow.runner.loops import run_awaitable

__all__ = [
    "MAX_SUMMARIES",
    "Decision",
    "ErrorTable",
    "decide",
    "delay_after",
    "error_record",
    "summarize",
    "sure_end",
    "user_traceback",
]

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_OWN = tuple(_PACKAGE + each + os.sep for each in ("runner", "backends", "engine"))
MAX_MESSAGE = 2_000
MAX_TRACEBACK = 6_000
MAX_SUMMARIES = 100
"""Failures of a batch whose items' arguments are noted."""
MAX_PICKLE = 65_536
MAX_LIVE = 10
"""Exceptions of one type and place that a batch in this process keeps with the frames that raised them."""
MAX_RECORDS = 100
"""Exceptions of one type and place that a batch keeps in full because they are more than plain values."""
MAX_APART = 10_000
"""Texts of one type and place among which a batch finds equal ones."""
MAX_VARIANT = 400
MAX_PARTS = 1_000
MAX_PICKLED_PARTS = 16_384
"""Larger pickles of exceptions are kept only of those that are kept in full."""
_PLAIN = frozenset({str, bytes, int, float, complex, bool, type(None)})


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
        """Return the view of a task with these options."""
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
    """Return whether a traceback entry is outside the engine's own code."""
    return not frame.tb_frame.f_code.co_filename.startswith(_OWN)


def user_traceback(error: BaseException) -> str:
    """Return the traceback as text, without the engine's frames, bounded in size."""
    tb = error.__traceback__
    while tb is not None and not is_user_frame(tb):
        tb = tb.tb_next
    try:
        text = "".join(traceback.format_exception(type(error), error, tb, limit=-20))
    except Exception:
        text = f"{type(error).__name__} (its traceback cannot be shown)\n"
    text = mask(text)
    if len(text) > MAX_TRACEBACK:
        half = MAX_TRACEBACK // 2
        text = f"{text[:half]}\n  ... {len(text) - 2 * half} characters omitted ...\n{text[-half:]}"
    return text


def _text(error: BaseException) -> str:
    """Return what it says, whatever its `__str__` does."""
    try:
        return mask(str(error))
    except BaseException as broken:
        return f"<its text cannot be shown: {type(broken).__name__}>"


def _bounded(text: str, size: int) -> str:
    return text if len(text) <= size else f"{text[:size]}... ({len(text)} characters)"


def _type_name(kind: type[BaseException]) -> str:
    return (
        kind.__qualname__
        if kind.__module__ in ("builtins", "__main__")
        else f"{kind.__module__}.{kind.__qualname__}"
    )


class _Lacking:
    """Pickles as an exception without what cannot be pickled."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __reduce__(self) -> Any:
        error, lost = self._error, []
        kept: list[dict[str, Any]] = []
        for each in (error.__dict__, members_of(error), chain_of(error)):
            fitting = {name: value for name, value in each.items() if _travels(value)}
            lost += [name for name in each if name not in fitting]
            kept.append(fitting)
        # The object whose attribute was missing is seldom asked for.
        if lost != ["obj"]:
            note = f"left out, because it cannot be pickled or is large: {', '.join(lost)}"
            kept[0]["__notes__"] = [*kept[0].get("__notes__", ()), note]
        return made_of, (type(error), error.args), tuple(kept), None, None, filled


def _travels(value: Any) -> bool:
    try:
        pickle.loads(dumps_value(value, most_nbytes=MAX_PICKLE))
        return True
    except Exception:
        return False


def _pickled(error: BaseException, text: str) -> tuple[bytes | None, bool]:
    """Return the bytes of an exception, None if nothing that says the same comes back from them; and whether they have all of it."""
    for made in (error, _Lacking(error)):
        try:
            data = dumps_value(made, most_nbytes=MAX_PICKLE)
            if are_known() and masked(data) is not data:
                continue
            back = pickle.loads(data)
            if isinstance(back, BaseException) and _text(back) == text:
                return data, made is error
        except Exception:
            continue
    return None, False


def error_record(
    error: BaseException,
    *,
    is_local: bool,
    place: str = "",
    traceback_text: str | None = None,
    content: bytes = b"",
) -> ErrorRecord:
    """Return an exception as a record; its pickle is kept only if it can be restored."""
    scrub(error)
    text = _text(error)
    pickled = None if is_local else _pickled(error, text)[0]
    return ErrorRecord(
        type_name=_type_name(type(error)),
        message=_bounded(text, MAX_MESSAGE),
        traceback=user_traceback(error) if traceback_text is None else traceback_text,
        exception=error if is_local else None,
        pickled=pickled,
        place=place,
        content=content,
    )


class _Kind:
    """The errors of one type from one place."""

    __slots__ = (
        "at",
        "block",
        "code",
        "first",
        "has_members",
        "is_plain",
        "is_quick",
        "is_structural",
        "numbers",
        "parts",
        "place",
        "records",
        "room",
        "texts",
        "type",
    )

    def __init__(
        self, kind: type[BaseException], code: types.CodeType | None, tb: TracebackType | None
    ) -> None:
        self.type = kind
        self.code = code
        """Held, so that its id names no other."""
        self.at = tb.tb_lasti if tb is not None else 0
        self.place = f"{code.co_filename}:{tb.tb_lineno}" if code is not None and tb is not None else ""
        self.is_structural = is_structural(kind)
        self.has_members = bool(members_of_type(kind))
        self.is_plain = self.is_structural and not self.has_members
        """Whether such an exception is made of its arguments and its attributes."""
        self.numbers: dict[Hashable, int] = {}
        self.room = MAX_APART
        """The errors that are found again, by their text and what else they hold, and how many more may be."""
        self.first = 0
        self.records = 0
        """The place of the first full record, and how many there are."""
        self.is_quick = False
        self.block = -1
        self.texts: list[str] = []
        self.parts: dict[int, Parts | None] = {}
        """The chunk of variants that is being filled, and whether errors of plain text are added to it at once."""


class ErrorTable:
    """The distinct errors of a batch: equal type, text and place are one.

    Of a type and place only some are kept in full: the first one; in this process a few live ones, with the frames
    that raised them; and some that are more than plain arguments and attributes. Of all others only the text and
    these are kept: they are *variants* of the first one, numbered by chunks that belong to one type and place each.
    """

    def __init__(self, *, is_local: bool) -> None:
        self.records: list[ErrorRecord] = []
        self._is_local = is_local
        self._in_full = MAX_LIVE if is_local else 1
        self._kinds: dict[tuple[type[BaseException], int, int], _Kind] = {}
        self._last = _Kind(BaseException, None, None)
        self._chunks: list[bytes] = []
        self._firsts = array("I")
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._salt = os.urandom(16)
        """Begins what stands for an error that cannot be told from others by its content."""

    def add(self, error: BaseException) -> int:
        """Return the number of the error: above 0 of a full record, below of a variant."""
        scrub(error)
        tb = error.__traceback__
        code, at = None, 0
        if tb is not None:
            following = tb.tb_next
            while following is not None:
                tb = following
                following = tb.tb_next
            code, at = tb.tb_frame.f_code, tb.tb_lasti
        kind = self._last
        if code is not kind.code or at != kind.at or type(error) is not kind.type:
            kind = self._last = self._kind_of(type(error), code, tb)
        try:
            text = mask(str(error))
        except BaseException:
            text = _text(error)
        args = error.args
        if (
            kind.is_plain
            and len(args) == 1
            and args[0] is text
            and not error.__dict__
            and error.__context__ is None
            and error.__cause__ is None
        ):
            number = kind.numbers.get(text)
            if number is not None:
                return number
            if kind.is_quick and len(text) <= MAX_VARIANT:
                # The short way, for a storm of errors that all say something else.
                texts = kind.texts
                texts.append(text)
                number = -kind.block * CHUNK - len(texts)
                if len(texts) == CHUNK:
                    self._open_chunk(kind)
                if kind.room:
                    kind.room -= 1
                    kind.numbers[text] = number
                return number
        return self._add(kind, error, text)

    def variants(self) -> Variants | None:
        """Return the variants so far, packed."""
        if not self._chunks:
            return None
        # Reports are made by other threads too, while the batch goes on.
        with self._lock:
            chunks = list(self._chunks)
            for kind in list(self._kinds.values()):
                if kind.texts:
                    chunks[kind.block] = pack_chunk(kind.texts, kind.parts)
            return Variants(records=self._firsts[:], chunks=tuple(chunks))

    def release(self) -> None:
        """Drop the engine's frames from live exceptions, and so the whole batch, after the batch."""
        for record in self.records:
            tb = record.exception.__traceback__ if record.exception is not None else None
            frame = tb.tb_frame if tb is not None else None
            while frame is not None and frame.f_code.co_filename.startswith(_OWN):
                try:
                    frame.clear()
                except RuntimeError:
                    break  # It still executes.
                frame = frame.f_back

    def _kind_of(
        self, kind: type[BaseException], code: types.CodeType | None, tb: TracebackType | None
    ) -> _Kind:
        key = (kind, id(code), tb.tb_lasti if tb is not None else 0)
        known = self._kinds.get(key)
        if known is None:
            known = self._kinds[key] = _Kind(kind, code, tb)
        return known

    def _add(self, kind: _Kind, error: BaseException, text: str) -> int:
        text = _bounded(text, MAX_MESSAGE)
        parts = _parts(error, kind)
        if parts is None and kind.is_plain and _is_text(error):
            parts = ((text,), {})  # A text that is too long to be kept whole.
        content: Any = None
        most = self._in_full
        if parts is None:
            data, is_whole = _pickled(error, _text(error))
            if data is not None and len(data) <= MAX_PICKLED_PARTS:
                parts = data
            if data is None or not is_whole or self._is_local:
                most = MAX_RECORDS
            content = data if data is not None and is_whole else b"%b%d" % (self._salt, next(self._numbers))
        elif parts != ((text,), {}):
            content = _hashable(parts)
        key: Hashable = text if content is None else (text, content, _types_of(parts))
        try:
            found = kind.numbers.get(key)
        except TypeError:
            # Lists, as notes are.
            content = pickle.dumps(parts, protocol=5)
            key = text, content
            found = kind.numbers.get(key)
        if found is not None:
            return found
        if kind.records < most:
            number = kind.numbers[key] = self._keep(kind, error, content)
            return number
        if kind.block < 0:
            self._open_chunk(kind)
            kind.is_quick = kind.is_plain
        if parts != ((text,), {}):
            kind.parts[len(kind.texts)] = parts
        kind.texts.append(text if len(text) <= MAX_VARIANT else _bounded(text, MAX_VARIANT))
        number = -kind.block * CHUNK - len(kind.texts)
        if len(kind.texts) == CHUNK:
            self._open_chunk(kind)
        if kind.room:
            kind.room -= 1
            kind.numbers[key] = number
        return number

    def _open_chunk(self, kind: _Kind) -> None:
        """Begin the next chunk of a type and place; the one before it is packed."""
        done = pack_chunk(kind.texts, kind.parts) if kind.texts else b""
        with self._lock:
            if done:
                self._chunks[kind.block] = done
            kind.block = len(self._chunks)
            kind.texts, kind.parts = [], {}
            self._chunks.append(b"")
            self._firsts.append(kind.first)

    def _keep(self, kind: _Kind, error: BaseException, content: Any) -> int:
        """Keep an error in full; its traceback is formatted again only if it may differ."""
        text = None
        if kind.records and (kind.records >= MAX_LIVE or _cause_of(error) is None):
            first = self.records[kind.first]
            text = retold(first.traceback, first.message, _bounded(_text(error), MAX_MESSAGE))
        else:
            kind.first = kind.first if kind.records else len(self.records)
        kind.records += 1
        self.records.append(
            error_record(
                error,
                is_local=self._is_local,
                place=kind.place,
                traceback_text=text,
                content=_digest(content),
            )
        )
        return len(self.records)


def _is_text(error: BaseException) -> bool:
    """Return whether an exception is made of nothing but a text."""
    return (
        len(error.args) == 1
        and type(error.args[0]) is str
        and not error.__dict__
        and _cause_of(error) is None
    )


def _cause_of(error: BaseException) -> BaseException | None:
    return error.__cause__ or error.__context__


def _digest(content: Any) -> bytes:
    if content is None:
        return b""
    data = content if isinstance(content, bytes) else pickle.dumps(content, protocol=5)
    return blake2b(data, digest_size=16).digest()


def _hashable(parts: Any) -> Any:
    args, *named = parts
    return args, *[tuple(each.items()) for each in named if each]


def _types_of(parts: Any) -> tuple[type, ...] | None:
    """Return the types of an exception's plain values: 1, 1.0 and True are equal keys."""
    if not isinstance(parts, tuple):
        return None
    return tuple(
        [type(value) for each in parts for value in (each if type(each) is tuple else each.values())]
    )


def _parts(error: BaseException, kind: _Kind) -> Parts | None:
    """Return what an exception is made of, if all of it is plain and small."""
    if not kind.is_structural or _cause_of(error) is not None or error.__suppress_context__:
        return None
    args, state = error.args, error.__dict__
    members = members_of(error) if kind.has_members else {}
    values = [*args, *state.values(), *members.values()]
    if not _PLAIN.issuperset(map(type, values)):
        # Notes, as a rule.
        inner = [each for value in values if type(value) is list or type(value) is tuple for each in value]
        values = [value for value in values if type(value) is not list and type(value) is not tuple] + inner
        if not _PLAIN.issuperset(map(type, values)):
            return None
    size = sum(len(each) if isinstance(each, str | bytes) else 8 for each in values)
    if size > MAX_PARTS:
        return None
    return (args, dict(state), members) if members else (args, dict(state))


def sure_end(kind: type[BaseException], options: TaskOptions) -> int:
    """Return what becomes of an item whose attempt raises such an exception, as far as the type alone tells.

    The code in which it ends; less than 0, that code's negative, where it ends so only when no attempt is left; 0
    where it must be decided each time.
    """
    if issubclass(kind, Skip):
        return Code.SKIPPED
    if issubclass(kind, Pause | Retry) or not issubclass(kind, Exception):
        return 0
    code = Code.TIMED_OUT if issubclass(kind, ItemTimedOut) else Code.FAILED
    retry = options.retry
    if retry.retries <= 0 or issubclass(kind, Fail | SerializationError):
        return code
    if retry.retry_on is not None and not issubclass(kind, retry.retry_on):
        return code
    return -code if retry.condition is None else 0


def delay_after(attempt: int, options: TaskOptions) -> float:
    """Return seconds between a failed attempt (counted from 1) and the next one."""
    retry = options.retry
    delay = retry.delay(attempt)
    return delay * (1 + random.random() * retry.jitter_factor) if retry.jitter_factor and delay else delay


def decide(
    error: BaseException,
    *,
    options: TaskOptions,
    fn: Callable[..., Any],
    attempt: int,
    run_id: str,
    label: Callable[[], str],
    map_index: int | None,
) -> Decision:
    """Return what follows from an exception that an attempt (counted from 1) raised; the label is made where it is needed."""
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
    if _asks_to_exit(error) or isinstance(error, SerializationError):
        # They end the item, not the worker.
        return Decision(outcome, outcome)
    if retry.condition is not None and not _condition_holds(
        error, options, fn, attempt, run_id, label(), map_index, outcome
    ):
        return Decision(outcome, outcome)
    return Decision(Code.AWAITING_RETRY, outcome, delay_after(attempt, options))


def _asks_to_exit(error: BaseException) -> bool:
    """Return whether it is a SystemExit or KeyboardInterrupt, or a group that holds one."""
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup((SystemExit, KeyboardInterrupt)) is not None
    return isinstance(error, SystemExit | KeyboardInterrupt)


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
    state = State.of(outcome, message=_bounded(_text(error), MAX_MESSAGE), data=error)
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
    """Return the arguments of a call in at most 300 characters."""
    parts = []
    for i, value in enumerate(args):
        name = f"{names[i]}=" if i < len(names) else ""
        parts.append(name + _repr(value))
    parts += [f"{name}={_repr(value)}" for name, value in kwargs.items()]
    text = ", ".join(parts)
    return text if len(text) <= 300 else text[:297] + "..."


def _repr(value: Any) -> str:
    try:
        return mask(_SHORT.repr(masked(value) if are_known() else value))
    except Exception:
        return f"<{type(value).__name__}>"
