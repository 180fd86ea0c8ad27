"""The processes that drive runs: one for each run, started by command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress

from graphflow.orchestration.stores.work import Given

__all__ = ["COMMAND", "Child"]

COMMAND = (sys.executable, "-m", "graphflow.launching.child")


class Child:
    """A process that drives one run; it goes on if this process dies.

    Parameters
    ----------
    given
        The run, and the claim by which it is driven.
    grace_seconds
        How long it may take to hand the run over.
    command
        What starts it; the id, the number of the claim and the time of grace are added.
    env
        Added to the environment of this process.
    """

    def __init__(
        self, given: Given, *, grace_seconds: float, command: Sequence[str] = COMMAND, env: Mapping[str, str]
    ) -> None:
        self.given = given
        surroundings = {**os.environ, **given.pool_env, **env}
        # A session of its own: Ctrl-C in the terminal is for the worker, which tells its children.
        self._process = subprocess.Popen(
            [*command, given.run_id, str(given.epoch), f"{grace_seconds:g}"],
            env=surroundings,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.was_told_to_stop = False

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    def ended(self) -> int | None:
        """Return the exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def tell_to_stop(self) -> None:
        """Ask it to hand its run over."""
        self.was_told_to_stop = True
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it, with all that it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def wait(self, timeout: float) -> bool:
        """Wait for its end; False if that takes longer."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True


def how_it_ended(code: int) -> str:
    """Return an exit code in words."""
    if code >= 0:
        return f"ended with the exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by the signal {-code}"
