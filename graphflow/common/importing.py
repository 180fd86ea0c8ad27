"""Modules that are being imported while a flow runs in them: other threads must not wait for the end of that."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

__all__ = ["RUN_IN_IMPORT", "modules_here", "without_waiting"]

RUN_IN_IMPORT: set[str] = set()
"""Modules in whose import a run began: a process that imports one of them begins that run too."""


def modules_here() -> Sequence[Any]:
    """Return the specs of the modules whose import this call is part of."""
    specs = []
    frame = sys._getframe()
    while (caller := frame.f_back) is not None:
        frame = caller
        if frame.f_code.co_name == "<module>":
            spec = frame.f_globals.get("__spec__")
            if spec is not None and getattr(spec, "_initializing", False):
                specs.append(spec)
    RUN_IN_IMPORT.update(spec.name for spec in specs)
    return specs


@contextmanager
def without_waiting(specs: Sequence[Any]) -> Iterator[None]:
    """Let other threads have modules as they are so far, while this one waits for these threads.

    A thread that pickles a value imports the module of its class. If that is only being imported, by a thread that waits for the value,
    both would wait for ever.
    """
    waiting = [spec for spec in specs if spec._initializing]
    for spec in waiting:
        spec._initializing = False
    try:
        yield
    finally:
        for spec in waiting:
            spec._initializing = True
