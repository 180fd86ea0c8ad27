"""A run keeps the settings that it began with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from graphflow import INPUTS, flow, settings, task


@task(cache_policy=INPUTS)
def double(x: int) -> int:
    return 2 * x


@task
def down(n: int) -> Any:
    return down(n - 1) if n else "end"


@pytest.mark.parametrize("variable", ["GRAPHFLOW_RESULT_STORAGE", "GRAPHFLOW_REFRESH_CACHE"])
def test_what_changes_during_a_run_holds_for_the_next_one(
    variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = str(tmp_path / "elsewhere") if variable.endswith("STORAGE") else "1"

    @flow(backend="threads:1")
    def main() -> Any:
        monkeypatch.setenv(variable, text)
        return double.map([1, 2])

    for _ in range(2):
        monkeypatch.delenv(variable, raising=False)
        run = main.run()
        assert run.value == [2, 4]
    assert dict(run.nodes["double"].counts) == {"Cached": 2}
    assert not (tmp_path / "elsewhere").exists()
    # The environment is as the body left it.
    assert dict(main.run().nodes["double"].counts) == {"Completed": 2}


def test_a_limit_that_changes_during_a_run_holds_for_the_next_one() -> None:
    @flow(backend="inline")
    def main() -> Any:
        with settings(runs__max_depth=100):
            return down(5).result()

    with settings(runs__max_depth=3):
        assert "the limit is 3" in str(main.run().exception)
