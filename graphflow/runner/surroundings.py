"""The working folder and the environment of the caller's process, which tasks in worker processes see as they are now."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

__all__ = ["Surroundings", "Watch", "apply"]


class Surroundings(NamedTuple):
    """What has changed since workers were started: the folder, and variables, of which None are those removed."""

    folder: str
    changes: Mapping[str, str | None]


class Watch:
    """Looks for changes in this process since this was made, as workers that it starts inherit what there is."""

    def __init__(self) -> None:
        self._folder = _folder()
        self._variables = dict(os.environ)

    def now(self) -> Surroundings | None:
        """Return what is different now, None if nothing is."""
        folder, variables = _folder(), dict(os.environ)
        if folder == self._folder and variables == self._variables:
            return None
        changes: dict[str, str | None] = {
            name: text for name, text in variables.items() if self._variables.get(name) != text
        }
        changes.update((name, None) for name in self._variables.keys() - variables.keys())
        return Surroundings(folder, changes)


class _Applied:
    """What this process began with, and what was applied last."""

    def __init__(self) -> None:
        self.folder = _folder()
        self.variables = dict(os.environ)
        self.last: Surroundings | None = None


_applied: _Applied | None = None


def apply(found: Surroundings | None) -> None:
    """Make a worker process look as the caller's does; None for what the process began with."""
    global _applied
    if _applied is None:
        if found is None:
            return
        _applied = _Applied()
    if found == _applied.last:
        return
    changes = {} if found is None else found.changes
    for name in _applied.last.changes if _applied.last is not None else ():
        if name not in changes:
            _set(name, _applied.variables.get(name))
    for name, text in changes.items():
        _set(name, text)
    with suppress(OSError):
        os.chdir(_applied.folder if found is None else found.folder)
    _applied.last = found


def _set(name: str, text: str | None) -> None:
    if text is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = text


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return os.sep
