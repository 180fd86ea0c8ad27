"""The simulator: the engine's core under a virtual clock, with a backend that misbehaves by a seed.

`simulate(seed)` makes a random graph, runs it to its end and checks every command against the promises of
the engine (`simulator.ledger`) and every end against a plain reading of the rules
(`simulator.oracle`). The same seed gives the same trace, so a seed that fails is a test. The idea:
FoundationDB's simulated cluster.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from graphflow.core import events as ev
from graphflow.core.core import Core
from graphflow.graph.graph import DepKind
from graphflow.model.states import FAILED_CODES, FINAL_CODES, Code
from simulator.inspector import Inspector
from simulator.ledger import Ledger, Violation
from simulator.scenarios import Fragment, Scenario, random_scenario
from simulator.shared import SharedLimits
from simulator.simulated_workers import SimulatedWorkers
from simulator.virtual_time import VirtualClock

__all__ = ["Outcome", "Simulation", "Violation", "simulate"]

MAX_EVENTS = 20_000


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What a simulated run came to."""

    scenario: Scenario
    states: dict[int, dict[int, int]]
    """The code of each item, by node and index."""
    attempts: dict[int, dict[int, int]]
    """Attempts on record, by node and index, of the items that had any."""
    nodes: dict[int, int]
    """The code of each node."""
    executions: dict[tuple[int, int], int]
    """How often each item was executed, also where the report got lost."""
    batches: int
    events: int
    seconds: float
    """Virtual."""
    trace: list[str] = field(default_factory=list)


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
        raise Violation(f"seed {scenario.seed}, after {simulation.clock.now:.3f} s: {error}") from error
    except Exception as error:
        text = f"the core raised {type(error).__name__}: {error}"
        raise Violation(f"seed {scenario.seed}, after {simulation.clock.now:.3f} s: {text}") from error


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
    batches
        The last number that a batch of an earlier launch had.
    """

    def __init__(
        self,
        scenario: Scenario,
        *,
        make_core: Callable[..., Core] = Core,
        keeps_trace: bool = False,
        batches: int = 0,
    ) -> None:
        self.scenario = scenario
        self.core = make_core(capacity=scenario.capacity, batches=batches)
        self.ledger = self._make_ledger()
        self.rng = self._make_rng()
        self.clock = VirtualClock()
        self.workers = self._make_workers()
        self.inspector = Inspector(
            scenario=scenario, core=self.core, ledger=self.ledger, workers=self.workers
        )
        self.shared = SharedLimits(
            scenario.shared, core=self.core, ledger=self.ledger, clock=self.clock, seed=scenario.seed
        )
        self.capacity = scenario.capacity
        self.trace: list[str] | None = [] if keeps_trace else None
        self._events = 0
        self._batches = 0
        self._pulled: dict[tuple[int, int], int] = {}
        self.seen: list[tuple[int, bool]] = []
        self._rounds = 0
        self._is_closed = False
        self._read: dict[int, int] = {}
        self._limits: dict[int, int] = {}
        self._postponed = 0
        self.has_given_up = False
        """Whether an iterator was not read to its end."""
        self._alone = {
            source: id_
            for id_ in self.scenario.readers
            if self.scenario.is_read_alone(id_)
            for source in self.scenario.behind(id_)
        }
        self._timer: float | None = None

    def _make_ledger(self) -> Ledger:
        return Ledger()

    def _make_rng(self) -> random.Random:
        return random.Random(~self.scenario.seed)

    def _make_workers(self) -> SimulatedWorkers:
        return SimulatedWorkers(scenario=self.scenario, ledger=self.ledger, clock=self.clock, rng=self.rng)

    def run(self) -> Outcome:
        """Run to the end and check what it came to."""
        self._begin(self.clock.now)
        while self.clock:
            event = self.clock.advance()
            if event is not None:
                self._handle(event)
        if self.ledger.finish is None:
            open_nodes = sorted(set(self.ledger.nodes) - set(self.ledger.outcomes))
            raise Violation(f"the run never ended; open nodes: {open_nodes}")
        self.inspector.check_books()
        self.inspector.check_end(self.seen, is_exact=not self.has_given_up)
        return Outcome(
            scenario=self.scenario,
            states=self.ledger.states,
            attempts={
                node: {index: count for index, count in attempts.items() if count}
                for node, attempts in self.ledger.attempts.items()
            },
            nodes=self.ledger.outcomes,
            executions=self.workers.executions,
            batches=self._batches,
            events=self._events,
            seconds=self.clock.now,
            trace=self.trace or [],
        )

    def _begin(self, start: float) -> None:
        """Set what happens of itself, at times after `start`."""
        self.shared.begin(start)
        self.clock.at(start, self._next_round)
        faults = self.scenario.faults
        for moment, capacity in faults.capacities:
            self.clock.after(start + moment - self.clock.now, ev.CapacitySet(capacity))
        for moment, turn in self.scenario.turns:
            self.clock.at(start + moment, partial(self._turn, turn))
        if faults.stop_at is not None:
            self.clock.at(start + faults.stop_at, partial(self._stop, faults.is_hard))

    # -- the driver's part ------------------------------------------------------------------------------

    def _handle(self, event: ev.Event) -> None:
        self._note(event)
        self._settle(event, self.core.handle(event, self.clock.now))
        if self.core.is_stalled():
            raise Violation(f"the core has stalled after {event}")

    def _note(self, event: ev.Event) -> None:
        """What the event itself changes, for the ledger and the workers."""
        self._events += 1
        if self._events > MAX_EVENTS:
            raise Violation(f"the run goes on without end: {MAX_EVENTS} events")
        match event:
            case ev.ReaderMoved():
                self._limits[event.node] = max(event.limit, self._limits.get(event.node, 0))
            case ev.CapacitySet():
                self.capacity = event.capacity
            case ev.MapOptionsChanged():
                self.ledger.turn(event)
            case ev.StopRequested():
                self.ledger.is_stopping = True
            case ev.ResumeRequested():
                self.ledger.resume()

    def _settle(self, event: ev.Event, commands: Sequence[ev.Command]) -> None:
        """Check what the core commanded, and perform it."""
        commands = [*commands]
        if self.trace is not None:
            self.trace.append(f"{self.clock.now:.6f} {event!r} -> {commands!r}")
        if isinstance(event, ev.BatchReported | ev.BatchWasLost):
            self._land(event, commands)
        for command in commands:
            self.ledger.check_open(command)
            self._perform(command)
        for id_ in self._read:
            self._read_on(id_)

    def _land(self, event: ev.BatchReported | ev.BatchWasLost, commands: list[ev.Command]) -> None:
        """The batch's flight is over; where it was reported, the commit must be there before all else."""
        batch = event.report.batch if isinstance(event, ev.BatchReported) else event.batch
        if batch not in self.ledger.flying or (
            isinstance(event, ev.BatchReported) and not self.ledger.is_due(event.report)
        ):
            if any(isinstance(command, ev.CommitReport) for command in commands):
                raise Violation(f"a late report of batch {batch} was committed")
            return
        if isinstance(event, ev.BatchReported):
            first = commands[0] if commands else None
            if not isinstance(first, ev.CommitReport) or first.report is not event.report:
                raise Violation(f"the report of batch {batch} was not committed before all else, but {first}")
            self.ledger.commit(first, self.clock.now)
            del commands[0]
        self.ledger.land(batch, event.report.held if isinstance(event, ev.BatchReported) else ())

    def _perform(self, command: ev.Command) -> None:
        ledger = self.ledger
        match command:
            case ev.SubmitBatch():
                ledger.submit(command, self.clock.now, self.capacity)
                self._batches += 1
                self.workers.start(command)
            case ev.CommitReport():
                raise Violation(f"a report of batch {command.report.batch} was committed late or twice")
            case ev.ItemsEnded():
                ledger.end_items(command)
            case ev.NodeChanged():
                ledger.change_node(command)
                if command.code in FINAL_CODES:
                    self.inspector.check_book(command.node)
                    self._node_ended(command.node, command.code)
            case ev.NodeFailed():
                ledger.failed_whole.add(command.node)
            case ev.GraftItem():
                self._graft(command)
            case ev.Alias():
                if ledger.outcomes.get(command.root) not in (Code.COMPLETED, Code.CACHED):
                    raise Violation(f"{command} stands for a node that did not succeed")
            case ev.CloseSource():
                self._close_source(command.node)
            case ev.LimitItems() | ev.ReleaseItems():
                pass
            case ev.SetTimer():
                self._set_timer(command.at)
            case ev.PullSource():
                self._pull(command)
            case ev.SlotsWanted():
                self.shared.wanted()
            case ev.ReserveSlots():
                self.shared.reserve(command)
            case ev.RecallBatches():
                ledger.recalled.update(command.batches)
            case ev.StopBatches():
                self.workers.is_hard = command.hard
            case ev.FinishRun():
                ledger.end_run(command)

    def _set_timer(self, moment: float) -> None:
        self._timer = moment

        def ring() -> ev.Event | None:
            if self._timer != moment:
                return None
            self._timer = None
            return ev.TimerDue()

        self.clock.at(moment, ring)

    def _turn(self, event: ev.MapOptionsChanged) -> ev.Event | None:
        if event.node not in self.ledger.nodes or self.ledger.finish is not None:
            return None
        return event

    def _stop(self, is_hard: bool) -> ev.Event | None:
        if self.ledger.finish is not None:
            return None
        return ev.StopRequested(is_hard)

    # -- the flow's body --------------------------------------------------------------------------------

    def _next_round(self) -> ev.Event | None:
        scenario = self.scenario
        if self._rounds == len(scenario.rounds):
            if any(self._is_reading(id_) for id_ in self._read):
                self._postponed += 1
                if self._postponed > MAX_EVENTS:
                    raise Violation(f"readers of {[*self._read]} wait for ever")
                self.clock.at(self.clock.now + 0.5, self._next_round)
                return None
            self._is_closed = True
            return ev.RecordingClosed()
        nodes = scenario.rounds[self._rounds]
        self.ledger.record(nodes)
        self._rounds += 1
        awaited = scenario.forced[self._rounds - 1] if self._rounds < len(scenario.rounds) else None
        if awaited is not None:
            # Whoever waits for a map needs all of it, whatever its reader does.
            self.clock.at(self.clock.now, partial(self._need, awaited))
            self._alone = {}
        if self._rounds == len(scenario.rounds) or scenario.forced[self._rounds - 1] is None:
            self.clock.at(self.clock.now + self.rng.random(), self._next_round)
        elif scenario.forced[self._rounds - 1] in self.ledger.outcomes:
            self.clock.at(self.clock.now, self._next_round)
        for node in nodes:
            if node.id in scenario.readers:
                self._read[node.id] = 0
                self.clock.at(self.clock.now, partial(self._move, node.id))
        return ev.NodesRecorded(nodes)

    # -- the body reads maps while they run -------------------------------------------------------------

    def _move(self, id_: int) -> ev.Event | None:
        if self.ledger.finish is not None:
            return None
        position = self._read[id_]
        limit = position + self.scenario.readers[id_].window
        return ev.ReaderMoved(node=id_, read=position, limit=limit)

    def _need(self, node: int) -> ev.Event | None:
        return None if self.ledger.finish is not None else ev.ItemsNeeded(node=node)

    def _is_reading(self, id_: int) -> bool:
        leaves_at = self.scenario.readers[id_].leaves_at
        has_left = leaves_at is not None and self._read[id_] >= leaves_at
        return not (has_left or self.ledger.is_stopping or id_ in self.ledger.outcomes)

    def _close_source(self, node: int) -> None:
        """An iterator may be given up if too much failed, or if a reader left it and all has been recorded."""
        left = [id_ for id_ in self._read if node in self.scenario.behind(id_) and not self._is_reading(id_)]
        self.has_given_up = True
        if not left and not self.scenario.may_halt:
            raise Violation(f"the iterator of node {node} was given up while somebody reads it")

    def _read_on(self, id_: int) -> None:
        """The reader takes what has ended, as far as it goes."""
        before = self._read[id_]
        while self._is_reading(id_) and self.ledger.is_ended(id_, self._read[id_]):
            self._read[id_] += 1
        if self._read[id_] > before:
            self.clock.at(self.clock.now + self.rng.random() * 0.3, partial(self._move, id_))

    def _node_ended(self, node: int, code: int) -> None:
        if node in self.scenario.seen_by_body and (code in FAILED_CODES or node in self.ledger.failed_whole):
            self.clock.at(self.clock.now, partial(self._look, node))
        turn = self._rounds
        if turn < len(self.scenario.rounds) and self.scenario.forced[turn - 1] == node:
            self.clock.at(self.clock.now, self._next_round)

    def _look(self, node: int) -> ev.Event | None:
        """The body looks at a node's failure, if it has not ended by now."""
        if self._is_closed:
            return None
        # Half of them are raised in the body, the others are taken as data.
        is_raised = node % 2 == 0
        self.seen.append((node, is_raised))
        return ev.FailureHandled(node, is_raised=is_raised)

    def _graft(self, command: ev.GraftItem) -> None:
        fragment: Fragment = command.fragment
        if fragment is not self.scenario.fragments[command.node, command.index]:
            raise Violation(f"{command} asks for the fragment of another item")

        def decoded() -> ev.Event:
            if fragment.is_broken:
                return ev.Grafted(node=command.node, index=command.index, failed=True)
            self.ledger.record(fragment.nodes)
            self.ledger.aliases[command.node, command.index] = fragment.root
            return ev.Grafted(
                node=command.node, index=command.index, nodes=fragment.nodes, root=fragment.root
            )

        self.clock.at(self.clock.now + self.rng.random() * 0.3, decoded)

    def _pull(self, command: ev.PullSource) -> None:
        place = (command.node, command.slot)
        script = self.scenario.iterators[place]
        given = self._pulled.get(place, 0)
        reader = self._alone.get(command.node)
        if reader is not None and reader in self._limits and given >= 0:
            # Another map that is read may be behind the same iterator.
            picked = [
                dep.index + 1
                for node in self.ledger.nodes.values()
                for dep in node.deps
                if dep.kind is DepKind.PICK and dep.index is not None
            ]
            limit = max(*picked, 0, *(self._limits.get(each, 0) for each in self.scenario.readers))
            if given + command.count > limit:
                raise Violation(f"{command} after {given} items is beyond what was asked for, {limit}")
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
        self.clock.after(self.rng.random() * 0.1, event)
