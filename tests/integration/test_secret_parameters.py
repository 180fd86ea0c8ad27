"""Secrets as parameters of flows and arguments of tasks."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest
from pydantic import SecretStr

from graphflow import INPUTS, Secret, flow, history, task
from graphflow.errors import ParameterError


@task(cache_policy=INPUTS)
def size(x: int, token: Secret[str]) -> int:
    return x + len(token.get_secret_value())


@flow
def sizes(token: Secret[str], n: int = 3) -> list[int]:
    return size.map(range(n), token=token).result()


def test_equal_secrets_hit_the_cache_and_others_do_not(backend_name: Any) -> None:
    salt = os.urandom(4).hex()
    chosen = sizes.with_options(backend=backend_name)
    states = [
        [item.state.name for item in chosen.run(given).nodes["size"].items]
        for given in (Secret(f"sesame-1{salt}"), f"sesame-1{salt}", Secret(f"sesame-2{salt}"))
    ]
    assert states == [["Completed"] * 3, ["Cached"] * 3, ["Completed"] * 3]


def test_a_wrong_secret_is_refused_without_its_text() -> None:
    @flow(backend="inline")
    def typed(token: Secret[int], key: SecretStr) -> int:
        return token.get_secret_value()

    with pytest.raises(ParameterError, match="token.*must be") as refused:
        typed("sesame-3", SecretStr("x"))  # type: ignore[arg-type]
    assert "sesame-3" not in str(refused.value)
    assert typed(5, "x") == 5  # type: ignore[arg-type]


def test_a_run_goes_on_with_the_same_secret_only(monkeypatch: pytest.MonkeyPatch) -> None:
    @flow(backend="inline")
    def once(token: Secret[str], n: int = 1) -> int:
        if gate:
            raise ValueError("not yet")
        return n + len(token.get_secret_value())

    gate = True
    run = once.run("sesame-4")  # type: ignore[arg-type]
    assert run.state.is_failed()
    gate = False
    with pytest.raises(ParameterError, match="began with a secret as token"):
        once.resume(run.id)
    with pytest.raises(ParameterError, match="not the secret that run"):
        once.resume(run.id, parameters={"token": "other"})
    with pytest.raises(ParameterError, match="began with n=1"):
        once.resume(run.id, parameters={"token": "sesame-4", "n": 2})
    assert once.resume(run.id, parameters={"token": "sesame-4"}).value == 9
    assert once.run("sesame-4", run_id=run.id).value == 9
    with history() as found:
        assert dict(found.run(run.id).parameters) == {"token": "Secret('***')", "n": "1"}


def test_a_task_that_returns_a_secret_fails_or_keeps_it_in_its_run(backend_name: Any) -> None:
    @task
    def make() -> Secret[str]:
        return Secret("sesame-5")

    @flow(backend=backend_name)
    def returned() -> int:
        return len(make().result().get_secret_value())

    run = returned.run()
    if run.state.is_completed():
        assert run.value == 8
    else:
        assert "is never written" in str(run.exception)


@task
def long(x: int, token: Secret[str], filler: bytes) -> int:
    return len(token.get_secret_value()) + len(filler) + x


def test_orders_that_are_too_long_for_a_message_put_no_secret_into_a_file(
    shared_processes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"sesame-6{os.urandom(8).hex()}"
    # `graphflow.backends.dask` is a function as well.
    sharing = sys.modules["graphflow.backends.dask.columns"]
    monkeypatch.setattr(sharing, "write_pack", lambda *_: pytest.fail("it was written"))

    @flow(backend=shared_processes)
    def much(token: Secret[str]) -> int:
        as_constant = long.map(range(2), token, os.urandom(100_000)).result()
        as_items = long.map([0, 1], [token, token], [os.urandom(300_000)] * 2).result()
        return sum(as_constant) + sum(as_items)

    run = much.run(text)  # type: ignore[arg-type]
    assert run.value == 4 * len(text) + 2 * 100_000 + 2 * 300_000 + 2
