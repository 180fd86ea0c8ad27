"""Drivers that are killed while they hold slots of a limit: there are never more at work than the limit has."""

from __future__ import annotations

import json

from graphflow.testing.faults.processes import Script

SETUP = """
    import fcntl, json, os, random, signal, sys, time
    os.environ["GRAPHFLOW_HOME"] = sys.argv[1]
    os.environ["GRAPHFLOW_PROGRESS"] = "off"
    from graphflow import flow, task
    from graphflow.driver import driver, durability
    from graphflow.orchestration.stores.opening import open_stores

    home = sys.argv[1]

    def note(text):
        with open(home + "/notes", "a") as notes:
            notes.write(text + "\\n")

    def child(do):
        pid = os.fork()
        if pid == 0:
            try:
                do()
            finally:
                os._exit(0)
        return pid
"""


def notes(home) -> list[str]:
    return (home / "notes").read_text().split()


def test_a_limit_of_five_holds_while_five_drivers_are_killed_again_and_again(tmp_path) -> None:
    text = (
        SETUP
        + """
    SIZE = 5

    def at_work():
        # A lock that ends with its process: whoever finds none free is one too many.
        for _ in range(5):
            for number in range(SIZE):
                file = os.open(f"{home}/slot-{number}", os.O_RDWR | os.O_CREAT)
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return file
                except OSError:
                    os.close(file)
            time.sleep(0.01)
        return None

    @task(tags=["db"])
    def work(number):
        file = at_work()
        note("one" if file is not None else "over")
        time.sleep(0.02)
        if file is not None:
            os.close(file)

    @flow(backend="threads:4")
    def many():
        work.map(range(100_000))

    with open_stores() as stores:
        stores.limits.set("db", SIZE)

    rng = random.Random(3)
    drivers = [child(many) for _ in range(5)]
    for _ in range(24):
        before = os.path.getsize(home + "/notes") if os.path.exists(home + "/notes") else 0
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if os.path.exists(home + "/notes") and os.path.getsize(home + "/notes") > before + 40:
                break
            time.sleep(0.005)
        else:
            note("stuck")
        place = rng.randrange(5)
        os.kill(drivers[place], signal.SIGKILL)
        os.waitpid(drivers[place], 0)
        drivers[place] = child(many)
    for pid in drivers:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    print("done")
    """
    )
    with Script(text, tmp_path / "home") as script:
        assert script.hear() == "done"
    found = notes(tmp_path / "home")
    assert found.count("one") > 100
    assert set(found) == {"one"}


def test_a_rate_holds_over_two_drivers(tmp_path) -> None:
    text = (
        SETUP
        + """
    @task(tags=["api"])
    def call(number):
        note(str(time.time()))

    @flow(backend="threads:2")
    def calls():
        call.map(range(20))

    with open_stores() as stores:
        stores.limits.set_rate("api", 30.0)
    begin = time.time()
    for pid in [child(calls), child(calls)]:
        os.waitpid(pid, 0)
    print(begin)
    """
    )
    with Script(text, tmp_path / "home") as script:
        begin = float(json.loads(script.hear()))
    starts = sorted(map(float, notes(tmp_path / "home")))
    assert len(starts) == 40
    for count, at in enumerate(starts, 1):
        assert count <= 30.0 * (at - begin) + 2, f"{count} calls began within {at - begin:.3f} s"
