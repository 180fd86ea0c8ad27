"""What user code prints while a run is shown: in whole lines, with their item on a terminal, above a live table."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Iterator
from typing import Any, Protocol

from graphflow.common.escaping import printable
from graphflow.graph.context import TaskContext
from graphflow.runner.printing import Line, LineStream, last_of

__all__ = ["PrintsTexts", "Printing"]


class PrintsTexts(Protocol):
    """Prints lines above a live table."""

    def print_text(self, text: str, *, label: str = "") -> None: ...


class Printing:
    """Stands between `sys.stdout` and `sys.stderr` and their users while runs are shown.

    Parameters
    ----------
    is_quiet
        Whether lines that tasks print to `sys.stdout` are dropped.
    """

    def __init__(self, *, is_quiet: bool = False) -> None:
        self.above: PrintsTexts | None = None
        """The live table; lines for a terminal are printed above it."""
        self._is_quiet = is_quiet
        self._lock = threading.RLock()
        self._streams: dict[str, tuple[Any, LineStream]] = {}
        self._handlers: list[tuple[logging.StreamHandler[Any], Any]] = []

    def install(self) -> None:
        """Take the streams; do nothing if they are taken."""
        with self._lock:
            for name in ("stdout", "stderr"):
                stream = getattr(sys, name)
                if name not in self._streams and stream is not None and not isinstance(stream, LineStream):
                    taken = self._taken(stream, is_error=name == "stderr")
                    self._streams[name] = stream, taken
                    setattr(sys, name, taken)

    def take_logging(self) -> None:
        """Let logging handlers that write to a taken stream write lines too: they would tear a live table."""
        with self._lock:
            taken = {id(stream): its for stream, its in self._streams.values()}
            known = [logging.root, *logging.root.manager.loggerDict.values()]
            for handler in [each for logger in known for each in getattr(logger, "handlers", ())]:
                stream = getattr(handler, "stream", None)
                if isinstance(handler, logging.StreamHandler) and id(stream) in taken:
                    handler.setStream(taken[id(stream)])
                    self._handlers.append((handler, stream))

    def remove(self) -> None:
        """Give the streams back."""
        with self._lock:
            for handler, before in self._handlers:
                if isinstance(handler.stream, LineStream):
                    handler.setStream(before)
            self._handlers.clear()
            for name, (stream, taken) in self._streams.items():
                taken.finish()
                if getattr(sys, name) is taken:
                    setattr(sys, name, stream)
            self._streams.clear()

    @contextlib.contextmanager
    def installed(self) -> Iterator[Printing]:
        """Take the streams for the time of a block."""
        self.install()
        if self.above is not None:
            self.take_logging()
        try:
            yield self
        finally:
            self.remove()

    def _taken(self, stream: Any, *, is_error: bool) -> LineStream:
        is_terminal = _is_terminal(stream)

        def pass_on(line: Line, context: TaskContext | None) -> None:
            if self._is_quiet and not line.is_error:
                return
            self._print(stream, line.text, label=line.label if is_terminal else "")

        def pass_plainly(text: str) -> None:
            if self.above is not None and is_terminal:
                shown = "\n".join(map(last_of, text.removesuffix("\n").split("\n")))
                if shown or text.endswith("\n"):
                    self.above.print_text(shown)
            else:
                stream.write(text)

        def shows_prompts() -> bool:
            return self.above is None and is_terminal and _is_terminal(sys.stdin)

        return LineStream(stream, pass_on, pass_plainly, is_error=is_error, shows_prompts=shows_prompts)

    def _print(self, stream: Any, text: str, *, label: str) -> None:
        if self.above is not None and _is_terminal(stream):
            self.above.print_text(text, label=label)
            return
        stream.write(f"{printable(label)}  {text}\n" if label else text + "\n")
        if label:
            stream.flush()


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):
        return False
