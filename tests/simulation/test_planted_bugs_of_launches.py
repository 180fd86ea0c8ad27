"""Planted bugs in what makes runs durable. The simulation of launches is worth its time if it finds them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from graphflow.core import events as ev
from graphflow.core.core import Core
from graphflow.core.nodes import NodeBook, Past, Stage
from graphflow.core.queues import Queues
from graphflow.core.restoring import Restorer
from graphflow.driver.bookkeeping import Bookkeeper
from graphflow.driver.lineage import Lineage
from graphflow.driver.recovery import Recovery
from graphflow.driver.turns import Turns
from graphflow.errors import LeaseLost
from graphflow.graph.graph import DepKind, Node
from graphflow.histories.volatile import VolatileWriter
from graphflow.ports import Capacity
from graphflow.records.item_index import NodeHistory
from graphflow.records.replayed_node import ReplayedNode
from simulator.launches import live
from simulator.ledger import Violation
from simulator.simulated_results import VolatileStore

ENOUGH_SEEDS = 2_500
FOUND_BY = {
    "believes_reports_of_dead_drivers": [218],
    "believes_the_width_of_an_earlier_launch": [2375],
    "keeps_what_was_made_of_something_else": [247],
    "reads_columns_that_are_damaged": [1907],
    "takes_items_over_whose_fragment_failed": [637],
    "takes_over_values_that_were_never_kept": [1156],
}
"""Seeds that found a bug when this was written, tried first: rare bugs take long to be found from 0 on."""
Mutant = Callable[[pytest.MonkeyPatch], Callable[..., Core]]
MUTANTS: dict[str, Mutant] = {}


def mutant(plant: Callable[[pytest.MonkeyPatch], None]) -> Callable[[pytest.MonkeyPatch], None]:
    def planted(patch: pytest.MonkeyPatch) -> Callable[..., Core]:
        plant(patch)
        return Core

    MUTANTS[plant.__name__] = planted
    return plant


# -- the history ----------------------------------------------------------------------------------------------


@mutant
def no_fence(patch: pytest.MonkeyPatch) -> None:
    """A driver that another took the run from goes on to write."""
    patch.setattr(VolatileWriter, "_check_fence", lambda self, mine: None)


@mutant
def publishes_late(patch: pytest.MonkeyPatch) -> None:
    """A pack is there when the next one is written."""
    waiting: dict[str, bytes] = {}

    def publish(self: VolatileStore, name: str, parts: Sequence[bytes]) -> int:
        self.objects.update(waiting)
        waiting.clear()
        waiting[name] = b"".join(parts)
        return len(waiting[name])

    patch.setattr(VolatileStore, "publish", publish)


@mutant
def announces_before_commit(patch: pytest.MonkeyPatch) -> None:
    """What is booked in a turn is committed with the next one."""
    commit = Bookkeeper.commit

    def lagging(self: Bookkeeper) -> None:
        now = self._records
        self._records = self.__dict__.get("late", [])
        self.__dict__["late"] = now
        commit(self)

    patch.setattr(Bookkeeper, "commit", lagging)


@mutant
def tells_although_it_could_not_commit(patch: pytest.MonkeyPatch) -> None:
    commit = Bookkeeper.commit

    def careless(self: Bookkeeper) -> None:
        try:
            commit(self)
        except LeaseLost:
            self._records = []

    patch.setattr(Bookkeeper, "commit", careless)


@mutant
def applies_a_report_twice(patch: pytest.MonkeyPatch) -> None:
    reported = Bookkeeper.reported

    def twice(self: Bookkeeper, *given: Any) -> None:
        reported(self, *given)
        reported(self, *given)

    patch.setattr(Bookkeeper, "reported", twice)


@mutant
def never_notices_lost_batches(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Queues, "lost", lambda self, event: None)


@mutant
def notes_no_batch_before_it_is_sent(patch: pytest.MonkeyPatch) -> None:
    commanded = Bookkeeper.commanded

    def silent(self: Bookkeeper, command: ev.Command, core: Core) -> None:
        if not isinstance(command, ev.SubmitBatch):
            commanded(self, command, core)

    patch.setattr(Bookkeeper, "commanded", silent)


@mutant
def forgets_ends_that_no_report_told(patch: pytest.MonkeyPatch) -> None:
    commanded = Bookkeeper.commanded

    def silent(self: Bookkeeper, command: ev.Command, core: Core) -> None:
        if not isinstance(command, ev.ItemsEnded):
            commanded(self, command, core)

    patch.setattr(Bookkeeper, "commanded", silent)


@mutant
def numbers_nodes_anew(patch: pytest.MonkeyPatch) -> None:
    """Each launch counts its nodes from 0."""
    patch.setattr(Recovery, "numbers", property(lambda self: {}))


# -- batches of other launches -------------------------------------------------------------------------------------


def believes_reports_of_dead_drivers(patch: pytest.MonkeyPatch) -> Callable[..., Core]:
    """Batches are numbered from 1 in each launch."""

    def make_core(*, capacity: Capacity, batches: int) -> Core:
        return Core(capacity=capacity)

    return make_core


MUTANTS["believes_reports_of_dead_drivers"] = believes_reports_of_dead_drivers


# -- what is taken over -------------------------------------------------------------------------------------------


@mutant
def ignores_what_is_left(patch: pytest.MonkeyPatch) -> None:
    recorded = Turns.recorded

    def nothing(self: Turns, *given: Any) -> Mapping[int, Past]:
        recorded(self, *given)
        return {}

    patch.setattr(Turns, "recorded", nothing)


@mutant
def forgets_a_success(patch: pytest.MonkeyPatch) -> None:
    """The last item of a node is never taken over."""
    made = Recovery._made

    def forgetful(self: Recovery, node: Node, known: ReplayedNode) -> Past:
        past = made(self, node, known)
        if len(past.states) > 2:
            past.states[-1] = 0
        return past

    patch.setattr(Recovery, "_made", forgetful)


@mutant
def has_volatile_attempts(patch: pytest.MonkeyPatch) -> None:
    """Each launch begins with all attempts."""
    patch.setattr(Restorer, "_keep_attempts", staticmethod(lambda *given: 0))


@mutant
def runs_again_what_it_took_over(patch: pytest.MonkeyPatch) -> None:
    take = Restorer.take

    def greedy(self: Restorer, stage: Stage, indices: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
        take(self, stage, indices)
        return indices, ()

    patch.setattr(Restorer, "take", greedy)


@mutant
def takes_over_values_that_are_gone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        Recovery,
        "_valued",
        lambda self, known, states: bytearray(bytes([Past.THERE])) * len(states),
    )


@mutant
def takes_over_values_that_were_never_kept(patch: pytest.MonkeyPatch) -> None:
    """Whatever is not stored is taken for unneeded."""
    patch.setattr(Restorer, "_unneeded", lambda self, book, indices, known: (1 << 8 * len(indices)) - 1)
    patch.setattr(ReplayedNode, "missing", lambda self, is_whole=True: set())


@mutant
def reads_columns_that_are_damaged(patch: pytest.MonkeyPatch) -> None:
    """Items without a value stand in them too."""
    patch.setattr(NodeHistory, "forget", lambda self, is_lost: None)


@mutant
def drops_what_the_next_batch_of_a_lane_needs(patch: pytest.MonkeyPatch) -> None:
    def by_stage(self: Queues, nodes: Sequence[int], book: NodeBook) -> bool:
        members = book.stage.members
        return (
            len(members) == 1
            or not self._run.is_closed
            or not book.users
            or any(kind is not DepKind.ITEMS or user not in members for user, kind, _ in book.users)
        )

    patch.setattr(Queues, "_is_needed_outside", by_stage)


@mutant
def knows_no_width_of_what_stands_in(patch: pytest.MonkeyPatch) -> None:
    """What is mapped over a value that another node gave finds nothing to map over."""
    patch.setattr(Recovery, "_info", lambda self, known: known.info)


@mutant
def takes_items_over_whose_fragment_failed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Recovery, "_unfinished", lambda self, known: set())


@mutant
def cancels_what_had_ended(patch: pytest.MonkeyPatch) -> None:
    """A run that stops early forgets what it had not looked at yet."""
    patch.setattr(Restorer, "stop", lambda self, book, under_way=(): None)


# -- what runs anew -----------------------------------------------------------------------------------------------


@mutant
def keeps_what_was_made_of_something_else(patch: pytest.MonkeyPatch) -> None:
    """Only the item itself runs anew, not what depends on it."""
    patch.setattr(Lineage, "take_back", lambda self, number, indices, is_changed: self._void(number, indices))


@mutant
def takes_back_in_memory_alone(patch: pytest.MonkeyPatch) -> None:
    """The next launch does not know what this one meant to run anew."""

    def nothing(self: Bookkeeper, number: int, indices: Sequence[int]) -> None:
        pass

    patch.setattr(Bookkeeper, "taken_back", nothing)


@mutant
def compares_no_inputs(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Recovery, "_compared", lambda self, node, known: ())


@mutant
def believes_the_width_of_an_earlier_launch(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Recovery, "width_known", lambda self, node, width: None)
    patch.setattr(Restorer, "open", lambda self, stage: None)


@mutant
def keeps_what_was_to_run_again(patch: pytest.MonkeyPatch) -> None:
    changed = Recovery._changed

    def unselected(self: Recovery, node: Node, known: ReplayedNode) -> Sequence[int]:
        selections, self._selections = self._selections, {}
        try:
            return changed(self, node, known)
        finally:
            self._selections = selections

    patch.setattr(Recovery, "_changed", unselected)


@mutant
def keeps_failures_for_good(patch: pytest.MonkeyPatch) -> None:
    """What failed is not tried again by a later launch."""
    from graphflow.driver import recovery

    patch.setattr(recovery, "_KEPT", recovery._KEPT_FAILURES)


# -- and each is found ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_bug_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make_core = MUTANTS[name](monkeypatch)
    with pytest.raises(Violation, match=r"^live\(\d+\) in launch"):
        for seed in (*FOUND_BY.get(name, ()), *range(ENOUGH_SEEDS)):
            live(seed, make_core=make_core)
