"""The file systems that this process uses: one per place and options.

A forked child makes its own, since fsspec's thread and its connections stay behind with the parent.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import Any

from graphflow.results.filesystems import Files, FileSystem, Memory
from graphflow.results.locations import Location
from graphflow.results.s3 import S3

__all__ = ["file_system"]

WHOLE_PUTS = ("abfs", "abfss", "adl", "az", "gcs", "gs", "oci", "oss")
"""Protocols of which an object appears at the end of its upload, or not at all."""


def file_system(location: Location, options: Mapping[str, Any], frozen_options: Any) -> FileSystem:
    """The file system of a place: the same one for the same options, in each process.

    Raises
    ------
    ImportError, ValueError, TypeError
        If there is no such file system, or it does not take the options.
    """
    key = (location.url, frozen_options)
    with _lock:
        found = _known.get(key)
        if found is None:
            found = _known[key] = _open(location, options)
        return found


def _open(location: Location, options: Mapping[str, Any]) -> FileSystem:
    if location.is_s3:
        return S3(location, options)
    from fsspec.core import url_to_fs

    # Listings that fsspec remembers would hide what others write.
    fs, root = url_to_fs(location.url, **{"use_listings_cache": False, **options})
    if location.protocol == "memory":
        return Memory(fs, root, puts_whole=True)
    return Files(fs, root, puts_whole=location.protocol in WHOLE_PUTS)


_known: dict[Any, FileSystem] = {}
_left_behind: list[FileSystem] = []
_lock = threading.Lock()


def _begin_anew() -> None:
    global _lock
    _lock = threading.Lock()
    # Not let go: closing them would reach into what the parent's thread still uses.
    _left_behind.extend(_known.values())
    _known.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
