"""A few bytes beside a run's database that record its last commit, so that a lost end is noticed.

A write-ahead log ends at its first damaged page, and SQLite takes that for its end. The anchor is written after
each commit, into two slots by turns, and never synced: after a power cut it may be behind, which is harmless.
"""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from pathlib import Path

from graphflow.errors import HistoryError
from graphflow.histories.seals import NBYTES, Seal

__all__ = ["Anchor", "anchor_bytes", "read_anchor"]

NAME = "anchor"
_SLOT = struct.Struct(f"<8sq{NBYTES}s{NBYTES}s16x")
_MAGIC = b"gfanchor"


class Anchor:
    """The anchor as a run's driver writes it."""

    def __init__(self, folder: Path, seal: Seal) -> None:
        self._seal = seal
        path = folder / NAME
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise HistoryError(f"{path} cannot be opened: {error.strerror}") from error

    def use(self, seal: Seal) -> None:
        """Sign with the key that the run was begun with."""
        self._seal = seal

    def write(self, seq: int, head: bytes) -> None:
        """Record that this commit exists; a failure is harmless, as an anchor may be behind."""
        slot = _SLOT.pack(_MAGIC, seq, head, self._seal.anchor(seq, head))
        with suppress(OSError):
            os.pwrite(self._descriptor, slot, (seq & 1) * _SLOT.size)

    def close(self) -> None:
        """Close the file; calling it again does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def anchor_bytes(folder: Path) -> bytes | None:
    """Return the file as it is now; None where there is none."""
    try:
        with open(folder / NAME, "rb") as file:
            return file.read(2 * _SLOT.size + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HistoryError(f"{folder / NAME} cannot be read: {error.strerror}") from error


def read_anchor(content: bytes | None, seal: Seal) -> tuple[tuple[int, bytes] | None, bool]:
    """Return the newest commit that an anchor tells of, if any, and whether the file is as it was written."""
    if content is None:
        return None, False
    best: tuple[int, bytes] | None = None
    is_whole = len(content) % _SLOT.size == 0 and len(content) <= 2 * _SLOT.size
    for start in range(0, len(content) - _SLOT.size + 1, _SLOT.size):
        slot = content[start : start + _SLOT.size]
        magic, seq, head, mac = _SLOT.unpack(slot)
        if not any(slot):
            continue
        if magic != _MAGIC or mac != seal.anchor(seq, head):
            is_whole = False
        elif best is None or seq > best[0]:
            best = seq, head
    return best, is_whole
