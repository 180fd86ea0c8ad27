"""Caching by use: what is executed, counted in a file, on each way of running."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import graphflow
from graphflow import INPUTS, flow, task
from graphflow.common.signing import fingerprint
from graphflow.errors import ResultStoreError
from graphflow.testing.faults.processes import Script, race


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A file that each execution writes a line to."""
    monkeypatch.setenv("GRAPHFLOW_RESULT_STORAGE", str(tmp_path / "store"))
    place = tmp_path / "calls"
    place.touch()

    class Calls:
        path = str(place)

        def seen(self) -> Counter[str]:
            return Counter(place.read_text().split())

        def clear(self) -> None:
            place.write_text("")

    return Calls()


def note(path: str, what: Any) -> None:
    file = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(file, f"{what}\n".encode())
    os.close(file)


@task(cache_policy=INPUTS - "path")
def square(x: int, path: str) -> int:
    note(path, x)
    return x * x


@task(cache_policy=INPUTS - "path")
def add_one(x: int, path: str) -> int:
    note(path, f"+{x}")
    return x + 1


@task(cache_policy=INPUTS - "path")
async def later(x: int, path: str) -> int:
    note(path, x)
    return -x


@task(cache_policy=INPUTS - "path", batched=True)
def many(xs: list[int], path: str) -> list[int]:
    for x in xs:
        note(path, x)
    return [x + 100 for x in xs]


@flow
def squares(n: int, path: str) -> list[int]:
    return square.map(range(n), path)  # type: ignore[return-value]


@pytest.mark.parametrize("backend", ["inline", "threads:2", "processes:2"])
def test_what_was_made_is_found_again(calls: Any, backend: str) -> None:
    first = squares.with_options(backend=backend).run(20, calls.path)
    again = squares.with_options(backend=backend).run(25, calls.path)

    assert first.value == [x * x for x in range(20)]
    assert again.value == [x * x for x in range(25)]
    assert calls.seen() == {str(x): 1 for x in range(25)}
    assert again.nodes["square"].counts == {"Cached": 20, "Completed": 5}
    item = again.nodes["square"].items[3]
    assert item.state == "Cached"
    assert item.value == 9
    assert item.attempts == 0
    assert item.cached_from.run_id == first.id
    assert item.cached_from.index == 3
    assert again.nodes["square"].items[22].cached_from is None


@pytest.mark.parametrize("fn", [later, many], ids=["async", "batched"])
def test_async_and_batched_tasks_are_cached(calls: Any, fn: Any) -> None:
    @flow(backend="threads:2")
    def both(n: int, path: str) -> list[int]:
        return fn.map(range(n), path)

    first, again = both(10, calls.path), both(12, calls.path)

    assert again[:10] == first
    assert calls.seen() == {str(x): 1 for x in range(12)}


@pytest.mark.parametrize("backend", ["inline", "threads:2", "processes:2"])
def test_a_chain_is_looked_up_task_by_task(calls: Any, backend: str) -> None:
    @flow(backend=backend)
    def chain(n: int, path: str) -> list[int]:
        return add_one.map(square.map(range(n), path), path)

    assert chain(6, calls.path) == [x * x + 1 for x in range(6)]
    assert chain(8, calls.path) == [x * x + 1 for x in range(8)]
    seen = calls.seen()
    assert set(seen.values()) == {1}
    # Two items of eight are new, and so is what is made of them.
    assert len(seen) == 16


@pytest.mark.parametrize("fn", [square, later, many], ids=["plain", "async", "batched"])
def test_equal_items_of_a_map_are_executed_once(calls: Any, fn: Any) -> None:
    @flow(backend="threads:2")
    def alike(path: str) -> list[int]:
        return fn.map([3, 4, 3, 3, 4] * 10, path)

    value = alike(calls.path)

    assert calls.seen() == {"3": 1, "4": 1}
    assert len(value) == 50
    assert len(set(value)) == 2


def test_a_call_that_is_no_map_is_cached_too(calls: Any) -> None:
    @flow(backend="inline")
    def one(path: str) -> int:
        return square(7, path)

    assert (one(calls.path), one(calls.path)) == (49, 49)
    assert calls.seen() == {"7": 1}


def test_calls_outside_flows_are_cached(calls: Any) -> None:
    assert square.map(range(5), calls.path).result() == [0, 1, 4, 9, 16]
    assert square.map(range(5), calls.path).result() == [0, 1, 4, 9, 16]
    assert set(calls.seen().values()) == {1}


def test_nothing_is_cached_unless_asked_for(calls: Any, tmp_path: Path) -> None:
    @task
    def plain(x: int) -> int:
        note(calls.path, x)
        return x

    @flow(backend="inline")
    def twice() -> list[int]:
        return plain.map([1, 1])

    assert twice() == [1, 1]
    assert twice() == [1, 1]
    assert calls.seen() == {"1": 4}
    assert not (tmp_path / "store" / "cache").exists()


def test_failures_are_not_cached_and_none_is(calls: Any) -> None:
    @task(cache_policy=INPUTS)
    def picky(x: int, path: str) -> None:
        note(path, x)
        if x == 2:
            raise ValueError(x)

    @flow(backend="inline")
    def some() -> None:
        picky.with_options(tolerated_failure_count=1).map(range(4), calls.path)

    some()
    run = some.run()

    assert run.nodes["picky"].counts == {"Cached": 3, "Failed": 1}
    assert calls.seen() == {"0": 1, "1": 1, "2": 2, "3": 1}


def test_refreshing_makes_all_anew_and_keeps_it(calls: Any) -> None:
    squares.with_options(backend="inline")(4, calls.path)
    squares.with_options(backend="inline", refresh_cache=True)(4, calls.path)
    squares.with_options(backend="inline")(4, calls.path)

    assert set(calls.seen().values()) == {2}


def test_an_expired_entry_is_made_again(calls: Any) -> None:
    @task(cache_policy=INPUTS, cache_expiration=0.000_001)
    def brief(x: int, path: str) -> int:
        note(path, x)
        return x

    @flow(backend="inline")
    def two() -> int:
        return brief(1, calls.path)

    two()
    two()
    assert calls.seen() == {"1": 2}


def test_a_cached_run_can_be_read_later_and_resumed(calls: Any) -> None:
    @flow(backend="inline")
    def fails_first(path: str, marker: str) -> list[int]:
        values = square.map(range(10), path).result()
        if not os.path.exists(marker):
            raise RuntimeError("not yet")
        return values

    squares.with_options(backend="inline")(5, calls.path)
    marker = calls.path + "-marker"
    with pytest.raises(RuntimeError):
        fails_first(calls.path, marker)
    past = graphflow.history().runs()[0]
    item = past.nodes["square"].items[2]
    assert (item.state.name, item.value) == ("Cached", 4)
    assert item.cached_from.node == "square"
    open(marker, "w").close()

    run = fails_first.resume(past.id)

    assert run.value == [x * x for x in range(10)]
    assert set(calls.seen().values()) == {1}


def test_what_has_no_canonical_form_is_not_cached_and_says_so(calls: Any) -> None:
    class Odd:
        __slots__ = ()

    @task(cache_policy=INPUTS)
    def take(x: object, path: str) -> int:
        note(path, "taken")
        return 1

    @flow(backend="inline")
    def odd() -> int:
        return take(Odd(), calls.path)

    run = odd.run()
    odd()

    assert calls.seen() == {"taken": 2}
    lines = [line.message for line in run.logs if "is not cached" in line.message]
    assert len(lines) == 1


def test_a_storage_that_cannot_be_used_is_refused_before_anything_runs(calls: Any, tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("no folder")
    with pytest.raises(ResultStoreError):
        squares.with_options(backend="inline", result_storage=str(place))(3, calls.path)
    assert not calls.seen()


# -- once only ------------------------------------------------------------------------------------------------


@task(run_once=True, cache_policy=INPUTS - "path")
def pay(x: int, path: str) -> str:
    note(path, x)
    return f"paid {x}"


def test_two_threads_with_one_key_execute_it_once(calls: Any) -> None:
    @flow(backend="threads:2")
    def paying(path: str) -> list[str]:
        return pay.with_options(batch_size=1).map([1, 2, 1, 2, 1, 2], path)

    values: list[Any] = []
    barrier = threading.Barrier(2)

    def run() -> None:
        barrier.wait()
        values.append(paying(calls.path))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    assert values == [["paid 1", "paid 2"] * 3] * 2
    assert calls.seen() == {"1": 1, "2": 1}


def test_a_known_failure_may_run_again(calls: Any) -> None:
    @task(run_once=True, retries=1)
    def flaky(path: str) -> int:
        note(path, "tried")
        if len(Path(path).read_text().split()) < 3:
            raise OSError("down")
        return 1

    @flow(backend="inline")
    def once(path: str) -> int:
        return flaky(path)

    with pytest.raises(OSError, match="down"):
        once(calls.path)
    assert once(calls.path) == 1
    assert once(calls.path) == 1
    assert calls.seen() == {"tried": 3}


DIES = """
import os, sys
from graphflow import INPUTS, flow, task

@task(run_once=True, cache_policy=INPUTS - "path")
def pay(x: int, path: str) -> str:
    with open(path, "a") as file:
        file.write(f"{x}\\n")
    if x == 2 and "die" in sys.argv:
        os._exit(1)
    return f"paid {x}"

@flow(backend="inline")
def paying(path: str) -> list[str]:
    return pay.with_options(batch_size=4).map(range(4), path)

if __name__ == "__main__":
    paying(sys.argv[1])
"""


def run_script(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_an_item_whose_process_died_is_indeterminate_and_never_run_again_by_itself(
    calls: Any, tmp_path: Path
) -> None:
    script = tmp_path / "paying.py"
    script.write_text(DIES)
    assert run_script(script, calls.path, "die").returncode == 1
    # The report of the others was not sent, so nobody knows of any that was begun.
    begun = calls.seen()
    assert begun == {"0": 1, "1": 1, "2": 1}

    again = run_script(script, calls.path)

    assert again.returncode == 1
    assert "IndeterminateError" in again.stderr
    assert calls.seen() == {"0": 1, "1": 1, "2": 1, "3": 1}
    past = graphflow.history().runs()[0]
    assert past.nodes["pay"].counts == {"Indeterminate": 3, "Completed": 1}
    text = str(past.nodes["pay"].items[2].exception)
    key = text.partition("graphflow cache release ")[2].split("`")[0]

    released = subprocess.run(
        [sys.executable, "-m", "graphflow", "cache", "release", key, "--yes"], capture_output=True, text=True
    )

    assert released.returncode == 0, released.stderr
    run_script(script, calls.path)
    assert calls.seen() == {"0": 1, "1": 1, "2": 2, "3": 1}


def test_a_resolve_decides_what_became_of_an_item(calls: Any, tmp_path: Path) -> None:
    script = tmp_path / "paying.py"
    resolve = """
from graphflow import Retry

def look(item):
    assert item.parameters["x"] in (0, 1, 2) and item.pid and item.node == "pay"
    if item.index == 0:
        return "looked up"
    if item.index == 1:
        raise Retry("it was not paid")
    raise LookupError("nobody knows")

"""
    script.write_text(DIES)
    run_script(script, calls.path, "die")
    script.write_text(resolve + DIES.replace("run_once=True", "run_once=True, resolve=look"))

    run_script(script, calls.path)

    past = graphflow.history().runs()[0]
    assert past.nodes["pay"].counts == {"Indeterminate": 1, "Completed": 3}
    (failure,) = past.nodes["pay"].failures()
    assert failure.index == 2 and "nobody knows" in str(failure.exception)
    assert past.nodes["pay"].items[0].value == "looked up"
    assert calls.seen() == {"0": 1, "1": 2, "2": 1, "3": 1}


TWO = """
import sys, time
from graphflow import INPUTS, flow, task

@task(cache_policy=INPUTS - "path")
def work(x: int, path: str) -> int:
    with open(path, "a") as file:
        file.write(f"{x}\\n")
    time.sleep(0.002)
    return x

@flow(backend=sys.argv[2])
def both(path: str) -> int:
    return sum(work.map(range(300), path).result())

if __name__ == "__main__":
    print("ready", flush=True)
    sys.stdin.readline()
    print(both(sys.argv[1]))
"""


@pytest.mark.parametrize("backend", ["inline", "threads:2"])
def test_two_drivers_that_want_the_same_execute_each_item_once(calls: Any, backend: str) -> None:
    with Script(TWO, calls.path, backend) as one, Script(TWO, calls.path, backend) as other:
        ended = race([one, other])

    assert [(code, out) for code, out, _ in ended] == [(0, [str(sum(range(300)))])] * 2, ended
    assert calls.seen() == {str(x): 1 for x in range(300)}


def test_a_driver_that_was_killed_leaves_no_flight_behind(calls: Any, tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(
        TWO.replace("time.sleep(0.002)", "x == 20 and len(sys.argv) > 3 and os._exit(9)").replace(
            "import sys", "import os, sys"
        )
    )
    killed = subprocess.run(
        [sys.executable, str(script), calls.path, "inline", "dies"],
        input="go\n",
        capture_output=True,
        text=True,
    )
    assert killed.returncode == 9

    again = subprocess.run(
        [sys.executable, str(script), calls.path, "inline"], input="go\n", capture_output=True, text=True
    )

    assert again.returncode == 0, again.stderr
    assert set(calls.seen()) == {str(x) for x in range(300)}


def test_a_store_in_memory_is_of_use_in_its_own_process_alone(
    calls: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHFLOW_RESULT_STORAGE", "memory://graphflow-tests")
    here, there = squares.with_options(backend="threads:2"), squares.with_options(backend="processes:1")

    assert here(5, calls.path) == here(5, calls.path)
    assert set(calls.seen().values()) == {1}
    assert there(5, calls.path) == [0, 1, 4, 9, 16]
    assert set(calls.seen().values()) == {2}
    assert any("do not reach memory://" in text for text in caplog.messages)


@task(cache_policy=INPUTS - "path")
def listed(x: int, path: str) -> list[int]:
    note(path, x)
    return [x]


@task
def spoil(values: list[int]) -> int:
    values.append(99)
    return len(values)


@pytest.mark.parametrize("backend", ["inline", "threads:2", "processes:1"])
def test_what_a_later_task_changes_is_not_what_is_cached(calls: Any, backend: str) -> None:
    @flow(backend=backend)
    def body(path: str) -> list[int]:
        return spoil.map(listed.map([1, 2, 1, 1], path))

    assert body(calls.path) == [2, 2, 2, 2]
    assert body(calls.path) == [2, 2, 2, 2]
    assert calls.seen() == {"1": 1, "2": 1}


def test_a_flow_inside_a_flow_has_defaults_of_its_own(calls: Any) -> None:
    @task
    def plain(x: int, path: str) -> int:
        note(path, x)
        return x

    @flow(cache_policy=INPUTS - "path")
    def inner(path: str) -> list[int]:
        return plain.map([1, 2], path)

    @flow(backend="inline")
    def outer(path: str) -> list[Any]:
        return [inner(path), plain(3, path)]

    outer(calls.path)
    outer(calls.path)
    assert calls.seen() == {"1": 1, "2": 1, "3": 2}


@pytest.mark.parametrize("fn", [square, later, many], ids=["plain", "async", "batched"])
def test_what_is_found_takes_no_turn_of_a_rate(calls: Any, fn: Any) -> None:
    @flow(backend="threads:1")
    def body(fn: Any, n: int, path: str) -> list[int]:
        return fn.map(range(n), path)

    body(fn, 200, calls.path)
    # One item may begin an hour: a turn for each that is found would never end.
    run = body.run(fn.with_options(rate_limit="1/h"), 201, calls.path)

    (node,) = run.nodes
    assert node.counts == {"Cached": 200, "Completed": 1}


SHARED = """
import sys
from graphflow import INPUTS, flow, task

@task(run_once=sys.argv[2] == "once", cache_policy=INPUTS - "path")
def pay(x: int, path: str) -> str:
    with open(path, "a") as file:
        file.write(f"{x}\\n")
    return f"paid {x}"

@flow(backend="inline")
def paying(path: str) -> list[str]:
    return pay.map(range(3), path)

if __name__ == "__main__":
    print(paying(sys.argv[1]))
"""


def test_a_result_that_a_foreign_key_signed_is_told_with_both_keys_and_how_to_share_them(
    calls: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "paying.py"
    script.write_text(SHARED)
    keys = ["ab" * 32, "cd" * 32]
    prints = [fingerprint(bytes.fromhex(key)) for key in keys]
    monkeypatch.setenv("GRAPHFLOW_RESULT_STORAGE", str(tmp_path / "shared"))

    def run(which: int, kind: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.setenv("GRAPHFLOW_HOME", str(tmp_path / f"home{which}"))
        monkeypatch.setenv("GRAPHFLOW_SECRET_KEY", keys[which])
        return run_script(script, calls.path, kind)

    assert run(0, "once").returncode == 0
    told = run(1, "once")
    assert told.returncode == 1
    assert "IndeterminateError" in told.stderr and "died" not in told.stderr
    for each in (*prints, "graphflow key export", "graphflow key import", "GRAPHFLOW_SECRET_KEY"):
        assert each in told.stderr
    assert calls.seen() == {"0": 1, "1": 1, "2": 1}

    assert run(0, "cached").returncode == 0
    again = run(1, "cached")
    assert again.returncode == 0 and "paid 2" in again.stdout
    (line,) = [line for line in again.stderr.splitlines() if "signed with another key" in line]
    for each in (*prints, "graphflow key export", "graphflow key import", "GRAPHFLOW_SECRET_KEY"):
        assert each in line
