"""What type checkers see: mypy in strict mode, on code as users write it."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

api = pytest.importorskip("mypy.api")

HEADER = """
from typing import Any
from graphflow import flow, task, unmapped, as_completed, wait
from graphflow import Future, MappedFuture

@task
def inc(x: int, note: str = "") -> int: return x + 1
@task(retries=2, retry_delay_seconds=1)
def total(xs: list[int]) -> int: return sum(xs)
@task
async def fetch(url: str) -> bytes: return b""
@task
def two() -> tuple[int, str]: return 1, "a"
"""


def checked(tmp_path: Path, body: str, *, keeps_lines: bool = False) -> list[str]:
    """What mypy says of a piece of code, message by message; with `keeps_lines`, `LINE: ` stands before each."""
    path = tmp_path / "snippet.py"
    path.write_text(HEADER + textwrap.dedent(body))
    out, _, _ = api.run(["--strict", "--no-error-summary", "--cache-dir", str(tmp_path / "cache"), str(path)])
    told = [line.split(": ", 1) for line in out.splitlines()]
    return [f"{where.split(':')[1]}: {text}" if keeps_lines else text for where, text in told]


def test_correct_programs_have_no_complaints(tmp_path: Path) -> None:
    assert (
        checked(
            tmp_path,
            """
        @flow
        def crunch(n: int) -> int:
            numbers = inc.map(range(n))
            first = inc(numbers[0], note="first")
            again = inc(first, wait_for=[numbers])
            a, b = two()
            return total([first, again, inc(2)]) + total(numbers).result()

        @flow(name="other", retries=2)
        async def gather(urls: list[str]) -> list[bytes]:
            pages = fetch.map(urls)
            return [await page for page in pages]

        @flow
        def lazy(n: int) -> int:
            return total(inc.map(range(n)))

        value: int = crunch(3)
        run = crunch.run(n=3)
        state: str = run.state.name
        slower = crunch.with_options(backend="inline")(3)
        done = [f.result() for f in as_completed([inc(1), inc(2)])]
        number: int = done[0]
        plain: int = inc.fn(1)

        class Model:
            @task
            def fit(self, x: int) -> int: return x

        fitted = Model().fit(3)

        async def main() -> bytes:
            run = await gather.run([])
            return (await gather([]))[0] + await fetch("x")
        """,
        )
        == []
    )


def test_types_are_kept(tmp_path: Path) -> None:
    lines = checked(
        tmp_path,
        """
        @flow
        def crunch(n: int) -> str: return ""

        reveal_type(inc)
        reveal_type(inc(1))
        reveal_type(inc.submit(1).result())
        reveal_type(inc.map([1]))
        reveal_type(inc.map([1]).result())
        reveal_type(inc.map([1])[0])
        reveal_type(fetch("x"))
        reveal_type(crunch(3))
        reveal_type(crunch.fn)
        reveal_type(inc.with_options(retries=3))
        """,
    )
    assert [
        line.removeprefix("note: Revealed type is ")
        .strip('"')
        .replace("graphflow.", "")
        .replace("builtins.", "")
        for line in lines
    ] == [
        "authoring.tasks.Task[[x: int, note: str =], int]",
        "authoring.futures.Future[int]",
        "int",
        "authoring.mapped_futures.MappedFuture[int]",
        "list[int]",
        "authoring.futures.Future[int]",
        "authoring.futures.Future[bytes]",
        "str",
        "def (n: int) -> Any",
        "authoring.tasks.Task[[x: int, note: str =], int]",
    ]


WRONG_CALLS = {
    'inc("a")': '"str"',
    "inc(1, nose=2)": '"__call__" of "Task"',
    "inc()": '"__call__" of "Task"',
    "task(retries=2, retrys=3)": '"retrys"',
    'task(retries="2")': '"retries"',
    "flow(task_runner=3)": '"task_runner"',
}
"""A line of code, and what mypy's message has."""


def test_wrong_calls_are_found(tmp_path: Path) -> None:
    # Each begins a block of its own, so that its messages are those of its line.
    told = checked(tmp_path, "\n".join(WRONG_CALLS), keeps_lines=True)
    first = len(HEADER.splitlines()) + 1
    for number, (line, text) in enumerate(WRONG_CALLS.items(), first):
        messages = "\n".join(each for each in told if each.startswith(f"{number}: "))
        assert "error" in messages, line
        assert text in messages or "No overload variant" in messages, (line, messages)
