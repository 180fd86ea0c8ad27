"""The durable side of one run of a flow: its history, its lease, its results, and what is asked of it from outside."""

from __future__ import annotations

import ast
import inspect
import logging
import os
import platform
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from math import inf
from types import MappingProxyType
from typing import Any

from graphflow.common import settings
from graphflow.common.failpoints import failpoint
from graphflow.common.functions import plain_function
from graphflow.common.machine import boot_id
from graphflow.common.secrets import known, mask, name_of, named_secret
from graphflow.common.service import Service
from graphflow.common.wording import with_article
from graphflow.driver.bookkeeping import Bookkeeper
from graphflow.driver.caches import storage_of
from graphflow.driver.definition import Definition, RunFacts
from graphflow.driver.digesting import Digests
from graphflow.driver.dispatch import Persistence
from graphflow.driver.recovery import Recovery, Selection
from graphflow.driver.shared_limits import SharedLimits
from graphflow.errors import (
    GraphflowError,
    HistoryLocked,
    LeaseLost,
    ParameterError,
    ResultDamaged,
    RunNotFound,
    ValueUnavailable,
)
from graphflow.histories.opening import open_history
from graphflow.histories.whereabouts import results_of
from graphflow.identity.carrying import secrets_in
from graphflow.identity.fingerprints import code_fingerprint
from graphflow.identity.hashing import canonical_digest
from graphflow.model.cache_policies import NO_DEFAULTS, CacheDefaults
from graphflow.model.records import Launch, Plan, Request, RunHeader
from graphflow.model.states import Code
from graphflow.ports import History, Journal, ResultStore
from graphflow.records.codec import RecordWriter
from graphflow.records.known import KnownRun
from graphflow.records.replay import Replay
from graphflow.records.spans import Span
from graphflow.records.summary import summary_of
from graphflow.results.packs.classes import dumps_value
from graphflow.results.packs.single import check, is_same, keep, restore
from graphflow.results.stores.opening import check_protocol
from graphflow.runner.capture import LogSink

__all__ = ["Durability", "Reopened", "has_launches", "is_known", "open_store", "reopen"]

logger = logging.getLogger("graphflow.driver.durability")
SUMMARY_SECONDS = 2.0
SUMMARY_SHARE = 0.02
"""How often lists hear of a run that goes on, and the part of the time that this may take."""
POLL_SECONDS = 0.1
"""How often requests are looked for, and the body's log is written."""
MAX_SHOWN = 1_000
PACKAGES = ("graphflow", "dask", "distributed", "cloudpickle", "numpy", "pandas")


def open_store(
    history: History, run_id: str, *, said: CacheDefaults = NO_DEFAULTS, known: str = ""
) -> ResultStore:
    """Return where the results of a run are: where its flow or the settings say, else a folder beside its history.

    Parameters
    ----------
    said
        What the flow says of its results.
    known
        Where they went in an earlier launch, which is where they stay.

    Raises
    ------
    ResultStoreError, SettingsError
        If there is no such kind of store, or it is configured wrongly.
    """
    from graphflow.results.stores.opening import open_store as open_by_url

    found = storage_of(said, default=history.results_folder(run_id), path=f"runs/{run_id}")
    if not known or found.url == known:
        return found
    return open_by_url(known, storage_options=said.result_storage_options)


class Durability:
    """What makes one run durable, from its start (or the start of another launch) to its end.

    Parameters
    ----------
    journal
        The run's history, as its driver.
    books
        Turns what happens into records.
    store
        Where results go.
    recovery
        What earlier launches left; None for a new run.
    """

    def __init__(
        self, *, journal: Journal, books: Bookkeeper, store: ResultStore, recovery: Recovery | None = None
    ) -> None:
        self.journal = journal
        self.books = books
        self.store = store
        self.recovery = recovery
        self.limits: SharedLimits | None = None
        """What the run's driver has of limits that runs share, once there is one."""
        self._act: Callable[[Request], None] | None = None
        self._known: Callable[[], KnownRun | None] = lambda: None
        self._summarized = 0.0
        self._summary = ""
        self._lost: Callable[[GraphflowError], None] | None = None
        self._sink: LogSink | None = None
        self._lease_seconds = settings.lease_seconds()
        self._keeper = Service(
            self._keep,
            name=f"graphflow-keeper-{journal.run_id[-6:]}",
            interval=min(POLL_SECONDS, self._lease_seconds / 10),
            on_error=self._keeping_failed,
        )
        self._lines = 0
        self._lines_dropped = 0
        self._renewed = time.monotonic()
        self._is_closed = False
        self.launches: list[Launch] = []
        """All launches of the run so far."""
        self.lasts: list[float] = []
        """When those before this one recorded something for the last time."""

    @property
    def lease_until(self) -> float | None:
        """When the lease ends unless it is renewed, in seconds since the epoch; None once it was given back."""
        age = time.monotonic() - self._renewed
        return None if self._is_closed else time.time() - age + self._lease_seconds

    def spans(self, until: float = inf) -> list[Span]:
        """Return from when to when the launches of the run lasted; the last one until a moment."""
        known = [(launch.began, last) for launch, last in zip(self.launches, self.lasts, strict=False)]
        return [*known, *((launch.began, until) for launch in self.launches[-1:])]

    @classmethod
    def create(cls, flow: Definition, run: RunFacts, *, work: int | None = None) -> Durability:
        """Begin the history of a new run; with `work`, of one that a worker claimed under this number.

        Raises
        ------
        HistoryError, ResultStoreError, SettingsError
            If it cannot be written; nothing has run then.
        """
        history = open_history()
        header = RunHeader(
            id=run.id,
            name=run.name,
            flow_name=run.flow_name,
            created=run.created,
            host=socket.gethostname(),
            pid=os.getpid(),
            plan=Plan(tags=tuple(sorted(flow.options.tags))),
        )
        place = flow.options.results.result_storage or settings.result_storage()
        if place is not None:
            # What is configured wrongly leaves no run behind.
            check_protocol(place)
        journal = history.create(header, work=work)
        try:
            store = open_store(history, run.id, said=flow.options.results)
            books = Bookkeeper(journal, RecordWriter(), digests=Digests(history, run.id))
            self = cls(journal=journal, books=books, store=store)
            failpoint("launch.begin.before")
            self._begin(_launch(flow, run.name, run.parameters, journal.epoch, "start", store))
            self.books.commit()
            failpoint("launch.begin.after")
        except BaseException:
            journal.close()
            with suppress(GraphflowError):
                if work is None and history.head(run.id) == 0:
                    # Nothing of it was recorded: it is no run that could be resumed.
                    history.remove(run.id)
            raise
        return self

    # -- while it runs ----------------------------------------------------------------------------------

    def persistence(self, flow: Definition) -> Persistence:
        """Return which values are written, and where."""
        return Persistence(
            store=self.store,
            epoch=self.journal.epoch,
            default=flow.options.persist_result is not False,
            compares=True,
        )

    def watch(
        self,
        *,
        sink: LogSink,
        act: Callable[[Request], None],
        lost: Callable[[GraphflowError], None],
        known: Callable[[], KnownRun | None],
    ) -> None:
        """Keep the lease, write the body's log, and pass requests on, in a thread of its own.

        Parameters
        ----------
        act
            Carries a request out; what it raises is the answer.
        lost
            Told when the run is not this process's any more.
        known
            Gives what is known of its nodes, None before there are any.
        """
        self._sink, self._act, self._lost, self._known = sink, act, lost, known
        self._summarized = time.monotonic() + SUMMARY_SECONDS
        self._keeper.start()

    def _keep(self) -> None:
        if time.monotonic() - self._renewed >= self._lease_seconds / 3:
            self.journal.renew()
            self._renewed = time.monotonic()
        if self.limits is not None:
            self.limits.turn(age=time.monotonic() - self._renewed, term=self._lease_seconds)
        for request in self.journal.requests():
            self._answer(request)
        begin = time.monotonic()
        if begin >= self._summarized:
            self._summarize(at_once=True)
            took = time.monotonic() - begin
            self._summarized = begin + max(SUMMARY_SECONDS, took / SUMMARY_SHARE)
        if self.write_log():
            self.books.commit()

    def wake(self) -> None:
        """Let the next turn of what is kept come at once."""
        self._keeper.wake()

    def _summarize(self, message: str = "", *, at_once: bool = False) -> None:
        """Tell lists where the nodes stand; kinds of failures are looked for where the run changes its state."""
        known = self._known()
        if known is None:
            return
        text = summary_of(known, message=message, with_failures=not at_once).text()
        if text != self._summary:
            self._summary = text
            self.journal.summarize(text, at_once=at_once)

    def _keeping_failed(self, error: Exception) -> None:
        if isinstance(error, LeaseLost):
            self._keeper.stop()
            if self._lost is not None:
                self._lost(error)
        elif isinstance(error, GraphflowError):
            # The driver meets it too, where it matters; a busy catalog is there again later.
            logger.debug("run %s: %s", self.journal.run_id, error)
        else:
            logger.error("run %s: its lease could not be kept", self.journal.run_id, exc_info=error)

    def _answer(self, request: Request) -> None:
        error = ""
        try:
            if self._act is not None:
                self._act(request)
        except Exception as problem:
            error = f"{type(problem).__name__}: {problem}"
        self.books.answered(request, error)

    def write_log(self) -> bool:
        """Book the lines of the body's log that are new; False if there are none."""
        sink = self._sink
        if sink is None:
            return False
        records, dropped = sink.records, sink.dropped
        lines = records[self._lines :]
        if not lines and dropped == self._lines_dropped:
            return False
        self._lines += len(lines)
        self.books.logged(lines, dropped - self._lines_dropped)
        self._lines_dropped = dropped
        return True

    def moved(self, code: Code, message: str = "") -> None:
        """Record the run's new state, durably when this returns.

        Raises
        ------
        LeaseLost, HistoryError
            If that cannot be written.
        """
        self.write_log()
        self._summarize(message)
        failpoint("launch.state.before")
        self.books.run_moved(code, message)
        self.books.commit()
        failpoint("launch.state.after")

    def begin_attempt(self, flow: Definition, run: RunFacts) -> None:
        """Begin another attempt of the whole flow: nothing of the previous attempt counts."""
        self.recovery = None
        self._begin(_launch(flow, run.name, run.parameters, self.journal.epoch, "attempt", self.store))

    def _begin(self, launch: Launch) -> None:
        now = time.time()
        if len(self.lasts) < len(self.launches):
            # Another attempt of the whole flow.
            self.lasts.append(now)
        self.launches.append(replace(launch, began=now))
        self.books.begin(self.launches[-1])

    def completed(self, value: Any) -> None:
        """Store the run's value, so that it can be read later."""
        if value is None:
            return
        try:
            data = dumps_value(value)
        except Exception as error:
            logger.warning(
                "the value of run %s cannot be stored, because it cannot be pickled: %s: %s",
                self.journal.run_id,
                type(error).__name__,
                error,
            )
            return
        failpoint("launch.value.before")
        self.books.run_noted({"value": keep(self.store, f"{self.journal.epoch:04d}-value", data)})
        failpoint("launch.value.after")

    def close(self) -> None:
        """Release the lease."""
        self._keeper.stop()
        self._is_closed = True
        self.books.end()
        self.journal.close()


# -- another launch ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reopened:
    """An existing run, opened to be resumed; `durability` is None if it has completed and there is nothing to do."""

    header: RunHeader
    parameters: dict[str, Any]
    durability: Durability | None


def reopen(
    flow: Definition,
    run: str,
    *,
    selections: Sequence[Selection] | None = None,
    rerun_changed: bool = False,
    is_forced: bool = False,
    parameters: Mapping[str, Any] | None = None,
    given: Mapping[str, Any] = MappingProxyType({}),
    checked: Callable[[Mapping[str, Any]], dict[str, Any]] = dict,
    prepare: Callable[[], None] = lambda: None,
    work: int | None = None,
) -> Reopened:
    """Open an existing run, with everything it has finished.

    Parameters
    ----------
    run
        Its id, a prefix of it, its name, `@latest` or `@latest-failed`.
    selections
        Items to run again in any case; None to run only what is missing.
    rerun_changed, is_forced
        See `Recovery`.
    parameters
        Those that the run must have.
    given
        Some of them, such as secrets, which are not stored.
    checked
        Coerces parameters that are looked up to what the flow takes.
    prepare
        Called before the run is taken, if there is something to do; what it raises leaves the run as it is.
    work
        The number of the claim by which a worker has the run.

    Raises
    ------
    RunNotFound
        If there is no such run, or it is another flow's.
    LeaseHeld
        If it has a driver.
    HistoryDamaged, HistoryTooNew
        If its history cannot be trusted or read.
    FlowChanged
        If the flow does not match it any more.
    """
    history = open_history()
    header = history.find(run)
    # What is wrong with a run that cannot be verified is told when it is read.
    if header.is_verified and header.flow_name != flow.name:
        raise RunNotFound(f"run {header.id} belongs to flow {header.flow_name!r}, not to {flow.name!r}")
    store = open_store(history, header.id, said=flow.options.results, known=results_of(history, header.id))
    if selections is None and header.state == Code.COMPLETED.state_name:
        replay = read_run(history, header.id, store)
        if _has_value(replay, store):
            if parameters is not None and replay.launches:
                _compare(replay.launches[0], parameters)
            return Reopened(header, {}, None)
    prepare()
    journal = history.take(header.id, work=work)
    try:
        replay = read_run(history, header.id, store)
        found = _parameters(replay, store, parameters, given, checked)
        recovery = Recovery(
            replay,
            damaged=_damaged(replay, store),
            code=code_fingerprint(flow.fn),
            selections=selections or (),
            retries_failed=selections is not None and not selections,
            rerun_changed=rerun_changed,
            is_forced=is_forced,
        )
        books = Bookkeeper(
            journal,
            RecordWriter.continuing(replay),
            numbers=recovery.numbers,
            digests=Digests(history, header.id),
        )
        self = Durability(journal=journal, books=books, store=store, recovery=recovery)
        reason = "resume" if selections is None else "retry"
        failpoint("launch.begin.before")
        self.launches = list(replay.launches)
        self.lasts = list(replay.lasts)
        if replay.launches:
            self._begin(_launch_again(flow, header, replay, journal.epoch, reason, store))
        else:
            self._begin(_launch(flow, header.name, found, journal.epoch, "start", store))
        books.run_moved(Code.RESUMING)
        books.commit()
        failpoint("launch.begin.after")
    except BaseException:
        journal.close()
        raise
    return Reopened(header, found, self)


def read_run(history: History, run_id: str, store: ResultStore) -> Replay:
    """Return all that is known of a run; of a flow that was tried again as a whole, of its last attempt."""
    replay = Replay(store=store)
    for entry in history.read(run_id):
        replay.add(entry)
    return replay


def _damaged(replay: Replay, store: ResultStore) -> list[Any]:
    """Return columns of values that are not there any more just as they were written."""
    from graphflow.results.packs import packs

    stored = list(replay.stored())
    damaged = packs.damaged(store, stored)
    if damaged:
        names = ", ".join(sorted({each.name for each in damaged})[:5])
        logger.warning(
            "%d of %d stored result columns are damaged or missing (%s): their items run again",
            len(damaged),
            len(stored),
            names,
        )
    return damaged


def _has_value(replay: Replay, store: ResultStore) -> bool:
    """Return whether the value of a completed run is there as it was written; else it is made again from its nodes'."""
    if replay.value is None:
        return True
    try:
        check(store, replay.value, "the value of the run")
    except (ResultDamaged, ValueUnavailable) as error:
        logger.warning("%s; it is made again", error)
        return False
    return True


def has_launches(run_id: str) -> bool:
    """Return whether a driver of a run wrote anything down."""
    return open_history().head(run_id) > 0


def is_known(run_id: str) -> bool:
    """Return whether there is a run of just this id."""
    try:
        return open_history().find(run_id).id == run_id
    except (RunNotFound, HistoryLocked):
        # A run that is on this machine is found also where the catalog is locked.
        return False


def _parameters(
    replay: Replay,
    store: ResultStore,
    wanted: Mapping[str, Any] | None,
    given: Mapping[str, Any],
    checked: Callable[[Mapping[str, Any]], dict[str, Any]],
) -> dict[str, Any]:
    """Return the parameters of a run: those that are stored, and the secrets, which are given or looked up again."""
    if not replay.launches:
        if wanted is not None:
            return dict(wanted)
        raise ValueUnavailable(
            "the driver of this run died before it recorded the run's parameters, so the run cannot be resumed; nothing "
            "of it ran: start a new run"
        )
    first = replay.launches[0]
    if wanted is not None:
        _compare(first, wanted)
    _compare(first, given, is_whole=False)
    if first.stored is None:
        raise ValueUnavailable(
            "the parameters of this run could not be pickled when it began, so it cannot be resumed; start a new run"
        )
    found = _stored_parameters(first, store, wanted)
    asked: dict[str, Any] = {}
    for name, told in first.secrets.items():
        if wanted is not None and name in wanted:
            asked[name] = wanted[name]
        elif name in given:
            asked[name] = given[name]
        elif told.get("name"):
            asked[name] = checked({name: named_secret(told["name"])})[name]
        else:
            raise ParameterError(
                f"run {first.run_name} began with a secret as {name}, which is not stored; give it again: "
                f"flow.resume(run, parameters={{{name!r}: ...}}), or -p {name}=... on the command line"
            )
    _compare(first, asked, is_whole=False)
    return {**found, **asked}


def _compare(first: Launch, wanted: Mapping[str, Any], *, is_whole: bool = True) -> None:
    """Raise `ParameterError` if parameters are not those that a run began with."""
    for name in sorted({*first.parameters, *wanted} if is_whole else wanted):
        told = first.secrets.get(name)
        if told is not None and name in wanted:
            if _digest_of(wanted[name]) != told.get("digest"):
                raise ParameterError(
                    f"{name} is not the secret that run {first.run_name} began with; pass the same one, or use another run id"
                )
            continue
        before = first.parameters.get(name, "not given")
        now = _short(wanted[name]) if name in wanted else "not given"
        # What only tells its address cannot be compared.
        if before != now and " at 0x" not in now:
            raise ParameterError(
                f"run {first.run_name} began with {name}={before}, but {name} is {now} now; pass the same parameters, or use"
                " another run id"
            )


def _stored_parameters(first: Launch, store: ResultStore, wanted: Mapping[str, Any] | None) -> dict[str, Any]:
    stored = first.stored or {}
    try:
        parameters: dict[str, Any] = restore(store, stored, "the parameters of the run")
    except (ResultDamaged, ValueUnavailable) as error:
        shown = {name: text for name, text in first.parameters.items() if name not in first.secrets}
        again = _again(shown) if wanted is None else dict(wanted)
        if again is None or (wanted is None and not is_same(stored, dumps_value(again))):
            raise type(error)(
                f"{error}. Pass the same parameters to the flow's run(..., run_id=...) to go on"
            ) from error
        logger.warning("%s; they are restored from what the history tells", error)
        return again
    return parameters


def _digest_of(value: Any) -> str:
    return (canonical_digest(value) or b"").hex()


def _again(shown: Mapping[str, str]) -> dict[str, Any] | None:
    """Return parameters from their texts, where these are literals; whether they are the same, their digest tells."""
    try:
        return {name: ast.literal_eval(text) for name, text in shown.items()}
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


# -- what a launch is ---------------------------------------------------------------------------------------


def _launch(
    flow: Definition,
    run_name: str,
    parameters: Mapping[str, Any],
    epoch: int,
    reason: str,
    store: ResultStore,
) -> Launch:
    stored: Mapping[str, Any] | None = None
    secrets: dict[str, Mapping[str, str]] = {}
    try:
        try:
            data = dumps_value(dict(parameters))
        except Exception:
            secrets = _secrets_of(parameters)
            if not secrets:
                raise
            data = dumps_value({name: value for name, value in parameters.items() if name not in secrets})
        stored = keep(store, f"{epoch:04d}-parameters", data)
    except GraphflowError:
        raise
    except Exception as error:
        logger.warning(
            "the parameters of run %s cannot be pickled (%s: %s), so it cannot be resumed",
            run_name,
            type(error).__name__,
            error,
        )
    shown = {name: _short(value) for name, value in parameters.items()}
    return _described(flow, run_name, epoch, reason, store, shown, stored, secrets)


def _secrets_of(parameters: Mapping[str, Any]) -> dict[str, Mapping[str, str]]:
    """Return what is told of the parameters that have secrets in them, whose texts are masked from now on."""
    told: dict[str, Mapping[str, str]] = {}
    for name, value in parameters.items():
        found = secrets_in(value)
        if found:
            names = [of for each in found if (of := name_of(known(each)))]
            reference = {"name": names[0]} if len(names) == 1 and found == [value] else {}
            told[name] = {"digest": _digest_of(value), **reference}
    return told


def _launch_again(
    flow: Definition, header: RunHeader, replay: Replay, epoch: int, reason: str, store: ResultStore
) -> Launch:
    first = replay.launches[0]
    return _described(flow, header.name, epoch, reason, store, first.parameters, first.stored, first.secrets)


def _described(
    flow: Definition,
    run_name: str,
    epoch: int,
    reason: str,
    store: ResultStore,
    shown: Mapping[str, str],
    stored: Mapping[str, Any] | None,
    secrets: Mapping[str, Mapping[str, str]],
) -> Launch:
    return Launch(
        epoch=epoch,
        reason=reason,
        host=socket.gethostname(),
        pid=os.getpid(),
        boot_id=boot_id(),
        flow_name=flow.name,
        run_name=run_name,
        flow=_place_of(flow.fn),
        code=code_fingerprint(flow.fn),
        parameters=shown,
        stored=stored,
        versions=_versions(),
        settings=settings.shown(),
        backend=_backend_name(flow.options.backend),
        results=store.url,
        secrets=secrets,
        attempts=1 + flow.options.retries,
    )


def _backend_name(given: Any) -> str:
    name = given if isinstance(given, str) else getattr(given, "name", None)
    return "local" if given is None else str(name or type(given).__name__)


def _place_of(fn: Callable[..., Any]) -> dict[str, str]:
    plain = plain_function(fn)
    try:
        file = os.path.abspath(inspect.getsourcefile(plain) or "")
    except TypeError:
        file = ""
    return {
        "module": getattr(plain, "__module__", "") or "",
        "qualname": getattr(plain, "__qualname__", "") or "",
        "file": file,
    }


@cache
def _versions() -> Mapping[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except Exception as error:
        text = f"<{with_article(type(value).__name__)} whose repr raised {type(error).__name__}>"
    text = mask(text)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
