"""The crash journal: which item a worker executes, in a memory-mapped file that outlives the process.

One file per thread, 24 bytes: a token of the run, the batch, the map index (-1 for none, -2 for several).
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
import threading
from pathlib import Path

__all__ = ["SEVERAL", "CrashJournal", "executing"]

SEVERAL = -2
"""The map index of a call for several items: it is unknown which one ended the process."""

_LAYOUT = struct.Struct("<8sqq")
_PAIR = struct.Struct("<qq")


def _token(run_key: str) -> bytes:
    return hashlib.blake2b(run_key.encode(), digest_size=8).digest()


class CrashJournal:
    """The journal of the calling thread."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / f"{os.getpid()}-{threading.get_ident()}"
        with open(path, "w+b") as file:
            file.write(_LAYOUT.pack(bytes(8), 0, -1))
            file.flush()
            self._map = mmap.mmap(file.fileno(), _LAYOUT.size)

    def begin(self, run_key: str) -> None:
        """Begin notes about batches of this run."""
        self._map[:8] = _token(run_key)

    def note(self, batch: int, index: int) -> None:
        """Note that this item of this batch is executed now."""
        _PAIR.pack_into(self._map, 8, batch, index)


def executing(folder: Path, run_key: str, batch: int) -> int | None:
    """Return the index that a batch was executing when its process died, or `SEVERAL`; None if no journal names the batch."""
    token = _token(run_key)
    try:
        paths = list(folder.iterdir())
    except OSError:
        return None
    for path in paths:
        try:
            run, noted, index = _LAYOUT.unpack(path.read_bytes()[: _LAYOUT.size])
        except (OSError, struct.error):
            continue
        if run == token and noted == batch and index != -1:
            return int(index)
    return None
