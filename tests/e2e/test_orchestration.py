"""Deployments end to end: real workers and children, which are killed, stopped and told to go."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from graphflow.launching.deploying import flow_and_source
from graphflow.orchestration.keeper import Keeper
from graphflow.orchestration.service import Orchestration
from graphflow.orchestration.stores.opening import open_stores
from graphflow.orchestration.worker import WorkerOptions
from graphflow.testing.waiting import eventually

FLOWS = '''
import os
import signal
import time
from pathlib import Path

from graphflow import flow, task

HERE = Path(__file__).parent


def count(name):
    with open(HERE / "counts", "a") as file:
        file.write(f"{name}\\n")


def gate(name):
    """Wait until the test opens it."""
    while not (HERE / name).exists():
        time.sleep(0.01)


@task
def first(x):
    count("first")
    return x


@task
def second(x):
    count("second")
    gate("open")
    return x + 1


@flow
def gated(n: int = 1):
    print("printed")
    os.system("echo from a process")
    return second(first(n))


@task
def item(x):
    count(f"i{x}")
    time.sleep(0.002)
    return x


@flow
def wide(n: int):
    return sum(future.result() for future in item.map(range(n)))


@flow
def deadly():
    count("deadly")
    os.kill(os.getpid(), signal.SIGKILL)


@flow
def plain(n: int, day: str = "today"):
    return f"{n} {day}"


@flow
async def asynchronous():
    return "async"
'''


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with flows, and a home of its own."""
    (tmp_path / "flows_here.py").write_text(FLOWS)
    monkeypatch.setenv("GRAPHFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GRAPHFLOW_PROGRESS", "off")
    return tmp_path


def counts(place: Path) -> list[str]:
    try:
        return (place / "counts").read_text().split()
    except FileNotFoundError:
        return []


def put(stores, place: Path, name: str, **options):
    flow, source = flow_and_source(f"{place / 'flows_here.py'}:{name}")
    return stores.plans.put(flow.to_deployment("d", source=source, **options).model)[0]


@contextmanager
def serving(stores, **options):
    service = Orchestration(stores, worker=WorkerOptions(slots=2, **options))
    service.start()
    try:
        yield service
    finally:
        service.stop()


@contextmanager
def process(*arguments: str, cwd: Path):
    started = subprocess.Popen(
        [sys.executable, *arguments], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield started
    finally:
        if started.poll() is None:
            started.send_signal(signal.SIGTERM)
        started.communicate(timeout=60)


def worker_process(place: Path):
    return process("-m", "graphflow", "worker", "start", "--slots", "1", "--grace", "20s", cwd=place)


def state(stores, run_id: str) -> str:
    return stores.history.find(run_id).state


def ended(stores, run_id: str):
    return eventually(lambda: stores.work.header(run_id) if not stores.work.header(run_id).work else None)


def events(stores, run_id: str) -> list[str]:
    found = stores.events.last(subject=run_id)
    return [each.type.removeprefix("graphflow.run.") for each in found]


def test_what_is_due_runs_and_its_output_is_in_its_log(place) -> None:
    (place / "open").touch()
    with open_stores() as stores, serving(stores):
        stored = put(stores, place, "gated", interval="1s", parameters={"n": 4})
        fire = eventually(lambda: stores.plans.fires(stored))[-1]
        header = ended(stores, fire.run_id)
        assert (header.state, header.plan.origin) == ("Completed", f"schedule:{stored.schedules[0].id}")
        from graphflow import history

        with history() as runs:
            run = runs.run(fire.run_id)
            assert run.result() == 5
            lines = [line.message for line in run.logs]
            assert "printed" in lines and "from a process" in lines
        stores.plans.pause("gated/d", True)


def test_async_flows_run_too(place) -> None:
    with open_stores() as stores, serving(stores):
        run_id = stores.fires.run(put(stores, place, "asynchronous"), {}, origin="user").run_id
        assert ended(stores, run_id).state == "Completed"


def test_a_killed_driver_is_resumed_and_nothing_that_was_committed_runs_again(place) -> None:
    with open_stores() as stores, serving(stores) as service:
        run_id = stores.fires.run(put(stores, place, "gated"), {}, origin="user").run_id
        eventually(lambda: "second" in counts(place))
        (child,) = service.worker._children.values()
        child.kill()
        eventually(lambda: counts(place).count("second") == 2)
        (place / "open").touch()
        assert ended(stores, run_id).state == "Completed"
        assert counts(place) == ["first", "second", "second"]
        assert events(stores, run_id).count("lost") == 1


def test_a_flow_that_kills_its_driver_ends_after_three(place) -> None:
    with open_stores() as stores, serving(stores):
        run_id = stores.fires.run(put(stores, place, "deadly"), {}, origin="user").run_id
        header = ended(stores, run_id)
        assert (header.state, counts(place)) == ("Crashed", ["deadly"] * 3)
        assert "lost 3 drivers" in header.message


def test_a_run_that_cannot_begin_ends_with_the_reason(place) -> None:
    with open_stores() as stores, serving(stores):
        stored = put(stores, place, "plain")
        wrong = stores.fires.run(stored, {"n": "many"}, origin="user").run_id
        assert ended(stores, wrong).state == "Failed"
        assert "parameter 'n' must be int" in stores.work.header(wrong).message
        (place / "flows_here.py").write_text("import not_there\n")
        broken = stores.fires.run(stored, {"n": 1}, origin="user").run_id
        assert ended(stores, broken).state == "Crashed"
        assert "No module named 'not_there'" in stores.work.header(broken).message
        (place / "flows_here.py").unlink()
        gone = stores.fires.run(stored, {"n": 1}, origin="user").run_id
        assert "cannot be read" in ended(stores, gone).message


def test_a_file_that_changed_since_runs_and_the_run_says_so(place) -> None:
    with open_stores() as stores, serving(stores):
        stored = put(stores, place, "plain")
        (place / "flows_here.py").write_text(FLOWS + "\n# changed\n")
        run_id = stores.fires.run(stored, {"n": 1}, origin="user").run_id
        assert ended(stores, run_id).state == "Completed"
        from graphflow import history

        with history() as runs:
            assert any("has changed since" in line.message for line in runs.run(run_id).logs)


def test_a_driver_goes_on_when_its_worker_is_killed(place) -> None:
    with open_stores() as stores:
        with worker_process(place) as worker:
            run_id = stores.fires.run(put(stores, place, "gated"), {}, origin="user").run_id
            eventually(lambda: "second" in counts(place))
            worker.kill()
            worker.wait()
            keeper = Keeper(stores)
            keeper.turn()
            assert stores.pools.workers() == []
            assert state(stores, run_id) == "Running"
            (place / "open").touch()
            assert ended(stores, run_id).state == "Completed"
        assert counts(place) == ["first", "second"]
        assert len(list(stores.history.read(run_id))) > 0
        assert stores.history.find(run_id).epoch == 1


def test_a_worker_that_is_told_to_stop_hands_its_run_to_the_next_one(place) -> None:
    with open_stores() as stores:
        with worker_process(place) as one:
            run_id = stores.fires.run(put(stores, place, "gated"), {}, origin="user").run_id
            eventually(lambda: "second" in counts(place))
            one.send_signal(signal.SIGTERM)
            # A driver that lets running items end within the time of grace is not held up.
            (place / "open").touch()
            assert one.wait(timeout=60) == 0
        header = stores.work.header(run_id)
        if header.work is not None:
            # Else its last item ended meanwhile, and the run with it.
            assert (header.state, header.work.state, header.work.crashes) == ("Resuming", "waiting", 0)
            with worker_process(place):
                ended(stores, run_id)
        assert stores.work.header(run_id).state == "Completed"
        assert "lost" not in events(stores, run_id)
        assert counts(place) == ["first", "second"]


def test_workers_that_are_restarted_one_after_the_other_execute_each_item_of_a_map_once(place) -> None:
    with open_stores() as stores:
        stored = put(stores, place, "wide", backend="threads:2")
        with worker_process(place) as one:
            run_id = stores.fires.run(stored, {"n": 10_000}, origin="user").run_id
            eventually(lambda: len(counts(place)) > 300)
            one.send_signal(signal.SIGTERM)
            assert one.wait(timeout=60) == 0
        before = len(counts(place))
        assert 300 < before < 10_000 and state(stores, run_id) == "Resuming"
        with worker_process(place) as two:
            eventually(lambda: len(counts(place)) > before + 300)
            two.send_signal(signal.SIGTERM)
            assert two.wait(timeout=60) == 0
        with worker_process(place):
            assert ended(stores, run_id).state == "Completed"
        found = counts(place)
        assert (len(found), len(set(found))) == (10_000, 10_000)
        assert events(stores, run_id).count("yielded") == 2


def test_work_of_a_worker_that_died_before_its_child_began_waits_for_another(place) -> None:
    with open_stores() as stores:
        run_id = stores.fires.run(put(stores, place, "plain"), {"n": 1}, origin="user").run_id
        code = (
            "import os\nfrom graphflow.orchestration.stores.opening import open_stores\n"
            "from graphflow.orchestration.worker import Worker, WorkerOptions\n"
            "with open_stores() as stores:\n"
            "    worker = Worker(stores, WorkerOptions())\n"
            "    worker._begin = lambda given: os.kill(os.getpid(), 9)\n"
            "    worker.start()\n"
            "    worker._claims._thread.join()\n"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=place, check=False)
        assert done.returncode == -signal.SIGKILL
        assert stores.work.header(run_id).state == "Pending"
        with serving(stores):
            header = ended(stores, run_id)
        assert header.state == "Completed"
        assert events(stores, run_id).count("yielded") == 1


def command(place: Path, *arguments: str, code: int = 0):
    done = subprocess.run(
        [sys.executable, "-m", "graphflow", *arguments],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == code, done.stderr
    return done


SERVED = (
    FLOWS
    + """
plain.serve(name="nightly", cron="0 2 * * *", timezone="Europe/Paris", parameters={"n": 3})
raise RuntimeError("this comes after serving")
"""
)


def test_a_script_that_serves_runs_what_it_is_asked_for_until_it_is_told_to_stop(place) -> None:
    (place / "served.py").write_text(SERVED.replace("raise RuntimeError", "print"))
    with process("served.py", cwd=place) as served, open_stores() as stores:
        eventually(lambda: stores.pools.workers())
        done = command(place, "deploy", "run", "plain/nightly", "-p", "day=1", "--wait")
        assert done.stdout == '"3 1"\n'
        (shown,) = json.loads(command(place, "runs", "ls", "-o", "json").stdout)
        assert (shown["deployment"], shown["origin"], shown["state"]) == (
            "plain/nightly",
            "user",
            "Completed",
        )
        served.send_signal(signal.SIGINT)
        out, _ = served.communicate(timeout=60)
    assert served.returncode == 0
    assert "plain/nightly: next at" in out and "this comes after serving" in out


def test_a_script_that_serves_is_loaded_by_others_for_its_flows_alone(place) -> None:
    (place / "served.py").write_text(SERVED)
    done = command(place, "run", "served.py:plain", "-p", "n=1", "-q")
    assert done.stdout == '"1 today"\n'
    with open_stores() as stores:
        assert stores.plans.all() == []


def test_commands_store_show_pause_and_remove_deployments(place) -> None:
    created = command(
        place, "deploy", "create", "flows_here.py:plain", "-n", "nightly", "--cron", "0 2 * * *", "--tz", "Europe/Paris",
        "--concurrency", "1", "--on-collision", "skip", "-p", "n=1", "-o", "json",
    )  # fmt: skip
    document = json.loads(created.stdout)
    assert (document["change"], document["deployment"]) == ("added", "plain/nightly")
    assert document["concurrency"] == {"limit": 1, "key": "", "on_collision": "skip"}
    (listed,) = json.loads(command(place, "deploy", "ls", "-o", "json").stdout)
    assert listed["schedules"][0]["spec"] == "0 2 * * *"
    assert json.loads(command(place, "deploy", "show", "nightly", "-o", "json").stdout)["parameter_schema"][
        "required"
    ] == ["n"]
    command(place, "deploy", "pause", "nightly")
    assert "paused" in command(place, "deploy", "ls").stdout
    command(place, "deploy", "resume", "nightly")
    run = json.loads(command(place, "deploy", "run", "nightly", "-o", "json").stdout)["run"]
    assert "skipped: 1 of 1 run is active" in command(place, "deploy", "run", "nightly", code=1).stderr
    assert json.loads(command(place, "runs", "show", run, "-o", "json").stdout)["why"]
    command(place, "runs", "cancel", run)
    again = json.loads(command(place, "runs", "rerun", run, "-o", "json").stdout)
    assert again["of"] == run
    command(place, "deploy", "rm", "nightly")
    assert json.loads(command(place, "deploy", "ls", "-o", "json").stdout) == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--cron", "0 2 *"], "did you mean 0 2 * * *?"),
        (["--cron", "0 2 * * *", "--tz", "Paris"], "did you mean Europe/Paris?"),
        (["-p", "n=x"], "parameter 'n' must be int"),
        (["-p", "m=1"], "has no parameter 'm'"),
        (["--key", "{x}", "--concurrency", "1"], "the key names a parameter 'x'"),
        (["--catchup", "all"], "there is no schedule"),
        (["--cron", "0 2 * * *", "--interval", "5m"], "cron and interval are given"),
        (["--backend", "proceses"], "unknown backend"),
    ],
)
def test_a_deployment_that_is_wrong_is_refused_before_anything_is_stored(place, arguments, told) -> None:
    done = command(place, "deploy", "create", "flows_here.py:plain", "-n", "x", *arguments, code=3)
    assert told in " ".join(done.stderr.split())
    assert not (place / "home" / "catalog.db").exists()


def test_code_from_elsewhere_is_refused_by_name(place) -> None:
    done = command(place, "deploy", "create", "git+https://x/y.git@main:flow", "-n", "x", code=3)
    assert "code from git and bundles are not supported yet" in " ".join(done.stderr.split())


def test_a_file_is_applied_with_a_plan_and_removes_only_what_it_made(place) -> None:
    with open_stores() as stores:
        put(stores, place, "gated")
    toml = place / "graphflow.toml"
    toml.write_text(
        '[pools.default]\nsize = 2\n[deployments.nightly]\nflow = "flows_here.py:plain"\ncron = "0 2 * * *"\n'
        'parameters = { n = 1 }\n[deployments.other]\nflow = "flows_here.py:plain"\n'
    )
    command(place, "deploy", "apply", "--check", code=1)
    plan = json.loads(command(place, "deploy", "apply", "--yes", "-o", "json").stdout)
    assert [(each["change"], each["name"]) for each in plan["changes"]] == [
        ("change", "default"),
        ("add", "plain/nightly"),
        ("add", "plain/other"),
    ]
    command(place, "deploy", "apply", "--check")
    toml.write_text(
        '[deployments.nightly]\nflow = "flows_here.py:plain"\ncron = "0 3 * * *"\nparameters = { n = 1 }\n'
    )
    shown = command(place, "deploy", "apply", "--yes").stdout
    assert "~ deployment plain/nightly" in shown and "- deployment plain/other" in shown
    names = [each["deployment"] for each in json.loads(command(place, "deploy", "ls", "-o", "json").stdout)]
    assert names == ["gated/d", "plain/nightly"]
    toml.write_text("[limits]\ndb = -1\n")
    assert "db = -1 is not a number of slots" in command(place, "deploy", "apply", code=3).stderr


def test_a_preview_says_what_happens_when_clocks_change(place) -> None:
    done = command(
        place, "schedule", "preview", "30 2 * * *", "--tz", "Europe/Paris", "-n", "2", "--after", "2026-03-01"
    )
    assert "At 02:30 every day" in done.stdout
    assert "2026-03-29: the clock goes forward by 1 h" in done.stdout
    assert "the first moment after the gap" in done.stdout
    document = json.loads(
        command(
            place, "schedule", "preview", "--interval", "15m", "-o", "json", "--after", "2026-03-01"
        ).stdout
    )
    assert document["fires"][0]["utc"] == "2026-03-01T00:15:00Z"


def test_pools_events_and_the_pause_of_everything_have_commands(place) -> None:
    command(place, "pool", "create", "gpu", "--size", "2")
    command(place, "pool", "set", "gpu", "--queue", "urgent", "--priority", "-1")
    command(place, "pool", "pause", "gpu")
    (gpu,) = json.loads(command(place, "pool", "ls", "-o", "json").stdout)
    assert (gpu["size"], gpu["is_paused"], gpu["queues"][0]["name"]) == (2, True, "urgent")
    command(place, "pause-all")
    command(place, "resume-all")
    command(place, "events", "emit", "shop.order.paid", "--data", '{"n": 1}', "--id", "x")
    (event,) = json.loads(command(place, "events", "ls", "--type", "shop.*", "-o", "json").stdout)
    assert (event["specversion"], event["data"]) == ("1.0", {"n": 1})
    assert "there is no pool 'cpu'" in command(place, "pool", "set", "cpu", "--size", "1", code=4).stderr


def test_limits_and_rates_have_commands(place) -> None:
    command(place, "limits", "set", "db", "20")
    command(place, "rates", "set", "api", "600/min", "--burst", "5")
    (db,) = json.loads(command(place, "limits", "ls", "-o", "json").stdout)
    assert (db["name"], db["size"], db["in_use"], db["holders"]) == ("db", 20, 0, [])
    (api,) = json.loads(command(place, "rates", "ls", "-o", "json").stdout)
    assert (api["per_second"], api["burst"]) == (10.0, 5)
    assert "such as" in command(place, "rates", "set", "api", "fast", code=3).stderr
    command(place, "limits", "rm", "db")
    assert "there is no limit 'db'" in command(place, "limits", "rm", "db", code=4).stderr


FAILING = """
from pathlib import Path

from graphflow import flow, task

HERE = Path(__file__).parent


@task
def fetch(x):
    with open(HERE / "counts", "a") as file:
        file.write(f"i{x}\\n")
    if x and not (HERE / "mended").exists():
        raise ValueError("no such page")
    return x


@flow
def pages(n: int = 4):
    return sum(future.result() for future in fetch.map(range(n)))
"""


def test_a_run_that_fails_is_told_with_its_failures_and_retried_by_an_automation(place, monkeypatch) -> None:
    from graphflow.model.automated import automation_of
    from graphflow.orchestration import sender

    (place / "flows_here.py").write_text(FAILING)
    sent = []
    monkeypatch.setattr(
        sender, "notify", lambda name, **said: sent.append((name, said["title"], said["text"]))
    )
    failed = {"type": "graphflow.run.failed"}
    with open_stores() as stores, serving(stores):
        stores.rules.put(automation_of("tell", {"when": failed, "then": [{"notify": "oncall"}]}))
        run_id = stores.fires.run(put(stores, place, "pages"), {}, origin="user").run_id
        ((name, title, text),) = eventually(lambda: sent)
        assert (name, title) == ("oncall", "pages/d failed")
        assert "3 items of fetch: ValueError: no such page" in text
        (place / "mended").touch()
        retried = {"when": {"type": "shop.mended"}, "then": [{"retry_run": "{event.subject}"}]}
        stores.rules.put(automation_of("again", retried))
        stores.events.emit("shop.mended", subject=run_id)
        eventually(lambda: state(stores, run_id) == "Completed")
        assert sorted(counts(place)) == ["i0", *sorted(["i1", "i2", "i3"] * 2)]
        assert stores.work.header(run_id).work is None
        assert events(stores, run_id).count("pending") == 2
