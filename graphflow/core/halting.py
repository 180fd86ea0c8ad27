"""Maps that end early, because more of their items failed than they allow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graphflow.core import events as ev
from graphflow.core.nodes import Flight, NodeBook, Stage, chosen, codes_at
from graphflow.core.opening import Opener
from graphflow.core.outcomes import end_if_complete, end_items, set_width
from graphflow.core.queues import Queues
from graphflow.core.state import LanesOpen, RunState
from graphflow.graph.graph import DepKind
from graphflow.model.policies import all_successful
from graphflow.model.states import Code

__all__ = ["Halter"]

_WAITING = (Code.PENDING, Code.AWAITING_RETRY, Code.PAUSED)


class Halter:
    """Ends what has not begun of a map; what is under way ends as it will.

    Parameters
    ----------
    run
        The run's state.
    queues, opener
        Where the rest of the stage continues: nodes that do not need the map are not affected.
    """

    def __init__(self, run: RunState, queues: Queues, opener: Opener) -> None:
        self._run = run
        self._queues = queues
        self._opener = opener

    def halt(self, book: NodeBook) -> None:
        """Start nothing more of a map: it ends Failed once its running items have ended. O(items)."""
        run, stage = self._run, book.stage
        if book.is_final or run.is_stopping:
            return
        waiting = self._queues.empty(stage)
        self._keep(stage)
        self._cut_short(stage)
        under_way = [flight for flight in run.flights.values() if book.node.id in flight.nodes]
        rest = _not_begun(book, under_way)
        end_items(run, book, rest, Code.CANCELLED)
        self._go_on(stage, book, rest, waiting)
        end_if_complete(run, book)

    def _go_on(
        self, stage: Stage, book: NodeBook, rest: Sequence[int], waiting: Sequence[Sequence[int]]
    ) -> None:
        """Continue the other members of the stage: those that need the map fail with it, the others run."""
        others = [self._run.books[member] for member in stage.members if member != book.node.id]
        needs = {book.node.id}
        for other in others:
            if other.node.trigger is all_successful and any(
                dep.kind is DepKind.ITEMS and dep.upstream in needs for dep in other.node.deps
            ):
                needs.add(other.node.id)
        if len(needs) == len(stage.members) and stage.leader == book.node.id:
            # A chain that begins with the map, the usual case: no item of it needs a look of its own.
            for other in others:
                open_items = chosen(rest, codes_at(other.states, rest), (Code.PENDING,))
                end_items(self._run, other, open_items, Code.UPSTREAM_FAILED)
        elif others:
            self._opener.continue_lanes(stage, sorted({*rest, *(i for part in waiting for i in part)}))

    def _keep(self, stage: Stage) -> None:
        """Keep outcomes of earlier launches as they were, also of items that were not ready yet."""
        for member in stage.members:
            book = self._run.books[member]
            flights = [flight for flight in self._run.flights.values() if member in flight.nodes]
            under_way = {index for flight in flights for index in flight.out()} if book.past else ()
            # Without a width, what no iterator gave in this launch is nothing to it.
            below = len(book.states) if stage.width is None else None
            self._opener.restorer.keep(book, under_way, below=below)

    def _cut_short(self, stage: Stage, *, is_wanted: bool = False) -> None:
        """Stop reading iterators and set the width to what they yielded; return whether that is as wanted."""
        run, leader = self._run, self._run.leader_of(stage)
        for slot in stage.pulled:
            if slot not in stage.exhausted:
                stage.exhausted |= {slot}
                run.commands.append(ev.CloseSource(node=leader.node.id, slot=slot))
        if stage.pulled and stage.undecided:
            stage.cut_at = min(stage.pulled.values())
        elif stage.width is None and stage.pulled:
            stage.width = len(leader.states)
            for member in stage.members:
                book = run.books[member]
                book.is_cut_short = not is_wanted
                set_width(run, book, stage.width)
            for member in stage.members:
                end_if_complete(run, run.books[member])

    def abandon(self, stage: Stage) -> None:
        """Cancel the items of a map over an iterator that have not started, as nothing needs them.

        If the iterator has given all it has (or there is none), the few items that are left run.
        """
        run = self._run
        has_more = len(stage.exhausted) < len(stage.pulled)
        if run.is_stopping or not has_more or run.leader_of(stage).is_final:
            return
        waiting = self._queues.empty(stage)
        self._keep(stage)
        self._cut_short(stage, is_wanted=True)
        under_way = [flight for flight in run.flights.values() if flight.stage is stage]
        stage.is_halted = True
        for member in stage.members:
            book = run.books[member]
            book.wanted_below = stage.taken_below
            rest = _not_begun(book, under_way, start=stage.taken_below)
            end_items(run, book, rest, Code.CANCELLED)
        taken = [index for part in waiting for index in part if index < stage.taken_below]
        if taken:
            run.notices.append(LanesOpen(stage, taken))
        for member in stage.members:
            end_if_complete(run, run.books[member])

    def reopen(self, stage: Stage, indices: Sequence[int]) -> None:
        """Handle items that came back from a batch: those of a halted member end, the others continue."""
        if self._run.is_stopping:
            return
        for member in stage.members:
            book = self._run.books[member]
            given_up = [i for i in indices if book.states[i] == Code.PENDING and book.is_given_up(i)]
            end_items(self._run, book, given_up, Code.CANCELLED)
        self._opener.continue_lanes(stage, indices)


def _not_begun(book: NodeBook, under_way: Iterable[Flight], *, start: int = 0) -> Sequence[int]:
    """Return the items of a node, from `start` on, that wait and are in none of these batches."""
    codes = bytearray(book.states)
    for flight in under_way:
        for index in flight.out():
            codes[index] = Code.RUNNING
    return chosen(range(start, len(codes)), bytes(codes[start:]), _WAITING)
