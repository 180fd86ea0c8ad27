"""Calls outside any flow: each thread has one recording for them, as long as futures of it live."""

from __future__ import annotations

import atexit
import logging
import threading
import weakref
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from graphflow.common import ids
from graphflow.driver.recorder import RunRecorder
from graphflow.errors import GraphflowError
from graphflow.graph.handles import Handle
from graphflow.graph.recording import RECORDER, Recorder
from graphflow.ports import Backend

if TYPE_CHECKING:
    from graphflow.driver.driver import Driver

__all__ = ["current_recorder", "keep_running"]

CLOSE_SECONDS = 5.0
logger = logging.getLogger("graphflow.outside")
_LOCAL = threading.local()
_kept: set[RunRecorder] = set()
_kept_lock = threading.Lock()


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
    weakref.finalize(recorder, _close, recorder.opened, backends, recorder.not_asked)
    return recorder


def keep_running(recorder: RunRecorder) -> None:
    """Keep what was submitted outside any flow, also if its futures are thrown away, until it has ended.

    The program does not end before.
    """
    if RECORDER.get() is not None:
        return
    with _kept_lock:
        if not _kept:
            # Registered anew whenever there is something, so that it is called before what is closed at exit.
            atexit.register(_finish)
        _kept.add(recorder)
    driver = recorder.driver
    driver.when(lambda: _has_ended(recorder), lambda: _let_go(recorder))


def _has_ended(recorder: RunRecorder) -> bool:
    return all(recorder.driver.outcomes.is_final(node) for node in list(recorder.by_id))


def _let_go(recorder: RunRecorder) -> None:
    with _kept_lock:
        _kept.discard(recorder)


def _finish() -> None:
    for recorder in list(_kept):
        driver = recorder.driver
        with suppress(GraphflowError):
            driver.wait(lambda driver=driver, recorder=recorder: _has_ended(recorder))  # type: ignore[misc]
        _let_go(recorder)


def _close(drivers: list[Driver], backends: list[Backend], not_asked: list[str]) -> None:
    if not_asked:
        count = len(not_asked)
        shown = ", ".join(not_asked[:5]) + (", ..." if count > 5 else "")
        logger.warning(
            "%d %s outside any flow never ran, because nothing asked for %s (%s): use .result() or .submit(), or call it in a flow",
            count,
            "call of a task" if count == 1 else "calls of tasks",
            "its value" if count == 1 else "their values",
            shown,
        )
    for driver in drivers:
        _tell_of_failures(driver)
        driver.close()
    for backend in backends:
        backend.close()


def _tell_of_failures(driver: Driver) -> None:
    """Log what failed and was handed to nothing."""
    is_up_to_date = threading.Event()
    driver.call(is_up_to_date.set)
    with suppress(GraphflowError):
        driver.wait(is_up_to_date.is_set, CLOSE_SECONDS)
    failed = [book.node.name for book in list(driver.core.books.values()) if book.unhandled()]
    if failed:
        logger.error(
            "%s failed outside any flow, and nothing asked: use .result() or .failures() to handle it",
            ", ".join(failed),
        )
