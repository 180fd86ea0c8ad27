"""Following a run from another terminal: its table, or its log, until it ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.console import Console

from graphflow.cli.exits import ExitCode
from graphflow.display.meter import Meter
from graphflow.display.progress import Progress
from graphflow.display.summary import show_end

if TYPE_CHECKING:
    from graphflow.model.reports import LogRecord
    from graphflow.runs.recorded import RecordedRun

__all__ = ["exit_code_of", "follow_log", "watch_run"]

REFRESH_SECONDS = 0.25


def exit_code_of(run: RecordedRun) -> ExitCode:
    """Return the exit code for a run's state: 0 if it completed."""
    return ExitCode.COMPLETED if run.state.is_completed() else ExitCode.FAILED


def watch_run(run: RecordedRun, progress: Progress, console: Console, *, is_quiet: bool = False) -> ExitCode:
    """Show a run's progress until it ends, then its summary, and return its exit code."""
    meter = Meter()
    if not run.is_over:
        progress.start()
        said = ""
        try:
            while not run.is_over:
                progress.show(meter.read(run.nodes, now=time.time()), now=time.time())
                if run.state_name != said and run.state_name in ("Paused", "Cancelling"):
                    progress.say(f"the run is {run.state_name}")
                said = run.state_name
                _pause()
                run.refresh()
        finally:
            progress.stop(meter.read(run.nodes, now=time.time()), now=time.time())
    if not is_quiet:
        show_end(run, Meter().read(run.nodes, now=time.time(), counts_retries=True), console)
    return exit_code_of(run)


def follow_log(
    run: RecordedRun, choose: Callable[[int], list[LogRecord]], write: Callable[[LogRecord], None]
) -> None:
    """Print lines as they are recorded, until the run ends. `choose` returns the lines after a number of them."""
    seen = 0
    while True:
        # Asked before the lines are read: what is recorded until then is not missed.
        is_over = run.is_over
        total = len(run.logs)
        for line in choose(seen):
            write(line)
        seen = total
        if is_over:
            return
        _pause()
        run.refresh()


def _pause() -> None:
    threading.Event().wait(REFRESH_SECONDS)
