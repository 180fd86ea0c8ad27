"""One launch of a simulated run: a driver that goes step by step, so that it can die or fall asleep at any of them."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from graphflow.core import events as ev
from graphflow.core.core import Core
from graphflow.core.nodes import Past
from graphflow.driver.bookkeeping import Bookkeeper
from graphflow.driver.dispatch import Dispatcher, Persistence
from graphflow.driver.recovery import Recovery
from graphflow.driver.turns import Turns
from graphflow.errors import GraphflowError
from graphflow.graph.mapping import DROPPED, FailedInput
from graphflow.model.orders import BatchOrder, BundleOrder, Earlier, Lane, Ref
from graphflow.model.reports import Report, StepReport
from graphflow.model.states import FINAL_CODES, GOOD_CODES, Code
from graphflow.ports import BatchLost
from graphflow.records.item_index import MemoryHistory
from graphflow.results.packs import packs
from graphflow.results.packs.pickling import decode, encode
from graphflow.runner.columns import read_stored
from graphflow.runner.inputs import Constant, digested, ready_inputs
from simulator.ledger import Ledger, Violation, places_at
from simulator.scenarios import Scenario
from simulator.simulated_results import VolatileStore
from simulator.simulated_workers import SimulatedWorkers, WorkerDied
from simulator.simulation import Simulation
from simulator.small_scenarios import FAILURE, element_of, value_of

__all__ = ["SimulatedDriver"]

_VALUED = (Code.COMPLETED, Code.CACHED)
_NONE = Ref(kind="local", id="none", count=1, data=[None])


class _LaunchLedger(Ledger):
    """A ledger that begins with what earlier launches ended: each such item may be taken over, or end anew."""

    def __init__(self) -> None:
        super().__init__()
        self.core: Core | None = None
        self.taken: dict[int, set[int]] = {}
        """Items that ended before, and were neither sent nor ended in this launch."""
        self._before: dict[int, dict[int, int]] = {}

    def take_over(self, pasts: Mapping[int, Past]) -> None:
        """What is left of nodes that were recorded."""
        for node, past in pasts.items():
            states = {index: code for index, code in enumerate(past.states) if code}
            self.states[node] = states
            self._before[node] = {**states}
            self.taken[node] = {*states}
            self.attempts[node] = {index: count for index, count in enumerate(past.attempts) if count}

    def is_ended(self, node: int, index: int) -> bool:
        """Whether an item has ended in this launch, or was taken over by now."""
        if index in self.taken.get(node, ()):
            assert self.core is not None
            states = self.core.books[node].states
            return index < len(states) and states[index] in FINAL_CODES
        return super().is_ended(node, index)

    def _forget(self, node: int, index: int) -> None:
        taken = self.taken.get(node)
        if taken and index in taken:
            taken.discard(index)
            self.states[node].pop(index, None)
            self.attempts[node].pop(index, None)

    def submit(self, order: ev.SubmitBatch, now: float, capacity: Any) -> None:
        for at in range(len(order.indices)):
            for node, index in places_at(order, at):
                self._forget(node, index)
        super().submit(order, now, capacity)

    def _set(self, node: int, index: int, code: int) -> None:
        self._forget(node, index)
        super()._set(node, index, code)

    def change_node(self, command: ev.NodeChanged) -> None:
        if command.code in FINAL_CODES and self.is_stopping:
            # What was to be made again for its value alone stays as it was.
            for index, code in self._before.get(command.node, {}).items():
                if index not in self.states[command.node] and not self.attempts[command.node].get(index):
                    self.states[command.node][index] = code
        if command.code in FINAL_CODES:
            for index in [*self.taken.get(command.node, ())]:
                if command.width is None or index >= command.width:
                    self._forget(command.node, index)
        super().change_node(command)


class _LaunchWorkers(SimulatedWorkers):
    """Workers whose items have values, which they publish before they report."""

    def __init__(self, driver: SimulatedDriver, **given: Any) -> None:
        super().__init__(**given)
        self._driver = driver
        self.orders: dict[int, BatchOrder] = {}
        self._values: dict[int, dict[int, Any]] = {}
        """Of batches whose positions are nodes, what these made."""

    def report(self, order: ev.SubmitBatch) -> Report | None:
        """What a batch would report by itself; None if it kills its worker."""
        try:
            return self._execute(order, sorted(self._ledger.out[order.batch]))
        except WorkerDied:
            return None

    def _execute(self, order: ev.SubmitBatch, positions: Sequence[int]) -> Report:
        report = super()._execute(order, positions)
        for node, index in self._executing:
            self._driver.executed(node, index)
        return self._with_values(report, order, positions)

    def _with_values(self, report: Report, order: ev.SubmitBatch, positions: Sequence[int]) -> Report:
        sent = self.orders[order.batch]
        try:
            ready = ready_inputs(sent, self._driver.column)
        except GraphflowError as error:
            if self._driver.is_zombie:
                # What the new driver lost meanwhile is nothing to this one, whose reports nobody believes.
                return report
            raise Violation(f"an input of batch {order.batch} is not there: {error}") from error
        if sent.bundle is not None:
            return self._published_bundle(report, sent, sent.bundle, ready)
        columns: list[list[Any]] = []
        for step, told in zip(sent.steps, report.steps, strict=True):
            info = self._scenario.scripts[step.node].info
            column: list[Any] = []
            for place, position in enumerate(positions):
                if told.states[place] not in _VALUED:
                    column.append(None)
                    continue
                arguments = [
                    columns[slot.step][place]
                    if isinstance(slot, Lane)
                    else each.value
                    if isinstance(each := ready[slot], Constant)
                    else each[position]
                    for slot in step.slots
                ]
                lost = [each for each in arguments if type(each) is FailedInput]
                if lost and self._driver.is_zombie:
                    return report
                if lost:
                    raise Violation(f"an input of batch {order.batch} is not there: {lost[0].error}")
                if any(argument is DROPPED for argument in arguments):
                    raise Violation(
                        f"an input of item {order.indices[position]} of node {step.node} was dropped"
                    )
                column.append(value_of(step.node, order.indices[position], info, arguments))
            columns.append(column)
        return self._published(report, sent, columns, positions)

    def _published_bundle(
        self, report: Report, order: BatchOrder, bundle: BundleOrder, ready: Sequence[Any]
    ) -> Report:
        """The report of nodes that are not mapped, with a column for each."""
        values = self._values.setdefault(order.id, {})
        steps: list[StepReport] = []
        sections: list[packs.Section] = []
        places: list[int] = []
        for told in report.steps:
            at = bundle.nodes.index(told.node)
            if told.states[0] not in _VALUED:
                steps.append(replace(told, info=None))
                continue
            arguments = [
                values[bundle.nodes[slot.position]] if isinstance(slot, Earlier) else ready[slot].value
                for slot in bundle.slots[at]
            ]
            value = values[told.node] = value_of(told.node, 0, told.info, arguments)
            data, _ = encode([value])
            places.append(len(steps))
            sections.append(packs.Section(node=told.node, data=data, count=1, missing=[], is_whole=True))
            steps.append(replace(told, values=Ref(kind="local", id="", count=1, data=[value])))
        if sections and order.steps[0].persists:
            for place, stored in zip(places, self._driver.publish(sections, order), strict=True):
                steps[place] = replace(steps[place], stored=stored)
        return replace(report, steps=tuple(steps))

    def _published(
        self, report: Report, order: BatchOrder, columns: Sequence[list[Any]], positions: Sequence[int]
    ) -> Report:
        """The report with its values in a pack, as the runner writes them."""
        is_open = [
            any(told.states[place] not in GOOD_CODES for told in report.steps)
            for place in range(len(positions))
        ]
        steps: list[StepReport] = []
        sections: list[packs.Section] = []
        places: list[int] = []
        for step, told, column in zip(order.steps, report.steps, columns, strict=True):
            there = [
                told.states[place] in _VALUED and (step.keeps or is_open[place])
                for place in range(len(positions))
            ]
            kept = [
                value if is_there or step.keeps else DROPPED
                for value, is_there in zip(column, there, strict=True)
            ]
            values = Ref(kind="local", id="", count=len(kept), data=kept) if any(there) else None
            digests = digested(step, order) if step.wants_digests else b""
            digests = b"".join(digests[8 * at : 8 * at + 8] for at in positions)
            if any(there) and step.persists:
                data, _ = encode(kept)
                dropped = [place for place, value in enumerate(kept) if value is DROPPED]
                places.append(len(steps))
                sections.append(
                    packs.Section(
                        node=step.node, data=data, count=len(kept), missing=dropped, is_whole=not dropped
                    )
                )
            # A fragment has no value that anything could be mapped over, until its root has one.
            info = told.info if any(code in _VALUED for code in told.states) else None
            steps.append(replace(told, values=values, digests=digests, info=info))
        if sections:
            for place, stored in zip(places, self._driver.publish(sections, order), strict=True):
                steps[place] = replace(steps[place], stored=stored)
        return replace(report, steps=tuple(steps))


class SimulatedDriver(Simulation):
    """A driver of a run, performed as `graphflow.driver.driver` performs one.

    Parameters
    ----------
    scenario
        What is run.
    number
        Which launch this is, from 1.
    start
        When it begins.
    books, recovery
        The run's durable books, and what was left.
    store
        Where values are written.
    make_core
        The core's class.
    on_told
        Called with each command that is about to be performed.
    on_executed
        Called with each item that was executed.
    """

    def __init__(
        self,
        scenario: Scenario,
        *,
        number: int,
        start: float,
        books: Bookkeeper,
        recovery: Recovery | None,
        store: VolatileStore,
        make_core: Callable[..., Core],
        wall: Callable[[], float],
        on_told: Callable[[SimulatedDriver, ev.Command], None],
        on_executed: Callable[[SimulatedDriver, int, int], None],
    ) -> None:
        self.number = number
        self.epoch = books.journal.epoch
        self.store = store
        self._wall = wall
        self._on_told = on_told
        self._on_executed = on_executed
        batches = 0 if recovery is None else recovery.replay.batches
        super().__init__(scenario, make_core=make_core, batches=batches)
        self.clock.now = start
        self.books = books
        self.recovery = recovery
        self.history = MemoryHistory()
        self.turns = Turns(
            self.core, self.history, column=self.column, books=books, recovery=recovery, wall=wall
        )
        self.dispatcher = Dispatcher(
            run_id="run",
            core=self.core,
            history=self.history,
            filler=_NONE,
            failure=lambda node, index: FAILURE,
            persistence=Persistence(store=store, epoch=self.epoch, compares=True),
        )
        self.turn: Iterator[str] | None = None
        self._inbox: deque[ev.Event] = deque()
        self._is_due = False
        self._given: dict[tuple[int, int], int] = {}
        self.is_zombie = False
        """Whether another driver has the run."""
        self.is_over = False
        """Whether nothing more comes of it: it finished, died or failed."""
        self._begin(start)

    def _make_ledger(self) -> Ledger:
        ledger = _LaunchLedger()
        ledger.core = self.core
        return ledger

    def _make_rng(self) -> random.Random:
        return random.Random(self.scenario.seed * 100 + self.number)

    def _make_workers(self) -> SimulatedWorkers:
        self.launch_workers = _LaunchWorkers(
            self, scenario=self.scenario, ledger=self.ledger, clock=self.clock, rng=self.rng
        )
        return self.launch_workers

    # -- steps ------------------------------------------------------------------------------------------

    @property
    def due(self) -> float | None:
        """When its next step is; None if nothing is left to do."""
        if self.is_over:
            return None
        return self.clock.now if self.turn is not None else self.clock.due

    def step(self) -> str:
        """Go one step; gives the name of the point that was reached, empty for none.

        Raises
        ------
        LeaseLost, HistoryError
            If it could not commit.
        """
        if self.turn is not None:
            point = next(self.turn, None)
            if point is not None:
                return point
            self.turn = None
            return ""
        event = self.clock.advance()
        if event is not None:
            self.deliver(event)
        return ""

    def deliver(self, event: ev.Event) -> None:
        """An event arrives; it is handled in a turn, alone or with others."""
        self._inbox.append(event)
        if not self._is_due:
            self._is_due = True
            self.clock.at(self.clock.now + self.rng.choice((0.0, 0.0, 0.02)), self._begin_turn)

    def _begin_turn(self) -> None:
        self._is_due = False
        if self._inbox and not self.is_over:
            self.turn = self._take_turn()

    def _take_turn(self) -> Iterator[str]:
        """All that waits goes to the core; what it commands is committed, and then told, one by one."""
        handled: list[tuple[ev.Event, Sequence[ev.Command], Mapping[int, Past]]] = []
        while self._inbox:
            event = self._inbox.popleft()
            pasts: Mapping[int, Past] = {}
            if isinstance(event, ev.NodesRecorded):
                pasts = self.turns.recorded(event.nodes)
                event = replace(event, pasts=pasts)
            elif isinstance(event, ev.Grafted) and event.nodes:
                pasts = self.turns.recorded(event.nodes, (event.node, event.index))
                event = replace(event, pasts=pasts)
            taken = {node: _copied(past) for node, past in pasts.items()}
            yield f"take {type(event).__name__}"
            if isinstance(event, ev.BatchWasLost):
                lost = BatchLost(batch=event.batch, executing=event.executing, had_started=event.had_started)
                commands = self.turns.lost(lost, self.clock.now)
            else:
                commands = self.turns.handle(event, self.clock.now)
            handled.append((event, commands, taken))
        yield "commit"
        booked = self.turns.commit()
        yield "committed"
        if booked != [command for _, commands, _ in handled for command in commands]:
            raise Violation("what may be told is not what was booked")
        for event, commands, left in handled:
            assert isinstance(self.ledger, _LaunchLedger)
            self.ledger.take_over(left)
            self._note(event)
            yield from self._settled(event, commands)
        if not self._inbox and self.core.is_stalled():
            raise Violation(f"the core has stalled after {handled[-1][0]}")

    def _settled(self, event: ev.Event, commands: Sequence[ev.Command]) -> Iterator[str]:
        """What `Simulation._settle` does, with a point before each command."""
        rest = [*commands]
        if isinstance(event, ev.BatchReported | ev.BatchWasLost):
            if rest and isinstance(rest[0], ev.CommitReport):
                self._on_told(self, rest[0])
            self._land(event, rest)
        for command in rest:
            yield f"tell {type(command).__name__}"
            self._on_told(self, command)
            self.ledger.check_open(command)
            self._perform(command)
        for id_ in self._read:
            self._read_on(id_)

    # -- what commands ask for --------------------------------------------------------------------------

    def _perform(self, command: ev.Command) -> None:
        if isinstance(command, ev.SubmitBatch):
            try:
                order = self.dispatcher.order(command)
            except GraphflowError as error:
                raise Violation(f"batch {command.batch} cannot be made: {error}") from error
            self.launch_workers.orders[command.batch] = order
        super()._perform(command)

    def _pull(self, command: ev.PullSource) -> None:
        place = (command.node, command.slot)
        before = self._given.get(place, 0)
        super()._pull(command)
        # What was given is told with the event; the values are in the buffer by then.
        after = self._pulled[place]
        script = self.scenario.iterators[place]
        count = (script.length if after < 0 else after) - before
        self._given[place] = before + count
        values = [element_of(command.node, command.slot, index) for index in range(before, before + count)]
        self.dispatcher.buffers.setdefault(place, {}).update(enumerate(values, before))
        node = self.core.books[command.node].node
        self.turns.check_source(node, command.slot, before, values, has_ended=after < 0 and not script.raises)

    def column(self, ref: Ref) -> list[Any]:
        """The values of a column."""
        if ref.kind == "local":
            values: list[Any] = ref.data
            return values
        return decode(read_stored(ref), "a column")

    def publish(self, sections: Sequence[packs.Section], order: BatchOrder) -> list[Any]:
        """Write a pack."""
        return packs.publish(self.store, sections, run_id=order.run_id, batch=order.id, epoch=order.epoch)

    def executed(self, node: int, index: int) -> None:
        """An item was executed, at one attempt."""
        self._on_executed(self, node, index)

    def value(self, node: int, index: int) -> Any:
        """The value of an item that ended well; raises `Violation` if it is not there."""
        place = self.history.node(node).place(index)
        if place is None or place.ref.kind == "gone":
            raise Violation(f"the value of item {index} of node {node} is not there")
        try:
            value = self.column(place.ref)[place.position]
        except GraphflowError as error:
            raise Violation(f"the value of item {index} of node {node} cannot be read: {error}") from error
        if value is DROPPED:
            raise Violation(f"the value of item {index} of node {node} was dropped")
        return value

    def orphans(self) -> list[ev.Event]:
        """What batches that are under way will report, or that they are lost, when nobody waits for them any more."""
        events: list[ev.Event] = []
        for batch, order in self.ledger.flying.items():
            draw = self.rng.random()
            if draw < 0.3:
                events.append(ev.BatchWasLost(batch=batch, executing=order.indices[0], had_started=True))
            elif draw < 0.6:
                report = self.launch_workers.report(order)
                if report is not None:
                    events.append(ev.BatchReported(report))
        return events

    # -- from outside -----------------------------------------------------------------------------------

    def stop_at(self, moment: float, *, hard: bool) -> None:
        """Somebody stops the run."""
        self.clock.at(moment, partial(self._stop, hard))

    def pause_at(self, moment: float, seconds: float) -> None:
        """Somebody pauses the run for a while."""
        self.clock.at(moment, lambda: ev.PauseRequested())
        self.clock.at(moment + seconds, lambda: ev.PauseRequested(is_paused=False))


def _copied(past: Past) -> Past:
    return replace(past, states=bytearray(past.states), attempts=bytearray(past.attempts))
