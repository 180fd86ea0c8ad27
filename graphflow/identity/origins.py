"""Where modules come from: the user's project, or what is installed."""

from __future__ import annotations

import functools
import os
import site
import sys
import sysconfig
import types
from pathlib import Path

__all__ = ["is_installed", "module_name"]


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


def module_name(module: str) -> str:
    """Return the name that a script's functions have where it is imported, rather than started."""
    if module not in ("__main__", "__mp_main__"):
        return module
    main = sys.modules.get(module)
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name:
        return str(spec.name).removesuffix(".__main__")
    path = getattr(main, "__file__", None)
    return os.path.splitext(os.path.basename(path))[0] if path else "__main__"
