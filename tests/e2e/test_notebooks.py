"""Runs in a real notebook kernel: what is displayed, how often, and that texts of users stay texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

SETUP = """
import time
from graphflow import allow_failure, flow, history, task

@task
def work(i):
    time.sleep(0.01)
    if i % 50 == 3:
        raise ValueError(f"<script>alert({i})</script>")
    return i

@task
def total(values):
    return len(values)

@flow(backend="threads:2")
def tolerant(n):
    return total(allow_failure(work.map(range(n))))

@flow(backend="inline")
def quick():
    return total([1])
"""


def executed(folder: Path, *cells: str) -> list[list[Any]]:
    """Run cells in a kernel; return the outputs of each after the first."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(each) for each in (SETUP, *cells)])
    client = NotebookClient(
        notebook, timeout=60, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    return [cell.outputs for cell in notebook.cells[1:]]


def pages(outputs: list[Any]) -> list[str]:
    return [each.data["text/html"] for each in outputs if "text/html" in each.get("data", {})]


@pytest.fixture(autouse=True)
def progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts show what they show by default."""
    monkeypatch.delenv("GRAPHFLOW_PROGRESS")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAPHFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    return tmp_path


@pytest.mark.slow
def test_a_cell_shows_its_runs_in_one_display_and_objects_as_tables(folder: Path) -> None:
    many, loop, shown = executed(
        folder,
        "value = tolerant(100)",
        "for _ in range(20): quick()",
        "import IPython.display as d\nfor each in (tolerant, tolerant.graph(3), history(), history().runs(), "
        "history().run('@latest').nodes): d.display(each)",
    )

    (page,) = pages(many)
    assert "Completed" in page and "100" in page
    assert "<script" not in page and "&lt;script&gt;" in page
    assert "graphflow runs failures" in page

    (page,) = pages(loop)
    assert "15 earlier runs" in page
    assert page.count("quick") == 5

    assert len(pages(shown)) == 5
    for page in pages(shown):
        assert page.startswith('<div class="graphflow">')
        assert "<script" not in page
        assert len(page) < 20_000
