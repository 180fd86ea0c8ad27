"""All backends keep one contract."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from graphflow import backends
from graphflow.backends.automatic.candidates import Thresholds
from graphflow.backends.automatic.switching import LocalBackend
from graphflow.errors import BackendError
from graphflow.ports import Backend
from graphflow.testing.contracts.backends import BackendContract


@pytest.fixture(scope="module")
def threads_backend() -> Iterator[Backend]:
    backend = backends.threads(slots=2)
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def processes_backend() -> Iterator[Backend]:
    with backends.processes(slots=2) as backend:
        yield backend


@pytest.fixture(scope="module")
def local_backend() -> Iterator[Backend]:
    with backends.local(slots=2) as backend:
        yield backend


@pytest.fixture(scope="module")
def moved_backend() -> Iterator[Backend]:
    """A local backend whose tasks go to worker processes from the start."""
    with LocalBackend(2, thresholds=Thresholds(moves_all=True)) as backend:
        yield backend


@pytest.fixture(scope="module")
def scattered_backend() -> Iterator[Backend]:
    """A given cluster that shares no disk with the driver: values stay on its workers and travel by Dask."""
    from distributed import LocalCluster

    from graphflow.backends.dask.spawning import leave_main_out

    leave_main_out()
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50
        ) as cluster,
        backends.dask(cluster=cluster) as backend,
    ):
        backend._shares_disk = False
        yield backend


class TestInline(BackendContract):
    @pytest.fixture
    def backend(self) -> Backend:
        return backends.inline()


class TestThreads(BackendContract):
    @pytest.fixture
    def backend(self, threads_backend: Backend) -> Backend:
        return threads_backend


class TestProcesses(BackendContract):
    @pytest.fixture
    def backend(self, processes_backend: Backend) -> Backend:
        return processes_backend


class TestLocalOnThreads(BackendContract):
    @pytest.fixture
    def backend(self, local_backend: Backend) -> Backend:
        return local_backend


class TestLocalOnProcesses(BackendContract):
    @pytest.fixture
    def backend(self, moved_backend: Backend) -> Backend:
        return moved_backend


class TestGivenClusterWithoutSharedDisk(BackendContract):
    @pytest.fixture
    def backend(self, scattered_backend: Backend) -> Backend:
        return scattered_backend


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("thread", "unknown backend 'thread'; use"),
        ("threads:none", "not a number of slots"),
        ("processes:0", "not a number of slots"),
        (3.5, "unknown backend 3.5; use"),
    ],
)
def test_what_is_no_backend_is_refused_with_what_would_be_one(spec: object, says: str) -> None:
    with pytest.raises(BackendError, match=says) as caught:
        backends.resolve(spec)
    assert "threads" in str(caught.value) or "processes:4" in str(caught.value)


@pytest.mark.parametrize("slots", [0, -1, 1.5, True])
def test_slots_must_be_a_positive_whole_number(slots: object) -> None:
    with pytest.raises(BackendError, match="takes an integer, 1 or more"):
        backends.threads(slots=slots)  # type: ignore[arg-type]
    with pytest.raises(BackendError, match="takes an integer, 1 or more"):
        backends.processes(slots=slots)  # type: ignore[arg-type]
