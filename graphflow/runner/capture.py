"""Logs and prints of tasks, kept per item: with run, node, index and attempt, bounded in size."""

from __future__ import annotations

import builtins
import logging
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from graphflow.common.secrets import are_known, mask, scrub
from graphflow.graph.context import FLOW, RUNNING, FlowContext, TaskContext
from graphflow.model.reports import LogRecord
from graphflow.runner.printing import Line

__all__ = ["LogSink", "echo", "capture_logging", "capture_prints"]

MAX_LINES_PER_SINK = 10_000
MAX_LINE = 8_192
_lock = threading.Lock()
_installed: set[str] = set()


class LogSink:
    """The log of one batch, or of one flow body; keeps the first lines and counts what it drops."""

    def __init__(
        self,
        *,
        worker: str = "",
        tell: Callable[[Line], None] | None = None,
        max_lines: int = MAX_LINES_PER_SINK,
    ) -> None:
        self.records: list[LogRecord] = []
        self.dropped = 0
        self.tell = tell
        """Sends a printed line to the run's process, where this is another one."""
        self._worker = worker
        self._max_lines = max_lines
        self._taken = 0
        self._dropped_taken = 0

    def take(self) -> tuple[list[LogRecord], int]:
        """Return the lines since the last call, and how many were dropped since."""
        # Another thread may be adding lines at the end.
        count, dropped = len(self.records), self.dropped
        lines = self.records[:count]
        del self.records[:count]
        self._taken += count
        before, self._dropped_taken = self._dropped_taken, dropped
        return lines, dropped - before

    def add(self, context: TaskContext | FlowContext, level: int, message: str, logger: str) -> None:
        """Keep a line."""
        if self._taken + len(self.records) >= self._max_lines:
            self.dropped += 1
            return
        message = mask(message)
        if len(message) > MAX_LINE:
            message = f"{message[:MAX_LINE]}... ({len(message)} characters)"
        is_task = isinstance(context, TaskContext)
        self.records.append(
            LogRecord(
                timestamp=time.time(),
                level=level,
                message=message,
                logger=logger,
                node=context.node if is_task else "",  # type: ignore[union-attr]
                index=context.map_index if is_task else None,  # type: ignore[union-attr]
                attempt=context.attempt,
                worker=self._worker,
                run_id=context.run_id,
            )
        )


def _current() -> TaskContext | FlowContext | None:
    return RUNNING.get() or FLOW.get()


def capture_logging() -> None:
    """Route records of the standard library's loggers to the log of the item that emits them.

    A record factory is wrapped, once per process; no handler or level is touched. Only what is sent to another process, whose
    loggers get it, is kept from the handler of last resort: it would be shown twice.
    """
    with _lock:
        if "logging" in _installed:
            return
        _installed.add("logging")
        make = logging.getLogRecordFactory()

        def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
            record = make(*args, **kwargs)
            context = _current()
            if context is not None and are_known():
                _mask_record(record)
            if (
                context is not None
                and context.sink is not None
                and not str(record.name).startswith("distributed")
            ):
                try:
                    message = record.getMessage()
                except Exception:
                    message = str(record.msg)
                context.sink.add(context, record.levelno, message, str(record.name))
            return record

        logging.setLogRecordFactory(factory)
        if logging.lastResort is not None:
            logging.lastResort.addFilter(_is_shown_here)


def _is_shown_here(record: logging.LogRecord) -> bool:
    context = _current()
    if context is None or context.sink is None or record.name.startswith("distributed"):
        return True
    return context.sink.tell is None


def _mask_record(record: logging.LogRecord) -> None:
    """Mask secrets in a record, for all handlers."""
    try:
        message = record.getMessage()
    except Exception:
        message = str(record.msg)
    found = mask(message)
    if found != message:
        record.msg, record.args = found, ()
    if record.exc_info and record.exc_info[1] is not None:
        scrub(record.exc_info[1])
        record.exc_text = mask(logging.Formatter().formatException(record.exc_info))


def capture_prints() -> None:
    """Route `print` to the log of an item with `log_prints`, and mask secrets in it; installed once per process."""
    with _lock:
        if "print" in _installed:
            return
        _installed.add("print")
        plain = builtins.print

        def tee(*args: Any, **kwargs: Any) -> None:
            context = _current()
            if context is not None and are_known() and kwargs.get("file") in (None, sys.stdout, sys.stderr):
                args = tuple(mask(str(each)) for each in args)
            if (
                context is None
                or not context.log_prints
                or context.sink is None
                or kwargs.get("file") not in (None, sys.stdout)
            ):
                plain(*args, **kwargs)
                return
            separator = kwargs.get("sep")
            text = (" " if separator is None else separator).join(str(each) for each in args)
            context.sink.add(context, logging.INFO, text, "print")
            plain(*args, **kwargs)

        builtins.print = tee


def echo(records: Sequence[LogRecord]) -> None:
    """Pass a worker's log lines on to this process's loggers; what was printed has come by itself."""
    for record in records:
        if record.logger == "print":
            continue
        target = logging.getLogger(record.logger)
        if target.isEnabledFor(record.level):
            target.log(
                record.level,
                "%s",
                record.message,
                extra={"run_id": record.run_id, "node": record.node, "map_index": record.index},
            )
