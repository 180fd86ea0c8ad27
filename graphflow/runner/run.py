"""One batch on a worker: runs items of a stage within a time slice, and gives one report.

Each item passes through the steps in order; each step has its own state, attempts, retries, timeout and
time. A failing step ends the item's lane only. Nothing that user code raises leaves this module, which
alone knows the ways of running: in turn, in chunks and concurrently.
"""

from __future__ import annotations

from graphflow.common.failpoints import failpoint
from graphflow.common.secrets import are_known
from graphflow.errors import ResultStoreError
from graphflow.model.orders import BatchOrder, Lane
from graphflow.model.reports import Report
from graphflow.runner.batch import Batch
from graphflow.runner.capture import capture_logging, capture_prints
from graphflow.runner.chunks import run_in_chunks
from graphflow.runner.host import BatchHost
from graphflow.runner.inputs import ready_inputs
from graphflow.runner.sequential import run_in_turn
from graphflow.runner.watchdog import Abandoned, watchdog

__all__ = ["run_batch"]


def run_batch(order: BatchOrder, host: BatchHost) -> Report | None:
    """Run a batch; None if it was given up and its report delivered by `host.give_up`."""
    failpoint("batch.begin")
    batch = Batch(order, host)
    errors = batch.errors
    try:
        report = _run(batch)
    except Abandoned:
        return None
    # What live exceptions keep of this frame must not be the batch.
    del batch, order, host
    errors.release()
    del errors
    return report


def _run(batch: Batch) -> Report:
    """Run items until done, the slice is over, or the run stops; never raises for user code."""
    steps = batch.steps
    capture_logging()
    if are_known() or any(step.options.log_prints for step in steps):
        capture_prints()
    if batch.is_stopped():
        return batch.report(range(0))
    try:
        inputs = ready_inputs(batch.order, batch.host.load)
    except Exception as error:
        return batch.refuse(error)
    slots = [
        inputs
        if batch.order.bundle is not None
        else [
            steps[source.step].values if isinstance(source, Lane) else inputs[source]
            for source in step.order.slots
        ]
        for step in steps
    ]
    for step, its_slots in zip(steps, slots, strict=True):
        step.prepare(its_slots)
    try:
        if steps[0].order.cache is not None:
            # What caches need takes longer to import than a small flow takes to run.
            from graphflow.runner.caching import BatchCache

            batch.caches = BatchCache(batch, slots[0])
        reached = _run_items(batch)
        for step in steps:
            step.finish()
    except ResultStoreError as error:
        batch.store_error = str(error)
        reached = 0
    with batch.progress.lock:
        positions = batch.progress.last(reached)
    report = batch.report(positions)
    if batch.caches is not None:
        batch.caches.close()
    return report


def _run_items(batch: Batch) -> int | None:
    """Run the items; return how many, where they run in turn."""
    batch.begin()
    if batch.size > 1 and batch.host.takes_progress:
        batch.teller = batch.new_teller()
        watchdog().watch(batch.teller)
    try:
        if batch.is_chunked:
            run_in_chunks(batch)
        elif batch.is_async:
            # asyncio takes longer to import than a small flow takes to run.
            from graphflow.runner.concurrent import run_concurrently

            run_concurrently(batch)
        else:
            return run_in_turn(batch)
    finally:
        if batch.teller is not None:
            watchdog().forget(batch.teller)
            # It refers to the batch, whose values would wait for the garbage collector.
            batch.teller = None
    return None
