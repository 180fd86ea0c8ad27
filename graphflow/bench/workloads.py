"""What is measured: the workloads W1 to W8 and their variants."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["CONCURRENCY", "WORKLOADS", "Figure", "Workload", "durations_of", "ideal_seconds", "workload_of"]

CONCURRENCY = 64
"""Requests in flight per slot in W8; what an async task of graphflow does by default."""
REQUEST_MILLISECONDS = 100
_CPU_ITEM_SECONDS = 0.05
_MEDIAN_SECONDS = 0.01
_SEED = 20_250_101


class Figure(StrEnum):
    """What a reader wants to see of a measurement."""

    PER_ITEM = "us_per_item"
    SHARE_OF_IDEAL = "percent_of_ideal"
    TIMES_IDEAL = "times_ideal"
    SECONDS = "seconds"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One kind of work.

    `steps` is how many tasks an item passes through; `slots` replaces the number that was asked for;
    `is_whole_process` means that a script is timed from its cold start to its exit.
    """

    name: str
    title: str
    sizes: tuple[int, ...]
    smoke_sizes: tuple[int, ...]
    variant: str = ""
    figure: Figure = Figure.PER_ITEM
    steps: float = 1.0
    slots: int | None = None
    is_whole_process: bool = False

    @property
    def key(self) -> str:
        """Name and variant: `W5/slow-last`."""
        return f"{self.name}/{self.variant}" if self.variant else self.name


_CPU = Workload(
    name="W3",
    title="items of 50 ms CPU work, workers up",
    sizes=(400,),
    smoke_sizes=(8,),
    figure=Figure.SHARE_OF_IDEAL,
)
_TAIL = Workload(
    name="W5",
    title="heavy-tailed items, 1 % of them 100 times slower",
    sizes=(1_000,),
    smoke_sizes=(100,),
    figure=Figure.TIMES_IDEAL,
)

WORKLOADS: tuple[Workload, ...] = (
    Workload(
        name="W1",
        title="no-op map, then sum",
        sizes=(100, 1_000, 10_000, 100_000, 1_000_000),
        smoke_sizes=(100,),
    ),
    Workload(
        name="W2",
        title="three chained maps, then sum",
        sizes=(100, 10_000, 100_000),
        smoke_sizes=(100,),
        steps=3,
    ),
    _CPU,
    Workload(
        name="W3",
        variant="cold",
        title="items of 50 ms CPU work, cold process to exit",
        sizes=(400,),
        smoke_sizes=(8,),
        figure=Figure.SHARE_OF_IDEAL,
        is_whole_process=True,
    ),
    Workload(
        name="W4",
        title="fan-out over two levels whose widths are known at run time",
        sizes=(10_000, 100_000),
        smoke_sizes=(100,),
        steps=1.1,
    ),
    _TAIL,
    Workload(
        name="W5",
        variant="slow-last",
        title="heavy-tailed items, the slow ones last",
        sizes=_TAIL.sizes,
        smoke_sizes=_TAIL.smoke_sizes,
        figure=Figure.TIMES_IDEAL,
    ),
    Workload(
        name="W5",
        variant="16-slots",
        title="heavy-tailed items that sleep, on 16 slots",
        sizes=(10_000,),
        smoke_sizes=(200,),
        figure=Figure.TIMES_IDEAL,
        slots=16,
    ),
    Workload(
        name="W5",
        variant="16-slots-slow-last",
        title="heavy-tailed items that sleep, on 16 slots, the slow ones last",
        sizes=(10_000,),
        smoke_sizes=(200,),
        figure=Figure.TIMES_IDEAL,
        slots=16,
    ),
    Workload(
        name="W6",
        title="one task, cold process to exit",
        sizes=(1,),
        smoke_sizes=(1,),
        figure=Figure.SECONDS,
        is_whole_process=True,
    ),
    Workload(
        name="W7",
        title="no-op items of which 1 % fail once and are retried",
        sizes=(10_000,),
        smoke_sizes=(300,),
    ),
    Workload(
        name="W8",
        title="requests of 100 ms to a server on this machine",
        sizes=(5_000,),
        smoke_sizes=(100,),
        figure=Figure.TIMES_IDEAL,
    ),
)
_BY_KEY = {workload.key: workload for workload in WORKLOADS}


def workload_of(key: str) -> Workload:
    """Return the workload of a key such as `W5/slow-last`."""
    return _BY_KEY[key]


def durations_of(workload: Workload, n: int, *, is_smoke: bool) -> list[float]:
    """Return seconds per item, the same ones in every run; empty where items do nothing."""
    scale = 0.1 if is_smoke else 1.0
    if workload.name == "W3":
        return [_CPU_ITEM_SECONDS * scale] * n
    if workload.name != "W5":
        return []
    source = random.Random(_SEED)
    seconds = [source.lognormvariate(math.log(_MEDIAN_SECONDS * scale), 0.5) for _ in range(n)]
    for index in source.sample(range(n), max(1, n // 100)):
        seconds[index] *= 100
    return sorted(seconds) if workload.variant.endswith("slow-last") else seconds


def ideal_seconds(workload: Workload, n: int, *, slots: int, is_smoke: bool) -> float | None:
    """Return what no scheduler can beat by much, None where items do nothing.

    For equal items the work over the slots; for heavy-tailed ones the longest item comes on top of it,
    the bound that list scheduling keeps (Graham 1969).
    """
    if workload.name == "W8":
        return max(1.0, n / (slots * CONCURRENCY)) * REQUEST_MILLISECONDS / 1000
    seconds = durations_of(workload, n, is_smoke=is_smoke)
    if not seconds:
        return None
    longest = max(seconds) if workload.name == "W5" else 0.0
    return math.fsum(seconds) / slots + longest
