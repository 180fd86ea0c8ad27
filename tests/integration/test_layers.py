"""The contracts of layers find what they are there to find: planted in a copy of the package."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "graphflow", tmp_path / "graphflow", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def kept_and_broken(copy: Path) -> tuple[int, str]:
    """The exit code and the output of the check of a copy."""
    program = (
        "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "--no-cache"],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    return done.returncode, done.stdout + done.stderr


def plant(path: Path, line: str) -> None:
    before, _, after = path.read_text().partition("from __future__ import annotations\n")
    path.write_text(f"{before}from __future__ import annotations\n\n{line}\n{after}")


def test_the_package_keeps_its_contracts(copy: Path) -> None:
    code, output = kept_and_broken(copy)
    assert code == 0 and "0 broken" in output, output


@pytest.mark.parametrize(
    "where, line, says",
    [
        (
            "core/plan.py",
            "import graphflow.testing.waiting",
            "graphflow.core is not allowed to import graphflow.testing",
        ),
        ("core/plan.py", "import threading", "graphflow.core is not allowed to import threading"),
        (
            "runs/nodes.py",
            "def late() -> None:\n    import graphflow.authoring.tasks",
            "graphflow.runs is not allowed to import graphflow.authoring",
        ),
        (
            "records/known.py",
            "import typing\nif typing.TYPE_CHECKING:\n    import graphflow.records.failures",
            "No cycles are allowed in graphflow.records",
        ),
    ],
)
def test_a_planted_import_breaks_a_contract(copy: Path, where: str, line: str, says: str) -> None:
    plant(copy / "graphflow" / where, line)
    code, output = kept_and_broken(copy)
    assert code == 1 and says in output, output


def test_a_folder_in_no_row_breaks_a_contract(copy: Path) -> None:
    (copy / "graphflow" / "newcomers").mkdir()
    (copy / "graphflow" / "newcomers" / "__init__.py").touch()
    code, output = kept_and_broken(copy)
    assert code == 1 and "newcomers" in output, output
