"""Where a measurement was taken: versions, machine and commit; no names of hosts, users or folders."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import graphflow

__all__ = ["commit", "machine", "version_of", "versions"]


def version_of(package: str) -> str:
    """Return the installed version of a distribution, or an empty text."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of Python and of installed `packages`."""
    found = {package: version_of(package) for package in packages}
    return {"python": platform.python_version(), **{name: text for name, text in found.items() if text}}


def machine() -> dict[str, int | str]:
    """Cores, system and architecture."""
    return {"cpus": os.cpu_count() or 0, "system": platform.system(), "arch": platform.machine()}


@functools.cache
def commit() -> str:
    """Return the commit that graphflow runs from, with `-dirty` after changes; empty for an installed package."""
    root = Path(graphflow.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()
