"""What the process of a run prints, outside of tasks and by whatever it calls: lines of the run's log."""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from graphflow.graph.context import FlowContext
from graphflow.runner.capture import LogSink

__all__ = ["Output"]

JOIN_SECONDS = 2.0


class Output:
    """The two streams of a process that drives a run: shown as before, and kept in the run's log once it has one.

    What is written through Python is kept when it is written; what goes to the descriptors directly, by libraries in C and by
    processes that were started, is read by a thread.
    """

    def __init__(self) -> None:
        self._context: FlowContext | None = None
        self._early: list[tuple[int, str]] = []
        self._lock = threading.Lock()

    def attach(self, *, sink: LogSink, run_id: str, flow_name: str, run_name: str) -> None:
        """Keep lines in the log of a run from now on, those of before first."""
        context = FlowContext(
            run_id=run_id,
            flow_name=flow_name,
            run_name=run_name,
            parameters={},
            attempt=1,
            log_prints=False,
            sink=sink,
            backend=None,
        )
        with self._lock:
            self._context = context
            for level, text in self._early:
                sink.add(context, level, text, "output")
            self._early.clear()

    @contextmanager
    def installed(self, *, keeps_prints: bool = True) -> Iterator[None]:
        """Take both streams over until the end."""
        sys.stdout.flush()
        sys.stderr.flush()
        saved = os.dup(1), os.dup(2)
        streams = sys.stdout, sys.stderr
        readers = [self._pump(number, saved[number - 1]) for number in (1, 2)]
        shown = [open(os.dup(each), "w", buffering=1, errors="backslashreplace") for each in saved]  # noqa: SIM115
        sys.stdout, sys.stderr = (
            _Lines(self, stream, level) for stream, level in zip(shown, _LEVELS, strict=True)
        )
        logging.basicConfig(stream=shown[1], level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
        try:
            yield
        finally:
            for stream in (sys.stdout, sys.stderr):
                with suppress(Exception):
                    stream.flush()
            sys.stdout, sys.stderr = streams
            for number, descriptor in enumerate(saved, start=1):
                os.dup2(descriptor, number)
            for reader in readers:
                # A process that goes on holds the other end.
                reader.join(JOIN_SECONDS)

    def add(self, level: int, text: str) -> None:
        """Keep a line."""
        with self._lock:
            context = self._context
            if context is None:
                self._early.append((level, text))
            elif context.sink is not None:
                context.sink.add(context, level, text, "output")

    def _pump(self, number: int, shown: int) -> threading.Thread:
        read, write = os.pipe()
        os.dup2(write, number)
        os.close(write)

        def pump() -> None:
            with open(read, "rb", buffering=0) as source:
                rest = b""
                while data := source.read(65_536):
                    with suppress(OSError):
                        os.write(shown, data)
                    *lines, rest = (rest + data).split(b"\n")
                    for line in lines:
                        self.add(_LEVELS[number - 1], line.decode(errors="backslashreplace"))
                if rest:
                    self.add(_LEVELS[number - 1], rest.decode(errors="backslashreplace"))

        # No `Service`: it blocks until the stream ends, once.
        thread = threading.Thread(target=pump, name=f"graphflow-output-{number}", daemon=True)
        thread.start()
        return thread


_LEVELS = (logging.INFO, logging.WARNING)


class _Lines(io.TextIOBase):
    """A text stream that shows what is written, and keeps its lines."""

    def __init__(self, output: Output, shown: Any, level: int) -> None:
        self._output = output
        self._shown = shown
        self._level = level
        self._rest = ""
        self._guard = threading.Lock()

    def write(self, text: str) -> int:
        self._shown.write(text)
        with self._guard:
            *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._output.add(self._level, line)
        return len(text)

    def flush(self) -> None:
        self._shown.flush()

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return self._shown.fileno()  # type: ignore[no-any-return]

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"
