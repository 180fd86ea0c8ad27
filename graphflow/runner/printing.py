"""What tasks print, in whole lines: lines of several threads never mix, and each knows its item.

`LineStream` stands in place of `sys.stdout` or `sys.stderr`, in the process of a run while that runs, and in worker processes,
which send their lines to the run's process.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from graphflow.common.secrets import mask
from graphflow.graph.context import RUNNING, TaskContext

__all__ = ["Line", "LineStream", "last_of", "print_lines"]

_MAX_OPEN = 64 << 10
"""Characters of a line that are kept while its end is awaited."""


class Line(NamedTuple):
    """A line that was printed, without its end; `label` is the item's, such as `fetch[17]`, or empty outside tasks."""

    label: str
    text: str
    is_error: bool


class LineStream:
    """A text stream that passes whole lines on.

    What is no text, such as `fileno` and `buffer`, is the stream's that this stands for.

    Parameters
    ----------
    stream
        What this stands for.
    pass_on
        Called with each line that a task printed, and its context; one call at a time.
    pass_plainly
        Called with texts that were printed outside tasks: whole lines, or what was flushed before the line's end. By
        default these are written to `stream`.
    shows_prompts
        Whether what a task flushes before its line's end is passed on at once: a debugger's prompt.
    """

    def __init__(
        self,
        stream: Any,
        pass_on: Callable[[Line, TaskContext | None], None],
        pass_plainly: Callable[[str], None] | None = None,
        *,
        is_error: bool,
        shows_prompts: Callable[[], bool] = lambda: False,
    ) -> None:
        self.stream = stream
        self._pass_on = pass_on
        self._pass_plainly = pass_plainly or self._write
        self._is_error = is_error
        self._shows_prompts = shows_prompts
        self._lock = threading.RLock()
        self._open: dict[int, tuple[str, str, TaskContext | None]] = {}
        self._is_over = False
        _streams.add(self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Pass the lines on that are whole; keep the rest until its end comes, or another item prints in this thread."""
        if self._is_over or not isinstance(text, str):
            return int(self.stream.write(text))
        context = RUNNING.get()
        label = "" if context is None else _label(context)
        thread = threading.get_ident()
        with self._lock:
            before, kept, its = self._open.pop(thread, ("", "", None))
            if kept and before != label:
                self._end(before, kept, its)
                kept = ""
            whole, end, rest = (kept + text).rpartition("\n")
            if end:
                if label:
                    for line in whole.split("\n"):
                        self._pass_on(Line(label, mask(last_of(line)), self._is_error), context)
                else:
                    self._pass_plainly(mask(whole + end))
            if label:
                rest = last_of(rest)
            if len(rest) > _MAX_OPEN:
                self._end(label, rest, context)
            elif rest:
                self._open[thread] = (label, rest, context)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each."""
        for each in lines:
            self.write(each)

    def flush(self) -> None:
        """Pass on what this thread printed outside tasks, and flush the stream; a task's line waits for its end, but for prompts."""
        with self._lock:
            label, kept, _ = self._open.get(threading.get_ident(), ("", "", None))
            if kept and (not label or self._shows_prompts()):
                del self._open[threading.get_ident()]
                self._pass_plainly(mask(kept))
        self.stream.flush()

    def show(self, line: Line) -> None:
        """Pass on a line that came from another process."""
        with self._lock:
            self._pass_on(line, None)

    def end_line(self) -> None:
        """Pass on this thread's line, though it has no end."""
        with self._lock:
            label, kept, context = self._open.pop(threading.get_ident(), ("", "", None))
            if kept:
                self._end(label, kept, context)

    def finish(self) -> None:
        """Pass on all lines without an end, and be the stream itself from now on."""
        with self._lock:
            self._is_over = True
            for label, kept, context in list(self._open.values()):
                self._end(label, kept, context)
            self._open.clear()

    def _end(self, label: str, text: str, context: TaskContext | None) -> None:
        if label:
            self._pass_on(Line(label, mask(text), self._is_error), context)
        else:
            self._pass_plainly(mask(text))

    def _write(self, text: str) -> None:
        self.stream.write(text)

    def _forget_threads(self) -> None:
        """Be the stream itself in a fork, which has no one to pass lines on to, and none of the threads that may hold the lock."""
        self._lock = threading.RLock()
        self._open = {}
        self._is_over = True


_streams: weakref.WeakSet[LineStream] = weakref.WeakSet()


def _begin_anew() -> None:
    for stream in list(_streams):
        stream._forget_threads()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


def last_of(line: str) -> str:
    """Return what a terminal shows of a line that was written over, as a progress bar does."""
    return line.rstrip("\r").rpartition("\r")[2] if "\r" in line else line


def _label(context: TaskContext) -> str:
    if context.map_index is not None:
        return f"{context.node}[{context.map_index}]"
    indices = context.map_indices
    return f"{context.node}[{indices[0]}-{indices[-1]}]" if len(indices) > 1 else context.node


def print_lines(lines: Iterable[tuple[str, str, bool]]) -> None:
    """Print lines that tasks printed in another process."""
    for each in lines:
        line = Line(*each)
        stream = sys.stderr if line.is_error else sys.stdout
        if isinstance(stream, LineStream):
            stream.show(line)
        elif stream is not None:
            stream.write(line.text + "\n")
