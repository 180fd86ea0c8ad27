"""Pausing a run from its flow's body."""

from __future__ import annotations

from graphflow.common.waiting import check_timeout
from graphflow.driver.recorder import RunRecorder
from graphflow.errors import GraphflowError
from graphflow.graph.context import RUNNING
from graphflow.graph.recording import RECORDER

__all__ = ["pause_run"]


def pause_run(timeout: float | None = None) -> None:
    """Pause this run, and wait until it is resumed (`graphflow runs resume`, `run.resume()`).

    Running tasks finish; no slot is held meanwhile. In an async flow, `await asyncio.to_thread(pause_run)`.

    Parameters
    ----------
    timeout
        Seconds after which the run continues and this raises.

    Raises
    ------
    TimeoutError
        If it was not resumed in time.
    RunCancelled
        If it was cancelled meanwhile.
    GraphflowError
        Outside a flow's body.
    """
    check_timeout(timeout)
    recorder = RECORDER.get()
    if RUNNING.get() is not None or not isinstance(recorder, RunRecorder) or recorder.pause_here is None:
        raise GraphflowError(
            "pause_run() was called outside a flow's body; in a task, raise Pause() to pause that task run"
        )
    recorder.pause_here(timeout)
