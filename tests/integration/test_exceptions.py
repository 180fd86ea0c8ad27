"""Exceptions arrive as they were raised: on each backend, in values, and from histories."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import graphflow
from graphflow import allow_failure, flow, task
from graphflow.errors import GraphflowError


class Coded(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


class Asked(Exception):
    """Takes other arguments than it hands on."""

    def __init__(self, *, url: str, status: int) -> None:
        self.url, self.status = url, status
        self.codes = [status]

    def __str__(self) -> str:
        return f"{self.status} of {self.url}"


class Slotted(ValueError):
    __slots__ = ("place",)

    def __init__(self, text: str, place: tuple[int, int]) -> None:
        super().__init__(text)
        self.place = place


class Counted(Exception):
    made = 0

    def __init__(self) -> None:
        type(self).made += 1
        super().__init__(f"made {type(self).made}")


class Own(Exception):
    def __init__(self, left: int, right: int) -> None:
        super().__init__(f"{left} and {right}")
        self.sides = left, right

    def __reduce__(self) -> Any:
        return type(self), self.sides


class Missing(OSError):
    def __init__(self, path: str) -> None:
        super().__init__(2, "No such file", path)
        self.path = path


class Both(ExceptionGroup):
    def __new__(cls, errors: list[Exception]) -> Any:
        made = super().__new__(cls, "both", errors)
        made.count = len(errors)
        return made

    count: int


def caused() -> BaseException:
    error = Coded(8)
    error.__cause__ = Missing("a.csv")
    error.__cause__.add_note("of the cause")
    return error


def within() -> BaseException:
    try:
        try:
            int("x")
        except ValueError:
            {}["a"]
    except KeyError as error:
        return error
    raise AssertionError


def noted() -> BaseException:
    error = ValueError("text")
    error.add_note("one")
    error.add_note("two")
    return error


def missing_attribute() -> BaseException:
    try:
        (3).nothing  # type: ignore[attr-defined]
    except AttributeError as error:
        return error
    raise AssertionError


MAKERS: list[Callable[[], BaseException]] = [
    lambda: Coded(7),
    lambda: Asked(url="u", status=404),
    lambda: Slotted("s", (1, 2)),
    Counted,
    lambda: Own(1, 2),
    lambda: Missing("x"),
    lambda: OSError(2, "two files", "a", None, "b"),
    lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    lambda: KeyError(("a", 1)),
    lambda: ImportError("no", name="n", path="p"),
    lambda: SyntaxError("bad", ("f.py", 3, 2, "x y", 3, 4)),
    lambda: ExceptionGroup("g", [Coded(1), ExceptionGroup("h", [KeyError("k")])]),
    lambda: Both([Coded(2), OSError(1, "x")]),
    lambda: ValueError(1, [2], None),
    lambda: ValueError(),
    lambda: asyncio.CancelledError("why"),
    missing_attribute,
    caused,
    within,
    noted,
]


def described(error: BaseException | None) -> Any:
    """All of an exception that its user can see, but for the notes that graphflow adds."""
    if error is None:
        return None
    own = dict(vars(error))
    notes = [each for each in own.pop("__notes__", []) if not each.startswith("on the worker:")]
    names = "errno strerror filename filename2 encoding object start end reason name path obj msg lineno offset text end_lineno place"
    return (
        type(error).__qualname__,
        str(error),
        [described(each) if isinstance(each, BaseException) else repr(each) for each in error.args],
        {name: repr(value) for name, value in own.items()},
        {name: repr(getattr(error, name, None)) for name in names.split()},
        notes,
        [described(each) for each in getattr(error, "exceptions", ())],
        described(error.__cause__),
        described(error.__context__),
        error.__suppress_context__,
    )


@task
def fail(number: int) -> None:
    raise MAKERS[number]()


@task
async def fail_later(number: int) -> None:
    raise MAKERS[number]()


@task
def keep(errors: Any) -> Any:
    return errors


def wanted(number: int) -> Any:
    # Not raised here, where another exception may be handled.
    return described(MAKERS[number]())


@pytest.fixture(autouse=True)
def count() -> None:
    Counted.made = 0


NUMBERS = [each for each, make in enumerate(MAKERS) if make is not Counted]


@pytest.mark.parametrize("form", [fail, fail_later], ids=["sync", "async"])
def test_an_exception_is_the_one_that_was_raised(form: Any, backend_name: Any, tmp_path: Path) -> None:
    @flow(backend=backend_name)
    def body() -> Any:
        mapped, plain = form.map(NUMBERS), [form(each) for each in NUMBERS]
        caught: list[Any] = []
        for future in plain:
            with pytest.raises(Exception) as found:
                future.result()
            caught.append(found.value)
        return keep(allow_failure(mapped)), caught

    run = body.run()
    given, caught = run.result()
    live = [each.exception for each in run.nodes[form.name].failures()]
    for number, *errors in zip(NUMBERS, given, caught, live, strict=True):
        for error in errors:
            if isinstance(error, GraphflowError):
                # What is no `Exception` would end the caller.
                assert isinstance(error.__cause__, asyncio.CancelledError)
                error = error.__cause__
            assert described(error) == wanted(number)

    with graphflow.history() as history:
        recorded = history.run(run.id)
        kept = {each.index: each.exception for each in recorded.nodes[form.name].failures()}
        stored = recorded.result()[0]
    for place, number in enumerate(NUMBERS):
        error = kept[place]
        if not isinstance(MAKERS[number](), Own | asyncio.CancelledError | AttributeError):
            assert described(error) == wanted(number)
        if not isinstance(stored[place], GraphflowError):
            assert described(stored[place]) == wanted(number)


def test_no_init_is_called_again(backend_name: Any) -> None:
    @flow(backend=backend_name)
    def body() -> Any:
        try:
            fail(MAKERS.index(Counted)).result()
        except Counted as error:
            return str(error)

    assert body() == "made 1"


def test_exceptions_that_say_the_same_keep_what_they_hold(backend_name: Any) -> None:
    @task
    def fails(x: int) -> None:
        error = Slotted("same", (x, x))
        error.items = [x]  # type: ignore[attr-defined]
        error.__cause__ = Coded(x % 7)
        raise error

    @flow(backend=backend_name)
    def body() -> Any:
        return keep(allow_failure(fails.map(range(300))))

    for x, error in enumerate(body()):
        assert (error.place, error.items, error.__cause__.code) == ((x, x), [x], x % 7)


def test_what_cannot_travel_is_left_out_and_named(shared_processes: Any) -> None:
    @task
    def fails(x: int) -> None:
        error = Coded(x)
        error.handle = (each for each in ())  # type: ignore[attr-defined]
        raise error

    @flow(backend=shared_processes)
    def body() -> Any:
        return keep(allow_failure(fails.map([3])))

    (error,) = body()
    assert isinstance(error, Coded) and error.code == 3 and not hasattr(error, "handle")
    assert error.__notes__[0] == "left out, because it cannot be pickled or is large: handle"
