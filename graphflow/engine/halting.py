"""Maps that end early, because more of their items failed than they allow."""

from __future__ import annotations

from collections.abc import Sequence

from graphflow.engine import events as ev
from graphflow.engine.books import NodeBook, Stage
from graphflow.engine.opening import Opener
from graphflow.engine.outcomes import end_if_complete, end_items, set_width
from graphflow.engine.queues import Dispatcher
from graphflow.engine.state import LanesOpen, RunState
from graphflow.graph import DepKind
from graphflow.policies import all_successful
from graphflow.states import FINAL_CODES, Code

__all__ = ["Halter"]

_WAITING = bytes(code in (Code.PENDING, Code.AWAITING_RETRY, Code.PAUSED) for code in range(256))


class Halter:
    """Ends what has not begun of a map; what is under way ends as it will.

    Parameters
    ----------
    run
        The run's state.
    dispatcher, opener
        Where the rest of the stage goes on: nodes that do not need the map are not touched.
    """

    def __init__(self, run: RunState, dispatcher: Dispatcher, opener: Opener) -> None:
        self._run = run
        self._dispatcher = dispatcher
        self._opener = opener

    def halt(self, book: NodeBook) -> None:
        """Nothing more of a map is begun: it ends Failed once what is under way has ended. O(items)."""
        run, stage = self._run, book.stage
        if book.is_final or run.is_stopping:
            return
        waiting = self._dispatcher.empty(stage)
        self._cut_short(stage)
        is_waiting = bytearray(book.states.translate(_WAITING))
        for flight in run.flights.values():
            if book.node.id in flight.nodes:
                for index in flight.out():
                    is_waiting[index] = 0
        rest = _marked(is_waiting)
        end_items(run, book, rest, Code.CANCELLED)
        self._go_on(stage, book, rest, waiting)
        end_if_complete(run, book)

    def _go_on(
        self, stage: Stage, book: NodeBook, rest: Sequence[int], waiting: Sequence[Sequence[int]]
    ) -> None:
        """The other members of the stage: those that need the map fail with it, the others run."""
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
                open_items = [i for i in rest if other.states[i] == Code.PENDING]
                end_items(self._run, other, open_items, Code.UPSTREAM_FAILED)
        elif others:
            self._opener.continue_lanes(stage, sorted({*rest, *(i for part in waiting for i in part)}))

    def _cut_short(self, stage: Stage, *, is_wanted: bool = False) -> None:
        """Iterators are asked for nothing more, and the width is what they gave so far; whether that is as wanted."""
        run, leader = self._run, self._run.leader_of(stage)
        for slot in stage.pulled:
            if slot not in stage.exhausted:
                stage.exhausted.add(slot)
                run.commands.append(ev.CloseSource(node=leader.node.id, slot=slot))
        if stage.width is None and stage.pulled and not stage.undecided:
            stage.width = len(leader.states)
            for member in stage.members:
                book = run.books[member]
                book.is_cut_short = not is_wanted
                set_width(run, book, stage.width)
            for member in stage.members:
                end_if_complete(run, run.books[member])

    def abandon(self, stage: Stage) -> None:
        """Nobody wants more of a map over an iterator: what has not begun of it is cancelled.

        If the iterator has given all it has, the few items that are left run.
        """
        run = self._run
        if run.is_stopping or len(stage.exhausted) == len(stage.pulled):
            return
        waiting = self._dispatcher.empty(stage)
        self._cut_short(stage, is_wanted=True)
        under_way = {
            index for flight in run.flights.values() if flight.stage is stage for index in flight.out()
        }
        stage.is_halted = True
        for member in stage.members:
            book = run.books[member]
            is_waiting = bytearray(book.states.translate(_WAITING))
            is_waiting[: stage.taken_below] = bytes(len(is_waiting[: stage.taken_below]))
            for index in under_way:
                is_waiting[index] = 0
            book.wanted_below = stage.taken_below
            end_items(run, book, _marked(is_waiting), Code.CANCELLED)
        taken = [index for part in waiting for index in part if index < stage.taken_below]
        if taken:
            run.notices.append(LanesOpen(stage, taken))
        for member in stage.members:
            end_if_complete(run, run.books[member])

    def reopen(self, stage: Stage, indices: Sequence[int]) -> None:
        """Items that came back from a batch: those of a halted member end, the others go on."""
        if self._run.is_stopping:
            return
        for member in stage.members:
            book = self._run.books[member]
            given_up = [i for i in indices if book.states[i] == Code.PENDING and book.is_given_up(i)]
            end_items(self._run, book, given_up, Code.CANCELLED)
        self._opener.continue_lanes(stage, [i for i in indices if self._is_open(stage, i)])

    def _is_open(self, stage: Stage, index: int) -> bool:
        return any(self._run.books[member].states[index] not in FINAL_CODES for member in stage.members)


def _marked(mask: bytearray) -> Sequence[int]:
    """The places where a mask is 1, as a range where they are one."""
    count = mask.count(1)
    if not count:
        return ()
    first, last = mask.find(1), mask.rfind(1)
    if last - first + 1 == count:
        return range(first, last + 1)
    return [index for index, flag in enumerate(mask) if flag]
