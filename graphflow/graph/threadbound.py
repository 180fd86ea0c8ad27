"""Iterators that may be read only in the thread that made them: cursors of SQLite, and what reads them."""

from __future__ import annotations

import gc
import sys
import threading
import types
from collections.abc import Iterator
from itertools import islice
from typing import Any

from graphflow.errors import MapTypeError

__all__ = ["read_where_made"]

MAX_LOOKED_AT = 100
_LAZY = (map, zip, filter, enumerate, reversed)


def read_where_made(iterator: Any) -> Any:
    """Return a list of what an iterator yields, if it can be read in this thread only; else the iterator itself.

    Raises
    ------
    MapTypeError
        If it can be read here only, and may be endless: a generator that uses such a cursor or connection.
    """
    sqlite3 = sys.modules.get("sqlite3")
    if sqlite3 is None:
        return iterator
    # Cursors first: they have a connection.
    kinds = sqlite3.Cursor, sqlite3.Connection
    if isinstance(iterator, kinds[0]):
        return list(iterator) if _is_bound(iterator, sqlite3) else iterator
    found = next((each for each in _reached(iterator, kinds) if _is_bound(each, sqlite3)), None)
    if found is None:
        return iterator
    if isinstance(found, kinds[0]) and _is_over(iterator, found):
        return list(iterator)
    raise MapTypeError(
        f"{type(iterator).__name__} {getattr(iterator, '__qualname__', '')} uses {_named(found)}, which can be used only in the thread that "
        "made it, and iterators are read in another one; open the connection inside the generator, or with "
        "check_same_thread=False, or pass list(...) of it"
    )


def _named(found: Any) -> str:
    return f"a {type(found).__module__}.{type(found).__qualname__}"


def _is_bound(found: Any, sqlite3: Any) -> bool:
    """Return whether a cursor or connection refuses another thread, by asking in one."""
    connection = getattr(found, "connection", found)
    refused: list[bool] = []

    def ask() -> None:
        try:
            connection.cursor()
        except sqlite3.ProgrammingError as error:
            refused.append("thread" in str(error))

    # No `Service`: one question.
    thread = threading.Thread(target=ask, name="graphflow-source")
    thread.start()
    thread.join()
    return refused == [True]


def _is_over(iterator: Any, cursor: Any) -> bool:
    """Return whether an iterator ends with the cursor that it reads: a generator expression, `map`, `zip` and the like."""
    if type(iterator) is types.GeneratorType:
        frame = iterator.gi_frame
        return (
            iterator.__name__ == "<genexpr>"
            and frame is not None
            and _leads(frame.f_locals.get(".0"), cursor)
        )
    return (isinstance(iterator, _LAZY) or type(iterator).__module__ == "itertools") and any(
        _leads(each, cursor) for each in gc.get_referents(iterator)
    )


def _leads(source: Any, cursor: Any) -> bool:
    if isinstance(source, tuple):
        return any(_leads(each, cursor) for each in source)
    return source is cursor or _is_over(source, cursor)


def _reached(iterator: Any, kinds: tuple[type, ...]) -> Iterator[Any]:
    """Yield what an iterator refers to of these kinds: through other iterators, and the variables of generators."""
    left: list[Any] = [iterator]
    seen: set[int] = set()
    while left and len(seen) < MAX_LOOKED_AT:
        each = left.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, kinds):
            yield each
        elif type(each) is types.GeneratorType:
            frame = each.gi_frame
            if frame is not None:
                names = frame.f_code.co_names
                left += frame.f_locals.values()
                left += [frame.f_globals[name] for name in names if name in frame.f_globals]
        elif isinstance(each, tuple) or hasattr(type(each), "__next__") or isinstance(each, types.MethodType):
            left += islice(gc.get_referents(each), MAX_LOOKED_AT)
