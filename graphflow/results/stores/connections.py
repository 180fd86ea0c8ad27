"""The file systems that this process uses: one per place and options.

A forked child makes its own, since fsspec's thread and its connections stay behind with the parent.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from graphflow.results.stores.filesystems import Files, FileSystem, Memory
from graphflow.results.stores.locations import Location
from graphflow.results.stores.s3 import S3, Client

__all__ = ["file_system"]

WHOLE_PUTS = ("abfs", "abfss", "adl", "az", "gcs", "gs", "oci", "oss")
"""Protocols of which an object appears at the end of its upload, or not at all."""


MOST = 64
"""As many are kept; the one that was not used for the longest time is closed."""

T = TypeVar("T")


def file_system(
    location: Location, options: Mapping[str, Any], *, frozen_options: Any, timeout_seconds: float
) -> FileSystem:
    """Return the file system of a place: the same one for the same options, in each process.

    `timeout_seconds` is for one request, where the file system can keep that.

    Raises
    ------
    ImportError, ValueError, TypeError, OSError
        If there is no such file system, or it does not take the options.
    """
    if location.is_s3:
        # Credentials that were renewed in the environment are used at once.
        key = ("s3", frozen_options, _environment())
        return S3(_the(key, lambda: Client(options)), location, timeout_seconds=timeout_seconds)
    return _the((location.url, frozen_options), lambda: _open(location, options))


def _open(location: Location, options: Mapping[str, Any]) -> FileSystem:
    from fsspec.core import url_to_fs

    # Listings that fsspec remembers would hide what others write.
    fs, root = url_to_fs(location.url, **{"use_listings_cache": False, **options})
    if location.protocol == "memory":
        return Memory(fs, root, puts_whole=True)
    return Files(fs, root, puts_whole=location.protocol in WHOLE_PUTS)


def _the(key: Any, make: Callable[[], T]) -> T:
    with _lock:
        found: T | None = _known.get(key)
        if found is None:
            found = _known[key] = make()
            if len(_known) > MOST:
                _known.popitem(last=False)
        _known.move_to_end(key)
        return found


def _environment() -> int:
    return hash(tuple(item for item in os.environ.items() if item[0].startswith(("AWS_", "FSSPEC_"))))


_known: OrderedDict[Any, Any] = OrderedDict()
_left_behind: list[Any] = []
_lock = threading.Lock()


def _begin_anew() -> None:
    global _lock
    _lock = threading.Lock()
    # Not let go: closing them would reach into what the parent's thread still uses.
    _left_behind.extend(_known.values())
    _known.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
