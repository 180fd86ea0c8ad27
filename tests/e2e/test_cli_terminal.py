"""The command in a process of its own: Ctrl-C, and a real terminal.

The processes are kept in step by named pipes: opening one waits for the other side.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

Process = subprocess.Popen[str]
JOBS = """
import time
from pathlib import Path
from graphflow import flow, task

@task
def wait(index: int, folder: str) -> int:
    Path(folder, "started").write_text(str(index))     # returns when the test has read it
    Path(folder, "go").read_text()                      # returns when the test has written
    return index

@task
def spin(index: int, folder: str) -> int:
    Path(folder, "started").write_text(str(index))
    while True:
        time.sleep(0.01)

@flow
def waiting(folder: str) -> list[int]:
    return wait.with_options(batch_size=1).map(range(50), folder)

@flow
def spinning(folder: str) -> list[int]:
    return spin.map(range(50), folder)

@task
def double(x: int) -> int:
    return 2 * x

@flow
def doubles() -> list[int]:
    return double.map(range(2000))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "jobs.py").write_text(JOBS, encoding="utf-8")
    os.mkfifo(tmp_path / "started")
    os.mkfifo(tmp_path / "go")
    return tmp_path


@pytest.fixture
def started() -> Iterator[list[Process]]:
    processes: list[Process] = []
    yield processes
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def start(folder: Path, flow: str, backend: str, started: list[Process]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "graphflow", "run", f"jobs.py:{flow}", "-p", f"folder={folder}"]
    process = subprocess.Popen(
        [*command, "--backend", backend, "-o", "json"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    started.append(process)
    return process


def interrupt(process: Process) -> None:
    """What a terminal does on Ctrl-C: the signal goes to every process of the group."""
    os.killpg(process.pid, signal.SIGINT)


def wait_for_first_item(process: Process, folder: Path) -> None:
    """Wait until an item says that it has started; fails if the process ends before."""

    def unblock() -> None:
        process.wait()
        with contextlib.suppress(OSError):  # nobody reads any more: then there is nothing to unblock
            os.close(os.open(folder / "started", os.O_WRONLY | os.O_NONBLOCK))

    threading.Thread(target=unblock, daemon=True).start()
    # Two batches are on their way to a worker; which of them is there first is nobody's promise.
    assert (folder / "started").read_text().isdigit()


def read_until(process: Process, text: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"{text!r} was never said")


@pytest.mark.parametrize("backend", ["threads:1", "processes:1"])
def test_the_first_ctrl_c_lets_the_running_item_end_and_starts_no_other(
    folder: Path, backend: str, started: list[Process]
) -> None:
    process = start(folder, "waiting", backend, started)
    wait_for_first_item(process, folder)

    interrupt(process)
    read_until(process, "starting no new ones")
    (folder / "go").write_text("")
    out, err = process.communicate()

    document = json.loads(out)
    assert process.returncode == 130, err
    assert document["nodes"][0]["counts"] == {"Completed": 1, "Cancelled": 49}
    assert "Traceback" not in err


@pytest.mark.parametrize("backend", ["threads:1", "processes:1"])
def test_the_second_ctrl_c_stops_the_running_item(folder: Path, backend: str, started: list[Process]) -> None:
    process = start(folder, "spinning", backend, started)
    wait_for_first_item(process, folder)

    interrupt(process)
    read_until(process, "starting no new ones")
    interrupt(process)
    read_until(process, "cancelling")
    out, err = process.communicate()

    assert process.returncode == 130, err
    assert json.loads(out)["nodes"][0]["counts"] == {"Cancelled": 50}
    assert "Traceback" not in err


def test_on_a_terminal_progress_is_live_and_the_data_stays_on_stdout(folder: Path) -> None:
    ours, theirs = pty.openpty()
    environ = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    process = subprocess.Popen(
        [sys.executable, "-m", "graphflow", "run", "jobs.py:doubles"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=environ | {"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "30"},
    )
    os.close(theirs)
    seen = b""
    try:
        while chunk := os.read(ours, 65536):
            seen += chunk
    except OSError:  # Linux says EIO where other systems say end of file
        pass
    finally:
        os.close(ours)
    out, _ = process.communicate()

    text = seen.decode()
    assert process.returncode == 0, text
    assert json.loads(out) == [2 * x for x in range(2000)]
    assert "\x1b[" in text
    assert "double" in text
    assert "Completed" in text
