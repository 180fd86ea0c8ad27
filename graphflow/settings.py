"""What is configured by the environment, and the one secret of an installation.

Nothing is read or written when this is imported.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from graphflow.errors import SettingsError

__all__ = ["history_kind", "home", "lease_seconds", "refresh_cache", "secret_key"]

LEASE_SECONDS = 30.0
KEY_NBYTES = 32


def home() -> Path:
    """The folder of histories and results: `GRAPHFLOW_HOME`, else the user's data folder."""
    given = os.environ.get("GRAPHFLOW_HOME")
    if given:
        return Path(given).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_data_dir("graphflow", appauthor=False))


def history_kind() -> str:
    """`GRAPHFLOW_HISTORY`: `disk` (the default), or `memory` for runs that leave nothing behind.

    Raises
    ------
    SettingsError
        If it is anything else.
    """
    given = os.environ.get("GRAPHFLOW_HISTORY", "disk") or "disk"
    if given not in ("disk", "memory"):
        raise SettingsError(f"GRAPHFLOW_HISTORY is {given!r}; it can be 'disk' or 'memory'")
    return given


def refresh_cache() -> bool:
    """`GRAPHFLOW_REFRESH_CACHE`: whether results are made anew although they are cached; false by default.

    Raises
    ------
    SettingsError
        If it is neither true nor false.
    """
    given = os.environ.get("GRAPHFLOW_REFRESH_CACHE", "").strip().lower()
    if given in ("", "0", "false", "no"):
        return False
    if given in ("1", "true", "yes"):
        return True
    raise SettingsError(f"GRAPHFLOW_REFRESH_CACHE is {given!r}; it can be 'true' or 'false'")


def lease_seconds() -> float:
    """`GRAPHFLOW_LEASE_SECONDS`: how long a driver that is not heard of keeps its run; 30 by default.

    Raises
    ------
    SettingsError
        If it is no positive number.
    """
    given = os.environ.get("GRAPHFLOW_LEASE_SECONDS")
    if not given:
        return LEASE_SECONDS
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds < float("inf"):
        raise SettingsError(f"GRAPHFLOW_LEASE_SECONDS is {given!r}; it is a positive number of seconds")
    return seconds


def secret_key(folder: Path | None = None) -> bytes:
    """The key that histories and results are signed with: 32 bytes, made at the first use, readable by its owner alone.

    Raises
    ------
    SettingsError
        If it cannot be read or made, is damaged, or is writable by others.
    """
    place = (home() if folder is None else folder) / "secret.key"
    try:
        return _read_key(place)
    except FileNotFoundError:
        pass
    try:
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = place.with_name(f"{place.name}.{os.getpid()}.{os.urandom(4).hex()}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(descriptor, os.urandom(KEY_NBYTES))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        try:
            # A link appears complete, and only once: of several processes one makes the key.
            os.link(temporary, place)
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
        return _read_key(place)
    except OSError as error:
        raise SettingsError(
            f"the key {place} cannot be made: {error.strerror}; set GRAPHFLOW_HOME to a folder that can be written"
        ) from error


def _read_key(place: Path) -> bytes:
    try:
        with open(place, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            key = file.read(KEY_NBYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise SettingsError(f"the key {place} cannot be read: {error.strerror}") from error
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise SettingsError(
            f"the key {place} can be written by others; make it yours alone: chmod 600 {place}"
        )
    if len(key) != KEY_NBYTES:
        raise SettingsError(f"the key {place} has {len(key)} bytes, not {KEY_NBYTES}; it is damaged")
    return key
