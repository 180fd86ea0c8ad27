"""Running coroutines to their end, wherever the caller stands."""

from __future__ import annotations

import contextvars
import inspect
import threading
import traceback
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

__all__ = ["KeptLoop", "run_awaitable"]


def _always() -> bool:
    return True


def run_awaitable(awaitable: Awaitable[Any], *, is_interrupted: Callable[[], bool] = _always) -> Any:
    """Return what an awaitable gives; it runs in a thread of its own where this thread's event loop is running.

    Parameters
    ----------
    is_interrupted
        Whether a `KeyboardInterrupt` in the main thread may be Ctrl-C, which ends the loop.
    """
    import asyncio

    if asyncio._get_running_loop() is None:  # not by an exception, which would be the context of the item's
        with asyncio.Runner() as runner:
            return _run(runner, awaitable, is_interrupted)
    outcome: list[Any] = []
    errors: list[BaseException] = []
    context = contextvars.copy_context()

    def target() -> None:
        try:
            outcome.append(context.run(run_awaitable, awaitable))
        except BaseException as error:
            errors.append(error)

    # No `Service`: one awaitable in a loop of its own, which is waited for.
    thread = threading.Thread(target=target, name="graphflow-async")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return outcome[0]


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def _run(runner: asyncio.Runner, awaitable: Awaitable[Any], is_interrupted: Callable[[], bool]) -> Any:
    """Run an awaitable to its end, whatever other tasks of its loop raise.

    A `SystemExit` or `KeyboardInterrupt` of any task leaves the loop at once, though what awaits that task is
    reported as well: the loop continues, unless the exception is the awaitable's own or Ctrl-C.
    """

    loop = runner.get_loop()
    task = loop.create_task(_awaited(awaitable), context=contextvars.copy_context())
    while True:
        try:
            return loop.run_until_complete(task)
        except (SystemExit, KeyboardInterrupt) as error:
            may_be_ctrl_c = (
                isinstance(error, KeyboardInterrupt)
                and threading.current_thread() is threading.main_thread()
                and (is_interrupted() or not _left_a_task(error))
            )
            if task.done() or may_be_ctrl_c:
                raise


def _left_a_task(error: BaseException) -> bool:
    """Return whether an exception that left an event loop was raised by a coroutine, and not by a signal between two."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_code.co_flags & inspect.CO_COROUTINE for frame, _ in frames)


class KeptLoop:
    """Runs awaitables one after the other in one event loop, which is made at the first.

    Parameters
    ----------
    is_interrupted
        As for `run_awaitable`.
    """

    def __init__(self, is_interrupted: Callable[[], bool] = _always) -> None:
        self._runner: asyncio.Runner | None = None
        self._is_interrupted = is_interrupted

    def run(self, awaitable: Awaitable[Any]) -> Any:
        """Return what an awaitable gives."""
        import asyncio

        if asyncio._get_running_loop() is None:
            self._runner = self._runner or asyncio.Runner()
            return _run(self._runner, awaitable, self._is_interrupted)
        return run_awaitable(awaitable)

    def close(self) -> None:
        """End the loop, and what still runs in it."""
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.close()
