"""The engine's core: a state machine with no I/O, clock, thread or randomness.

`Core.handle(event, now)` returns commands. Work per event is O(items reported + out-degree).
The idea of such a machine: distributed's `worker_state_machine`, and FoundationDB's simulated cluster.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from graphflow.engine import events as ev
from graphflow.engine.batching import next_slice, updated_mean
from graphflow.engine.books import CANCEL_TABLE, SUCCESS_BYTES, Flight, NodeBook, Stage, derive_code
from graphflow.engine.lanes import Verdict, judge_node, lane_plan
from graphflow.engine.plan import depth_of, stage_to_join
from graphflow.errors import GraphflowError, MapTypeError, MapWidthError, ValueUnavailable
from graphflow.graph import DepKind, Node
from graphflow.policies import all_successful
from graphflow.ports import Capacity
from graphflow.reports import Report, StepReport
from graphflow.states import FAILED_CODES, FINAL_CODES, Code

__all__ = ["Core"]

MAX_CRASHES = 2
"""An item found executing in this many dead workers is `Crashed`."""
_ENDS = {Verdict.FAIL: Code.UPSTREAM_FAILED, Verdict.SKIP: Code.SKIPPED, Verdict.BROKEN_TRIGGER: Code.FAILED}


class Core:
    """Decides everything about one run; performs nothing.

    Parameters
    ----------
    capacity
        What the backend can do at the start.
    """

    def __init__(self, *, capacity: Capacity) -> None:
        self.capacity = capacity
        self.books: dict[int, NodeBook] = {}
        self.flights: dict[int, Flight] = {}
        self.is_stopping = False
        self.is_closed = False
        self.is_finished = False
        self._batches = 0
        self._stages = 0
        self._turn = 0
        self._now = 0.0
        self._timer: float | None = None
        self._open_nodes = 0
        self._grafts_out = 0
        self._retries: list[tuple[float, int, int, int]] = []
        self._queue: list[tuple[int, int, int, int, Stage]] = []
        self._agenda: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._out: list[ev.Command] = []
        self._handlers: dict[type, Callable[[Any], None]] = {
            ev.NodesRecorded: lambda event: self._record_nodes(event.nodes),
            ev.RecordingClosed: self._close,
            ev.BatchReported: lambda event: self._report(event.report),
            ev.BatchWasLost: self._lost,
            ev.TimerDue: self._timer_due,
            ev.SourceAdvanced: self._source_advanced,
            ev.Grafted: self._grafted,
            ev.CapacitySet: self._set_capacity,
            ev.StopRequested: self._stop,
            ev.ResumeRequested: self._resume,
            ev.FailureHandled: lambda event: self._mark_handled(event.node, event.index),
        }

    def handle(self, event: ev.Event, now: float) -> list[ev.Command]:
        """Take one event; `now` is in seconds of any steady clock. Returns commands, to be performed in order."""
        self._now = now
        self._out = []
        self._handlers[type(event)](event)
        self._release_due()
        self._work_off()
        while not self.is_stopping and self._dispatch():
            self._work_off()
        self._set_timer()
        self._check_finish()
        return self._out

    # -- queries ----------------------------------------------------------------------------------------

    def is_stalled(self) -> bool:
        """Whether nothing can ever happen again although nodes are open: a bug, looked for by the tests."""
        return (
            self.is_closed
            and not self.is_finished
            and not self.flights
            and not self._retries
            and not self._grafts_out
            and not any(book.stage.pulling or book.stage.paused for book in self.books.values())
        )

    def root_of(self, node_id: int, index: int | None = None) -> tuple[int, int | None, list[int]]:
        """The failure at the bottom of an `UpstreamFailed`: (node, index or None, the path down to it)."""
        path: list[int] = []
        current, item = node_id, index
        while True:
            book = self.books[current]
            failing = self._failing_upstream(book, item)
            if failing is None or len(path) > len(self.books):
                return current, item, path
            path.append(current)
            current, item = failing

    def _failing_upstream(self, book: NodeBook, index: int | None) -> tuple[int, int | None] | None:
        if index is not None and index < len(book.states):
            if book.states[index] != Code.UPSTREAM_FAILED:
                return None
        elif book.final != Code.UPSTREAM_FAILED:
            return None
        if index is None and book.node.is_mapped and book.width:
            index = book.states.find(Code.UPSTREAM_FAILED)
            index = None if index < 0 else index
        root = book.graft_roots.get(index or 0)
        if root is not None:
            return root, None
        for dep in book.node.deps:
            upstream = self.books[dep.upstream]
            if dep.kind is DepKind.ITEMS and index is not None:
                if index < len(upstream.states) and upstream.states[index] in FAILED_CODES:
                    return dep.upstream, index
            elif dep.kind is DepKind.PICK and dep.index is not None and dep.index < len(upstream.states):
                if upstream.states[dep.index] in FAILED_CODES:
                    return dep.upstream, dep.index
            elif upstream.final in FAILED_CODES:
                if upstream.node.is_mapped and upstream.width and not upstream.failed_whole:
                    first = next((i for i, code in enumerate(upstream.states) if code in FAILED_CODES), None)
                    return dep.upstream, first
                return dep.upstream, None if upstream.node.is_mapped else 0
        return None

    # -- recording --------------------------------------------------------------------------------------

    def _record_nodes(self, nodes: Sequence[Node]) -> None:
        opened: list[Stage] = []
        for node in nodes:
            stage = self._add(node)
            if stage is not None:
                opened.append(stage)
        for stage in opened:
            if stage.waiting == 0:
                self._agenda.append((self._open, (stage,)))

    def _add(self, node: Node) -> Stage | None:
        """Add a node; returns its stage if the node leads a new one."""
        self._open_nodes += 1
        joined = None if self.is_stopping else stage_to_join(node, self.books)
        stage = joined or self._new_stage(node)
        book = self.books[node.id] = NodeBook(node, stage)
        for dep in node.deps:
            upstream = self.books[dep.upstream]
            if dep.kind in (DepKind.GATHER, DepKind.ITEMS):
                upstream.is_gathered = True
            if dep.kind is DepKind.ELEMENTS:
                upstream.wants_info = True
        if joined is not None:
            stage.members.append(node.id)
            return None
        stage.members.append(node.id)
        if not node.is_mapped:
            book.width = 1
            book.grow(1)
        for dep in node.deps:
            upstream = self.books[dep.upstream]
            if dep.kind is DepKind.ITEMS:
                if dep.upstream not in stage.upstreams:
                    upstream.streams.append(stage)
                stage.upstreams.setdefault(dep.upstream, []).append(dep)
            elif dep.kind is DepKind.PICK and dep.index is not None:
                if not upstream.is_final and not self._item_is_final(upstream, dep.index):
                    stage.waiting += 1
                    upstream.watchers.setdefault(dep.index, []).append(stage)
            elif not upstream.is_final:
                stage.waiting += 1
                upstream.dependents.append(stage)
        return stage

    def _new_stage(self, node: Node) -> Stage:
        self._stages += 1
        return Stage(
            id=self._stages,
            members=[],
            depth=depth_of(node, self.books),
            priority=node.priority,
            batch_size=node.batch_size,
            item_nbytes=sum(source.item_nbytes for source in node.sources) or 8,
        )

    @staticmethod
    def _item_is_final(book: NodeBook, index: int) -> bool:
        return index < len(book.states) and book.states[index] in FINAL_CODES

    def _close(self, event: ev.RecordingClosed) -> None:
        self.is_closed = True

    # -- opening stages and finding widths --------------------------------------------------------------

    def _open(self, stage: Stage) -> None:
        """All that the leader waits for as a whole is final: decide, and find the width."""
        if stage.is_open:
            return
        stage.is_open = True
        if self.is_stopping:
            for member in stage.members:
                self._end_whole(self.books[member], Code.CANCELLED)
            return
        leader = self.books[stage.leader]
        missing = self._missing_pick(leader)
        if missing is not None:
            self._fail_stage(stage, missing)
            return
        verdict = judge_node(leader, self.books)
        if verdict is not Verdict.RUN:
            if verdict is Verdict.BROKEN_TRIGGER:
                self._fail_stage(stage, self._trigger_error(leader))
                return
            for member in stage.members:
                self._end_whole(self.books[member], _ENDS[verdict])
            return
        for member in stage.members:
            self._mark_dep_failures_handled(self.books[member])
        if not leader.node.is_mapped:
            stage.width = 1
            stage.add_fresh(0, 1)
            self._enqueue(stage)
            return
        self._open_map(stage, leader)

    def _missing_pick(self, leader: NodeBook) -> Exception | None:
        for dep in leader.node.deps:
            if dep.kind is DepKind.PICK and dep.index is not None:
                upstream = self.books[dep.upstream]
                if upstream.width is not None and dep.index >= upstream.width and upstream.final in SUCCESS_BYTES:
                    return ValueUnavailable(
                        f"{leader.node.name} needs item {dep.index} of {upstream.node.name}, which has only "
                        f"{upstream.width} items (indices 0 to {upstream.width - 1})"
                    )
        return None

    def _trigger_error(self, book: NodeBook) -> Exception:
        return GraphflowError(
            f"the trigger {book.node.trigger!r} of {book.node.name} raised an exception when it was asked to decide; "
            "a trigger takes the counts of the upstream states and returns True or False"
        )

    def _open_map(self, stage: Stage, leader: NodeBook) -> None:
        for source in leader.node.sources:
            if source.length is None:
                stage.pulled[source.slot] = 0
                stage.undecided += 1
                stage.needs += 1
            else:
                self._know_width(stage, source.argument, source.length)
        for dep in leader.node.deps:
            if dep.kind is DepKind.ELEMENTS:
                info = self.books[dep.upstream].info
                if info is None or info.kind != "sized":
                    self._fail_stage(stage, _unmappable(leader, self.books[dep.upstream], dep.argument))
                    return
                self._know_width(stage, dep.argument, info.length)
        for upstream_id, deps in stage.upstreams.items():
            upstream = self.books[upstream_id]
            stage.needs += 1
            if upstream.width is None and not upstream.is_final:
                stage.undecided += 1
            elif upstream.width is not None:
                self._know_width(stage, deps[0].argument or upstream.node.name, upstream.width)
            else:
                for member in stage.members:
                    self._end_whole(self.books[member], Code.UPSTREAM_FAILED)
                return
        if leader.is_final:
            return
        if stage.needs > 1:
            stage.met = bytearray()
        self._decide_width(stage)
        if stage.needs == 0:
            if stage.width:
                stage.add_fresh(0, stage.width)
                self._enqueue(stage)
            return
        for upstream_id in stage.upstreams:
            upstream = self.books[upstream_id]
            self._feed_final_items(stage, upstream)
        self._enqueue(stage)

    def _know_width(self, stage: Stage, argument: str, width: int) -> None:
        name = argument
        while name in stage.widths and stage.widths[name] != width:
            name += "'"
        stage.widths[name] = width

    def _decide_width(self, stage: Stage) -> None:
        """Compare what is known of the width; set it once nothing is undecided."""
        if self.books[stage.leader].is_final:
            return
        known = set(stage.widths.values())
        if len(known) > 1:
            leader = self.books[stage.leader].node
            each = ", ".join(f"{name}: {width}" for name, width in stage.widths.items())
            self._fail_stage(
                stage,
                MapWidthError(
                    f"{leader.name} is mapped over arguments of different lengths ({each}); mapped arguments are "
                    "zipped and must have one length; wrap a constant in unmapped(...)",
                    widths=dict(stage.widths),
                ),
            )
            return
        if stage.undecided or not known or stage.width is not None:
            return
        stage.width = known.pop()
        for member in stage.members:
            book = self.books[member]
            book.width = stage.width
            book.grow(stage.width)
            self._announce(book, Code.RUNNING if book.has_started else Code.PENDING)
            for downstream in book.streams:
                self._agenda.append((self._stream_width, (downstream, book)))
        for member in stage.members:
            self._agenda.append((self._check_end, (self.books[member],)))

    def _stream_width(self, stage: Stage, upstream: NodeBook) -> None:
        if not stage.is_open or upstream.width is None or self.books[stage.leader].is_final:
            return
        deps = stage.upstreams[upstream.node.id]
        self._know_width(stage, deps[0].argument or upstream.node.name, upstream.width)
        stage.undecided -= 1
        self._decide_width(stage)

    # -- indices that become ready ----------------------------------------------------------------------

    def _feed_final_items(self, stage: Stage, upstream: NodeBook) -> None:
        """Items of an upstream that ended before this stage was open."""
        states = upstream.states
        if upstream.ended == len(states):
            self._meet(stage, upstream, range(len(states)))
            return
        run_start: int | None = None
        for i in range(len(states)):
            if states[i] in FINAL_CODES:
                run_start = i if run_start is None else run_start
            elif run_start is not None:
                self._meet(stage, upstream, range(run_start, i))
                run_start = None
        if run_start is not None:
            self._meet(stage, upstream, range(run_start, len(states)))

    def _meet(self, stage: Stage, upstream: NodeBook | None, indices: Sequence[int]) -> None:
        """One condition of these indices is met: an upstream item ended, or an iterator gave them."""
        if not stage.is_open or not indices or self.books[stage.leader].is_final:
            return
        limit = indices[-1] + 1 if isinstance(indices, range) else max(indices) + 1
        for member in stage.members:
            self.books[member].grow(limit)
        if stage.needs > 1:
            if len(stage.met) < limit:
                stage.met.extend(bytes(limit - len(stage.met)))
            ready: list[int] = []
            for i in indices:
                stage.met[i] += 1
                if stage.met[i] == stage.needs:
                    ready.append(i)
            indices = ready
        if not indices:
            return
        bound = min(stage.widths.values(), default=limit)
        if limit > bound:
            indices = [i for i in indices if i < bound]
            if not indices:
                return
        plain = self.books[stage.leader].node.trigger is all_successful
        for id_ in stage.upstreams:
            if not plain:
                break
            states = self.books[id_].states
            if isinstance(indices, range):
                part = states[indices.start : indices.stop]
                plain = part.count(Code.COMPLETED) + part.count(Code.CACHED) == len(part)
            else:
                plain = all(states[i] in SUCCESS_BYTES for i in indices)
        if plain:
            for lo, hi in _runs(indices):
                stage.add_fresh(lo, hi)
        else:
            for i in indices:
                self._continue_lane(stage, i)
        self._enqueue(stage)

    def _continue_lane(self, stage: Stage, index: int) -> None:
        """Decide what is left of one item of a stage that is not under way."""
        decided, runs = lane_plan(stage, self.books, index)
        for member, verdict in decided.items():
            self._end_items(self.books[member], (index,), _ENDS[verdict])
        if runs:
            for member in runs:
                self._mark_lane_failures_handled(self.books[member], index)
            stage.again.setdefault(runs, []).append(index)
            self._enqueue(stage)

    def _source_advanced(self, event: ev.SourceAdvanced) -> None:
        stage = self.books[event.node].stage
        stage.pulling.discard(event.slot)
        if event.slot not in stage.pulled or self.is_stopping:
            return
        before = stage.pulled[event.slot]
        stage.pulled[event.slot] = before + event.count
        source = next(each for each in self.books[stage.leader].node.sources if each.slot == event.slot)
        bound = min(stage.widths.values(), default=None)
        if bound is not None and stage.pulled[event.slot] > bound:
            stage.exhausted.add(event.slot)
            self._know_width(stage, source.argument, stage.pulled[event.slot])
            self._decide_width(stage)
            return
        self._meet(stage, None, range(before, before + event.count))
        if event.failed:
            leader = self.books[stage.leader]
            leader.failed_whole = True
        if event.ended or event.failed:
            stage.exhausted.add(event.slot)
            stage.undecided -= 1
            self._know_width(stage, source.argument, stage.pulled[event.slot])
            self._decide_width(stage)
        self._enqueue(stage)

    def _pull(self, stage: Stage) -> None:
        """Ask iterators for as much as about two slices per slot will use."""
        if not stage.pulled or self.is_stopping:
            return
        slots = max(self.capacity.slots, 1)
        mean = stage.mean_seconds
        want = 32 * slots if mean is None else max(2 * slots, min(65_536, int(slots * 0.6 / max(mean, 1e-7)) + 1))
        if stage.batch_size is not None:
            want = max(want if mean is not None else 0, 2 * slots * stage.batch_size)
        slowest = min(stage.pulled.values())
        buffered = stage.ready_count()
        for slot, count in stage.pulled.items():
            if slot in stage.pulling or slot in stage.exhausted:
                continue
            ahead = buffered + (count - slowest)
            if ahead * 2 <= want:
                stage.pulling.add(slot)
                self._out.append(ev.PullSource(node=stage.leader, slot=slot, count=want))

    # -- outcomes ---------------------------------------------------------------------------------------

    def _report(self, report: Report) -> None:
        flight = self.flights.pop(report.batch, None)
        if flight is None:
            return
        stage = flight.stage
        stage.flying -= 1
        reached = min(report.reached, len(flight.indices))
        done = flight.indices[:reached]
        self._out.append(ev.CommitReport(report, done))
        for step in report.steps:
            self._apply(stage, step, done)
        stage.mean_seconds = updated_mean(stage.mean_seconds, elapsed=report.elapsed, items=reached)
        rest = flight.indices[reached:]
        if len(rest):
            self._hand_back(flight, rest)
        if not flight.is_fresh:
            for i in done:
                self._continue_lane(stage, i)
        self._enqueue(stage)

    def _apply(self, stage: Stage, step: StepReport, done: Sequence[int]) -> None:
        book = self.books[step.node]
        if step.info is not None:
            book.info = step.info
        self._set_items(book, done, step.states, step.attempts)
        for anomaly in step.anomalies:
            index = done[anomaly.position]
            if anomaly.code == Code.AWAITING_RETRY and book.states[index] == Code.AWAITING_RETRY:
                heapq.heappush(self._retries, (self._now + anomaly.delay, stage.id, step.node, index))
            elif anomaly.code == Code.PAUSED and book.states[index] == Code.PAUSED:
                stage.paused.append(index)
        for graft in step.grafts:
            self._grafts_out += 1
            self._out.append(ev.GraftItem(node=step.node, index=done[graft.position], fragment=graft.fragment))

    def _set_items(self, book: NodeBook, indices: Sequence[int], codes: bytes, attempts: bytes | None) -> None:
        """Write the outcomes of items, and tell whoever waits for them. O(items)."""
        if not len(indices):
            return
        lo, hi = indices[0], indices[-1] + 1
        total = len(indices)
        if hi - lo == total:
            before = bytes(book.states[lo:hi])
            book.states[lo:hi] = codes
            if attempts is not None:
                book.attempts[lo:hi] = attempts
        else:
            before = bytes(book.states[i] for i in indices)
            for position, i in enumerate(indices):
                book.states[i] = codes[position]
                if attempts is not None:
                    book.attempts[i] = attempts[position]
        counts = book.counts
        if codes.count(Code.COMPLETED) == total and before.count(0) == total:
            counts[Code.COMPLETED] += total
            book.ended += total
            final: Sequence[int] = indices
        else:
            for code in set(before):
                counts[code] -= before.count(code)
            for code in set(codes):
                counts[code] += codes.count(code)
            counts[0] = 0
            final = [i for position, i in enumerate(indices) if codes[position] in FINAL_CODES]
            book.ended += len(final)
        if book.streams and len(final):
            for stage in book.streams:
                self._agenda.append((self._meet, (stage, book, final)))
        if book.watchers:
            for i in final:
                for stage in book.watchers.pop(i, ()):
                    self._agenda.append((self._satisfy, (stage,)))
        self._agenda.append((self._check_end, (book,)))

    def _end_items(self, book: NodeBook, indices: Sequence[int], code: Code) -> None:
        """Items end without having run."""
        self._out.append(ev.ItemsEnded(node=book.node.id, indices=indices, code=code))
        self._set_items(book, indices, bytes([code]) * len(indices), None)

    def _end_whole(self, book: NodeBook, code: Code) -> None:
        """A node ends before any of its items began; items get the same state where the width is known."""
        if book.is_final:
            return
        width = book.width if book.width is not None else book.node.fixed_width
        if width:
            book.width = width
            book.grow(width)
            open_items = [i for i in range(width) if book.states[i] not in FINAL_CODES]
            self._end_items(book, range(width) if len(open_items) == width else open_items, code)
        else:
            self._finalize(book, code)

    def _fail_stage(self, stage: Stage, error: Exception) -> None:
        """A stage fails beside its items: the leader is Failed, what is fused with it UpstreamFailed."""
        for member in stage.members:
            book = self.books[member]
            if member == stage.leader:
                book.failed_whole = True
                self._out.append(ev.NodeFailed(node=member, error=error))
                self._finalize(book, Code.FAILED)
            elif not book.is_final:
                self._finalize(book, Code.UPSTREAM_FAILED)
        stage.fresh.clear()
        stage.again.clear()
        stage.alone.clear()

    def _check_end(self, book: NodeBook) -> None:
        if book.is_final or book.width is None or (book.stage.width is None and book.ended < book.width):
            return
        if book.ended >= book.width:
            self._finalize(book, derive_code(book))

    def _finalize(self, book: NodeBook, code: Code) -> None:
        if book.is_final:
            return
        book.final = code
        self._open_nodes -= 1
        self._out.append(ev.NodeChanged(node=book.node.id, code=code, width=book.width))
        for stage in book.dependents:
            self._agenda.append((self._satisfy, (stage,)))
        for watchers in book.watchers.values():
            for stage in watchers:
                self._agenda.append((self._satisfy, (stage,)))
        book.watchers.clear()
        for stage in book.streams:
            if book.width is None:
                self._agenda.append((self._stream_died, (stage,)))
        for node, index in book.graft_parents:
            self._agenda.append((self._graft_ended, (node, index, book)))

    def _stream_died(self, stage: Stage) -> None:
        """An upstream ended without a width: nothing can be mapped over it."""
        if stage.is_open:
            for member in stage.members:
                self._end_whole(self.books[member], Code.UPSTREAM_FAILED)

    def _satisfy(self, stage: Stage) -> None:
        stage.waiting -= 1
        if stage.waiting == 0:
            self._open(stage)

    def _announce(self, book: NodeBook, code: Code) -> None:
        self._out.append(ev.NodeChanged(node=book.node.id, code=code, width=book.width))

    # -- grafts -----------------------------------------------------------------------------------------

    def _grafted(self, event: ev.Grafted) -> None:
        self._grafts_out -= 1
        book = self.books[event.node]
        self._record_nodes(event.nodes)
        if event.failed or event.root is None:
            self._end_items(book, (event.index,), Code.FAILED)
            self._continue_lane(book.stage, event.index)
            return
        root = self.books[event.root]
        book.graft_roots[event.index] = event.root
        if root.is_final:
            self._agenda.append((self._graft_ended, (event.node, event.index, root)))
        else:
            root.graft_parents.append((event.node, event.index))

    def _graft_ended(self, node: int, index: int, root: NodeBook) -> None:
        book = self.books[node]
        if book.states[index] in FINAL_CODES:
            return
        code = Code(root.final)
        if code in SUCCESS_BYTES:
            code = Code.COMPLETED
            self._out.append(ev.Alias(node=node, index=index, root=root.node.id))
            if not book.node.is_mapped:
                book.info = root.info
        elif code in FAILED_CODES:
            code = Code.UPSTREAM_FAILED
        self._end_items(book, (index,), code)
        self._continue_lane(book.stage, index)

    # -- batches ----------------------------------------------------------------------------------------

    def _enqueue(self, stage: Stage) -> None:
        if not stage.is_queued and stage.is_open:
            stage.is_queued = True
            self._turn += 1
            heapq.heappush(self._queue, (-stage.priority, -stage.depth, self._turn, stage.id, stage))

    def _dispatch(self) -> bool:
        """Submit what fits; True if anything was submitted."""
        submitted = False
        target = self.capacity.slots * (1 + self.capacity.queue)
        waiting: list[Stage] = []
        while self._queue and len(self.flights) < target:
            stage = heapq.heappop(self._queue)[-1]
            stage.is_queued = False
            work = self._next_work(stage)
            self._pull(stage)
            if work is not None:
                self._submit(stage, *work)
                submitted = True
                waiting.append(stage)
        for stage in waiting:
            self._enqueue(stage)
        return submitted and len(self.flights) < target

    def _next_work(self, stage: Stage) -> tuple[tuple[int, ...], Sequence[int], float | None, bool] | None:
        if stage.alone:
            nodes, indices = stage.alone.popleft()
            return nodes, indices, None, False
        ready = stage.ready_count()
        if not ready:
            return None
        size = next_slice(
            remaining=ready,
            mean_seconds=stage.mean_seconds,
            slots=self.capacity.slots,
            batch_size=stage.batch_size,
            item_nbytes=stage.item_nbytes,
        )
        if stage.again:
            nodes, indices = next(iter(stage.again.items()))
            taken = indices[: size.count]
            if len(taken) == len(indices):
                del stage.again[nodes]
            else:
                stage.again[nodes] = indices[size.count :]
            return nodes, taken, size.seconds, False
        lo, hi = stage.fresh.popleft()
        if hi - lo > size.count:
            stage.fresh.appendleft((lo + size.count, hi))
            hi = lo + size.count
        return tuple(stage.members), range(lo, hi), size.seconds, True

    def _submit(
        self, stage: Stage, nodes: tuple[int, ...], indices: Sequence[int], seconds: float | None, is_fresh: bool
    ) -> None:
        self._batches += 1
        batch = self._batches
        self.flights[batch] = Flight(stage, nodes, indices, is_fresh)
        stage.flying += 1
        tries: list[bytes | None] = []
        for node in nodes:
            book = self.books[node]
            if not book.has_started:
                book.has_started = True
                self._announce(book, Code.RUNNING)
            if is_fresh:
                tries.append(None)
                continue
            tries.append(bytes(book.attempts[i] for i in indices))
            for i in indices:
                book.states[i] = Code.RETRYING if book.attempts[i] else Code.RUNNING
                book.counts[book.states[i]] += 1
        self._out.append(
            ev.SubmitBatch(
                batch=batch,
                nodes=nodes,
                indices=indices,
                width=stage.width,
                tries=tuple(tries),
                slice_seconds=seconds,
                priority=stage.priority,
            )
        )

    def _unmark(self, nodes: tuple[int, ...], indices: Iterable[int]) -> None:
        """Items of a batch of singles that did not run are Pending again."""
        for node in nodes:
            book = self.books[node]
            for i in indices:
                if book.states[i] in (Code.RUNNING, Code.RETRYING):
                    book.counts[book.states[i]] -= 1
                    book.states[i] = Code.PENDING

    def _hand_back(self, flight: Flight, rest: Sequence[int]) -> None:
        """What a batch did not reach goes to the front again, or ends if the run is stopping."""
        stage = flight.stage
        if not flight.is_fresh:
            self._unmark(flight.nodes, rest)
        if self.is_stopping:
            for node in flight.nodes:
                self._end_items(self.books[node], list(rest), Code.CANCELLED)
        elif flight.is_fresh:
            stage.fresh.appendleft((rest[0], rest[-1] + 1))
        else:
            stage.again[flight.nodes] = [*rest, *stage.again.get(flight.nodes, [])]

    def _lost(self, event: ev.BatchWasLost) -> None:
        flight = self.flights.pop(event.batch, None)
        if flight is None:
            return
        stage = flight.stage
        stage.flying -= 1
        indices = flight.indices
        executing = event.executing if event.executing in indices else None
        if executing is None and event.had_started is not False and len(indices) == 1 and len(flight.nodes) == 1:
            executing = indices[0]
        if self.is_stopping or (event.had_started is False and executing is None):
            self._hand_back(flight, indices)
        elif executing is not None:
            others = [i for i in indices if i != executing]
            if others:
                self._hand_back_singles(flight, others)
            self._unmark(flight.nodes, (executing,))
            self._crashed(stage, flight.nodes, executing)
        else:
            # Nobody knows which item it was: halve until one is alone.
            self._unmark(flight.nodes, indices)
            middle = max(1, len(indices) // 2)
            for part in (list(indices[:middle]), list(indices[middle:])):
                if len(part) == 1:
                    stage.alone.append((flight.nodes[:1], part))
                elif part:
                    stage.alone.append((flight.nodes, part))
        self._enqueue(stage)

    def _hand_back_singles(self, flight: Flight, indices: list[int]) -> None:
        if flight.is_fresh:
            for lo, hi in reversed(list(_runs(indices))):
                flight.stage.fresh.appendleft((lo, hi))
        else:
            self._unmark(flight.nodes, indices)
            flight.stage.again[flight.nodes] = [*indices, *flight.stage.again.get(flight.nodes, [])]

    def _crashed(self, stage: Stage, nodes: tuple[int, ...], index: int) -> None:
        """An item's worker died while it was executing: alone once more, task by task, then `Crashed`."""
        open_nodes = [node for node in nodes if self.books[node].states[index] not in FINAL_CODES]
        if not open_nodes:
            return
        first = self.books[open_nodes[0]]
        if len(nodes) == 1:
            first.attempts[index] = min(255, first.attempts[index] + 1)
        stage.crashes[index] = stage.crashes.get(index, 0) + 1
        if stage.crashes[index] >= MAX_CRASHES and len(nodes) == 1:
            self._end_items(first, (index,), Code.CRASHED)
            self._continue_lane(stage, index)
        else:
            stage.alone.append(((open_nodes[0],), [index]))

    # -- time -------------------------------------------------------------------------------------------

    def _timer_due(self, event: ev.TimerDue) -> None:
        self._timer = None

    def _release_due(self) -> None:
        while self._retries and self._retries[0][0] <= self._now:
            _, _, node, index = heapq.heappop(self._retries)
            self._rerun(node, index, Code.AWAITING_RETRY)

    def _rerun(self, node: int, index: int, waiting_as: Code) -> None:
        book = self.books[node]
        if book.states[index] != waiting_as:
            return
        book.counts[waiting_as] -= 1
        book.states[index] = Code.PENDING
        self._continue_lane(book.stage, index)

    def _set_timer(self) -> None:
        due = self._retries[0][0] if self._retries else None
        if due is not None and (self._timer is None or due < self._timer):
            self._timer = due
            self._out.append(ev.SetTimer(due))

    # -- control ----------------------------------------------------------------------------------------

    def _set_capacity(self, event: ev.CapacitySet) -> None:
        self.capacity = event.capacity

    def _resume(self, event: ev.ResumeRequested) -> None:
        for stage in {book.stage.id: book.stage for book in self.books.values() if book.stage.paused}.values():
            parked, stage.paused = stage.paused, []
            for index in parked:
                for member in stage.members:
                    self._rerun(member, index, Code.PAUSED)

    def _stop(self, event: ev.StopRequested) -> None:
        self._out.append(ev.StopBatches(hard=event.hard))
        if self.is_stopping:
            return
        self.is_stopping = True
        self._retries.clear()
        flying: dict[int, list[Flight]] = {}
        for flight in self.flights.values():
            flying.setdefault(flight.stage.id, []).append(flight)
        for book in list(self.books.values()):
            if book.is_final:
                continue
            stage = book.stage
            stage.fresh.clear()
            stage.again.clear()
            stage.alone.clear()
            stage.paused.clear()
            stage.exhausted.update(stage.pulled)
            if book.width is None:
                book.width = len(book.states)
            stage.width = book.width if stage.width is None else stage.width
            self._cancel_items(book, flying.get(stage.id, []))
            stage.is_open = True
            self._agenda.append((self._check_end, (book,)))

    def _cancel_items(self, book: NodeBook, flights: list[Flight]) -> None:
        kept: set[int] = set()
        for flight in flights:
            if book.node.id in flight.nodes:
                kept.update(flight.indices)
        after = bytes(book.states).translate(CANCEL_TABLE)
        ended = [
            i for i in range(len(after)) if after[i] == Code.CANCELLED != book.states[i] and i not in kept
        ]
        if ended:
            self._end_items(book, ended, Code.CANCELLED)
        elif not book.states:
            self._finalize(book, Code.CANCELLED)

    # -- failures that were handed to somebody ----------------------------------------------------------

    def _mark_dep_failures_handled(self, book: NodeBook) -> None:
        """A node runs although something that it takes failed: the user asked to see the failure."""
        own_trigger = book.node.trigger is not all_successful
        for dep in book.node.deps:
            if dep.kind is DepKind.ITEMS or not (own_trigger or dep.allows_failure):
                continue
            upstream = self.books[dep.upstream]
            if upstream.failed_count() or upstream.failed_whole or upstream.final in FAILED_CODES:
                self._mark_handled(dep.upstream, dep.index if dep.kind is DepKind.PICK else None)

    def _mark_lane_failures_handled(self, book: NodeBook, index: int) -> None:
        own_trigger = book.node.trigger is not all_successful
        for dep in book.node.deps:
            if dep.kind is DepKind.ITEMS and (own_trigger or dep.allows_failure):
                upstream = self.books[dep.upstream]
                if index < len(upstream.states) and upstream.states[index] in FAILED_CODES:
                    self._mark_handled(dep.upstream, index)

    def _mark_handled(self, node: int, index: int | None) -> None:
        """Mark a failure, and the failures that it comes from, as handed to the user."""
        todo: list[tuple[int, int | None]] = [(node, index)]
        while todo:
            current, item = todo.pop()
            book = self.books.get(current)
            if book is None or book.is_handled:
                continue
            if item is not None and not book.node.is_mapped:
                item = None
            if item is None:
                book.is_handled = True
                if not (book.counts[Code.UPSTREAM_FAILED] or book.final == Code.UPSTREAM_FAILED):
                    continue
                todo += [(root, None) for root in book.graft_roots.values()]
            else:
                if item in book.handled_items or item >= len(book.states):
                    continue
                book.handled_items.add(item)
                if book.states[item] != Code.UPSTREAM_FAILED:
                    continue
                if item in book.graft_roots:
                    todo.append((book.graft_roots[item], None))
            for dep in book.node.deps:
                if dep.kind is DepKind.ITEMS:
                    todo.append((dep.upstream, item))
                elif dep.kind is DepKind.PICK:
                    todo.append((dep.upstream, dep.index))
                elif self.books[dep.upstream].final in FAILED_CODES:
                    todo.append((dep.upstream, None))

    # -- the end ----------------------------------------------------------------------------------------

    def _work_off(self) -> None:
        while self._agenda:
            action, arguments = self._agenda.popleft()
            action(*arguments)

    def _check_finish(self) -> None:
        if self.is_finished or not self.is_closed or self._open_nodes or self.flights or self._grafts_out:
            return
        self.is_finished = True
        unhandled = tuple(node for node, book in self.books.items() if book.unhandled())
        cancelled = any(book.counts[Code.CANCELLED] or book.final == Code.CANCELLED for book in self.books.values())
        code = Code.CANCELLED if self.is_stopping and cancelled else Code.FAILED if unhandled else Code.COMPLETED
        self._out.append(ev.FinishRun(code, unhandled))


def _runs(indices: Sequence[int]) -> Iterable[tuple[int, int]]:
    """Ascending indices as ranges `[lo, hi)`."""
    if isinstance(indices, range):
        if len(indices):
            yield indices.start, indices.stop
        return
    start: int | None = None
    last = -2
    for i in sorted(indices):
        if i != last + 1:
            if start is not None:
                yield start, last + 1
            start = i
        last = i
    if start is not None:
        yield start, last + 1


def _unmappable(leader: NodeBook, upstream: NodeBook, argument: str) -> Exception:
    info = upstream.info
    if info is None:
        return MapTypeError(f"{leader.node.name} is mapped over {upstream.node.name}, which gave no value to map over")
    name = argument or "its argument"
    return MapTypeError(
        f"{leader.node.name} cannot be mapped over {name}: {upstream.node.name} returned a {info.type_name}. "
        + (info.hint or "Only sequences are mapped; wrap a constant in unmapped(...)")
    )
