"""What Dask runs for us, as functions that are pickled by value: schedulers need nothing of graphflow's."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

from graphflow.errors import BackendError

__all__ = ["bootstrap", "check_facts", "installed_boot", "probe"]

_BOOT_SOURCE = """
def _graphflow_boot(payload, folder, topic, blocks, patience_seconds, surroundings):
    from distributed import get_worker
    from graphflow.runner.worker import Stored, run_payload
    import pickle
    worker = get_worker()
    columns = {}
    for block in blocks:
        columns.update(block.columns)
    def emit(data, kind="report"):
        worker.log_event(topic, {kind: data})
    data, kept = run_payload(
        payload, worker=worker.address, folder=folder, blocks=columns, emit=emit, patience_seconds=patience_seconds,
        surroundings=surroundings,
    )
    emit(data)
    return Stored(data, kept)
"""


def bootstrap() -> Callable[..., Any]:
    """Return the function that Dask runs; made so that it is pickled by value: the scheduler imports nothing of ours."""
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(_BOOT_SOURCE, "<graphflow bootstrap>", "exec"), space)
    boot: Callable[..., Any] = space["_graphflow_boot"]
    return boot


def installed_boot(*args: Any) -> Any:
    """Return the same for workers of a local cluster: pickled as a name, which costs less per batch."""
    return _kept_bootstrap()(*args)


@functools.cache
def _kept_bootstrap() -> Callable[..., Any]:
    return bootstrap()


_PROBE_SOURCE = """
def _graphflow_probe(path):
    import sys
    found = {"python": list(sys.version_info[:3])}
    try:
        import graphflow
        from importlib.metadata import version
        for name in ("graphflow", "cloudpickle", "distributed"):
            found[name] = version(name)
    except Exception as error:
        found["error"] = f"{type(error).__name__}: {error}"
    try:
        with open(path) as file:
            found["token"] = file.read()
    except OSError:
        found["token"] = None
    return found
"""


def probe() -> Callable[..., Any]:
    """Return a function of a path that returns a worker's versions, and the text of that file."""
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(_PROBE_SOURCE, "<graphflow probe>", "exec"), space)
    found: Callable[..., Any] = space["_graphflow_probe"]
    return found


def check_facts(worker: str, facts: Mapping[str, Any]) -> None:
    """Raise `BackendError` if what a worker has cannot run batches of this process."""
    if "error" in facts:
        raise BackendError(
            f"worker {worker} cannot run graphflow ({facts['error']}); install the same graphflow version there"
        )
    ours, theirs = list(sys.version_info[:2]), list(facts["python"][:2])
    if ours != theirs:
        raise BackendError(
            f"worker {worker} runs Python {'.'.join(map(str, theirs))}, this process {'.'.join(map(str, ours))}; "
            "functions travel as bytecode, which differs: use the same minor version"
        )
    for name, is_exact in (("graphflow", True), ("cloudpickle", False)):
        here, there = version(name), str(facts[name])
        if here != there if is_exact else here.split(".")[0] != there.split(".")[0]:
            raise BackendError(
                f"worker {worker} has {name} {there}, this process {here}; install the same "
                f"{'version' if is_exact else 'major version'}"
            )
