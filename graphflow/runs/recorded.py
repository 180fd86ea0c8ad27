"""A run as recorded in its history: of any process, finished or active."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from math import inf
from pathlib import Path
from typing import Any

from graphflow.common import settings
from graphflow.common.times import moment
from graphflow.common.waiting import check_timeout
from graphflow.common.wording import count_text
from graphflow.errors import (
    GraphflowError,
    HistoryError,
    LeaseHeld,
    RemoteError,
    RequestRefused,
    RunCancelled,
    ValueUnavailable,
)
from graphflow.graph.graph import Dep, DepKind, Graph, Node
from graphflow.histories.whereabouts import results_of
from graphflow.model.orders import GONE
from graphflow.model.records import NO_NODE, Kind, Launch, Plan, RunHeader
from graphflow.model.states import FAILED_CODES, FINAL_CODES, Code, State
from graphflow.ports import History, ResultStore
from graphflow.records.figures import Timeline
from graphflow.records.item_index import MemoryHistory, Moved
from graphflow.records.rebuilding import catch_up, known_replay
from graphflow.records.replay import Replay, ReplayedNode
from graphflow.records.spans import Span, launch_seconds
from graphflow.records.summary import RunSummary
from graphflow.results.packs import packs
from graphflow.results.packs.single import check, restore
from graphflow.results.stores.opening import open_store
from graphflow.runs.events import Event, events_of
from graphflow.runs.logs import Logs
from graphflow.runs.nodes import Nodes
from graphflow.runs.run import Run
from graphflow.runs.values import NOT_KEPT, Values

__all__ = ["RecordedRun"]

ANSWER_SECONDS = 10.0
POLL_SECONDS = 0.05
_BAD = FAILED_CODES | {Code.CANCELLED}
_GOOD = (Code.COMPLETED, Code.CACHED)


class _Known:
    """A replay's facts about its run, in the form that views of runs need."""

    def __init__(self, run: RecordedRun) -> None:
        self._run = run
        self._values = Values()

    @property
    def history(self) -> MemoryHistory:
        return self._run.replay.history

    @property
    def created(self) -> float:
        return self._run.created.timestamp()

    @property
    def is_over(self) -> bool:
        return self._run.is_over

    @property
    def spans(self) -> Sequence[Span]:
        return self._run.spans

    def numbers(self) -> Sequence[int]:
        return list(self._run.replay.nodes)

    def known(self, number: int) -> ReplayedNode:
        return self._run.replay.nodes[number]

    def whole_error(self, number: int) -> BaseException | None:
        node = self.known(number)
        if not node.failed_whole:
            return None
        message = node.transitions[-1].message
        return _error_of(message) or GraphflowError(message)

    def root_of(self, number: int, index: int | None) -> tuple[int, int | None, Sequence[int]]:
        path: list[int] = []
        node, item = self.known(number), index
        while len(path) <= len(self._run.replay.nodes):
            cause = self._cause(node, item)
            if cause is None:
                break
            path.append(node.number)
            node, item = cause
        return node.number, item, path

    def _cause(self, node: ReplayedNode, index: int | None) -> tuple[ReplayedNode, int | None] | None:
        """Return the cause of an upstream failure, one step up; None for anything else."""
        if index is None:
            index = node.states.find(Code.UPSTREAM_FAILED)
            if index < 0:
                if node.code != Code.UPSTREAM_FAILED:
                    return None
                index = None
        if index is not None and node.code_of(index) != Code.UPSTREAM_FAILED:
            return None
        nodes = self._run.replay.nodes
        if index is None and node.broke_off and not node.failed_whole:
            for dep in node.entry.deps:
                if dep.kind == "ITEMS" and nodes[dep.upstream].broke_off:
                    return nodes[dep.upstream], None
        for each in nodes.values():
            if each.entry.parent == (node.number, index) and each.code in _BAD:
                return each, _first_bad(each)
        # What is taken as a whole decides before what is taken item by item.
        for dep in sorted(node.entry.deps, key=lambda dep: (dep.kind == "AFTER", dep.kind == "ITEMS")):
            upstream = nodes.get(dep.upstream)
            if upstream is None:
                continue
            item = index if dep.kind == "ITEMS" else dep.index
            if item is not None and item < len(upstream.states):
                if upstream.code_of(item) in _BAD:
                    return upstream, item
            elif upstream.code in _BAD or any(map(upstream.states.count, _BAD)):
                return upstream, None if upstream.broke_off else _first_bad(upstream)
        return None

    def value(self, number: int, index: int) -> Any:
        node = self._run.with_values(number)
        place = node.history.place(index)
        if place is None or not node.valued(index, index + 1)[0]:
            raise ValueUnavailable(f"the value of {node.label(index)} {NOT_KEPT}")
        return self._values.value(place.ref, place.position, node.label(index))

    def values(self, number: int) -> list[Any]:
        node = self._run.with_values(number)
        size = node.size
        codes = node.codes(0, size)
        good = [index for index in range(size) if codes[index] in _GOOD]
        wanted: Sequence[int] = range(size) if len(good) == size else good
        valued = node.valued(0, size)
        if valued.count(1) < size:
            gone = next((index for index in good if not valued[index]), None)
            if gone is not None:
                raise ValueUnavailable(f"the value of {node.label(gone)} {NOT_KEPT}")
        return self._values.joined(node.history.parts(wanted, GONE))

    def inputs(self, number: int, index: int) -> str:
        return self.known(number).history.inputs_of(index)


def _first_bad(node: ReplayedNode) -> int | None:
    found = [place for place in (node.states.find(code) for code in _BAD) if place >= 0]
    return min(found, default=None)


def _error_of(message: str) -> RemoteError | None:
    """Return the exception for a message of the form `Type: text`."""
    kind, colon, text = message.partition(": ")
    return RemoteError(kind, text) if colon and kind.replace(".", "").isidentifier() else None


class RecordedRun(Run):
    """A run as recorded in its history. It does not change until `refresh`."""

    def __init__(self, histories: History, header: RunHeader, *, folder: Path | None = None) -> None:
        self._histories = histories
        self._header = header
        self._folder = folder
        self._replay: Replay | None = None
        self._whole: Replay | None = None
        self._summary: RunSummary | None = None
        self._store: ResultStore | None = None
        self._known = _Known(self)
        self._words: list[Moved] | None = None
        """Its last state, if only that was read."""

    # -- what lists of runs know ------------------------------------------------------------------------

    @property
    def id(self) -> str:
        return self._header.id

    @property
    def name(self) -> str:
        return self._header.name

    @property
    def flow_name(self) -> str:
        return self._header.flow_name

    @property
    def created(self) -> datetime:
        return moment(self._header.created)

    @property
    def started(self) -> datetime | None:
        return moment(self._header.started)

    @property
    def ended(self) -> datetime | None:
        return moment(self._header.ended)

    @property
    def host(self) -> str:
        return self._header.host

    @property
    def pid(self) -> int:
        return self._header.pid

    @property
    def plan(self) -> Plan:
        return self._header.plan

    @property
    def why(self) -> str:
        work = self._header.work
        if self._header.lease is not None:
            return self._header.message or self._histories.waits_for(self.id)
        if work is None:
            return self._header.message
        if work.state == "claimed":
            return f"worker {work.worker_id} starts it"
        if work.why:
            return work.why
        if work.due > time.time():
            return f"it is due at {moment(work.due).isoformat(timespec='seconds').replace('+00:00', 'Z')}"
        return f"it waits for a worker of the pool {work.pool}"

    @property
    def state_name(self) -> str:
        """The name of its state, as in lists of runs; reads nothing."""
        return self._header.state

    @property
    def state(self) -> State:
        """Its state; `Crashed` if its driver died. The reason for a failure is its message."""
        code = Code.by_name(self._header.state)
        message, at = "", self._header.ended or self._header.started or self._header.created
        if code in FAILED_CODES or code == Code.CANCELLED:
            message = self._last_words(code) or self._header.message
        return State.of(code, at=at, message=message)

    def _last_words(self, code: Code) -> str:
        if self._replay is not None:
            return self._last_words_of(self._replay, code)
        if self._words is None and next(self._histories.digests(self.id), 0):
            return self._last_words_of(self.replay, code)
        if self._words is None:
            found = Replay()
            for entry in self._histories.read(self.id, kinds=(Kind.STATE,), node=NO_NODE):
                found.add(entry)
            self._words = found.transitions[-1:]
        return self._words[0].message if self._words and self._words[0].code == code else ""

    @staticmethod
    def _last_words_of(replay: Replay, code: Code) -> str:
        moved = replay.transitions
        return moved[-1].message if moved and moved[-1].code == code else ""

    @property
    def history(self) -> list[State]:
        return [
            State.of(Code(moved.code), at=moved.at, message=moved.message)
            for moved in self.replay.transitions
        ]

    @property
    def summary(self) -> RunSummary | None:
        """Its nodes in a few lines, as its driver last told lists; reads no history. None where nothing is known."""
        if self._summary is None:
            self._summary = RunSummary.of_text(self._histories.summary(self.id))
        return self._summary

    @property
    def exception(self) -> Exception | None:
        """The exception it failed with, by type and text; None if it did not fail."""
        state = self.state
        if not (state.is_failed() or state.is_crashed()):
            return None
        said = state.message or f"run {self.name} is {state.name}: its driver died"
        return _error_of(state.message) or GraphflowError(said)

    @property
    def traceback(self) -> str:
        if self.state.is_completed() or not self.is_over:
            return ""
        return str(self.replay.noted("traceback") or "")

    @property
    def value(self) -> Any:
        return self.result() if self.state.is_completed() else None

    @property
    def is_over(self) -> bool:
        """Whether it has ended and has no driver."""
        return Code.by_name(self._header.state) in FINAL_CODES

    def check_free(self) -> None:
        """Raise `LeaseHeld` if it has a driver."""
        lease = self._header.lease
        if lease is not None:
            raise LeaseHeld(
                f"run {self.id} already has a driver: pid {lease.pid} on {lease.host}; its lease ends at "
                f"{moment(lease.until).isoformat(timespec='seconds')} unless it is renewed",
                host=lease.host,
                pid=lease.pid,
                until=lease.until,
            )

    @property
    def lease_until(self) -> datetime | None:
        """When its driver's lease ends, unless it is renewed; None if it has no driver."""
        return None if self._header.lease is None else moment(self._header.lease.until)

    # -- what its history tells ---------------------------------------------------------------------------

    @property
    def replay(self) -> Replay:
        """Everything that was recorded. The first access reads it: about 0.1 s per million items.

        Of a long run its digest is read, and what came after that.
        """
        if self._replay is None:
            self._replay = known_replay(self._histories, self.id, store=self._results())
            self._settle()
        return self._replay

    def folded(self) -> RecordedRun:
        """Return the run itself, which from now on keeps no items: it reads again those that are asked for.

        What it knows takes 2 bytes per item, so it may be kept, and it has figures: durations, and what workers did.
        """
        if self._replay is None or self._replay.folded is None:
            self._replay = known_replay(self._histories, self.id, store=self._results(), folds=True)
            self._settle()
        return self

    def _settle(self) -> None:
        if self.is_over and self._replay is not None:
            self._replay.settle()

    def with_values(self, number: int) -> ReplayedNode:
        """Return a node with where its values are: what stands in for its items is known where all records were read."""
        node = self.replay.nodes[number]
        if self.replay.folded is None or not node.aliases:
            return node
        if self._whole is None or self._whole.seq != self.replay.seq:
            whole = Replay(self._results())
            catch_up(whole, self._histories, self.id)
            self._whole = whole
        return self._whole.nodes[number]

    def refresh(self) -> RecordedRun:
        """Read what was added since, and return the run itself.

        Raises
        ------
        RunNotFound
            If it was removed.
        """
        self._header = self._histories.find(self.id)
        self._words = self._summary = None
        if self._replay is not None:
            catch_up(self._replay, self._histories, self.id)
            self._settle()
        return self

    @property
    def timelines(self) -> Sequence[Timeline]:
        return list(self.replay.timelines)

    @property
    def parameters(self) -> Mapping[str, str]:
        """The flow's parameters, as texts."""
        launches = self.replay.launches
        if not launches and self.plan.parameters:
            return {name: repr(value) for name, value in json.loads(self.plan.parameters).items()}
        return dict(launches[0].parameters) if launches else {}

    @property
    def launches(self) -> Sequence[Launch]:
        return list(self.replay.launches)

    @property
    def spans(self) -> Sequence[Span]:
        spans = self.replay.spans
        if spans and not self.is_over:
            spans[-1] = spans[-1][0], inf
        return spans

    @property
    def seconds(self) -> float | None:
        if self._header.epoch <= 1 and self.is_over:
            # Of a single launch, lists know it.
            return super().seconds
        try:
            return launch_seconds(self.spans, time.time()) if self.started else None
        except HistoryError:
            # A list shows damaged runs too.
            return super().seconds

    @property
    def nodes(self) -> Nodes:
        return Nodes(self._known)

    def report(self, path: str | Path, *, has_plots: bool = True, overwrites: bool = False) -> Path:
        if self._replay is None:
            self.folded()
        return super().report(path, has_plots=has_plots, overwrites=overwrites)

    def _results(self) -> ResultStore:
        if self._store is None:
            # Made here, not when it is needed: reading a history needs the key anyway.
            folder = self._histories.results_folder(self.id)
            keys = () if self._folder is None else settings.secret_keys(self._folder)
            url = results_of(self._histories, self.id)
            if not url or (url.startswith("file:") and os.path.isdir(folder)):
                # The home may have moved since.
                url = folder
            self._store = open_store(url, key=keys[0] if keys else None, older_keys=keys[1:])
        return self._store

    @property
    def graph(self) -> Graph:
        """Its graph, with states and counts."""
        graph = Graph(name=self.flow_name, status=self._status)
        known = self.replay.nodes
        placed: set[int] = set()
        for number, node in known.items():
            entry = node.entry
            deps = tuple(
                Dep(
                    upstream=dep.upstream,
                    kind=DepKind[dep.kind],
                    index=dep.index,
                    argument=dep.argument,
                )
                for dep in entry.deps
                if dep.upstream in placed
            )
            graph.add(
                Node(
                    id=number,
                    key=entry.key,
                    name=entry.name,
                    task_name=entry.task_name,
                    is_mapped=entry.is_mapped,
                    deps=deps,
                    group=entry.group,
                    is_builtin=entry.is_builtin,
                )
            )
            placed.add(number)
        return graph

    def _status(self, number: int) -> tuple[str, int | None, Mapping[str, int]]:
        node = Nodes(self._known).of(number)
        return node.state.name, node.width, node.counts

    def deaths(self) -> list[tuple[str, dict[int, int]]]:
        """How often items were under way when a process died, by index: for each node, with its task's name.

        Nothing but the history is read.
        """
        replay = Replay()
        for entry in self._histories.read(self.id):
            replay.add(entry)
        nodes = [node for node in replay.nodes.values() if not node.entry.is_builtin]
        return [(node.entry.task_name, died) for node in nodes if (died := node.died())]

    def damage(self) -> list[str]:
        """Return its unreadable records, and stored values that differ from what was written, as texts."""
        try:
            stored = list(self.replay.stored())
            damaged = packs.damaged(self._results(), stored)
        except GraphflowError as error:
            return [str(error)]
        counts = Counter(each.name for each in damaged)
        wrong = [
            f"the results {name} are damaged or missing ({count_text(count, 'column')}); they are recomputed when the run is resumed"
            for name, count in sorted(counts.items())
        ]
        launches = self.replay.launches
        for what, single in (
            ("the parameters of the run", launches[0].stored if launches else None),
            ("the value of the run", self.replay.value),
        ):
            try:
                if single is not None:
                    check(self._results(), single, what)
            except GraphflowError as error:
                wrong.append(str(error))
        return wrong

    @property
    def logs(self) -> Logs:
        history = self.replay.history
        return Logs(history.logs, dropped=history.logs_dropped)

    @property
    def events(self) -> list[Event]:
        replay = self.replay
        changes = [(at, node.name, values) for node in replay.nodes.values() for at, values in node.changes]
        return events_of(
            launches=replay.launches,
            states=self.history,
            nodes=self.nodes,
            changes=changes,
            answers=replay.answers,
        )

    def wait(self, timeout: float | None = None) -> bool:
        check_timeout(timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = threading.Event()
        while not self.is_over:
            if deadline is not None and time.monotonic() >= deadline:
                return False
            pause.wait(POLL_SECONDS)
            self.refresh()
        return True

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> Any:
        self._wait_for_result(timeout)
        state = self.state
        if state.is_completed():
            stored = self.replay.value
            return None if stored is None else restore(self._results(), stored, "the value of the run")
        error = self.exception or RunCancelled(f"run {self.name} was cancelled")
        if raise_on_failure:
            raise error
        return error

    # -- requests -----------------------------------------------------------------------------------------

    def cancel(self, force: bool = False) -> None:
        self._ask("cancel", {"force": force})

    def pause(self) -> None:
        self._ask("pause", {})

    def resume(self) -> None:
        self._ask("resume", {})

    def update(self, node: Any, **options: Any) -> None:
        name = self._name_of(node)
        self.nodes[name]
        self._ask("update", {"node": name, **options})

    def _no_driver(self, kind: str) -> str:
        if self.is_over:
            return f"run {self.name} has already ended ({self.state_name}), so it cannot be asked to {kind}"
        return f"run {self.name} is {self.state_name} and has no driver, so it cannot be asked to {kind}"

    def _ask(self, kind: str, body: Mapping[str, Any]) -> None:
        """Send a request to the driver, and wait for its answer."""
        try:
            request = self._histories.request(self.id, kind, body)
        except HistoryError as error:
            if self.refresh().lease_until is not None:
                raise
            raise RequestRefused(self._no_driver(kind)) from error
        deadline = time.monotonic() + ANSWER_SECONDS
        pause = threading.Event()
        while True:
            answer = self._histories.answer_of(request)
            if answer:
                raise RequestRefused(f"the driver of run {self.name} did not {kind} it: {answer}")
            if answer is not None:
                return
            if time.monotonic() >= deadline:
                raise TimeoutError(
                    f"the driver of run {self.name} ({self.host}, pid {self.pid}) did not answer within {ANSWER_SECONDS:g} s; the "
                    "request is kept, and carried out when it does"
                )
            pause.wait(POLL_SECONDS)
