"""One run as its history tells it: of any process, finished or still going on."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, overload

from graphflow.common import settings
from graphflow.errors import (
    GraphflowError,
    HistoryError,
    LeaseHeld,
    RemoteError,
    RequestRefused,
    ValueUnavailable,
)
from graphflow.graph.graph import Dep, DepKind, Graph, Node
from graphflow.histories.whereabouts import results_of
from graphflow.model.records import NO_NODE, Kind, Life, RunHeader
from graphflow.model.reports import LogRecord
from graphflow.model.states import FAILED_CODES, FINAL_CODES, Code, State
from graphflow.ports import History, ResultStore
from graphflow.records.replay import Moved, Replay
from graphflow.results.packs import packs
from graphflow.results.stores.opening import open_store
from graphflow.runs.events import PastEvent, events_of, level_number
from graphflow.runs.recorded_nodes import PastItem, PastItems, PastNode
from graphflow.runs.values import Values

__all__ = ["PastNodes", "PastRun", "checked_states", "state_names"]

ANSWER_SECONDS = 10.0
POLL_SECONDS = 0.05


def checked_states(state: str | Sequence[str] | None) -> tuple[str, ...]:
    """Names of states, as they are written; `ValueError` for one that there is not."""
    given = () if state is None else (state,) if isinstance(state, str) else tuple(state)
    known = {name.lower(): name for name in state_names()}
    for name in given:
        if name.lower() not in known:
            raise ValueError(f"there is no state {name!r}; the states are {', '.join(state_names())}")
    return tuple(known[name.lower()] for name in given)


def state_names() -> list[str]:
    """The names of all states."""
    return list(dict.fromkeys(code.state_name for code in Code))


def moment(seconds: float | None) -> datetime | None:
    """Seconds since the epoch as a time."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


class PastNodes(Sequence[PastNode]):
    """A run's nodes, by place or by name."""

    def __init__(self, nodes: Sequence[PastNode]) -> None:
        self._nodes = nodes

    def __len__(self) -> int:
        return len(self._nodes)

    @overload
    def __getitem__(self, which: int | str) -> PastNode: ...
    @overload
    def __getitem__(self, which: slice) -> list[PastNode]: ...
    def __getitem__(self, which: int | str | slice) -> PastNode | list[PastNode]:
        if isinstance(which, slice):
            return list(self._nodes[which])
        if isinstance(which, int):
            return self._nodes[which]
        for node in self._nodes:
            if node.name == which:
                return node
        names = ", ".join(node.name for node in self._nodes) or "none"
        raise KeyError(f"no node {which!r} in this run; it has {names}")

    def __contains__(self, which: object) -> bool:
        return any(node.name == which or node is which for node in self._nodes)

    def __iter__(self) -> Iterator[PastNode]:
        return iter(self._nodes)

    def __repr__(self) -> str:
        return f"[{', '.join(map(repr, self._nodes))}]"


class PastRun:
    """One run, as its history tells it. What it shows stays as it is until `refresh`."""

    def __init__(self, histories: History, header: RunHeader, *, folder: Path | None = None) -> None:
        self._histories = histories
        self._header = header
        self._folder = folder
        self._replay: Replay | None = None
        self._store: ResultStore | None = None
        self._values: Values | None = None
        self._words: list[Moved] | None = None
        """The last of its states, if that was read alone."""

    def __repr__(self) -> str:
        return f"<PastRun {self.name} of {self.flow_name!r}: {self.state_name}>"

    # -- what lists of runs know ------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """Its id, a ULID."""
        return self._header.id

    @property
    def name(self) -> str:
        """Its name."""
        return self._header.name

    @property
    def flow_name(self) -> str:
        """Its flow's."""
        return self._header.flow_name

    @property
    def created(self) -> datetime:
        """When it was created."""
        return datetime.fromtimestamp(self._header.created, UTC)

    @property
    def started(self) -> datetime | None:
        """When it began to run."""
        return moment(self._header.started)

    @property
    def ended(self) -> datetime | None:
        """When it ended; None while it has not."""
        return moment(self._header.ended)

    @property
    def host(self) -> str:
        """The machine of its (last) driver."""
        return self._header.host

    @property
    def pid(self) -> int:
        """The process of its (last) driver."""
        return self._header.pid

    @property
    def state_name(self) -> str:
        """The name of its state, as lists of runs have it; nothing is read for it."""
        return self._header.state

    @property
    def state(self) -> State:
        """Where it stands; `Crashed` where its driver died. Why it failed is its message."""
        code = Code.by_name(self._header.state)
        message, at = "", self._header.ended or self._header.started or self._header.created
        if code in FAILED_CODES or code == Code.CANCELLED:
            message = self._last_words(code)
        return State.of(code, at=at, message=message)

    def _last_words(self, code: Code) -> str:
        if self._replay is not None:
            moved = self._replay.transitions
            return moved[-1].message if moved and moved[-1].code == code else ""
        if self._words is None:
            found = Replay()
            for entry in self._histories.read(self.id, kinds=(Kind.STATE,), node=NO_NODE):
                found.add(entry)
            self._words = found.transitions[-1:]
        return self._words[0].message if self._words and self._words[0].code == code else ""

    @property
    def exception(self) -> Exception | None:
        """What it failed with, by type and text; None if it did not fail."""
        state = self.state
        if not (state.is_failed() or state.is_crashed()):
            return None
        kind, colon, text = state.message.partition(": ")
        if not colon or not kind.replace(".", "").isidentifier():
            return GraphflowError(state.message or f"run {self.name} is {state.name}: its driver died")
        return RemoteError(kind, text)

    @property
    def value(self) -> Any:
        """What the flow returned; None if it did not complete."""
        return self.result() if self.state.is_completed() else None

    @property
    def is_over(self) -> bool:
        """Whether nobody works on it."""
        return Code.by_name(self._header.state) in FINAL_CODES

    def check_free(self) -> None:
        """Raise `LeaseHeld` if it has a driver."""
        lease = self._header.lease
        if lease is not None:
            raise LeaseHeld(
                f"run {self.id} has a driver: pid {lease.pid} on {lease.host}; its lease ends at "
                f"{datetime.fromtimestamp(lease.until, UTC).isoformat(timespec='seconds')} unless it is renewed",
                host=lease.host,
                pid=lease.pid,
                until=lease.until,
            )

    @property
    def lease_until(self) -> datetime | None:
        """Until when its driver has it, unless it renews that; None where it has no driver."""
        return moment(self._header.lease.until) if self._header.lease is not None else None

    # -- what its history tells ---------------------------------------------------------------------------

    @property
    def replay(self) -> Replay:
        """All that was recorded. The first time, it is read: about 0.1 s per million items."""
        if self._replay is None:
            self._replay = Replay(self._results())
            self._read()
        return self._replay

    def _read(self) -> None:
        replay = self._replay
        assert replay is not None
        for entry in self._histories.read(self.id, after=replay.seq):
            replay.add(entry)
        if self.is_over:
            replay.settle()

    def refresh(self) -> PastRun:
        """Read what was added since; gives the run itself.

        Raises
        ------
        RunNotFound
            If it was removed.
        """
        self._header = self._histories.find(self.id)
        self._words = None
        if self._replay is not None:
            self._read()
        return self

    @property
    def parameters(self) -> Mapping[str, str]:
        """The flow's parameters, as texts."""
        lives = self.replay.lives
        return dict(lives[0].parameters) if lives else {}

    @property
    def lives(self) -> list[Life]:
        """Each time that a driver took the run: where, when, why, with which versions."""
        return list(self.replay.lives)

    @property
    def nodes(self) -> PastNodes:
        """Its nodes, in the order of their calls; also by name: `run.nodes["fetch"]`."""
        return PastNodes([self._node(number) for number in self.replay.nodes])

    def _node(self, number: int) -> PastNode:
        return PastNode(self, number)

    @property
    def values(self) -> Values:
        """Reads values from the result store."""
        if self._values is None:
            self._values = Values()
        return self._values

    def _results(self) -> ResultStore:
        if self._store is None:
            # Made here, not when it is needed: reading a history needs the key anyway.
            folder = self._histories.results_folder(self.id)
            key, *older = settings.secret_keys(self._folder)
            url = results_of(self._histories, self.id)
            if not url or (url.startswith("file:") and os.path.isdir(folder)):
                # The home may have moved since.
                url = folder
            self._store = open_store(url, key=key, older_keys=older)
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
        node = self._node(number)
        return node.state.name, node.width, node.counts

    def damage(self) -> list[str]:
        """What of its records cannot be read, and which stored values are not what was written, as texts."""
        try:
            stored = list(self.replay.stored())
            damaged = packs.damaged(self._results(), stored)
        except GraphflowError as error:
            return [str(error)]
        counts = Counter(each.name for each in damaged)
        return [
            f"the results {name} are damaged or gone: {count} of their columns; they are made again when the run is resumed"
            for name, count in sorted(counts.items())
        ]

    # -- logs and events ----------------------------------------------------------------------------------

    def logs(
        self,
        node: str | None = None,
        index: int | None = None,
        level: int | str | None = None,
        after: int = 0,
    ) -> list[LogRecord]:
        """Lines of the log, by time.

        Parameters
        ----------
        node, index
            Only those of a node, or of one item of it.
        level
            Only those of this level (a number, or a name such as `"WARNING"`) or above.
        after
            How many lines of the whole log were seen already; see `logs_total`.
        """
        least = level_number(level)
        if node is not None:
            self.nodes[node]
        lines = [
            line
            for line in self.replay.history.logs[after:]
            if (node is None or line.node == node)
            and (index is None or line.index == index)
            and line.level >= least
        ]
        # Those of the flow's body are recorded a little later than those of tasks.
        return sorted(lines, key=lambda line: line.timestamp)

    @property
    def logs_total(self) -> int:
        """How many lines of log there are."""
        return len(self.replay.history.logs)

    @property
    def logs_dropped(self) -> int:
        """How many lines were not kept, because there were too many."""
        return self.replay.history.logs_dropped

    def events(self) -> list[PastEvent]:
        """All that happened to the run and its nodes, oldest first; what happened to items is in `item.history`."""
        return events_of(self.replay)

    # -- items and results --------------------------------------------------------------------------------

    def items(
        self,
        node: str,
        states: str | Sequence[str] | None = None,
        start: int = 0,
        stop: int | None = None,
    ) -> PastItems:
        """Items of a node, in index order: of some states, or all; of a range of indices, or all.

        Raises
        ------
        KeyError
            If there is no such node.
        ValueError
            If there is no such state.
        """
        return self.nodes[node].items.chosen(checked_states(states), start, stop)

    def failures(self, node: str | None = None) -> Sequence[PastItem]:
        """The items that failed, of one node or of all."""
        if node is not None:
            return self.nodes[node].failures()
        return [item for each in self.nodes for item in each.failures()]

    def result(self, node: str | None = None, index: int | None = None) -> Any:
        """The value of the run, of a node (a list where it is mapped, without skipped items), or of one item.

        Raises
        ------
        ValueUnavailable
            If it has none: not ended, failed, or not kept.
        ResultDamaged
            If it is not what was written.
        Exception
            What the node or item failed with.
        """
        if node is None:
            if index is not None:
                raise ValueError(f"item {index} of which node? Name it: result(node, {index})")
            state = self.state
            if not state.is_completed():
                said = state.message
                raise ValueUnavailable(
                    f"run {self.name} is {state.name}{': ' + said if said else ''}; it has no value"
                )
            # Only this needs the engine, whose import takes longer than reading most runs.
            from graphflow.driver.durability import value_of_run

            return value_of_run(self.replay, self._results())
        found = self.nodes[node]
        return found.result() if index is None else found.items[index].result()

    # -- requests -----------------------------------------------------------------------------------------

    def cancel(self, now: bool = False, *, timeout: float = ANSWER_SECONDS) -> None:
        """Start nothing more, and let what runs end; `now` stops that too.

        This and the other requests wait until the run's driver has answered.

        Raises
        ------
        RequestRefused
            If the run has no driver, or its driver cannot do that.
        TimeoutError
            If it does not answer in time.
        """
        self._ask("cancel", {"now": now}, timeout)

    def pause(self, *, timeout: float = ANSWER_SECONDS) -> None:
        """Send nothing more until the run is resumed; what is under way ends."""
        self._ask("pause", {}, timeout)

    def resume_paused(self, *, timeout: float = ANSWER_SECONDS) -> None:
        """Go on with a run that is paused."""
        self._ask("resume", {}, timeout)

    def update(self, node: str, *, timeout_seconds: float = ANSWER_SECONDS, **knobs: Any) -> None:
        """Change knobs of a map, or policies of a task, while the run goes on; see `Run.update`.

        Parameters
        ----------
        timeout_seconds
            How long to wait for the driver's answer.
        """
        self._ask("update", {"node": node, **knobs}, timeout_seconds)

    def _ask(self, kind: str, body: Mapping[str, Any], timeout: float) -> None:
        try:
            request = self._histories.request(self.id, kind, body)
        except HistoryError as error:
            if self.refresh().lease_until is not None:
                raise
            raise RequestRefused(
                f"run {self.name} is {self.state_name}: it has no driver that could {kind} it"
            ) from error
        deadline = time.monotonic() + timeout
        pause = threading.Event()
        while True:
            answer = self._histories.answer_of(request)
            if answer:
                raise RequestRefused(f"the driver of run {self.name} did not {kind} it: {answer}")
            if answer is not None:
                return
            if time.monotonic() >= deadline:
                raise TimeoutError(
                    f"the driver of run {self.name} ({self.host}, pid {self.pid}) did not answer within {timeout:g} s; the "
                    "request stands, and is carried out when it does"
                )
            pause.wait(POLL_SECONDS)
