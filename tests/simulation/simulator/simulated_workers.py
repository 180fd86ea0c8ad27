"""Workers that misbehave by a seed; they run batches as the real runner does, item by item, task by task."""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence
from dataclasses import replace

from graphflow.core import events as ev
from graphflow.core.nodes import OWN_FAILURES
from graphflow.graph.graph import DepKind
from graphflow.model.reports import Anomaly, Graft, Report, StepReport
from graphflow.model.states import FAILED_CODES, Code
from simulator.ledger import Ledger, places_at
from simulator.scenarios import NodeScript, Scenario
from simulator.virtual_time import VirtualClock

__all__ = ["SimulatedWorkers", "WorkerDied"]

_WAITING = frozenset({Code.PENDING, Code.AWAITING_RETRY, Code.PAUSED, Code.GRAFTED})


class WorkerDied(Exception):
    """An item killed its worker."""

    def __init__(self, index: int) -> None:
        self.index = index


class SimulatedWorkers:
    """Take batches, and tell their reports: late, twice, in part, in any order, or never.

    Parameters
    ----------
    scenario
        What items do, and which faults strike.
    ledger
        The batches under way; items that may have died with a worker are noted there.
    clock
        When things happen.
    rng
        The run's only source of chance.
    """

    def __init__(
        self, *, scenario: Scenario, ledger: Ledger, clock: VirtualClock, rng: random.Random
    ) -> None:
        self._scenario = scenario
        self._ledger = ledger
        self._clock = clock
        self._rng = rng
        self._executing: list[tuple[int, int]] = []
        self._bundles: dict[int, dict[int, StepReport]] = {}
        """By batch whose positions are nodes, what its nodes came to so far."""
        self.is_hard = False
        """Whether batches that are stopped also stop what they execute."""
        self.executions: dict[tuple[int, int], int] = {}
        self.lost: dict[tuple[int, int], int] = {}
        """Executions that were never reported."""
        self.kills: dict[tuple[int, int], int] = {}
        """How many workers an item killed."""

    def start(self, order: ev.SubmitBatch) -> None:
        """Take a batch; how it ends is told later."""
        script = self._scenario.scripts[order.nodes[0]]
        delay = len(order.indices) * script.seconds
        if order.pace is not None:
            delay += order.pace.delay + len(order.indices) * order.pace.interval
        if self._scenario.faults.is_scattered:
            delay += self._rng.random() * self._rng.choice((0.1, 1.0, 3.0))
        self._clock.at(self._clock.now + delay, lambda: self._finish(order))

    def _finish(self, order: ev.SubmitBatch) -> ev.Event:
        faults, rng = self._scenario.faults, self._rng
        if (
            self._clock.now < faults.calm_after
            and rng.random() < faults.loses
            and not self._ledger.is_stopping
        ):
            lost = self._lose(order)
            if lost is not None:
                return lost
        reached = len(order.indices)
        if self._ledger.is_stopping or order.batch in self._ledger.recalled:
            reached = rng.randint(0, reached)
        elif rng.random() < faults.cuts:
            reached = rng.randint(1, reached)
        told, held = [*range(reached)], list[int]()
        if len(told) > 1 and rng.random() < faults.parts:
            rng.shuffle(told)
            cut = rng.randrange(1, len(told))
            told, held = sorted(told[:cut]), sorted(told[cut:])
        try:
            report = self._execute(order, told)
        except WorkerDied as death:
            return self._died(order, order.indices, death.index)
        if held:
            report = replace(report, positions=told, held=held)
        if rng.random() < faults.duplicates:
            self._clock.after(rng.random() * 3.0, ev.BatchReported(report))
        if held:
            self._clock.at(self._clock.now + rng.random() * 2.0, lambda: self._finish_rest(order, held))
        elif rng.random() < faults.duplicates:
            self._clock.after(rng.random() * 3.0, ev.BatchWasLost(batch=order.batch))
        return ev.BatchReported(report)

    def _finish_rest(self, order: ev.SubmitBatch, held: list[int]) -> ev.Event | None:
        """Another part of a batch that reports in parts; or it is lost in the meantime."""
        if order.batch not in self._ledger.flying:
            return None
        indices = [order.indices[position] for position in held]
        told, still = held, list[int]()
        if len(held) > 1 and self._rng.random() < self._scenario.faults.parts:
            cut = self._rng.randrange(1, len(held))
            told, still = held[:cut], held[cut:]
            if order.batch in self._ledger.recalled:
                # What it has not begun is in no report.
                still = still[:1]
        try:
            report = self._execute(order, told)
        except WorkerDied as death:
            return self._died(order, indices, death.index)
        report = replace(report, positions=told, held=still)
        if still:
            self._clock.at(self._clock.now + self._rng.random(), lambda: self._finish_rest(order, still))
        if self._rng.random() < self._scenario.faults.duplicates:
            self._clock.after(self._rng.random() * 3.0, ev.BatchReported(report))
        return ev.BatchReported(report)

    def _lose(self, order: ev.SubmitBatch) -> ev.Event | None:
        """Lose a batch: before it began, with its worker, or its report alone.

        An item that was under suspicion once is spared, so that only what kills its workers is found guilty.
        """
        rng, faults = self._rng, self._scenario.faults
        if rng.random() < 0.3:
            return ev.BatchWasLost(batch=order.batch, had_started=False)
        position = rng.randrange(len(order.indices))
        suspects = [position] if faults.has_journal else range(len(order.indices))
        if any(place in self._ledger.deaths for at in suspects for place in places_at(order, at)):
            return None
        keeps_report = not faults.has_journal and rng.random() < 0.5
        try:
            report = self._execute(order, range(len(order.indices) if keeps_report else position + 1))
        except WorkerDied as death:
            return self._died(order, order.indices, death.index)
        if keeps_report and rng.random() < 0.5:
            self._clock.after(rng.random() * 3.0, ev.BatchReported(report))
        return self._died(order, order.indices, order.indices[position])

    def _died(self, order: ev.SubmitBatch, out: Sequence[int], index: int) -> ev.Event:
        for place in self._executing:
            self.lost[place] = self.lost.get(place, 0) + 1
        has_journal = self._scenario.faults.has_journal
        for each in (index,) if has_journal else out:
            for place in places_at(order, order.indices.index(each)):
                self._ledger.deaths[place] = self._ledger.deaths.get(place, 0) + 1
        if has_journal:
            return ev.BatchWasLost(batch=order.batch, executing=index, had_started=True)
        return ev.BatchWasLost(batch=order.batch, had_started=self._rng.choice((None, True)))

    # -- the runner's part ------------------------------------------------------------------------------

    def _execute(self, order: ev.SubmitBatch, positions: Sequence[int]) -> Report:
        """Run the items at these positions, task by task, as a worker does."""
        self._executing = []
        if order.is_bundle:
            return self._execute_bundle(order, positions)
        reached = len(positions)
        total = len(order.nodes)
        states = [bytearray(reached) for _ in range(total)]
        attempts = [bytearray(reached) for _ in range(total)]
        anomalies: list[list[Anomaly]] = [[] for _ in range(total)]
        grafts: list[list[Graft]] = [[] for _ in range(total)]
        lanes = [
            [
                order.nodes.index(dep.upstream)
                for dep in self._ledger.nodes[node].deps
                if dep.kind is DepKind.ITEMS and dep.upstream in order.nodes
            ]
            for node in order.nodes
        ]
        for position, at in enumerate(positions):
            index = order.indices[at]
            for step in range(total):
                node = order.nodes[step]
                tried = order.tries[step]
                tries = 0 if tried is None else tried[at]
                attempts[step][position] = tries
                before = {
                    Code.SKIPPED
                    if order.tolerates[lane] and states[lane][position] in OWN_FAILURES
                    else states[lane][position]
                    for lane in lanes[step]
                }
                if before & FAILED_CODES or Code.CANCELLED in before:
                    code = Code.CANCELLED if Code.CANCELLED in before else Code.UPSTREAM_FAILED
                elif before & _WAITING:
                    code = Code.PENDING
                elif Code.SKIPPED in before:
                    code = Code.SKIPPED
                elif self.is_hard and self._ledger.is_stopping and self._rng.random() < 0.3:
                    code = Code.CANCELLED
                else:
                    code, attempts[step][position] = self._attempt(
                        node, index, position, tries, anomalies[step], grafts[step]
                    )
                states[step][position] = code
        steps = tuple(
            StepReport(
                node=node,
                states=bytes(states[step]),
                attempts=bytes(attempts[step]),
                starts=array("f", bytes(4 * reached)),
                durations=array("f", bytes(4 * reached)),
                info=self._scenario.scripts[node].info,
                anomalies=anomalies[step],
                grafts=grafts[step],
            )
            for step, node in enumerate(order.nodes)
        )
        elapsed = reached * self._scenario.scripts[order.nodes[0]].seconds
        return Report(
            batch=order.batch,
            worker="w",
            started=self._clock.now,
            elapsed=elapsed,
            reached=reached,
            steps=steps,
        )

    def _execute_bundle(self, order: ev.SubmitBatch, positions: Sequence[int]) -> Report:
        """Run nodes one after the other; one that needs a node that did not succeed here is not begun."""
        reports = self._bundles.setdefault(order.batch, {})
        for at in positions:
            node = order.nodes[at]
            inside = [dep.upstream for dep in self._ledger.nodes[node].deps if dep.upstream in order.nodes]
            if any(each not in reports or reports[each].states[0] != Code.COMPLETED for each in inside):
                continue
            anomalies: list[Anomaly] = []
            grafts: list[Graft] = []
            try:
                code, attempts = self._attempt(node, 0, 0, 0, anomalies, grafts)
            except WorkerDied:
                raise WorkerDied(at) from None
            reports[node] = StepReport(
                node=node,
                states=bytes([code]),
                attempts=bytes([attempts]),
                starts=array("f", [0.0]),
                durations=array("f", [0.0]),
                info=self._scenario.scripts[node].info,
                anomalies=anomalies,
                grafts=grafts,
            )
        told = [order.nodes[at] for at in positions]
        return Report(
            batch=order.batch,
            worker="w",
            started=self._clock.now,
            elapsed=len(positions) * self._scenario.scripts[order.nodes[0]].seconds,
            reached=len(positions),
            steps=tuple(reports[node] for node in told if node in reports),
        )

    def _attempt(
        self, node: int, index: int, position: int, tries: int, anomalies: list[Anomaly], grafts: list[Graft]
    ) -> tuple[Code, int]:
        """Run one item of one task, with the retries that need no wait; its code, and its attempts in all."""
        script: NodeScript = self._scenario.scripts[node]
        item = script.item(index)
        place = (node, index)
        attempt = tries
        while True:
            attempt += 1
            self.executions[place] = self.executions.get(place, 0) + 1
            self._executing.append(place)
            if attempt <= item.failures:
                if attempt > script.retries:
                    return item.error, attempt
                delay = script.delay(index, attempt)
                anomalies.append(
                    Anomaly(
                        position=position,
                        attempt=attempt,
                        code=Code.AWAITING_RETRY if delay else Code.RETRYING,
                        started=self._clock.now,
                        duration=0.0,
                        delay=delay,
                        outcome=item.error,
                    )
                )
                if delay:
                    return Code.AWAITING_RETRY, attempt
                continue
            match item.then:
                case "complete":
                    return Code.COMPLETED, attempt
                case "cached":
                    return Code.CACHED, attempt
                case "skip":
                    return Code.SKIPPED, attempt
                case "fail":
                    return item.error, attempt
                case "graft":
                    grafts.append(Graft(position=position, fragment=self._scenario.fragments[place]))
                    return Code.GRAFTED, attempt
                case "poison":
                    self.kills[place] = self.kills.get(place, 0) + 1
                    raise WorkerDied(index)
                case "pause":
                    if attempt > item.failures + 1:
                        return Code.COMPLETED, attempt
                    anomalies.append(
                        Anomaly(
                            position=position,
                            attempt=attempt,
                            code=Code.PAUSED,
                            started=self._clock.now,
                            duration=0.0,
                        )
                    )
                    self._clock.at(self._clock.now + 1.0 + self._rng.random() * 5, self._resume)
                    return Code.PAUSED, attempt

    @staticmethod
    def _resume() -> ev.Event:
        return ev.ResumeRequested()
