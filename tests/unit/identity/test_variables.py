"""The values of global variables in cache keys: what a task reads counts, wherever it is, and what it changes itself does not."""

from __future__ import annotations

import importlib
import itertools
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from graphflow.identity.fingerprints import code_fingerprint
from graphflow.identity.variables import Variables, variables_of

NUMBERS = itertools.count()
Project = Callable[..., ModuleType]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """Writes and imports a module with a function `f`, and others of one project."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    made: list[str] = []

    def load(main: str, **others: str) -> ModuleType:
        name = f"project_{next(NUMBERS)}"
        for each, source in {**others, name: main}.items():
            path = tmp_path / f"{each}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(textwrap.dedent(source))
            made.append(each.removesuffix("/__init__").replace("/", "."))
        importlib.invalidate_caches()
        return importlib.import_module(name)

    yield load
    for each in made:
        sys.modules.pop(each, None)


def read(fn: Any, **more: Any) -> Variables:
    return variables_of(fn, code_fingerprint, **more)


KINDS = {
    "a dict": ('X = {"a": [1]}', 'X["a"]', 'X["a"].append(2)'),
    "a list": ("X = [1]", "X[0]", "X[0] = 2"),
    "a set": ("X = {1}", "1 in X", "X.add(2)"),
    "a namespace": ("import types; X = types.SimpleNamespace(a=1)", "X.a", "X.a = 2"),
    "arguments": ("import argparse; X = argparse.Namespace(a=1)", "X.a", "X.a = 2"),
    "an array": ("import numpy; X = numpy.zeros(3)", "X.sum()", "X[0] = 1"),
    "a frame": ('import pandas; X = pandas.DataFrame({"a": [1]})', 'X["a"]', 'X["a"] = 2'),
    "a dataclass": (
        "import dataclasses\n@dataclasses.dataclass\nclass C:\n    a: int\nX = C(1)",
        "X.a",
        "X.a = 2",
    ),
    "an object": ("class C:\n    a = 1\nX = C()", "X.a", "X.a = 2"),
    "an attribute of a class": ("class X:\n    table = {}", "X.table", "X.table[1] = 2"),
    "a number": ("X = 1", "X", "X = 2"),
    "a table of functions": ("def g(): return 1\nX = {1: g}", "X[1]()", "X[1] = len"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["own", "called", "module", "imported", "package", "method", "nested"])
def test_a_variable_counts_by_its_value(kind: str, form: str, project: Project) -> None:
    made, use, change = KINDS[kind]
    there = f"settings_{next(NUMBERS)}"
    if form in ("own", "called", "method", "nested"):
        code = {
            "own": f"def f(): return {use}",
            "called": f"def g(): return {use}\ndef f(): return g()",
            "method": f"class G:\n    def run(self): return {use}\ndef f(): return G().run()",
            "nested": f"def f(): return [(lambda: {use})() for _ in range(3)]",
        }[form]
        module = home = project(f"{made}\n{code}")
    elif form == "imported":
        module = project(f"from {there} import X\ndef f(): return {use}", **{there: made})
        home = module
    elif form == "module":
        module = project(f"import {there}\ndef f(): return {use.replace('X', f'{there}.X')}", **{there: made})
        home = sys.modules[there]
    else:
        module = project(
            f"import {there}.inner\ndef f(): return {use.replace('X', f'{there}.inner.X')}",
            **{f"{there}/__init__": "", f"{there}/inner": made},
        )
        home = sys.modules[f"{there}.inner"]
    before = read(module.f)
    assert not before.problems
    exec(change, vars(home))
    after = read(module.f)
    first, second = {**before.constants, **before.values}, {**after.constants, **after.values}
    (label,) = (name for name in first if first[name] != second[name])
    assert label.rpartition(".")[2] in ("X", "table")


@pytest.mark.parametrize(
    ("made", "body"),
    [
        ("X = {}", "X[x] = 1"),
        ("X = {}", "X.setdefault(x, []).append(1); return X"),
        ("X = [0]", "X[0] += 1"),
        ("X = 0", "global X; X += 1"),
        ("X = 0", "global X; X = x; return X"),
        ("class X:\n    table = {}", "X.table[x] = 1"),
        ("import types; X = types.SimpleNamespace(a={})", "X.a[x] = 1"),
    ],
)
def test_what_a_task_changes_itself_counts_by_its_first_value(made: str, body: str, project: Project) -> None:
    module = project(f"{made}\ndef change(x): {body}\ndef f(x):\n    change(x); return X")
    before = read(module.f)
    module.f(3)
    after = read(module.f)
    assert before == after and len({**before.constants, **before.values}) == 1


@pytest.mark.parametrize(
    "made",
    [
        "import logging; X = logging.getLogger()",
        "import threading; X = threading.Lock()",
        "import threading; X = threading.local()",
        "import asyncio; X = asyncio.Semaphore(3)",
        "import sys; X = sys.stderr",
        "import contextvars; X = contextvars.ContextVar('x')",
        "import json as X",
        "import typing; X = typing.TypeVar('X')",
        "X = list[int] | None",
        "from graphflow import task\n@task\ndef X(): pass",
        "from graphflow import file_input; X = file_input('x')",
        "from concurrent.futures import ThreadPoolExecutor; X = ThreadPoolExecutor(1)",
        "import functools; X = functools.lru_cache(len)",
    ],
)
def test_what_seldom_matters_is_left_out_in_silence(made: str, project: Project) -> None:
    found = read(project(f"{made}\ndef f(): return X").f)
    assert (found.constants, found.values, found.problems) == ({}, {}, [])


def test_what_cannot_be_told_or_is_large_is_named(project: Project) -> None:
    module = project(
        "X = iter([1])\nY = 'x' * 2_000_000\nZ = [list(range(1000))] * 1000\ndef f(): return X, Y, Z"
    )
    found = read(module.f)
    assert [each.partition(" (")[0] for each in found.problems] == ["global 'X'"]
    assert set(found.values) == {"Z"} and set(found.constants) == {"Y"}
    module.Z = [list(range(1000)) for _ in range(200)]
    assert [each.partition(" (")[0] for each in read(module.f).problems] == ["global 'X'", "global 'Z'"]


def test_a_name_that_is_an_attribute_or_a_local_variable_is_no_global(project: Project) -> None:
    module = project(
        """
        data = [1]
        rows = [2]
        def f(x):
            rows = x.data
            return [len(rows) for rows in x.rows]
        """
    )
    assert read(module.f) == Variables()


def test_a_large_value_is_hashed_once_where_somebody_remembers_it(project: Project) -> None:
    module = project("X = list(range(10_000))\ndef f(): return X")
    memo: Any = {}
    first = read(module.f, memo=memo)
    module.X.append(1)
    assert read(module.f, memo=memo) == first != read(module.f)
    module.X = [*module.X]
    assert read(module.f, memo=memo).values != first.values
