"""A recursion without an end is refused where it is deep enough; the rest of the run goes on."""

from __future__ import annotations

from typing import Any

import pytest

from graphflow import flow, history, settings, task
from graphflow.errors import SettingsError, TooDeep


@task
def endless(x: int) -> Any:
    return endless(x)


@task
def countdown(n: int) -> Any:
    return countdown(n - 1) if n else "end"


def test_a_recursion_without_an_end_is_refused(backend_name: Any) -> None:
    @flow(backend=backend_name)
    def main() -> Any:
        return endless(1), countdown(20)

    with settings(runs__max_depth=20):
        run = main.run()
    assert isinstance(run.exception, TooDeep)
    assert "nested 21 deep, and the limit is 20" in str(run.exception)
    assert run.nodes["countdown"].result() == "end"
    assert "did not run, because endless-20 failed" in str(run.nodes["endless"].exception)


def test_the_reason_is_in_the_history() -> None:
    @flow(backend="inline")
    def main() -> Any:
        return endless.map([1])

    with settings(runs__max_depth=3):
        run = main.run()
    recorded = history().run(run.id)
    assert "nested 4 deep" in str(recorded.nodes["endless-3"].exception)


def test_a_limit_that_is_no_count_is_refused() -> None:
    with pytest.raises(SettingsError, match="max_depth"), settings(runs__max_depth=-1):
        pass
