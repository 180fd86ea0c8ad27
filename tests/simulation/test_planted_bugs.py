"""Planted bugs: cores that each break one promise. The simulation is worth its time if it finds them all."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from graphflow.core import core as core_module
from graphflow.core import events as ev
from graphflow.core import lanes, limits, opening, outcomes, plan, queues
from graphflow.core.bundles import Bundles
from graphflow.core.causes import hand_over
from graphflow.core.core import Core
from graphflow.core.grants import Grants
from graphflow.core.halting import Halter
from graphflow.core.lanes import Verdict
from graphflow.core.nodes import SUCCESS_BYTES, Flight, NodeBook, Stage
from graphflow.core.pacing import DealtPacer, Pacer, Reservation
from graphflow.core.queues import Queues
from graphflow.core.state import ItemsEndedUpstream, RootEnded, RunState
from graphflow.core.streams import Streams
from graphflow.graph.graph import DepKind
from graphflow.model.policies import all_successful
from graphflow.model.reports import Report, StepReport
from graphflow.model.states import Code
from graphflow.ports import Capacity
from simulator.simulation import Violation, simulate

ENOUGH_SEEDS = 1_500
Mutant = Callable[[pytest.MonkeyPatch], type[Core]]
MUTANTS: dict[str, Mutant] = {}


def mutant(plant: Mutant) -> Mutant:
    MUTANTS[plant.__name__] = plant
    return plant


class _Reordered(Core):
    """A core whose commands are tampered with on their way out."""

    def tamper(self, commands: list[ev.Command]) -> list[ev.Command]:
        return commands

    def handle(self, event: ev.Event, now: float) -> list[ev.Command]:
        return self.tamper(super().handle(event, now))


# -- fencing and commits ----------------------------------------------------------------------------------


@mutant
def no_fence(patch: pytest.MonkeyPatch) -> type[Core]:
    """A report of a batch that is over is applied all the same."""

    class Mutated(Core):
        def __init__(self, *, capacity: Capacity, batches: int = 0) -> None:
            super().__init__(capacity=capacity, batches=batches)
            self.remembered: dict[int, Flight] = {}

        def _report(self, report: Report) -> None:
            self.remembered.update(self.flights)
            if report.batch in self.remembered:
                self.flights.setdefault(report.batch, self.remembered[report.batch])
            super()._report(report)

        def _lost(self, event: ev.BatchWasLost) -> None:
            self.remembered.update(self.flights)
            super()._lost(event)

    return Mutated


@mutant
def announces_before_commit(patch: pytest.MonkeyPatch) -> type[Core]:
    """What follows from a report is told before the report is durable."""

    class Mutated(_Reordered):
        def tamper(self, commands: list[ev.Command]) -> list[ev.Command]:
            return sorted(commands, key=lambda command: isinstance(command, ev.CommitReport))

    return Mutated


@mutant
def never_commits(patch: pytest.MonkeyPatch) -> type[Core]:
    """Reports are applied to the books alone."""

    class Mutated(_Reordered):
        def tamper(self, commands: list[ev.Command]) -> list[ev.Command]:
            return [command for command in commands if not isinstance(command, ev.CommitReport)]

    return Mutated


@mutant
def applies_a_report_twice(patch: pytest.MonkeyPatch) -> type[Core]:
    class Mutated(Core):
        def _apply(self, stage: Stage, step: StepReport, done: Sequence[int]) -> None:
            super()._apply(stage, step, done)
            super()._apply(stage, step, done)

    return Mutated


@mutant
def forgets_a_success(patch: pytest.MonkeyPatch) -> type[Core]:
    """The last success of a large batch is sent again."""

    class Mutated(Core):
        def _apply(self, stage: Stage, step: StepReport, done: Sequence[int]) -> None:
            super()._apply(stage, step, done)
            if len(done) > 2 and step.states[-1] == Code.COMPLETED and not self.is_stopping:
                book = self.books[step.node]
                book.ended -= 1
                book.mark_all((done[-1],), Code.PENDING)
                self.queues.queue_item(stage, (step.node,), done[-1])

    return Mutated


@mutant
def finishes_twice(patch: pytest.MonkeyPatch) -> type[Core]:
    class Mutated(Core):
        def _check_finish(self) -> None:
            self.is_finished = False
            super()._check_finish()

    return Mutated


# -- lost batches -----------------------------------------------------------------------------------------


@mutant
def drops_what_was_handed_back(patch: pytest.MonkeyPatch) -> type[Core]:
    patch.setattr(Queues, "hand_back", lambda self, flight, rest: None)
    return Core


@mutant
def blames_innocents(patch: pytest.MonkeyPatch) -> type[Core]:
    """The first item of a lost batch is taken for the one that killed it."""
    lost = Queues.lost

    def blaming(self: Queues, event: ev.BatchWasLost) -> tuple[Stage, int] | None:
        flight = self._run.flights.get(event.batch)
        first = flight.indices[0] if flight is not None else None
        return lost(self, replace(event, executing=first, had_started=True))

    patch.setattr(Queues, "lost", blaming)
    return Core


@mutant
def never_blames(patch: pytest.MonkeyPatch) -> type[Core]:
    """An item that kills its workers is tried for ever."""
    patch.setattr(queues, "MAX_CRASHES", 1_000_000)
    return Core


@mutant
def ignores_lost_batches(patch: pytest.MonkeyPatch) -> type[Core]:
    patch.setattr(Queues, "lost", lambda self, event: None)
    return Core


# -- nodes that run together ------------------------------------------------------------------------------


@mutant
def opens_followers_that_are_under_way(patch: pytest.MonkeyPatch) -> type[Core]:
    """A node that follows others in their batch is sent again when these end."""
    add = Queues._add_followers

    def adding(self: Queues, nodes: list[int], key: Any, most: int) -> None:
        add(self, nodes, key, most)
        for node in nodes:
            self._run.books[node].stage.is_following = False

    patch.setattr(Queues, "_add_followers", adding)
    return Core


@mutant
def lets_any_node_follow(patch: pytest.MonkeyPatch) -> type[Core]:
    """A node runs behind others of its batch, whatever became of its other inputs."""
    patch.setattr(Queues, "_may_follow", lambda self, stage, inside: not stage.is_open)
    return Core


@mutant
def forgets_bundles_that_are_lost(patch: pytest.MonkeyPatch) -> type[Core]:
    patch.setattr(Queues, "_lost_bundle", lambda self, flight, event: None)
    return Core


@mutant
def forgets_what_a_bundle_did_not_reach(patch: pytest.MonkeyPatch) -> type[Core]:
    patch.setattr(Bundles, "hand_back", lambda self, nodes: None)
    return Core


# -- retries ----------------------------------------------------------------------------------------------


@mutant
def has_volatile_attempts(patch: pytest.MonkeyPatch) -> type[Core]:
    """Batches never say what was tried before."""

    class Mutated(_Reordered):
        def tamper(self, commands: list[ev.Command]) -> list[ev.Command]:
            return [
                replace(command, tries=tuple(None for _ in command.tries))
                if isinstance(command, ev.SubmitBatch)
                else command
                for command in commands
            ]

    return Mutated


@mutant
def sets_no_timer(patch: pytest.MonkeyPatch) -> type[Core]:
    class Mutated(Core):
        def _set_timer(self) -> None:
            pass

    return Mutated


@mutant
def retries_too_early(patch: pytest.MonkeyPatch) -> type[Core]:
    class Mutated(Core):
        def _release_due(self) -> None:
            while self._retries:
                _, _, node, indices = heapq.heappop(self._retries)
                self._run_again(node, indices, Code.AWAITING_RETRY)

    return Mutated


@mutant
def queues_an_item_twice(patch: pytest.MonkeyPatch) -> type[Core]:
    """An item that waits in a queue looks as if it did not."""
    patch.setattr(Queues, "_mark", lambda self, nodes, indices: self._unmark(nodes, indices))
    return Core


@mutant
def never_resumes(patch: pytest.MonkeyPatch) -> type[Core]:
    class Mutated(Core):
        def _resume(self, event: ev.ResumeRequested) -> None:
            pass

    return Mutated


# -- what depends on what ---------------------------------------------------------------------------------


@mutant
def starts_before_inputs(patch: pytest.MonkeyPatch) -> type[Core]:
    """A gather does not wait for all items."""

    class Mutated(Core):
        def _connect(self, stage: Stage, upstream: NodeBook, kind: DepKind, index: int | None) -> None:
            if kind is not DepKind.GATHER:
                super()._connect(stage, upstream, kind, index)

    return Mutated


@mutant
def runs_lanes_whose_input_failed(patch: pytest.MonkeyPatch) -> type[Core]:
    patch.setattr(opening, "_all_succeeded", lambda book, indices: True)
    return Core


@mutant
def lets_skip_beat_failure(patch: pytest.MonkeyPatch) -> type[Core]:
    judge = lanes._judge_item

    def hasty(*arguments: Any) -> Verdict:
        verdict = judge(*arguments)
        return Verdict.SKIP if verdict is Verdict.WAIT else verdict

    patch.setattr(lanes, "_judge_item", hasty)
    return Core


@mutant
def feeds_a_stage_twice(patch: pytest.MonkeyPatch) -> type[Core]:
    """Items that end while a stage opens are counted by both."""
    original = outcomes.set_items

    def telling_all(run: RunState, book: NodeBook, indices: Sequence[int], *rest: Any) -> None:
        original(run, book, indices, *rest)
        ended = [i for i in indices if book.states[i] in SUCCESS_BYTES]
        run.notices.extend(
            ItemsEndedUpstream(stage, book, ended) for stage in book.streams if not stage.is_open
        )

    patch.setattr(core_module, "set_items", telling_all)
    meet = opening.Opener.meet
    patch.setattr(
        opening.Opener,
        "meet",
        lambda self, stage, indices: meet(self, stage, indices) if stage.is_open else None,
    )
    return Core


@mutant
def writes_states_out_of_order(patch: pytest.MonkeyPatch) -> type[Core]:
    """Indices whose ends are as far apart as they are many are taken for a range."""
    original = outcomes.set_items

    def careless(run: RunState, book: NodeBook, indices: Sequence[int], *rest: Any) -> None:
        if len(indices) and indices[-1] + 1 - indices[0] == len(indices):
            indices = range(indices[0], indices[-1] + 1)
        original(run, book, indices, *rest)

    patch.setattr(core_module, "set_items", careless)
    return Core


@mutant
def zips_to_the_shortest(patch: pytest.MonkeyPatch) -> type[Core]:
    patch.setattr(opening, "_has_conflict", lambda stage: False)
    return Core


@mutant
def fuses_whatever_the_trigger(patch: pytest.MonkeyPatch) -> type[Core]:
    """A node whose trigger is its own is decided by the worker, as if it had none."""
    join = plan.stage_to_join

    def careless(node: Any, books: Any) -> Stage | None:
        return join(replace(node, trigger=all_successful), books)

    patch.setattr(core_module, "stage_to_join", careless)
    return Core


@mutant
def grafts_always_succeed(patch: pytest.MonkeyPatch) -> type[Core]:
    class Mutated(Core):
        def _root_ended(self, node: int, index: int, root: NodeBook) -> None:
            final, root.final = root.final, int(Code.COMPLETED)
            super()._root_ended(node, index, root)
            root.final = final

    return Mutated


@mutant
def loses_notices(patch: pytest.MonkeyPatch) -> type[Core]:
    """The end of a fragment is never passed on."""

    class Mutated(Core):
        def _work_off(self) -> None:
            notices = [each for each in self.run.notices if not isinstance(each, RootEnded)]
            self.run.notices.clear()
            self.run.notices.extend(notices)
            super()._work_off()

    return Mutated


# -- throttle, stop, and failures that pass unseen --------------------------------------------------------


@mutant
def ignores_capacity(patch: pytest.MonkeyPatch) -> type[Core]:
    dispatch = Queues.dispatch

    def greedy(self: Queues) -> None:
        capacity = self._run.capacity
        self._run.capacity = replace(capacity, slots=capacity.slots + 3)
        dispatch(self)
        self._run.capacity = capacity

    patch.setattr(Queues, "dispatch", greedy)
    return Core


@mutant
def ignores_batch_size(patch: pytest.MonkeyPatch) -> type[Core]:
    class Mutated(Core):
        def _new_stage(self, node: Any) -> Stage:
            return super()._new_stage(replace(node, batch_size=None))

    return Mutated


@mutant
def goes_on_after_a_stop(patch: pytest.MonkeyPatch) -> type[Core]:
    class Mutated(Core):
        def _stop(self, event: ev.StopRequested) -> None:
            self.run.commands.append(ev.StopBatches(hard=event.hard))

    return Mutated


@mutant
def leaves_stopped_items_open(patch: pytest.MonkeyPatch) -> type[Core]:
    """What a batch gave back unfinished after a stop is never ended."""

    class Mutated(Core):
        def _report(self, report: Report) -> None:
            stopping, self._quiet = self.is_stopping, True
            super()._report(report)
            self._quiet = not stopping

        def _cancel(self, book: NodeBook, indices: Sequence[int]) -> None:
            if not getattr(self, "_quiet", False):
                super()._cancel(book, indices)

    return Mutated


@mutant
def counts_failures_as_handled(patch: pytest.MonkeyPatch) -> type[Core]:
    """Whatever fails upstream of a node that was recorded is taken for seen."""

    class Mutated(Core):
        def _check_finish(self) -> None:
            for book in self.books.values():
                for dep in book.node.deps:
                    if self.books[dep.upstream].failed_count():
                        hand_over(self.books, dep.upstream, None)
            super()._check_finish()

    return Mutated


@mutant
def forgets_that_failures_were_seen(patch: pytest.MonkeyPatch) -> type[Core]:
    patch.setattr(queues, "hand_over_inputs", lambda books, book: None)
    return Core


# -- the options of maps, and reports in parts -----------------------------------------------------------------


@mutant
def ignores_max_concurrency(patch: pytest.MonkeyPatch) -> type[Core]:
    limit = limits.limit_stage

    def careless(stage: Stage, of: Any) -> None:
        limit(stage, of)
        stage.max_concurrency = None

    patch.setattr(core_module, "limit_stage", careless)
    return Core


@mutant
def deals_a_starting_slot_out_twice(patch: pytest.MonkeyPatch) -> type[Core]:
    """Each batch gets slots from now on, whatever others have."""
    reserve = Pacer.reserve

    def careless(self: Pacer, *, now: float, count: int) -> Reservation:
        self._next = [now for _ in self._next]
        return reserve(self, now=now, count=count)

    patch.setattr(Pacer, "reserve", careless)
    return Core


@mutant
def forgets_reserved_slots_when_a_rate_changes(patch: pytest.MonkeyPatch) -> type[Core]:
    def careless(self: Pacer, *, rate: float, lanes: int, now: float) -> Pacer:
        same = (rate, lanes) == (self.rate, self.lanes)
        return self if same else Pacer(rate=rate, lanes=lanes, now=now)

    patch.setattr(Pacer, "changed", careless)
    return Core


@mutant
def never_ends_a_map_early(patch: pytest.MonkeyPatch) -> type[Core]:
    patch.setattr(outcomes, "check_tolerance", lambda run, book: None)
    patch.setattr(core_module, "check_tolerance", lambda run, book: None)
    return Core


@mutant
def ends_a_map_at_its_first_failure(patch: pytest.MonkeyPatch) -> type[Core]:
    patch.setattr(
        NodeBook, "has_exceeded", lambda self: self.map_options.can_halt and self.root_failures() > 0
    )
    return Core


@mutant
def fails_what_needs_a_tolerated_failure(patch: pytest.MonkeyPatch) -> type[Core]:
    patch.setattr(lanes, "_without_tolerated", lambda dep, counts, books: counts)
    return Core


@mutant
def sends_again_what_a_batch_still_holds(patch: pytest.MonkeyPatch) -> type[Core]:
    """A report in two parts is taken for the whole."""

    class Mutated(Core):
        def _report(self, report: Report) -> None:
            super()._report(replace(report, held=()))

    return Mutated


@mutant
def takes_the_first_positions_for_those_that_were_named(patch: pytest.MonkeyPatch) -> type[Core]:
    class Mutated(Core):
        def _report(self, report: Report) -> None:
            if report.positions is not None:
                report = replace(report, positions=range(report.reached))
            super()._report(report)

    return Mutated


@mutant
def leaves_halted_items_open(patch: pytest.MonkeyPatch) -> type[Core]:
    """What comes back of a map that ended early is never ended."""
    patch.setattr(Halter, "reopen", lambda self, stage, indices: None)
    return Core


# -- limits and rates that runs share ----------------------------------------------------------------------------


@mutant
def ignores_what_it_was_granted(patch: pytest.MonkeyPatch) -> type[Core]:
    patch.setattr(Grants, "room", lambda self, stage: None)
    return Core


@mutant
def counts_no_batch_under_way(patch: pytest.MonkeyPatch) -> type[Core]:
    patch.setattr(Grants, "take", lambda self, flight, items: None)
    return Core


@mutant
def counts_each_item_once_whatever_it_weighs(patch: pytest.MonkeyPatch) -> type[Core]:
    take = Grants.take

    def careless(self: Grants, flight: Flight, items: int) -> None:
        take(self, replace(flight, limits=dict.fromkeys(flight.limits, 1)), items)

    patch.setattr(Grants, "take", careless)
    return Core


@mutant
def keeps_the_slots_of_batches_that_ended(patch: pytest.MonkeyPatch) -> type[Core]:
    take = Grants.take
    patch.setattr(Grants, "take", lambda self, flight, items: take(self, flight, max(0, items)))
    return Core


@mutant
def takes_a_grant_for_each_map(patch: pytest.MonkeyPatch) -> type[Core]:
    """Nodes with one limit do not see each other's batches."""

    def alone(self: Grants, stage: Stage) -> int | None:
        rooms = [
            size // stage.limits[name] - stage.running
            for name, size in self.slots.items()
            if name in stage.limits
        ]
        return min(rooms, default=None)

    patch.setattr(Grants, "room", alone)
    return Core


@mutant
def goes_on_as_before_when_a_limit_is_made_smaller(patch: pytest.MonkeyPatch) -> type[Core]:
    change = Grants.change

    def careless(self: Grants, slots: Any, rates: Any) -> set[str]:
        return change(self, {name: max(size, self.slots.get(name, 0)) for name, size in slots.items()}, rates)

    patch.setattr(Grants, "change", careless)
    return Core


@mutant
def uses_a_shared_starting_slot_twice(patch: pytest.MonkeyPatch) -> type[Core]:
    reserve = DealtPacer.reserve

    def careless(self: DealtPacer, *, now: float, count: int) -> Reservation:
        lots = list(self._lots)
        found = reserve(self, now=now, count=count)
        self._lots = lots
        return found

    patch.setattr(DealtPacer, "reserve", careless)
    return Core


@mutant
def begins_before_its_shared_slot(patch: pytest.MonkeyPatch) -> type[Core]:
    reserve = DealtPacer.reserve

    def careless(self: DealtPacer, *, now: float, count: int) -> Reservation:
        return replace(reserve(self, now=now, count=count), delay=0.0)

    patch.setattr(DealtPacer, "reserve", careless)
    return Core


@mutant
def asks_once_for_slots_that_were_not_to_be_had(patch: pytest.MonkeyPatch) -> type[Core]:
    class Mutated(Core):
        def _deal(self, event: ev.SlotsReserved) -> None:
            if event.count:
                super()._deal(event)

    return Mutated


# -- maps that are read while they run ------------------------------------------------------------------------


@mutant
def pulls_beyond_what_the_reader_wants(patch: pytest.MonkeyPatch) -> type[Core]:
    patch.setattr(Streams, "_is_alone", lambda self, reader: False)
    return Core


@mutant
def lets_a_reader_hold_up_others(patch: pytest.MonkeyPatch) -> type[Core]:
    patch.setattr(Streams, "_is_alone", lambda self, reader: not reader.is_lifted)
    return Core


@mutant
def lets_a_reader_hold_up_who_waits_for_all(patch: pytest.MonkeyPatch) -> type[Core]:
    patch.setattr(Streams, "needed", lambda self, event: None)
    return Core


@mutant
def goes_on_when_its_reader_has_left(patch: pytest.MonkeyPatch) -> type[Core]:
    patch.setattr(Streams, "closed", lambda self: None)
    return Core


# -- calls that are made for their effect ----------------------------------------------------------------------


@mutant
def runs_beside_an_effect(patch: pytest.MonkeyPatch) -> type[Core]:
    class Mutated(Core):
        def _connect(self, stage: Stage, upstream: NodeBook, kind: DepKind, index: int | None) -> None:
            if kind is not DepKind.AFTER:
                super()._connect(stage, upstream, kind, index)

    return Mutated


@mutant
def goes_on_after_an_effect_that_failed(patch: pytest.MonkeyPatch) -> type[Core]:
    judge = lanes._judge
    patch.setattr(
        lanes,
        "_judge",
        lambda trigger, parts, books: judge(
            trigger, [part for part in parts if part[0].kind is not DepKind.AFTER], books
        ),
    )
    return Core


@mutant
def asks_triggers_about_effects(patch: pytest.MonkeyPatch) -> type[Core]:
    part = lanes._part

    def ordered(dep: Any, *rest: Any) -> Any:
        return part(replace(dep, kind=DepKind.ORDER) if dep.kind is DepKind.AFTER else dep, *rest)

    patch.setattr(lanes, "_part", ordered)
    return Core


# -- and each is found --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_bug_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make_core = MUTANTS[name](monkeypatch)
    with pytest.raises(Violation, match=r"^seed \d+, after"):
        for seed in range(ENOUGH_SEEDS):
            simulate(seed, make_core=make_core)
