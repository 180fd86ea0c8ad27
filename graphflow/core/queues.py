"""What runs next: queues of ready work, batches under way, and what becomes of a batch that is lost."""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence, Set

from graphflow.core import events as ev
from graphflow.core.batching import SLICE_SECONDS, grown_seconds, next_slice
from graphflow.core.causes import hand_over_inputs, hand_over_lane
from graphflow.core.nodes import (
    ONLY,
    SUCCESS_BYTES,
    Bundle,
    Flight,
    NodeBook,
    Stage,
    chosen,
    codes_at,
)
from graphflow.core.outcomes import announce, cancel_items, end_items
from graphflow.core.pacing import DealtPacer, Pacer, Reservation, StartingSlots, combined
from graphflow.core.state import FollowerBack, LanesOpen, RunState
from graphflow.graph.graph import DepKind
from graphflow.model.orders import Pace
from graphflow.model.policies import all_successful
from graphflow.model.states import Code

__all__ = ["MAX_CRASHES", "Queues"]

MAX_CRASHES = 2
"""An item found executing in this many dead workers is `Crashed`."""
FIRST_PULL_PER_SLOT = 32
MAX_PULL = 65_536
PULL_SECONDS = 0.6
PULL_SLICES = 2.4
"""An iterator is read ahead by about this much work per slot, or so many slices."""
FIND_AHEAD = 4_096
"""Items of a batch that has fewer starting slots of a rate, because results may be found."""
MAX_BUNDLE = 1_024
FOLLOW_SECONDS = 0.02
"""Nodes follow others in their batch for about so much work; what follows could have run elsewhere at the same time."""
FIRST_FOLLOWERS = 16


class Queues:
    """Sends batches while there is room for them, deepest stages first, so that work drains.

    Parameters
    ----------
    run
        The run's state.
    batches
        The last number that was used for a batch.
    """

    def __init__(self, run: RunState, *, batches: int = 0) -> None:
        self._run = run
        self._batches = batches
        self._turn = 0
        self._queue: list[tuple[int, int, int, Stage | Bundle]] = []
        self._bundles: dict[Hashable, Bundle] = {}
        self.due: float | None = None
        """When work that waits for its rate may be sent."""
        self.is_held_up = False
        """Whether work waits for slots that others have, or for starting slots that were asked for."""
        self._has_asked = False
        self._lacks_slots = False

    @property
    def is_starved(self) -> bool:
        """Whether work waits only because there is no slot at all."""
        return bool(self._queue) and self.target < 1

    @property
    def target(self) -> int:
        """How many batches may be under way."""
        return self._run.capacity.slots * (1 + self._run.capacity.queue)

    def ready(self) -> Iterable[Stage]:
        """Yield the stages that have items to send."""
        return (entry[-1] for entry in self._queue if isinstance(entry[-1], Stage) and entry[-1].ready)

    def answered(self) -> None:
        """Ask again for slots of limits, if work still waits for them."""
        self._has_asked = False

    # -- ready work -------------------------------------------------------------------------------------

    def enqueue(self, stage: Stage) -> None:
        """Enqueue a stage that may have something to send, or iterators to read."""
        if not stage.is_open or stage.is_queued:
            return
        stage.is_queued = True
        self._turn += 1
        bundle = self.bundle_of(stage)
        if bundle is not None and stage.fresh and not stage.suspects:
            # In the order of the calls: what was handed back is next.
            heapq.heappush(bundle.ready, (-stage.depth, stage.id, stage))
            self._queue_bundle(bundle)
        else:
            heapq.heappush(self._queue, (-stage.priority, -stage.depth, self._turn, stage))

    def bundle_of(self, stage: Stage) -> Bundle | None:
        """Return what a node that is not mapped shares with those that may run in the same batch."""
        if stage.bundle_key is None or (stage.limits and self._run.grants.holds(stage)):
            return None
        found = self._bundles.get(stage.bundle_key)
        if found is None:
            found = self._bundles[stage.bundle_key] = Bundle(stage.priority)
        return found

    def _queue_bundle(self, bundle: Bundle) -> None:
        if bundle.ready and not bundle.is_queued:
            bundle.is_queued = True
            self._turn += 1
            heapq.heappush(self._queue, (-bundle.priority, bundle.ready[0][0], self._turn, bundle))

    def queue_item(self, stage: Stage, nodes: tuple[int, ...], index: int) -> None:
        """Queue an item that is ready for some members of its stage; a crash suspect runs alone, task by task."""
        if index in stage.suspects:
            nodes = nodes[:1]
            stage.add_alone(nodes, [index])
        else:
            stage.add_again(nodes, (index,))
        self._mark(nodes, (index,))
        self.enqueue(stage)

    def queue_items(self, stage: Stage, nodes: tuple[int, ...], indices: Sequence[int]) -> None:
        """Single items are ready for some members of their stage."""
        suspects = [index for index in indices if index in stage.suspects] if stage.suspects else []
        if suspects:
            for index in suspects:
                self.queue_item(stage, nodes, index)
            indices = [index for index in indices if index not in stage.suspects]
        if stage.parts:
            indices = self._queue_parts(stage, nodes, indices)
        stage.add_again(nodes, indices)
        self._mark(nodes, indices)
        self.enqueue(stage)

    def _queue_parts(self, stage: Stage, nodes: tuple[int, ...], indices: Sequence[int]) -> Sequence[int]:
        """Queue items that are sent in parts, part by part; return the others."""
        others: list[int] = []
        parts: dict[tuple[int, int], list[int]] = {}
        for index in indices:
            part = stage.parts.pop(index, None)
            (others if part is None else parts.setdefault(part, [])).append(index)
        for together in parts.values():
            stage.add_alone(nodes, together)
            self._mark(nodes, together)
        return others

    def _mark(self, nodes: tuple[int, ...], indices: Sequence[int]) -> None:
        """Mark items that wait singly in a queue."""
        for node in nodes:
            self._run.books[node].mark_all(indices, Code.SCHEDULED)

    def _unmark(self, nodes: tuple[int, ...], indices: Sequence[int]) -> None:
        """Reset items as if they had never been sent."""
        for node in nodes:
            self._run.books[node].mark_all(indices, Code.PENDING)

    # -- batches ----------------------------------------------------------------------------------------

    def dispatch(self) -> None:
        """Send what fits."""
        run = self._run
        self.due = None
        self.is_held_up = self._lacks_slots = False
        held_back = []
        if run.is_paused:
            return
        while self._queue and len(run.flights) < self.target and not run.is_stopping:
            entry = heapq.heappop(self._queue)
            stage = entry[-1]
            if isinstance(stage, Bundle):
                self._submit_bundle(stage)
                continue
            if stage.ready and not self._may_send(stage):
                held_back.append(entry)
            else:
                stage.is_queued = False
                if stage.ready:
                    self._submit_next(stage)
                    self.enqueue(stage)
            self._pull(stage)
        for entry in held_back:
            heapq.heappush(self._queue, entry)
        if not self._lacks_slots:
            self._has_asked = False

    def _may_send(self, stage: Stage) -> bool:
        """Return whether the limits of a stage leave room for another batch now."""
        room = self._run.grants.room(stage) if stage.limits else None
        if room is not None and room < 1:
            self.is_held_up = self._lacks_slots = True
            if not self._has_asked:
                self._has_asked = True
                self._run.commands.append(ev.SlotsWanted())
            return False
        if (room is not None or stage.max_concurrency is not None) and (
            (stage.max_concurrency is not None and stage.running >= stage.max_concurrency)
            # A batch that waits for a slot would keep what it may run from those that have one.
            or (stage.concurrency is not None and stage.flying >= self._run.capacity.slots)
        ):
            return False
        dealt = self._run.grants.pacers_of(stage) if stage.limits else {}
        if stage.rate is None and not dealt:
            return True
        return self._may_begin(stage, dealt)

    def _may_begin(self, stage: Stage, dealt: Mapping[str, DealtPacer]) -> bool:
        """Return whether starting slots for another batch are near, of the stage's own rate and those that runs share."""
        run = self._run
        dues: list[float | None] = []
        if stage.rate is not None:
            pacer = stage.pacer = self._pacer(stage, stage.rate)
            if stage.flying >= pacer.lanes * (1 + run.capacity.queue):
                return False
            dues.append(pacer.due())
        for name, each in dealt.items():
            each.lanes = self._lanes(stage, each.rate)
            wanted = each.wanted(run.now)
            if wanted:
                each.is_asked = True
                run.commands.append(ev.ReserveSlots(name=name, count=wanted))
            dues.append(each.due(run.now))
        found = [due for due in dues if due is not None]
        if len(found) < len(dues):
            self.is_held_up = True
            return False
        due = max(found)
        if due <= run.now:
            return True
        self.due = due if self.due is None else min(self.due, due)
        return False

    def _pacer(self, stage: Stage, rate: float) -> Pacer:
        """Return the stage's pacer, with as many lanes as its items need at this rate."""
        now, lanes = self._run.now, self._lanes(stage, rate)
        if stage.pacer is None:
            return Pacer(rate=rate, lanes=lanes, now=now)
        return stage.pacer.changed(rate=rate, lanes=lanes, now=now)

    def _lanes(self, stage: Stage, rate: float) -> int:
        """Return how many batches side by side the items of a stage need at a rate."""
        slots = max(1, self._run.capacity.slots)
        if stage.busy_seconds is None:
            return slots
        at_once = rate * stage.busy_seconds / (stage.concurrency or 1)
        return max(1, min(slots, math.ceil(at_once * 1.2) + 1))

    def _most(self, stage: Stage) -> int | None:
        """Return how many items of a stage may run at the same time, over all batches; None for any number."""
        shared = self._run.grants.most(stage) if stage.limits else None
        if shared is None or stage.max_concurrency is None:
            return stage.max_concurrency if shared is None else shared
        return min(shared, stage.max_concurrency)

    def _share(self, stage: Stage) -> int:
        """Return how many items of a stage its next batch may run at the same time."""
        if stage.concurrency is None:
            return 1
        most = self._most(stage)
        if most is None:
            return stage.concurrency
        share = min(stage.concurrency, math.ceil(most / max(1, self._run.capacity.slots)))
        if stage.max_concurrency is not None:
            share = min(share, stage.max_concurrency - stage.running)
        room = self._run.grants.room(stage) if stage.limits else None
        return share if room is None else min(share, room)

    def _grown(self, stage: Stage, slots: float) -> float:
        """Return what the slices of a stage have grown to; 0 where a batch would tell nothing before its end."""
        if stage.began is None or stage.mean_seconds is None or not self._run.capacity.tells:
            return 0.0
        left = stage.ready if stage.exhausted == stage.pulled.keys() else stage.ready + stage.fed
        left_seconds = left * stage.mean_seconds / max(slots, 1)
        return grown_seconds(age=self._run.now - stage.began, left_seconds=left_seconds)

    def recall(self, stage: Stage | None = None, *, limits: Set[str] = frozenset()) -> None:
        """Let batches with grown slices hand back what they have not begun: something has changed.

        Those of one stage, or those that go by any of these limits, or all.
        """
        batches = tuple(
            number
            for number, flight in self._run.flights.items()
            if flight.is_grown
            and (stage is None or flight.stage is stage)
            and (not limits or not limits.isdisjoint(flight.limits))
        )
        if batches:
            self._run.commands.append(ev.RecallBatches(batches=batches))

    def _submit_next(self, stage: Stage) -> None:
        run = self._run
        slots, share = run.capacity.slots, self._share(stage)
        most = self._most(stage)
        if most is not None:
            slots = min(slots, math.ceil(most / share))
        size = next_slice(
            remaining=stage.ready,
            mean_seconds=stage.mean_seconds,
            slots=slots,
            batch_size=stage.batch_size,
            item_nbytes=stage.item_nbytes,
            batch_seconds=run.capacity.batch_seconds,
            concurrency=share,
            expected_seconds=run.means.get(run.leader_of(stage).node.task_name),
            result_nbytes=stage.result_nbytes or 0.0,
            store_seconds=stage.store_seconds or 0.0,
            grown=self._grown(stage, slots),
        )
        count, seconds, tell_seconds = size.count, size.seconds, size.tell_seconds
        pace: Pace | None = None
        starting_slots: StartingSlots | None = None
        dealt: list[tuple[str, Reservation]] = []
        pacers = run.grants.pacers_of(stage) if stage.limits else {}
        own = stage.pacer if stage.rate is not None else None
        if own is not None or pacers:
            # What is left is shared out: the rate must not hang on a single lane in the end.
            every: list[Pacer | DealtPacer] = [*([] if own is None else [own]), *pacers.values()]
            each = math.ceil(stage.ready / min(pacer.lanes for pacer in every))
            each = min(each, stage.batch_size or each, *(pacer.offers(run.now) for pacer in every))
            reserved = [pacer.reserve(now=run.now, count=each) for pacer in every]
            places = combined(reserved)
            pace = Pace(delay=places.delay, interval=places.interval, count=places.count)
            count = places.count
            if own is not None:
                starting_slots = reserved[0].slots
            dealt = list(zip(pacers, reserved[len(reserved) - len(pacers) :], strict=True))
            if stage.finds and stage.has_found and stage.batch_size is None:
                # What is found takes no turn.
                count = max(count, FIND_AHEAD)
            if stage.batch_size is None:
                seconds = places.delay + places.count * places.interval + SLICE_SECONDS
                tell_seconds = None
        nodes: tuple[int, ...]
        indices: Sequence[int]
        if stage.alone:
            nodes, indices = stage.take_alone()
            self._submit(
                stage,
                nodes,
                indices,
                None,
                is_fresh=False,
                pace=pace,
                starting_slots=starting_slots,
                dealt=dealt,
            )
        elif stage.again:
            nodes, indices = stage.take_again(count)
            self._submit(
                stage,
                nodes,
                indices,
                seconds,
                tell_seconds=tell_seconds,
                is_fresh=False,
                pace=pace,
                starting_slots=starting_slots,
                dealt=dealt,
            )
        else:
            fresh = stage.take_fresh(count)
            self._submit(
                stage,
                tuple(stage.members),
                fresh,
                seconds,
                tell_seconds=tell_seconds,
                is_fresh=True,
                pace=pace,
                starting_slots=starting_slots,
                dealt=dealt,
            )

    def _submit(
        self,
        stage: Stage,
        nodes: tuple[int, ...],
        indices: Sequence[int],
        seconds: float | None,
        *,
        is_fresh: bool,
        pace: Pace | None,
        starting_slots: StartingSlots | None,
        tell_seconds: float | None = None,
        dealt: Sequence[tuple[str, Reservation]] = (),
    ) -> None:
        run = self._run
        self._batches += 1
        running = self._share(stage)
        stage.began = run.now if stage.began is None else stage.began
        stage.slice_seconds = seconds or 0.0
        flight = run.flights[self._batches] = Flight(
            stage,
            nodes,
            indices,
            is_fresh,
            running,
            starting_slots=starting_slots,
            is_grown=tell_seconds is not None,
            limits=stage.limits,
            dealt=dealt,
        )
        run.grants.take(flight, running)
        stage.flying += 1
        stage.running += running
        tries: list[bytes | None] = []
        for node in nodes:
            book = run.books[node]
            if not book.has_started:
                book.has_started = True
                hand_over_inputs(run.books, book)
                announce(run, book, Code.RUNNING)
            tries.append(None if is_fresh else self._begin(book, indices))
        run.commands.append(
            ev.SubmitBatch(
                batch=self._batches,
                nodes=nodes,
                indices=indices,
                width=stage.width,
                tries=tuple(tries),
                slice_seconds=seconds,
                tell_seconds=tell_seconds,
                priority=stage.priority,
                concurrency=None if stage.concurrency is None else running,
                pace=pace,
                limits=tuple(run.books[node].limit_seconds for node in nodes),
                tolerates=tuple(run.books[node].tolerates for node in nodes),
                keeps=tuple(self._is_needed_outside(nodes, run.books[node]) for node in nodes),
            )
        )

    # -- bundles ----------------------------------------------------------------------------------------

    def _submit_bundle(self, bundle: Bundle) -> None:
        """Send nodes that wait together, and those that wait for them alone."""
        run = self._run
        bundle.is_queued = False
        size = next_slice(
            remaining=max(1, len(bundle.ready)),
            mean_seconds=bundle.mean_seconds,
            slots=run.capacity.slots,
            batch_seconds=run.capacity.batch_seconds,
            result_nbytes=bundle.result_nbytes or 0.0,
            store_seconds=bundle.store_seconds or 0.0,
        )
        taken: list[Stage] = []
        while bundle.ready and len(taken) < min(size.count, MAX_BUNDLE):
            stage = heapq.heappop(bundle.ready)[-1]
            stage.is_queued = False
            if self.bundle_of(stage) is None:
                # Its policies were changed meanwhile, or there is a limit now.
                self.enqueue(stage)
            elif stage.ready:
                stage.take_fresh(1)
                taken.append(stage)
        self._queue_bundle(bundle)
        if not taken:
            return
        nodes = [stage.leader for stage in taken]
        mean = bundle.mean_seconds
        follows = FIRST_FOLLOWERS if mean is None else int(FOLLOW_SECONDS / max(mean, 1e-7))
        self._add_followers(nodes, taken[0].bundle_key, min(MAX_BUNDLE, len(nodes) + follows))
        if len(nodes) == 1:
            self._submit(
                taken[0], (nodes[0],), ONLY, size.seconds, is_fresh=True, pace=None, starting_slots=None
            )
            return
        self._batches += 1
        flight = Flight(
            taken[0], tuple(nodes), range(len(nodes)), True, bundle=bundle, limits=taken[0].limits
        )
        run.flights[self._batches] = flight
        # There may be a limit before it has ended.
        run.grants.take(flight, flight.running)
        taken[0].flying += 1
        taken[0].running += 1
        for stage in taken:
            book = run.leader_of(stage)
            if not book.has_started:
                book.has_started = True
                announce(run, book, Code.RUNNING)
        run.commands.append(
            ev.SubmitBatch(
                batch=self._batches,
                nodes=flight.nodes,
                indices=flight.indices,
                width=None,
                tries=(),
                slice_seconds=size.seconds,
                priority=bundle.priority,
                is_bundle=True,
            )
        )

    def _add_followers(self, nodes: list[int], key: Hashable, most: int) -> None:
        """Add nodes that wait for nothing but nodes of the batch, behind these. O(dependents)."""
        books = self._run.books
        met: dict[int, int] = {}
        inside = set(nodes)
        for node in nodes:
            if len(nodes) >= most:
                return
            for stage in books[node].dependents:
                count = met[stage.id] = met.get(stage.id, 0) + 1
                if (
                    count == stage.waiting
                    and stage.bundle_key == key
                    and len(nodes) < most
                    and self._may_follow(stage, inside)
                ):
                    stage.is_following = True
                    nodes.append(stage.leader)
                    inside.add(stage.leader)

    def _may_follow(self, stage: Stage, inside: set[int]) -> bool:
        """Return whether a node runs for certain if those of its batch that it needs succeed."""
        books, book = self._run.books, self._run.leader_of(stage)
        if stage.is_open or stage.is_following or stage.suspects or book.is_final or book.past is not None:
            return False
        return all(
            dep.upstream in inside
            or (books[dep.upstream].final in SUCCESS_BYTES and dep.kind is not DepKind.PICK)
            for dep in book.node.deps
        )

    def _lost_bundle(self, flight: Flight, event: ev.BatchWasLost) -> tuple[Stage, int] | None:
        """Let the nodes of a lost batch wait again: alone, those that may have killed a worker."""
        run, crashed = self._run, None
        out = flight.out()
        is_known = event.executing in out or event.had_started is False
        for position in out:
            node = flight.nodes[position]
            book = run.books[node]
            stage = book.stage
            single = Flight(stage, (node,), ONLY, True)
            if run.is_stopping:
                if not book.is_final:
                    cancel_items(run, book, ONLY)
            elif position == event.executing:
                crashed = self._suspect(single, 0) or crashed
            elif is_known:
                if stage.is_open:
                    self.hand_back(single, ONLY)
            else:
                stage.suspects |= {0}
                if stage.is_open:
                    self.queue_item(stage, (node,), 0)
            if not stage.is_open:
                run.notices.append(FollowerBack(stage))
        return crashed

    def _is_needed_outside(self, nodes: Sequence[int], book: NodeBook) -> bool:
        """Return whether anything but the nodes of the same batch may need a node's values."""
        run = self._run
        return (
            len(nodes) == 1
            or not run.is_closed
            or not book.users
            or book.node.id in run.returned
            or any(kind is not DepKind.ITEMS or user not in nodes for user, kind, _ in book.users)
        )

    def empty(self, stage: Stage) -> list[Sequence[int]]:
        """Remove all ready work of a stage from its queues; return its indices, as if they had never been queued."""
        waiting: list[Sequence[int]] = [range(lo, hi) for lo, hi in stage.fresh]
        for nodes, queue in stage.again.items():
            self._unmark(nodes, [*queue])
            waiting.append([*queue])
        for nodes, indices in stage.alone:
            self._unmark(nodes, indices)
            waiting.append(indices)
        stage.clear()
        return waiting

    def land(self, batch: int) -> None:
        """Remove a batch that is no longer under way."""
        flight = self._run.flights.pop(batch)
        flight.stage.flying -= 1
        flight.stage.running -= flight.running
        self._run.grants.take(flight, -flight.running)

    def shrink(self, flight: Flight, left: int) -> None:
        """Let other batches run as many items as a batch that begins none any more has ended, by what is left of it."""
        ended = max(0, flight.running - left)
        flight.running -= ended
        flight.stage.running -= ended
        self._run.grants.take(flight, -ended)

    def _begin(self, book: NodeBook, indices: Sequence[int]) -> bytes:
        """Single items begin; returns the attempts that each has used."""
        sees_failures = any(
            dep.kind is DepKind.ITEMS and (dep.allows_failure or book.node.trigger is not all_successful)
            for dep in book.node.deps
        )
        tries = codes_at(book.attempts, indices)
        book.mark_all(chosen(indices, tries, {0}), Code.RUNNING)
        book.mark_all(chosen(indices, tries, range(1, 256)), Code.RETRYING)
        if sees_failures:
            for index in indices:
                hand_over_lane(self._run.books, book, index)
        return tries

    def hand_back(self, flight: Flight, rest: Sequence[int]) -> None:
        """Put items that a batch did not reach at the front again, or end them if the run is stopping."""
        run, stage = self._run, flight.stage
        if not len(rest):
            return
        if run.is_stopping:
            for node in flight.nodes:
                cancel_items(run, run.books[node], rest)
        elif stage.is_halted:
            self._unmark(flight.nodes, rest)
            run.notices.append(LanesOpen(stage, rest))
        elif flight.is_fresh:
            for lo, hi in _runs(rest):
                stage.add_fresh(lo, hi)
        else:
            self._mark(flight.nodes, rest)
            stage.add_again(flight.nodes, rest, in_front=True)
        self.enqueue(stage)

    # -- batches that are lost --------------------------------------------------------------------------

    def lost(self, event: ev.BatchWasLost) -> tuple[Stage, int] | None:
        """Apply the loss of a batch, and return the item that is `Crashed` by it, if any: (stage, index)."""
        flight = self._run.flights.get(event.batch)
        if flight is None:
            return None
        self.land(event.batch)
        if flight.bundle is not None:
            return self._lost_bundle(flight, event)
        indices = flight.out()
        is_single = len(indices) == 1 and len(flight.nodes) == 1
        executing = event.executing if event.executing in indices else None
        if executing is None and is_single and event.had_started is not False:
            executing = indices[0]
        if self._run.is_stopping or (
            executing is None and (event.had_started is False or flight.stage.is_halted)
        ):
            self.hand_back(flight, indices)
        elif executing is not None:
            self.hand_back(flight, [index for index in indices if index != executing])
            return self._suspect(flight, executing)
        else:
            # Nobody knows which item it was: halve until one is alone.
            middle = (len(indices) + 1) // 2
            for part in ([*indices[:middle]], [*indices[middle:]]):
                if len(part) == 1:
                    flight.stage.suspects |= {part[0]}
                    self._unmark(flight.nodes, part)
                    self.queue_item(flight.stage, flight.nodes, part[0])
                elif part:
                    self._mark(flight.nodes, part)
                    flight.stage.add_alone(flight.nodes, part)
        self.enqueue(flight.stage)
        return None

    def _suspect(self, flight: Flight, index: int) -> tuple[Stage, int] | None:
        """Apply the death of an item's worker: the item runs alone once more, task by task, then is `Crashed`."""
        run, stage = self._run, flight.stage
        stage.suspects |= {index}
        self._unmark(flight.nodes, (index,))
        for node in flight.nodes:
            stage.crashes = stage.crashes or {}
            stage.crashes[node, index] = stage.crashes.get((node, index), 0) + 1
        if len(flight.nodes) == 1:
            book = run.books[flight.nodes[0]]
            book.attempts[index] = min(255, book.attempts[index] + 1)
            if stage.crashes[book.node.id, index] >= MAX_CRASHES:
                # One that followed others had not opened.
                stage.is_open = True
                end_items(run, book, (index,), Code.CRASHED)
                return stage, index
        if stage.is_halted:
            run.notices.append(LanesOpen(stage, (index,)))
        elif stage.is_open:
            self.queue_item(stage, flight.nodes, index)
        return None

    # -- iterators --------------------------------------------------------------------------------------

    def _pull(self, stage: Stage) -> None:
        """Request as many items of iterators as about two slices per slot will use."""
        if len(stage.exhausted) == len(stage.pulled) or self._run.leader_of(stage).is_final:
            return
        slots = max(self._run.capacity.slots, 1)
        mean = stage.mean_seconds
        if mean is None:
            want = FIRST_PULL_PER_SLOT * slots
        else:
            ahead_seconds = max(PULL_SECONDS, PULL_SLICES * stage.slice_seconds)
            want = max(2 * slots, min(MAX_PULL, int(slots * ahead_seconds / max(mean, 1e-7)) + 1))
        if stage.batch_size is not None:
            want = max(0 if mean is None else want, 2 * slots * stage.batch_size)
        for slot, count in stage.pulled.items():
            if slot in stage.pulling or slot in stage.exhausted:
                continue
            ahead = count - stage.fed + stage.ready
            room = want if stage.limit is None else min(want, stage.limit - count)
            if ahead * 2 <= want and room > 0:
                stage.pulling |= {slot}
                self._run.commands.append(ev.PullSource(node=stage.leader, slot=slot, count=room))


def _runs(indices: Sequence[int]) -> Iterable[tuple[int, int]]:
    """Yield ascending indices as ranges `[lo, hi)`."""
    if isinstance(indices, range):
        if len(indices):
            yield indices.start, indices.stop
        return
    start = last = -1
    for index in indices:
        if index != last + 1 or start < 0:
            if start >= 0:
                yield start, last + 1
            start = index
        last = index
    if start >= 0:
        yield start, last + 1
