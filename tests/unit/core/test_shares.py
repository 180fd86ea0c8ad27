"""A limit of concurrency is used up, and no more, however many slots share it: batches run here in virtual time."""

from __future__ import annotations

import heapq
from array import array

import pytest

from graphflow.core import events as ev
from graphflow.core.core import Core
from graphflow.graph.graph import Node, Source
from graphflow.model.map_options import MapOptions
from graphflow.model.reports import Report, StepReport
from graphflow.model.states import Code
from graphflow.ports import Capacity

ITEM_SECONDS = 0.1


class Slots:
    """Runs the batches of one map of async items that sleep."""

    def __init__(self, *, slots: int, limit: int, width: int) -> None:
        self.core = Core(capacity=Capacity(slots=slots, queue=1))
        self.slots = slots
        self.limit = limit
        self.now = 0.0
        self.queue: list[ev.SubmitBatch] = []
        self.running: list[tuple[float, int, ev.SubmitBatch, int]] = []
        node = Node(
            id=1,
            key="1",
            name="sleep",
            task_name="sleep",
            is_mapped=True,
            sources=(Source(slot=0, argument="x", length=width),),
            concurrency=50,
            map_options=MapOptions(max_concurrency=limit),
        )
        self.tell(ev.NodesRecorded((node,), {}))
        self.tell(ev.RecordingClosed())

    def tell(self, event: ev.Event) -> None:
        self.queue += [each for each in self.core.handle(event, self.now) if isinstance(each, ev.SubmitBatch)]
        while self.queue and len(self.running) < self.slots:
            order = self.queue.pop(0)
            at_once = order.concurrency or 1
            assert at_once + sum(each.concurrency or 1 for *_, each, _ in self.running) <= self.limit
            rounds = -(-len(order.indices) // at_once)
            if order.slice_seconds is not None:
                rounds = min(rounds, max(1, int(order.slice_seconds / ITEM_SECONDS + 1)))
            reached = min(len(order.indices), rounds * at_once)
            heapq.heappush(self.running, (self.now + rounds * ITEM_SECONDS, order.batch, order, reached))

    def finish(self) -> float:
        """Run all; return the seconds that it took."""
        while self.running:
            self.now, _, order, reached = heapq.heappop(self.running)
            step = StepReport(
                node=1,
                states=bytes([Code.COMPLETED]) * reached,
                attempts=b"\1" * reached,
                starts=array("f", [0.0] * reached),
                durations=array("f", [ITEM_SECONDS] * reached),
            )
            elapsed = -(-reached // (order.concurrency or 1)) * ITEM_SECONDS
            self.tell(
                ev.BatchReported(
                    Report(
                        batch=order.batch,
                        worker="w",
                        started=0.0,
                        elapsed=elapsed,
                        reached=reached,
                        steps=(step,),
                    )
                )
            )
        assert self.core.is_finished
        return self.now


@pytest.mark.parametrize(
    ("slots", "limit"),
    [(1, 3), (1, 20), (2, 3), (2, 16), (3, 100), (4, 50), (8, 2), (8, 3), (8, 8), (8, 16), (8, 61)],
)
def test_a_limit_of_concurrency_is_used_up(slots: int, limit: int) -> None:
    width = 40 * limit
    took = Slots(slots=slots, limit=limit, width=width).finish()
    assert took <= 1.1 * width * ITEM_SECONDS / min(limit, 50 * slots)
