"""Drivers of several sites on one store: each finds out who else is there, and equal work is executed once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from graphflow.cache import sites
from graphflow.cache.sites import Claims, Presence, Site, site_of
from graphflow.ports import ResultStore
from graphflow.results.stores.opening import open_store
from graphflow.testing.faults.processes import Script, race
from graphflow.testing.faults.s3proxy import Fault, S3Proxy
from graphflow.testing.faults.s3server import Bucket

FOLDER = "cache/x-1"
ONE, TWO, THREE = (bytes([each]) * 16 for each in (1, 2, 3))


@pytest.fixture
def store(s3: Bucket) -> ResultStore:
    """A store that all reach."""
    return open_store(f"{s3.url}/cache")


@pytest.fixture
def never_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drivers look only when they are told to."""
    monkeypatch.setattr(Presence, "_pause", lambda self: 1e6)


class Driver:
    """A driver of a site, with a process that executes its batches."""

    def __init__(self, store: ResultStore, name: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GRAPHFLOW_HOME", str(home / name))
        self.site = site_of(store)
        self.presence = Presence(store, FOLDER, name, self.site)
        self.claims = Claims(store, FOLDER, name, self.site)

    def claim(self, *keys: bytes) -> sites.Flight:
        """Begin a flight, as a batch does that has looked its keys up."""
        flight = self.claims.claim(keys, self.claims.seen)
        if flight.must_list:
            self.claims.listed(flight)
        return flight

    def looks(self) -> None:
        """What the presence does now and then."""
        self.presence._look()


@pytest.fixture
def driver(
    store: ResultStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, never_by_itself: None
) -> Iterator[object]:
    """Makes drivers, each of a site of its own."""
    with ExitStack() as stack:

        def make(name: str) -> Driver:
            made = Driver(store, name, tmp_path, monkeypatch)
            stack.callback(made.presence.close)
            return made

        yield make


def test_who_comes_later_waits_until_it_knows_what_is_executed(driver: type[Driver]) -> None:
    early = driver("early")
    under_way = early.claim(ONE)
    late = driver("late")

    asked = late.claim(ONE, TWO)
    assert asked.taken == {ONE, TWO}
    late.claims.release(asked, [])
    early.looks()
    asked = late.claim(ONE, TWO)
    assert asked.taken == {ONE}
    late.claims.release(asked, [])
    early.claims.release(under_way, [ONE])
    early.looks()
    after = late.claim(ONE, THREE)
    assert (after.taken, after.must_list) == (frozenset(), True)


def test_who_was_there_first_announces_what_it_begins_later(driver: type[Driver]) -> None:
    early, late = driver("early"), driver("late")
    early.looks()

    first = early.claim(ONE)
    assert (first.taken, first.must_list) == (frozenset(), True)
    assert late.claim(ONE, TWO).taken == {ONE}
    assert early.claim(TWO, THREE).taken == {TWO}


def test_who_is_alone_announces_nothing(driver: type[Driver], store: ResultStore) -> None:
    alone = driver("alone")
    alone.claims.release(alone.claim(ONE), [ONE])

    assert [name.rpartition("/")[0] for name in store.names("claims/")] == [f"claims/{FOLDER}/here"]


def test_who_is_alone_again_announces_nothing_more(driver: type[Driver], store: ResultStore) -> None:
    early, visitor = driver("early"), driver("visitor")
    early.looks()
    visitor.presence.close()
    early.looks()
    before = set(store.names("claims/"))
    early.claim(ONE)

    assert set(store.names("claims/")) == before
    late = driver("late")
    assert late.claim(ONE, TWO).taken == {ONE, TWO}
    early.looks()
    asked = Claims(store, FOLDER, "late", late.site)
    assert late.presence._others.unanswered(late.presence._present()) == []
    assert asked.claim([THREE], asked.seen).taken == frozenset()


def test_drivers_of_one_site_need_no_store(
    driver: type[Driver], store: ResultStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = driver("same")
    monkeypatch.setattr(Driver, "__init__", _at_same_site)
    other = driver("same")

    flight = one.claim(ONE, TWO)
    assert other.claim(TWO, THREE).taken == {TWO}
    one.claims.release(flight, [ONE])
    assert not other.claim(TWO).must_list
    assert other.claim(ONE).must_list
    assert all("/here/" in name for name in store.names("claims/"))


def _at_same_site(
    self: Driver, store: ResultStore, name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    self.site = site_of(store)
    self.presence = Presence(store, FOLDER, "another", self.site)
    self.claims = Claims(store, FOLDER, "another", self.site)


def test_a_process_that_does_not_share_the_disk_is_a_site_of_its_own(
    driver: type[Driver], monkeypatch: pytest.MonkeyPatch, store: ResultStore
) -> None:
    near = driver("near")
    under_way = near.claim(ONE)
    monkeypatch.setattr(Site, "is_here", lambda self: False)
    far = Claims(store, FOLDER, "near", near.site)

    assert far.claim([ONE, TWO], far.seen).taken == {ONE, TWO}
    near.looks()
    flight = far.claim([ONE, TWO], far.seen)
    assert flight.taken == {ONE}
    assert near.claim(TWO, THREE).taken == {TWO}
    near.claims.release(under_way, [])
    near.presence.close()
    assert not [name for name in store.names("claims/") if "/here/" in name]


def test_who_died_holds_nobody_up(driver: type[Driver], store: ResultStore, tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom graphflow.cache.sites import *\nfrom graphflow.results.stores.opening import open_store\n"
        f"store = open_store({store.url!r})\nsite = site_of(store)\n"
        f"Presence(store, {FOLDER!r}, 'dead', site)\n"
        f"claims = Claims(store, {FOLDER!r}, 'dead', site)\nclaims.claim([{ONE!r}], claims.seen)\nos._exit(9)\n"
    )
    died = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "GRAPHFLOW_HOME": str(tmp_path / "dead")}
    )
    assert died.returncode == 9
    assert [name for name in store.names("claims/") if "/here/" in name]

    living = driver("living")

    assert living.claim(ONE, TWO).taken == frozenset()
    assert len(list(store.names("claims/"))) == 1


# -- whole drivers -----------------------------------------------------------------------------------------

TWO_DRIVERS = """
import sys, time
from graphflow import INPUTS, flow, task

@task(cache_policy=INPUTS - "path", run_once=sys.argv[3] == "once", result_storage=sys.argv[4])
def work(x: int, path: str) -> int:
    with open(path, "a") as file:
        file.write(f"{x}\\n")
    time.sleep(0.002)
    return x

@flow(backend=sys.argv[2])
def both(path: str, count: int) -> int:
    return sum(work.map(range(count), path).result())

if __name__ == "__main__":
    print("ready", flush=True)
    sys.stdin.readline()
    print(both(sys.argv[1], int(sys.argv[5])))
"""
FAULTS = {
    "good": (),
    "fails": (
        Fault(every=20, times=None, when="after", status=500, code="InternalError"),
        Fault(every=20, times=None, status=503, code="SlowDown"),
    ),
    "delays": (Fault(every=10, times=None, delay_seconds=0.2),),
}


@pytest.mark.parametrize("weather", FAULTS)
@pytest.mark.parametrize(("once", "count"), [("once", 50), ("often", 300)])
def test_two_drivers_of_two_sites_execute_each_item_once(
    s3: Bucket, s3_proxy: S3Proxy, tmp_path: Path, once: str, count: int, weather: str
) -> None:
    log = tmp_path / "log"
    log.touch()
    s3_proxy.plan(*FAULTS[weather])
    reached = {name: s3_proxy.endpoint for name in s3.environment if "ENDPOINT" in name}
    with ExitStack() as stack:
        drivers = [
            stack.enter_context(
                Script(
                    TWO_DRIVERS,
                    *(log, "threads:2", once, f"{s3.url}/cache", count),
                    environment={
                        **reached,
                        "GRAPHFLOW_HOME": str(tmp_path / f"home-{number}"),
                        "GRAPHFLOW_SECRET_KEY": "5a" * 32,
                    },
                )
            )
            for number in range(2)
        ]
        ended = race(drivers)

    assert [(code, out) for code, out, _ in ended] == [(0, [str(sum(range(count)))])] * 2, ended
    assert Counter(log.read_text().split()) == {str(x): 1 for x in range(count)}
