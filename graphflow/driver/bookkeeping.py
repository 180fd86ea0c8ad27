"""The durable books of one run: what the core commanded becomes records, and those are committed in groups.

Everything here happens before it takes effect outside. Several drivers may use it one after the other (attempts of a flow).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from graphflow.common.failpoints import failpoint
from graphflow.common.secrets import mask
from graphflow.core import events as ev
from graphflow.core.core import Core
from graphflow.core.nodes import ONLY
from graphflow.driver.digesting import Digests
from graphflow.driver.telling import Teller
from graphflow.errors import GraphflowError, LeaseLost
from graphflow.graph.graph import DepKind, Node
from graphflow.identity.fingerprints import code_fingerprint, constants_digest
from graphflow.model.orders import Ref
from graphflow.model.policies import TaskOptions
from graphflow.model.records import (
    Alias,
    Answer,
    Dispatch,
    Ended,
    EntryDep,
    Launch,
    Lost,
    NodeEntry,
    Record,
    Request,
    Transition,
)
from graphflow.model.reports import LogRecord, Report
from graphflow.model.states import FINAL_CODES, Code
from graphflow.ports import Journal
from graphflow.records.codec import RecordWriter, Reported, join

__all__ = ["Bookkeeper", "node_inputs", "shown_options"]

_logger = logging.getLogger("graphflow.driver.bookkeeping")


class Bookkeeper:
    """Turns commands into records and commits them.

    Parameters
    ----------
    journal
        The run's history, as its driver.
    writer
        Makes the records.
    numbers
        The numbers that nodes have by key, from earlier launches.
    wall
        The time of what is noted, in seconds since the epoch.
    digests
        Makes digests of what was written; None for a run that has none.
    """

    def __init__(
        self,
        journal: Journal,
        writer: RecordWriter,
        *,
        numbers: Mapping[str, int] | None = None,
        wall: Callable[[], float] = time.time,
        digests: Digests | None = None,
    ) -> None:
        self.journal = journal
        self._digests = digests
        self._wall = wall
        self._writer = writer
        self._by_key = dict(numbers or {})
        # Numbers may be missing, where a history was repaired.
        self._next = max(self._by_key.values(), default=-1) + 1
        self._numbers: dict[int, int] = {}
        self._options: dict[int, tuple[TaskOptions, Mapping[str, Any]]] = {}
        self._why: dict[int, str] = {}
        """What nodes fail with beside their items."""
        self.answers: list[tuple[float, Answer]] = []
        """What was asked from outside in this launch, and what came of it, with the times."""
        self._records: list[Record | list[Reported]] = []
        self._open: dict[int, list[Reported]] = {}
        """Reports of the next commit that others of the same node may join, by its number; they are among the records."""
        self._sends: dict[tuple[int, ...], list[Dispatch]] = {}
        """Batches that are sent after the next commit, by the numbers of their nodes: told at its end."""
        self._state: str | None = None
        self._teller = Teller()
        self._lock = threading.RLock()

    # -- the run as a whole -----------------------------------------------------------------------------

    def begin(self, launch: Launch) -> None:
        """Record the launch of a driver."""
        self._add(self._writer.launch(launch, self._wall()))

    def begin_attempt(self) -> None:
        """Node ids start again; nodes keep their numbers by their keys."""
        with self._lock:
            self._numbers = {}
            self._open = {}
            self._teller.begin_attempt()

    def run_moved(self, code: Code, message: str = "") -> None:
        """Record the run's new state."""
        with self._lock:
            self._state = code.state_name
            self._add(self._writer.state(None, Transition(code=code, message=mask(message)), self._wall()))

    def run_noted(self, body: Mapping[str, Any]) -> None:
        """Record a fact about the run that is not a state."""
        self._add(self._writer.change(None, body, self._wall()))

    def answered(self, request: Request, error: str) -> None:
        """Record that a request was carried out: durably, before it is answered."""
        with self._lock:
            answer = Answer(request=request.id, kind=request.kind, body=request.body, error=error)
            at = self._wall()
            self.answers.append((at, answer))
            self._add(self._writer.answer(answer, at))
            self.commit()
            self.journal.answer(request.id, error)

    def logged(self, lines: Sequence[LogRecord], dropped: int = 0) -> None:
        """Record log lines of the flow's body."""
        with self._lock:
            record = self._writer.log(lines, dropped, self._wall())
            if record is not None:
                self._add(record)

    # -- nodes ------------------------------------------------------------------------------------------

    def number(self, node: int) -> int:
        """Return the number of a node in the history."""
        return self._numbers[node]

    def recorded(self, nodes: Sequence[Node], parent: tuple[int, int] | None = None) -> None:
        """Record nodes that were placed in the graph; `parent` is the (node, item) whose task did it."""
        with self._lock:
            for node in nodes:
                number = self._by_key.setdefault(node.key, self._next)
                self._next = max(self._next, number + 1)
                self._numbers[node.id] = number
                entry = self._entry(node, number, parent)
                self._add(self._writer.node(entry, self._wall()))

    def _entry(self, node: Node, number: int, parent: tuple[int, int] | None) -> NodeEntry:
        program = node.program
        return NodeEntry(
            number=number,
            key=node.key,
            name=node.name,
            task_name=node.task_name,
            is_mapped=node.is_mapped,
            is_builtin=node.is_builtin,
            group=node.group,
            deps=tuple(
                EntryDep(
                    upstream=self._numbers[dep.upstream],
                    kind=DepKind(dep.kind).name,
                    argument=dep.argument,
                    index=dep.index,
                )
                for dep in node.deps
            ),
            options=self._shown(program.options) if program is not None else {},
            code="" if program is None or node.is_builtin else code_fingerprint(program.fn),
            inputs=node_inputs(node),
            parent=None if parent is None else (self._numbers[parent[0]], parent[1]),
            sources=tuple(
                f"{source.argument}: {'iterator' if source.length is None else 'list'}"
                for source in node.sources
            ),
            width=node.fixed_width,
        )

    def _shown(self, options: TaskOptions) -> Mapping[str, Any]:
        """Return what is shown of a task's options; made once for all its nodes."""
        known = self._options.get(id(options))
        if known is None:
            known = self._options[id(options)] = (options, shown_options(options))
        return known[1]

    def taken_back(self, number: int, indices: Sequence[int]) -> None:
        """Outcomes of an earlier launch do not count any more: these items are Pending again, and so is their node."""
        at = self._wall()
        self._open = {}
        if len(indices):
            ended = Ended(node=number, indices=indices, code=Code.PENDING)
            self._add(self._writer.ended(ended, at))
        self._add(self._writer.state(number, Transition(code=Code.PENDING), at))

    def changed(self, node: int, body: Mapping[str, Any]) -> None:
        """Options or policies of a node were changed."""
        self._add(self._writer.change(self._numbers[node], body, self._wall()))

    # -- what the core commands -------------------------------------------------------------------------

    def reported(self, report: Report, indices: Sequence[int], load: Callable[[Ref], list[Any]]) -> None:
        """Record a batch's report of these indices."""
        with self._lock:
            for each in self._writer.reported(
                report, indices, number=self._numbers.__getitem__, load=load, at=self._wall()
            ):
                if isinstance(each, Record):
                    self._records.append(each)
                else:
                    self._report(each)

    def _report(self, reported: Reported) -> None:
        """Add a report of one node to those that it may join; its place among the records is theirs."""
        together = self._open.get(reported.node)
        if together is not None and reported.can_join:
            together.append(reported)
            return
        self._records.append(alone := [reported])
        if reported.can_join:
            self._open[reported.node] = alone
        else:
            # What comes later of the same batch must not come before it.
            self._open.pop(reported.node, None)

    def lost(self, batch: int, executing: int | None, reason: str) -> None:
        """Record the loss of a batch."""
        self._open = {}
        self._add(self._writer.lost(Lost(batch=batch, executing=executing, reason=reason), self._wall()))

    def commanded(self, command: ev.Command, core: Core) -> None:
        """Record a command of the core that is not a report."""
        at = self._wall()
        if isinstance(command, ev.SubmitBatch):
            flight = core.flights.get(command.batch)
            nodes = tuple(self._numbers[node] for node in command.nodes)
            dispatch = Dispatch(
                batch=command.batch,
                nodes=nodes,
                indices=ONLY if command.is_bundle else command.indices,
                is_fresh=flight is None or flight.is_fresh,
                is_bundle=command.is_bundle,
            )
            with self._lock:
                # What one record tells of several batches has no room for bundles.
                place = (*nodes, -command.batch) if command.is_bundle else nodes
                self._sends.setdefault(place, []).append(dispatch)
        elif isinstance(command, ev.ItemsEnded):
            ended = Ended(node=self._numbers[command.node], indices=command.indices, code=command.code)
            self._open.pop(ended.node, None)
            self._add(self._writer.ended(ended, at))
        elif isinstance(command, ev.NodeChanged):
            message = self._why.pop(command.node, "") if command.code in FINAL_CODES else ""
            moved = Transition(code=command.code, message=message, width=command.width)
            number = self._numbers[command.node]
            self._add(self._writer.state(number, moved, at))
            self._teller.moved(core.books[command.node], number, Code(command.code), at)
        elif isinstance(command, ev.NodeFailed) and command.error is not None:
            # Told with the state that it leads to.
            self._why[command.node] = mask(f"{type(command.error).__name__}: {command.error}")
        elif isinstance(command, ev.Alias):
            alias = Alias(
                node=self._numbers[command.node],
                index=command.index,
                root=self._numbers[command.root],
            )
            self._add(self._writer.alias(alias, at))

    # -- commits ----------------------------------------------------------------------------------------

    def commit(self) -> None:
        """Write everything that was recorded so far durably; nothing of it is lost if that fails.

        Raises
        ------
        LeaseLost
            If another driver has the run.
        HistoryError
            If the history cannot be written.
        """
        with self._lock:
            if not self._records and not self._sends and self._state is None:
                return
            self._open = {}
            records = [each if isinstance(each, Record) else join(each) for each in self._records]
            at = self._wall() if self._sends else 0.0
            records += [self._writer.dispatches(sends, at) for sends in self._sends.values()]
            seq = self.journal.commit(records, state=self._state)
            self._records, self._sends = [], {}
            self._state = None
            if self._teller.has_news:
                self.journal.tell(self._teller.take(), left_out=self._teller.left_out)
            if self._digests is not None:
                self._digests.wrote(records, seq=seq, number=self.journal.number, epoch=self.journal.epoch)
                self._digest()

    def end(self) -> None:
        """Write what readers want of a run that its driver leaves; the run itself needs none of it."""
        with self._lock:
            self._digest(at_end=True)

    def _digest(self, *, at_end: bool = False) -> None:
        digests = self._digests
        if digests is None or not digests.is_due(at_end=at_end):
            return
        try:
            record = digests.record(number=self.journal.number + 1, at=self._wall())
            failpoint("digest.write.before")
            self.journal.commit([record])
        except GraphflowError as error:
            # Nothing is lost without it; if the run was lost, the next commit tells.
            digests.failed()
            level = logging.DEBUG if isinstance(error, LeaseLost) else logging.WARNING
            _logger.log(level, "run %s: its digest could not be written: %s", self.journal.run_id, error)
        else:
            digests.written()
            failpoint("digest.write.after")

    def _add(self, record: Record) -> None:
        with self._lock:
            self._records.append(record)


def node_inputs(node: Node) -> str:
    """Return a digest of a node's constant arguments; empty where that cannot be told."""
    program = node.program
    if program is None or node.is_builtin:
        return ""
    ranges = {
        source.argument: (source.values.start, source.values.step)
        for source in node.sources
        if isinstance(source.values, range)
    }
    return constants_digest([*program.args, *ranges.items()], program.kwargs)


def shown_options(options: TaskOptions) -> dict[str, Any]:
    """Return options that differ from the default, as JSON can show them."""
    plain = TaskOptions(name=options.name)
    shown: dict[str, Any] = {}
    for each in fields(options):
        value = getattr(options, each.name)
        if value != getattr(plain, each.name, None):
            shown[each.name] = value if isinstance(value, bool | int | float | str) else str(value)
    return shown
