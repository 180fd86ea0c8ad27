"""The engine's core: a state machine with no I/O, clock, thread or randomness.

`Core.handle(event, now)` returns commands. Work per event is O(items reported + out-degree).
The idea of such a machine: distributed's `worker_state_machine`, and FoundationDB's simulated cluster.
Its parts: `opening` (when a stage starts, how wide it is), `queues` (what runs next), `outcomes` (how
things end), `causes` (where a failure comes from, who saw it), `landing` (which items a report tells of),
`limits` (the options of maps that follow from others, or from what items took); `lanes` and `plan` decide,
`nodes` and `state` hold.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from graphflow.core import events as ev
from graphflow.core.batching import updated_mean
from graphflow.core.bundles import Bundles, learn
from graphflow.core.causes import hand_over, root_of
from graphflow.core.halting import Halter
from graphflow.core.landing import grouped, landed
from graphflow.core.limits import learn_limit, limit_stage
from graphflow.core.nodes import SUCCESS_BYTES, Flight, NodeBook, Past, Stage, chosen, codes_at, packed
from graphflow.core.opening import Opener
from graphflow.core.outcomes import (
    cancel_items,
    check_tolerance,
    end_if_complete,
    end_items,
    end_whole,
    let_go,
    let_items_go,
    set_items,
    set_width,
)
from graphflow.core.plan import depth_of, stage_to_join
from graphflow.core.queues import MAX_CRASHES, Queues
from graphflow.core.state import (
    DependencyEnded,
    FollowerBack,
    ItemsEndedUpstream,
    LanesOpen,
    RootEnded,
    RunState,
    TooManyFailed,
    Unwanted,
    UpstreamGone,
    WidthKnown,
)
from graphflow.core.streams import Streams
from graphflow.graph.graph import DepKind, Node
from graphflow.model.anomalies import waiting
from graphflow.model.reports import Report, StepReport, ValueInfo
from graphflow.model.states import FAILED_CODES, FINAL_CODES, Code
from graphflow.ports import Capacity, WantedSlots

__all__ = ["MAX_CRASHES", "Core"]


class Core:
    """Decides everything about one run; performs nothing.

    Parameters
    ----------
    capacity
        What the backend can do at the start.
    batches
        The last number of a batch of an earlier launch. Numbers continue from there, so that a report which
        comes late, to the next driver, is of a batch that it does not know.
    """

    def __init__(self, *, capacity: Capacity, batches: int = 0) -> None:
        self.run = RunState(capacity=capacity)
        self.queues = Queues(self.run, batches=batches)
        self.opener = Opener(self.run, self.queues)
        self.halter = Halter(self.run, self.queues, self.opener)
        self.streams = Streams(self.run, self.queues, self.halter)
        self.bundles = Bundles(self.run, self.queues, self._apply)
        self.is_finished = False
        self._stages = 0
        self._grafts_out = 0
        self._timer: float | None = None
        self._retries: list[tuple[float, int, int, array[int]]] = []
        self._handlers: dict[type, Callable[[Any], None]] = {
            ev.NodesRecorded: lambda event: self._record_nodes(event.nodes, event.pasts),
            ev.RecordingClosed: self._close,
            ev.BatchReported: lambda event: self._report(event.report),
            ev.BatchWasLost: self._lost,
            ev.TimerDue: self._timer_due,
            ev.SourceAdvanced: self.opener.source_advanced,
            ev.Grafted: self._grafted,
            ev.CapacitySet: self._set_capacity,
            ev.StopRequested: self._stop,
            ev.ResumeRequested: self._resume,
            ev.FailureHandled: lambda event: hand_over(
                self.books, event.node, event.index, is_raised=event.is_raised
            ),
            ev.MapOptionsChanged: self._change_map_options,
            ev.LimitsChanged: self._change_limits,
            ev.SlotsReserved: self._deal,
            ev.PauseRequested: self._pause,
            ev.PolicyChanged: self._change_policy,
            ev.ReaderMoved: self.streams.moved,
            ev.ItemsNeeded: self.streams.needed,
        }

    def handle(self, event: ev.Event, now: float) -> list[ev.Command]:
        """Handle one event at `now`, in seconds of a steady clock; the commands are performed in order."""
        run = self.run
        run.now = now
        commands: list[ev.Command] = []
        run.commands = commands
        self._handlers[type(event)](event)
        self._release_due()
        self._work_off()
        self.queues.dispatch()
        self._set_timer()
        self._check_finish()
        return commands

    # -- queries ----------------------------------------------------------------------------------------

    @property
    def books(self) -> dict[int, NodeBook]:
        """Where each node stands, by id, in the order they were recorded."""
        return self.run.books

    @property
    def flights(self) -> dict[int, Flight]:
        """The batches under way, by number."""
        return self.run.flights

    @property
    def capacity(self) -> Capacity:
        """What the backend can do now."""
        return self.run.capacity

    @property
    def is_stopping(self) -> bool:
        """Whether nothing more is started."""
        return self.run.is_stopping

    def is_stalled(self) -> bool:
        """Return whether nothing can ever happen again although nodes are open: a bug, looked for by the tests."""
        return (
            self.run.is_closed
            and not self.is_finished
            and not self.flights
            and not self._retries
            and not self._grafts_out
            and not self.run.is_paused
            and not self.queues.is_starved
            and not self.queues.is_held_up
            and self.queues.due is None
            and not any(book.stage.pulling or book.stage.paused for book in self.books.values())
        )

    def remaining_seconds(self) -> float:
        """Return the work that is left, in seconds of one slot, as far as its size and its mean time are known. O(nodes).

        An iterator with an unknown end is assumed to yield as many items again.
        """
        total = 0.0
        for book in self.books.values():
            stage = book.stage
            mean = stage.mean_seconds or self.run.means.get(book.node.task_name)
            if book.is_final or mean is None or stage.leader != book.node.id:
                continue
            known = book.width - book.ended if book.width is not None else stage.ready + stage.fed
            total += known * mean
        return total

    def wants(self) -> dict[str, WantedSlots]:
        """Return what the run wants of each limit that it shares with others. O(stages that wait)."""
        return self.run.grants.wants(self.queues.ready(), self.queues.target)

    def root_of(self, node_id: int, index: int | None = None) -> tuple[int, int | None, list[int]]:
        """Return the failure at the bottom of an `UpstreamFailed`: (node, index or None, the path down to it)."""
        return root_of(self.books, node_id, index)

    # -- recording --------------------------------------------------------------------------------------

    def _record_nodes(self, nodes: Sequence[Node], pasts: Mapping[int, Past]) -> None:
        opened = [
            stage for stage in (self._add(node, pasts.get(node.id)) for node in nodes) if stage is not None
        ]
        self.streams.recorded()
        for stage in opened:
            if stage.waiting == 0:
                self.opener.open(stage)
                self._work_off()

    def _add(self, node: Node, past: Past | None) -> Stage | None:
        """Add a node; returns its stage if the node leads a new one."""
        self.run.open_nodes += 1
        joined = None if self.is_stopping else stage_to_join(node, self.books)
        grants = self.run.grants
        grants.note(node)
        if joined is not None and grants.holding(node) != grants.holding(self.run.leader_of(joined).node):
            # What takes slots of a limit, or of another one, does not keep others waiting for them.
            joined = None
        stage = joined or self._new_stage(node)
        stage.members.append(node.id)
        book = self.books[node.id] = NodeBook(node, stage, map_options=node.map_options, past=past)
        limit_stage(stage, self.books)
        if not node.is_mapped:
            book.width = 1
            book.grow(1)
            book.counts = bytearray(32)
        for dep in node.deps:
            upstream = self.books[dep.upstream]
            if dep.kind is DepKind.ELEMENTS:
                self._want_info(upstream)
            if joined is None:
                self._connect(stage, upstream, dep.kind, dep.index)
            upstream.note_user(node.id, dep.kind, dep.index)
        if joined is not None:
            return None
        for dep in node.deps:
            if dep.kind is DepKind.ITEMS:
                stage.upstreams = stage.upstreams or {}
                stage.upstreams.setdefault(dep.upstream, []).append(dep)
        for upstream_id in stage.upstreams:
            upstream = self.books[upstream_id]
            upstream.streams = [*upstream.streams, stage]
        stage.is_lazy = any(source.length is None for source in node.sources) or any(
            self.books[upstream_id].stage.is_lazy for upstream_id in stage.upstreams
        )
        return stage

    def _connect(self, stage: Stage, upstream: NodeBook, kind: DepKind, index: int | None) -> None:
        """Make a stage open once everything that its leader needs as a whole is final."""
        if kind is DepKind.ITEMS or upstream.is_final:
            return
        if kind is DepKind.PICK and index is not None:
            if index < len(upstream.states) and upstream.states[index] in FINAL_CODES:
                return
            upstream.watchers = upstream.watchers or {}
            upstream.watchers.setdefault(index, []).append(stage)
        else:
            upstream.dependents = upstream.dependents or []
            upstream.dependents.append(stage)
        stage.waiting += 1

    def _want_info(self, book: NodeBook) -> None:
        """Request the info of a value that is mapped over; of a fragment in its place, of its root."""
        book.wants_info = True
        while not book.node.is_mapped and 0 in book.graft_roots:
            book = self.books[book.graft_roots[0]]
            book.wants_info = True

    def _new_stage(self, node: Node) -> Stage:
        self._stages += 1
        return Stage(
            id=self._stages,
            members=[],
            depth=depth_of(node, self.books),
            priority=node.priority,
            batch_size=node.batch_size,
            item_nbytes=sum(source.item_nbytes for source in node.sources) or 8,
            concurrency=node.concurrency,
            finds=node.program is not None and node.program.options.cache is not None,
            bundle_key=node.bundle_key,
        )

    def _close(self, event: ev.RecordingClosed) -> None:
        self.run.is_closed = True
        self.run.returned = event.returned
        self.streams.closed()
        for book in self.books.values():
            let_go(self.run, book)

    # -- consequences -----------------------------------------------------------------------------------

    def _work_off(self) -> None:
        """Pass notices on until none is left."""
        notices, opener = self.run.notices, self.opener
        while notices:
            match notices.popleft():
                case ItemsEndedUpstream(stage, _, indices):
                    opener.meet(stage, indices)
                case WidthKnown(stage, upstream):
                    opener.upstream_width_known(stage, upstream)
                case UpstreamGone(stage):
                    opener.upstream_gone(stage)
                case DependencyEnded(stage):
                    stage.waiting -= 1
                    if stage.waiting == 0:
                        opener.open(stage)
                case FollowerBack(stage):
                    stage.is_following = False
                    if stage.waiting == 0:
                        opener.open(stage)
                case RootEnded(node, index, root):
                    self._root_ended(node, index, root)
                case TooManyFailed(book):
                    self.halter.halt(book)
                case Unwanted(stage):
                    self.halter.abandon(stage)
                case LanesOpen(stage, indices):
                    self.halter.reopen(stage, indices)

    # -- batches ----------------------------------------------------------------------------------------

    def _report(self, report: Report) -> None:
        flight = self.flights.get(report.batch)
        if flight is None:
            return
        if flight.bundle is not None:
            self.bundles.report(flight, report)
            self._note_mean(flight.nodes[0], flight.bundle.mean_seconds)
            return
        stage, is_first = flight.stage, flight.held is None
        told = landed(flight, report)
        if told is None:
            return
        done, rest = told
        if report.held:
            flight.held = report.held
            self.queues.shrink(flight, len(report.held))
        else:
            self.queues.land(report.batch)
        self.run.commands.append(ev.CommitReport(report, done))
        for step in report.steps:
            self._apply(stage, step, done)
        if is_first:
            stage.mean_seconds = updated_mean(stage.mean_seconds, elapsed=report.elapsed, items=len(done))
            stage.store_seconds = updated_mean(stage.store_seconds, elapsed=report.store_seconds, items=1)
            self._note_mean(stage.leader, stage.mean_seconds)
            bundle = self.queues.bundle_of(stage)
            if bundle is not None:
                learn(bundle, report, len(done))
        nbytes = sum(step.values.nbytes for step in report.steps if step.values is not None)
        stage.result_nbytes = updated_mean(stage.result_nbytes, elapsed=nbytes, items=len(done))
        if stage.finds:
            self._found(flight, report)
        if len(done) and (stage.rate is not None or (stage.limits and self.run.grants.pacers_of(stage))):
            busy = sum(sum(step.durations) for step in report.steps)
            stage.busy_seconds = updated_mean(stage.busy_seconds, elapsed=busy, items=len(done))
        self.queues.hand_back(flight, rest)
        let_items_go(self.run, stage)
        if self.is_stopping:
            for node in flight.nodes:
                self._cancel(self.books[node], done)
        elif not flight.is_fresh:
            self.opener.continue_lanes(stage, done)
        self.queues.enqueue(stage)

    def _note_mean(self, node: int, mean: float | None) -> None:
        """Note what an item of a task takes, for nodes of which nothing ran yet."""
        if mean is not None:
            self.run.means[self.books[node].node.task_name] = mean

    def _found(self, flight: Flight, report: Report) -> None:
        """Note whether results were found, and give back the starting slots of a batch that executed nothing."""
        stage = flight.stage
        found = sum(step.states.count(Code.CACHED) for step in report.steps)
        stage.has_found = found > 0
        if flight.held is None and found == len(report.steps) * report.reached > 0:
            if stage.pacer is not None and flight.starting_slots is not None:
                stage.pacer.give_back(flight.starting_slots)
            for name, given in flight.dealt:
                if name in self.run.grants.pacers:
                    self.run.grants.pacers[name].give_back(given, self.run.now)
            flight.starting_slots, flight.dealt = None, ()

    def _apply(self, stage: Stage, step: StepReport, done: Sequence[int]) -> None:
        book = self.books[step.node]
        if step.info is not None:
            book.info = step.info
        set_items(self.run, book, done, step.states, step.attempts)
        if self.is_stopping:
            return
        if book.map_options.timeout_factor is not None:
            learn_limit(self.run, book, step)
        if step.anomalies:
            self._park(stage, book, step, done)
        for graft in step.grafts:
            self._grafts_out += 1
            self.run.commands.append(
                ev.GraftItem(node=step.node, index=done[graft.position], fragment=graft.fragment)
            )

    def _park(self, stage: Stage, book: NodeBook, step: StepReport, done: Sequence[int]) -> None:
        """Park items that wait for another attempt or to be resumed."""
        states, attempts = book.states, book.attempts
        for code in (Code.AWAITING_RETRY, Code.PAUSED):
            parked: dict[float, list[int]] = {}
            for position, attempt, delay in waiting(step.anomalies, code):
                index = done[position]
                # Else the worker went on after it.
                if states[index] == code and attempts[index] == min(attempt, 255):
                    parked.setdefault(delay, []).append(index)
            if not parked:
                continue
            given_up = [index for group in parked.values() for index in group if book.is_given_up(index)]
            if given_up:
                end_items(self.run, book, packed(given_up), Code.CANCELLED)
                self.run.notices.append(LanesOpen(stage, given_up))
                parked = {
                    delay: [index for index in group if not book.is_given_up(index)]
                    for delay, group in parked.items()
                }
            if code is Code.PAUSED:
                stage.paused = [*stage.paused, *(index for group in parked.values() for index in group)]
            else:
                for delay, group in grouped(parked):
                    due = self.run.now + delay
                    heapq.heappush(self._retries, (due, stage.id, step.node, array("I", group)))

    def _lost(self, event: ev.BatchWasLost) -> None:
        crashed = self.queues.lost(event)
        if crashed is not None:
            self.opener.continue_lane(*crashed)

    # -- grafts -----------------------------------------------------------------------------------------

    def _grafted(self, event: ev.Grafted) -> None:
        self._grafts_out -= 1
        book = self.books[event.node]
        self._record_nodes(event.nodes, event.pasts)
        if book.states[event.index] != Code.GRAFTED:
            return
        if event.failed or event.root is None:
            if event.error is not None and not book.node.is_mapped:
                self.run.commands.append(ev.NodeFailed(node=event.node, error=event.error))
            end_items(self.run, book, (event.index,), Code.FAILED)
            self.opener.continue_lane(book.stage, event.index)
            return
        root = self.books[event.root]
        book.graft_roots = book.graft_roots or {}
        book.graft_roots[event.index] = event.root
        if book.wants_info and not book.node.is_mapped:
            self._want_info(root)
        if root.is_final:
            self._root_ended(event.node, event.index, root)
        else:
            root.graft_parents = [*root.graft_parents, (event.node, event.index)]

    def _root_ended(self, node: int, index: int, root: NodeBook) -> None:
        book = self.books[node]
        if book.states[index] in FINAL_CODES:
            return
        code = Code(root.final)
        if code in SUCCESS_BYTES:
            code = Code.COMPLETED
            self.run.commands.append(ev.Alias(node=node, index=index, root=root.node.id))
            if not book.node.is_mapped:
                book.info = _info_of(root)
        elif code in FAILED_CODES:
            code = Code.UPSTREAM_FAILED
            if book.is_handled or index in book.handled_items:
                hand_over(self.books, root.node.id, None)
        end_items(self.run, book, (index,), code)
        self.opener.continue_lane(book.stage, index)

    # -- time -------------------------------------------------------------------------------------------

    def _timer_due(self, event: ev.TimerDue) -> None:
        self._timer = None

    def _release_due(self) -> None:
        while self._retries and self._retries[0][0] <= self.run.now:
            _, _, node, indices = heapq.heappop(self._retries)
            self._run_again(node, indices, Code.AWAITING_RETRY)

    def _run_again(self, node: int, indices: Sequence[int], waiting_as: Code) -> None:
        book = self.books[node]
        indices = packed(indices)
        ready = chosen(indices, codes_at(book.states, indices), {waiting_as})
        book.mark_all(ready, Code.PENDING)
        self.opener.continue_lanes(book.stage, ready)

    def _set_timer(self) -> None:
        ends = [self.queues.due, self._retries[0][0] if self._retries else None]
        due = min((end for end in ends if end is not None), default=None)
        if due is not None and (self._timer is None or due < self._timer):
            self._timer = due
            self.run.commands.append(ev.SetTimer(due))

    # -- control ----------------------------------------------------------------------------------------

    def _set_capacity(self, event: ev.CapacitySet) -> None:
        self.run.capacity = event.capacity

    def _change_map_options(self, event: ev.MapOptionsChanged) -> None:
        """Change options for later batches; those under way keep the old ones."""
        book = self.books[event.node]
        book.map_options = event.map_options
        book.limit_seconds = None if event.map_options.timeout_factor is None else book.limit_seconds
        if event.batch_size is not None:
            book.stage.batch_size = event.batch_size or None
        limit_stage(book.stage, self.books)
        check_tolerance(self.run, book)
        self.queues.recall(book.stage)
        self.queues.enqueue(book.stage)

    def _change_limits(self, event: ev.LimitsChanged) -> None:
        """Change what is granted; batches under way keep what they have until they end."""
        tighter = self.run.grants.change(event.grants, event.rates)
        self.queues.answered()
        if tighter:
            self.queues.recall(limits=tighter)

    def _deal(self, event: ev.SlotsReserved) -> None:
        pacer = self.run.grants.pacers.get(event.name)
        if pacer is None:
            return
        if not event.count or event.rate != pacer.rate:
            # The rate was changed meanwhile, or is not to be had now.
            pacer.is_asked = False
            return
        pacer.deal(first=event.first, count=event.count, now=self.run.now)

    def _pause(self, event: ev.PauseRequested) -> None:
        self.run.is_paused = event.is_paused
        if event.is_paused:
            self.queues.recall()

    def _change_policy(self, event: ev.PolicyChanged) -> None:
        book = self.books[event.node]
        book.node = replace(book.node, program=event.program, bundle_key=None)
        book.stage.bundle_key = None
        self.queues.recall(book.stage)

    def _resume(self, event: ev.ResumeRequested) -> None:
        stages = {book.stage.id: book.stage for book in self.books.values() if book.stage.paused}
        for stage in stages.values():
            parked, stage.paused = sorted(set(stage.paused)), []
            for member in stage.members:
                self._run_again(member, parked, Code.PAUSED)

    def _stop(self, event: ev.StopRequested) -> None:
        """End all that is not under way; what is under way ends as it will. O(items)."""
        run = self.run
        run.commands.append(ev.StopBatches(hard=event.hard))
        if run.is_stopping:
            return
        run.is_stopping = True
        self._retries.clear()
        kept: dict[int, set[int]] = {}
        for flight in self.flights.values():
            for node, indices in flight.places():
                kept.setdefault(node, set()).update(indices)
        for book in self.books.values():
            book.stage.is_open = True
            book.stage.clear()
            book.stage.paused = []
        for book in list(self.books.values()):
            if book.is_final:
                continue
            under_way = kept.get(book.node.id, set())
            self.opener.restorer.stop(book, under_way)
            if book.width is None:
                width = len(book.states) or run.leader_of(book.stage).node.fixed_width
                if not width:
                    end_whole(run, book, Code.CANCELLED, None)
                    continue
                book.is_cut_short = True
                set_width(run, book, width)
            self._cancel(book, [i for i in range(len(book.states)) if i not in under_way])
            end_if_complete(run, book)

    def _cancel(self, book: NodeBook, indices: Sequence[int]) -> None:
        """End those of these items that have not ended."""
        cancel_items(self.run, book, [i for i in indices if book.states[i] not in FINAL_CODES])

    # -- the end ----------------------------------------------------------------------------------------

    def _check_finish(self) -> None:
        run = self.run
        if self.is_finished or not run.is_closed or run.open_nodes or run.flights or self._grafts_out:
            return
        self.is_finished = True
        unhandled = tuple(node for node, book in run.books.items() if book.unhandled())
        cancelled = any(
            book.counts[Code.CANCELLED] or book.final == Code.CANCELLED for book in run.books.values()
        )
        code = (
            Code.CANCELLED if run.is_stopping and cancelled else Code.FAILED if unhandled else Code.COMPLETED
        )
        run.commands.append(ev.FinishRun(code, unhandled))


def _info_of(root: NodeBook) -> ValueInfo | None:
    """Return what the value of a fragment's root is to a map."""
    if not root.node.is_mapped:
        return root.info
    length = root.counts[Code.COMPLETED] + root.counts[Code.CACHED]
    return ValueInfo(kind="sized", type_name="list", length=length)
