"""Who asks for a change: what audit events tell, set by the server for each request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["ACTOR", "acting"]

ACTOR: ContextVar[Mapping[str, str]] = ContextVar("graphflow_actor", default={})  # noqa: B039
"""`who` asks, and `from` where; empty for a person at this machine's command line."""


@contextmanager
def acting(who: str, address: str) -> Iterator[None]:
    """Name who asks for what happens in the context."""
    token = ACTOR.set({"who": who, "from": address})
    try:
        yield
    finally:
        ACTOR.reset(token)
