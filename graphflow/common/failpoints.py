"""Named places in the code at which a process can be made to die, stop or fail, to prove that nothing is lost.

Off by default: then one costs a comparison. `GRAPHFLOW_FAILPOINTS` turns them on in a process and in those that it
starts, `activate` in this process alone. Both take rules, separated by `;`:

    NAME:ACTION[@HIT][!FILE]

NAME is one of `NAMES`, or `*` for all of them together. ACTION is `kill` (SIGKILL to itself), `pause` (SIGSTOP to
itself), `exit`, `raise=OSError` (a builtin exception, or an errno such as `ENOSPC`), or `record=FILE`, which
appends a line with the process's number and the name at each hit. With `@3` it happens at the third hit alone, else
at each. With `!FILE` it happens at most once in all processes: in the one that makes the file.
"""

from __future__ import annotations

import builtins
import difflib
import errno
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from graphflow.errors import SettingsError

__all__ = ["EXIT_CODE", "NAMES", "VARIABLE", "activate", "deactivate", "failpoint", "hits"]

VARIABLE = "GRAPHFLOW_FAILPOINTS"
EXIT_CODE = 78
"""What `exit` leaves as the exit code."""

NAMES: dict[str, str] = {
    # The history of a run, as its driver writes it.
    "history.create.before": "a new run: nothing is written yet",
    "history.create.built": "its file is created, in a temporary folder",
    "history.create.moved": "its folder has its name, the catalog has no row for it",
    "history.create.listed": "the catalog has its row, the name of its folder may not be on the disk",
    "history.take.before": "an existing run was read, and is about to be taken",
    "history.take.granted": "the catalog says that this process drives it",
    "history.take.fenced": "earlier drivers can no longer write to its file",
    "lease.renew.before": "the lease is about to be renewed",
    "lease.renew.after": "the lease was renewed",
    "journal.commit.before": "records are about to be written",
    "journal.commit.begun": "the transaction has begun, nothing is in it",
    "journal.commit.filled": "all is in the transaction, which is not committed",
    "journal.commit.after": "the commit is on the disk, its anchor is not",
    "anchor.write.after": "the anchor is written",
    "digest.write.before": "all that it is about is durable, the digest of a history is not",
    "digest.write.after": "it is durable",
    "limits.adjust.before": "a driver is about to change what it has of limits",
    "limits.adjust.after": "what a driver has of limits is changed",
    "catalog.state.before": "a state of the run is durable, the catalog is not updated",
    "catalog.state.after": "the catalog is updated",
    "journal.close.before": "the run ended and is about to be closed",
    "journal.close.emptied": "the file is closed, the lease is not released",
    "journal.close.after": "the lease was released",
    "request.answer.before": "an answer is durable, the catalog is not updated",
    "request.answer.after": "the catalog has the answer",
    # Schedules and workers.
    "clock.fire.before": "schedules are due, nothing was decided",
    "clock.fire.decided": "fires, runs and work are in the transaction, which is not committed",
    "clock.fire.after": "what was decided is on the disk",
    "reactor.turn.before": "events are pending, nothing was decided",
    "reactor.turn.fired": "a firing and what it did are in the transaction, which is not committed",
    "reactor.turn.decided": "all of a turn is in the transaction, which is not committed",
    "reactor.turn.after": "what was decided is on the disk",
    "sender.claim.before": "something is to be sent, nobody has it",
    "sender.claim.after": "this process is about to send it",
    "sender.sent.before": "it was sent, which is written nowhere",
    "sender.sent.after": "it is written that it was sent",
    "work.claim.before": "a worker is about to claim",
    "work.claim.decided": "claims are in the transaction, which is not committed",
    "work.claim.after": "claims are on the disk, no child was started",
    "child.begin.before": "the flow is loaded, and its run is about to be taken",
    # The repair of a damaged history.
    "repair.written": "what verifies is in a new file, which is complete",
    "repair.linked": "the damaged file has another name beside",
    "repair.emptied": "its write-ahead log is gone",
    "repair.placed": "the new file has its place, its anchor is not written",
    # Objects of a result store: packs, parameters, the value of a run.
    "store.publish.before": "an object is about to be written",
    "store.write.after": "all its bytes were written, under another name",
    "store.fsync.after": "they are on the disk",
    "store.rename.after": "it has its name",
    "store.publish.after": "its name is on the disk",
    "store.grow.before": "columns are about to be appended to a pack that grows",
    "store.grow.written": "their bytes were written",
    "store.grow.after": "they are on the disk",
    "store.create.before": "a claim is about to be made",
    "store.link.after": "a claim was made, or another was there; the file has its other name too",
    "store.create.after": "the claim is on the disk",
    # The packs of a cache, when they are put together.
    "compact.begin": "packs are about to be merged, nothing was read",
    "compact.publish.before": "values of several packs are about to be written as one",
    "compact.publish.after": "they are written, and the old packs are still there",
    "compact.remove.before": "old packs are about to be removed",
    "compact.remove.after": "they were removed",
    # A batch, in the process that runs it.
    "batch.begin": "a batch is about to begin",
    "batch.cache.before": "items have ended, nothing is cached",
    "batch.cache.after": "values are cached, the run has none of them yet",
    "claims.flight.after": "other drivers can see what is about to be executed",
    "claims.once.after": "an item that runs once only is claimed, and has not begun",
    "batch.pack.before": "items have ended, their values are nowhere else yet",
    "batch.report.before": "their values are stored, the report was not sent",
    # The driver.
    "driver.records.before": "nodes were recorded and are not applied",
    "driver.report.received": "a report arrived and is not applied",
    "driver.lost.received": "a batch was lost, which is not applied",
    "driver.timer.due": "a retry, a pause or a limit is over",
    "driver.tell.before": "a commit is durable, its effects are not released",
    "driver.submit.before": "a batch is in the history and is about to be sent",
    "driver.submit.after": "a batch was sent",
    "driver.expand.before": "a task returned futures, which are about to be placed in the graph",
    "driver.expand.after": "they are placed in the graph, which is not applied",
    "driver.pull.after": "an iterator yielded items, which are not applied",
    "driver.finish.before": "all items ended, the run did not",
    "driver.finish.after": "the run has its outcome, which is not written",
    # The launch of a run.
    "launch.begin.before": "a run is about to be described in its history",
    "launch.begin.after": "a launch of the run began",
    "launch.value.before": "the run's value is about to be stored",
    "launch.value.after": "it is stored, the history has no record of it",
    "launch.state.before": "the run moved to a state, which is not written",
    "launch.state.after": "it is written, no subscriber was notified",
}
"""All failpoints, with what is so when one is hit."""

ACTIONS = ("kill", "pause", "exit", "raise=ERROR", "record=FILE")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    name: str
    act: Callable[[str], None]
    hit: int | None
    once: str | None

    def is_due(self, name: str, of_name: int, of_all: int) -> bool:
        if self.name not in ("*", name):
            return False
        if self.hit is not None and self.hit != (of_all if self.name == "*" else of_name):
            return False
        return self.once is None or _is_first(self.once)


class _Plan:
    """What is to happen, and how often each failpoint was hit."""

    def __init__(self, rules: list[_Rule]) -> None:
        self._rules = rules
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()

    def hit(self, name: str) -> None:
        if name not in NAMES:
            raise SettingsError(f"unknown failpoint {name!r}; it is not in the list of failpoints")
        with self._lock:
            self.counts[name] += 1
            due = [rule for rule in self._rules if rule.is_due(name, self.counts[name], self.counts.total())]
        for rule in due:
            rule.act(name)


class _Refused:
    """What the environment asks for makes no sense: said where the first failpoint is hit."""

    def __init__(self, error: SettingsError) -> None:
        self.counts: Counter[str] = Counter()
        self._error = error

    def hit(self, name: str) -> None:
        raise self._error


_plan: _Plan | _Refused | None = None


def failpoint(name: str) -> None:
    """Perform what is planned for this failpoint. Costs a call and a comparison if nothing is planned."""
    if _plan is not None:
        _plan.hit(name)


def activate(rules: str) -> None:
    """Plan what rules say, instead of what was planned; with no rules, hits are only counted.

    Raises
    ------
    SettingsError
        If they make no sense.
    """
    global _plan
    _plan = _Plan([_rule(each.strip()) for each in rules.split(";") if each.strip()])


def deactivate() -> None:
    """Plan nothing any more."""
    global _plan
    _plan = None


def hits() -> dict[str, int]:
    """Return how often each failpoint was hit in this process since `activate`."""
    return {} if _plan is None else dict(_plan.counts)


def _rule(text: str) -> _Rule:
    rest, _, once = text.partition("!")
    rest, at, number = rest.partition("@")
    name, colon, action = rest.partition(":")
    if not colon or (at and not (number.isdecimal() and int(number) > 0)):
        raise SettingsError(
            f"the failpoint rule {text!r} is not NAME:ACTION, NAME:ACTION@HIT or NAME:ACTION@HIT!FILE, with a number of 1 or more "
            "for HIT"
        )
    if name != "*" and name not in NAMES:
        close = difflib.get_close_matches(name, NAMES, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise SettingsError(f"unknown failpoint {name!r}{hint}")
    return _Rule(name=name, act=_action(action), hit=int(number) if at else None, once=once or None)


def _action(text: str) -> Callable[[str], None]:
    kind, _, argument = text.partition("=")
    if text in _PLAIN:
        return _PLAIN[text]
    if kind == "raise" and argument:
        return _raising(argument)
    if kind == "record" and argument:
        return _recording(argument)
    raise SettingsError(f"unknown failpoint action {text!r}; use {', '.join(ACTIONS)}")


def _kill(name: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _pause(name: str) -> None:
    # To this thread: any other one could take its time with it, while this one goes on.
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


def _exit(name: str) -> None:
    os._exit(EXIT_CODE)


_PLAIN = {"kill": _kill, "pause": _pause, "exit": _exit}


def _raising(what: str) -> Callable[[str], None]:
    code = getattr(errno, what, None)
    kind = getattr(builtins, what, None)
    if code is None and not (isinstance(kind, type) and issubclass(kind, BaseException)):
        raise SettingsError(f"a failpoint cannot raise {what!r}; use a builtin exception or an errno")

    def act(name: str) -> None:
        if code is not None:
            raise OSError(code, os.strerror(code))
        assert kind is not None
        raise kind(f"planned at failpoint {name}")

    return act


def _recording(path: str) -> Callable[[str], None]:
    def act(name: str) -> None:
        # One write each: lines of several processes do not mix, and a kill loses none.
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(file, f"{os.getpid()} {name}\n".encode())
        finally:
            os.close(file)

    return act


def _is_first(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return False
    return True


def _read_environment() -> None:
    global _plan
    given = os.environ.get(VARIABLE)
    if not given:
        return
    try:
        activate(given)
    except SettingsError as error:
        _plan = _Refused(SettingsError(f"{VARIABLE}: {error}"))


_read_environment()
