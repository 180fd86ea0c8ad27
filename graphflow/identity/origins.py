"""Where modules come from: the user's project, or what is installed."""

from __future__ import annotations

import functools
import site
import sysconfig
import types
from pathlib import Path

__all__ = ["is_installed"]


def is_installed(module: types.ModuleType) -> bool:
    """Return whether a module is part of Python or of an installed package, or graphflow's own; else it is the user's."""
    path = getattr(module, "__file__", None)
    # A script, a notebook or a prompt may have no file.
    if path is None or module.__name__.partition(".")[0] == "graphflow":
        return module.__name__ != "__main__"
    return _is_installed_file(path)


@functools.lru_cache(maxsize=4096)
def _is_installed_file(path: str) -> bool:
    return any(Path(path).is_relative_to(place) for place in _installed_places())


@functools.cache
def _installed_places() -> tuple[str, ...]:
    places = (*sysconfig.get_paths().values(), *site.getsitepackages(), site.getusersitepackages())
    return tuple(place for place in places if place)
