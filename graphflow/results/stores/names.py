"""Names of objects in a result store: what can be one, so that no name leads out of the store's own place."""

from __future__ import annotations

from graphflow.errors import ResultStoreError

__all__ = ["MAX_NAME_NBYTES", "MAX_SEGMENT_NBYTES", "check_name", "check_prefix", "probe_name"]

MAX_SEGMENT_NBYTES = 200
"""A file's name has at most 255 bytes, some of which temporary files need."""

MAX_NAME_NBYTES = 700
"""A key of S3 has at most 1,024 bytes, with the prefix of the store."""


def check_name(name: str) -> None:
    """Refuse a name that would lead out of its place, or not be listed.

    Raises
    ------
    ResultStoreError
        If it, or a segment of it, is empty, too long, begins with a dot, or holds a backslash or a control character.
    """
    if len(name.encode(errors="replace")) > MAX_NAME_NBYTES or not all(map(_is_segment, name.split("/"))):
        raise ResultStoreError(
            f"{name!r} cannot name a result: names are segments separated by slashes, {MAX_NAME_NBYTES} bytes at most in "
            f"all; a segment has 1 to {MAX_SEGMENT_NBYTES} bytes, does not begin with a dot, and contains no backslash or "
            "control character"
        )


def check_prefix(prefix: str) -> None:
    """Refuse a prefix that no name can begin with.

    Raises
    ------
    ResultStoreError
        As `check_name` does.
    """
    if prefix:
        check_name(prefix.removesuffix("/"))


def probe_name(token: str) -> str:
    """Return the name of an object that is there to see whether the store works."""
    return f"probe-{token}"


def _is_segment(segment: str) -> bool:
    return (
        0 < len(segment.encode(errors="replace")) <= MAX_SEGMENT_NBYTES
        and segment[0] != "."
        and "\\" not in segment
        and segment.isprintable()
    )
