"""`graphflow.connect_async()`: a connection whose calls are awaited; each runs in a thread beside the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Self

from graphflow.client.connections import (
    Connection,
    Deployments,
    Events,
    Pools,
    RemoteDeployment,
    RemoteRun,
    Tokens,
    connect,
)
from graphflow.client.governing import Automations, Hooks, Limits, Rates

__all__ = ["AsyncConnection", "connect_async"]

_PARTS = (
    Automations,
    Connection,
    Deployments,
    Events,
    Hooks,
    Limits,
    Pools,
    Rates,
    RemoteDeployment,
    RemoteRun,
    Tokens,
)
_END = object()


def connect_async(
    url: str | None = None, *, token: str | None = None, home: str | Path | None = None
) -> AsyncConnection:
    """Connect as `graphflow.connect` does; an asynchronous context manager.

    Methods, and properties that ask, are awaited: `await run.wait()`, `(await run.nodes)["fetch"].counts`. What yields is iterated
    with `async for`.
    """
    return AsyncConnection(connect(url, token=token, home=home))


class _Awaited:
    """Some part of a connection, with calls that are awaited."""

    def __init__(self, part: Any) -> None:
        self._part = part

    def __repr__(self) -> str:
        return f"<async {self._part!r}>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if isinstance(getattr(type(self._part), name, None), property):
            return _in_thread(lambda: getattr(self._part, name))
        found = getattr(self._part, name)
        return _awaited_call(found) if callable(found) else _wrapped(found)

    def __getitem__(self, name: str) -> Any:
        """Return a deployment, which asks nothing yet; all else is awaited."""
        if isinstance(self._part, Deployments):
            return _wrapped(self._part[name])
        return _in_thread(lambda: self._part[name])

    def __aiter__(self) -> AsyncIterator[Any]:
        return _iterated(lambda: iter(self._part))


class AsyncConnection(_Awaited):
    """A home, here or behind a server."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await _in_thread(self._part.close)


def _awaited_call(method: Callable[..., Any]) -> Callable[..., Any]:
    name = method.__name__
    if name in ("runs", "items", "logs", "follow"):
        return lambda *args, **options: _iterated(lambda: method(*args, **options))
    return lambda *args, **options: _in_thread(lambda: method(*args, **options))


async def _in_thread(function: Callable[[], Any]) -> Any:
    return _wrapped(await asyncio.to_thread(function))


async def _iterated(begin: Callable[[], Iterator[Any]]) -> AsyncIterator[Any]:
    iterator = await asyncio.to_thread(begin)
    while (each := await asyncio.to_thread(next, iterator, _END)) is not _END:
        yield _wrapped(each)


def _wrapped(value: Any) -> Any:
    return _Awaited(value) if isinstance(value, _PARTS) else value
