"""Several clocks at once, and claimers that are killed at every moment: each fire is one run, and no run is given twice."""

from __future__ import annotations

import sqlite3

import pytest

from graphflow.testing.faults.processes import Script

SETUP = """
    import os, sys, time, random
    from graphflow.common import failpoints
    from graphflow.model.deployed import Deployment, Schedule, Source
    from graphflow.orchestration.stores.opening import open_stores
    from graphflow.orchestration.stores.pools import WorkerSeen
    from graphflow.testing.contracts.histories import ManualClock

    home = sys.argv[1]

    def clock(ahead=0.0):
        found = ManualClock()
        found.wall_time = 1_790_000_000.0 + ahead
        return found

    def in_children(count, do):
        pids = []
        for number in range(count):
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    do(number)
                    code = 0
                finally:
                    sys.stdout.flush()
                    os._exit(code)
            pids.append(pid)
        return [os.waitpid(pid, 0)[1] for pid in pids]

    def model(name, count):
        schedules = [Schedule(kind="cron", spec="0 * * * *", slug=f"s{each}") for each in range(count)]
        source = Source(kind="file", place="/x.py:f")
        return Deployment(flow_name="f", name=name, source=source, schedules=schedules)
"""


def rows(home, statement):
    connection = sqlite3.connect(home / "catalog.db")
    found = connection.execute(statement).fetchall()
    connection.close()
    return found


def test_a_thousand_schedules_that_are_due_and_three_clocks_make_a_thousand_runs(tmp_path) -> None:
    text = (
        SETUP
        + """
    with open_stores(home, clock=clock()) as stores:
        for each in range(40):
            stores.plans.put(model(f"d{each}", 25))

    def fire(number):
        # Their clocks are 5 s apart.
        with open_stores(home, clock=clock(3_600.0 + 5 * number)) as stores:
            while stores.fires.fire(most=30).schedules:
                pass

    print(in_children(3, fire))
    """
    )
    with Script(text, tmp_path / "home") as script:
        assert script.hear() == "[0, 0, 0]"
    home = tmp_path / "home"
    counts = "SELECT (SELECT COUNT(*) FROM run), (SELECT COUNT(*) FROM work), (SELECT COUNT(*) FROM fire),"
    (found,) = rows(home, counts + " (SELECT COUNT(*) FROM event WHERE type = 'graphflow.schedule.fired')")
    assert found == (1000, 1000, 1000, 1000)


@pytest.mark.parametrize("place", ["before", "decided", "after"])
def test_a_clock_that_dies_while_it_fires_leaves_each_fire_to_be_decided_once(tmp_path, place) -> None:
    text = (
        SETUP
        + f"""
    with open_stores(home, clock=clock()) as stores:
        for each in range(4):
            stores.plans.put(model(f"d{{each}}", 25))

    def die(number):
        failpoints.activate("clock.fire.{place}:kill@2")
        with open_stores(home, clock=clock(3_600.0)) as stores:
            while stores.fires.fire(most=20).schedules:
                pass

    def fire(number):
        with open_stores(home, clock=clock(3_600.0)) as stores:
            while stores.fires.fire(most=20).schedules:
                pass

    print(in_children(2, die), in_children(1, fire))
    """
    )
    with Script(text, tmp_path / "home") as script:
        died, rest = script.hear().split("] [")
        assert "9" in died and rest == "0]"
    (found,) = rows(tmp_path / "home", "SELECT (SELECT COUNT(*) FROM run), (SELECT COUNT(*) FROM fire)")
    assert found == (100, 100)


def test_forty_workers_that_are_killed_while_they_claim_get_nothing_twice_and_leave_nothing_over(
    tmp_path,
) -> None:
    text = (
        SETUP
        + """
    COUNT = 200
    with open_stores(home, clock=clock()) as stores:
        stored, _ = stores.plans.put(model("d", 0))
        for _ in range(COUNT):
            stores.fires.run(stored, {}, origin="user")

    def worker(number):
        return WorkerSeen(id=f"w{number}", name=f"w{number}", pool="default", host="h", boot_id="b", pid=number, slots=1,
            labels=(), versions={}, started=0.0, seen=0.0, state="ready")

    def claim(number):
        if number < 40:
            place = ("before", "decided", "after")[number % 3]
            failpoints.activate(f"work.claim.{place}:kill@{2 + number % 3}")
        with open_stores(home, clock=clock()) as stores:
            while given := stores.work.claim(worker(number), slots=1):
                for each in given:
                    os.write(1, f"{each.run_id} {each.epoch}\\n".encode())

    codes = in_children(40, claim)
    in_children(4, lambda number: claim(100 + number))
    with open_stores(home, clock=clock()) as stores:
        left = stores.work.claimed()
        print("claimed", len(left), sum(code != 0 for code in codes))
        # What the dead had is given back, and claimed again by those who live.
        dead = [each for each in left if int(each.worker_id[1:]) < 40]
        for each in dead:
            assert stores.work.give_back(each.run_id, each.epoch, why="its worker died")
    in_children(1, lambda number: claim(99))
    with open_stores(home, clock=clock()) as stores:
        print("end", len(stores.work.claimed()), stores.work.is_due("default"), len(dead) > 0)
    """
    )
    with Script(text, tmp_path / "home") as script:
        lines = [script.hear()]
        while not lines[-1].startswith("end"):
            lines.append(script.hear())
    (told,) = [each for each in lines if each.startswith("claimed")]
    assert told == "claimed 200 40"
    assert lines[-1] == "end 200 False True"
    given = [each for each in lines if each[:2] == "01"]
    assert len(set(given)) == len(given)
    assert rows(tmp_path / "home", "SELECT COUNT(*), COUNT(DISTINCT run_id) FROM work") == [(200, 200)]
