"""Which measurements a run consists of, and which of them would take too long."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from graphflow.bench.peers import PEERS
from graphflow.bench.workloads import WORKLOADS, Workload, ideal_seconds

__all__ = ["Asked", "Case", "cases_of", "default_peers", "refusal", "seconds_expected"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a run was asked for; empty means all."""

    workloads: Sequence[str] = ()
    peers: Sequence[str] = ()
    sizes: Sequence[int] = ()
    repeats: int = 3
    slots: int = 2
    is_smoke: bool = False
    limit_seconds: float = 60.0
    timeout_seconds: float = 600.0

    def command(self) -> str:
        """Return the command that asks for this again."""
        words = ["graphflow bench run", *self.workloads]
        words += [f"--peer {peer}" for peer in self.peers]
        if self.sizes:
            words.append(f"--sizes {','.join(map(str, self.sizes))}")
        words += [f"--repeats {self.repeats}", f"--slots {self.slots}"]
        if self.is_smoke:
            words.append("--smoke")
        if self.limit_seconds != Asked.__dataclass_fields__["limit_seconds"].default:
            words.append(f"--limit {self.limit_seconds:g}")
        return " ".join(words)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One measurement."""

    workload: Workload
    peer: str
    n: int
    slots: int


def default_peers() -> list[str]:
    """Return what is measured beside graphflow where no peer is named."""
    return [entry.name for entry in PEERS.values() if entry.is_default]


def cases_of(asked: Asked) -> Iterator[Case]:
    """Workload by workload, size by size, peer by peer: what is compared is measured close in time."""
    for workload in WORKLOADS:
        if asked.workloads and not {workload.name, workload.key} & set(asked.workloads):
            continue
        sizes = asked.sizes or (workload.smoke_sizes if asked.is_smoke else workload.sizes)
        for n in (1,) if workload.name == "W6" else sizes:
            for peer in asked.peers or default_peers():
                if asked.peers or _belongs(peer, workload):
                    yield Case(workload=workload, peer=peer, n=n, slots=_slots(workload, peer, asked))


def _belongs(peer: str, workload: Workload) -> bool:
    """asyncio only waits and a loop only computes: lines for the rest would add nothing."""
    if peer == "asyncio":
        return workload.name == "W8"
    if peer == "loop":
        return workload.name in ("W1", "W2", "W4", "W6")
    return True


def _slots(workload: Workload, peer: str, asked: Asked) -> int:
    if peer in ("graphflow-inline", "loop"):
        return 1
    # A smoke run brings each peer up once, so all of its cases have the same slots.
    return asked.slots if workload.slots is None or asked.is_smoke else workload.slots


def refusal(case: Case) -> str:
    """Return why a case cannot be measured at all; empty if it can."""
    if case.peer == "asyncio" and case.workload.is_whole_process:
        return "runs only waiting in parallel, no computing; see W8"
    cores = os.cpu_count() or 1
    if case.peer == "graphflow-default" and case.workload.name in ("W3", "W5") and case.slots != cores:
        return f"chooses its own slots: this machine has {cores} cores, and {case.slots} slots are asked for"
    return ""


def seconds_expected(case: Case, measured: Mapping[int, float], *, is_smoke: bool) -> float:
    """About how long one warm run takes.

    `measured` holds the median seconds of this workload and peer by size. Two smaller sizes tell what an
    item costs beside what a run costs; before that, the rough cost of the peer's items does.
    """
    ideal = ideal_seconds(case.workload, case.n, slots=case.slots, is_smoke=is_smoke) or 0.0
    smaller = sorted((n, seconds) for n, seconds in measured.items() if n < case.n)
    if len(smaller) < 2:
        return ideal + case.n * case.workload.steps * PEERS[case.peer].us_per_item / 1e6
    (few, short), (many, long) = smaller[-2:]
    return max(ideal, long + (case.n - many) * max(0.0, long - short) / (many - few))
