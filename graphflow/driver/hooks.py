"""Hooks: users' functions of (object, run, state), called on the driver after the outcome was committed.

They cannot change it; what they raise is logged.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any

from graphflow.core.core import Core
from graphflow.core.events import SubmitBatch
from graphflow.model.reports import StepReport
from graphflow.model.states import FAILED_CODES, FINAL_CODES, Code, State
from graphflow.runner.loops import run_awaitable

__all__ = ["Hooks", "call_hook"]

logger = logging.getLogger("graphflow.hooks")


class Hooks:
    """Calls the hooks of tasks, in order, on a thread of its own that is started at the first one.

    Parameters
    ----------
    view
        Makes the run object of (node, index) that hooks get.
    """

    def __init__(self, view: Callable[[int, int | None], Any] | None) -> None:
        self._view = view
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def running(self, core: Core, command: SubmitBatch) -> None:
        """Call the hooks of nodes that are not mapped and start to run with a batch."""
        for node_id in command.nodes:
            node = core.books[node_id].node
            if node.program is not None and node.program.options.on_running and not node.is_mapped:
                self._call_each(node_id, 0, node.program.options.on_running, Code.RUNNING)

    def reported(self, core: Core, step: StepReport, indices: Sequence[int]) -> None:
        """Call the hooks of reported items that ended."""
        node = core.books[step.node].node
        if node.program is None:
            return
        options = node.program.options
        if not (options.on_completion or options.on_failure or (options.on_running and node.is_mapped)):
            return
        for position, code in enumerate(step.states):
            if node.is_mapped and options.on_running and code in FINAL_CODES and step.attempts[position]:
                self._call_each(step.node, indices[position], options.on_running, Code.RUNNING)
            self._ended(step.node, indices[position], Code(code), options)

    def ended(self, core: Core, node_id: int, indices: Sequence[int]) -> None:
        """Call the hooks of items that ended without a report."""
        book = core.books[node_id]
        if book.node.program is None:
            return
        options = book.node.program.options
        if options.on_completion or options.on_failure:
            for index in indices:
                self._ended(node_id, index, Code(book.states[index]), options)

    def _ended(self, node: int, index: int, code: Code, options: Any) -> None:
        if code in (Code.COMPLETED, Code.CACHED):
            self._call_each(node, index, options.on_completion, code)
        elif code in FAILED_CODES:
            self._call_each(node, index, options.on_failure, code)

    def _call_each(self, node: int, index: int, hooks: Sequence[Callable[..., Any]], code: Code) -> None:
        for hook in hooks:
            self.put(hook, lambda: self._view(node, index) if self._view else (None, None), State.of(code))

    def put(self, hook: Callable[..., Any], view: Callable[[], tuple[Any, Any]], state: State) -> None:
        """Call a hook, after those that were put before."""
        if self._thread is None:
            # No `Service`: it waits for its queue, has no interval, and what is queued at its end is still called.
            self._thread = threading.Thread(target=self._run, name="graphflow-hooks", daemon=True)
            self._thread.start()
        self._queue.put(lambda: call_hook(hook, view, state))

    def _run(self) -> None:
        while True:
            action = self._queue.get()
            if action is None:
                return
            action()

    def flush(self) -> None:
        """Wait until all hooks put so far were called."""
        if self._thread is None or self._thread is threading.current_thread():
            return
        done = threading.Event()
        self._queue.put(done.set)
        done.wait()

    def close(self) -> None:
        """Call no more hooks."""
        if self._thread is not None:
            self._queue.put(None)


def call_hook(hook: Callable[..., Any], view: Callable[[], tuple[Any, Any]], state: State) -> None:
    """Call one hook with (object, run, state); what it raises is logged."""
    try:
        obj, run = view()
        outcome = hook(obj, run, state)
        if hasattr(outcome, "__await__"):
            run_awaitable(outcome)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            raise
        # Also `sys.exit()`: it would end the thread that calls hooks, and the run waits for that.
        logger.exception("the hook %r failed; the run continues", hook)
