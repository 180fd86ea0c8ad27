"""Runs whose results and caches are on S3 (a real server on loopback), and what happens when that breaks."""

from __future__ import annotations

import json
import logging
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import graphflow
from graphflow import INPUTS, flow, task
from graphflow.errors import ResultStoreError
from graphflow.results.stores.opening import open_store
from graphflow.testing.faults.processes import Script, race
from graphflow.testing.faults.s3proxy import Fault, S3Proxy
from graphflow.testing.faults.s3server import Bucket


@task(cache_policy=INPUTS - "path")
def square(x: int, path: str) -> int:
    with open(path, "a") as file:
        file.write(f"{x}\n")
    return x * x


@flow(backend="threads:2")
def squares(n: int, path: str) -> list[int]:
    return square.map(range(n), path)  # type: ignore[return-value]


@pytest.fixture
def path(tmp_path: Path) -> str:
    place = tmp_path / "calls"
    place.touch()
    return str(place)


def names_in(bucket: Bucket) -> list[str]:
    return list(open_store(bucket.url).names())


def seen(path: str) -> Counter[str]:
    return Counter(Path(path).read_text().split())


@pytest.mark.parametrize("backend", ["inline", "processes:2"])
def test_results_and_cache_go_to_a_bucket_and_come_back(s3: Bucket, path: str, backend: str) -> None:
    kept = squares.with_options(backend=backend, result_storage=f"{s3.url}/team")
    first, again = kept.run(12, path), kept.run(15, path)

    assert again.value == [x * x for x in range(15)]
    assert seen(path) == {str(x): 1 for x in range(15)}
    assert again.nodes["square"].counts == {"Cached": 12, "Completed": 3}
    assert again.nodes["square"].items[0].cached_from.run_id == first.id
    names = names_in(s3)
    assert any(name.startswith(f"team/runs/{first.id}/") for name in names)
    assert any(name.startswith("team/cache/square-") for name in names)
    # Another process, which knows only what the history says.
    past = graphflow.history().run(first.id)
    assert past.value == first.value
    assert past.nodes["square"].items[3].value == 9
    # What is cached outlives its run.
    graphflow.history().remove(first.id)
    left = names_in(s3)
    assert not any(name.startswith(f"team/runs/{first.id}/") for name in left)
    assert any(name.startswith("team/cache/square-") for name in left)


def test_a_run_on_a_bucket_is_resumed_with_its_values(s3: Bucket, path: str) -> None:
    @task
    def shaky(values: list[int], marker: str) -> int:
        if not Path(marker).exists():
            raise RuntimeError("not yet")
        return sum(values)

    @task
    def plain(x: int, path: str) -> int:
        with open(path, "a") as file:
            file.write(f"{x}\n")
        return x

    @flow(backend="inline", result_storage=f"{s3.url}/team")
    def total(path: str, marker: str) -> int:
        return shaky(plain.map(range(10), path), marker)

    marker = path + "-marker"
    with pytest.raises(RuntimeError):
        total(path, marker)
    Path(marker).touch()

    assert total.resume("@latest").value == 45
    assert set(seen(path).values()) == {1}


def test_the_storage_of_a_setting_and_of_the_command_line(
    s3: Bucket, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHFLOW_RESULT_STORAGE", f"{s3.url}/by-setting")
    squares(3, path)
    assert any(name.startswith("by-setting/cache/") for name in names_in(s3))


def test_a_wrong_bucket_is_told_before_anything_runs(s3: Bucket, path: str) -> None:
    with pytest.raises(ResultStoreError, match="bucket"):
        squares.with_options(result_storage="s3://no-such-bucket-here/x")(3, path)
    assert not seen(path)


def test_a_store_that_breaks_fails_the_run_which_is_resumed_later(
    s3: Bucket, s3_proxy: S3Proxy, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_proxy.endpoint)
    monkeypatch.setenv("GRAPHFLOW_STORE_ATTEMPTS", "2")
    kept = squares.with_options(backend="inline", result_storage=f"{s3.url}/team")
    s3_proxy.plan(Fault(method="PUT", path="/cache/", status=503, code="SlowDown", times=None))

    with pytest.raises(ResultStoreError):
        kept(5, path)
    assert graphflow.history().runs()[0].state.name in ("Failed", "Crashed")
    s3_proxy.reset()
    run = kept.resume("@latest")

    assert run.value == [0, 1, 4, 9, 16]


def test_secrets_of_a_store_are_seen_nowhere(
    s3: Bucket, path: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = "CANARY0SECRET0KEY"
    monkeypatch.setenv("GRAPHFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GRAPHFLOW_ANOTHER_TOKEN", canary)
    options: dict[str, Any] = {"key": "someone", "secret": canary, "endpoint_url": s3.endpoint}
    monkeypatch.setenv("GRAPHFLOW_RESULT_STORAGE_OPTIONS", json.dumps(options))
    caplog.set_level(logging.DEBUG)
    kept = squares.with_options(result_storage=f"{s3.url}/team", result_storage_options=options)
    run = kept.run(4, path)

    assert run.state == "Completed"
    assert canary not in caplog.text
    assert canary not in repr(kept) + repr(kept.options) + repr(square.options)
    for place in (tmp_path / "home").rglob("*"):
        if place.is_file():
            assert canary.encode() not in place.read_bytes(), place
    assert not any(canary in name for name in names_in(s3))


PAYS = """
import sys
from graphflow import INPUTS, flow, task

@task(run_once=True, cache_policy=INPUTS - "path")
def pay(x: int, path: str) -> str:
    with open(path, "a") as file:
        file.write(f"{x}\\n")
    return f"paid {x}"

@flow(backend="threads:2", result_storage=sys.argv[2])
def paying(path: str) -> list[str]:
    return pay.map(range(6), path)

print("ready", flush=True)
sys.stdin.readline()
print(paying(sys.argv[1])[5])
"""


def test_two_drivers_on_one_bucket_execute_what_runs_once_only_once(
    s3: Bucket, path: str, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        drivers = [
            stack.enter_context(
                Script(
                    PAYS,
                    *(path, f"{s3.url}/shared"),
                    environment={
                        "GRAPHFLOW_HOME": str(tmp_path / f"home-{each}"),
                        "GRAPHFLOW_SECRET_KEY": "ab" * 32,
                    },
                )
            )
            for each in range(2)
        ]
        ended = race(drivers)

    for code, out, err in ended:
        assert (code, out) == (0, ["paid 5"]), err
    assert seen(path) == {str(x): 1 for x in range(6)}


def _without_credentials() -> None:
    import os

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        os.environ.pop(name, None)
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"


@task
def plain_square(x: int) -> int:
    return x * x


@pytest.mark.parametrize("is_cached", [True, False])
def test_a_worker_without_credentials_is_named_with_the_store(s3: Bucket, path: str, is_cached: bool) -> None:
    from distributed import Client, LocalCluster

    @flow(result_storage=s3.url)
    def on_cluster() -> list[int]:
        if is_cached:
            return square.map(range(4), path)  # type: ignore[return-value]
        return plain_square.map(range(4))  # type: ignore[return-value]

    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        (worker,) = client.run(_without_credentials)
        run = on_cluster.with_options(backend=client).run()
        message = str(run.exception)
        assert isinstance(run.exception, ResultStoreError), message
        assert worker in message and s3.url in message and "It is the worker that has none" in message
        # What is passed is sent along.
        given = on_cluster.with_options(
            backend=client, result_storage=s3.url, result_storage_options=s3.storage_options
        )
        assert given.run().value == [0, 1, 4, 9]
