"""Calls outside any flow: each thread has one recording for them, as long as futures of it live."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING

from graphflow.common import ids
from graphflow.driver.recorder import RunRecorder
from graphflow.graph.recording import RECORDER, Handle, Recorder
from graphflow.ports import Backend

if TYPE_CHECKING:
    from graphflow.driver.driver import Driver

__all__ = ["current_recorder"]

_LOCAL = threading.local()


def current_recorder(values: Iterable[object]) -> Recorder:
    """Return the recording that a call with these arguments belongs to."""
    recorder = RECORDER.get()
    if recorder is not None:
        return recorder
    for value in values:
        if isinstance(value, Handle) and isinstance(value._recorder, RunRecorder):
            return value._recorder
    kept = getattr(_LOCAL, "recorder", None)
    found: Recorder | None = kept() if kept is not None else None
    if found is None:
        found = _new_recorder()
        _LOCAL.recorder = weakref.ref(found)
    return found


def _new_recorder() -> RunRecorder:
    """Return a recording whose driver and backend are closed once nothing refers to it."""
    backends: list[Backend] = []

    def make() -> Backend:
        from graphflow.backends import resolve

        backend, _ = resolve(None)
        backends.append(backend)
        return backend

    recorder = RunRecorder(flow_name="outside", run_id=ids.run_id(), make_backend=make)
    weakref.finalize(recorder, _close, recorder.opened, backends)
    return recorder


def _close(drivers: list[Driver], backends: list[Backend]) -> None:
    for driver in drivers:
        driver.close()
    for backend in backends:
        backend.close()
