"""Run a command in a process of its own: watch its memory, stop it after a time, leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil  # distributed brings it

from graphflow.bench.probes import rss_of_tree
from graphflow.common.service import Service

__all__ = ["Ended", "run_isolated"]

_LOOK_SECONDS = 0.5
_GRACE_SECONDS = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a command ended; CPU seconds are those of all its processes that were waited for."""

    code: int
    is_timeout: bool
    seconds: float
    cpu_seconds: float
    tree_peak_rss_bytes: int
    out: str
    err: str

    @property
    def last_words(self) -> str:
        """The last line of stderr."""
        lines = [line.strip() for line in self.err.splitlines() if line.strip()]
        return lines[-1][:300] if lines else ""


def run_isolated(command: Sequence[str], *, timeout_seconds: float) -> Ended:
    """Run to the end, or until the time is over; then the process and its descendants are killed."""
    # Files, not pipes: a descendant that outlives the process must not keep its reader waiting.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        begin = time.perf_counter()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
        )
        watch = _Watch(process.pid, timeout_seconds)
        try:
            _, status, used = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - begin
            process.returncode = os.waitstatus_to_exitcode(status)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        finally:
            watch.end()
        out.seek(0)
        err.seek(0)
        return Ended(
            code=process.returncode,
            is_timeout=watch.is_timeout,
            seconds=seconds,
            cpu_seconds=used.ru_utime + used.ru_stime,
            tree_peak_rss_bytes=watch.tree_peak,
            out=out.read().decode(errors="replace"),
            err=err.read().decode(errors="replace"),
        )


class _Watch:
    """Looks at a process and its descendants, and kills them when their time is over."""

    def __init__(self, pid: int, timeout_seconds: float) -> None:
        self.tree_peak = 0
        self.is_timeout = False
        self._root = psutil.Process(pid)
        self._deadline = time.monotonic() + timeout_seconds
        self._family: set[psutil.Process] = set()
        self._service = Service(self._look, name="bench-watch", interval=self._pause)
        self._service.start()

    def _pause(self) -> float:
        return min(_LOOK_SECONDS, self._deadline - time.monotonic())

    def _look(self) -> None:
        self.tree_peak = max(self.tree_peak, rss_of_tree(self._root.pid))
        with suppress(psutil.Error):
            self._family.update(self._root.children(recursive=True))
        if time.monotonic() >= self._deadline:
            self.is_timeout = True
            _kill([self._root, *self._family])
            self._service.stop()

    def end(self) -> None:
        """Stop looking; descendants that are still there get a moment to end by themselves."""
        self._service.stop()
        _, alive = psutil.wait_procs(list(self._family), timeout=_GRACE_SECONDS)
        _kill(alive)


def _kill(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        # psutil knows a process by its start time too: a number that was given anew is left alone.
        with suppress(psutil.Error):
            process.kill()
