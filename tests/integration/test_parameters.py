"""A flow's parameters: bound, checked and coerced before anything runs."""

from __future__ import annotations

from datetime import date
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import pytest

from graphflow import flow, task
from graphflow.errors import GraphflowError, ParameterError


class Settings(pydantic.BaseModel):
    rate: float
    depth: int = 3


class Color(Enum):
    RED = "red"


class Plain:
    """A class that pydantic knows nothing of."""


@task
def inc(x: int) -> int:
    return x + 1


def given(annotation: Any, value: Any, **options: Any) -> Any:
    def body(x: Any) -> Any:
        return {"x": x}

    body.__annotations__ = {"x": annotation}
    return flow(body, backend="inline", **options)(value)["x"]  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        (int, "3", 3),
        (int, 3.0, 3),
        (float, 3, 3.0),
        (bool, "true", True),
        (str, "text", "text"),
        (list[int], ["1", 2], [1, 2]),
        (dict[str, float], {"a": "1.5"}, {"a": 1.5}),
        (int | None, None, None),
        (Settings, {"rate": "0.1"}, Settings(rate=0.1)),
        (list[Settings], [{"rate": 1, "depth": 2}], [Settings(rate=1, depth=2)]),
        (Path, "/tmp/x", Path("/tmp/x")),
        (date, "2024-05-01", date(2024, 5, 1)),
        (Color, "red", Color.RED),
        (Literal["a", "b"], "a", "a"),
        (Annotated[int, pydantic.Field(gt=0)], "5", 5),
        (Any, object, object),
        (set[int], [1, 1, "2"], {1, 2}),
    ],
)
def test_values_are_coerced_to_their_annotations(annotation: Any, value: Any, expected: Any) -> None:
    found = given(annotation, value)
    assert found == expected
    assert type(found) is type(expected)


def test_classes_that_pydantic_does_not_know_are_checked_by_type() -> None:
    plain = Plain()
    assert given(Plain, plain) is plain
    with pytest.raises(ParameterError, match="parameter 'x' must be Plain, not 3"):
        given(Plain, 3)


@pytest.mark.parametrize(
    ("annotation", "value", "text"),
    [
        (
            int,
            "many",
            r"flow 'body': parameter 'x' must be int, not 'many' \(Input should be a valid integer",
        ),
        (int, 1.5, "must be int, not 1.5"),
        (list[int], [1, "b"], r"must be list\[int\], not \[1, 'b'\] \(1: Input should be a valid integer"),
        (Settings, {"depth": 1}, r"must be Settings, not \{'depth': 1\} \(rate: Field required"),
        (Literal["a", "b"], "c", r"must be Literal\['a', 'b'\], not 'c'"),
        (Annotated[int, pydantic.Field(gt=0)], -1, "greater than 0"),
        (Color, "blue", "must be Color, not 'blue'"),
        (int, "x" * 500, r"not 'x+\.\.\."),
    ],
)
def test_values_that_do_not_fit_are_a_clear_error(annotation: Any, value: Any, text: str) -> None:
    with pytest.raises(ParameterError, match=text) as caught:
        given(annotation, value)
    assert isinstance(caught.value, GraphflowError) and isinstance(caught.value, TypeError)
    assert len(str(caught.value)) < 700


def test_all_misfits_are_named_and_nothing_runs() -> None:
    ran: list[int] = []

    @flow(backend="inline")
    def body(a: int, b: list[str], c: int = 3) -> None:
        ran.append(1)

    with pytest.raises(
        ParameterError, match=r"parameter 'a' must be int.*parameter 'b' must be list.*parameter 'c' must"
    ):
        body("x", 3, c="y")  # type: ignore[arg-type]
    with pytest.raises(ParameterError):
        body.run("x", [])  # type: ignore[arg-type]
    with pytest.raises(ParameterError):
        body.start("x", [])  # type: ignore[arg-type]
    with pytest.raises(ParameterError):
        body.graph("x", [])  # type: ignore[arg-type]
    assert ran == []


def test_missing_unknown_and_doubled_parameters_are_named() -> None:
    @flow(backend="inline")
    def body(folder: str, limit: int = 3) -> None: ...

    with pytest.raises(
        ParameterError, match=r"flow body\(folder: .*\).*: missing a required argument: 'folder'"
    ):
        body()  # type: ignore[call-arg]
    with pytest.raises(
        ParameterError, match=r"flow 'body' has no parameter 'foldr'; did you mean 'folder'\?"
    ):
        body(foldr="x")  # type: ignore[call-arg]
    with pytest.raises(ParameterError, match="flow 'body' has no parameter 'zzz'; it takes folder, limit"):
        body("x", zzz=1)  # type: ignore[call-arg]
    with pytest.raises(ParameterError, match="multiple values for argument 'folder'"):
        body("x", folder="y")  # type: ignore[misc]
    with pytest.raises(ParameterError, match="too many positional arguments"):
        body("x", 1, 2)  # type: ignore[call-arg]


def test_validation_can_be_switched_off() -> None:
    assert given(int, "many", validate_parameters=False) == "many"


def test_defaults_keyword_only_positional_only_and_variable_parameters() -> None:
    @flow(backend="inline")
    def body(a: int, /, b: int = 2, *rest: int, c: int = 3, **more: int) -> Any:
        return a, b, rest, c, more

    assert body("1") == (1, 2, (), 3, {})  # type: ignore[arg-type]
    assert body("1", "5", "6", 7, c="8", d="9") == (1, 5, (6, 7), 8, {"d": 9})  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="parameter 'more' must be"):
        body(1, d="x")  # type: ignore[arg-type]
    assert body.run(1, d=5).parameters == {"a": 1, "b": 2, "rest": (), "c": 3, "more": {"d": 5}}


def test_defaults_are_taken_as_they_are() -> None:
    @flow(backend="inline")
    def body(x: int = None) -> Any:  # type: ignore[assignment]
        return x

    assert body() is None


def test_annotations_that_cannot_be_evaluated_check_nothing_else_less() -> None:
    def body(x: NotImported, y: int) -> Any:  # type: ignore[name-defined]  # noqa: F821
        return x, y

    assert flow(body, backend="inline")("a", 2) == ("a", 2)  # type: ignore[call-overload]


def test_futures_given_to_inner_flows_are_not_checked(backend_name: str) -> None:
    @flow
    def inner(x: int, xs: list[int]) -> Any:
        return inc(x), xs

    @flow(backend=backend_name)
    def outer() -> Any:
        return inner(inc(1), [inc(2), "3"])

    assert outer() == (3, [3, "3"])


def test_a_flow_gets_the_values_that_the_run_shows() -> None:
    @flow(backend="inline")
    def body(settings: Settings) -> Any:
        return settings.depth

    run = body.run({"rate": 1})  # type: ignore[arg-type]
    assert run.value == 3
    assert run.parameters == {"settings": Settings(rate=1)}
