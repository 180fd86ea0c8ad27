"""Marks of runs that began while the catalog was locked: an empty file each, until the run is listed."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

__all__ = ["UNLISTED", "is_marked", "mark_listed", "mark_unlisted"]

UNLISTED = "unlisted"


def mark_unlisted(folder: Path, run_id: str) -> None:
    """Mark a run; where that fails, `graphflow fsck` still finds it."""
    with suppress(OSError):
        (folder / UNLISTED).mkdir(exist_ok=True, mode=0o700)
        (folder / UNLISTED / run_id).touch(mode=0o600)


def mark_listed(folder: Path, run_id: str) -> None:
    """Remove the mark of a run that is listed."""
    with suppress(OSError):
        (folder / UNLISTED / run_id).unlink(missing_ok=True)
        (folder / UNLISTED).rmdir()


def is_marked(folder: Path, run_id: str) -> bool:
    """Return whether a run is not listed yet."""
    return (folder / UNLISTED / run_id).exists()
