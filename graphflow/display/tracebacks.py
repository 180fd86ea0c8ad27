"""Tracebacks reduced to the frames of the user's own code."""

from __future__ import annotations

import os
import sysconfig
import traceback
from pathlib import Path

from graphflow.errors import MapFailed

__all__ = ["full_text", "user_text", "whole_text"]

_PACKAGE = str(Path(__file__).resolve().parents[1]) + os.sep
_EXAMPLES = os.path.join(_PACKAGE, "examples") + os.sep
_STDLIB = tuple({sysconfig.get_path("stdlib") + os.sep, sysconfig.get_path("platstdlib") + os.sep})
_MACHINERY = ("asyncio", "concurrent", "contextlib.py", "importlib", "runpy.py", "threading.py")
_PACKAGES = ("cloudpickle", "dask", "distributed", "pydantic", "pydantic_core", "tornado", "typer")


def is_user_frame(filename: str) -> bool:
    """Return whether a frame is the user's: not graphflow's, nor of the libraries below it."""
    if filename.startswith(_EXAMPLES):
        return True
    if filename.startswith((_PACKAGE, "<frozen importlib", "<frozen runpy")):
        return False
    parts = Path(filename).parts
    if "site-packages" in parts:
        return not set(parts) & set(_PACKAGES)
    for folder in _STDLIB:
        if filename.startswith(folder):
            return not filename[len(folder) :].startswith(_MACHINERY)
    return True


def user_text(error: BaseException) -> str:
    """Return the traceback of `error` with user frames only; empty if there are none."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_user_frame(frame.filename)]
    if not frames:
        return ""
    return "".join(["Traceback (user frames only):\n", *traceback.format_list(frames)]).rstrip()


def full_text(error: BaseException) -> str:
    """Return the whole traceback, with causes and groups."""
    return "".join(traceback.format_exception(error)).rstrip()


def whole_text(error: BaseException) -> str:
    """Return what Python would print of an uncaught error, with its causes and groups, but user frames only.

    The failures of a map are not among them: they are shown in groups.
    """
    shown = traceback.TracebackException.from_exception(error)
    if isinstance(error, MapFailed):
        shown.exceptions = None
    _keep_user_frames(shown, set())
    return "".join(shown.format()).rstrip()


def _keep_user_frames(shown: traceback.TracebackException | None, seen: set[int]) -> None:
    if shown is None or id(shown) in seen:
        return
    seen.add(id(shown))
    kept = [frame for frame in shown.stack if is_user_frame(frame.filename)]
    shown.stack = traceback.StackSummary.from_list(kept)
    for other in (shown.__cause__, shown.__context__, *(shown.exceptions or ())):
        _keep_user_frames(other, seen)
