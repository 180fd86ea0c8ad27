"""A process for batches that only records its calls, for tests of what runs in workers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from graphflow.model.orders import BatchOrder, Input, Pace, Program, Ref, StepOrder
from graphflow.model.reports import Report
from graphflow.results.packs.growing import GrowingPacks
from graphflow.runner.columns import load_column
from graphflow.runner.host import Packed, SerializationFailure
from graphflow.runner.run import run_batch

__all__ = ["RecordingHost", "order_of"]


class RecordingHost:
    """A host in this process that keeps all reports.

    Attributes
    ----------
    told, given_up
        The reports that were delivered while a batch went on, and when it was given up.
    has_given_up
        Set once there is one of the latter.
    said
        Why values did not go to the result store.
    on_progress
        Called with each of the former.
    limits, is_stopping
        The answers to batches.
    """

    is_local = True
    takes_progress = True
    tell = None

    def __init__(self, on_progress: Callable[[Report], None] | None = None) -> None:
        self.worker = "here"
        self.growing = GrowingPacks()
        self.told: list[Report] = []
        self.given_up: list[Report] = []
        self.has_given_up = threading.Event()
        self.notes: list[int] = []
        self.said: list[str] = []
        self.limits: dict[int, float] = {}
        self.is_stopping = False
        self.on_progress = on_progress

    def run(self, order: BatchOrder) -> Report | None:
        """Run a batch in this thread."""
        return run_batch(order, self)

    def load(self, ref: Ref) -> list[Any]:
        """Return the list itself, or what is stored."""
        return load_column(ref, "an upstream result")

    def store(
        self, columns: Sequence[list[Any]], *, travels: bool = False, packed: Sequence[Packed | None] = ()
    ) -> list[Ref | SerializationFailure]:
        """Keep the lists as they are."""
        return [Ref(kind="local", id="", count=len(column), data=column) for column in columns]

    def not_stored(self, run_id: str, node: int, text: str) -> None:
        """Remember what was said."""
        self.said.append(text)

    def note(self, batch: int, index: int) -> None:
        """Remember what is being executed."""
        self.notes.append(index)

    def is_stopped(self, run_id: str) -> bool:
        """Return whether batches are to stop."""
        return self.is_stopping

    def limit_of(self, run_id: str, node: int) -> float | None:
        """Return the limit of a node's items, if one was set."""
        return self.limits.get(node)

    def progress(self, report: Report) -> None:
        """Keep the partial report of a running batch."""
        self.told.append(report)
        if self.on_progress is not None:
            self.on_progress(report)

    def ending(self) -> None:
        """Do nothing: lists outlive the batch."""

    def give_up(self, report: Report) -> None:
        """Keep the report of a batch that is given up."""
        self.given_up.append(report)
        self.has_given_up.set()


def order_of(
    programs: Program | Sequence[StepOrder],
    *inputs: Input,
    size: int,
    indices: Sequence[int] | None = None,
    slice_seconds: float | None = None,
    concurrency: int | None = None,
    pace: Pace | None = None,
) -> BatchOrder:
    """Return a batch of one program, whose slots are the inputs, or of several steps."""
    if isinstance(programs, Program):
        programs = [StepOrder(node=0, program=programs, slots=tuple(range(len(inputs))))]
    return BatchOrder(
        id=1,
        run_id="run",
        steps=tuple(programs),
        indices=range(size) if indices is None else indices,
        width=size,
        inputs=inputs,
        slice_seconds=slice_seconds,
        concurrency=concurrency,
        pace=pace,
    )
