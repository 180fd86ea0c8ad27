"""Processes that tasks start in worker processes: they work as they do in the caller's process."""

from __future__ import annotations

import functools
import multiprocessing
import pickle
import types
from multiprocessing.reduction import ForkingPickler
from typing import Any

from graphflow.common.pickling import dumps

__all__ = ["allow_children"]


@functools.cache
def allow_children() -> None:
    """Let tasks of this process use `multiprocessing`, from the next item on; calling it again does nothing.

    It refuses children to daemons, as Dask's workers are; these stay daemons to their parent. Functions and classes of the
    script travel to children by value, since `__main__` is another module here.
    """
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    ForkingPickler.reducer_override = _by_value  # type: ignore[method-assign]


def _by_value(pickler: Any, value: Any) -> Any:
    if isinstance(value, types.FunctionType | type) and value.__module__ == "__main__":
        return pickle.loads, (dumps(value),)
    return NotImplemented
