"""The Dask backend as a user meets it: given and made clusters, workers that die, items that cannot travel."""

from __future__ import annotations

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

from graphflow import backends, flow, history, task, task_context, unmapped
from graphflow.errors import (
    BackendError,
    BackendUnreachable,
    ItemCrashed,
    ItemTimedOut,
    RunNotFound,
    SerializationError,
)
from graphflow.model.states import Code
from graphflow.testing.waiting import eventually


@pytest.fixture(scope="module")
def two() -> Iterator[Any]:
    with backends.processes(slots=2) as backend:
        yield backend


@pytest.fixture(scope="module")
def given() -> Iterator[Any]:
    from distributed import LocalCluster

    from graphflow.backends.dask.spawning import leave_main_out

    leave_main_out()
    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        dashboard_address="127.0.0.1:0",
        silence_logs=50,
        resources={"GPU": 1},
    ) as cluster:
        yield cluster


@task
def double(x: int) -> int:
    return 2 * x


@task
def total(xs: list[int]) -> int:
    return sum(xs)


@flow
def doubled_total(n: int) -> int:
    return total(double.map(double.map(range(n))))


def test_a_mapped_run_gives_what_a_plain_loop_gives(two: Any) -> None:
    run = doubled_total.with_options(backend=two).run(20_000)
    assert run.value == 4 * sum(range(20_000))
    assert run.nodes["double"].counts == {"Completed": 20_000}


def test_results_outlive_the_backend() -> None:
    run = doubled_total.with_options(backend="processes:1").run(50_000)
    assert run.value == 4 * sum(range(50_000))
    assert run.nodes["double"].items[49_999].value == 99_998


def test_a_given_cluster_is_used_and_left_open(given: Any) -> None:
    run = doubled_total.with_options(backend=given).run(100)
    assert run.value == 4 * sum(range(100))
    assert given.status.name == "running"


def test_an_address_and_a_client_do_as_well(given: Any) -> None:
    from distributed import Client

    assert doubled_total.with_options(backend=given.scheduler_address)(10) == 180
    with Client(given, set_as_default=False) as client:
        assert doubled_total.with_options(backend=backends.dask(client=client))(10) == 180
        assert client.status == "running"


def test_a_scheduler_file_does_as_well(given: Any, tmp_path: Path) -> None:
    import json

    path = tmp_path / "scheduler.json"
    path.write_text(json.dumps({"address": given.scheduler_address}))
    assert doubled_total.with_options(backend=str(path))(10) == 180


def test_a_cluster_class_is_made_and_closed() -> None:
    backend = backends.dask(
        cluster_class="distributed.LocalCluster",
        cluster_kwargs={
            "n_workers": 1,
            "threads_per_worker": 2,
            "dashboard_address": None,
            "silence_logs": 50,
        },
    )
    with backend:
        assert doubled_total.with_options(backend=backend)(10) == 180
        cluster = backend._cluster
    assert cluster.status.name == "closed"


def test_an_adaptive_cluster_grows() -> None:
    backend = backends.dask(
        cluster_class="distributed.LocalCluster",
        cluster_kwargs={
            "n_workers": 0,
            "threads_per_worker": 1,
            "dashboard_address": None,
            "silence_logs": 50,
        },
        adapt_kwargs={"minimum": 0, "maximum": 2, "interval": "100ms", "target_duration": "200ms"},
    )
    with backend:
        assert doubled_total.with_options(backend=backend)(10) == 180


def test_a_cluster_class_that_does_not_exist_is_named() -> None:
    with pytest.raises(BackendError, match="no cluster class 'nowhere.Cluster'"):
        backends.dask(cluster_class="nowhere.Cluster").start()


def test_several_ways_to_a_cluster_at_once_are_refused() -> None:
    with pytest.raises(BackendError, match="exactly one of"):
        backends.dask(address="tcp://127.0.0.1:1", scheduler_file="x.json")
    with pytest.raises(BackendError, match="exactly one of"):
        backends.dask()


def test_an_unreachable_scheduler_is_a_clear_error_within_seconds() -> None:
    for given in ("tcp://127.0.0.1:9", backends.dask(address="tcp://127.0.0.1:9")):
        with pytest.raises(BackendUnreachable, match="tcp://127.0.0.1:9"):
            doubled_total.with_options(backend=given).run(1, run_id="unreachable")
    with pytest.raises(RunNotFound), history() as found:
        found.run("unreachable")


def test_resources_place_batches_and_missing_ones_are_refused_before_anything_runs(given: Any) -> None:
    @flow(backend=given)
    def on_gpu(amount: float) -> list[int]:
        return double.with_options(resources={"GPU": amount}).map(range(4))  # type: ignore[return-value]

    assert on_gpu(1) == [0, 2, 4, 6]
    with pytest.raises(BackendError, match="GPU=8"):
        on_gpu(8)


def test_workers_restrict_where_a_task_runs(given: Any) -> None:
    address = next(iter(given.scheduler_info["workers"]))

    @task(workers=[address])
    def where(x: int) -> str:
        from distributed import get_worker

        return str(get_worker().address)

    @flow(backend=given)
    def pinned() -> list[str]:
        return where.map(range(20))  # type: ignore[return-value]

    assert set(pinned()) == {address}


def test_task_names_are_the_prefixes_of_dask_keys(two: Any) -> None:
    @task(name="show me")
    def own_key(x: int) -> str:
        from distributed.worker import thread_state

        return str(thread_state.key)

    @flow(backend=two)
    def keys() -> list[str]:
        return own_key.map(range(2))  # type: ignore[return-value]

    assert all(key.startswith("show_me-") for key in keys())


# -- crashes ---------------------------------------------------------------------------------------------


def test_an_item_that_kills_its_worker_ends_crashed_alone(two: Any, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"

    @task
    def poison(x: int) -> int:
        with open(ledger, "a") as file:
            file.write(f"{x}\n")
        if x == 33:
            os._exit(9)
        return x

    @flow(backend=two)
    def crash() -> list[int]:
        return total(poison.map(range(100)))  # type: ignore[return-value]

    run = crash.run()
    node = run.nodes["poison"]
    assert node.counts == {"Completed": 99, "Crashed": 1}
    assert isinstance(node.items[33].exception, ItemCrashed)
    assert node.items[33].state == "Crashed"
    executions = [int(line) for line in ledger.read_text().split()]
    assert executions.count(33) == 2
    assert run.nodes["total"].state == "UpstreamFailed"
    assert "poison[33]" in str(run.nodes["total"].items[0].exception)


def test_a_crash_in_a_fused_chain_is_booked_on_the_task_that_crashed(two: Any) -> None:
    @task
    def crash_at_two(x: int) -> int:
        if x == 4:
            os.kill(os.getpid(), signal.SIGSEGV)
        return x

    @flow(backend=two)
    def chain() -> list[int]:
        return crash_at_two.map(double.map(range(10)))  # type: ignore[return-value]

    run = chain.run()
    assert run.nodes["double"].counts == {"Completed": 10}
    assert run.nodes["crash_at_two"].counts == {"Completed": 9, "Crashed": 1}


def test_without_a_journal_a_poison_item_is_found_by_halving(given: Any) -> None:
    @task
    def poison(x: int) -> int:
        if x == 5:
            os._exit(9)
        return x

    @flow
    def crash() -> list[int]:
        return poison.map(range(12))  # type: ignore[return-value]

    import dask

    # A given cluster is Dask's own: it gives a worker's place up that is away 15 s after an earlier loss.
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1h"}),
        backends.dask(cluster=given) as backend,
    ):
        backend._shares_disk = False
        run = crash.with_options(backend=backend).run()
    assert run.nodes["poison"].counts == {"Completed": 11, "Crashed": 1}
    assert run.nodes["poison"].items[5].state == "Crashed"


def test_a_worker_killed_from_outside_costs_no_item(two: Any, tmp_path: Path) -> None:
    pids = tmp_path / "pids"

    @task
    def slow(x: int) -> int:
        if x == 0 and not pids.exists():
            pids.write_text(str(os.getpid()))
            time.sleep(30)
        return x

    @flow(backend=two)
    def survive() -> int:
        return total(slow.map(range(50)))  # type: ignore[return-value]

    run = survive.start()
    eventually(lambda: pids.exists() and pids.read_text() != "")
    os.kill(int(pids.read_text()), signal.SIGKILL)
    assert run.result(timeout=60) == sum(range(50))


# -- timeouts --------------------------------------------------------------------------------------------


def test_an_item_that_sleeps_in_c_is_stopped_and_its_siblings_keep_their_results(two: Any) -> None:
    @task(timeout_seconds=0.3)
    def sleeper(x: int) -> int:
        if x == 2:
            time.sleep(600)
        return x

    @flow(backend=two)
    def stuck() -> list[int]:
        return sleeper.map(range(6))  # type: ignore[return-value]

    run = stuck.run()
    node = run.nodes["sleeper"]
    assert node.counts == {"Completed": 5, "TimedOut": 1}
    assert isinstance(node.items[2].exception, ItemTimedOut)
    assert [node.items[i].value for i in (0, 1, 3, 4, 5)] == [0, 1, 3, 4, 5]


# -- what cannot travel ----------------------------------------------------------------------------------


class Unsendable:
    def __reduce__(self) -> Any:
        raise RuntimeError("I stay here")


class Unreadable:
    def __reduce__(self) -> Any:
        return int, ("no number",)


class TwoArguments(Exception):
    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


def test_results_that_cannot_travel_fail_alone_and_say_which_and_why(two: Any) -> None:
    @task
    def make(x: int) -> Any:
        return [x, threading.Lock(), Unreadable()][x % 3] if x < 3 else x

    @flow(backend=two)
    def carry() -> Any:
        return make.map(range(6))

    node = carry.run().nodes["make"]
    assert node.counts == {"Completed": 4, "Failed": 2}
    for index, what in ((1, "a lock"), (2, "a Unreadable")):
        error = node.items[index].exception
        assert isinstance(error, SerializationError)
        assert f"make[{index}]" in str(error) and what in str(error)


def test_arguments_that_cannot_travel_fail_alone(two: Any) -> None:
    @flow(backend=two)
    def carry() -> Any:
        return double.map([1, Unsendable(), 3])

    node = carry.run().nodes["double"]
    assert node.counts == {"Completed": 2, "Failed": 1}
    assert isinstance(node.items[1].exception, SerializationError)
    assert "Unsendable" in str(node.items[1].exception)


def test_a_constant_that_cannot_travel_fails_the_run_with_the_reason(two: Any) -> None:
    lock = threading.Lock()

    @task
    def hold(x: int, lock: Any) -> int:
        return x

    @flow(backend=two)
    def carry() -> Any:
        return hold.map(range(3), lock=unmapped(lock))

    run = carry.run()
    assert isinstance(run.exception, SerializationError) and "argument 'lock'" in str(run.exception)
    assert "cannot pickle" in str(run.exception)


def test_exceptions_that_no_pickle_restores_are_made_again(two: Any) -> None:
    @task
    def fail(x: int) -> int:
        error = TwoArguments("this", "that" if x else "those")
        if x:
            error.lock = threading.Lock()  # type: ignore[attr-defined]
        raise error

    @flow(backend=two)
    def carry() -> Any:
        return fail.map(range(2))

    made, told = [item.exception for item in carry.run().nodes["fail"].items]
    assert type(made).__name__ == "TwoArguments" and str(made) == "this and those"
    assert type(told).__name__ == "TwoArguments" and str(told) == "this and that"
    assert not hasattr(told, "lock") and "cannot be pickled or is large: lock" in told.__notes__[0]


def test_a_huge_exception_is_cut_to_a_readable_size(two: Any) -> None:
    @task
    def fail(x: int) -> int:
        raise ValueError("z" * 10_000_000)

    @flow(backend=two)
    def carry() -> Any:
        return fail.map(range(3))

    run = carry.run()
    assert len(str(run.nodes["fail"].items[0].exception)) < 5_000


def test_a_module_that_workers_lack_is_the_tasks_clear_failure(two: Any, tmp_path: Path) -> None:
    @task
    def needs(x: int) -> int:
        import a_module_that_is_nowhere  # type: ignore[import-not-found]

        return int(a_module_that_is_nowhere.value)

    @flow(backend=two)
    def carry() -> Any:
        return [needs.map(range(2)), double.map(range(2))]

    run = carry.run()
    assert run.nodes["needs"].counts == {"Failed": 2}
    assert isinstance(run.nodes["needs"].items[0].exception, ModuleNotFoundError)
    assert run.nodes["double"].counts == {"Completed": 2}


def test_workers_need_no_copy_of_the_users_file(given: Any, tmp_path: Path) -> None:
    import importlib.util

    path = tmp_path / "their_tasks.py"
    path.write_text("def triple(x):\n    return helper(x)\n\ndef helper(x):\n    return 3 * x\n")
    spec = importlib.util.spec_from_file_location("their_tasks", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["their_tasks"] = module
    try:
        spec.loader.exec_module(module)

        @flow(backend=given)
        def use() -> Any:
            return task(module.triple).map(range(3))

        assert use() == [0, 3, 6]
    finally:
        del sys.modules["their_tasks"]


def test_a_large_constant_is_loaded_once_per_worker(two: Any) -> None:
    class Loads:
        """Counts, in each process, how often it is unpickled."""

        count = 0

        def __init__(self) -> None:
            self.data = bytes(2_000_000)

        def __setstate__(self, state: dict[str, Any]) -> None:
            self.__dict__.update(state)
            type(self).count += 1

    @task(batch_size=5)
    def look(big: Any, x: int) -> tuple[int, int]:
        return os.getpid(), type(big).count

    @flow(backend=two)
    def share() -> Any:
        return look.map(unmapped(Loads()), range(60))

    seen: dict[int, set[int]] = {}
    for pid, count in share():
        seen.setdefault(pid, set()).add(count)
    assert all(counts == {1} for counts in seen.values())


def test_values_of_one_item_can_be_large_without_stalling_others(two: Any) -> None:
    @task
    def sized(x: int) -> bytes:
        return bytes(50_000_000) if x == 3 else b"small"

    @task
    def measure(data: bytes) -> int:
        return len(data)

    @flow(backend=two)
    def big() -> Any:
        return measure.map(sized.map(range(6)))

    assert big() == [5, 5, 5, 50_000_000, 5, 5]


# -- grafts and logs across processes ------------------------------------------------------------------------


def test_calls_made_inside_a_worker_are_grafted(two: Any) -> None:
    @task
    def multiply(a: int, b: int) -> int:
        return a * b

    @task
    def factorial(n: int) -> Any:
        return 1 if n <= 1 else multiply(n, factorial(n - 1))

    @flow(backend=two)
    def compute() -> Any:
        return factorial.map(range(1, 6))

    assert compute() == [1, 2, 6, 24, 120]


def test_logs_and_prints_come_back_with_index_and_attempt(two: Any, capfd: Any) -> None:
    @task(log_prints=True, retries=1)
    def speak(x: int) -> int:
        print(f"hello from {x}")
        task_context().logger.info("logged by %d", x)
        if task_context().attempt == 1 and x == 1:
            raise ValueError("once")
        return x

    @flow(backend=two)
    def talk() -> Any:
        return speak.map(range(3))

    run = talk.run()
    item = run.nodes["speak"].items[1]
    assert [record.message for record in item.log] == ["hello from 1", "logged by 1"] * 2
    assert [record.attempt for record in item.log] == [1, 1, 2, 2]
    assert all(record.run_id.startswith(run.id) and record.worker for record in item.log)


# -- scripts -------------------------------------------------------------------------------------------------

SCRIPT = """
from graphflow import flow, task

@task
def list_files(folder: str) -> list[str]:
    return [f"{folder}/{i}" for i in range(10)]

@task(retries=2, retry_delay_seconds=1)
def count_words(path: str) -> dict[str, int]:
    return {path: len(path)}

@task
def merge(counts: list[dict[str, int]]) -> dict[str, int]:
    return {key: value for each in counts for key, value in each.items()}

@flow(backend="processes:2")
def word_count(folder: str) -> dict[str, int]:
    paths = list_files(folder)
    return merge(count_words.map(paths))

"""


@pytest.mark.parametrize("guard", [False, True])
def test_a_plain_script_runs_on_processes_with_or_without_a_main_guard(tmp_path: Path, guard: bool) -> None:
    call = 'print(len(word_count("d")))\n'
    path = tmp_path / "wordcount.py"
    path.write_text(SCRIPT + (f'if __name__ == "__main__":\n    {call}' if guard else call))
    # On a slow machine, progress would be shown.
    environ = os.environ | {"GRAPHFLOW_PROGRESS": "off"}
    done = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, timeout=90, cwd=tmp_path, env=environ
    )
    assert done.stdout == "10\n", done.stderr
    assert done.stderr == ""


def test_ctrl_c_in_a_script_ends_it_without_noise_or_leftovers(tmp_path: Path) -> None:
    path = tmp_path / "long.py"
    path.write_text(
        textwrap.dedent(
            """
            import os, time
            from graphflow import flow, task

            @task
            def wait(x):
                with open(f"pid-{os.getpid()}", "w"):
                    pass
                time.sleep(600)

            @flow(backend="processes:2")
            def forever():
                return wait.map(range(10))

            forever()
            """
        )
    )
    process = subprocess.Popen(
        [sys.executable, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    eventually(lambda: len(list(tmp_path.glob("pid-*"))) == 2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "graphflow runs resume " in errors
    assert "Traceback" not in errors
    assert "distributed" not in errors
    pids = [int(each.name.partition("-")[2]) for each in tmp_path.glob("pid-*")]
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def test_states_of_a_crashed_item_are_in_its_history(two: Any) -> None:
    @task
    def poison(x: int) -> int:
        os._exit(9)

    @flow(backend=two)
    def crash() -> Any:
        return poison(1)

    item = crash.run().nodes["poison"].items[0]
    assert item.state.type == Code.CRASHED.type
    assert str(item.history[-1]) == "Crashed"


@pytest.mark.parametrize("spec", ['"processes:2"', "backends.processes(2)"])
def test_nothing_is_left_in_the_temporary_folder(tmp_path: Path, spec: str) -> None:
    path = tmp_path / "job.py"
    path.write_text(
        textwrap.dedent(
            f"""
            from graphflow import backends, flow, task

            @task
            def large(x):
                return bytes(20_000)

            @flow(backend={spec})
            def job():
                return large.map(range(50))

            run = job.run()
            print(run.state, len(run.value))
            """
        )
    )
    folder = tmp_path / "tmp"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, str(path)],
        capture_output=True,
        text=True,
        timeout=90,
        cwd=tmp_path,
        # Where a cluster takes long to come up, the run would be shown.
        env={**os.environ, "TMPDIR": str(folder), "GRAPHFLOW_PROGRESS": "off"},
    )
    assert (done.stdout, done.stderr) == ("Completed 50\n", "")
    assert not list(folder.glob("graphflow-*"))
