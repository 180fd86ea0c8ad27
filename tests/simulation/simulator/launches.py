"""Whole runs in several launches: drivers that die, fall asleep and wake up, and the next ones that resume.

`live(seed)` runs one seed: a small scenario, a history in memory, packs that get lost, and drivers that go step by
step. Between any two of their steps one may die, or be suspended until long after its lease has run out. At the end
everything must be as if nothing had happened. The same seed gives the same run.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from graphflow.core import events as ev
from graphflow.core.core import Core
from graphflow.driver.bookkeeping import Bookkeeper
from graphflow.driver.digesting import Digests
from graphflow.driver.recovery import Recovery, Selection
from graphflow.errors import HistoryError, LeaseHeld, LeaseLost
from graphflow.graph.graph import DepKind
from graphflow.histories.volatile import VolatileHistory
from graphflow.model.records import Launch, NodeNews, Record, Request, RunHeader
from graphflow.model.states import FAILED_CODES, FINAL_CODES, GOOD_CODES, Code
from graphflow.ports import Holder, Journal
from graphflow.records.codec import RecordWriter
from graphflow.records.replay import Replay
from graphflow.results.packs import packs
from simulator.chronicle import Chronicle
from simulator.digested import check_digests
from simulator.ledger import Violation
from simulator.scenarios import Faults, Scenario
from simulator.simulated_driver import SimulatedDriver
from simulator.simulated_results import VolatileStore
from simulator.small_scenarios import PlainValues, small_scenario, with_values

__all__ = ["LaunchesOutcome", "live"]

LEASE_SECONDS = 30.0
MAX_STEPS = 60_000
RUN = "01HZZZZZZZZZZZZZZZZZZZZZZZ"
WHOLE = -1
"""In place of an index: what a node as a whole is, such as its width."""
Place = tuple[int, int]


@dataclass(slots=True, kw_only=True)
class LaunchesOutcome:
    """What a run in several launches came to."""

    scenario: Scenario
    launches: int
    faults: list[str]
    """What went wrong, in order."""
    executions: dict[Place, int]
    commits: int
    steps: int
    is_exact: bool
    digests_used: int
    trace: list[str] = field(default_factory=list)


def live(seed: int, *, make_core: Callable[..., Core] = Core, keeps_trace: bool = False) -> LaunchesOutcome:
    """Run one seed through all its launches.

    Parameters
    ----------
    make_core
        The core to test.
    keeps_trace
        Whether the outcome tells each step as text.

    Raises
    ------
    Violation
        If a promise is broken; its text tells how to run the seed alone.
    """
    run = Launches(seed, make_core=make_core, keeps_trace=keeps_trace)
    try:
        return run.run()
    except Violation as error:
        raise Violation(f"{run.where()}: {error}") from error
    except Exception as error:
        raise Violation(f"{run.where()}: {type(error).__name__}: {error}") from error


class _Clock:
    """The time of all drivers."""

    def __init__(self) -> None:
        self.now = 0.0

    def wall(self) -> float:
        """Seconds since the simulation began, as if that were the epoch."""
        return 1_000_000.0 + self.now

    def steady(self) -> float:
        """The same without the epoch."""
        return self.now


class _WatchedJournal:
    """A journal whose commits the chronicle sees; one of them may fail."""

    def __init__(self, journal: Journal, chronicle: Chronicle) -> None:
        self.inner = journal
        self._chronicle = chronicle
        self.fails_in: int | None = None
        """How many commits from now on the disk is full."""
        self.run_id, self.epoch = journal.run_id, journal.epoch
        self.limiter = None

    def commit(self, records: Sequence[Record], *, state: str | None = None) -> int:
        """Commit, unless the disk is full."""
        if self.fails_in is not None:
            self.fails_in -= 1
            if self.fails_in < 0:
                self.fails_in = None
                raise HistoryError("the disk is full")
        seq = self.inner.commit(records, state=state)
        self._chronicle.committed(self.epoch, records)
        return seq

    @property
    def number(self) -> int:
        """The number of the last record."""
        return self.inner.number

    def summarize(self, text: str, *, at_once: bool = False) -> None:
        """No list is shown."""

    def tell(self, news: Sequence[NodeNews], *, left_out: int = 0) -> None:
        """No events are kept."""

    def renew(self) -> None:
        """Keep the lease."""
        self.inner.renew()

    def requests(self) -> list[Request]:
        """Nothing is ever asked."""
        return []

    def answer(self, request: int, error: str = "") -> None:
        """Nothing is ever asked."""

    def close(self) -> None:
        """Give the lease back."""
        self.inner.close()


@dataclass(slots=True)
class _Fate:
    """What becomes of a driver: `how` at the `count`-th step whose point begins with `point`."""

    how: str
    point: str = ""
    count: int = 0

    def strikes(self, point: str) -> bool:
        """Whether it is now."""
        if not point.startswith(self.point):
            return False
        self.count -= 1
        return self.count < 0


_POINTS = (
    "",
    "",
    "",
    "",
    "commit",
    "committed",
    "tell SubmitBatch",
    "tell NodeChanged",
    "tell GraftItem",
    "tell PullSource",
    "take BatchReported",
    "take NodesRecorded",
    "take Grafted",
    "take TimerDue",
    "take SourceAdvanced",
)


class Launches:
    """One run, from its first launch to its end.

    Parameters
    ----------
    seed
        What all chance follows from.
    make_core
        The core to test.
    keeps_trace
        Whether to keep each step as text.
    """

    def __init__(
        self, seed: int, *, make_core: Callable[..., Core] = Core, keeps_trace: bool = False
    ) -> None:
        self.seed = seed
        self.rng = random.Random(seed ^ 0x5EED)
        self.scenario = small_scenario(seed)
        self.clock = _Clock()
        self.store = VolatileStore()
        self.chronicle = Chronicle(self.store)
        self.history = VolatileHistory(
            clock=self.clock, lease_seconds=LEASE_SECONDS, holder=Holder("here", 1, "boot")
        )
        self.make_core = make_core
        self.trace: list[str] | None = [] if keeps_trace else None
        self.drivers: list[SimulatedDriver] = []
        """Those that are not over, the newest last."""
        self.fates: dict[int, _Fate] = {}
        self.faults: list[str] = []
        self.launches = 0
        self.steps = 0
        self.executions: dict[Place, int] = {}
        self._stale: dict[Place, int] = {}
        """Items that ended, and run again because they are to, or something before them does; with the commit since which."""
        self._changed: set[Place] = set()
        self._selected: list[Place] = []
        self._orphans: list[ev.Event] = []
        """What batches of dead drivers report to the next one."""
        self._begun = 0
        """The commit with which the newest launch began."""
        self._lengths: dict[Place, int] = {}
        self._deaths: dict[Place, int] = {}
        """How many workers an item may have killed, in all launches."""
        self._may_run: set[Place] = set()
        self.gone: set[Place] = set()
        """Items whose values were gone when the newest launch began."""
        self._renewed = 0.0
        self.is_exact = True
        """Whether all that the run comes to follows from the rules; not of a map that ended early, at some moment."""
        self._versions: dict[Place, int] = {}
        self._often = random.Random(seed ^ 0xD16E57)
        self._is_digested = self._often.random() < 0.25
        self.digests_used = 0
        """How often a reader used a digest."""
        self._nodes = {node.id: node for node in self.scenario.nodes}

    def where(self) -> str:
        """Where the run is, and how to run it alone."""
        told = f"live({self.seed}) in launch {self.launches}, after {self.clock.now:.3f} s"
        return f"{told}, with {', '.join(self.faults) or 'no fault'}"

    # -- the run ----------------------------------------------------------------------------------------

    def run(self) -> LaunchesOutcome:
        """Run to the end, and check what it came to."""
        for _ in range(self.rng.choice((1, 1, 1, 2, 2, 3, 5))):
            driver = self._next_launch(is_last=False, selections=self._selections())
            self._drive(driver)
            self._check_selected()
            self._between()
        driver = self._next_launch(is_last=True)
        self._drive(driver)
        self.is_exact = not (self.scenario.may_halt or driver.has_given_up)
        self._check_end(driver)
        return LaunchesOutcome(
            scenario=self.scenario,
            launches=self.launches,
            faults=self.faults,
            executions=self.executions,
            commits=self.chronicle.seq,
            steps=self.steps,
            digests_used=self.digests_used,
            is_exact=self.is_exact,
            trace=self.trace or [],
        )

    def _next_launch(self, *, is_last: bool, selections: Sequence[Selection] = ()) -> SimulatedDriver:
        self.launches += 1
        holder = Holder("here", self.launches, "boot")
        history = self.history.beside(holder)
        if self.launches == 1:
            header = RunHeader(id=RUN, name="run", flow_name="flow", host="here", pid=1)
            inner: Journal = history.create(header)
        else:
            inner = history.take(RUN)
        journal = _WatchedJournal(inner, self.chronicle)
        recovery, writer = None, RecordWriter()
        if self.launches > 1:
            replay = Replay(self.store, read=self.chronicle.read)
            for entry in history.read(RUN):
                replay.add(entry)
            if self._is_digested:
                self.digests_used += check_digests(history, RUN, replay)
            damaged = [each for each in replay.stored() if not packs.verify(self.store, each)]
            recovery = Recovery(replay, damaged=damaged, selections=selections)
            writer = RecordWriter.continuing(replay)
        books = Bookkeeper(
            journal,
            writer,
            numbers={} if recovery is None else recovery.numbers,
            wall=self.clock.wall,
            digests=self._digests(history),
        )
        books.begin(_launch(journal.epoch))
        if recovery is not None:
            books.run_moved(Code.RESUMING)
        books.commit()
        self._selected = [(int(each.node[1:]), index) for each in selections for index in each.indices or ()]
        self._note_what_is_left()
        if is_last:
            self.scenario = replace(self.scenario, faults=Faults(cuts=0.3))
        driver = SimulatedDriver(
            self.scenario,
            number=self.launches,
            start=self.clock.now,
            books=books,
            recovery=recovery,
            store=self.store,
            make_core=self.make_core,
            wall=self.clock.wall,
            on_told=self._told,
            on_executed=self._executed,
        )
        for each in self.drivers:
            each.is_zombie = True
        for event in self._orphans:
            driver.clock.after(self.rng.random(), event)
        self._orphans.clear()
        self.drivers.append(driver)
        self._renewed = self.clock.now
        if not is_last:
            self.fates[driver.number] = self._fate(driver, journal)
        return driver

    def _digests(self, history: VolatileHistory) -> Digests | None:
        """Return what makes digests, in one run of four: they cost as much as all the rest."""
        if not self._is_digested:
            return None
        every = self._often.choice((3, 10, 50, 200))
        return Digests(history, RUN, every=every, least=min(every, 5), clock=self.clock.steady, share=1e9)

    def _fate(self, driver: SimulatedDriver, journal: _WatchedJournal) -> _Fate:
        rng = self.rng
        how = rng.choice(
            ("die", "die", "die", "die", "sleep", "sleep", "disk", "stop", "stop", "pause", "finish")
        )
        if how == "disk":
            journal.fails_in = rng.randrange(8)
            return _Fate("finish")
        if how == "stop":
            driver.stop_at(
                self.clock.now + rng.choice((0.1, 1.0, 2.0)) * rng.random(), hard=rng.random() < 0.5
            )
            return _Fate("finish")
        if how == "pause":
            driver.pause_at(self.clock.now + rng.random(), rng.choice((0.1, 5.0, 100.0)))
            how = "die"
        point = rng.choice(_POINTS)
        count = rng.randrange(4) if point and rng.random() < 0.7 else rng.choice((2, 5, 20, 60, 150))
        return _Fate(how, point, rng.randrange(count + 1))

    def _drive(self, newest: SimulatedDriver) -> None:
        """Go on until the newest driver has finished, died, or fallen asleep."""
        driver = newest
        while not newest.is_over:
            if driver.turn is None or driver.is_over:
                due = [(each.due, each.number, each) for each in self.drivers if each.due is not None]
                if not due or newest.due is None:
                    raise Violation(f"nothing is left to happen, and the run has not ended: {_open(newest)}")
                driver = min(due)[2]
            self._step(driver)
            if newest.number in self.fates and self.fates[newest.number].how == "asleep":
                return

    def _step(self, driver: SimulatedDriver) -> None:
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise Violation("the run goes on without end")
        try:
            point = driver.step()
        except (LeaseLost, HistoryError) as error:
            self._failed(driver, error)
            return
        self.clock.now = max(self.clock.now, driver.clock.now)
        if driver.number == self.launches and self.clock.now > self._renewed + LEASE_SECONDS / 3:
            self._renewed = self.clock.now
            driver.books.journal.renew()
        if self.trace is not None:
            self.trace.append(f"{driver.number} {driver.clock.now:.6f} {point}")
        if driver.ledger.finish is not None and driver.turn is None:
            self._finished(driver)
            return
        fate = self.fates.get(driver.number)
        if point and fate is not None and fate.strikes(point):
            self._strike(driver, fate, point)

    def _strike(self, driver: SimulatedDriver, fate: _Fate, point: str) -> None:
        if fate.how == "die":
            self.faults.append(f"{driver.number} died at {point!r}")
            self._orphans += driver.orphans()
            self._end(driver)
            driver.books.journal.inner.abandon()  # type: ignore[attr-defined]
        elif fate.how == "sleep":
            self.faults.append(f"{driver.number} fell asleep at {point!r}")
            fate.how = "asleep"
            driver.books.journal.renew()

    def _failed(self, driver: SimulatedDriver, error: Exception) -> None:
        is_newest = driver.number == self.launches
        if isinstance(error, LeaseLost) and is_newest:
            raise Violation(f"the only driver lost its lease: {error}") from error
        self.faults.append(f"{driver.number} failed: {type(error).__name__}")
        self._end(driver)
        driver.books.journal.close()

    def _finished(self, driver: SimulatedDriver) -> None:
        """The run ended; that is durable before anybody is told."""
        finish = driver.ledger.finish
        assert finish is not None
        try:
            driver.books.run_moved(Code(finish.code))
            driver.books.commit()
        except (LeaseLost, HistoryError) as error:
            self._failed(driver, error)
            return
        self.faults.append(f"{driver.number} ended {Code(finish.code).name}")
        self._end(driver)
        driver.books.journal.close()

    def _end(self, driver: SimulatedDriver) -> None:
        driver.is_over = True
        for place, deaths in driver.ledger.deaths.items():
            self._deaths[place] = self._deaths.get(place, 0) + deaths
        if driver in self.drivers:
            self.drivers.remove(driver)

    # -- between two launches ------------------------------------------------------------------------------

    def _between(self) -> None:
        rng = self.rng
        if any(driver.number == self.launches for driver in self.drivers):
            self._try_too_early()
        for driver in self.drivers:
            # It sleeps longer than its lease, and wakes up while another drives.
            self.clock.now = max(self.clock.now, driver.clock.now + LEASE_SECONDS + 1.0)
            driver.clock.now = self.clock.now + rng.choice((0.0, 0.1, 1.0, 50.0))
        if rng.random() < 0.35 and self.store.objects:
            for name in rng.sample([*self.store.objects], min(len(self.store.objects), rng.randrange(1, 4))):
                self.store.damage(name, rng)
            self.faults.append("packs were damaged")
        if rng.random() < 0.2:
            self._change_a_source()

    def _try_too_early(self) -> None:
        """Two drivers cannot have one run."""
        try:
            self.history.beside(Holder("here", 99, "boot")).take(RUN)
        except LeaseHeld:
            return
        raise Violation("a second driver took a run whose lease had not run out")

    def _change_a_source(self) -> None:
        """A sequence that the flow's body maps over has another element, or another length."""
        rng = self.rng
        places = [
            (node.id, source)
            for nodes in self.scenario.rounds
            for node in nodes
            for source in node.sources
            if source.length
        ]
        if not places:
            return
        id_, source = rng.choice(places)
        assert source.length is not None
        if rng.random() < 0.6:
            place = id_, rng.randrange(source.length)
            self._versions[place] = self._versions.get(place, 0) + 1
            self.faults.append(f"item {place[1]} of node {id_} was changed")
            self._changed.add(place)
        else:
            self._lengths[id_, source.slot] = max(0, source.length + rng.choice((-1, 1, 2)))
            self.faults.append(f"node {id_} is {self._lengths[id_, source.slot]} long")
            self._changed.add((id_, WHOLE))
        self.scenario = with_values(self.scenario, self._versions, self._lengths)
        self._nodes = {node.id: node for node in self.scenario.nodes}

    def _selections(self) -> Sequence[Selection]:
        """Items of a run that ended which somebody wants to run again."""
        rng, outcomes = self.rng, self.chronicle.outcomes
        mapped = [node.id for nodes in self.scenario.rounds for node in nodes if node.is_mapped]
        ended = sorted(place for place in outcomes if place[0] in mapped)
        if self.chronicle.run_code not in FINAL_CODES or not ended or rng.random() < 0.6:
            return ()
        id_, first = rng.choice(ended)
        others = [index for each, index in ended if each == id_ and rng.random() < 0.2]
        self.faults.append(f"items {sorted({first, *others})} of node {id_} are to run again")
        return (Selection(node=f"n{id_}", indices=frozenset((first, *others))),)

    def _check_selected(self) -> None:
        """What was to run again did so, if the run ended."""
        if self.chronicle.run_code not in (Code.COMPLETED, Code.FAILED) or self.scenario.may_halt:
            return
        for place in self._selected:
            outcome = self.chronicle.outcomes.get(place)
            if outcome is not None and outcome.seq < self._begun:
                raise Violation(f"item {place[1]} of node {place[0]} was to run again, and did not")

    def _note_what_is_left(self) -> None:
        """Which items this launch must or may run again, although they ended."""
        chronicle, outcomes = self.chronicle, self.chronicle.outcomes
        stale = {
            place
            for place, since in self._stale.items()
            if place not in outcomes or outcomes[place].seq <= since
        }
        stale |= {*self._changed, *self._selected}
        self._changed.clear()
        if not self._selected:
            stale |= {
                place
                for place, outcome in outcomes.items()
                if outcome.code not in GOOD_CODES and not self._is_tolerated(place)
            }
        bad = {place for place, outcome in outcomes.items() if outcome.code not in GOOD_CODES}
        ending = self._with_dependents(stale | bad, (DepKind.ORDER, DepKind.AFTER))
        stale = self._with_dependents(stale)
        self._begun = chronicle.seq
        self._stale = {place: self._stale.get(place, chronicle.seq) for place in stale}
        self.gone = {
            place for place in outcomes if not chronicle.is_valued(*place) or not chronicle.is_finished(place)
        }
        self._may_run = {*self.gone, *stale}
        # What only runs later than something that fails now fails with it.
        chronicle.repeatable = {*self._may_run, *ending}

    def _with_dependents(self, places: set[Place], also: Sequence[DepKind] = ()) -> set[Place]:
        """These places, and all that depends on them and has ended."""
        if not places and not self.chronicle.failed_whole:
            return set()
        stale = {*places}
        ended: dict[int, list[int]] = {}
        for id_, index in self.chronicle.outcomes:
            ended.setdefault(id_, []).append(index)
        for node in self.scenario.nodes:
            for index in [WHOLE, *ended.get(node.id, ())]:
                if (node.id, index) not in stale and self._depends_on(node.id, index, stale, also):
                    stale.add((node.id, index))
        return stale

    def _is_tolerated(self, place: Place) -> bool:
        node = self._nodes[place[0]]
        return node.map_options.is_tolerant and self.chronicle.codes.get(node.id) == Code.COMPLETED

    def _depends_on(self, id_: int, index: int, stale: set[Place], also: Sequence[DepKind]) -> bool:
        """Whether an item needs something that is stale (the whole node: whether its width may be another)."""
        chronicle = self.chronicle
        for dep in self._nodes[id_].deps:
            if dep.kind in (DepKind.ORDER, DepKind.AFTER) and dep.kind not in also:
                continue
            if dep.kind is DepKind.ITEMS:
                # One that cannot be as wide as before fails all that takes its items.
                found = (dep.upstream, index) in stale or (dep.upstream, WHOLE) in stale
            elif dep.kind is DepKind.PICK:
                found = (dep.upstream, dep.index) in stale or (dep.upstream, WHOLE) in stale
            else:
                found = any(place[0] == dep.upstream for place in stale)
            if also:
                found = found or any(place[0] == dep.upstream for place in stale)
            code = chronicle.codes.get(dep.upstream, 0)
            if found or (code in FAILED_CODES and dep.upstream in chronicle.failed_whole):
                return True
        return any(
            place in stale
            and id_ in children
            and (place not in chronicle.outcomes or self._is_changed(place))
            for place, children in chronicle.children.items()
        )

    def _is_changed(self, place: Place) -> bool:
        """Whether an item runs with other inputs than before, and may record other tasks."""
        outcome = self.chronicle.outcomes[place]
        return outcome.code in GOOD_CODES

    # -- promises ---------------------------------------------------------------------------------------

    def _told(self, driver: SimulatedDriver, command: ev.Command) -> None:
        if driver.epoch != self.chronicle.epoch:
            # It fell asleep between a commit and what that allowed to be told.
            if isinstance(command, ev.SubmitBatch):
                self.chronicle.check_sent(driver.epoch, command)
            return
        self.chronicle.check_told(driver.epoch, command)
        if isinstance(command, ev.SubmitBatch):
            if command.is_bundle:
                for node in command.nodes:
                    self._check_sent((node, 0), 0)
                return
            for step, node in enumerate(command.nodes):
                for position, index in enumerate(command.indices):
                    tries = command.tries[step]
                    self._check_sent((node, index), 0 if tries is None else tries[position])

    def _check_sent(self, place: Place, tries: int) -> None:
        """What ended well is not sent again, unless its value is gone or something before it runs anew."""
        outcome = self.chronicle.outcomes.get(place)
        may_run = place in self._may_run
        if outcome is not None and outcome.code in GOOD_CODES and not may_run:
            raise Violation(
                f"item {place[1]} of node {place[0]} is sent again, although it ended {Code(outcome.code).name} in "
                f"commit {outcome.seq}"
            )
        if outcome is None and tries < self.chronicle.attempts.get(place, 0):
            raise Violation(
                f"item {place[1]} of node {place[0]} is sent as if it had had {tries} attempts, after "
                f"{self.chronicle.attempts[place]}"
            )

    def _executed(self, driver: SimulatedDriver, node: int, index: int) -> None:
        self.executions[node, index] = self.executions.get((node, index), 0) + 1

    # -- the end ----------------------------------------------------------------------------------------

    def _check_end(self, driver: SimulatedDriver) -> None:
        """All is as if there had been one launch without a fault."""
        self._check_replay(driver)
        for asleep in [*self.drivers]:
            self._end(asleep)
        self._check_attempts()
        if not self.is_exact:
            return
        plain = PlainValues(self.scenario)
        finish = driver.ledger.finish
        assert finish is not None
        unhandled = plain.oracle.unhandled(driver.seen)
        if tuple(sorted(finish.unhandled)) != unhandled:
            raise Violation(
                f"failures of nodes {finish.unhandled} were seen by nobody; expected was {unhandled}"
            )
        for id_, expected in plain.oracle.expected.items():
            book = driver.core.books.get(id_)
            if book is None:
                # Of a fragment that ended well, before: its item was taken over.
                code = self.chronicle.codes.get(id_, 0)
                found = [
                    Code(
                        self.chronicle.outcomes[id_, index].code
                        if (id_, index) in self.chronicle.outcomes
                        else 0
                    )
                    for index in range(expected.width or 0)
                ]
            else:
                code = book.final
                found = [Code(each) for each in book.states[: book.width or 0]]
            if found != expected.items or code != expected.code:
                raise Violation(
                    f"node {id_} ended {Code(code).name} {_names(found)}; expected was {expected.code.name} "
                    f"{_names(expected.items)}"
                )
            for index, each in enumerate(found):
                outcome = self.chronicle.outcomes.get((id_, index))
                if outcome is None or outcome.code != each:
                    raise Violation(
                        f"item {index} of node {id_} ended {each.name}, but its history says {outcome}"
                    )
                if book is not None and each in (Code.COMPLETED, Code.CACHED) and self._is_asked(driver, id_):
                    value = driver.value(id_, index)
                    if value != plain.value(id_, index):
                        raise Violation(
                            f"the value of item {index} of node {id_} is another than in a plain run"
                        )

    def _check_attempts(self) -> None:
        """No item had more attempts than it may have, whichever drivers and workers died on the way."""
        for (id_, index), outcome in self.chronicle.outcomes.items():
            script = self.scenario.scripts[id_]
            # A pause is no failure; a worker's death counts as an attempt, but never uses one up.
            pauses = script.item(index).then == "pause"
            allowed = script.retries + 1 + pauses + self._deaths.get((id_, index), 0)
            if outcome.attempts > allowed:
                raise Violation(
                    f"item {index} of node {id_} had {outcome.attempts} attempts; {allowed} are allowed"
                )

    def _is_asked(self, driver: SimulatedDriver, id_: int) -> bool:
        """Whether the value of a node may still be asked for."""
        book = driver.core.books[id_]
        return not book.users

    def _check_replay(self, driver: SimulatedDriver) -> None:
        """Whoever reads the history finds what the core has in its books."""
        replay = Replay(self.store, read=self.chronicle.read)
        for entry in self.history.read(RUN):
            replay.add(entry)
        if self._is_digested:
            self.digests_used += check_digests(self.history, RUN, replay)
        known = {node.entry.key: node for node in replay.nodes.values()}
        for id_, book in driver.core.books.items():
            told = known[str(id_)]
            if told.counts() != book.state_counts():
                raise Violation(
                    f"the history counts {told.counts()} of node {id_}, the core {book.state_counts()}"
                )
            if told.code != book.final:
                raise Violation(
                    f"the history has node {id_} {Code(told.code).name}, the core {Code(book.final).name}"
                )


def _open(driver: SimulatedDriver) -> Mapping[int, Any]:
    return {id_: book.state_counts() for id_, book in driver.core.books.items() if not book.is_final}


def _names(codes: Sequence[Code]) -> str:
    return "[" + ", ".join(code.name for code in codes) + "]"


def _launch(epoch: int) -> Launch:
    return Launch(
        epoch=epoch,
        reason="start" if epoch == 1 else "resume",
        host="here",
        pid=epoch,
        boot_id="boot",
        flow_name="flow",
        run_name="run",
    )
