"""A driver that is to end lets what is under way end, and begins nothing more: the next one runs what is left."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from graphflow import flow, history, task

SECONDS = 60.0


@pytest.mark.parametrize("backend", ["inline", "threads:4"])
def test_a_drained_run_has_told_all_that_was_executed(backend: str, tmp_path: Any) -> None:
    executed, began, lock = list[int](), threading.Event(), threading.Lock()

    @task
    def work(i: int) -> int:
        with lock:
            executed.append(i)
            if len(executed) == 50:
                began.set()
        # Long enough that the run is not over before it is drained.
        threading.Event().wait(0.002)
        return i

    @flow(backend=backend)
    def wide(n: int) -> Any:
        return work.map(range(n))

    execution = wide._execution((20_000,), {})
    thread = threading.Thread(target=execution.execute, daemon=True)
    thread.start()
    assert began.wait(SECONDS)
    recorder = execution.record.recorder
    assert recorder.drain(SECONDS)
    with lock:
        known = len(executed)
    assert known < 20_000
    # Read as another process would: from what is durable.
    counts = history().run(execution.record.id).nodes["work"].counts
    assert counts["Completed"] == known
    assert recorder.drain(SECONDS)
    recorder.stop(hard=True)
    thread.join(SECONDS)
    assert len(executed) == known
