"""What a process and its descendants have used: memory and CPU time."""

from __future__ import annotations

import gc
import resource
import sys
from contextlib import suppress
from pathlib import Path

import psutil  # distributed brings it

__all__ = ["cpu_seconds_of_tree", "forget_peak_rss", "peak_rss", "rss", "rss_of_tree"]


def rss() -> int:
    """Return the resident bytes of this process."""
    return int(psutil.Process().memory_info().rss)


def peak_rss() -> int:
    """Return the most resident bytes that this process had, since `forget_peak_rss` where the system can tell."""
    with suppress(OSError, ValueError):
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        # ru_maxrss would also count the process that started this one: it survives exec.
        return int(status.partition("VmHWM:")[2].split(None, 1)[0]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def forget_peak_rss() -> None:
    """Reset `peak_rss`; Linux only."""
    gc.collect()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _tree(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def cpu_seconds_of_tree() -> float:
    """Return the CPU seconds of this process and its descendants, including ended ones."""
    total = 0.0
    for process in _tree(psutil.Process()):
        with suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
            total += getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    return total


def rss_of_tree(pid: int) -> int:
    """Return the resident bytes of a process and its descendants; shared pages count once for each."""
    total = 0
    with suppress(psutil.Error):
        for process in _tree(psutil.Process(pid)):
            with suppress(psutil.Error):
                total += process.memory_info().rss
    return total
