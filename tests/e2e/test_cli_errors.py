"""Wherever the command line runs, it ends in one line that says what is wrong, and never in a traceback."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

FLOW = """
from graphflow import flow, task
@task(task_run_name="item \\u00e9\\ud83d\\x1b[2J {x}")
def inc(x): return chr(233) * x
@flow
def small(): return inc.map(range(3)).result()
"""


def graphflow(folder: Path, home: Path | str, *command: str, **given: object) -> tuple[int, str]:
    (folder / "small.py").write_text(FLOW)
    env = {**os.environ, "GRAPHFLOW_HOME": str(home), **given.pop("env", {})}  # type: ignore[dict-item]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **given}
    done = subprocess.run(
        [sys.executable, "-m", "graphflow", *command],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        **streams,
    )  # type: ignore[call-overload]
    text = b"".join(each for each in (done.stdout, done.stderr) if each).decode("utf-8", "replace")
    assert "Traceback" not in text and "Exception ignored" not in text, text
    return done.returncode, text


RUN = ("run", "small.py:small", "--backend", "inline", "--run-id", "one")


@pytest.mark.parametrize("command", [RUN, ("runs", "ls"), ("runs", "resume", "one"), ("fsck", "--repair")])
@pytest.mark.parametrize("kind", ["a file", "below a file", "a loop of links", "too long"])
def test_a_home_that_cannot_be_used_is_told_in_one_line(
    tmp_path: Path, kind: str, command: tuple[str, ...]
) -> None:
    home = tmp_path / ("x" * 300 if kind == "too long" else "home")
    if kind == "a loop of links":
        home.symlink_to(home)
    elif kind != "too long":
        home.write_text("mine")
        home = home / "below" if kind == "below a file" else home
    code, text = graphflow(tmp_path, home, *command)
    assert code in (3, 5) and text.count("\n") == 1 and text.startswith("error: "), text
    assert str(home) in text


def test_texts_are_shown_on_a_terminal_that_knows_ascii_alone(tmp_path: Path) -> None:
    env = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    for command in (
        RUN,
        ("runs", "ls"),
        ("runs", "items", "one", "inc", "--values"),
        ("runs", "result", "one"),
    ):
        code, text = graphflow(tmp_path, tmp_path / "home", *command, env=env)
        assert code == 0 and text.isascii() and "\x1b[2J" not in text, text


def small_files() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))


def test_a_full_disk_and_an_output_that_cannot_be_written_are_told_in_one_line(tmp_path: Path) -> None:
    home = tmp_path / "home"
    code, text = graphflow(tmp_path, home, *RUN, preexec_fn=small_files)
    assert code == 5 and "disk is full" in text and text.count("\n") == 1, text
    assert graphflow(tmp_path, home, *RUN)[0] == 0
    for command in (("runs", "ls"), ("runs", "result", "one"), ("version",)):
        with open("/dev/full", "w") as full:
            code, text = graphflow(tmp_path, home, *command, stdout=full)
        assert (code, text) == (5, "error: the output cannot be written: No space left on device\n")


def test_an_output_that_somebody_closed_harms_nothing(tmp_path: Path) -> None:
    assert graphflow(tmp_path, tmp_path / "home", *RUN)[0] == 0
    code, _ = graphflow(
        tmp_path, tmp_path / "home", "runs", "ls", preexec_fn=lambda: os.close(1), stdout=None
    )
    assert code == 0
