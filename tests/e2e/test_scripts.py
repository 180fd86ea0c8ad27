"""`python flow.py` in a process of its own: what it shows on a terminal, in a log, and after Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

JOBS = """
import sys
import time
from pathlib import Path
from graphflow import allow_failure, flow, task

@task
def work(i: int) -> int:
    time.sleep(0.004)
    if i % 50 == 0:
        print("got", end=" ")
        print(i, 7 * str(i))
    if i % 100 == 5:
        raise ValueError(f"no page {i}")
    return i

@task
def total(values) -> int:
    return sum(value for value in values if isinstance(value, int))

@flow
def tolerant(n: int):
    return total(allow_failure(work.map(range(n))))

@flow
def strict(n: int):
    return total(work.map(range(n)))

@task
def nothing() -> None:
    return None

@flow(backend="inline")
def quick():
    return nothing()

@task
def wait(i: int) -> None:
    Path("started").write_text("")  # returns when the test has read it
    while True:
        time.sleep(0.01)

@flow(backend="threads")
def endless():
    return wait.map([1])
"""


@pytest.fixture(autouse=True)
def progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts show what they show by default."""
    monkeypatch.delenv("GRAPHFLOW_PROGRESS")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "jobs.py").write_text(JOBS, encoding="utf-8")
    return tmp_path


def script(folder: Path, body: str) -> list[str]:
    (folder / "script.py").write_text(f"from jobs import *\nif __name__ == '__main__':\n    {body}\n")
    return [sys.executable, "script.py"]


def on_terminal(command: list[str], folder: Path, **environ: str) -> tuple[int, str, str]:
    """Run a command whose stderr is a terminal; return its code, stdout, and what the terminal got, without escapes."""
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=theirs,
            text=True,
            env=os.environ | {"TERM": "xterm", "COLUMNS": "100"} | environ,
        )
    finally:
        os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # the terminal is closed on the other side
            break
        if not part:
            break
        shown += part
    os.close(ours)
    out = process.communicate()[0]
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode()).replace("\r\n", "\n")
    return process.returncode, out, text


@pytest.mark.parametrize("backend", ["threads", "processes"])
def test_on_a_terminal_a_script_shows_the_live_table_the_summary_and_what_to_type_next(
    folder: Path, backend: str
) -> None:
    body = f"print(tolerant.with_options(backend={backend!r})(1600))"
    code, out, shown = on_terminal(script(folder, body), folder)

    assert code == 0, shown
    assert re.search("[━─]{4}.*/1,600", shown)
    found = re.search(r"tolerant  run (\w{26})  Completed", shown)
    assert found, shown
    assert f"graphflow runs failures {found[1]}" in shown
    assert "show 16 failures that the flow handled" in shown
    # What tasks print is whole lines on stdout, which is no terminal here.
    lines = sorted(line for line in out.splitlines() if line.startswith("got"))
    assert lines == sorted(f"got {i} {7 * str(i)}" for i in range(0, 1600, 50))


def test_a_failed_script_ends_with_its_failures_in_groups_and_frames_of_its_own(folder: Path) -> None:
    code, _, shown = on_terminal(script(folder, "strict(400)"), folder)

    assert code == 1
    assert "4 × ValueError: no page #" in shown
    assert re.search(r"graphflow runs retry \w{26} --failed", shown)
    assert 'script.py", line 3' in shown and "MapFailed" in shown
    assert f"{os.sep}graphflow{os.sep}authoring" not in shown
    assert shown.count("Traceback") == 2  # of the first failed item, and of the script


def test_frames_of_graphflow_are_shown_on_request_and_errors_of_the_script_as_python_does(
    folder: Path,
) -> None:
    _, _, shown = on_terminal(script(folder, "strict(400)"), folder, GRAPHFLOW_TRACEBACKS="full")
    assert f"{os.sep}graphflow{os.sep}authoring" in shown

    _, _, shown = on_terminal(script(folder, "quick(); 1 / 0"), folder)
    assert "1 / 0" in shown and "ZeroDivisionError" in shown


def test_progress_can_be_switched_off(folder: Path) -> None:
    code, _, shown = on_terminal(script(folder, "tolerant(200)"), folder, GRAPHFLOW_PROGRESS="off")

    assert (code, shown) == (0, "")


def test_lines_in_place_of_a_table_can_be_asked_for(folder: Path) -> None:
    body = "tolerant.with_options(backend='threads:2')(400)"
    done = subprocess.run(
        script(folder, body),
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"GRAPHFLOW_PROGRESS": "plain"},
        check=True,
    )
    assert re.search(r"^work  [\d,]+/400 \(", done.stderr, re.MULTILINE)
    assert "show 4 failures that the flow handled" in done.stderr


def test_without_progress_failures_and_interruptions_still_end_without_frames_of_graphflow(
    folder: Path,
) -> None:
    for body in ("strict(400)", "os.kill(os.getpid(), 2)"):
        done = subprocess.run(
            [*script(folder, f"import os; {body}")],
            cwd=folder,
            capture_output=True,
            text=True,
            env=os.environ | {"GRAPHFLOW_PROGRESS": "off"},
            check=False,
        )
        assert done.returncode
        assert f"{os.sep}graphflow{os.sep}authoring" not in done.stderr
        assert 'script.py", line 3' in done.stderr
        assert "graphflow runs" not in done.stderr


def test_many_quick_runs_print_a_line_a_second_at_most(folder: Path) -> None:
    code, _, shown = on_terminal(script(folder, "[quick() for _ in range(100)]"), folder)

    assert code == 0
    assert shown.startswith("quick  run ")
    assert len(shown.splitlines()) < 50


def test_in_a_log_a_quick_run_shows_nothing_and_a_failed_one_its_failures(folder: Path) -> None:
    def run(body: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(script(folder, body), cwd=folder, capture_output=True, text=True, check=False)

    assert run("tolerant(10)").stderr == ""
    failed = run("strict(400)").stderr
    assert "4 × ValueError: no page #" in failed
    assert re.search(r"graphflow runs retry \w{26} --failed", failed)


def test_ctrl_c_ends_with_a_line_and_the_command_that_resumes(folder: Path) -> None:
    os.mkfifo(folder / "started")
    process = subprocess.Popen(
        script(folder, "endless()"), cwd=folder, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    (folder / "started").read_text()

    os.killpg(process.pid, signal.SIGINT)
    shown = process.communicate()[1]

    assert process.returncode == -signal.SIGINT
    # A busy machine may make of it a run long enough for its progress.
    assert re.search(r"run (\w{26})(?s:.*)  graphflow runs resume \1  # run what is missing", shown), shown
    assert "Traceback" not in shown


@pytest.mark.parametrize("backend", ["inline", "threads:2", "processes:2"])
@pytest.mark.parametrize("is_quiet", [False, True])
def test_prints_of_tasks_have_their_item_before_them_on_a_terminal(
    folder: Path, backend: str, is_quiet: bool
) -> None:
    command = [
        sys.executable,
        "-m",
        "graphflow",
        "run",
        "jobs.py:tolerant",
        "-p",
        "n=101",
        "--backend",
        backend,
    ]
    code, _, shown = on_terminal([*command, "-q"] if is_quiet else command, folder)

    assert code == 0, shown
    lines = [line for line in shown.splitlines() if "got" in line]
    expected = [] if is_quiet else [f"work[{i}]  got {i} {7 * str(i)}" for i in (0, 50, 100)]
    assert sorted(lines) == sorted(expected)


def test_a_debugger_in_an_inline_task_has_the_terminal_for_itself(folder: Path) -> None:
    (folder / "jobs.py").write_text(
        "from graphflow import flow, task\n\n@task\ndef stop(x):\n    breakpoint()\n    return x\n\n"
        "@flow(backend='inline')\ndef stopping():\n    return stop(42)\n"
    )
    for command in (
        script(folder, "stopping()"),
        [sys.executable, "-m", "graphflow", "run", "jobs.py:stopping"],
    ):
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=os.environ | {"TERM": "xterm"},
        )
        os.close(theirs)
        shown = b""
        while b"(Pdb) " not in shown:
            shown += os.read(ours, 1 << 12)
        os.write(ours, b"p 'x is', x\n")
        while b"('x is', 42)" not in shown:
            shown += os.read(ours, 1 << 12)
        os.write(ours, b"c\n")
        with contextlib.suppress(OSError):
            while part := os.read(ours, 1 << 12):
                shown += part
        os.close(ours)
        assert process.wait() == 0
        assert b"Completed" in shown
        assert b"0/1" not in shown


def test_a_fork_of_a_task_prints_without_waiting_for_locks_of_other_threads(folder: Path) -> None:
    (folder / "jobs.py").write_text(
        "import os\nfrom graphflow import flow, task\n\n@task\ndef fork(i):\n    print('before', i)\n    pid = os.fork()\n"
        "    if not pid:\n        print('child', i)\n        os._exit(0)\n    return os.waitpid(pid, 0)[1]\n\n"
        "@flow(backend='threads:4')\ndef forks():\n    return fork.map(range(50))\n"
    )
    done = subprocess.run(
        script(folder, "assert forks() == [0] * 50"), cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


ASYNC = """
import asyncio
from pathlib import Path
from graphflow import flow, task

@task
async def fail(i):
    raise ValueError("seven")

@task
async def wait(i):
    Path("started").write_text("")  # returns when the test has read it
    await asyncio.sleep(600)

@flow(backend="threads")
async def failing():
    return fail.map([1])

@flow(backend="threads")
async def waiting():
    return wait.map([1])
"""


def test_async_flows_end_as_others_do(folder: Path) -> None:
    (folder / "jobs.py").write_text(ASYNC)
    failed = subprocess.run(
        script(folder, "asyncio.run(failing())"), cwd=folder, capture_output=True, text=True, check=False
    ).stderr
    assert "MapFailed" in failed and "ValueError: seven" in failed
    assert "During handling" not in failed and "event loop" not in failed
    assert f"{os.sep}graphflow{os.sep}" not in failed

    os.mkfifo(folder / "started")
    process = subprocess.Popen(
        script(folder, "asyncio.run(waiting())"),
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    (folder / "started").read_text()
    os.killpg(process.pid, signal.SIGINT)
    shown = process.communicate()[1]
    assert process.returncode == -signal.SIGINT
    assert re.search(r"run (\w{26})(?s:.*)  graphflow runs resume \1", shown), shown
    assert "Traceback" not in shown


def test_lines_of_loggers_do_not_tear_the_live_table(folder: Path) -> None:
    (folder / "jobs.py").write_text(
        "import logging, time\nfrom graphflow import flow, task\n\nlogging.basicConfig(level=logging.INFO)\n\n"
        "@task\ndef work(i):\n    time.sleep(0.02)\n    logging.info('at %d', i)\n\n"
        "@flow(backend='threads:2')\ndef logged():\n    return work.map(range(100))\n"
    )
    code, _, shown = on_terminal(script(folder, "logged()"), folder)

    assert code == 0
    lines = [line for line in re.split(r"[\r\n]+", shown) if "INFO" in line]
    told = [re.fullmatch(r"(work\[\d+\]  )?INFO:root:at (\d+)", line) for line in lines]
    assert sorted(int(each[2]) for each in told if each) == list(range(100)), shown
