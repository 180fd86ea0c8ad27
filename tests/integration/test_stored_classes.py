"""Values of a script's own classes: what one process stores, another one has as its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import enum, pickle, sys
from dataclasses import dataclass
from pathlib import Path

from graphflow import backends
from graphflow.model.orders import Column, StepOrder
from graphflow.model.reports import stored_ref
from graphflow.results.stores.local import LocalStore
from graphflow.runner.columns import load_column
from graphflow.testing.contracts.backends import Probe, program


@dataclass(frozen=True)
class Point:
    x: int


class Kind(enum.Enum):
    A = 1


def make(x):
    return Point(x), Kind.A


def check(value):
    return isinstance(value[0], Point) and value[1] is Kind.A


def values(store):
    # Where the column is, is in a run's history, which there is none of here.
    places = Path(store.folder, "..", "places")
    for stored in pickle.loads(places.read_bytes()):
        ref = stored_ref(stored, store)
        yield ref, load_column(ref, "a result")


if __name__ == "__main__":
    what, kind, folder = sys.argv[1:]
    store = LocalStore(folder, key=bytes(32))
    with backends.threads(slots=1) if kind == "threads" else backends.processes(slots=1) as backend:
        probe = Probe(backend, what)
        if what == "write":
            report = probe.persist(make, range(1_000), store)
            Path(folder, "..", "places").write_bytes(pickle.dumps([step.stored for step in report.steps]))
        for ref, column in values(store):
            assert [value[0] for value in column] == [Point(x) for x in range(1_000)]
            assert all(map(check, column))
            # Workers, too, know the values by the classes that their functions brought along.
            step = StepOrder(node=1, program=program(check), slots=(0,))
            backend.submit(probe.order([step], [Column(((ref, range(1_000)),))], range(1_000)))
            assert all(probe.values(probe.event().report))
            print("read", len(column))
"""
SLOTTED = """
import sys
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from graphflow import INPUTS, backends, flow, task, unmapped

T = TypeVar("T")


@dataclass(slots=True)
class Point:
    x: int
    tags: list = field(default_factory=list)


@dataclass(frozen=True, slots=True, order=True)
class Frozen:
    x: int


@dataclass(slots=True)
class Typed(Generic[T]):
    x: T


class Hidden:
    __slots__ = ("__secret", "x")

    def __init__(self, x):
        self.x, self.__secret = x, -x

    def __eq__(self, other):
        return type(self) is type(other) and (self.x, self.__secret) == (other.x, other.__secret)


class Open(Hidden):
    def __init__(self, x):
        super().__init__(x)
        self.more = x


class Named(NamedTuple):
    x: int


class Outer:
    class Inner(Hidden):
        __slots__ = ()


KINDS = [Point, Frozen, Typed, Hidden, Open, Named, Outer.Inner]


@task(cache_policy=INPUTS)
def cached(i, point):
    return move.fn(i, point)


@task
def move(i, point):
    assert hasattr(point, "__dict__") == (type(point).__name__ == "Open"), type(point)
    return type(point)(point.x + i)


@flow
def main(points):
    return points, move.map([1] * len(points), points), [move.map([1], unmapped(each)) for each in points], cached.map(1, points[:3])


if __name__ == "__main__":
    kind, how = sys.argv[1:]
    with backends.inline() if kind == "inline" else backends.processes(slots=1) as backend:
        flow = main.with_options(backend=backend)
        run = flow.resume("slotted") if how == "resume" else flow.run([each(3) for each in KINDS], run_id="slotted")
    given, moved, constant, cached = run.result()
    assert given == [each(3) for each in KINDS], given
    assert moved == [each(4) for each in KINDS], moved
    assert [each for each, in constant] == moved, constant
    assert cached == moved[:3], cached
    print("right")
"""
ELSEWHERE = """
import pickle
import sys
from pathlib import Path
from graphflow.model.reports import stored_ref
from graphflow.results.stores.local import LocalStore
from graphflow.runner.columns import load_column
store = LocalStore(sys.argv[1], key=bytes(32))
for stored in pickle.loads(Path(store.folder, "..", "places").read_bytes()):
    print(load_column(stored_ref(stored, store), "a result")[7])
"""


def run(*args: str, home: str = "", **more: str) -> str:
    done = subprocess.run(
        [sys.executable, *args],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([os.getcwd(), *more.values()]),
            **({"GRAPHFLOW_HOME": home} if home else {}),
        },
        capture_output=True,
        text=True,
        timeout=80,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("kind", "later"), [("threads", "processes"), ("processes", "threads")])
def test_a_later_process_has_the_values_as_its_own(kind: str, later: str, tmp_path: Path) -> None:
    script, folder = tmp_path / "points.py", str(tmp_path / "results")
    script.write_text(SCRIPT)
    assert run(str(script), "write", kind, folder) == "read 1000\n"
    assert run(str(script), "read", later, folder) == "read 1000\n"
    # Whoever lacks the script can look at them all the same.
    assert run("-c", ELSEWHERE, folder) == "(Point(x=7), <Kind.A: 1>)\n"


def test_a_script_that_is_imported_has_the_values_as_its_own(tmp_path: Path) -> None:
    script, folder = tmp_path / "points.py", str(tmp_path / "results")
    script.write_text(SCRIPT)
    run(str(script), "write", "threads", folder)
    code = (
        "import sys, points; from graphflow.results.stores.local import LocalStore; "
        "store = LocalStore(sys.argv[1], key=bytes(32)); "
        "print([all(map(points.check, column)) for _, column in points.values(store)])"
    )
    assert run("-c", code, folder, script=str(tmp_path)) == "[True]\n"


@pytest.mark.parametrize(("first", "later"), [("inline", "processes"), ("processes", "inline")])
def test_classes_with_slots_come_back_as_the_scripts_own(first: str, later: str, tmp_path: Path) -> None:
    script = tmp_path / "slotted.py"
    script.write_text(SLOTTED)
    home = str(tmp_path / "home")
    assert run(str(script), first, "fresh", home=home) == "right\n"
    assert run(str(script), later, "resume", home=home) == "right\n"
