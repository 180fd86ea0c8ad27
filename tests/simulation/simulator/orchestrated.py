"""A simulated home: clocks, workers, drivers, keepers and reactors under a virtual clock, on the real stores and their real SQL.

The catalog is SQLite in memory, so transactions are serial, in the order that the seed chooses. A process dies at any statement
(its transaction is rolled back), right after a commit (the answer is lost), or between two; drivers are also stopped and
continued. What a driver commits is a set of items with a fence, as the records of a run are.
"""

from __future__ import annotations

import os
import random
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graphflow.errors import LeaseLost
from graphflow.histories import schema
from graphflow.histories.catalogs import SqliteCatalog
from graphflow.histories.catalogued import CatalogHistory
from graphflow.histories.databases import Database
from graphflow.model.automated import automation_of
from graphflow.model.deployed import Concurrency, Deployment, Schedule, Source
from graphflow.model.records import RunHeader
from graphflow.orchestration import naming
from graphflow.orchestration.reactor import react
from graphflow.orchestration.stores.events import Events
from graphflow.orchestration.stores.fires import Fires
from graphflow.orchestration.stores.plans import Plans
from graphflow.orchestration.stores.pools import Pools, WorkerSeen
from graphflow.orchestration.stores.rules import Rules
from graphflow.orchestration.stores.work import Given, WorkStore
from graphflow.orchestration.timing.times import fires_after
from graphflow.ports import Claim, Holder

__all__ = ["BrokenPromise", "Home", "live_home"]

BEGIN = 1_790_000_000.0
LATE_SECONDS = 60.0
ITEMS = 4
LEASE_SECONDS = 1e9
"""On one machine the lock tells; nothing here goes by time that a driver may sleep through."""


class Death(BaseException):
    """A process dies here."""


class BrokenPromise(AssertionError):
    """An invariant does not hold."""


class VirtualClock:
    """The clock of one process: the home's, some seconds off."""

    def __init__(self, home: Home, skew: float) -> None:
        self._home = home
        self._skew = skew

    def wall(self) -> float:
        """Return what this process takes for the time."""
        return self._home.now + self._skew

    def steady(self) -> float:
        """Return seconds since the beginning."""
        return self._home.steady


class MemoryDatabase(Database):
    """A database in memory, at whose statements a process may die."""

    def __init__(self, strike: Callable[[], None]) -> None:
        self.path, self.writes = Path(":memory:"), True
        self._patience, self._pid = 0.0, os.getpid()
        self._connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._strike = strike

    def execute(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Run a statement, unless the process dies before it."""
        if statement != schema.ROLLBACK:
            self._strike()
        return super().execute(statement, values)


class MemoryCatalog(SqliteCatalog):
    """The catalog on it, shared by all simulated processes."""

    def __init__(self, database: MemoryDatabase) -> None:
        self.path = Path(":memory:")
        self._lock = threading.RLock()
        self._patience = self._waits = 0.0
        self._is_closed, self._has_mac, self._is_version_1 = False, True, False
        self._keys: tuple[bytes, ...] = ()
        self._cause = None
        self._opened = database
        for statement in (*schema.CATALOG.create, *schema.CATALOG.steps[1]):
            database.connection.execute(statement)


class SimulatedHistory(CatalogHistory):
    """What notices that drivers are gone: the code of real histories, with a lock that is known."""

    def __init__(self, home: Home, clock: VirtualClock) -> None:
        super().__init__(clock=clock, lease_seconds=LEASE_SECONDS, holder=HOLDER)
        self._home = home

    @property
    def _where(self) -> str:
        return "in the simulation"

    def _open(self) -> MemoryCatalog:
        return self._home.catalog

    def _is_locked(self, run_id: str) -> bool:
        return any(each.run_id == run_id and each.lives for each in self._home.drivers)

    def _last(self, header: RunHeader) -> tuple[str, float, int]:
        if header.id in self._home.ended:
            return "Completed", self._clock.wall(), 99
        return super()._last(header)

    def alive(self, claim: Claim | None) -> bool:
        """Return whether a claim holds."""
        return claim is not None and self._is_alive(claim)


HOLDER = Holder("here", 1, "boot")


class SimulatedStores:
    """What a reactor uses of a home."""

    def __init__(self, home: Home, clock: VirtualClock) -> None:
        self.catalog, self.clock = home.catalog, clock
        self.history = SimulatedHistory(home, clock)
        self.events = Events(home.catalog, clock)
        self.plans = Plans(home.catalog, clock)
        self.fires = Fires(home.catalog, clock, self.plans)
        self.work = WorkStore(home.catalog, clock)
        self.rules = Rules(home.catalog, clock)


@dataclass
class Process:
    """A clock, a keeper, a reactor or a worker."""

    kind: str
    clock: VirtualClock
    lives: bool = True
    seen: WorkerSeen | None = None


@dataclass
class Driver:
    """A process that drives a run, or is about to."""

    run_id: str
    work: int
    worker: str
    epoch: int = 0
    lives: bool = True
    is_stopped: bool = False
    done: set[int] = field(default_factory=set)


class Home:
    """A home, everything that runs on it, and the promises that are checked after each step."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now, self.steady = BEGIN, 0.0
        self.fatality = 0.0
        self.faults: Counter[str] = Counter()
        self.catalog = MemoryCatalog(MemoryDatabase(self._strike))
        self.drivers: list[Driver] = []
        self.processes: list[Process] = []
        self.committed: dict[str, set[int]] = {}
        self.fence: dict[str, int] = {}
        self.ended: set[str] = set()
        self.furthest = BEGIN
        self._workers = 0
        self._is_striking = False
        policies = ["queue", "skip", "queue-latest", "cancel-running"]
        self.policy: Any = self.random.choice(policies)
        self.catchup: Any = self.random.choice(["latest", "all", "none"])
        # Either the pool is what is full, or the deployment.
        self.pool_size = self.random.choice([1, 3])
        self.clock = VirtualClock(self, 0.0)
        self.plans = Plans(self.catalog, self.clock)
        self.pools = Pools(self.catalog, self.clock)
        self.plans.put(self._model(0))
        self.pools.change("default", size=self.pool_size)
        (self.schedule,) = self.plans.find("f/limited").schedules
        rules = SimulatedStores(self, self.clock).rules
        ended = {"type": ["graphflow.run.completed", "graphflow.run.cancelled", "graphflow.run.crashed"]}
        then = [{"emit": "sim.ended", "subject": "{event.subject}"}, {"emit": "sim.again"}]
        rules.put(automation_of("ended", {"when": ended, "then": then}))
        # Clocks are off, and set back.
        self.catalog.execute("UPDATE rule SET since = 0")
        for kind in ("clock", "clock", "keeper", "reactor", "reactor", "worker", "worker", "worker"):
            self._start(kind)

    def _model(self, edit: int) -> Deployment:
        # The same times in two spellings, so that an edit computes the next one again.
        spec = ("* * * * *", "0-59 * * * *")[edit % 2]
        return Deployment(
            flow_name="f",
            name="limited",
            source=Source(kind="file", place="/f.py:f"),
            concurrency=Concurrency(limit=2, on_collision=self.policy),
            schedules=(Schedule(kind="cron", spec=spec, catchup=self.catchup, window_seconds=600.0),),
        )

    def _start(self, kind: str) -> None:
        has_skew = kind in ("clock", "reactor")
        skew = self.random.choice([0.0, 0.0, 5.0, -5.0]) if has_skew else 0.0
        process = Process(kind, VirtualClock(self, skew))
        if kind == "worker":
            self._workers += 1
            name = f"w{self._workers}"
            process.seen = WorkerSeen(
                id=name,
                name=name,
                pool="default",
                host="here",
                boot_id="boot",
                pid=1,
                slots=2,
                labels=(),
                versions={},
                started=0.0,
                seen=0.0,
                state="ready",
            )
        self.processes.append(process)

    # -- faults ----------------------------------------------------------------------------------------------

    def _strike(self) -> None:
        if self._is_striking and self.random.random() < self.fatality:
            raise Death

    @contextmanager
    def _mortal(self, process: Process | Driver) -> Iterator[None]:
        """Do what a process does, which may die at any statement, or when it was done."""
        self._is_striking = True
        try:
            yield
            if self.random.random() < self.fatality:
                self.faults["died after a commit"] += 1
                process.lives = False
        except Death:
            self.faults["died at a statement"] += 1
            process.lives = False
        finally:
            self._is_striking = False

    # -- steps -----------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Let time pass, and something happen."""
        seconds = self.random.choice([0.1, 1.0, 5.0, 20.0])
        if self.fatality and self.random.random() < 0.01:
            seconds = self.random.choice([300.0, 900.0, 3_600.0])
            self.faults["slept"] += 1
        self.now += seconds
        self.steady += seconds
        if self.fatality and self.random.random() < 0.01:
            # As after a wrong clock was set right, and the schedule stored again.
            self.now -= self.random.choice([60.0, 600.0])
            self.plans.put(self._model(self.random.randrange(2)))
            self.faults["set back"] += 1
        everyone: list[Process | Driver] = [*self.processes, *self.drivers]
        actors = [each for each in everyone if each.lives]
        if self.fatality and self.random.random() < 0.02 and self.drivers:
            driver = self.random.choice(self.drivers)
            driver.is_stopped = not driver.is_stopped
            self.faults["stopped"] += 1
        if actors:
            actor = self.random.choice(actors)
            if isinstance(actor, Driver):
                self._drive(actor)
            else:
                getattr(self, f"_{actor.kind}")(actor)
        for each in [each for each in self.processes if not each.lives]:
            if self.random.random() < 0.3:
                self.processes.remove(each)
                self._start(each.kind)
        self.drivers = [each for each in self.drivers if each.lives]
        self.check()

    def _clock(self, process: Process) -> None:
        plans = Plans(self.catalog, process.clock)
        with self._mortal(process):
            Fires(self.catalog, process.clock, plans).fire()

    def _worker(self, process: Process) -> None:
        assert process.seen is not None
        given: list[Given] = []
        with self._mortal(process):
            given = WorkStore(self.catalog, process.clock).claim(
                process.seen, slots=self.random.randint(1, 2)
            )
        if process.lives:
            self.drivers += [Driver(each.run_id, each.epoch, process.seen.id) for each in given]

    def _reactor(self, process: Process) -> None:
        with self._mortal(process):
            react(SimulatedStores(self, process.clock), most=self.random.choice([1, 3, 50]))  # type: ignore[arg-type]

    def _keeper(self, process: Process) -> None:
        work, history = WorkStore(self.catalog, process.clock), SimulatedHistory(self, process.clock)
        living = {each.seen.id for each in self.processes if each.seen is not None and each.lives}
        with self._mortal(process):
            for each in work.claimed():
                header = history.find(each.run_id)
                found = header.work
                if found is None or found.state != "claimed" or found.epoch != each.epoch or header.lease:
                    continue
                has_child = any(of.run_id == each.run_id and of.work == each.epoch for of in self.drivers)
                if each.worker_id not in living or not has_child:
                    work.give_back(each.run_id, each.epoch, why="its worker died")
            work.note_late(LATE_SECONDS)

    def _drive(self, driver: Driver) -> None:
        if driver.is_stopped:
            return
        with self._mortal(driver):
            try:
                self._drive_on(driver)
            except LeaseLost:
                driver.lives = False

    def _drive_on(self, driver: Driver) -> None:
        run_id, history = driver.run_id, SimulatedHistory(self, self.clock)
        if not driver.epoch:
            self._begin(driver, history)
            return
        if self.fence[run_id] != driver.epoch:
            raise LeaseLost(run_id)
        if any(each.kind == "cancel" for each in self.catalog.waiting(run_id, driver.epoch)):
            self._end(driver, "Cancelled")
        elif (left := set(range(ITEMS)) - self.committed[run_id]) and self.random.random() < 0.9:
            self._commit(run_id, min(left))
        elif not left:
            self._end(driver, "Completed")

    def _begin(self, driver: Driver, history: SimulatedHistory) -> None:
        """Do what `History.create` and `take` do, in one transaction."""
        with self.catalog.transaction():
            row = self.catalog.run(driver.run_id)
            if row is None or history.alive(row[1]):
                raise LeaseLost(driver.run_id)
            epoch = row[0].epoch + 1
            claim = Claim(
                run_id=driver.run_id,
                epoch=epoch,
                holder=HOLDER,
                steady_until=self.steady + LEASE_SECONDS,
                wall_until=self.now + LEASE_SECONDS,
            )
            work = row[0].work
            if not self.catalog.drive(claim, driver.work):
                raise LeaseLost(driver.run_id)
            if work is None or (work.state, work.epoch) != ("claimed", driver.work):
                raise BrokenPromise(
                    f"the claim {driver.work} of {driver.run_id} had ended, and began a driver"
                )
            self.catalog.grant(claim)
            driver.epoch = epoch
        self.fence[driver.run_id] = epoch
        self.committed.setdefault(driver.run_id, set())
        self.catalog.set_state(
            driver.run_id, epoch, "Running", started=self.now, ended=None, at=self.now, commit=epoch
        )

    def _commit(self, run_id: str, item: int) -> None:
        if item in self.committed[run_id]:
            raise BrokenPromise(f"item {item} of {run_id} was committed twice")
        self.committed[run_id].add(item)

    def _end(self, driver: Driver, state: str) -> None:
        if driver.run_id in self.ended:
            raise BrokenPromise(f"{driver.run_id} ended twice")
        self.ended.add(driver.run_id)
        if state == "Cancelled":
            self.committed[driver.run_id] = set(range(ITEMS))
        self.catalog.set_state(
            driver.run_id, driver.epoch, "Completed", started=None, ended=self.now, at=self.now, commit=99
        )
        self.catalog.give_back(driver.run_id, driver.epoch, at=self.now)
        driver.lives = False

    # -- promises --------------------------------------------------------------------------------------------

    def _rows(self, statement: str) -> list[tuple[Any, ...]]:
        return self.catalog._opened.connection.execute(statement).fetchall()  # type: ignore[union-attr]

    def check(self) -> None:
        """Check what holds after each step.

        Raises
        ------
        BrokenPromise
            If something does not.
        """
        ((claimed,),) = self._rows("SELECT COUNT(*) FROM work WHERE state = 'claimed'")
        _promise(claimed <= self.pool_size, f"{claimed} runs are claimed in a pool of {self.pool_size}")
        ((driven,),) = self._rows("SELECT COUNT(*) FROM work WHERE state = 'claimed' AND deployment_id <> ''")
        _promise(driven <= 2, f"{driven} runs of a deployment with a limit of 2")
        if self.policy == "skip" and not self.faults["set back"]:
            ((active,),) = self._rows(
                f"SELECT COUNT(*) FROM work WHERE state = 'claimed' OR due <= {self.now}"
            )
            _promise(active <= 2, f"{active} runs are active where one too many is skipped")
        twice = self._rows("SELECT nominal FROM run GROUP BY deployment_id, nominal HAVING COUNT(*) > 1")
        _promise(not twice, f"two runs for one time: {twice}")
        ((orphans,),) = self._rows(
            "SELECT COUNT(*) FROM work JOIN run ON run.id = work.run_id WHERE run.state IN ('Completed', 'Cancelled', 'Crashed')"
        )
        _promise(not orphans, "a run that ended has work")
        unfired = self._rows(
            "SELECT id FROM event WHERE is_pending = 0 AND type IN ('graphflow.run.completed', 'graphflow.run.cancelled',"
            " 'graphflow.run.crashed') AND id NOT IN (SELECT event_id FROM firing)"
        )
        _promise(not unfired, f"an event was seen, and its rule did not fire: {unfired}")
        ((firings, actions, told),) = self._rows(
            "SELECT (SELECT COUNT(*) FROM firing), (SELECT COUNT(*) FROM action WHERE state = 'done'),"
            " (SELECT COUNT(*) FROM event WHERE type LIKE 'sim.%')"
        )
        _promise(
            actions == told == 2 * firings, f"{firings} firings, {actions} actions, {told} of their events"
        )
        unpaired = self._rows(
            "SELECT run_id FROM fire WHERE outcome = 'run' AND run_id NOT IN (SELECT id FROM run)"
        )
        _promise(not unpaired, f"a fire without its run: {unpaired}")

    def settle(self) -> None:
        """Let all faults stop, and everything end; then check what holds in the end."""
        self.fatality = 0.0
        for each in self.drivers:
            each.is_stopped = False
        self.catalog.execute("UPDATE schedule SET next_due = NULL")
        for _ in range(4_000):
            ((left,),) = self._rows(
                "SELECT (SELECT COUNT(*) FROM work) + (SELECT COUNT(*) FROM event WHERE is_pending = 1)"
            )
            if not left:
                break
            self.step()
        else:
            raise BrokenPromise(
                f"{left} runs or events are left for ever: {self._rows('SELECT * FROM work')}"
            )
        states = dict(self._rows("SELECT state, COUNT(*) FROM run GROUP BY state"))
        _promise(set(states) <= {"Completed", "Cancelled", "Crashed"}, f"runs stand still: {states}")
        ends = self._rows(
            "SELECT subject, COUNT(*) FROM event WHERE type IN ('graphflow.run.completed', 'graphflow.run.cancelled',"
            " 'graphflow.run.crashed') GROUP BY subject HAVING COUNT(*) <> 1"
        )
        _promise(not ends, f"ends that were told twice: {ends}")
        ((runs, told),) = self._rows(
            "SELECT (SELECT COUNT(*) FROM run), (SELECT COUNT(DISTINCT subject) FROM event WHERE type = 'sim.ended')"
        )
        _promise(runs == told, f"{runs} runs ended, and rules fired for {told}")

    def check_coverage(self, since: float) -> None:
        """Check that each nominal time that is behind left a trace, and no other did; where no clock was set back."""
        (stored,) = self.plans.find("f/limited").schedules
        until = stored.next_nominal
        if until is None or self.faults["set back"]:
            return
        expected = []
        for at in fires_after(stored.schedule, since):
            if at >= until:
                break
            expected.append(at)
        rows = self._rows("SELECT outcome, count FROM fire")
        told = sum(count for _, count in rows)
        _promise(told == len(expected), f"{len(expected)} times are behind, and {told} left a trace")
        runs = {row[0] for row in self._rows("SELECT run_id FROM fire WHERE outcome = 'run'")}
        ids = {naming.run_id_of(stored.id, at) for at in expected}
        _promise(runs <= ids, "a run has an id that does not follow from its time")


def _promise(holds: bool, broken: str) -> None:
    if not holds:
        raise BrokenPromise(broken)


def live_home(seed: int, *, steps: int = 120) -> Home:
    """Let a home live through faults, settle it, and return it.

    Raises
    ------
    BrokenPromise
        If an invariant does not hold, after any step or in the end.
    """
    home = Home(seed)
    home.fatality = home.random.choice([0.0, 0.002, 0.01])
    for _ in range(steps):
        home.step()
    home.check_coverage(BEGIN)
    home.settle()
    return home
