"""The flows that are killed, and what is done with them, each in a process of its own."""

from __future__ import annotations

import importlib
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from tally import count

from graphflow import backends, flow, history, task, task_context
from graphflow.common import failpoints
from graphflow.driver import durability
from graphflow.errors import GraphflowError, RunNotFound
from graphflow.histories import catalogs, databases
from graphflow.histories.leases import SystemClock
from graphflow.histories.sqlite import SqliteHistory
from graphflow.model.states import FINAL_CODES
from graphflow.records.replay import Replay


@task(batch_size=500)
def work(x: int, tally: str) -> int:
    """An item that counts itself."""
    count(tally, x)
    return 3 * x + 1


@flow
def big_map(width: int, tally: str) -> int:
    """Many items, and their sum."""
    return sum(work.map(range(width), tally=tally).result())


@task(batch_size=5)
def step(x: int, tally: str) -> int:
    """An item of `gated`."""
    count(tally, f"step {x}")
    return x * x


@task
def hold(values: list[int], tally: str, gate: str) -> int:
    """Waits until somebody opens the gate, a pipe."""
    count(tally, "hold")
    if gate:
        with open(gate) as pipe:
            pipe.read()
    return sum(values)


@flow
def gated(size: int, tally: str, gate: str = "") -> int:
    """A map, and a task that waits in the end."""
    return hold(step.map(range(size), tally=tally), tally=tally, gate=gate).result()


@flow
def limited_hold(size: int, tally: str, gate: str) -> int:
    """As `gated`, but the task that waits takes a slot of a limit."""
    values = step.map(range(size), tally=tally)
    return hold.with_options(limit="db")(values, tally=tally, gate=gate).result()


@task(batch_size=2)
def grow(x: int, nbytes: int, tally: str) -> bytes:
    """An item whose value is large."""
    count(tally, f"grow {x}")
    return x.to_bytes(1) * nbytes


@task
def measure(values: list[bytes], tally: str) -> int:
    """The size of all."""
    count(tally, "measure")
    return sum(map(len, values))


@flow
def bulky(size: int, sizes: list[int], tally: str) -> int:
    """A map with values of these sizes in turn."""
    every = [sizes[x % len(sizes)] for x in range(size)]
    return measure(grow.map(range(size), every, tally=tally), tally=tally).result()


class Flaky(Exception):
    """Raised by each first attempt of some items."""


def source(size: int) -> Iterator[int]:
    """What a map takes as it comes."""
    yield from range(size)


@task(batch_size=3)
def load(x: int, tally: str) -> int:
    """An item of a map over a generator."""
    count(tally, f"load {x}")
    return x + 1


@task(batch_size=3, retries=2, retry_delay_seconds=0.01)
def shake(x: int, tally: str) -> int:
    """An item whose first attempt fails now and then."""
    count(tally, f"shake {x}")
    if x % 4 == 3 and task_context().attempt == 1:
        raise Flaky(f"item {x}")
    return x * x


@task(batch_size=3)
def leaf(x: int, tally: str) -> int:
    """An item of a map that a task began."""
    count(tally, f"leaf {x}")
    return 10 * x


@task
def fan(values: list[int], tally: str) -> Any:
    """A task whose value is that of a map which it begins."""
    count(tally, "fan")
    return leaf.map(sorted(values), tally=tally)


@task
def total(values: list[int], tally: str) -> int:
    """What gathers all."""
    count(tally, "total")
    return sum(values)


def add(one: int, other: int) -> int:
    """What a reduce combines with."""
    return one + other


@flow(name="pipeline")
def pipeline(size: int, tally: str) -> tuple[int, int, int]:
    """A map over a generator, one with retries, a reduce, a task that begins a map, and one that gathers."""
    squares = shake.map(load.map(source(size), tally=tally), tally=tally)
    combined = squares.reduce(add)
    return combined.result(), total(fan(squares, tally=tally), tally=tally).result(), size


def names(size: int) -> dict[str, list[str]]:
    """What the items of each node of `pipeline` are counted as, by index."""
    squares = [(x + 1) ** 2 for x in range(size)]
    return {
        "load": [f"load {x}" for x in range(size)],
        "shake": [f"shake {x + 1}" for x in range(size)],
        "leaf": [f"leaf {x}" for x in squares],
        "fan": ["fan"],
        "total": ["total"],
    }


def plain(size: int) -> list[int]:
    """What `pipeline` gives, by a loop."""
    squares = [(x + 1) ** 2 for x in range(size)]
    return [sum(squares), sum(10 * x for x in squares), size]


def executions(size: int) -> dict[str, int]:
    """How often each item of `pipeline` is executed where nothing goes wrong."""
    found = {"fan": 1, "total": 1}
    for x in range(size):
        found[f"load {x}"] = 1
        found[f"shake {x + 1}"] = 2 if (x + 1) % 4 == 3 else 1
        found[f"leaf {(x + 1) ** 2}"] = 1
    return found


FLOWS = {each.name: each for each in (big_map, pipeline, gated, limited_hold, bulky)}


def drive(
    name: str, run_id: str, parameters: dict[str, Any], backend: str = "threads:2", rules: str | None = None
) -> dict[str, Any]:
    """Run a flow under an id, or resume it; failpoints are those of this process alone."""
    if rules is not None:
        failpoints.activate(rules)
    catalogs.PATIENCE_SECONDS = float(os.environ.get("TEST_PATIENCE_SECONDS", catalogs.PATIENCE_SECONDS))
    kind, _, slots = backend.partition(":")
    if kind in ("threads", "processes"):
        opened: Any = getattr(backends, kind)(slots=int(slots or 2))
    else:
        opened = backends.dask(address=backend)
    try:
        run = FLOWS[name].with_options(backend=opened).run(run_id=run_id, **parameters)
    except GraphflowError as error:
        return {"refused": type(error).__name__, "message": str(error)}
    finally:
        opened.close()
    return {
        "state": run.state.name,
        "value": run.value if run.state.is_completed() else None,
        "message": str(run.exception or ""),
        "error": type(run.exception).__name__ if run.exception else "",
        "hits": failpoints.hits(),
    }


def look(run_id: str, *, verifies: bool = True) -> dict[str, Any]:
    """What is durable of a run: the items that ended, by node, how often others were tried, and what is wrong with it."""
    history = SqliteHistory()
    try:
        header = history.find(run_id)
    except RunNotFound:
        return {"state": None, "written": {}, "done": {}, "tries": {}, "packs": {}, "wrong": []}
    replay = Replay()
    written: dict[int, int] = {}
    for entry in history.read(run_id):
        replay.add(entry)
        written[entry.epoch] = entry.seq
    done: dict[str, list[int]] = {}
    tries: dict[str, dict[str, int]] = {}
    for node in replay.nodes.values():
        done[node.entry.name] = [index for index, code in enumerate(node.states) if code in FINAL_CODES]
        tries[node.entry.name] = {
            str(index): node.attempts[index]
            for index, code in enumerate(node.states)
            if code not in FINAL_CODES and index < len(node.attempts) and node.attempts[index]
        }
    packs: dict[str, list[tuple[str, int]]] = {}
    for node in replay.nodes.values():
        for segment in node.history.ranges:
            stored = segment.step.stored
            if stored is not None:
                packs.setdefault(stored.name, []).extend(
                    (node.entry.name, index) for index in segment.indices
                )
    return {
        "state": header.state,
        "written": written,
        "done": done,
        "tries": tries,
        "packs": packs,
        "wrong": history.verify(run_id) if verifies else [],
    }


def repair(rules: str | None = None) -> dict[str, Any]:
    """Repair the home, and say what was done."""
    if rules is not None:
        failpoints.activate(rules)
    with history() as found:
        try:
            return {"told": found.repair(), "error": ""}
        except GraphflowError as error:
            return {"told": {}, "error": f"{type(error).__name__}: {error}"}


def resume(run_id: str, **given: Any) -> dict[str, Any]:
    """Look at what a driver left, go on with the run, and look again."""
    before = look(run_id)
    return {"before": before, "run": drive(run_id=run_id, **given), "after": look(run_id)}


def limited(nbytes: int, **given: Any) -> dict[str, Any]:
    """Drive where no file can become larger, as on a disk that is full."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, nbytes))
    return drive(**given)


class BackwardClock(SystemClock):
    """Somebody sets the clock of the machine back by an hour whenever it is read."""

    def __init__(self) -> None:
        self._reads = 0

    def wall(self) -> float:
        """Seconds since the epoch."""
        self._reads += 1
        return time.time() - 3600.0 * self._reads


class LaterClock(SystemClock):
    """An hour has gone by: what has yet to run out has run out."""

    def steady(self) -> float:
        """Seconds since some moment of this boot."""
        return time.monotonic() + 3600.0

    def wall(self) -> float:
        """Seconds since the epoch."""
        return time.time() + 3600.0


def later(*, patience: float | None = None, **given: Any) -> dict[str, Any]:
    """Drive an hour later; with `patience`, seconds that locks are waited for."""
    if patience is not None:
        databases.PATIENCE_SECONDS = patience
    durability.open_history = lambda: SqliteHistory(clock=LaterClock())  # type: ignore[assignment]
    return drive(**given)


def backward(**given: Any) -> dict[str, Any]:
    """Drive while the clock is set back."""
    durability.open_history = lambda: SqliteHistory(clock=BackwardClock())  # type: ignore[assignment]
    return drive(**given)


def modules() -> list[str]:
    """The names of all modules that runs need."""
    for name in ("distributed.deploy.local", "distributed.nanny", "graphflow.backends.dask.cluster"):
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as folder:
        drive("pipeline", "warm-1", {"size": 5, "tally": os.path.join(folder, "tally")})
        look("warm-1")
    return [name for name in sys.modules if name not in ("__main__", "__mp_main__")]
