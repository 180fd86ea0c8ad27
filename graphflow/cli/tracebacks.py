"""Tracebacks reduced to the frames of the user's own code."""

from __future__ import annotations

import os
import sysconfig
import traceback
from pathlib import Path

import graphflow

__all__ = ["full_text", "user_text"]

_PACKAGE = str(Path(graphflow.__file__).resolve().parent) + os.sep
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
