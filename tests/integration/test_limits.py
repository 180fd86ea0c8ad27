"""Limits and rates that runs share: in the catalog, in flows, and in any code."""

from __future__ import annotations

import asyncio
import random
import threading
import time

import pytest

import graphflow
from graphflow import flow, task
from graphflow.errors import LeaseLost, NotFound, ParameterError, TaskOptionError
from graphflow.histories.leases import DriverLock
from graphflow.histories.limiting import HOLDERS, CatalogLimiter
from graphflow.launching.deploying import carry_out, plan_of
from graphflow.model.deployed import Deployment, Source
from graphflow.orchestration.stores.opening import open_stores
from graphflow.orchestration.stores.pools import WorkerSeen
from graphflow.ports import Limiter, WantedSlots
from graphflow.testing.contracts.histories import ManualClock
from graphflow.testing.waiting import eventually

TERM = 30.0


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAPHFLOW_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def clock():
    clock = ManualClock()
    clock.wall_time = 1_790_000_000.0
    return clock


@pytest.fixture
def stores(home, clock):
    with open_stores(clock=clock) as opened:
        yield opened


class Holder:
    """A holder of slots with a lock of its own, as a process has it."""

    def __init__(self, stores, clock, name: str) -> None:
        folder = stores.history.folder / HOLDERS / name
        folder.mkdir(parents=True)
        self.lock = DriverLock(folder)
        self.lock.publish()
        self.limiter = CatalogLimiter(
            stores.catalog, stores.catalog, clock=clock, holder=f"{HOLDERS}/{name}", term_seconds=TERM
        )
        self.in_use = 0

    def adjust(self, want: int, unit: int = 1) -> int:
        return self.limiter.adjust({"db": WantedSlots(want, self.in_use, unit)})["db"]


def taken(stores) -> int:
    return stores.limits.all()[0].in_use


def test_a_limiter_is_one(stores, clock) -> None:
    assert isinstance(Holder(stores, clock, "a").limiter, Limiter)


def test_a_newcomer_gets_its_part_as_slots_are_given_back(stores, clock) -> None:
    stores.limits.set("db", 6)
    first, second = Holder(stores, clock, "a"), Holder(stores, clock, "b")
    assert first.adjust(10) == 6
    first.in_use = 6
    assert second.adjust(10) == 0
    # It keeps what is in use, and may use less of it.
    assert first.adjust(10) == 3
    assert second.adjust(10) == 0
    first.in_use = 4
    assert first.adjust(10) == 3
    assert second.adjust(10) == 2
    first.in_use = 3
    first.adjust(10)
    assert second.adjust(10) == 3


def test_grants_never_exceed_the_size_whatever_holders_do(stores, clock) -> None:
    rng = random.Random(5)
    holders = [Holder(stores, clock, str(number)) for number in range(5)]
    size = 5
    stores.limits.set("db", size)
    for _ in range(300):
        holder = rng.choice(holders)
        if rng.random() < 0.1:
            size = rng.randint(0, 8)
            stores.limits.set("db", size)
        before = taken(stores)
        may = holder.adjust(rng.randint(0, 8), rng.choice((1, 1, 2)))
        # Some end, others begin, as far as it may.
        holder.in_use = rng.randint(0, may) if may > holder.in_use else rng.randint(0, holder.in_use)
        assert taken(stores) <= max(size, before)
        assert sum(each.in_use for each in holders) <= max(size, before)


def test_slots_of_a_holder_that_is_gone_are_free_at_once(stores, clock) -> None:
    stores.limits.set("db", 2)
    first, second = Holder(stores, clock, "a"), Holder(stores, clock, "b")
    assert first.adjust(2) == 2
    assert second.adjust(2) == 0
    first.lock.release()
    assert second.adjust(2) == 2
    assert len(stores.limits.all()[0].holders) == 1


def test_slots_that_are_not_renewed_end_with_their_term(stores, clock) -> None:
    stores.limits.set("db", 2)
    first, second = Holder(stores, clock, "a"), Holder(stores, clock, "b")
    assert first.adjust(2) == 2
    clock.steady_time += TERM - 1
    first.limiter.renew()
    clock.steady_time += TERM - 1
    assert second.adjust(2) < 2
    clock.steady_time += 2
    assert second.adjust(2) == 2


def test_nothing_is_written_where_nothing_changes(stores, clock) -> None:
    stores.limits.set("db", 4)
    holder = Holder(stores, clock, "a")
    holder.adjust(3)
    before = stores.catalog._database.connection.total_changes
    for _ in range(5):
        assert holder.adjust(3) == 3
    assert stores.catalog._database.connection.total_changes == before


def test_starts_of_a_rate_are_handed_out_once_and_no_faster(stores, clock) -> None:
    rng = random.Random(7)
    stores.limits.set_rate("api", 20.0, burst=3)
    limiter = Holder(stores, clock, "a").limiter
    begin = clock.wall_time
    starts: list[float] = []
    for _ in range(200):
        clock.wall_time += rng.choice((0.0, 0.01, 0.3))
        count = rng.randint(1, 10)
        first = limiter.reserve("api", count)
        assert first is not None
        starts += [max(clock.wall_time, clock.wall_time + first + k / 20.0) for k in range(count)]
    starts.sort()
    for lo in range(0, len(starts), 7):
        for hi in range(lo, len(starts), 11):
            assert hi - lo + 1 <= 20.0 * (starts[hi] - starts[lo]) + 3 + 1 + 1e-4
    assert starts[0] >= begin
    assert limiter.reserve("none", 1) is None


def test_a_time_that_a_clock_left_far_ahead_is_forgotten(stores, clock) -> None:
    stores.limits.set_rate("api", 10.0)
    limiter = Holder(stores, clock, "a").limiter
    limiter.reserve("api", 1)
    clock.wall_time -= 3_600
    first = limiter.reserve("api", 1)
    assert first is not None and first <= 0


def test_a_driver_that_lost_its_run_gets_no_slots(stores, clock) -> None:
    stores.limits.set("db", 2)
    limiter = CatalogLimiter(
        stores.catalog, stores.catalog, clock=clock, holder="01RUN", epoch=1, term_seconds=TERM
    )
    with pytest.raises(LeaseLost):
        limiter.adjust({"db": WantedSlots(1, 0)})
    assert taken(stores) == 0


def test_a_tagged_deployment_has_a_slot_for_its_whole_run(stores) -> None:
    stores.limits.set("db", 2)
    source = Source(kind="file", place="/x.py:f")
    stored, _ = stores.plans.put(Deployment(flow_name="f", name="d", source=source, tags=("db",)))
    made = [stores.fires.run(stored, {}, origin="user") for _ in range(3)]
    seen = WorkerSeen(
        id="w", name="w", pool="default", host="h", boot_id="b", pid=1, slots=9, labels=(), versions={}, started=0.0,
        seen=0.0, state="ready",
    )  # fmt: skip
    given = stores.work.claim(seen, slots=9)
    assert len(given) == 2
    assert taken(stores) == 2
    waiting = ({each.run_id for each in made} - {each.run_id for each in given}).pop()
    header = stores.work.header(waiting)
    assert header is not None and header.work is not None
    assert header.work.why == "the limit db is full: 2 of 2 slots are taken"
    stores.work.end(given[0].run_id, given[0].epoch, "Crashed", "it could not begin")
    assert [each.run_id for each in stores.work.claim(seen, slots=9)] == [waiting]


def test_bad_limits_are_refused(stores) -> None:
    with pytest.raises(ParameterError, match="0 or more slots, not -1"):
        stores.limits.set("db", -1)
    with pytest.raises(NotFound, match="there is no limit 'db'; there is none yet"):
        stores.limits.remove("db")
    with pytest.raises(NotFound, match="there is no rate 'api'"):
        stores.limits.remove_rate("api")
    with pytest.raises(ParameterError, match="burst"):
        stores.limits.set_rate("api", 1.0, burst=0)
    with pytest.raises(TaskOptionError, match="weight must be an integer, 1 or more"):
        task(weight=0)


def test_changes_are_events_and_a_file_can_say_them(stores, tmp_path) -> None:
    file = tmp_path / "graphflow.toml"
    file.write_text('[limits]\ndb = 3\n[rates]\napi = "50/s"\nslow = { rate = "6/min", burst = 2 }\n')
    plan = plan_of(stores, str(file))
    assert [(each.verb, each.kind, each.name) for each in plan.changes] == [
        ("add", "limit", "db"),
        ("add", "rate", "api"),
        ("add", "rate", "slow"),
    ]
    carry_out(stores, plan)
    assert not plan_of(stores, str(file)).changes
    assert [(each.name, each.size) for each in stores.limits.all()] == [("db", 3)]
    assert [(each.name, each.per_second, each.burst) for each in stores.limits.rates()] == [
        ("api", 50.0, 1),
        ("slow", 0.1, 2),
    ]
    types = [row[0] for row in stores.catalog.rows("SELECT type FROM event ORDER BY seq")]
    assert types == ["graphflow.limit.changed", "graphflow.rate.changed", "graphflow.rate.changed"]


# -- in flows ------------------------------------------------------------------------------------------------


class Gate:
    """Counts what is inside at the same time."""

    def __init__(self) -> None:
        self.guard = threading.Lock()
        self.inside = self.peak = 0
        self.opened = threading.Event()

    def __enter__(self) -> None:
        with self.guard:
            self.inside += 1
            self.peak = max(self.peak, self.inside)

    def __exit__(self, *_: object) -> None:
        with self.guard:
            self.inside -= 1


def test_two_maps_of_a_run_share_a_limit(home) -> None:
    gate = Gate()

    @task(tags=["db"])
    def read(number):
        with gate:
            time.sleep(0.01)
            return number

    @task(limit="db")
    def write(number):
        with gate:
            time.sleep(0.01)
            return number

    @flow(backend="threads:6")
    def both():
        return read.map(range(10)), write.map(range(10))

    with open_stores() as stores:
        stores.limits.set("db", 2)
    assert both() == (list(range(10)), list(range(10)))
    assert 1 <= gate.peak <= 2
    with open_stores() as stores:
        assert stores.limits.all()[0].holders == ()


def test_a_limit_is_changed_while_a_run_waits_for_it_and_the_run_says_so(home) -> None:
    @task(tags=["db"], weight=2)
    def read(number):
        return number

    @flow(backend="threads:2")
    def waits():
        return read.map(range(5))

    with open_stores() as stores:
        stores.limits.set("db", 1)
        found: list[object] = []
        thread = threading.Thread(target=lambda: found.append(waits()))
        thread.start()
        with graphflow.history() as history:

            def why() -> str:
                runs = history.runs()
                return runs[0].why if runs else ""

            eventually(lambda: "it waits for the limit db" in why())
        assert not found
        stores.limits.set("db", 2)
        thread.join(60)
        assert found == [list(range(5))]


def test_a_run_without_limits_writes_no_more(home) -> None:
    @task(tags=["db"])
    def read(number):
        return number

    @flow(backend="inline")
    def plain():
        return read.map(range(3))

    assert plain() == [0, 1, 2]
    with open_stores() as stores:
        assert stores.catalog.rows('SELECT * FROM "grant"') == []


# -- in any code ---------------------------------------------------------------------------------------------


def test_blocks_of_any_code_share_a_limit_with_all_others(home) -> None:
    gate = Gate()
    with open_stores() as stores:
        stores.limits.set("db", 2)
    two = threading.Barrier(2, timeout=60)

    def block() -> None:
        with graphflow.concurrency("db"), gate:
            two.wait()

    threads = [threading.Thread(target=block) for _ in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert gate.peak == 2

    async def alone() -> None:
        async with graphflow.concurrency("db", occupy=2):
            with pytest.raises(TimeoutError, match="1 slots of the limit 'db'"):
                async with graphflow.concurrency("db", timeout_seconds=0):
                    pass

    asyncio.run(alone())
    with open_stores() as stores:
        assert taken(stores) == 0


def test_a_limit_that_is_not_there_holds_nothing_up_unless_it_must_be(home) -> None:
    with graphflow.concurrency(["a", "b"], occupy=3):
        graphflow.rate_limit("c")
        asyncio.run(graphflow.rate_limit_async("c"))
    with (
        pytest.raises(NotFound, match="graphflow limits set a SIZE"),
        graphflow.concurrency("a", strict=True),
    ):
        pass
    with pytest.raises(NotFound, match="graphflow rates set c 50/s"):
        graphflow.rate_limit("c", strict=True)
    with pytest.raises(ParameterError, match="occupy must be an integer, 1 or more"):
        graphflow.rate_limit("c", occupy=0)


def test_starts_of_any_code_come_at_their_rate(home) -> None:
    with open_stores() as stores:
        stores.limits.set_rate("api", 50.0)
    begin = time.monotonic()
    for _ in range(11):
        graphflow.rate_limit("api")
    # The first one is open at once, the others are 20 ms apart.
    assert time.monotonic() - begin >= 9 / 50
