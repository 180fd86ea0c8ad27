"""Processes that tests start, stop and kill: each runs a text as a script, and tells what it does line by line."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

__all__ = ["Script", "race"]

SECONDS = 60.0


class Script:
    """A running script. `say` and `hear` keep it in step with its test, without sleeping.

    Parameters
    ----------
    text
        What it does, in Python; its output is not buffered.
    arguments
        Its `sys.argv[1:]`.
    environment
        Variables that it has beside those of this process.
    """

    def __init__(self, text: str, *arguments: Any, environment: Mapping[str, str] | None = None) -> None:
        # A file, as nobody reads it while the script runs.
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(text), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self._input, self._output = self.process.stdin, self.process.stdout
        self.errors = ""

    @property
    def pid(self) -> int:
        """The process's number."""
        return self.process.pid

    def hear(self) -> str:
        """Return the next line that it prints.

        Raises
        ------
        AssertionError
            If it ended instead; with its errors.
        """
        line = self._output.readline()
        if not line:
            self.end()
            raise AssertionError(f"the script ended with {self.process.returncode}: {self.errors}")
        return line.rstrip("\n")

    def say(self, text: str = "") -> None:
        """Send it a line of input."""
        self._input.write(f"{text}\n")
        self._input.flush()

    def end(self) -> list[str]:
        """Wait for its end; return the complete lines that were not read yet."""
        if self._errors.closed:
            return []
        self._input.close()
        rest = self._output.read()
        self.process.wait(timeout=SECONDS)
        self._output.close()
        self._errors.seek(0)
        self.errors = self._errors.read()
        self._errors.close()
        return rest.split("\n")[:-1]

    def kill(self) -> list[str]:
        """Kill it with SIGKILL, then the same."""
        self.process.kill()
        return self.end()

    def __enter__(self) -> Script:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


def race(scripts: Sequence[Script]) -> list[tuple[int, list[str], str]]:
    """Let scripts that say "ready" go on together; return the exit code, further lines and errors of each."""
    for each in scripts:
        assert each.hear() == "ready"
    for each in scripts:
        each.say("go")
    ended = []
    for each in scripts:
        lines = each.end()
        ended.append((each.process.returncode, lines, each.errors))
    return ended
