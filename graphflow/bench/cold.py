"""What a user's script costs from a cold process to its exit: `python cold.py PEER N SECONDS SLOTS`.

Run by its path, never as a module of the package: a peer's script must not pay for importing graphflow.
It maps `N` items of `SECONDS` CPU time, prints their sum and its peak memory, and ends.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

__all__ = ["SCRIPTS"]


def burn(seconds: float) -> int:
    """Use CPU time in this thread."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
    return 1


def peak_kilobytes() -> int:
    """Return the most resident memory of this process; 0 if the system does not report it."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            return int(status.read().partition("VmHWM:")[2].split(None, 1)[0])
    except OSError:
        return 0


def total(values: list[int]) -> int:
    """Return the reduce."""
    return sum(values)


def _graphflow(values: list[float], slots: int, *, backend: str | None) -> int:
    from graphflow import flow, task

    item, add = task(burn), task(total)

    @flow(backend=backend)
    def script() -> Any:
        return add(item.map(values)) if len(values) > 1 else item(values[0])

    return int(script())


def on_graphflow(values: list[float], slots: int) -> int:
    """On a local Dask cluster of worker processes."""
    return _graphflow(values, slots, backend=f"processes:{slots}")


def on_graphflow_default(values: list[float], slots: int) -> int:
    """On the default backend, which chooses its own slots."""
    return _graphflow(values, slots, backend=None)


def on_graphflow_inline(values: list[float], slots: int) -> int:
    """Run in the calling thread."""
    return _graphflow(values, slots, backend="inline")


def on_loop(values: list[float], slots: int) -> int:
    """Return a plain loop."""
    return sum(map(burn, values))


def on_pool(values: list[float], slots: int) -> int:
    """`multiprocessing.Pool`."""
    import multiprocessing

    with multiprocessing.Pool(slots) as pool:
        return sum(pool.map(burn, values))


def on_joblib(values: list[float], slots: int) -> int:
    """joblib with loky."""
    from joblib import Parallel, delayed

    return sum(Parallel(n_jobs=slots)(delayed(burn)(value) for value in values))


def on_client_map(values: list[float], slots: int) -> int:
    """Raw Dask."""
    from distributed import Client

    with Client(n_workers=slots, threads_per_worker=1, dashboard_address="127.0.0.1:0") as client:
        return sum(client.gather(client.map(burn, values, pure=False)))


def on_dask_bag(values: list[float], slots: int) -> int:
    """dask.bag on its default scheduler, processes."""
    import dask.bag

    return int(dask.bag.from_sequence(values).map(burn).sum().compute(num_workers=slots))


def on_dask_delayed(values: list[float], slots: int) -> int:
    """dask.delayed on the scheduler for processes."""
    import dask

    item = dask.delayed(burn, pure=False)
    return sum(dask.compute(*map(item, values), scheduler="processes", num_workers=slots))


def on_prefect(values: list[float], slots: int) -> int:
    """Prefect on its default task runner, threads."""
    import os
    import tempfile

    with tempfile.TemporaryDirectory(prefix="bench-prefect-", ignore_cleanup_errors=True) as folder:
        os.environ.update(
            PREFECT_HOME=folder,
            PREFECT_LOGGING_LEVEL="CRITICAL",
            PREFECT_SERVER_ANALYTICS_ENABLED="false",
            PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="120",
            DO_NOT_TRACK="1",
        )
        from prefect import flow, task
        from prefect.task_runners import ThreadPoolTaskRunner

        item = task(burn)

        def script() -> int:
            return sum(item.map(values).result()) if len(values) > 1 else int(item(values[0]))

        return int(flow(task_runner=ThreadPoolTaskRunner(max_workers=slots))(script)())


def on_ray(values: list[float], slots: int) -> int:
    """Ray."""
    import os

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    ray.init(num_cpus=slots, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    item = ray.remote(burn)
    return sum(ray.get([item.remote(value) for value in values]))


SCRIPTS: dict[str, Callable[[list[float], int], int]] = {
    "graphflow": on_graphflow,
    "graphflow-default": on_graphflow_default,
    "graphflow-inline": on_graphflow_inline,
    "loop": on_loop,
    "pool": on_pool,
    "joblib": on_joblib,
    "client.map": on_client_map,
    "dask.bag": on_dask_bag,
    "dask.delayed": on_dask_delayed,
    "prefect": on_prefect,
    "ray": on_ray,
}

if __name__ == "__main__":
    _, peer, n, seconds, slots = sys.argv
    outcome = SCRIPTS[peer]([float(seconds)] * int(n), int(slots))
    sys.stdout.write(f"{outcome} {peak_kilobytes()}\n")
