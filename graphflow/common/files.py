"""Files that users name: never replaced unasked, never opened up, and never written through a link."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TextIO

__all__ = ["open_file", "write_file"]

MODE = 0o600
"""Of new files: what they hold may be for their owner alone."""


def write_file(place: Path, data: bytes, *, overwrites: bool) -> None:
    """Write a file in one step; one that is replaced keeps its mode.

    Raises
    ------
    ValueError
        If something is there that must not be replaced, or the file cannot be written.
    """
    try:
        before = _checked(place, overwrites=overwrites)
        temporary = place.with_name(f".{place.name}.{os.getpid()}.{os.urandom(4).hex()}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
                if before is not None:
                    os.fchmod(descriptor, before)
            if overwrites:
                os.replace(temporary, place)
            else:
                # Unlike a rename, it fails where somebody else was quicker.
                os.link(temporary, place)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
    except OSError as error:
        raise _problem(place, error) from error


def open_file(place: Path, *, overwrites: bool) -> TextIO:
    """Open a file that is written line by line; an existing one is emptied and keeps its mode.

    Raises
    ------
    ValueError
        As `write_file` does.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | (0 if overwrites else os.O_EXCL)
    try:
        _checked(place, overwrites=overwrites)
        descriptor = os.open(place, flags, MODE)
        os.ftruncate(descriptor, 0)
        return open(descriptor, "w", encoding="utf-8")
    except OSError as error:
        raise _problem(place, error) from error


def _checked(place: Path, *, overwrites: bool) -> int | None:
    """Return the mode of what may be replaced; None where there is nothing."""
    try:
        found = os.lstat(place)
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(found.st_mode):
        raise ValueError(f"{place} is a link, which is not followed; use the name of its target")
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{place} is not a file; use another name")
    if not overwrites:
        raise ValueError(f"{place} already exists; use another name, or --overwrite")
    return stat.S_IMODE(found.st_mode) & 0o777


def _problem(place: Path, error: OSError) -> ValueError:
    if isinstance(error, FileExistsError):
        return ValueError(f"{place} already exists; use another name, or --overwrite")
    return ValueError(f"cannot write {str(place)!r}: {error.strerror}")
