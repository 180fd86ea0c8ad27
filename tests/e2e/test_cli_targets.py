"""What `graphflow run TARGET` and `graphflow graph TARGET` accept, and what they say of the rest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ONE_FLOW = """
from graphflow import flow, task

@task
def double(x: int) -> int:
    return 2 * x

@flow
def doubles(n: int = 3) -> list[int]:
    return double.map(range(n))
"""
TWO_FLOWS = (
    ONE_FLOW
    + """
@flow
def nothing() -> None: ...
"""
)
Cli = Callable[..., Any]


def test_a_file_and_a_flow_of_it(cli: Cli, folder: Path) -> None:
    (folder / "jobs.py").write_text(TWO_FLOWS, encoding="utf-8")

    done = cli("run", "jobs.py:doubles", "-q")

    assert (done.code, done.out, done.err) == (0, "[0, 2, 4]\n", "")


def test_a_file_alone_if_it_holds_one_flow(cli: Cli, folder: Path) -> None:
    (folder / "jobs.py").write_text(ONE_FLOW, encoding="utf-8")

    assert cli("run", folder / "jobs.py", "-q").out == "[0, 2, 4]\n"


def test_a_module_and_a_flow_of_it(cli: Cli, folder: Path) -> None:
    (folder / "pack").mkdir()
    (folder / "pack" / "__init__.py").touch()
    (folder / "pack" / "jobs.py").write_text(ONE_FLOW, encoding="utf-8")

    assert cli("run", "pack.jobs:doubles", "-q").out == "[0, 2, 4]\n"


def test_a_file_of_a_package_may_import_its_neighbours(cli: Cli, folder: Path) -> None:
    (folder / "pack").mkdir()
    (folder / "pack" / "__init__.py").touch()
    (folder / "pack" / "tasks.py").write_text(ONE_FLOW, encoding="utf-8")
    (folder / "pack" / "jobs.py").write_text("from .tasks import doubles\n", encoding="utf-8")

    assert cli("run", "pack/jobs.py", "-q").out == "[0, 2, 4]\n"


def test_a_file_may_import_its_neighbours(cli: Cli, folder: Path) -> None:
    (folder / "helpers.py").write_text("STEP = 5\n", encoding="utf-8")
    (folder / "jobs.py").write_text(
        "from graphflow import flow\nfrom helpers import STEP\n@flow\ndef step():\n    return STEP\n",
        encoding="utf-8",
    )

    assert cli("run", "jobs.py", "-q").out == "5\n"


def test_a_file_may_be_called_as_a_library_module_is(cli: Cli, folder: Path) -> None:
    (folder / "queue.py").write_text(ONE_FLOW, encoding="utf-8")

    assert cli("run", "queue.py", "-q").out == "[0, 2, 4]\n"


def test_the_files_own_flow_is_meant_and_not_one_that_it_imports(cli: Cli, folder: Path) -> None:
    (folder / "helpers.py").write_text(ONE_FLOW, encoding="utf-8")
    (folder / "jobs.py").write_text(
        "from graphflow import flow\nfrom helpers import doubles\n@flow\ndef mine():\n    return 'mine'\n",
        encoding="utf-8",
    )

    assert cli("run", "jobs.py", "-q").out == '"mine"\n'


@pytest.mark.parametrize(
    ("source", "target", "texts"),
    [
        (ONE_FLOW, "job.py:doubles", ["there is no file 'job.py'; did you mean 'jobs.py'?"]),
        (ONE_FLOW, "nowhere/job.py:doubles", ["there is no folder 'nowhere' either"]),
        (ONE_FLOW, "jobs.py:", ["the target 'jobs.py:' is not of the form file.py:flow"]),
        (ONE_FLOW, "jobs.py:dubbles", ["there is no flow 'dubbles' in jobs.py; did you mean 'doubles'?"]),
        (ONE_FLOW, "jobs.py:double", ["'double' in jobs.py is a task, not a flow; flows there: doubles"]),
        (
            TWO_FLOWS,
            "jobs.py",
            ["contains 2 flows: doubles, nothing; choose one, such as jobs.py:doubles"],
        ),
        ("x = 1\n", "jobs.py", ["jobs.py contains no flow; decorate a function with @flow"]),
        ("x = 1\n", "jobs.py:x", ["jobs.py contains no flow", "('x' is an int)"]),
        (ONE_FLOW, "job:doubles", ["there is no module 'job'", "did you mean 'jobs.py'?"]),
        (ONE_FLOW, "no.such.module:doubles", ["there is no module 'no.such.module'"]),
        (ONE_FLOW, "not-a-name:doubles", ["'not-a-name' is neither a file nor a module's name"]),
        (ONE_FLOW, ".:doubles", ["is a folder"]),
        (
            "import nowhere_at_all\n",
            "jobs.py",
            ["cannot be imported: ModuleNotFoundError", 'jobs.py", line 1'],
        ),
        (
            "import nowhere_at_all\n",
            "jobs:x",
            ["jobs cannot be imported: ModuleNotFound", 'jobs.py", line 1'],
        ),
        ("def f(:\n", "jobs.py", ["cannot be imported: SyntaxError", "jobs.py, line 1"]),
        ("x = 1\n\n1 / 0\n", "jobs.py", ["cannot be imported: ZeroDivisionError", 'jobs.py", line 3']),
        ("raise SystemExit(7)\n", "jobs.py", ["cannot be imported: SystemExit: 7"]),
    ],
)
@pytest.mark.parametrize("command", ["run", "graph"])
def test_a_target_that_cannot_be_loaded_is_explained_and_ends_with_3(
    cli: Cli, folder: Path, command: str, source: str, target: str, texts: list[str]
) -> None:
    (folder / "jobs.py").write_text(source, encoding="utf-8")

    done = cli(command, target)

    assert (done.code, done.out) == (3, "")
    assert done.err.startswith("error: ")
    assert "importlib" not in done.err
    for text in texts:
        assert text in done.err
