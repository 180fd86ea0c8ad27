"""Worker processes that do not import the user's script again.

`multiprocessing` spawns a child by importing the parent's `__main__` in it; a script without a guard
then starts itself once more in each worker. Functions of `__main__` travel by value, so workers do not
need it: for Dask's worker processes, and only for them, the script is left out.
"""

from __future__ import annotations

import multiprocessing.spawn
import threading
from typing import Any

__all__ = ["leave_main_out"]

_WORKER = "Dask Worker process"
_lock = threading.Lock()


def leave_main_out() -> None:
    """Make Dask's workers start without the parent's `__main__`; calling it again does nothing."""
    with _lock:
        prepare = multiprocessing.spawn.get_preparation_data
        if getattr(prepare, "leaves_main_out", False):
            return

        def preparation(name: str) -> dict[str, Any]:
            data: dict[str, Any] = prepare(name)
            if str(name).startswith(_WORKER):
                data.pop("init_main_from_name", None)
                data.pop("init_main_from_path", None)
            return data

        preparation.leaves_main_out = True  # type: ignore[attr-defined]
        multiprocessing.spawn.get_preparation_data = preparation
