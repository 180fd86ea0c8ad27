"""A run is one JSON document, the same from the run itself and from its history, and it fits its schema."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from graphflow import Skip, allow_failure, flow, history, task
from graphflow.runs.documents import run_document, run_schema


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("GRAPHFLOW_HOME", str(tmp_path / "home"))
    yield


@task(retries=1, retry_delay_seconds=0)
def half(x: int) -> int:
    if x % 5 == 2:
        raise ValueError(f"bad {x}")
    if x == 3:
        raise Skip("not this one")
    return x // 2


@task
def plus(x: int) -> int:
    return x + 1


@task
def total(xs: list[int]) -> int:
    return sum(xs)


@flow
def fine(n: int = 3) -> int:
    return total(plus.map(range(n)))


@flow
def failing(n: int = 12) -> Any:
    return total(plus.map(half.map(range(n))))


@flow
def handled() -> Any:
    return len(allow_failure(half.map(range(6))).value.failures())


@flow
def odd() -> Any:
    return {1, 2}


@flow
def broken_body() -> None:
    raise LookupError("the body itself")


@flow
def empty() -> list[int]:
    return plus.map([])  # type: ignore[return-value]


@flow
def broken_source() -> Any:
    def source() -> Iterator[int]:
        yield 1
        raise OSError("the source broke")

    return total(plus.map(source()))


def timeless(document: Any) -> Any:
    """A document without times: the clock is read a moment later where they are written down."""
    if isinstance(document, list):
        return [timeless(each) for each in document]
    if isinstance(document, dict):
        times = ("started", "ended", "duration_seconds")
        return {key: timeless(value) for key, value in document.items() if key not in times}
    return document


@pytest.mark.parametrize("body", [fine, failing, handled, odd, broken_body, empty])
def test_a_live_run_and_its_history_are_the_same_document(body: Any, local_name: str) -> None:
    live = body.with_options(backend=local_name).run()
    document = json.loads(json.dumps(run_document(live)))
    jsonschema.validate(document, run_schema())
    with history() as known:
        recorded = json.loads(json.dumps(run_document(known.run(live.id))))
    jsonschema.validate(recorded, run_schema())
    assert timeless(document) == timeless(recorded)
    assert document["exception"] is None or "Error" in document["exception"]["traceback"]


def test_the_schema_refuses_what_is_not_a_run(local_name: str) -> None:
    document = run_document(fine.with_options(backend=local_name).run())
    for change in ({"schema": "graphflow.run/0"}, {"nodes": None}, {"other": []}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**document, **change}, run_schema())
