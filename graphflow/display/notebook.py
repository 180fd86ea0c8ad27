"""Runs in a notebook: one display per cell, updated at most twice a second while its runs go on.

IPython is used only where it is loaded and a kernel runs; what is shown is plain HTML, so no extension is needed.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from graphflow.model.html import Markup, box, element
from graphflow.runs.html import run_parts

if TYPE_CHECKING:
    from graphflow.runs.run import Run

__all__ = ["NotebookArea", "cell_of_kernel"]

UPDATE_SECONDS = 0.5
_MOST_SHOWN = 5


def cell_of_kernel() -> int | None:
    """Return the number of the cell that is executed; None where no notebook kernel runs."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is None or getattr(shell, "kernel", None) is None:
        return None
    return int(shell.execution_count)


class NotebookArea:
    """What one cell shows of its runs: those that go on, and the last that have ended."""

    def __init__(self, cell: int) -> None:
        self.cell = cell
        self._handle: Any = None
        self._going: list[Run] = []
        self._ended: deque[list[Markup]] = deque(maxlen=_MOST_SHOWN)
        self._count = 0
        self._updated_at = 0.0
        self._is_stale = False

    def begin(self, run: Run) -> None:
        """Show a run that begins; called where the cell runs, so that its output is the cell's."""
        self._going.append(run)
        self._is_stale = True
        if self._handle is None:
            from IPython import get_ipython
            from IPython.display import HTML, display

            get_ipython().events.register("post_run_cell", self._cell_ended)
            self._handle = display(HTML(self._page()), display_id=True)
            self._updated_at = time.monotonic()

    def end(self, run: Run, more: list[Markup]) -> None:
        """Show how a run ended, with what is to be typed next."""
        self._going.remove(run)
        self._ended.append([*run_parts(run), *more])
        self._count += 1
        self._is_stale = True
        self.update()

    def update(self, *, is_last: bool = False) -> None:
        """Draw what has changed, unless that was done a moment ago; `is_last` where the cell ends."""
        is_due = is_last or time.monotonic() - self._updated_at >= UPDATE_SECONDS
        if self._handle is None or not is_due or not (self._going or self._is_stale):
            return
        from IPython.display import HTML

        self._handle.update(HTML(self._page()))
        self._updated_at = time.monotonic()
        self._is_stale = False

    def _cell_ended(self, *_: object) -> None:
        from IPython import get_ipython

        get_ipython().events.unregister("post_run_cell", self._cell_ended)
        self.update(is_last=True)

    @property
    def is_stale(self) -> bool:
        """Whether something ended that is not drawn yet."""
        return self._is_stale and not self._going

    def _page(self) -> str:
        parts: list[Markup] = []
        left_out = self._count - len(self._ended)
        if left_out:
            parts.append(element("div", f"{left_out:,} earlier runs", class_="m"))
        for each in self._ended:
            parts += each
        for run in self._going[:_MOST_SHOWN]:
            parts += run_parts(run)
        return box(*parts)
