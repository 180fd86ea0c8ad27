"""Values of a script's own classes: what one process stores, another one has as its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import enum, sys
from dataclasses import dataclass

from graphflow import backends
from graphflow.model.orders import Column, StepOrder
from graphflow.model.reports import stored_ref
from graphflow.results.stores.local import LocalStore
from graphflow.results.packs.packs import open_pack
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
    for name in store.names():
        for section in open_pack(store, name).sections:
            ref = stored_ref(section.stored, store)
            yield ref, load_column(ref, "a result")


if __name__ == "__main__":
    what, kind, folder = sys.argv[1:]
    store = LocalStore(folder, key=bytes(32))
    with backends.threads(slots=1) if kind == "threads" else backends.processes(slots=1) as backend:
        probe = Probe(backend, what)
        if what == "write":
            probe.persist(make, range(1_000), store)
        for ref, column in values(store):
            assert [value[0] for value in column] == [Point(x) for x in range(1_000)]
            assert all(map(check, column))
            # Workers, too, know the values by the classes that their functions brought along.
            step = StepOrder(node=1, program=program(check), slots=(0,))
            backend.submit(probe.order([step], [Column(((ref, range(1_000)),))], range(1_000)))
            assert all(probe.values(probe.event().report))
            print("read", len(column))
"""
ELSEWHERE = """
import sys
from graphflow.model.reports import stored_ref
from graphflow.results.stores.local import LocalStore
from graphflow.results.packs.packs import open_pack
from graphflow.runner.columns import load_column
store = LocalStore(sys.argv[1], key=bytes(32))
for name in store.names():
    (section,) = open_pack(store, name).sections
    print(load_column(stored_ref(section.stored, store), "a result")[7])
"""


def run(*args: str, **more: str) -> str:
    done = subprocess.run(
        [sys.executable, *args],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *more.values()])},
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
