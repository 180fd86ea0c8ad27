"""The scripts in examples/ run, as scripts and from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=100
    )


def graphflow_run(target: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run("-m", "graphflow", "run", ROOT / "examples" / target, *arguments, cwd=cwd)


def test_there_are_three_examples() -> None:
    assert len(EXAMPLES) >= 3


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs_as_a_script(path: Path, tmp_path: Path) -> None:
    done = run(path, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_the_word_count_counts(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("some words and some more", encoding="utf-8")

    done = graphflow_run("wordcount.py", "-p", f"folder={tmp_path}", cwd=tmp_path)

    assert json.loads(done.stdout) == {"some": 2, "words": 1, "more": 1}


def test_the_training_says_when_it_is_complete_and_finds_the_line(tmp_path: Path) -> None:
    done = graphflow_run("training.py", cwd=tmp_path)

    assert json.loads(done.stdout)["mean_absolute_error"] < 0.01
    assert f"Training complete: {json.loads(done.stdout)}" in done.stderr


def test_the_crawl_counts_the_pages_that_are_there(tmp_path: Path) -> None:
    done = graphflow_run("crawl.py:crawl", "-p", "pages=14", cwd=tmp_path)

    words = sum(number for number in range(14) if number % 7 != 3)
    assert json.loads(done.stdout) == {"pages": 12, "words": words, "failed": 2}


def test_the_strict_crawl_fails_and_names_the_pages(tmp_path: Path) -> None:
    done = graphflow_run("crawl.py:strict_crawl", "-p", "pages=14", cwd=tmp_path)

    assert done.returncode == 1
    assert "2 × PageMissing: no page at https://example.org/#" in done.stderr
    assert "in fetch, items 3, 10" in done.stderr
    assert "label 'https://example.org/3'" in done.stderr
