"""Calls outside any flow."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from graphflow import as_completed, flatten, product, task, wait
from graphflow.errors import CrossRunError, MapFailed, MapTypeError


@task
def inc(x: int) -> int:
    return x + 1


@task
def add(x: int, y: int) -> int:
    return x + y


@task
def total(xs: list[int]) -> int:
    return sum(xs)


@task
def boom() -> None:
    raise ValueError("boom")


def test_the_same_calls_work_outside_a_flow() -> None:
    assert inc(1).result() == 2
    assert inc.map(range(10)).result() == list(range(1, 11))
    assert total(inc.map(inc.map(range(3)))).result() == 9
    assert add.map(product([1, 2], [10])).result() == [11, 12]
    assert flatten(inc.map([1, 2]).filter(lambda x: True)) is not None
    assert f"{inc(1)}" == "2"
    assert [f.result() for f in inc.map([1, 2])] == [2, 3]
    assert sorted(f.result() for f in as_completed([inc(1), inc(2)])) == [2, 3]
    assert len(wait([inc(1), inc(2)]).done) == 2


def test_nothing_runs_until_it_is_forced() -> None:
    ran: list[int] = []
    note = task(ran.append)
    future = note(1)
    assert ran == []
    future.result()
    assert ran == [1]


def test_submit_starts_at_once() -> None:
    started = threading.Event()
    future = task(started.set).submit()
    assert started.wait(30)
    assert future.result() is None


def test_failures_are_raised_where_they_are_asked_for() -> None:
    with pytest.raises(ValueError, match="boom"):
        boom().result()
    with pytest.raises(MapFailed):
        task(lambda x: 1 / x).map([0, 1]).result()
    assert inc(1).result() == 2


def test_futures_can_be_given_on_and_grafted() -> None:
    first = inc(1)
    assert first.result() == 2
    assert add(first, inc(first)).result() == 5
    branch = task(lambda x: inc(x))
    assert branch.map([1, 2]).result() == [2, 3]


def test_wrong_calls_are_refused_as_in_a_flow() -> None:
    with pytest.raises(MapTypeError):
        inc.map({"a": 1})
    with pytest.raises(TypeError, match="missing a required argument"):
        add(1)  # type: ignore[call-arg]


def test_each_thread_has_a_recording_of_its_own() -> None:
    kept: list[Any] = []
    mine = inc(1)
    thread = threading.Thread(target=lambda: kept.append(inc(1)))
    thread.start()
    thread.join()
    assert kept[0].result() == 2
    assert inc(kept[0]).result() == 3, "a call belongs to the recording of the futures that it is given"
    with pytest.raises(CrossRunError):
        add(mine, kept[0])


def test_what_nobody_refers_to_is_let_go() -> None:
    before = set(threading.enumerate())
    started: list[threading.Thread] = []

    def use() -> None:
        future = inc(1)
        assert future.result() == 2
        started.extend(set(threading.enumerate()) - before - {threading.current_thread()})

    # A thread of its own has a recording of its own.
    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert len(started) >= 2, "a driver and a worker"
    gc.collect()
    for each in started:
        each.join(10)
        assert not each.is_alive(), each


SCRIPT = """
import sys, pathlib, time
from graphflow import task

@task
def write(path):
    pathlib.Path(path).write_text("done")

@task
def boom():
    raise ValueError("boom")

@task
def inc(x):
    return x + 1

{statements}
"""


@pytest.mark.parametrize(
    "statements, writes, says",
    [
        ("write.submit(sys.argv[1])", True, []),
        ("boom.submit()", False, ["boom failed outside any flow, and nothing asked"]),
        ("inc(1)\ninc.map([1, 2])", False, ["2 calls of tasks outside any flow never ran", "(inc, inc-1)"]),
        ("future = write(sys.argv[1])", False, ["1 call of a task outside any flow never ran", "(write)"]),
        ("write(sys.argv[1]).result()", True, []),
        ("future = boom.submit()\ntry:\n    future.result()\nexcept ValueError:\n    pass", False, []),
    ],
)
def test_what_nothing_asks_for_outside_a_flow_runs_if_submitted_and_is_told_of_if_not(
    tmp_path: Path, statements: str, writes: bool, says: list[str]
) -> None:
    script, place = tmp_path / "script.py", tmp_path / "place"
    script.write_text(SCRIPT.format(statements=statements))
    done = subprocess.run(
        [sys.executable, str(script), str(place)], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0
    assert place.exists() == writes
    assert all(each in done.stderr for each in says)
    assert says or done.stderr == ""
