"""What may be mapped, called and given: cursors, groups, mappings of any type, classes as tasks, things that cannot be pickled."""

from __future__ import annotations

import collections
import datetime
import decimal
import functools
import sqlite3
import threading
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import attrs
import pandas as pd
import pydantic
import pytest

from graphflow import INPUTS, allow_failure, flow, task, unmapped
from graphflow.errors import MapFailed, MapTypeError, SerializationError, UpstreamFailed


@task
def same(x: Any) -> Any:
    return x


@task
def size(pair: Any) -> Any:
    key, frame = pair
    return key, len(frame)


def test_a_cursor_is_read_where_it_was_made(backend_name: Any) -> None:
    @flow(backend=backend_name)
    def body() -> Any:
        db = sqlite3.connect(":memory:")
        db.execute("create table t (x)")
        db.executemany("insert into t values (?)", [(n,) for n in range(3_000)])
        rows = db.execute("select x from t order by x")
        doubled = same.map(2 * x for (x,) in db.execute("select x from t order by x"))
        return same.map(rows), doubled

    assert body() == ([(n,) for n in range(3_000)], [2 * n for n in range(3_000)])


def test_a_group_by_gives_its_pairs(backend_name: Any) -> None:
    @task
    def grouped(frame: Any) -> Any:
        return frame.groupby(0)

    @flow(backend=backend_name)
    def body() -> Any:
        frame = pd.DataFrame({0: ["x", "y", "y"], "b": [4, 6, 9]})
        return size.map(frame.groupby("b")), size.map(grouped(frame))

    assert body() == ([(4, 1), (6, 1), (9, 1)], [("x", 1), ("y", 2)])


class Duck:
    """A mapping that does not say so."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, key: str) -> int:
        return {"a": 1}[key]

    def keys(self) -> list[str]:
        return ["a"]


class Registered(Duck):
    keys = None  # type: ignore[assignment]

    def __iter__(self) -> Any:
        return iter("a")


collections.abc.Mapping.register(Registered)


@pytest.mark.parametrize(
    "make",
    [
        lambda: {0: 1},
        lambda: collections.UserDict(a=1),
        lambda: collections.ChainMap({"a": 1}),
        lambda: types.MappingProxyType({0: 1}),
        lambda: collections.Counter("a"),
        lambda: collections.OrderedDict(a=1),
        Registered,
        Duck,
    ],
)
def test_mappings_of_any_type_are_refused(make: Any) -> None:
    @flow(backend="inline")
    def body() -> Any:
        with pytest.raises(
            MapTypeError, match=r"argument 'x'.* cannot be mapped: keys, values or pairs\? Use items"
        ):
            same.map(make())
        return same.map(task(make)())

    run = body.run()
    assert run.state == "Failed" and "Use items(...)" in str(run.exception)


class Model:
    def __init__(self, x: int) -> None:
        self.x = x

    def times(self, y: int) -> int:
        return self.x * y

    @classmethod
    def twice(cls, x: int) -> Model:
        return cls(2 * x)


@dataclass(slots=True)
class Point:
    x: int
    y: int = 0


class Adder:
    def __init__(self, by: int) -> None:
        self.by = by

    async def __call__(self, x: int) -> int:
        return x + self.by


def test_classes_and_other_callables_are_tasks(backend_name: Any) -> None:
    @flow(backend=backend_name)
    def body() -> Any:
        return {
            "int": task(int).map(["1", "2"]),
            "cached": task(int, cache_policy=INPUTS).map(["1", "2"]),
            "Path": task(Path).map(["a"]),
            "Decimal": task(decimal.Decimal)("1.5"),
            "date": task(datetime.date).map([2020], 1, 2),
            "Point": task(Point).map([1], y=2),
            "partial": task(functools.partial(int, base=2)).map(["10"]),
            "Adder": task(Adder(3)).map([1, 2]),
            "times": task(Model(3).times).map([1, 2]),
            "str": same.map([1, 0]).filter(bool),
            "Model": (task(Model)(1), task(Model.twice)(2)),
        }

    run = body.run()
    value = run.result()
    one, two = value.pop("Model")
    assert (type(one).__name__, one.x, two.x) == ("Model", 1, 4)
    assert value == {
        "int": [1, 2],
        "cached": [1, 2],
        "Path": [Path("a")],
        "Decimal": decimal.Decimal("1.5"),
        "date": [datetime.date(2020, 1, 2)],
        "Point": [Point(1, 2)],
        "partial": [2],
        "Adder": [4, 5],
        "times": [3, 6],
        "str": [1],
    }
    names = {node.task_name for node in run.nodes if not node.is_builtin}
    assert names >= {"int", "Path", "Decimal", "date", "Point", "Adder", "times", "Model", "twice"}


@task
def use(x: Any, thing: Any = None, **more: Any) -> Any:
    return x


@pytest.mark.parametrize(
    "make", [threading.Lock, lambda: sqlite3.connect(":memory:"), lambda: (n for n in [1])]
)
@pytest.mark.parametrize("form", ["map", "call", "name", "inside"])
def test_a_constant_that_cannot_be_pickled_is_refused_before_anything_runs(
    make: Any, form: str, shared_processes: Any, tally: Any
) -> None:
    @task
    def first() -> Any:
        tally.add()
        return [1, 2]

    @flow(backend=shared_processes, validate_parameters=False)
    def body(given: Any) -> Any:
        values = first()
        calls = {
            "map": lambda: use.map(values, unmapped(given)),
            "call": lambda: use(values, given),
            "name": lambda: use(values, thing=given),
            "inside": lambda: use(values, {"a": [given]}),
        }
        return calls[form]()

    run = body.run(make())
    assert run.state == "Failed" and tally.count() == 0
    assert isinstance(run.exception, SerializationError)
    assert "task 'use': argument 'thing', a" in str(run.exception)
    assert "create it inside the task" in str(run.exception)


def test_a_refused_call_may_be_caught_and_the_run_goes_on(shared_processes: Any) -> None:
    @flow(backend=shared_processes, validate_parameters=False)
    def body(lock: Any) -> Any:
        assert use(1).result() == 1
        with pytest.raises(SerializationError, match="argument 'thing'"):
            use(2, lock)
        return use.map([3, lock, 5])

    run = body.run(threading.Lock())
    assert isinstance(run.exception, MapFailed) and run.exception.indices == (1,)
    assert list(run.nodes)[-1].counts == {"Completed": 2, "Failed": 1}


def test_here_a_lock_is_given_as_it_is(local_name: str) -> None:
    lock = threading.Lock()

    @flow(backend=local_name, validate_parameters=False)
    def body() -> Any:
        return use.map([1, 2], unmapped(lock)), same(lock)

    assert body() == ([1, 2], lock)


@dataclass
class Job:
    x: Any
    y: Any = 2


@dataclass(frozen=True, slots=True)
class Frozen:
    x: Any
    y: Any = 2


@dataclass
class Derived:
    x: Any
    twice: Any = field(init=False, default=None)

    def __post_init__(self) -> None:
        if isinstance(self.x, int):
            self.twice = 2 * self.x


class Named(NamedTuple):
    x: Any
    y: Any = 2


@attrs.define
class Defined:
    x: Any
    _y: Any = 2


@attrs.frozen
class Fixed:
    x: Any
    y: Any = 2


class Asked(pydantic.BaseModel):
    x: Any
    y: Any = 2


class AskedFrozen(pydantic.BaseModel, frozen=True):
    x: Any
    y: Any = 2


STRUCTURED: list[Any] = [Job, Frozen, Derived, Named, Defined, Fixed, Asked, AskedFrozen]


@task
def three() -> int:
    return 3


@task
def broken() -> int:
    raise ValueError("broken")


@task
def x_of(value: Any, add: int = 0) -> Any:
    return value.x + add


def test_futures_in_structured_objects_are_resolved(backend_name: Any) -> None:
    @flow(backend=backend_name)
    def body() -> Any:
        made = [kind(x=three()) for kind in STRUCTURED]
        return (
            [x_of(each) for each in made],
            [same(each) for each in made],
            [same({"in": [kind(x=Job([three()]))]}) for kind in STRUCTURED],
            x_of.map(made),
            x_of.map(unmapped(made[0]), [1, 2]),
            made,
        )

    plain, whole, deep, mapped, constant, returned = body()
    assert plain == mapped == [3] * len(STRUCTURED) and constant == [4, 5]
    assert whole == returned == [kind(x=3) for kind in STRUCTURED]
    assert deep == [{"in": [kind(x=Job([3]))]} for kind in STRUCTURED]


def test_failures_in_structured_objects_are_those_of_the_task_or_item(local_name: str) -> None:
    @flow(backend=local_name)
    def body() -> Any:
        given = same(Job(allow_failure(broken())))
        mapped = x_of.map([Job(broken()), Job(three()), Frozen([broken()])])
        return given, same(allow_failure(mapped))

    given, (first, second, third) = body()
    assert isinstance(given.x, ValueError) and second == 3
    assert isinstance(first, UpstreamFailed) and isinstance(third, UpstreamFailed)


def test_a_future_in_another_object_is_refused_by_name(backend_name: Any) -> None:
    @flow(backend=backend_name)
    def body() -> Any:
        return x_of(Model(three()))  # type: ignore[arg-type]

    with pytest.raises(MapTypeError, match="argument 'value', a Model, has a future for its attribute 'x'"):
        body()
