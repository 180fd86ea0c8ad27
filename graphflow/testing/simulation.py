"""The simulator: the engine's core under a virtual clock, with a backend that misbehaves by a seed.

`simulate(seed)` makes a random graph, runs it to its end and checks every command against the promises of the
engine (`graphflow.testing.ledger`) and every end against a plain reading of the rules (`graphflow.testing.oracle`).
The same seed gives the same trace, so that a seed that fails is a test. The idea: FoundationDB's simulated cluster.
"""

from __future__ import annotations

import heapq
import random
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from graphflow.engine import events as ev
from graphflow.engine.core import Core
from graphflow.graph import DepKind
from graphflow.reports import Anomaly, Graft, Report, StepReport
from graphflow.states import FAILED_CODES, FINAL_CODES, Code
from graphflow.testing.ledger import Ledger, Violation
from graphflow.testing.oracle import Oracle
from graphflow.testing.scenarios import Fragment, NodeScript, Scenario, random_scenario

__all__ = ["Outcome", "Simulation", "Violation", "simulate"]

MAX_EVENTS = 20_000
_WAITING = frozenset({Code.PENDING, Code.AWAITING_RETRY, Code.PAUSED, Code.GRAFTED})


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What a simulated run came to."""

    scenario: Scenario
    states: dict[int, dict[int, int]]
    """The code of each item, by node and index."""
    attempts: dict[int, dict[int, int]]
    nodes: dict[int, int]
    """The code of each node."""
    executions: dict[tuple[int, int], int]
    """How often each item was executed, also where the report got lost."""
    batches: int
    events: int
    seconds: float
    """Virtual."""
    trace: list[str] = field(default_factory=list)


class _WorkerDied(Exception):
    def __init__(self, index: int) -> None:
        self.index = index


def simulate(
    seed: int | Scenario, *, make_core: type[Core] = Core, has_faults: bool = True, keeps_trace: bool = False
) -> Outcome:
    """Run one seed to its end.

    Parameters
    ----------
    seed
        A seed, or a scenario made by hand.
    make_core
        The core to test; another class to see whether its bug is found.
    has_faults
        Whether reports and workers get lost.
    keeps_trace
        Whether the outcome holds each event and command as text.

    Raises
    ------
    Violation
        If the core breaks a promise; its text names the seed.
    """
    scenario = seed if isinstance(seed, Scenario) else random_scenario(seed, has_faults=has_faults)
    simulation = Simulation(scenario, make_core=make_core, keeps_trace=keeps_trace)
    try:
        return simulation.run()
    except Violation as error:
        raise Violation(f"seed {scenario.seed}, after {simulation.now:.3f} s: {error}") from error


class Simulation:
    """One run under a virtual clock.

    Parameters
    ----------
    scenario
        What to run.
    make_core
        The core's class.
    keeps_trace
        Whether to keep each event and command as text.
    """

    def __init__(self, scenario: Scenario, *, make_core: type[Core] = Core, keeps_trace: bool = False) -> None:
        self.scenario = scenario
        self.core = make_core(capacity=scenario.capacity)
        self.ledger = Ledger()
        self.rng = random.Random(~scenario.seed)
        self.now = 0.0
        self.capacity = scenario.capacity
        self.executions: dict[tuple[int, int], int] = {}
        self.trace: list[str] | None = [] if keeps_trace else None
        self._events = 0
        self._batches = 0
        self._turn = 0
        self._agenda: list[tuple[float, int, Callable[[], ev.Event | None]]] = []
        self._reports: dict[int, Report] = {}
        self._pulled: dict[tuple[int, int], int] = {}
        self._seen: list[tuple[int, int | None]] = []
        self._executing: list[tuple[int, int]] = []
        self._lost: dict[tuple[int, int], int] = {}
        self._kills: dict[tuple[int, int], int] = {}
        self._is_hard = False
        self._rounds = 0
        self._is_closed = False
        self._timer: float | None = None

    def run(self) -> Outcome:
        """Run to the end and check what it came to."""
        self._at(0.0, self._next_round)
        faults = self.scenario.faults
        for moment, capacity in faults.capacities:
            self._at(moment, partial(self._set_capacity, ev.CapacitySet(capacity)))
        if faults.stop_at is not None:
            self._at(faults.stop_at, partial(self._stop, faults.is_hard))
        while self._agenda:
            self.now, _, make = heapq.heappop(self._agenda)
            event = make()
            if event is not None:
                self._handle(event)
        if self.ledger.finish is None:
            raise Violation(f"the run never ended; open nodes: {sorted(set(self.ledger.nodes) - set(self.ledger.outcomes))}")
        self._check_books()
        self._check_end()
        return Outcome(
            scenario=self.scenario,
            states=self.ledger.states,
            attempts=self.ledger.attempts,
            nodes=self.ledger.outcomes,
            executions=self.executions,
            batches=self._batches,
            events=self._events,
            seconds=self.now,
            trace=self.trace or [],
        )

    # -- the driver's part ------------------------------------------------------------------------------

    def _at(self, moment: float, make: Callable[[], ev.Event | None]) -> None:
        self._turn += 1
        heapq.heappush(self._agenda, (moment, self._turn, make))

    def _soon(self, event: ev.Event, within: float = 0.5) -> None:
        self._at(self.now + self.rng.random() * within, lambda: event)

    def _handle(self, event: ev.Event) -> None:
        self._events += 1
        if self._events > MAX_EVENTS:
            raise Violation(f"the run goes on without end: {MAX_EVENTS} events")
        commands = self.core.handle(event, self.now)
        if self.trace is not None:
            self.trace.append(f"{self.now:.6f} {event!r} -> {commands!r}")
        if isinstance(event, ev.BatchReported | ev.BatchWasLost):
            self._land(event, commands)
        for command in commands:
            self.ledger.check_open(command)
            self._perform(command)
        if self.core.is_stalled():
            raise Violation(f"the core has stalled after {event}")

    def _land(self, event: ev.BatchReported | ev.BatchWasLost, commands: list[ev.Command]) -> None:
        """The batch's flight is over; where it was reported, the commit must be there before all else."""
        batch = event.report.batch if isinstance(event, ev.BatchReported) else event.batch
        if batch not in self.ledger.flying:
            if any(isinstance(command, ev.CommitReport) for command in commands):
                raise Violation(f"a late report of batch {batch} was committed")
            return
        if isinstance(event, ev.BatchReported):
            first = commands[0] if commands else None
            if not isinstance(first, ev.CommitReport) or first.report is not event.report:
                raise Violation(f"the report of batch {batch} was not committed before all else, but {first}")
            self.ledger.commit(first, self.now)
            del commands[0]
        self.ledger.land(batch)

    def _perform(self, command: ev.Command) -> None:
        ledger = self.ledger
        match command:
            case ev.SubmitBatch():
                ledger.submit(command, self.now, self.capacity)
                self._batches += 1
                self._start(command)
            case ev.CommitReport():
                raise Violation(f"a report of batch {command.report.batch} was committed late or twice")
            case ev.ItemsEnded():
                ledger.end_items(command)
            case ev.NodeChanged():
                ledger.change_node(command)
                if command.code in FINAL_CODES:
                    self._node_ended(command.node, command.code)
            case ev.NodeFailed():
                ledger.failed_whole.add(command.node)
            case ev.GraftItem():
                self._graft(command)
            case ev.Alias():
                if ledger.outcomes.get(command.root) not in (Code.COMPLETED, Code.CACHED):
                    raise Violation(f"{command} stands for a node that did not succeed")
            case ev.SetTimer():
                self._set_timer(command.at)
            case ev.PullSource():
                self._pull(command)
            case ev.StopBatches():
                self._is_hard = command.hard
            case ev.FinishRun():
                ledger.end_run(command)

    def _set_timer(self, moment: float) -> None:
        self._timer = moment

        def ring() -> ev.Event | None:
            if self._timer != moment:
                return None
            self._timer = None
            return ev.TimerDue()

        self._at(max(moment, self.now), ring)

    def _set_capacity(self, event: ev.CapacitySet) -> ev.Event:
        self.capacity = event.capacity
        return event

    def _stop(self, is_hard: bool) -> ev.Event | None:
        if self.ledger.finish is not None:
            return None
        self.ledger.is_stopping = True
        return ev.StopRequested(is_hard)

    # -- the flow's body --------------------------------------------------------------------------------

    def _next_round(self) -> ev.Event:
        scenario = self.scenario
        if self._rounds == len(scenario.rounds):
            self._is_closed = True
            return ev.RecordingClosed()
        nodes = scenario.rounds[self._rounds]
        self.ledger.record(nodes)
        self._rounds += 1
        if self._rounds == len(scenario.rounds) or scenario.forced[self._rounds - 1] is None:
            self._at(self.now + self.rng.random(), self._next_round)
        elif scenario.forced[self._rounds - 1] in self.ledger.outcomes:
            self._at(self.now, self._next_round)
        return ev.NodesRecorded(nodes)

    def _node_ended(self, node: int, code: int) -> None:
        if node in self.scenario.seen_by_body and (code in FAILED_CODES or node in self.ledger.failed_whole):
            self._at(self.now, partial(self._look, node))
        turn = self._rounds
        if turn < len(self.scenario.rounds) and self.scenario.forced[turn - 1] == node:
            self._at(self.now, self._next_round)

    def _look(self, node: int) -> ev.Event | None:
        """The body looks at a node's failure, if it has not ended by now."""
        if self._is_closed:
            return None
        self._seen.append((node, None))
        return ev.FailureHandled(node)

    def _graft(self, command: ev.GraftItem) -> None:
        fragment: Fragment = command.fragment
        if fragment is not self.scenario.fragments[command.node, command.index]:
            raise Violation(f"{command} asks for the fragment of another item")

        def decoded() -> ev.Event:
            if fragment.is_broken:
                return ev.Grafted(node=command.node, index=command.index, failed=True)
            self.ledger.record(fragment.nodes)
            self.ledger.aliases[command.node, command.index] = fragment.root
            return ev.Grafted(node=command.node, index=command.index, nodes=fragment.nodes, root=fragment.root)

        self._at(self.now + self.rng.random() * 0.3, decoded)

    def _pull(self, command: ev.PullSource) -> None:
        place = (command.node, command.slot)
        script = self.scenario.iterators[place]
        given = self._pulled.get(place, 0)
        if command.count < 1:
            raise Violation(f"{command} asks for nothing")
        if place in self._pulled and given < 0:
            raise Violation(f"{command} asks an iterator that has ended")
        # In chunks that have nothing to do with what was asked for.
        count = min(command.count, self.rng.choice((1, 2, 5, 100)), script.length - given)
        ended = given + count == script.length and self.rng.random() < 0.7
        self._pulled[place] = -1 if ended else given + count
        event = ev.SourceAdvanced(
            node=command.node,
            slot=command.slot,
            count=count,
            ended=ended and not script.raises,
            failed=ended and script.raises,
        )
        self._soon(event, 0.1)

    # -- the backend's part -----------------------------------------------------------------------------

    def _start(self, order: ev.SubmitBatch) -> None:
        script = self.scenario.scripts[order.nodes[0]]
        delay = len(order.indices) * script.seconds
        if self.scenario.faults.is_scattered:
            delay += self.rng.random() * self.rng.choice((0.1, 1.0, 3.0))
        self._at(self.now + delay, lambda: self._finish(order))

    def _finish(self, order: ev.SubmitBatch) -> ev.Event:
        faults, rng = self.scenario.faults, self.rng
        if self.now < faults.calm_after and rng.random() < faults.loses and not self.ledger.is_stopping:
            lost = self._lose(order)
            if lost is not None:
                return lost
        reached = len(order.indices)
        if self.ledger.is_stopping:
            reached = rng.randint(0, reached)
        elif rng.random() < faults.cuts:
            reached = rng.randint(1, reached)
        try:
            report = self._execute(order, reached)
        except _WorkerDied as death:
            return self._died(order, death.index)
        if rng.random() < faults.duplicates:
            self._soon(ev.BatchReported(report), 3.0)
        if rng.random() < faults.duplicates:
            self._soon(ev.BatchWasLost(batch=order.batch), 3.0)
        return ev.BatchReported(report)

    def _lose(self, order: ev.SubmitBatch) -> ev.Event | None:
        """Lose a batch: before it began, with its worker, or its report alone.

        An item that was under suspicion once is spared, so that only what kills its workers is found guilty.
        """
        rng, faults = self.rng, self.scenario.faults
        if rng.random() < 0.3:
            return ev.BatchWasLost(batch=order.batch, had_started=False)
        position = rng.randrange(len(order.indices))
        suspects = order.indices[position : position + 1] if faults.has_journal else order.indices
        if any((node, index) in self.ledger.deaths for node in order.nodes for index in suspects):
            return None
        keeps_report = not faults.has_journal and rng.random() < 0.5
        try:
            report = self._execute(order, len(order.indices) if keeps_report else position + 1)
        except _WorkerDied as death:
            return self._died(order, death.index)
        if keeps_report and rng.random() < 0.5:
            self._soon(ev.BatchReported(report), 3.0)
        return self._died(order, order.indices[position])

    def _died(self, order: ev.SubmitBatch, index: int) -> ev.Event:
        for place in self._executing:
            self._lost[place] = self._lost.get(place, 0) + 1
        has_journal = self.scenario.faults.has_journal
        for node in order.nodes:
            for each in (index,) if has_journal else order.indices:
                self.ledger.deaths[node, each] = self.ledger.deaths.get((node, each), 0) + 1
        if has_journal:
            return ev.BatchWasLost(batch=order.batch, executing=index, had_started=True)
        return ev.BatchWasLost(batch=order.batch, had_started=self.rng.choice((None, True)))

    # -- the runner's part ------------------------------------------------------------------------------

    def _execute(self, order: ev.SubmitBatch, reached: int) -> Report:
        """Run the first `reached` items, task by task, as a worker does."""
        self._executing = []
        total = len(order.nodes)
        states = [bytearray(reached) for _ in range(total)]
        attempts = [bytearray(reached) for _ in range(total)]
        anomalies: list[list[Anomaly]] = [[] for _ in range(total)]
        grafts: list[list[Graft]] = [[] for _ in range(total)]
        lanes = [
            [
                order.nodes.index(dep.upstream)
                for dep in self.ledger.nodes[node].deps
                if dep.kind is DepKind.ITEMS and dep.upstream in order.nodes
            ]
            for node in order.nodes
        ]
        for position in range(reached):
            index = order.indices[position]
            for step in range(total):
                node = order.nodes[step]
                tried = order.tries[step]
                tries = 0 if tried is None else tried[position]
                attempts[step][position] = tries
                before = {states[lane][position] for lane in lanes[step]}
                if before & FAILED_CODES or Code.CANCELLED in before:
                    code = Code.CANCELLED if Code.CANCELLED in before else Code.UPSTREAM_FAILED
                elif before & _WAITING:
                    code = Code.PENDING
                elif Code.SKIPPED in before:
                    code = Code.SKIPPED
                elif self._is_hard and self.ledger.is_stopping and self.rng.random() < 0.3:
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
                info=self.scenario.scripts[node].info,
                anomalies=anomalies[step],
                grafts=grafts[step],
            )
            for step, node in enumerate(order.nodes)
        )
        elapsed = reached * self.scenario.scripts[order.nodes[0]].seconds
        return Report(batch=order.batch, worker="w", started=self.now, elapsed=elapsed, reached=reached, steps=steps)

    def _attempt(
        self, node: int, index: int, position: int, tries: int, anomalies: list[Anomaly], grafts: list[Graft]
    ) -> tuple[Code, int]:
        """Run one item of one task, with the retries that need no wait; its code, and its attempts in all."""
        script: NodeScript = self.scenario.scripts[node]
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
                # Some retries need no wait: these are made at once.
                delay = script.delay_seconds if attempt % 2 else 0.0
                anomalies.append(
                    Anomaly(
                        position=position,
                        attempt=attempt,
                        code=Code.AWAITING_RETRY if delay else Code.RETRYING,
                        started=self.now,
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
                    grafts.append(Graft(position=position, fragment=self.scenario.fragments[place]))
                    return Code.GRAFTED, attempt
                case "poison":
                    self._kills[place] = self._kills.get(place, 0) + 1
                    raise _WorkerDied(index)
                case "pause":
                    if attempt > item.failures + 1:
                        return Code.COMPLETED, attempt
                    anomalies.append(
                        Anomaly(
                            position=position, attempt=attempt, code=Code.PAUSED, started=self.now, duration=0.0
                        )
                    )
                    self._at(self.now + 1.0 + self.rng.random() * 5, self._resume)
                    return Code.PAUSED, attempt

    def _resume(self) -> ev.Event:
        self.ledger.resume()
        return ev.ResumeRequested()

    # -- the end ----------------------------------------------------------------------------------------

    def _check_books(self) -> None:
        """The core's books agree with what it told, and its counts with its states."""
        for id_, book in self.core.books.items():
            told = self.ledger.states[id_]
            if any(code != told.get(index, 0) for index, code in enumerate(book.states)):
                raise Violation(f"the books of node {id_} say {[*book.states]}; what was committed is {told}")
            for code in Code:
                if code is not Code.PENDING and book.counts[code] != book.states.count(code):
                    raise Violation(f"node {id_} counts {book.counts[code]} {code.name} in {[*book.states]}")
            if book.ended != len(book.states) or (book.width or 0) != len(book.states):
                raise Violation(f"node {id_} of width {book.width} counts {book.ended} ended in {[*book.states]}")

    def _check_end(self) -> None:
        finish = self.ledger.finish
        assert finish is not None
        oracle = Oracle(self.scenario)
        if self.ledger.is_stopping:
            self._check_stopped(oracle, Code(finish.code))
            return
        if set(oracle.expected) != set(self.ledger.outcomes):
            raise Violation(f"nodes {sorted(self.ledger.outcomes)} ended; expected were {sorted(oracle.expected)}")
        for id_, expected in oracle.expected.items():
            found = [self.ledger.states[id_][index] for index in range(len(self.ledger.states[id_]))]
            if found != expected.items or self.ledger.outcomes[id_] != expected.code:
                raise Violation(
                    f"node {id_} ended {Code(self.ledger.outcomes[id_]).name} {_names(found)}; "
                    f"expected was {expected.code.name} {_names(expected.items)}"
                )
            self._check_attempts(id_, expected.attempts)
            self._check_roots(id_, found)
        unhandled = oracle.unhandled(self._seen)
        if tuple(sorted(finish.unhandled)) != unhandled:
            raise Violation(f"failures of nodes {finish.unhandled} were seen by nobody; expected was {unhandled}")
        code = Code.FAILED if unhandled else Code.COMPLETED
        if finish.code != code:
            raise Violation(f"the run ended {Code(finish.code).name}; expected was {code.name}")

    def _check_attempts(self, id_: int, expected: list[int]) -> None:
        script = self.scenario.scripts[id_]
        for index, attempts in enumerate(expected):
            place = (id_, index)
            deaths = self.ledger.deaths.get(place, 0)
            found = self.ledger.attempts[id_].get(index, 0)
            executed = self.executions.get(place, 0)
            then = script.item(index).then if script.item(index).failures <= script.retries else "fail"
            if then == "poison":
                # Nothing of its last attempt is ever reported.
                kills = self._kills.get(place, 0)
                if kills > deaths or (self.scenario.faults.has_journal and kills > 2):
                    raise Violation(f"item {index} of node {id_} was allowed to kill {kills} workers")
                continue
            if not attempts <= found <= attempts + min(deaths, 1):
                raise Violation(f"item {index} of node {id_} has {found} attempts on record; expected were {attempts}")
            reported = executed - self._lost.get(place, 0)
            if not reported <= found <= reported + deaths:
                raise Violation(f"item {index} of node {id_} was executed {executed} times in {found} attempts")

    def _check_roots(self, id_: int, found: list[int]) -> None:
        """Each upstream failure leads to a failure that is nobody else's."""
        for index in [i for i, code in enumerate(found) if code == Code.UPSTREAM_FAILED][:2]:
            root, item, _ = self.core.root_of(id_, index)
            codes = self.ledger.states[root]
            code = codes.get(item, 0) if item is not None else self.ledger.outcomes[root]
            if root not in self.ledger.failed_whole and (code == Code.UPSTREAM_FAILED or code not in FAILED_CODES):
                raise Violation(f"item {index} of node {id_} names item {item} of node {root} as its root, which is {code}")

    def _check_stopped(self, oracle: Oracle, code: Code) -> None:
        """What ended before the stop ended as expected; the rest is Cancelled."""
        cancelled = False
        for id_, states in self.ledger.states.items():
            expected = oracle.expected.get(id_)
            cancelled = cancelled or self.ledger.outcomes[id_] == Code.CANCELLED or Code.CANCELLED in states.values()
            for index, found in states.items():
                if found == Code.CANCELLED:
                    continue
                if expected is None or index >= len(expected.items) or found != expected.items[index]:
                    raise Violation(f"item {index} of node {id_} ended {Code(found).name} in a run that was stopped")
        if (code is Code.CANCELLED) != cancelled:
            raise Violation(f"a run that was stopped ended {code.name}; was anything cancelled: {cancelled}")


def _names(codes: list[int] | list[Code]) -> str:
    return "[" + ", ".join(Code(code).name for code in codes) + "]"
