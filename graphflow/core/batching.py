"""How large the next batch is: a time slice with a count cap, so that no estimate can be badly wrong.

A worker gets a range and a deadline, returns what it finished and gives the rest back. The count cap
follows from the measured seconds per item and, near the end, from the remaining work (factoring:
S. Hummel et al., 1992).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["MAX_RESULT_NBYTES", "SLICE_SECONDS", "Slice", "grown_seconds", "next_slice", "updated_mean"]

SLICE_SECONDS = 0.25
MAX_SLICE_SECONDS = 0.5
FIRST_SLICE_SECONDS = 0.05
MAX_STORE_SLICE_SECONDS = 5.0
MAX_STORE_FLOOR_SECONDS = 0.5
STORE_SHARE = 20.0
"""A slice is so many times what a batch waits for stores."""
STORE_FLOOR = 4.0
"""The last batches are so many times that."""
CONCURRENT_SLICE_SECONDS = 2.0
MAX_GROWN_SECONDS = 5.0
GROWTH = 0.02
"""A slice grows by so much of the time since its stage began, and is at most so much of what is left of it."""
OVERRUN = 1.25
"""A grown batch has as many items as its slice is thought to take, and so many times the slice for them."""
TELL_SECONDS = 0.5
"""Within a grown slice, what has ended is told this often, or less often where slices are longer from the beginning."""
FLOOR_SECONDS = 0.01
DRIVER_SECONDS_PER_BATCH = 0.0006
MAX_ITEMS = 131_072
MAX_INLINE_NBYTES = 1 << 20
MAX_RESULT_NBYTES = 32 << 20
"""What the results of a batch weigh at most, as far as that is known."""


@dataclass(frozen=True, slots=True)
class Slice:
    """The size of a batch: at most `count` items, begun within `seconds` (None for no limit).

    `tell_seconds` is how often it reports what has ended while it goes on; None where it does so after its slice alone.
    """

    count: int
    seconds: float | None
    tell_seconds: float | None = None


def next_slice(
    *,
    remaining: int,
    mean_seconds: float | None,
    slots: int,
    batch_size: int | None = None,
    item_nbytes: int = 8,
    batch_seconds: float = DRIVER_SECONDS_PER_BATCH,
    concurrency: int = 1,
    result_nbytes: float = 0.0,
    store_seconds: float = 0.0,
    expected_seconds: float | None = None,
    grown: float = 0.0,
) -> Slice:
    """Return the next batch of a stage with `remaining` ready items.

    Parameters
    ----------
    remaining
        Items that could be sent now, 1 or more.
    mean_seconds
        Seconds per item as measured so far, None before the first report.
    slots
        Batches that run at the same time.
    batch_size
        The user's fixed size, which switches the time slice off.
    item_nbytes
        What one item's inline input weighs.
    batch_seconds
        CPU seconds that a batch costs outside its items.
    concurrency
        Items that run at the same time in one batch. Above 1 a batch takes longer, as the slots of its last
        items stay empty; its outcomes are reported while it runs.
    result_nbytes
        What the results of one item weigh, as measured so far.
    store_seconds
        What a batch waits for stores, as measured so far.
    expected_seconds
        Seconds per item of the same task elsewhere in the run; None where none ran.
    grown
        What the slice has grown to with the run (`grown_seconds`), in seconds.
    """
    if batch_size is not None:
        return Slice(min(batch_size, remaining), None)
    slots = max(slots, 1)
    # The driver stays below a quarter busy, and a batch costs at most about a hundredth of its slice.
    budget = max(SLICE_SECONDS, 4 * slots * batch_seconds, min(MAX_SLICE_SECONDS, 80 * batch_seconds))
    floor = max(FLOOR_SECONDS, 1.5 * slots * batch_seconds)
    # Where a store is slow, it is asked less often.
    budget = max(budget, min(MAX_STORE_SLICE_SECONDS, STORE_SHARE * store_seconds))
    floor = max(floor, min(MAX_STORE_FLOOR_SECONDS, STORE_FLOOR * store_seconds))
    cap = max(1, min(MAX_ITEMS, MAX_INLINE_NBYTES // max(item_nbytes, 1)))
    if result_nbytes > 0:
        cap = max(1, min(cap, int(MAX_RESULT_NBYTES / result_nbytes)))
    tail = math.ceil(remaining / (2 * slots))
    if concurrency > 1:
        # Whole rounds: a round that is not full takes as long as one that is.
        budget = max(budget, CONCURRENT_SLICE_SECONDS)
        tail = min(math.ceil(tail / concurrency) * concurrency, remaining)
        if mean_seconds is None:
            return Slice(min(tail, cap), budget)
    if mean_seconds is None:
        if expected_seconds is not None and remaining * expected_seconds <= floor:
            # A small map of short items, as tasks return by the thousand, is one batch.
            tail = remaining
        # No probing with single items: the deadline protects.
        return Slice(min(tail, cap), max(FIRST_SLICE_SECONDS, floor))
    mean = max(mean_seconds, 1e-8)
    tail = max(tail, int(floor / mean))
    if grown <= budget:
        count = min(int(2 * budget / mean) + 1, tail, cap, remaining)
        return Slice(max(count, 1), budget)
    # The mean is known well by now, and what is handed back costs a batch more.
    count = min(int(grown / mean) + 1, tail, cap, remaining)
    return Slice(max(count, 1), OVERRUN * grown, max(TELL_SECONDS, budget))


def grown_seconds(*, age: float, left_seconds: float) -> float:
    """Return what a slice has grown to, in seconds.

    Parameters
    ----------
    age
        Seconds since the stage's first batch.
    left_seconds
        The work that is left of it, in seconds of all slots together: no slice is a large part of it.
    """
    return min(MAX_GROWN_SECONDS, SLICE_SECONDS + GROWTH * age, GROWTH * left_seconds)


def updated_mean(mean: float | None, *, elapsed: float, items: int) -> float | None:
    """Return the running mean of seconds per item after a batch; recent batches weigh more."""
    if items <= 0:
        return mean
    seconds = elapsed / items
    return seconds if mean is None else 0.7 * mean + 0.3 * seconds
