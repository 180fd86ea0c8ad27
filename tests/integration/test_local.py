"""The default backend: threads first, processes when they are worth it, and what stays where."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from graphflow import backends, flow, task, unmapped
from graphflow.backends.automatic import shared_cluster as shared_module
from graphflow.backends.automatic.candidates import Thresholds
from graphflow.backends.automatic.shared_cluster import SharedCluster, shared_cluster_of
from graphflow.backends.automatic.switching import LocalBackend
from graphflow.backends.dask.connecting import Way
from graphflow.errors import ItemCrashed, ItemTimedOut
from graphflow.runs.run import Run

EAGER = Thresholds(
    work_seconds=0.0,
    measured_seconds=0.0,
    low=-1.0,
    high=float("inf"),
    least_running=0.0,
    least_cpu_rate=0.0,
    returns_below=0.0,
    cores=2,
)
"""Every task moves as soon as it was measured once."""


@pytest.fixture(scope="module")
def warm() -> Iterator[SharedCluster]:
    """A cluster that is up."""
    shared = SharedCluster(2)
    is_up = threading.Event()
    shared.acquire(lambda _: is_up.set())
    assert is_up.wait(60)
    yield shared
    shared.close()


@pytest.fixture
def eager(warm: SharedCluster) -> Iterator[LocalBackend]:
    with LocalBackend(2, shared=warm, thresholds=EAGER) as backend:
        yield backend


@pytest.fixture
def moved(warm: SharedCluster) -> Iterator[LocalBackend]:
    with LocalBackend(2, shared=warm, thresholds=Thresholds(moves_all=True)) as backend:
        yield backend


@task
def where(x: int) -> tuple[int, int]:
    return os.getpid(), x


@task(batch_size=1)
def slowly(x: int, folder: str) -> tuple[int, int]:
    time.sleep(0.005)  # what takes time moves
    pid = os.getpid()
    open(f"{folder}/{pid}", "w").close()
    return pid, x


@task
def count(seen: list[tuple[int, int]]) -> int:
    return len(seen)


def until_elsewhere(folder: Path) -> Iterator[int]:
    """Numbers until another process than this one has left its mark in a folder."""
    for number in range(1_000_000):
        if any(path.name != str(os.getpid()) for path in folder.iterdir()):
            return
        yield number


def test_work_begins_on_threads_and_goes_on_in_processes(eager: LocalBackend, tmp_path: Path) -> None:
    @flow(backend=eager)
    def body() -> Any:
        seen = slowly.map(until_elsewhere(tmp_path), str(tmp_path))
        return seen, count(seen)

    run = body.run()
    seen, total = run.value
    pids = {pid for pid, _ in seen}
    assert os.getpid() in pids and len(pids) > 1
    assert [x for _, x in seen] == list(range(len(seen)))
    assert total == len(seen)
    assert run.nodes["slowly"].counts == {"Completed": len(seen)}


def test_values_go_along_both_ways(eager: LocalBackend) -> None:
    @task
    def make(x: int) -> bytes:
        return bytes(20_000) + bytes([x % 256])

    @task
    def last(data: bytes) -> tuple[int, int]:
        return os.getpid(), data[-1]

    @task
    def check(pairs: list[tuple[int, int]], keep: Any) -> int:
        keep.append(os.getpid())  # cannot travel, so it runs here
        return sum(x for _, x in pairs)

    class Keep(list):  # type: ignore[type-arg]
        def __reduce__(self) -> Any:
            raise RuntimeError("I stay here")

    keep = Keep()

    @flow(backend=eager)
    def body() -> Any:
        made = [make(x) for x in range(6)]
        for each in made:
            each.result()
        return check([last(each) for each in made * 20], keep)

    assert body() == 20 * sum(range(6))
    assert keep == [os.getpid()]


def test_what_was_made_in_processes_is_read_by_tasks_on_threads(moved: LocalBackend) -> None:
    lock = threading.Lock()

    @task
    def make(x: int) -> bytes:
        return f"{os.getpid()}-{x}-".encode() + bytes(5_000)

    @task
    def read(made: list[bytes], lock: Any) -> tuple[int, list[tuple[int, int]]]:
        return os.getpid(), [(int(each.split(b"-")[0]), int(each.split(b"-")[1])) for each in made]

    @flow(backend=moved)
    def body() -> Any:
        return read(make.map(range(50)), lock)

    reader, made = body()
    assert reader == os.getpid()
    assert os.getpid() not in {maker for maker, _ in made}
    assert [x for _, x in made] == list(range(50))


def pinned_flow(eager: LocalBackend, body: Any, caplog: pytest.LogCaptureFixture) -> Run:
    with caplog.at_level(logging.DEBUG, "graphflow.backends"):
        run = flow(backend=eager)(body).run()
    assert run.state == "Completed", run.exception
    warned = [record for record in caplog.records if record.levelno >= logging.WARNING]
    # That results cannot be kept for a later launch of the run is another matter.
    assert not [record for record in warned if record.name != "graphflow.results"]
    return run


def test_a_task_that_cannot_be_pickled_stays_on_threads(eager: LocalBackend, caplog: Any) -> None:
    lock = threading.Lock()

    @task(batch_size=1)
    def hold(x: int) -> int:
        with lock:
            return os.getpid()

    run = pinned_flow(eager, lambda: hold.map(range(200)), caplog)
    assert set(run.value) == {os.getpid()}
    assert any("hold stays on threads" in record.getMessage() for record in caplog.records)


def test_a_task_whose_results_cannot_be_pickled_stays_on_threads(eager: LocalBackend, caplog: Any) -> None:
    @task(batch_size=1)
    def make(x: int) -> Any:
        return threading.Lock()

    # Not fused with the other: in a chain, what only the next task needs travels nowhere.
    @task(batch_size=1, priority=1)
    def look(lock: Any) -> int:
        return os.getpid()

    run = pinned_flow(eager, lambda: look.map(make.map(range(100))), caplog)
    assert set(run.value) == {os.getpid()}


def test_arguments_that_cannot_be_pickled_keep_their_task_here(eager: LocalBackend, caplog: Any) -> None:
    class Stays:
        def __reduce__(self) -> Any:
            raise RuntimeError("I stay here")

    @task(batch_size=1)
    def look(value: Any) -> int:
        return os.getpid()

    run = pinned_flow(eager, lambda: look.map([Stays() for _ in range(100)]), caplog)
    assert set(run.value) == {os.getpid()}


def test_a_batch_that_a_worker_cannot_read_runs_here(moved: LocalBackend) -> None:
    here = os.getpid()

    class OnlyHere(int):
        """Restored in this process alone."""

        def __reduce__(self) -> Any:
            return _only_in, (int(self),)

    @task
    def look(value: Any, x: int) -> tuple[int, int]:
        return os.getpid(), value + x

    @flow(backend=moved)
    def body() -> Any:
        return look.map(unmapped(OnlyHere(here)), range(20))

    run = body.run()
    assert {pid for pid, _ in run.value} == {here}
    assert run.nodes["look"].counts == {"Completed": 20}
    assert {item.attempts for item in run.nodes["look"].items} == {1}


def _only_in(pid: int) -> int:
    if os.getpid() != pid:
        raise RuntimeError("not here")
    return pid


def test_one_core_never_moves() -> None:
    options = Thresholds(
        **{name: getattr(EAGER, name) for name in EAGER.__slots__ if name != "cores"}, cores=1
    )
    with LocalBackend(2, thresholds=options) as backend:
        run = flow(backend=backend)(lambda: where.map(range(500))).run()
        assert {pid for pid, _ in run.value} == {os.getpid()}
        assert backend._shared.users == 0


def test_without_a_cluster_one_warning_and_all_goes_on_here(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(way: Way) -> Any:
        raise OSError("no more processes")

    monkeypatch.setattr(Way, "connect", refuse)
    shared = SharedCluster(2)
    with caplog.at_level(logging.WARNING, "graphflow.backends"):
        for _ in range(2):
            with LocalBackend(2, shared=shared, thresholds=Thresholds(moves_all=True)) as backend:
                assert {pid for pid, _ in flow(backend=backend)(lambda: where.map(range(100)))()} == {
                    os.getpid()
                }
    assert [record.getMessage() for record in caplog.records] == [
        "no local worker processes could be started (OSError: no more processes); all tasks stay on threads of "
        "this process"
    ]


def test_an_item_that_kills_its_process_kills_no_other_and_never_this_one(moved: LocalBackend) -> None:
    @task
    def poison(x: int) -> int:
        if x == 33:
            os._exit(9)
        return x

    @task
    def after(x: int) -> int:
        return x

    run = flow(backend=moved)(lambda: after.map(poison.map(range(100)))).run()
    assert run.nodes["poison"].counts == {"Completed": 99, "Crashed": 1}
    assert isinstance(run.nodes["poison"].items[33].exception, ItemCrashed)


def test_a_timeout_by_force_costs_no_other_item(moved: LocalBackend) -> None:
    @task(timeout_seconds=0.3)
    def sleeper(x: int) -> int:
        if x == 2:
            time.sleep(600)
        return x

    run = flow(backend=moved)(lambda: sleeper.map(range(6))).run()
    node = run.nodes["sleeper"]
    assert node.counts == {"Completed": 5, "TimedOut": 1}
    assert isinstance(node.items[2].exception, ItemTimedOut)


def test_a_cancelled_run_ends_on_both_sides(eager: LocalBackend, tmp_path: Path) -> None:
    @task(batch_size=1)
    def wait(x: int) -> int:
        (tmp_path / f"{os.getpid()}").touch()
        time.sleep(0.01)
        return x

    run = flow(backend=eager)(lambda: wait.map(range(100_000))).start()
    pause = threading.Event()
    while len(list(tmp_path.iterdir())) < 2:
        pause.wait(0.02)
    run.cancel(force=True)
    run.wait(60)
    assert run.state == "Cancelled"
    counts = run.nodes["wait"].counts
    assert set(counts) == {"Completed", "Cancelled"}
    assert sum(counts.values()) == 100_000


def test_a_cluster_without_users_is_closed() -> None:
    shared = SharedCluster(1, idle_seconds=0.01)
    first = threading.Event()
    shared.acquire(lambda _: first.set())
    assert first.wait(60)
    backend = shared.backend
    assert backend is not None
    shared.release()
    pause = threading.Event()
    while not backend.is_failed:
        pause.wait(0.01)
    assert shared.backend is None
    second = threading.Event()
    shared.acquire(lambda _: second.set())
    assert second.wait(60)
    assert shared.backend is not None and shared.backend is not backend
    shared.close()
    assert shared.backend is None


def test_runs_of_the_default_share_one_cluster() -> None:
    one, is_owned = backends.resolve(None)
    two, _ = backends.resolve("local")
    own = backends.local()
    assert is_owned
    assert isinstance(one, LocalBackend) and isinstance(two, LocalBackend)
    assert one._shared is two._shared is not own._shared
    for each in (one, two, own):
        each.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_leaves_its_parents_cluster_alone(warm: SharedCluster) -> None:
    before = shared_cluster_of(2)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        found: list[Any] = []
        warm.acquire(found.append)
        is_new = shared_cluster_of(2) is not before and not shared_module._SHARED.closing
        os.write(writing, b"ok" if is_new and found == [None] and warm.backend is None else b"no")
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(reading, 2) == b"ok"
    os.close(reading)
    os.close(writing)
    assert warm.backend is not None


# -- scripts ---------------------------------------------------------------------------------------------


def run_script(tmp_path: Path, text: str) -> subprocess.CompletedProcess[str]:
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(text))
    # On a busy machine a run may be long enough for lines of its progress.
    environ = os.environ | {"GRAPHFLOW_PROGRESS": "off"}
    return subprocess.run(
        [sys.executable, str(path)],
        capture_output=True,
        text=True,
        timeout=90,
        cwd=tmp_path,
        env=environ,
    )


def test_a_small_flow_never_loads_dask(tmp_path: Path) -> None:
    done = run_script(
        tmp_path,
        """
        import sys
        from graphflow import flow, task

        @task
        def double(x):
            return 2 * x

        @flow
        def small():
            return double.map(range(1_000))

        assert small()[-1] == 1_998
        assert double.map([1, 2]).result() == [2, 4]
        print(sorted({"dask", "distributed", "multiprocessing", "numpy"} & set(sys.modules)))
        """,
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


EAGER_SCRIPT = """
from graphflow import flow, task
from graphflow.backends.automatic import candidates
import os, sys, threading, time
candidates.Thresholds.__init__.__kwdefaults__.update(
    work_seconds=0.0, measured_seconds=0.0, low=-1.0, high=float("inf"), least_running=0.0, least_cpu_rate=0.0,
    returns_below=0.0, cores=2,
)
"""


def test_a_script_needs_no_guard_and_ends_without_noise(tmp_path: Path) -> None:
    done = run_script(
        tmp_path,
        EAGER_SCRIPT
        + textwrap.dedent("""
        from pathlib import Path
        marks = Path("marks")
        marks.mkdir()

        def numbers():
            while len(list(marks.iterdir())) < 2:
                yield 1

        @task(batch_size=1)
        def where(x):
            time.sleep(0.005)
            (marks / str(os.getpid())).touch()
            return os.getpid()

        @flow
        def move():
            return where.map(numbers())

        print(len(set(move())) > 1)
        """),
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_a_script_that_ends_while_the_cluster_comes_up_is_quiet(tmp_path: Path) -> None:
    done = run_script(
        tmp_path,
        EAGER_SCRIPT
        + textwrap.dedent("""
        from graphflow.backends.automatic.shared_cluster import SharedCluster
        asked = threading.Event()
        start = SharedCluster._start

        def started(self):
            asked.set()
            start(self)

        SharedCluster._start = started

        @task(batch_size=1)
        def quick(x):
            return x

        @flow
        def short():
            return quick.map(range(100))

        print(sum(short()), asked.wait(30))
        """),
    )
    assert (done.stdout, done.stderr) == ("4950 True\n", "")


def test_ctrl_c_ends_a_run_that_moved_without_noise_or_leftovers(tmp_path: Path) -> None:
    path = tmp_path / "long.py"
    path.write_text(
        EAGER_SCRIPT
        + textwrap.dedent("""
        @task(batch_size=1)
        def work(x):
            with open(f"pid-{os.getpid()}", "w"):
                pass
            time.sleep(0.01)

        @flow
        def forever():
            return work.map(range(1_000_000))

        forever()
        """)
    )
    process = subprocess.Popen(
        [sys.executable, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    pause = threading.Event()
    while len(list(tmp_path.glob("pid-*"))) < 3 and process.poll() is None:
        pause.wait(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "was interrupted\n  graphflow runs resume " in errors
    assert "Traceback" not in errors
    assert "distributed" not in errors
    pids = [int(each.name.partition("-")[2]) for each in tmp_path.glob("pid-*")]
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        pause.wait(0.02)
