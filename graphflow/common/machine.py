"""What this machine says of itself and of its processes, where it does (Linux)."""

from __future__ import annotations

import functools
import os
from pathlib import Path

__all__ = ["boot_id", "is_stopped", "lockers"]


@functools.cache
def boot_id() -> str:
    """Return what names one boot of one machine; empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def lockers(path: Path) -> list[int]:
    """Return the processes that hold a lock for writing on a file, without opening it: closing it would drop our own locks."""
    try:
        found = os.stat(path)
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return []
    place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    pids: list[int] = []
    for line in lines:
        # 1: POSIX  ADVISORY  WRITE 4242 fe:01:3407 1073741825 1073741825; who waits has an arrow.
        words = line.split()
        if "->" not in words and place in words and "WRITE" in words:
            pid = words[words.index("WRITE") + 1]
            if pid.isdigit() and int(pid) not in pids:
                pids.append(int(pid))
    return pids


def is_stopped(pid: int) -> bool:
    """Return whether a process is stopped by a signal."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("T", "t")
    except (OSError, IndexError):
        return False
