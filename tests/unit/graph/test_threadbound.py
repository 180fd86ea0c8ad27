"""Cursors of SQLite as sources of maps: listed where they were made, or refused."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from graphflow.errors import MapTypeError
from graphflow.graph.threadbound import read_where_made


def cursor(**options: Any) -> sqlite3.Cursor:
    db = sqlite3.connect(":memory:", **options)
    db.execute("create table t (x)")
    db.executemany("insert into t values (?)", [(n,) for n in range(5)])
    return db.execute("select x from t order by x")


def yielding(rows: sqlite3.Cursor) -> Iterator[Any]:
    yield from rows


def asking(db: sqlite3.Connection) -> Iterator[Any]:
    while True:
        yield db.execute("select 1").fetchone()


OVER: list[Callable[[sqlite3.Cursor], Any]] = [
    lambda rows: rows,
    lambda rows: (x for (x,) in rows),
    lambda rows: map(str, rows),
    lambda rows: enumerate(rows),
    lambda rows: zip(rows, itertools.count()),
    lambda rows: itertools.islice(rows, 3),
    lambda rows: (x + 1 for x in (x for (x,) in rows)),
    lambda rows: map(str, (x for (x,) in rows)),
]


@pytest.mark.parametrize("number", range(len(OVER)))
def test_what_ends_with_its_cursor_is_listed(number: int) -> None:
    found = read_where_made(OVER[number](cursor()))
    assert type(found) is list and found == list(OVER[number](cursor()))


@pytest.mark.parametrize("make", [yielding, lambda rows: asking(rows.connection)])
def test_a_generator_that_uses_a_cursor_is_refused(make: Callable[[sqlite3.Cursor], Any]) -> None:
    with pytest.raises(MapTypeError, match=r"uses a sqlite3\.C\w+, which can be used only in the thread"):
        read_where_made(make(cursor()))


@pytest.mark.parametrize("make", [*OVER, yielding])
def test_a_cursor_that_any_thread_may_use_is_read_as_it_is(make: Callable[[sqlite3.Cursor], Any]) -> None:
    source = make(cursor(check_same_thread=False))
    assert read_where_made(source) is source


def test_other_iterators_are_left_alone() -> None:
    def opens() -> Iterator[Any]:
        yield from cursor()

    for source in (iter([1]), opens(), (n for n in range(3)), itertools.count()):
        assert read_where_made(source) is source
