"""Ctrl-C, and Ctrl-C again while worker processes are being closed: the script ends, says how to go on, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

PROGRAM = """
import sys
import time
from pathlib import Path

from graphflow import flow, task


@task
def slow(x):
    Path("began").touch()
    time.sleep(0.2)
    return x


@flow
def main():
    return slow.map(range(200))


if __name__ == "__main__":
    main.with_options(backend="processes:2")()
"""


@pytest.mark.parametrize("presses", [1, 2])
def test_a_script_that_is_interrupted_ends(
    presses: int, tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    with subprocess.Popen(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env={**os.environ, "GRAPHFLOW_PROGRESS": "plain", "GRAPHFLOW_HOME": str(tmp_path / "home")},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as script:
        wait_until((tmp_path / "began").exists)
        workers = psutil.Process(script.pid).children(recursive=True)
        script.send_signal(signal.SIGINT)
        if presses == 2:
            # The next one comes while it closes.
            wait_until(lambda: script.poll() is not None or not all(map(_is_there, workers)))
            script.send_signal(signal.SIGINT)
        _, told = script.communicate(timeout=60)
    assert script.returncode != 0
    assert "graphflow runs resume" in told
    assert "Traceback" not in told
    wait_until(lambda: not any(map(_is_there, workers)))


def _is_there(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
