"""Limits of maps: the strictest ones of a stage, what its items take of shared limits, and timeouts that follow from what items took."""

from __future__ import annotations

from collections.abc import Mapping

from graphflow.core import events as ev
from graphflow.core.nodes import NodeBook, Stage
from graphflow.core.state import RunState
from graphflow.model.map_options import NO_MAP_OPTIONS
from graphflow.model.reports import StepReport
from graphflow.model.states import Code

__all__ = ["learn_limit", "limit_stage"]

SAMPLE_ITEMS = 1_000
LIMIT_AFTER_ITEMS = 10
SHORTEST_LIMIT_SECONDS = 0.05
"""A timeout that follows from the median is never shorter: what takes less is lost in the machine's own pauses."""


def limit_stage(stage: Stage, of: Mapping[int, NodeBook]) -> None:
    """Set a stage's limits to the strictest of its members."""
    books = [of[member] for member in stage.members]
    for name, weight in books[-1].node.limits:
        stage.limits = {**stage.limits, name: max(weight, stage.limits.get(name, 0))}
    if len(books) == 1 and books[0].map_options is NO_MAP_OPTIONS:
        stage.concurrency = books[0].node.concurrency
        stage.max_concurrency = stage.rate = None
        return
    limits = [
        book.map_options.max_concurrency
        for book in books
        if book.map_options.max_concurrency and not book.is_final
    ]
    rates = [book.map_options.rate for book in books if book.map_options.rate and not book.is_final]
    widths = [book.node.concurrency for book in books if book.node.concurrency]
    stage.max_concurrency = min(limits, default=None)
    stage.rate = min(rates, default=None)
    stage.concurrency = min(widths, default=None)


def learn_limit(run: RunState, book: NodeBook, step: StepReport) -> None:
    """Update a timeout relative to the median from the durations of completed items."""
    factor = book.map_options.timeout_factor
    completed = [
        seconds for code, seconds in zip(step.states, step.durations, strict=True) if code == Code.COMPLETED
    ]
    book.durations = [*book.durations, *completed[: SAMPLE_ITEMS // 2]]
    if len(book.durations) > SAMPLE_ITEMS:
        del book.durations[::2]
    if factor is None or len(book.durations) < LIMIT_AFTER_ITEMS:
        return
    median = sorted(book.durations)[len(book.durations) // 2]
    is_first = book.limit_seconds is None
    book.limit_seconds = max(SHORTEST_LIMIT_SECONDS, factor * median)
    if is_first:
        run.commands.append(ev.LimitItems(node=book.node.id, seconds=book.limit_seconds))
