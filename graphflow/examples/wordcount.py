"""Words and syntax of Python source files: a map of run-time width, two mapped chains, and two reduces.

`graphflow demo` runs it over the standard library's own sources, which every machine with Python has.
"""

from __future__ import annotations

import ast
import io
import os
import re
import sysconfig
import tokenize
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from graphflow import INPUTS, flow, task

__all__ = ["Counts", "count_plainly", "find_sources", "standard_library", "word_count"]

_WORD = re.compile(r"[a-z]{4,}")
_NOT_THE_LIBRARY = {"site-packages", "dist-packages", "__pycache__"}


class Counts(NamedTuple):
    """How often each word occurs, and each kind of syntax node."""

    words: Counter[str]
    syntax: Counter[str]


def standard_library() -> str:
    """Return the folder of the standard library's sources."""
    return sysconfig.get_path("stdlib")


def find_sources(folder: str, limit: int | None = None) -> list[str]:
    """Return the Python files below a folder, sorted, without installed packages.

    Raises
    ------
    NotADirectoryError
        If there is no such folder.
    """
    if not os.path.isdir(folder):
        raise NotADirectoryError(f"there is no folder {folder!r}")
    paths: list[str] = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in _NOT_THE_LIBRARY]
        paths += [os.path.join(place, name) for name in files if name.endswith(".py")]
    return sorted(paths)[:limit]


def text_of(path: str) -> str:
    """Return the text of a file; what is not UTF-8 becomes replacement characters."""
    return Path(path).read_text(encoding="utf-8", errors="replace")


def words_of(text: str) -> Counter[str]:
    """Return how often each word occurs in names, strings and comments, whatever its case; up to what is no Python."""
    words: Counter[str] = Counter()
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type in (tokenize.NAME, tokenize.STRING, tokenize.COMMENT):
                words.update(_WORD.findall(token.string.lower()))
    except (tokenize.TokenError, SyntaxError):
        pass
    return words


def syntax_of(text: str) -> Counter[str]:
    """Return how often each kind of syntax node occurs; none if the text is no Python."""
    try:
        return Counter(type(node).__name__ for node in ast.walk(ast.parse(text)))
    except (SyntaxError, ValueError):
        return Counter()


def added_up(counts: Sequence[Counter[str]]) -> Counter[str]:
    """Return the sum of counts."""
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return total


@task
def list_files(folder: str, limit: int | None) -> list[str]:
    """Return the files to read: how many there are is known only when this has run."""
    return find_sources(folder, limit)


@task(retries=2, retry_delay_seconds=1)
def read(path: str) -> str:
    """Return the text of a file."""
    return text_of(path)


@task(cache_policy=INPUTS)
def count_words(text: str) -> Counter[str]:
    """Return the words of one file."""
    return words_of(text)


@task(cache_policy=INPUTS)
def count_syntax(text: str) -> Counter[str]:
    """Return the kinds of syntax nodes of one file."""
    return syntax_of(text)


@task
def merge(words: Sequence[Counter[str]], syntax: Sequence[Counter[str]]) -> Counts:
    """Return the counts of all files."""
    return Counts(added_up(words), added_up(syntax))


@flow(name="word-count")
def word_count(folder: str, limit: int | None = None) -> Counts:
    """Count words and syntax of all Python files below a folder, or of the first `limit` of them."""
    texts = read.map(list_files(folder, limit))
    return merge(count_words.map(texts), count_syntax.map(texts))


def count_plainly(folder: str, limit: int | None = None) -> Counts:
    """Return the same answer by a plain loop, to compare with."""
    words, syntax = [], []
    for path in find_sources(folder, limit):
        text = text_of(path)
        words.append(words_of(text))
        syntax.append(syntax_of(text))
    return Counts(added_up(words), added_up(syntax))
