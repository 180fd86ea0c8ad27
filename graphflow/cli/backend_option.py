"""The `--backend` option."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from graphflow.ports import Backend

__all__ = ["BackendSpec", "opened", "parse_backend"]

_NAMES = ("local", "inline", "threads", "processes")
_LOCAL = re.compile(r"(?P<name>local|threads|processes)(:(?P<slots>.*))?")
_ADDRESS = re.compile(r"[a-z][a-z0-9+]*://.+")


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendSpec:
    """Where to run: one of the names with its slots, an address, or a scheduler file."""

    name: str = ""
    slots: int | None = None
    address: str | None = None
    scheduler_file: str | None = None


def parse_backend(text: str) -> BackendSpec:
    """Return what a `--backend` asks for; raise Typer's usage error if it has none of the forms."""
    if text == "inline":
        return BackendSpec(name="inline")
    if match := _LOCAL.fullmatch(text):
        return BackendSpec(name=match["name"], slots=_slots(match["slots"], text))
    if _ADDRESS.fullmatch(text):
        return BackendSpec(name="dask", address=text)
    if text.endswith(".json"):
        if not Path(text).is_file():
            raise typer.BadParameter(f"there is no scheduler file {text!r}")
        return BackendSpec(name="dask", scheduler_file=text)
    close = difflib.get_close_matches(text.partition(":")[0], _NAMES, n=1)
    hint = f". Did you mean {close[0]!r}?" if close else ""
    raise typer.BadParameter(
        f"unknown backend {text!r}; use local[:N], inline, threads[:N], processes[:N], tcp://host:port, "
        f"tls://host:port, or the path of a scheduler file (.json){hint}"
    )


def _slots(text: str | None, whole: str) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise typer.BadParameter(
            f"{whole!r}: the number of slots must be a whole number of at least 1, not {text!r}"
        )
    return int(text)


@contextmanager
def opened(spec: BackendSpec | None) -> Iterator[Backend | None]:
    """Open the backend of a spec, and close it at the end; None leaves the choice to the flow."""
    if spec is None:
        yield None
        return
    backend = _make(spec)
    try:
        if spec.name == "dask":
            # What cannot be reached leaves no run behind.
            backend.start()
        yield backend
    finally:
        backend.close()


def _make(spec: BackendSpec) -> Backend:
    from graphflow import backends

    match spec.name:
        case "inline":
            return backends.inline()
        case "local":
            return backends.local(slots=spec.slots)
        case "threads":
            return backends.threads(slots=spec.slots)
        case "processes":
            return backends.processes(slots=spec.slots)
        case _ if spec.address is not None:
            return backends.dask(address=spec.address)
        case _:
            return backends.dask(scheduler_file=spec.scheduler_file)
