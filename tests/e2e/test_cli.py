"""The commands: what goes to stdout and to stderr, and exit codes."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graphflow.examples.wordcount import Counts

Cli = Callable[..., Any]

JOBS = """
from graphflow import flow, task

@task(task_run_name="item-{x}")
def inverse(x: int) -> float:
    return 1 / x

@task
def total(values: list[float]) -> float:
    return sum(values)

@flow
def good(n: int = 4) -> float:
    return total(inverse.map(range(1, n + 1)))

@flow
def bad(n: int) -> float:
    return total(inverse.map([x % 3 for x in range(n)]))

@flow
def echo(value: object = None, name: str = "") -> object:
    return value if name == "" else name

@flow
def strict(n: int, path: str) -> None: ...

@flow
def raising() -> None:
    raise RuntimeError("the body is broken")

@flow(log_prints=True)
def talking() -> int:
    print("hello from the flow")
    return 1

@task
def exits() -> None:
    raise SystemExit(9)

@flow
def exiting() -> None:
    return exits()
"""

NOISY = """
import os
from graphflow import flow, task

print("at import")

@task
def noisy(x: int) -> int:
    print("in the task")
    os.write(1, b"at a low level")
    return x

@flow
def noise() -> list[int]:
    print("in the body")
    return noisy.map([0, 1])
"""


@pytest.fixture
def jobs(folder: Path) -> Path:
    path = folder / "jobs.py"
    path.write_text(JOBS, encoding="utf-8")
    return path


def test_a_completed_run_writes_its_value_to_stdout_and_a_table_to_stderr(cli: Cli, jobs: Path) -> None:
    done = cli("run", "jobs.py:good", "--backend", "inline")

    assert (done.code, done.out) == (0, "2.083333333333333\n")
    lines = [line.strip() for line in done.err.splitlines()]
    header = next(line for line in lines if line.split()[:2] == ["node", "state"])
    assert header.split() == ["node", "state", "items", "completed", "failed", "rate", "time"]
    (inverse,) = [line for line in lines if line.startswith("inverse") and "4/4" not in line]
    assert inverse.split()[:4] == ["inverse", "Completed", "4", "4"]
    assert "Completed" in lines[-1]


@pytest.mark.parametrize(
    ("arguments", "out"),
    [
        (["-p", 'value={"a": [1, 2]}'], '{"a": [1, 2]}\n'),
        (["-p", "value=text"], '"text"\n'),
        (["-p", "name=12"], '"12"\n'),
        (["-p", "value:=12"], "12\n"),
        (["-p", "value=null"], ""),
        (["--params", '{"value": 1}', "-p", "value=2"], "2\n"),
    ],
)
def test_parameters_come_as_json_else_as_text(cli: Cli, jobs: Path, arguments: list[str], out: str) -> None:
    done = cli("run", "jobs.py:echo", "-q", *arguments)

    assert (done.code, done.out) == (0, out)


def test_parameters_come_from_stdin(cli: Cli, jobs: Path) -> None:
    assert cli("run", "jobs.py:echo", "-q", "--params", "-", stdin='{"value": [3]}').out == "[3]\n"


def test_a_parameter_is_the_text_of_a_file(cli: Cli, jobs: Path, folder: Path) -> None:
    (folder / "note.txt").write_text("from a file\n", encoding="utf-8")

    assert cli("run", "jobs.py:echo", "-q", "-p", "value=@note.txt").out == '"from a file\\n"\n'


@pytest.mark.parametrize("command", ["run", "graph"])
@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["-p", "path=x"], ["n"]),
        (["-p", "path=x", "-p", "n=1", "-p", "pth=y"], ["pth", "path"]),
        (["-p", "path=x", "-p", "n=many"], ["n", "many"]),
        (["-p", "n"], ["has no '='; use name=value"]),
        (["--params", "[1]"], ["must be a JSON object"]),
    ],
)
def test_invalid_parameters_are_named_and_end_with_3(
    cli: Cli, jobs: Path, command: str, arguments: list[str], texts: list[str]
) -> None:
    done = cli(command, "jobs.py:strict", *arguments)

    assert (done.code, done.out) == (3, "")
    assert done.err.startswith("error: ")
    for text in texts:
        assert text in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["run"],
        ["run", "jobs.py:good", "--nonsense"],
        ["run", "jobs.py:good", "--backend", "thread"],
        ["run", "jobs.py:good", "-o", "yaml"],
        ["graph", "jobs.py:good", "--format", "png"],
        ["nonsense"],
    ],
)
def test_wrong_usage_ends_with_2(cli: Cli, jobs: Path, arguments: list[str]) -> None:
    done = cli(*arguments)

    assert (done.code, done.out) == (2, "")


def test_a_failed_run_groups_its_failures_and_ends_with_1(cli: Cli, jobs: Path) -> None:
    done = cli("run", "jobs.py:bad", "-p", "n=9", "--backend", "inline")

    assert (done.code, done.out) == (1, "")
    assert "3 × ZeroDivisionError: division by zero" in done.err
    assert "in inverse, items 0, 3, 6" in done.err
    assert "first, #0: label 'item-0'" in done.err
    assert 'jobs.py", line 6, in inverse' in done.err
    assert "graphflow/runner" not in done.err
    assert "1 dependent task run did not start" in done.err


def test_a_failed_run_says_why_when_quiet_too(cli: Cli, jobs: Path) -> None:
    done = cli("run", "jobs.py:bad", "-p", "n=9", "-q")

    assert done.code == 1
    assert done.err.startswith("3 × ZeroDivisionError: division by zero\n")


def test_an_exception_in_the_body_shows_the_users_line(cli: Cli, jobs: Path) -> None:
    done = cli("run", "jobs.py:raising", "-q")

    assert done.code == 1
    assert "RuntimeError: the body is broken" in done.err
    assert ", in raising" in done.err
    assert "graphflow/flows" not in done.err


def test_a_task_that_exits_fails_and_ends_nothing_else(cli: Cli, jobs: Path) -> None:
    done = cli("run", "jobs.py:exiting", "-q")

    assert done.code == 1
    assert "SystemExit" in done.err


def test_verbose_shows_whole_tracebacks(cli: Cli, jobs: Path) -> None:
    done = cli("run", "jobs.py:raising", "-v")

    assert done.code == 1
    assert "Traceback (most recent call last)" in done.err


def test_the_run_as_json(cli: Cli, jobs: Path) -> None:
    done = cli("run", "jobs.py:good", "-q", "-o", "json")

    document = json.loads(done.out)
    assert (done.code, done.err) == (0, "")
    assert document["schema"] == "graphflow.run/1"
    assert document["flow"] == "good"
    assert document["state"]["name"] == "Completed"
    assert document["value"] == pytest.approx(25 / 12)
    assert document["started"].endswith("Z")
    inverse = next(node for node in document["nodes"] if node["task"] == "inverse")
    assert (inverse["width"], inverse["is_mapped"], inverse["counts"]["Completed"]) == (4, True, 4)


def test_a_failed_run_as_json_has_its_failures(cli: Cli, jobs: Path) -> None:
    done = cli("run", "jobs.py:bad", "-p", "n=4", "-q", "-o", "json")

    document = json.loads(done.out)
    assert done.code == 1
    assert document["state"]["name"] == "Failed"
    inverse = next(node for node in document["nodes"] if node["task"] == "inverse")
    assert [failure["index"] for failure in inverse["failures"]] == [0, 3]
    assert inverse["failures"][0]["exception"]["type"] == "ZeroDivisionError"


def test_plain_progress_has_a_line_per_node(cli: Cli, jobs: Path) -> None:
    done = cli("run", "jobs.py:good", "--progress", "plain")

    progress = [line for line in done.err.splitlines() if line.startswith("inverse  Completed  4/4 (100 %)")]
    assert len(progress) == 1


def test_prints_of_a_flow_that_logs_them_are_shown_on_stderr(cli: Cli, jobs: Path) -> None:
    done = cli("run", "jobs.py:talking")

    assert done.out == "1\n"
    assert "hello from the flow" in done.err


@pytest.mark.parametrize("backend", ["inline", "processes:1"])
def test_stdout_has_the_data_alone_whatever_user_code_prints(folder: Path, backend: str) -> None:
    (folder / "noisy.py").write_text(NOISY, encoding="utf-8")

    command = [sys.executable, "-m", "graphflow", "run", "noisy.py", "--backend", backend]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)

    assert done.stdout == "[0, 1]\n"
    assert all(text in done.stderr for text in ("at import", "in the body", "in the task", "at a low level"))


@pytest.mark.parametrize("spec", ["inline", "threads", "threads:2", "processes:1"])
def test_a_run_on_each_backend_gives_the_same_value(cli: Cli, jobs: Path, spec: str) -> None:
    done = cli("run", "jobs.py:good", "-q", "--backend", spec)

    assert (done.code, done.out) == (0, "2.083333333333333\n")


def test_a_scheduler_that_does_not_answer_ends_with_5(cli: Cli, jobs: Path) -> None:
    with socket.socket() as taken:  # bound and not listening: nobody answers there
        taken.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"

        done = cli("run", "jobs.py:good", "--backend", address)

    assert (done.code, done.out) == (5, "")
    assert address in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("format", "first"),
    [("text", "inverse [4]"), ("mermaid", "flowchart TD"), ("dot", 'digraph "good" {'), ("json", "{")],
)
def test_the_graph_is_printed_and_nothing_runs(cli: Cli, jobs: Path, format: str, first: str) -> None:
    done = cli("graph", "jobs.py:good", "--format", format)

    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(first)
    assert "total" in done.out


def test_the_graph_as_json_is_one_document(cli: Cli, jobs: Path) -> None:
    document = json.loads(cli("graph", "jobs.py:good", "--format", "json", "-p", "n=7").out)

    assert (document["nodes"][0]["name"], document["nodes"][0]["width"]) == ("inverse", 7)


def test_the_version_names_what_graphflow_stands_on(cli: Cli) -> None:
    lines = cli("version").out.splitlines()

    assert lines[0].startswith("graphflow ")
    assert {line.split()[0] for line in lines} >= {"graphflow", "python", "dask", "distributed"}


def test_help_names_every_command(cli: Cli) -> None:
    done = cli("--help")

    assert done.code == 0
    assert all(name in done.out for name in ("run", "graph", "demo", "version", "--install-completion"))


HEAVY = {"bokeh", "dask", "distributed", "networkx", "numpy", "pydantic", "s3fs", "sqlite3"}
LIST_MODULES = """
import sys
from graphflow.cli.main import main
sys.argv = ["graphflow", *sys.argv[1:]]
try:
    main()
finally:
    print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""


def loaded(*arguments: str) -> set[str]:
    command = [sys.executable, "-c", LIST_MODULES, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return HEAVY & set(done.stderr.split())


def test_help_loads_nothing_heavy() -> None:
    assert loaded("--help") == set()


@pytest.mark.parametrize("arguments", [["run", "--help"], ["version"]])
def test_commands_that_run_nothing_load_nothing_heavy_but_typers_own(arguments: list[str]) -> None:
    assert loaded(*arguments) <= {"pydantic"}


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "graphflow", "version"], capture_output=True, text=True, check=True
    )

    assert done.stdout.startswith("graphflow ")


def test_the_demo_counts_words_and_agrees_with_a_plain_loop(cli: Cli, folder: Path) -> None:
    (folder / "a.py").write_text("words words words here\n", encoding="utf-8")
    (folder / "b.py").write_text("here words\n", encoding="utf-8")

    done = cli("demo", "--folder", folder, "--backend", "threads:2")

    assert done.code == 0
    (words,) = [line.split() for line in done.out.splitlines() if "words" in line]
    assert words[:2] == ["words", "4"]
    assert "same as a plain loop: yes" in done.err
    times = re.findall(r"(plain loop|first run|from the cache) +[0-9.]+ s +[0-9.]+ ×", done.err)
    assert times == ["plain loop", "first run", "from the cache"]
    assert "2 cached" in done.err or re.search(r"count_words +Cached|cached", done.err)
    assert "count_words" in done.err


def test_the_demo_fails_if_the_plain_loop_disagrees(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "a.py").write_text("words\n", encoding="utf-8")
    monkeypatch.setattr(
        "graphflow.examples.wordcount.count_plainly",
        lambda folder, limit: Counts(Counter(other=1), Counter()),
    )

    done = cli("demo", "--folder", folder, "--backend", "inline")

    assert done.code == 1
    assert "same as a plain loop: no" in done.err


def test_the_demo_refuses_a_folder_that_is_not_there_or_has_no_file(cli: Cli, folder: Path) -> None:
    missing = cli("demo", "--folder", folder / "nope")
    assert missing.code == 2
    assert "there is no folder" in missing.err and "nope" in missing.err

    (folder / "empty").mkdir()
    empty = cli("demo", "--folder", folder / "empty")
    assert empty.code == 2
    assert "no Python file" in empty.err


@pytest.mark.parametrize(
    ("options", "environ", "told"),
    [
        ("backend='thread'", {}, "unknown backend 'thread'"),
        ("backend='threads:x'", {}, "'x' is not a number of slots"),
        ("result_storage='nope://x'", {}, "no file system is known for nope://x"),
        ("result_serializer='jsn'", {}, "unknown serializer 'jsn'"),
        ("", {"GRAPHFLOW_BACKEND": "thread"}, "unknown backend 'thread'"),
        ("", {"GRAPHFLOW_RESULT_STORAGE": "nope://x"}, "no file system is known for nope://x"),
        ("", {"GRAPHFLOW_LEASE_SECONDS": "soon"}, "use a positive number of seconds"),
    ],
)
def test_what_is_configured_wrongly_leaves_no_run_behind(
    cli: Cli,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: str,
    environ: dict[str, str],
    told: str,
) -> None:
    (folder / "wrong.py").write_text(
        f"from graphflow import flow\n\n@flow({options})\ndef nothing():\n    return 1\n"
    )
    monkeypatch.setenv("GRAPHFLOW_HOME", str(folder / "home"))
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    done = cli("run", "wrong.py:nothing")

    assert done.code in (3, 5)
    assert told in done.err
    for name in environ:
        monkeypatch.delenv(name)
    assert json.loads(cli("runs", "ls", "-o", "json").out) == []


def test_a_cluster_that_is_not_reached_leaves_no_run_behind(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "jobs.py").write_text("from graphflow import flow\n\n@flow\ndef nothing():\n    return 1\n")
    monkeypatch.setenv("GRAPHFLOW_HOME", str(folder / "home"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    done = cli("run", "jobs.py:nothing", "--backend", f"tcp://127.0.0.1:{port}")

    assert done.code == 5
    assert "no Dask scheduler answers" in done.err
    assert json.loads(cli("runs", "ls", "-o", "json").out) == []


def test_a_flow_that_runs_while_its_file_is_imported_is_told(cli: Cli, folder: Path) -> None:
    text = "from graphflow import flow\n\n@flow(backend='inline')\ndef one():\n    return 1\n\n"
    (folder / "bare.py").write_text(text + "one()\n")
    (folder / "guarded.py").write_text(text + "if __name__ == '__main__':\n    one()\n")

    assert "bare.py ran a flow while it was imported" in cli("run", "bare.py").err
    assert "while it was imported" not in cli("run", "guarded.py").err
