"""What a cached map asks of a store that is reached by requests: few, on any backend and any number of slots."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from graphflow import INPUTS, backends, flow, task
from graphflow.ports import Backend
from graphflow.results.stores.opening import open_store
from graphflow.testing.faults.s3proxy import S3Proxy
from graphflow.testing.faults.s3server import Bucket

MAX_REQUESTS = 60


@task(cache_policy=INPUTS)
def same(x: int) -> int:
    """Return what it is given."""
    return x


@task(cache_policy=INPUTS)
def same_later(x: int) -> int:
    """Return what it is given, in 2 ms."""
    time.sleep(0.002)
    return x


@pytest.fixture
def storage(s3: Bucket, s3_proxy: S3Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A place behind the proxy."""
    for name in s3.environment:
        if "ENDPOINT" in name:
            monkeypatch.setenv(name, s3_proxy.endpoint)
    monkeypatch.setenv("GRAPHFLOW_HOME", str(tmp_path / "home"))
    return f"{s3.url}/cache"


def requests_of(
    backend: str | Backend | None, storage: str, fn: Callable[[int], int], count: int, proxy: S3Proxy
) -> int:
    """The requests of a run that maps over so many items, all of which are new."""
    fn_there = fn.with_options(result_storage=storage)  # type: ignore[attr-defined]

    @flow(**({} if backend is None else {"backend": backend}))
    def body() -> int:
        return sum(fn_there.map(range(count)).result())

    assert body() == sum(range(count))
    return len(proxy.seen())


@pytest.mark.parametrize("backend", ["inline", "threads:1", "threads:4", "threads:8", "threads:16", None])
@pytest.mark.parametrize(("fn", "count"), [(same, 2_000), (same_later, 1_000)])
def test_a_cached_map_asks_a_store_little_on_threads(
    storage: str, s3_proxy: S3Proxy, backend: str | None, fn: Callable[[int], int], count: int
) -> None:
    assert requests_of(backend, storage, fn, count, s3_proxy) <= MAX_REQUESTS


@pytest.mark.parametrize(("fn", "count"), [(same, 2_000), (same_later, 1_000)])
def test_a_cached_map_asks_a_store_little_on_processes(
    storage: str, s3_proxy: S3Proxy, fn: Callable[[int], int], count: int
) -> None:
    with backends.processes(slots=2) as backend:
        assert requests_of(backend, storage, fn, count, s3_proxy) <= MAX_REQUESTS


@pytest.mark.parametrize(("fn", "count"), [(same, 2_000), (same_later, 1_000)])
def test_a_cached_map_asks_a_store_little_on_a_cluster_that_is_given(
    storage: str, s3_proxy: S3Proxy, fn: Callable[[int], int], count: int
) -> None:
    from distributed import LocalCluster

    from graphflow.backends.dask.cluster import DaskBackend
    from graphflow.backends.dask.connecting import Way
    from graphflow.backends.dask.spawning import leave_main_out

    leave_main_out()
    with (
        LocalCluster(n_workers=2, threads_per_worker=4, dashboard_address=":0", silence_logs=50) as cluster,
        DaskBackend(Way(cluster=cluster)) as backend,
    ):
        assert requests_of(backend, storage, fn, count, s3_proxy) <= MAX_REQUESTS


def test_processes_of_a_machine_read_no_pack_that_another_of_them_wrote(
    storage: str, s3_proxy: S3Proxy
) -> None:
    there = same_later.with_options(result_storage=storage)
    with backends.processes(slots=3) as backend:

        @flow(backend=backend)
        def body(start: int) -> int:
            return sum(there.map(range(start, start + 300)).result())

        for start in (0, 1_000, 2_000):
            # Each process knows what it wrote itself alone when the next run begins.
            assert body(start) == sum(range(start, start + 300))

        assert not [each for each in s3_proxy.seen("GET") if each.path.partition("?")[0].endswith(".pack")]


def test_nothing_is_left_of_who_was_there(storage: str, s3: Bucket, s3_proxy: S3Proxy) -> None:
    requests_of("threads:2", storage, same, 100, s3_proxy)

    names = list(open_store(storage).names())
    assert names and all(name.startswith("cache/") for name in names)
