"""Runs of a script: `python flow.py` shows on stderr what `graphflow run` does.

A run is drawn live once it is older than a moment. One that completes before that is told in one line, and of many such at most one line a
second is printed. Where stderr is no terminal, a line per node is printed every 10 s, and nothing of runs that end
before. A failed run ends with its failures in groups and what to type next.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any

from graphflow.common import settings
from graphflow.common.escaping import printable
from graphflow.common.service import Service
from graphflow.display.next_steps import counted_failures, next_steps
from graphflow.display.printing import Printing
from graphflow.display.tracebacks import whole_text
from graphflow.errors import GraphflowError
from graphflow.graph.context import RUNNING

if TYPE_CHECKING:
    from graphflow.display.notebook import NotebookArea
    from graphflow.display.progress import Progress
    from graphflow.runs.run import Run

__all__ = ["ScriptDisplay", "display", "runs_in_caller", "shown_elsewhere"]

logger = logging.getLogger("graphflow.display")
LIVE_SECONDS = 0.4
"""The age from which a run is drawn."""
PLAIN_SECONDS = 10.0
QUICK_SECONDS = 1.0
"""Of runs that end at once, at most one line is printed in this time."""
_REFRESH_SECONDS = 0.1
_IDLE_SECONDS = 2.0
_JUST_SECONDS = 2.0
_ELSEWHERE: ContextVar[bool] = ContextVar("graphflow_shown_elsewhere", default=False)


@contextmanager
def shown_elsewhere() -> Iterator[None]:
    """Show no runs that are begun in this block: the caller does, or nobody is to."""
    token = _ELSEWHERE.set(True)
    try:
        yield
    finally:
        _ELSEWHERE.reset(token)


class ScriptDisplay:
    """Shows the runs of this process, one at a time as a table."""

    def __init__(self) -> None:
        self.begun = 0
        """How many runs have begun in this process, shown or not."""
        self._lock = threading.RLock()
        self._runs: dict[Run, tuple[str, float]] = {}
        """Those that go on, with how they are shown and since when."""
        self._failed: weakref.WeakSet[Run] = weakref.WeakSet()
        self._untold_failed: weakref.WeakSet[Run] = weakref.WeakSet()
        """Those of `_failed` whose end was not shown."""
        self._printing = Printing()
        self._drawn: tuple[Run, Progress] | None = None
        self._areas: dict[int, NotebookArea] = {}
        self._shown_in: dict[Run, NotebookArea] = {}
        self._told_at = -QUICK_SECONDS
        self._untold = 0
        self._idle_since = 0.0
        self._service = Service(self._turn, name="graphflow-display", interval=_REFRESH_SECONDS)

    def mode(self, backend: object = None) -> str:
        """Return how a run that begins here is shown: `live`, `lines`, `end`, `plain`, `notebook`, `quiet` or `off`.

        With `end` only its end is: a debugger in a task that runs inline needs the terminal for itself.
        """
        self.begun += 1
        if _ELSEWHERE.get() or RUNNING.get() is not None or _is_child():
            return "off"
        asked = settings.progress()
        if asked in ("auto", "live") and "IPython" in sys.modules:
            # Only what a notebook needs is loaded by it.
            from graphflow.display.notebook import cell_of_kernel

            if cell_of_kernel() is not None:
                return "notebook"
        is_silent = "pytest" in sys.modules or sys.stderr is None
        if asked in ("auto", "off") and is_silent:
            return "off"
        if asked != "auto":
            # Lines that were asked for are not as sparse as those that nobody may read.
            return {"plain": "lines", "off": "quiet"}.get(asked, asked)
        is_capable = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        if not is_capable:
            return "plain"
        return "end" if runs_in_caller(backend or settings.backend()) else "live"

    def begin(self, run: Run, mode: str) -> None:
        """Show a run from now on. What cannot be shown fails no run."""
        if mode == "off":
            return
        try:
            self._begin(run, mode)
        except Exception:
            logger.debug("run %s cannot be shown", run.id, exc_info=True)

    def _begin(self, run: Run, mode: str) -> None:
        with self._lock:
            if mode != "quiet" and not self._runs:
                self._printing.install()
            if mode == "notebook":
                self._begin_in_notebook(run)
            self._runs[run] = mode, time.monotonic()
            if sys.excepthook is sys.__excepthook__:
                sys.excepthook = self._uncaught
        if mode != "quiet":
            self._service.start()

    def end(self, run: Run) -> None:
        """Show how a run ended. What cannot be shown fails no run."""
        try:
            self._end(run)
        except Exception:
            logger.debug("the end of run %s cannot be shown", run.id, exc_info=True)

    def _end(self, run: Run) -> None:
        with self._lock:
            mode, since = self._runs.pop(run, ("off", 0.0))
            if mode == "off":
                return
            was_drawn = self._drawn is not None and self._drawn[0] is run
            if was_drawn:
                self._stop_drawing()
            if not self._runs:
                self._printing.remove()
                self._idle_since = time.monotonic()
            if mode == "notebook":
                self._end_in_notebook(run)
                return
            if run.exception is not None:
                self._failed.add(run)
                if mode != "quiet" or run.state.is_cancelled():
                    self._untold_failed.add(run)
            if mode == "quiet":
                return
            if was_drawn or time.monotonic() - since >= (PLAIN_SECONDS if mode == "plain" else LIVE_SECONDS):
                self._show_end(run, with_table=True)
            elif mode != "plain":
                self._tell_quick(run)

    # -- while a run goes on ------------------------------------------------------------------------------------

    def _turn(self) -> float:
        begun = time.monotonic()
        self._draw()
        # Drawing thousands of nodes takes a small share of the time all the same.
        return max(_REFRESH_SECONDS, 20 * (time.monotonic() - begun))

    def _draw(self) -> None:
        from graphflow.display.meter import rows_of

        with self._lock:
            for area in list(self._areas.values()):
                area.update()
            if not self._runs and not any(area.is_stale for area in self._areas.values()):
                if time.monotonic() - self._idle_since > _IDLE_SECONDS:
                    self._service.stop()
                return
            if self._drawn is None and self._runs:
                self._begin_drawing()
            if self._drawn is not None:
                run, progress = self._drawn
                progress.show(rows_of(run, self._meter), now=time.time())

    def _begin_drawing(self) -> None:
        run, (mode, since) = next(iter(self._runs.items()))
        if mode not in ("live", "lines", "plain"):
            return
        if time.monotonic() - since < (PLAIN_SECONDS if mode == "plain" else LIVE_SECONDS):
            return
        # A run that ends before this moment loads no tables.
        from graphflow.display.consoles import make_console
        from graphflow.display.meter import Meter
        from graphflow.display.progress import LiveProgress, PlainProgress

        self._meter = Meter()
        console = make_console(stream=self._stderr())
        progress = (
            LiveProgress(console) if mode == "live" else PlainProgress(console, is_sparse=mode == "plain")
        )
        progress.start()
        self._drawn = run, progress
        if mode == "live":
            self._printing.above = progress
            self._printing.take_logging()

    def _stop_drawing(self) -> None:
        assert self._drawn is not None
        _, progress = self._drawn
        self._drawn = self._printing.above = None
        progress.stop([], now=time.time())

    def _begin_in_notebook(self, run: Run) -> None:
        from graphflow.display.notebook import NotebookArea, cell_of_kernel

        cell = cell_of_kernel() or 0
        if cell not in self._areas:
            # Earlier cells are drawn as long as their runs go on.
            kept = {area.cell for area in self._shown_in.values()}
            self._areas = {number: area for number, area in self._areas.items() if number in kept}
            self._areas[cell] = NotebookArea(cell)
        self._shown_in[run] = self._areas[cell]
        self._areas[cell].begin(run)

    def _end_in_notebook(self, run: Run) -> None:
        from graphflow.model.html import element

        steps = [element("pre", line.strip()) for line in next_steps(run)]
        self._shown_in.pop(run).end(run, steps)

    # -- at its end -------------------------------------------------------------------------------------------

    def _tell_quick(self, run: Run) -> None:
        now = time.monotonic()
        if now - self._told_at < QUICK_SECONDS:
            self._untold += 1
            return
        if run.state.is_completed():
            seconds = run.seconds or 0.0
            others = f", after {self._untold:,} more" if self._untold else ""
            failed = counted_failures(run)
            hint = f"; {failed}: graphflow runs failures {run.id}" if failed else ""
            text = f"{run.flow_name}  run {run.id}  {run.state.name}  {seconds:.2f} s{others}{hint}"
            print(printable(text), file=self._stderr())
        else:
            self._show_end(run, with_table=False)
        self._told_at, self._untold = time.monotonic(), 0

    def _show_end(self, run: Run, *, with_table: bool) -> None:
        from graphflow.display.consoles import make_console
        from graphflow.display.meter import Meter, rows_of
        from graphflow.display.summary import show_end

        console = make_console(stream=self._stderr())
        rows = rows_of(run, Meter(), counts_retries=True) if with_table else []
        show_end(run, rows, console, is_verbose=settings.tracebacks() == "full")
        self._untold_failed.discard(run)

    def _stderr(self) -> Any:
        """Return the stream itself, also while it is taken."""
        return getattr(sys.stderr, "stream", sys.stderr)

    def _uncaught(
        self, kind: type[BaseException], error: BaseException, frames: TracebackType | None
    ) -> None:
        """Print what ends the program, without graphflow's own frames; anything else as Python does."""
        try:
            self._print_uncaught(error)
        except Exception:
            sys.__excepthook__(kind, error, frames)

    def _print_uncaught(self, error: BaseException) -> None:
        run = next((each for each in list(self._failed) if each.exception is error), None)
        if run is None and isinstance(error, KeyboardInterrupt):
            # asyncio cancels its main task after Ctrl-C, and raises this then.
            run = max(
                (each for each in list(self._failed) if each.state.is_cancelled() and _has_just_ended(each)),
                key=lambda each: each.id,
                default=None,
            )
        if settings.tracebacks() == "full" or (run is None and not isinstance(error, GraphflowError)):
            sys.__excepthook__(type(error), error, error.__traceback__)
            if run is not None:
                self._print_next_steps(run)
            return
        if not isinstance(error, KeyboardInterrupt):
            print(whole_text(error), file=sys.stderr)
        if run is not None:
            self._print_next_steps(run)

    def _print_next_steps(self, run: Run) -> None:
        """Print them, and the failures, if the end of the run did not."""
        if run not in self._untold_failed:
            return
        if run.state.is_cancelled():
            print(f"run {run.id} was interrupted", file=sys.stderr)
            for line in next_steps(run):
                print(line, file=sys.stderr)
            return
        self._show_end(run, with_table=False)


def _has_just_ended(run: Run) -> bool:
    return run.ended is not None and time.time() - run.ended.timestamp() < _JUST_SECONDS


def runs_in_caller(backend: object) -> bool:
    """Return whether tasks on this backend, or on one of this name, run in the calling thread."""
    return bool(getattr(backend, "runs_in_caller", backend == "inline"))


def _is_child() -> bool:
    """Return whether `multiprocessing` started this process; it is loaded there."""
    multiprocessing = sys.modules.get("multiprocessing")
    return multiprocessing is not None and multiprocessing.parent_process() is not None


display = ScriptDisplay()
"""That of this process."""
