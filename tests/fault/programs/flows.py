"""The flows that are killed, and what is done with them, each in a process of its own."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from tally import count

from graphflow import backends, failpoints, flow, task, task_context
from graphflow.errors import GraphflowError


@task(batch_size=500)
def work(x: int, tally: str) -> int:
    """An item that counts itself."""
    count(tally, x)
    return 3 * x + 1


@flow
def big_map(width: int, tally: str) -> int:
    """Many items, and their sum."""
    return sum(work.map(range(width), tally=tally).result())


class Flaky(Exception):
    """Raised by each first attempt of some items."""


def source(size: int) -> Iterator[int]:
    """What a map takes as it comes."""
    yield from range(size)


@task
def load(x: int, tally: str) -> int:
    """An item of a map over a generator."""
    count(tally, f"load {x}")
    return x + 1


@task(retries=2, retry_delay_seconds=0.01)
def shake(x: int, tally: str) -> int:
    """An item whose first attempt fails now and then."""
    count(tally, f"shake {x}")
    if x % 4 == 3 and task_context().attempt == 1:
        raise Flaky(f"item {x}")
    return x * x


@task
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
    combined = squares.reduce_with(add)
    return combined.result(), total(fan(squares, tally=tally), tally=tally).result(), size


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


FLOWS = {"big_map": big_map, "pipeline": pipeline}


def drive(
    name: str, run_id: str, parameters: dict[str, Any], backend: str = "threads:2", rules: str | None = None
) -> dict[str, Any]:
    """Run a flow under an id, or go on with it; failpoints are those of this process alone."""
    if rules is not None:
        failpoints.activate(rules)
    kind, _, slots = backend.partition(":")
    if kind in ("threads", "processes"):
        opened: Any = getattr(backends, kind)(slots=int(slots or 2))
    else:
        opened = backends.dask(address=backend)
    try:
        run = FLOWS[name].with_options(backend=opened).run_with_id(run_id, **parameters)
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


def look(run_id: str) -> dict[str, Any]:
    """What is durable of a run: the items that ended, by node, how often others were tried, and what is wrong with it."""
    from graphflow.errors import RunNotFound
    from graphflow.histories.replay import Replay
    from graphflow.histories.sqlite import SqliteHistory
    from graphflow.states import FINAL_CODES

    history = SqliteHistory()
    try:
        header = history.find(run_id)
    except RunNotFound:
        return {"state": None, "done": {}, "tries": {}, "wrong": []}
    replay = Replay()
    for entry in history.read(run_id):
        replay.add(entry)
    done: dict[str, list[int]] = {}
    tries: dict[str, dict[str, int]] = {}
    for node in replay.nodes.values():
        done[node.entry.name] = [index for index, code in enumerate(node.states) if code in FINAL_CODES]
        tries[node.entry.name] = {
            str(index): node.attempts[index]
            for index, code in enumerate(node.states)
            if code not in FINAL_CODES and index < len(node.attempts) and node.attempts[index]
        }
    return {"state": header.state, "done": done, "tries": tries, "wrong": history.verify(run_id)}


def modules() -> list[str]:
    """The names of all modules that runs need."""

    import graphflow.backends.cluster
    import graphflow.histories.sqlite  # noqa: F401

    with tempfile.TemporaryDirectory() as folder:
        drive("pipeline", "warm-1", {"size": 5, "tally": os.path.join(folder, "tally")})
        look("warm-1")
    return [name for name in sys.modules if name not in ("__main__", "__mp_main__")]
