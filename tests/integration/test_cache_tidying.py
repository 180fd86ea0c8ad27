"""Runs put the many packs that they leave in a cache together, in bounded time, and lose nothing by that."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from graphflow import INPUTS, flow, settings, task
from graphflow.cache import compacting
from graphflow.cache.cached import MISSING, CacheFolder
from graphflow.cache.compacting import compact
from graphflow.cache.nearby import Nearby
from graphflow.cache.tidying import MAX_PACKS, tidy
from graphflow.errors import ResultStoreError
from graphflow.results.stores.local import LocalStore
from graphflow.results.stores.opening import default_store_url, open_store

KEY = bytes(range(32))
FOLDER = "cache/square-0123456789abcdef"
MANY = MAX_PACKS + 6


@task(cache_policy=INPUTS, batch_size=1)
def same(x: int) -> int:
    """Return what it is given: one pack per item."""
    return x


@flow(backend="inline")
def many() -> Any:
    """Items in many packs."""
    return same.map(range(MANY))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home without any results."""
    monkeypatch.setenv("GRAPHFLOW_HOME", str(tmp_path / "home"))


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """A store."""
    return LocalStore(tmp_path / "results", key=KEY)


def put(folder: CacheFolder, number: int) -> str:
    """Publish one value; return the object's name."""
    published = folder.publish(
        keys=bytes([number]) * 16,
        values=[number],
        indices=[0],
        run_id="run-1",
        node="square",
        created=100.0,
        expires=None,
        parts={"source": b"12345678"},
    )
    return published.name


def values(store: LocalStore, numbers: int) -> list[Any]:
    """What a process that knows nothing yet finds."""
    folder = CacheFolder(store, FOLDER)
    folder.refresh()
    found = folder.find(b"".join(bytes([each]) * 16 for each in range(1, numbers + 1)), now=200.0)
    return folder.load(found, range(numbers))


def cached() -> list[str]:
    """The objects of the default store's cache."""
    return list(open_store(default_store_url()).names("cache/"))


def test_a_run_puts_many_packs_together_at_its_end() -> None:
    assert many() == list(range(MANY))

    assert len(cached()) == MANY + 1
    store = open_store(default_store_url())
    (folder,) = {name.rpartition("/")[0] for name in cached()}
    compact(store, folder, now=time.time() + 400.0)
    assert len(cached()) == 1
    run = many.run()
    assert run.nodes["same"].counts == {"Cached": MANY}


def test_a_run_leaves_packs_alone_where_that_is_switched_off() -> None:
    with settings({"cache.compact": False}):
        many()
    assert len(cached()) == MANY


JOB = """
from graphflow import INPUTS, flow, task

@task(cache_policy=INPUTS - "path", batch_size=1)
def same(x: int, path: str) -> int:
    with open(path, "a") as file:
        file.write(f"{x}\\n")
    return x

@flow(backend="inline")
def many(path: str) -> int:
    return sum(same.map(range(70), path).result())

if __name__ == "__main__":
    import sys
    print(many(sys.argv[1]))
"""


@pytest.mark.parametrize("point", ["compact.begin", "compact.publish.before", "compact.publish.after"])
def test_a_run_that_is_killed_while_it_does_that_loses_nothing(tmp_path: Path, point: str) -> None:
    job, calls = tmp_path / "job.py", tmp_path / "calls"
    job.write_text(JOB)

    def run(failpoints: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(job), str(calls)],
            env={**os.environ, "GRAPHFLOW_FAILPOINTS": failpoints},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    assert run(f"{point}:kill").returncode == -9
    assert run("").stdout == f"{sum(range(70))}\n"
    assert len(calls.read_text().split()) == 70


def test_a_store_that_does_not_answer_holds_nothing_up(store: LocalStore) -> None:
    asked, answers = threading.Event(), threading.Event()

    class Silent:
        def names(self, prefix: str) -> Iterator[str]:
            asked.set()
            answers.wait()
            raise ResultStoreError("it is gone")

    silent: Any = Silent()
    tidy([(silent, FOLDER, None), (store, FOLDER, None)], seconds=0.05)
    assert asked.wait(60) and not answers.is_set()
    answers.set()


def test_a_store_that_fails_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def names(self, prefix: str) -> Iterator[str]:
            raise ResultStoreError("it is full")

    broken: Any = Broken()
    tidy([(broken, FOLDER, None)], seconds=60.0)
    assert f"cached results in {FOLDER} stay in many objects: it is full" in caplog.text


def test_few_packs_are_left_alone(store: LocalStore) -> None:
    names = {put(CacheFolder(store, FOLDER), number) for number in range(1, 4)}
    tidy([(store, FOLDER, None)], max_packs=3, seconds=60.0)
    assert {name.rpartition("/")[2] for name in store.names(f"{FOLDER}/")} == names


def test_a_compaction_whose_time_is_up_puts_together_what_it_has_read(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 11):
        put(CacheFolder(store, FOLDER), number)
    assert compact(store, FOLDER, now=time.time(), until=0.0).written == []

    ticks = count()
    monkeypatch.setattr(compacting.time, "monotonic", lambda: float(next(ticks)))
    (name,) = compact(store, FOLDER, now=time.time(), until=4.0).written
    monkeypatch.undo()

    folder = CacheFolder(store, FOLDER)
    folder.refresh()
    (new,) = [pack for pack in folder._packs if pack.name == name]
    assert len(new.replaces) == 4
    assert values(store, 10) == list(range(1, 11))
    compact(store, FOLDER, now=time.time(), grace_seconds=0.0)
    assert values(store, 10) == list(range(1, 11)) and len(list(store.names(f"{FOLDER}/"))) == 1


def test_a_compaction_reads_small_packs_on_its_machine(store: LocalStore, tmp_path: Path) -> None:
    nearby = Nearby(LocalStore(tmp_path / "site", key=KEY), FOLDER)
    writer = CacheFolder(store, FOLDER)
    writer.nearby = nearby
    for number in range(1, 6):
        path = Path(store.folder, FOLDER, put(writer, number))
        # Whoever reads it in the store refuses it.
        path.write_bytes(bytes(path.stat().st_size))

    done = compact(store, FOLDER, now=time.time(), nearby=nearby)
    assert (len(done.written), done.damaged) == (1, 0)
    assert MISSING not in values(store, 5) and values(store, 5) == [1, 2, 3, 4, 5]
