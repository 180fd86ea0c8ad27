"""What a plain loop would see around it: variables of the environment, the working folder, context variables."""

from __future__ import annotations

import asyncio
import decimal
import os
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from graphflow import backends, flow, task
from graphflow.errors import GraphflowError
from graphflow.graph.context import flow_context

REQUEST: ContextVar[str] = ContextVar("request", default="none")


@task
def look(x: int) -> tuple[str | None, str]:
    return os.environ.get("GF_TEST_TOKEN"), os.getcwd()


@flow
def main() -> Any:
    return look.map(range(4))


def test_tasks_see_the_environment_and_the_folder_as_they_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with backends.processes(slots=2) as pool:
        before = os.getcwd()
        assert main.with_options(backend=pool)() == [(None, before)] * 4
        monkeypatch.setenv("GF_TEST_TOKEN", "abc")
        monkeypatch.chdir(tmp_path)
        assert main.with_options(backend=pool)() == [("abc", str(tmp_path))] * 4
        monkeypatch.undo()
        assert main.with_options(backend=pool)() == [(None, before)] * 4


@task
def request(x: int) -> str:
    return REQUEST.get()


@task
async def request_async(x: int) -> str:
    await asyncio.sleep(0)
    return REQUEST.get()


@task
def change(x: int) -> str:
    found = REQUEST.get()
    REQUEST.set(f"changed by {x}")
    return found


@task
def in_fragment(x: int) -> Any:
    return request(x)


@task
def third(x: int) -> str:
    return str(decimal.Decimal(1) / 3)


@task
def asks_for_the_flow(x: int) -> str:
    return flow_context().flow_name


@pytest.mark.parametrize("each", [request, request_async, in_fragment])
def test_tasks_see_context_variables_as_they_were_where_they_were_called(local_name: str, each: Any) -> None:
    @flow(backend=local_name)
    def body() -> Any:
        REQUEST.set("first")
        first = each.map([1, 2])
        first.wait()
        REQUEST.set("second")
        return first, each(3), each.map(range(3))

    assert body() == (["first"] * 2, "second", ["second"] * 3)


def test_what_a_task_sets_is_not_seen_by_later_calls() -> None:
    @flow(backend="threads:1")
    def body() -> Any:
        REQUEST.set("mine")
        change(1)
        return change(2), REQUEST.get()

    assert body() == ("mine", "mine")


def test_the_decimal_context_counts() -> None:
    @flow(backend="threads")
    def body() -> Any:
        with decimal.localcontext() as context:
            context.prec = 3
            return third.map([1])

    assert body() == ["0.333"]


def test_a_task_is_not_in_the_body_that_calls_it() -> None:
    run = flow(backend="threads")(lambda: asks_for_the_flow(1)).run()
    assert isinstance(run.exception, GraphflowError)
