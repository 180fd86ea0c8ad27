"""Workers that are stopped, and workers that are not there yet."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graphflow import backends, flow, task
from graphflow.errors import BackendError


@task(batch_size=1)
def work(n: int, folder: Path) -> int:
    (folder / f"{n}-{os.getpid()}").touch()
    if n == 0 and len(list(folder.glob("0-*"))) == 1:
        # Stopped as it works, for good.
        os.kill(os.getpid(), signal.SIGSTOP)
    return n


@flow
def main(n: int, folder: Path) -> Any:
    return work.map(range(n), folder)


def test_what_runs_on_a_stopped_worker_goes_to_another(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with backends.processes(slots=2, worker_timeout_seconds=1.5) as pool:
        assert main.with_options(backend=pool)(20, tmp_path) == list(range(20))
    assert "has said nothing for" in caplog.text
    assert "taken for lost; work" in caplog.text
    assert len(list(tmp_path.glob("0-*"))) == 2


def test_a_worker_of_a_given_cluster_that_is_stopped_is_taken_from_it(tmp_path: Path) -> None:
    from distributed import LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        backends.dask(cluster=cluster, worker_timeout_seconds=1.5) as pool,
    ):
        assert main.with_options(backend=pool)(20, tmp_path) == list(range(20))
        (stopped, *_) = (int(path.name.partition("-")[2]) for path in sorted(tmp_path.glob("0-*")))
        for path in tmp_path.glob("0-*"):
            # One of the two is stopped, and would never close.
            os.kill(int(path.name.partition("-")[2]), signal.SIGCONT)
        assert stopped


def test_workers_that_come_late_are_waited_for(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from distributed import LocalCluster

    from graphflow.backends.dask import workers

    monkeypatch.setattr(workers, "FIRST_WORD_SECONDS", 0.0)
    with LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0") as cluster:

        def scale() -> None:
            while "has no workers yet" not in caplog.text:
                time.sleep(0.01)
            cluster.scale(1)

        starting = threading.Thread(target=scale)
        starting.start()
        with backends.dask(cluster=cluster) as pool:
            assert main.with_options(backend=pool)(0, tmp_path) == []
        starting.join()


def test_the_wait_for_workers_is_bounded(wait_until: Callable[..., None], tmp_path: Path) -> None:
    from distributed import LocalCluster

    with (
        LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0") as cluster,
        pytest.raises(BackendError, match=r"has no workers.*wait_for_workers_seconds=0.2"),
    ):
        backends.dask(cluster=cluster, wait_for_workers_seconds=0.2).start()


@pytest.mark.parametrize("name", ["worker_timeout_seconds", "wait_for_workers_seconds"])
@pytest.mark.parametrize("seconds", [0, -1, "soon", True])
def test_seconds_that_are_none_are_refused(name: str, seconds: Any) -> None:
    with pytest.raises(BackendError, match=f"{name} is a number of seconds above 0"):
        backends.processes(**{name: seconds})
