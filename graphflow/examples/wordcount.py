"""Word count over Python source files: a map of run-time width, one mapped chain, and a reduce.

`graphflow demo` runs it over the standard library's own sources, which every machine with Python has.
"""

from __future__ import annotations

import os
import re
import sysconfig
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from graphflow import flow, task

__all__ = ["count_plainly", "find_sources", "standard_library", "word_count"]

_WORD = re.compile(r"[a-z]{4,}")
_NOT_THE_LIBRARY = {"site-packages", "dist-packages", "__pycache__"}


def standard_library() -> str:
    """Return the folder of the standard library's sources."""
    return sysconfig.get_path("stdlib")


def find_sources(folder: str, limit: int | None = None) -> list[str]:
    """Return the Python files below a folder, sorted, without installed packages."""
    paths: list[str] = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in _NOT_THE_LIBRARY]
        paths += [os.path.join(place, name) for name in files if name.endswith(".py")]
    return sorted(paths)[:limit]


def words_of(text: str) -> Counter[str]:
    """Return how often each word occurs, whatever its case."""
    return Counter(_WORD.findall(text.lower()))


@task
def list_files(folder: str, limit: int | None) -> list[str]:
    """Return the files to read: how many there are is known only when this has run."""
    return find_sources(folder, limit)


@task(retries=2, retry_delay_seconds=1)
def read(path: str) -> str:
    """Return the text of a file; what is not UTF-8 becomes replacement characters."""
    return Path(path).read_text(encoding="utf-8", errors="replace")


@task
def count_words(text: str) -> Counter[str]:
    """Return the words of one file."""
    return words_of(text)


@task
def merge(counts: Sequence[Counter[str]]) -> Counter[str]:
    """Return the words of all files."""
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return total


@flow(name="word-count")
def word_count(folder: str, limit: int | None = None) -> Counter[str]:
    """Count the words of all Python files below a folder, or of the first `limit` of them."""
    texts = read.map(list_files(folder, limit))
    return merge(count_words.map(texts))


def count_plainly(folder: str, limit: int | None = None) -> Counter[str]:
    """Return the same answer by a plain loop, to check against."""
    total: Counter[str] = Counter()
    for path in find_sources(folder, limit):
        total.update(words_of(Path(path).read_text(encoding="utf-8", errors="replace")))
    return total
