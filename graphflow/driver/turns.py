"""One turn of a driver: what happened goes to the core, what that commands is booked and committed, and only then told.

Whatever performs commands gets them from `commit` alone, so nothing can be told before it is durable.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from graphflow.core import events as ev
from graphflow.core.core import Core
from graphflow.core.nodes import Past
from graphflow.driver.bookkeeping import Bookkeeper
from graphflow.driver.recovery import Recovery
from graphflow.graph.graph import Node
from graphflow.model.orders import Ref
from graphflow.model.states import FINAL_CODES
from graphflow.ports import BatchLost
from graphflow.records.item_index import MemoryHistory

__all__ = ["Turns"]


class Turns:
    """The books of one run in memory and, where it is durable, those that outlive its driver.

    Parameters
    ----------
    core
        Decides what follows from an event.
    history
        What is known of the run's items, in memory.
    column
        Reads a column of labels.
    books
        What makes the run durable; None for a run that is kept in memory alone.
    recovery
        What earlier launches of the run left.
    wall
        The time of what is noted, in seconds since the epoch.
    """

    def __init__(
        self,
        core: Core,
        history: MemoryHistory,
        *,
        column: Callable[[Ref], list[Any]],
        books: Bookkeeper | None = None,
        recovery: Recovery | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._core = core
        self._history = history
        self._column = column
        self._books = books
        self._recovery = recovery
        self._wall = wall
        self._booked: list[ev.Command] = []

    # -- events -----------------------------------------------------------------------------------------

    def handle(self, event: ev.Event, now: float) -> Sequence[ev.Command]:
        """Hand an event to the core, and book what it commands; nothing follows the run's end."""
        if self._core.is_finished:
            return ()
        commands = self._core.handle(event, now)
        for command in commands:
            self._book(command)
        self._booked += commands
        return commands

    def lost(self, event: BatchLost, now: float) -> Sequence[ev.Command]:
        """Apply the loss of a batch."""
        if self._books is not None and event.batch in self._core.flights:
            self._books.lost(event.batch, event.executing, event.reason)
        return self.handle(
            ev.BatchWasLost(batch=event.batch, executing=event.executing, had_started=event.had_started), now
        )

    def recorded(self, nodes: Sequence[Node], parent: tuple[int, int] | None = None) -> Mapping[int, Past]:
        """Add recorded nodes; return what earlier launches of the run left of them.

        Parameters
        ----------
        parent
            The (node, item) whose task recorded them.
        """
        pasts: dict[int, Past] = {}
        recovery = self._recovery
        for node in nodes:
            past = None if recovery is None else recovery.past_of(node, parent is not None)
            if past is not None and recovery is not None:
                pasts[node.id] = past
                self._history.nodes[node.id] = recovery.history_of(node)
        if self._books is not None:
            self._books.recorded(nodes, parent)
        self._take_back()
        return pasts

    def renewed(self, nodes: Sequence[Node]) -> Sequence[Node]:
        """Return the nodes with what was changed of them while an earlier launch of the run went on."""
        recovery = self._recovery
        return nodes if recovery is None else [recovery.changed(node) for node in nodes]

    def check_source(
        self, node: Node, slot: int, start: int, values: Sequence[Any], *, has_ended: bool
    ) -> None:
        """Check that an iterator yields the same items as in earlier launches.

        Raises
        ------
        SourceChanged
            At the first one that differs.
        """
        if self._recovery is not None:
            self._recovery.check_source(node, slot, start, values, has_ended=has_ended)
            self._take_back()

    def _take_back(self) -> None:
        """Record items that ended before and run again, before any of them runs."""
        if self._recovery is not None and self._books is not None:
            for number, indices in self._recovery.taken_back():
                self._books.taken_back(number, indices)

    # -- books ------------------------------------------------------------------------------------------

    def _book(self, command: ev.Command) -> None:
        """Apply a command, in memory and in what is committed next."""
        history, books, recovery = self._history, self._books, self._recovery
        if isinstance(command, ev.CommitReport):
            history.commit(command.report, command.indices)
            if books is not None:
                books.reported(command.report, command.indices, self._column)
            return
        if isinstance(command, ev.ItemsEnded):
            history.ended(command.node, command.indices, self._wall())
        elif isinstance(command, ev.NodeChanged):
            history.node_changed(command.node, command.code, self._wall())
            if recovery is not None and (command.width is not None or command.code in FINAL_CODES):
                recovery.width_known(command.node, command.width)
                self._take_back()
        elif isinstance(command, ev.NodeFailed):
            if command.error is None and (raised := history.errors.get(command.node)) is not None:
                command = replace(command, error=raised)
            if recovery is not None:
                recovery.width_known(command.node, None)
                self._take_back()
            if command.error is not None:
                history.errors[command.node] = command.error
        elif isinstance(command, ev.Alias):
            place = history.node(command.root).place(0)
            if place is not None:
                history.node(command.node).alias(command.index, place)
        elif isinstance(command, ev.FinishRun):
            history.run_changed(command.code, self._wall())
        if books is not None:
            books.commanded(command, self._core)

    def commit(self) -> list[ev.Command]:
        """Write what was recorded durably; return the commands that may be performed now, in order.

        Raises
        ------
        LeaseLost
            If another driver has the run.
        HistoryError
            If the history cannot be written.
        """
        if self._books is not None:
            self._books.commit()
        booked, self._booked = self._booked, []
        return booked
