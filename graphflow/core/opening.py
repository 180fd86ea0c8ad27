"""When stages open, how wide they are, and which of their items become ready."""

from __future__ import annotations

from collections.abc import Sequence

from graphflow.common.wording import with_article
from graphflow.core import events as ev
from graphflow.core.lanes import Verdict, judge_node, lane_plan
from graphflow.core.nodes import (
    OWN_FAILURES,
    SUCCESS_BYTES,
    NodeBook,
    Stage,
    chosen,
    codes_at,
    packed,
)
from graphflow.core.outcomes import announce, end_if_complete, end_items, end_whole, set_width
from graphflow.core.queues import Queues
from graphflow.core.restoring import Restorer
from graphflow.core.state import LanesOpen, RunState, Unwanted
from graphflow.errors import GraphflowError, MapTypeError, MapWidthError, ValueUnavailable
from graphflow.graph.graph import DepKind
from graphflow.model.policies import all_successful
from graphflow.model.states import FINAL_CODES, FINAL_TABLE, Code

__all__ = ["Opener"]

_ENDS = {Verdict.FAIL: Code.UPSTREAM_FAILED, Verdict.SKIP: Code.SKIPPED, Verdict.BROKEN_TRIGGER: Code.FAILED}


class Opener:
    """Opens stages, finds widths, and hands ready items to the queues.

    An index is ready when each upstream item has ended and each iterator has given it. Widths are decided in
    an order that no timing changes: once the widths of all upstreams are known, or known never to come.

    Parameters
    ----------
    run
        The run's state.
    queues
        Where ready items go.
    """

    def __init__(self, run: RunState, queues: Queues) -> None:
        self._run = run
        self._queues = queues
        self.restorer = Restorer(run)

    # -- opening ----------------------------------------------------------------------------------------

    def open(self, stage: Stage) -> None:
        """Open a stage, as everything its leader waits for is final: decide, and find the width."""
        if stage.is_open or stage.is_following:
            return
        stage.is_open = True
        run, leader = self._run, self._run.leader_of(stage)
        if run.is_stopping:
            for member in stage.members:
                self.restorer.stop(run.books[member])
                end_whole(run, run.books[member], Code.CANCELLED, leader.node.fixed_width)
            return
        missing = self._missing_pick(leader)
        if missing is not None:
            self._fail(stage, missing)
            return
        self.restorer.open(stage)
        verdict = judge_node(leader, run.books)
        if verdict is Verdict.BROKEN_TRIGGER:
            self._fail(stage, _broken_trigger(leader))
        elif verdict is not Verdict.RUN:
            self._end(stage, _ENDS[verdict], leader.node.fixed_width)
        elif leader.node.is_mapped:
            self._open_map(stage, leader)
        else:
            stage.width = 1
            self._make_ready(stage, range(1))
            self._queues.enqueue(stage)

    def _fail(self, stage: Stage, error: Exception) -> None:
        """Fail a map or a task itself, before any of its items started."""
        self._mark_failed(self._run.leader_of(stage), error)
        self._end(stage, Code.FAILED, None)

    def _mark_failed(self, book: NodeBook, error: Exception | None) -> None:
        book.failed_whole = True
        self._run.commands.append(ev.NodeFailed(node=book.node.id, error=error))

    def _end(self, stage: Stage, code: Code, width: int | None) -> None:
        """End a stage before any of its items started, each member as if it were not fused."""
        run = self._run
        end_whole(run, run.leader_of(stage), code, width)
        for member in stage.members[1:]:
            book = run.books[member]
            missing = self._missing_pick(book)
            if missing is not None:
                self._mark_failed(book, missing)
                end_whole(run, book, Code.FAILED, None)
                continue
            verdict = judge_node(book, run.books)
            inputs = [run.books[dep.upstream] for dep in book.node.deps if dep.kind is DepKind.ITEMS]
            gone = {upstream.final for upstream in inputs if upstream.width is None}
            if verdict is not Verdict.RUN:
                end_whole(run, book, _ENDS[verdict], None)
            elif gone:
                end_whole(run, book, Code.SKIPPED if gone == {Code.SKIPPED} else Code.UPSTREAM_FAILED, None)
            else:
                is_skipped = all(upstream.final == Code.SKIPPED for upstream in inputs)
                end_whole(run, book, Code.SKIPPED if is_skipped else Code.UPSTREAM_FAILED, width)

    def _missing_pick(self, leader: NodeBook) -> Exception | None:
        for dep in leader.node.deps:
            if dep.kind is DepKind.PICK and dep.index is not None:
                upstream = self._run.books[dep.upstream]
                if (
                    upstream.width is not None
                    and dep.index >= upstream.width
                    and upstream.final in SUCCESS_BYTES
                ):
                    has = f"only {upstream.width} items, counted from 0" if upstream.width else "no items"
                    return ValueUnavailable(
                        f"{leader.node.name} needs item {dep.index} of {upstream.node.name}, which has {has}"
                    )
        return None

    def _open_map(self, stage: Stage, leader: NodeBook) -> None:
        run = self._run
        for source in leader.node.sources:
            if source.length is None:
                stage.pulled = {**stage.pulled, source.slot: 0}
            else:
                _know_width(stage, source.argument, source.length)
        for dep in leader.node.deps:
            if dep.kind is DepKind.ELEMENTS:
                info = run.books[dep.upstream].info
                if info is None or info.kind != "sized":
                    self._fail(stage, _unmappable(leader, run.books[dep.upstream], dep.argument))
                    return
                _know_width(stage, dep.argument, info.length)
        if _has_conflict(stage):
            self._fail(stage, _width_error(leader, stage))
            return
        upstreams = [run.books[upstream] for upstream in stage.upstreams]
        stage.needs = len(stage.pulled) + len(upstreams)
        for upstream in upstreams:
            if upstream.width is not None:
                self._know_upstream_width(stage, upstream)
            elif not upstream.is_final:
                stage.undecided += 1
        self._decide_width(stage)
        if leader.is_final:
            return
        if stage.needs == 0 and stage.width:
            self._make_ready(stage, range(stage.width))
        for upstream in upstreams:
            self._feed_ended_items(stage, upstream)
        if stage.is_unwanted:
            run.notices.append(Unwanted(stage))
        self._queues.enqueue(stage)

    def _feed_ended_items(self, stage: Stage, upstream: NodeBook) -> None:
        """Feed items of an upstream that ended before this stage was open."""
        states = upstream.states
        if upstream.ended == len(states):
            self.meet(stage, range(len(states)))
        elif upstream.ended:
            self.meet(stage, [i for i, code in enumerate(states) if code in FINAL_CODES])

    # -- widths -----------------------------------------------------------------------------------------

    def upstream_width_known(self, stage: Stage, upstream: NodeBook) -> None:
        """Apply the width of a node whose items an open stage takes."""
        self._know_upstream_width(stage, upstream)
        stage.undecided -= 1
        self._decide_width(stage)

    def upstream_gone(self, stage: Stage) -> None:
        """Handle a node whose items an open stage takes and that ended without a width."""
        stage.undecided -= 1
        self._decide_width(stage)

    def _know_upstream_width(self, stage: Stage, upstream: NodeBook) -> None:
        if upstream.width is not None:
            _know_width(
                stage, stage.upstreams[upstream.node.id][0].argument or upstream.node.name, upstream.width
            )

    def _decide_width(self, stage: Stage) -> None:
        """Set the width once nothing is undecided, or end what can have none.

        Widths that differ fail a map before it begins. Only where an iterator is behind it, they show when
        items have run: then the items that all inputs have run, and the map fails at its end.
        """
        run, leader = self._run, self._run.leader_of(stage)
        if run.is_stopping or leader.is_final or stage.width is not None or stage.undecided:
            return
        gone = {
            run.books[upstream].final for upstream in stage.upstreams if run.books[upstream].width is None
        }
        if gone:
            code = Code.SKIPPED if gone == {Code.SKIPPED} else Code.UPSTREAM_FAILED
            self._end(stage, code, leader.node.fixed_width)
            return
        self._drop_iterators(stage, leader)
        has_conflict = _has_conflict(stage)
        if has_conflict and not stage.is_lazy:
            self._fail(stage, _width_error(leader, stage))
            return
        if len(stage.exhausted) < len(stage.pulled):
            return
        ends = [*stage.widths.values()] if stage.cut_at is None else [*stage.widths.values(), stage.cut_at]
        stage.width = min(ends)
        upstreams = [run.books[upstream] for upstream in stage.upstreams]
        leader.is_cut_off = any(each.broke_off and each.width == stage.width for each in upstreams)
        # What raises behind the end of another input may as well not have been asked for that.
        has_raised = stage.raised_after == stage.width
        if has_raised or (has_conflict and not leader.is_cut_off):
            self._mark_failed(leader, None if has_raised else _width_error(leader, stage))
        for member in stage.members:
            book = run.books[member]
            book.is_cut_off |= leader.broke_off and book is not leader
            set_width(run, book, stage.width)
            announce(run, book, Code.RUNNING if book.has_started else Code.PENDING)
        for member in stage.members:
            end_if_complete(run, run.books[member])

    @staticmethod
    def _drop_iterators(stage: Stage, leader: NodeBook) -> None:
        """Drop iterators that yielded more than other inputs have, without reading their end."""
        bound = min(stage.widths.values(), default=None)
        for source in leader.node.sources:
            count = stage.pulled.get(source.slot, 0)
            if bound is not None and count > bound and source.slot not in stage.exhausted:
                stage.exhausted |= {source.slot}
                _know_width(stage, source.argument, count)

    def source_advanced(self, event: ev.SourceAdvanced) -> None:
        """Apply that an iterator yielded items, ended or raised."""
        run, stage = self._run, self._run.books[event.node].stage
        leader = run.leader_of(stage)
        stage.pulling -= {event.slot}
        if (
            run.is_stopping
            or leader.is_final
            or event.slot not in stage.pulled
            or event.slot in stage.exhausted
        ):
            return
        before = stage.pulled[event.slot]
        stage.pulled[event.slot] = before + event.count
        self.meet(stage, range(before, before + event.count))
        if event.failed:
            count = stage.pulled[event.slot]
            stage.raised_after = count if stage.raised_after is None else min(count, stage.raised_after)
        if event.ended or event.failed:
            stage.exhausted |= {event.slot}
            source = next(each for each in leader.node.sources if each.slot == event.slot)
            _know_width(stage, source.argument, stage.pulled[event.slot])
        self._decide_width(stage)
        self._queues.enqueue(stage)

    # -- indices that become ready ----------------------------------------------------------------------

    def meet(self, stage: Stage, indices: Sequence[int]) -> None:
        """Apply that one condition of these indices is met: an upstream item ended, or an iterator yielded them."""
        if self._run.is_stopping or not len(indices) or self._run.leader_of(stage).is_final:
            return
        if stage.needs > 1:
            missing = max(indices) + 1 - len(stage.met)
            if missing > 0:
                stage.met.extend(bytes(missing))
            met: list[int] = []
            for index in indices:
                stage.met[index] += 1
                if stage.met[index] == stage.needs:
                    met.append(index)
            indices = met
        # A known sequence may be shorter than what an iterator gives.
        bound = min(stage.widths.values(), default=None)
        if bound is not None and isinstance(indices, range):
            indices = range(indices.start, min(indices.stop, bound))
        elif bound is not None:
            indices = [index for index in indices if index < bound]
        if len(indices):
            self._make_ready(stage, indices)
            self._queues.enqueue(stage)

    def _make_ready(self, stage: Stage, indices: Sequence[int]) -> None:
        """Queue indices whose conditions are all met: whole ranges if nothing failed, else one by one."""
        run = self._run
        stage.fed += len(indices)
        limit = max(indices) + 1 if not isinstance(indices, range) else indices.stop
        indices = packed(indices)
        for member in stage.members:
            run.books[member].grow(limit)
        if self.restorer.has_past(stage):
            indices, begun = self.restorer.take(stage, indices)
            if stage.is_halted:
                run.notices.append(LanesOpen(stage, begun))
            else:
                self.continue_lanes(stage, begun)
            if not len(indices):
                return
        if stage.is_halted:
            run.notices.append(LanesOpen(stage, indices))
            return
        leader = run.leader_of(stage).node
        is_plain = not stage.upstreams or leader.trigger is all_successful
        if is_plain and all(_all_succeeded(run.books[upstream], indices) for upstream in stage.upstreams):
            if isinstance(indices, range):
                stage.add_fresh(indices.start, indices.stop)
            else:
                for index in indices:
                    stage.add_fresh(index, index + 1)
        elif is_plain and len(stage.upstreams) == 1 and not any(dep.allows_failure for dep in leader.deps):
            self._sort_by_upstream(stage, run.books[next(iter(stage.upstreams))], indices)
        else:
            self.continue_lanes(stage, indices)

    def _sort_by_upstream(self, stage: Stage, upstream: NodeBook, indices: Sequence[int]) -> None:
        """Run, skip or fail all members of items alike, by the end of their only upstream item."""
        codes = codes_at(upstream.states, indices)
        self._queues.queue_items(stage, tuple(stage.members), chosen(indices, codes, SUCCESS_BYTES))
        skips = {Code.SKIPPED, *(OWN_FAILURES if upstream.tolerates else ())}
        skipped = chosen(indices, codes, skips)
        failed = chosen(indices, codes, set(codes) - skips - {*SUCCESS_BYTES})
        for member in stage.members:
            end_items(self._run, self._run.books[member], skipped, Code.SKIPPED)
            end_items(self._run, self._run.books[member], failed, Code.UPSTREAM_FAILED)

    def continue_lanes(self, stage: Stage, indices: Sequence[int]) -> None:
        """Continue the items of which any member has not ended; items in the same state are decided together."""
        books, members = self._run.books, stage.members
        if self._run.is_stopping or not len(indices):
            return
        columns = [codes_at(books[member].states, indices) for member in members]
        if all(sum(column.translate(FINAL_TABLE)) == len(indices) for column in columns):
            return
        outside = {
            dep.upstream
            for member in members
            for dep in books[member].node.deps
            if dep.kind is DepKind.ITEMS and dep.upstream not in members
        }
        columns += [codes_at(books[upstream].states, indices) for upstream in outside]
        alike: dict[tuple[int, ...], list[int]] = {}
        for index, codes in zip(indices, zip(*columns, strict=True), strict=True):
            alike.setdefault(codes, []).append(index)
        for group in alike.values():
            decided, runs = lane_plan(stage, books, group[0])
            for member, verdict in decided.items():
                end_items(self._run, books[member], packed(group), _ENDS[verdict])
            if runs:
                self._queues.queue_items(stage, runs, packed(group))

    def continue_lane(self, stage: Stage, index: int) -> None:
        """Decide what is left of one item of a stage that is not under way."""
        self.continue_lanes(stage, (index,))


def _all_succeeded(book: NodeBook, indices: Sequence[int]) -> bool:
    if isinstance(indices, range):
        part = book.states[indices.start : indices.stop]
        return part.count(Code.COMPLETED) + part.count(Code.CACHED) == len(part)
    return all(book.states[index] in SUCCESS_BYTES for index in indices)


def _know_width(stage: Stage, argument: str, width: int) -> None:
    name = argument
    while name in stage.widths and stage.widths[name] != width:
        name += "'"
    stage.widths = {**stage.widths, name: width}


def _has_conflict(stage: Stage) -> bool:
    return len(set(stage.widths.values())) > 1


# -- errors -----------------------------------------------------------------------------------------------


def _width_error(leader: NodeBook, stage: Stage) -> Exception:
    each = ", ".join(f"{name}: {width}" for name, width in stage.widths.items())
    return MapWidthError(
        f"{leader.node.name} is mapped over arguments of different lengths ({each}); mapped arguments are "
        "zipped and must have one length; wrap a constant in unmapped(...)",
        widths=dict(stage.widths),
    )


def _broken_trigger(book: NodeBook) -> Exception:
    return GraphflowError(
        f"the trigger {book.node.trigger!r} of {book.node.name} raised an exception; "
        "a trigger takes the counts of the upstream states and returns True or False"
    )


def _unmappable(leader: NodeBook, upstream: NodeBook, argument: str) -> Exception:
    info = upstream.info
    if info is None:
        return MapTypeError(
            f"{leader.node.name} is mapped over {upstream.node.name}, which has no value to map over"
        )
    name = argument or "its argument"
    return MapTypeError(
        f"{leader.node.name} cannot be mapped over {name}: {upstream.node.name} returned {with_article(info.type_name)}. "
        + (info.hint or "Only sequences are mapped; wrap a constant in unmapped(...)")
    )
