from __future__ import annotations

import inspect
import typing
from pathlib import Path
from typing import Any

import pytest

from graphflow import flow, task
from graphflow.model.flow_options import FlowOptions
from graphflow.model.option_table import OPTIONS, checked_values, markdown, names_of
from graphflow.model.policies import TaskOptions

PAGE = Path(__file__).parents[3] / "docs" / "options.md"


def signature_of(decorator: Any) -> list[tuple[str, str, str]]:
    parameters = inspect.signature(typing.get_overloads(decorator)[-1]).parameters.values()
    return [
        (each.name, each.annotation, repr(each.default))
        for each in parameters
        if each.kind is inspect.Parameter.KEYWORD_ONLY
    ]


def table_of(owner: str) -> list[tuple[str, str, str]]:
    return [(each.name, each.type, each.default) for each in OPTIONS if each.owner == owner]


@pytest.mark.parametrize(("owner", "decorator"), [("task", task), ("flow", flow)])
def test_the_typed_overload_has_the_options_of_the_table(owner: str, decorator: Any) -> None:
    assert signature_of(decorator) == table_of(owner)


@pytest.mark.parametrize(("owner", "decorator"), [("task", task), ("flow", flow)])
def test_the_docstring_has_all_options_in_order(
    owner: typing.Literal["task", "flow"], decorator: Any
) -> None:
    text = inspect.getdoc(decorator)
    assert text is not None and "{options}" not in text
    parameters = text.split("----------\n")[1].split("\nRaises")[0]
    assert tuple(line for line in parameters.splitlines() if line and line[0] != " ") == names_of(owner)
    assert max(map(len, text.splitlines())) <= 110


def test_the_committed_page_is_the_table() -> None:
    assert PAGE.read_text() == markdown()


def test_names_are_unique_and_all_is_said() -> None:
    for owner in ("task", "flow"):
        names = names_of(owner)
        assert len(set(names)) == len(names)
    assert all(each.what.endswith(".") and "\n" not in each.what for each in OPTIONS)


@pytest.mark.parametrize(("owner", "made"), [("task", TaskOptions), ("flow", FlowOptions)])
def test_without_options_all_defaults_are_those_of_the_checked_class(
    owner: typing.Literal["task", "flow"], made: Any
) -> None:
    values = checked_values(owner, "x", {})
    assert made.checked("x", {}, name="f") == made(name="f")
    assert set(values) <= set(names_of(owner))
