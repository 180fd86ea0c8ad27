"""Nodes that are not mapped, run by one batch: which go together, and what becomes of a batch of them.

A thousand calls in a loop are a thousand nodes, of which each would cost a batch, a commit and a result file. Nodes of one
task that are ready together share these instead; each is still a node with a state, attempts and a place in the history.
A node that needs nothing but nodes of the same batch goes along behind them, so that a chain of short calls is a few batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphflow.core import events as ev
from graphflow.core.batching import updated_mean
from graphflow.core.landing import landed
from graphflow.core.nodes import ONLY, Bundle, Flight, NodeBook, Stage
from graphflow.core.outcomes import announce, cancel_items
from graphflow.core.queues import Queues
from graphflow.core.state import FollowerBack, RunState
from graphflow.model.reports import Report, StepReport
from graphflow.model.states import FINAL_CODES, Code

__all__ = ["Bundles"]


class Bundles:
    """Applies the reports of batches whose positions are nodes.

    Parameters
    ----------
    run, queues
        The run's state, and where nodes wait for the next batch.
    apply
        Books what one node's batch reported of its items.
    """

    def __init__(
        self,
        run: RunState,
        queues: Queues,
        apply: Callable[[Stage, StepReport, Sequence[int]], None],
    ) -> None:
        self._run = run
        self._queues = queues
        self._apply = apply

    def report(self, flight: Flight, report: Report) -> None:
        """Book each node that a batch reached, and hand back the others.

        A batch that could not be read where it was sent is given back whole, and its nodes run one by one: then each
        fails, or not, for itself.
        """
        assert flight.bundle is not None
        told = landed(flight, report)
        if told is None:
            return
        if report.is_refused:
            self._queues.lost(ev.BatchWasLost(batch=report.batch))
            return
        positions, rest = told
        is_first = flight.held is None
        if report.held:
            flight.held = report.held
        else:
            self._queues.land(report.batch)
        self._run.commands.append(ev.CommitReport(report, ONLY))
        reached = {step.node for step in report.steps}
        for step in report.steps:
            self._book(step)
        if is_first:
            learn(flight.bundle, report, len(reached))
        left = [flight.nodes[position] for position in positions if flight.nodes[position] not in reached]
        self.hand_back([*left, *(flight.nodes[position] for position in rest)])
        if self._run.is_stopping:
            for node in reached:
                self._cancel(self._run.books[node])

    def _book(self, step: StepReport) -> None:
        book = self._run.books[step.node]
        stage = book.stage
        if not stage.is_open:
            # It followed nodes of its own batch, of which nothing was known until now.
            stage.is_open = True
            stage.is_following = False
            stage.width = 1
        if not book.has_started:
            book.has_started = True
            announce(self._run, book, Code.RUNNING)
        self._apply(stage, step, ONLY)

    def hand_back(self, nodes: Sequence[int]) -> None:
        """Let nodes that were not begun wait again; those that followed others open with these."""
        for node in nodes:
            book = self._run.books[node]
            if self._run.is_stopping:
                self._cancel(book)
            elif book.stage.is_open:
                book.stage.add_fresh(0, 1)
                self._queues.enqueue(book.stage)
            else:
                self._run.notices.append(FollowerBack(book.stage))

    def _cancel(self, book: NodeBook) -> None:
        if book.states[0] not in FINAL_CODES:
            cancel_items(self._run, book, ONLY)


def learn(bundle: Bundle, report: Report, nodes: int) -> None:
    """Note what a report tells of the time and the results of a node."""
    bundle.mean_seconds = updated_mean(bundle.mean_seconds, elapsed=report.elapsed, items=nodes)
    bundle.store_seconds = updated_mean(bundle.store_seconds, elapsed=report.store_seconds, items=1)
    nbytes = sum(step.values.nbytes for step in report.steps if step.values is not None)
    bundle.result_nbytes = updated_mean(bundle.result_nbytes, elapsed=nbytes, items=nodes)
