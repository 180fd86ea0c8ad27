"""Settings from the environment, and the secret keys of an installation.

Nothing is read or written when this is imported.
"""

from __future__ import annotations

import functools
import json
import os
import re
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

from graphflow.errors import SettingsError

__all__ = [
    "KEY_FILE",
    "KEY_FILE_VARIABLE",
    "KEY_NBYTES",
    "KEY_VARIABLE",
    "OLD_KEY_FILES",
    "given_key",
    "history_kind",
    "home",
    "lease_seconds",
    "read_key",
    "refresh_cache",
    "result_storage",
    "result_storage_options",
    "secret_key",
    "secret_keys",
    "shown",
    "volatile_key",
    "store_attempts",
    "store_retry_seconds",
    "store_timeout_seconds",
]

LEASE_SECONDS = 30.0
_SECRET = re.compile(r"SECRET|TOKEN|PASSW|CREDENTIAL|_KEY$")
_USER_INFO = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*://)[^/@\s]*@")
STORE_ATTEMPTS = 6
STORE_RETRY_SECONDS = 60.0
STORE_TIMEOUT_SECONDS = 30.0
KEY_NBYTES = 32
KEY_VARIABLE = "GRAPHFLOW_SECRET_KEY"
KEY_FILE_VARIABLE = "GRAPHFLOW_SECRET_KEY_FILE"
KEY_FILE = "secret.key"
KEY_COPY = "secret.key.copy"
"""The same key again: with a key that is lost or damaged, nothing that it signed could be verified."""
OLD_KEY_FILES = "secret.key.old*"
"""Earlier keys, which sign nothing any more."""


def home() -> Path:
    """Return the folder of histories and results: `GRAPHFLOW_HOME`, else the user's data folder."""
    given = os.environ.get("GRAPHFLOW_HOME")
    if given:
        return Path(given).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_data_dir("graphflow", appauthor=False))


def shown() -> dict[str, str]:
    """Return graphflow's environment variables, without what is or may be secret."""
    found: dict[str, str] = {}
    for name in sorted(os.environ):
        if name.startswith("GRAPHFLOW_"):
            is_secret = name == KEY_VARIABLE or name.endswith("_OPTIONS") or _SECRET.search(name) is not None
            found[name] = "***" if is_secret else _USER_INFO.sub(r"\1***@", os.environ[name])
    return found


def history_kind() -> str:
    """Return `GRAPHFLOW_HISTORY`: `disk` (the default), or `memory` for runs that leave nothing behind.

    Raises
    ------
    SettingsError
        If it is anything else.
    """
    given = os.environ.get("GRAPHFLOW_HISTORY", "disk") or "disk"
    if given not in ("disk", "memory"):
        raise SettingsError(f"GRAPHFLOW_HISTORY is {given!r}; use 'disk' or 'memory'")
    return given


def refresh_cache() -> bool:
    """Return `GRAPHFLOW_REFRESH_CACHE`: whether to recompute cached results; false by default.

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
    raise SettingsError(f"GRAPHFLOW_REFRESH_CACHE is {given!r}; use 'true' or 'false'")


def lease_seconds() -> float:
    """Return `GRAPHFLOW_LEASE_SECONDS`: how long a driver keeps its run without renewing its lease; 30 by default.

    Raises
    ------
    SettingsError
        If it is not a positive number.
    """
    return _positive("GRAPHFLOW_LEASE_SECONDS", LEASE_SECONDS)


# -- result stores -----------------------------------------------------------------------------------------


def result_storage() -> str | None:
    """Return `GRAPHFLOW_RESULT_STORAGE`: the URL or folder of results; None for the default, `<home>/results`."""
    return os.environ.get("GRAPHFLOW_RESULT_STORAGE") or None


def result_storage_options() -> dict[str, Any]:
    """Return `GRAPHFLOW_RESULT_STORAGE_OPTIONS`: options for fsspec's file system, as a JSON object; may contain credentials.

    Raises
    ------
    SettingsError
        If it is not a JSON object; its text is not shown.
    """
    given = os.environ.get("GRAPHFLOW_RESULT_STORAGE_OPTIONS")
    if not given:
        return {}
    try:
        options = json.loads(given)
    except ValueError:
        options = None
    if not isinstance(options, dict):
        raise SettingsError(
            "GRAPHFLOW_RESULT_STORAGE_OPTIONS is not a JSON object; use, for example, "
            '{"endpoint_url": "https://storage.example.com"}'
        )
    return options


def store_attempts() -> int:
    """Return `GRAPHFLOW_STORE_ATTEMPTS`: the total attempts of a request to a remote store; 6 by default.

    Raises
    ------
    SettingsError
        If it is not a positive integer.
    """
    given = os.environ.get("GRAPHFLOW_STORE_ATTEMPTS")
    if not given:
        return STORE_ATTEMPTS
    if not given.isdecimal() or int(given) < 1:
        raise SettingsError(f"GRAPHFLOW_STORE_ATTEMPTS is {given!r}; use a positive integer")
    return int(given)


def store_retry_seconds() -> float:
    """Return `GRAPHFLOW_STORE_RETRY_SECONDS`: the time after which no further attempt starts; 60 by default.

    Raises
    ------
    SettingsError
        If it is not a positive number.
    """
    return _positive("GRAPHFLOW_STORE_RETRY_SECONDS", STORE_RETRY_SECONDS)


def store_timeout_seconds() -> float:
    """Return `GRAPHFLOW_STORE_TIMEOUT_SECONDS`: the time limit of one attempt, plus a second per MiB; 30 by default.

    Raises
    ------
    SettingsError
        If it is not a positive number.
    """
    return _positive("GRAPHFLOW_STORE_TIMEOUT_SECONDS", STORE_TIMEOUT_SECONDS)


def _positive(name: str, default: float) -> float:
    given = os.environ.get(name)
    if not given:
        return default
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds < float("inf"):
        raise SettingsError(f"{name} is {given!r}; use a positive number of seconds")
    return seconds


# -- keys --------------------------------------------------------------------------------------------------


def secret_key(folder: Path | None = None) -> bytes:
    """Return the key that histories and results are signed with: 32 bytes.

    It is `GRAPHFLOW_SECRET_KEY` (hexadecimal), else in the file of `GRAPHFLOW_SECRET_KEY_FILE`, else in `secret.key` of
    the home, made at the first use and readable by its owner alone.

    Raises
    ------
    SettingsError
        If it cannot be read or made, is damaged, or is writable by others.
    """
    given = given_key()
    return _own_key(home() if folder is None else folder) if given is None else given


def secret_keys(folder: Path | None = None) -> tuple[bytes, ...]:
    """Return all keys whose signatures are accepted: `secret_key` first, then older ones (`secret.key.old*` of the home).

    Raises
    ------
    SettingsError
        As `secret_key` does.
    """
    place = home() if folder is None else folder
    keys = [secret_key(place)]
    if (place / KEY_FILE).exists():
        keys.append(_own_key(place))
    keys += [read_key(each) for each in sorted(place.glob(OLD_KEY_FILES), reverse=True)]
    return tuple(dict.fromkeys(keys))


@functools.cache
def volatile_key() -> bytes:
    """What is signed with that no other process ever sees; made by each process, and kept nowhere."""
    return os.urandom(KEY_NBYTES)


def given_key() -> bytes | None:
    """Return the key that the environment gives, for machines that share a store.

    Raises
    ------
    SettingsError
        If it is not a key; its text is not shown.
    """
    text = os.environ.get(KEY_VARIABLE)
    if text:
        try:
            key = bytes.fromhex(text.strip())
        except ValueError:
            key = b""
        if len(key) != KEY_NBYTES:
            raise SettingsError(f"{KEY_VARIABLE} is not a key; use {2 * KEY_NBYTES} hexadecimal digits")
        return key
    file = os.environ.get(KEY_FILE_VARIABLE)
    if not file:
        return None
    try:
        return read_key(Path(file).expanduser())
    except FileNotFoundError as error:
        raise SettingsError(f"there is no file {file}, which {KEY_FILE_VARIABLE} names") from error


def _own_key(folder: Path) -> bytes:
    place = folder / KEY_FILE
    try:
        key = read_key(place)
    except FileNotFoundError:
        key = _made_key(folder, place)
    if not (folder / KEY_COPY).exists():
        # A home that cannot be written to has no copy.
        with suppress(OSError):
            write_key(folder / KEY_COPY, key, replaces=False)
    return key


def _made_key(folder: Path, place: Path) -> bytes:
    """Make the key of a home; one that is gone comes back from its copy."""
    try:
        key = read_key(folder / KEY_COPY)
    except FileNotFoundError:
        key = os.urandom(KEY_NBYTES)
    try:
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_key(place, key, replaces=False)
    except OSError as error:
        raise SettingsError(
            f"the key {place} cannot be created: {error.strerror}; set GRAPHFLOW_HOME to a writable folder"
        ) from error
    return read_key(place)


def write_key(place: Path, key: bytes, *, replaces: bool) -> None:
    """Write a key to a file that its owner alone can read; it appears complete. If it does not replace, a file that is there stays."""
    temporary = place.with_name(f".{place.name}.{os.getpid()}.{os.urandom(4).hex()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        try:
            os.write(descriptor, key)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if replaces:
            os.replace(temporary, place)
        else:
            # A link is made only once: of several processes one makes the key.
            with suppress(FileExistsError):
                os.link(temporary, place)
    finally:
        temporary.unlink(missing_ok=True)


def read_key(place: Path) -> bytes:
    """Return the key in a file: its 32 bytes, or hexadecimal digits.

    Raises
    ------
    FileNotFoundError
        If there is none.
    SettingsError
        If it cannot be read, is damaged, or is writable by others.
    """
    try:
        with open(place, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            key = file.read(4 * KEY_NBYTES)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise SettingsError(f"the key {place} cannot be read: {error.strerror}") from error
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise SettingsError(f"the key {place} is writable by others; make it private: chmod 600 {place}")
    if len(key) >= 2 * KEY_NBYTES:
        with suppress(ValueError):
            key = bytes.fromhex(key.decode("ascii").strip())
    if len(key) != KEY_NBYTES:
        raise SettingsError(f"the key {place} has {len(key)} bytes, not {KEY_NBYTES}; it is damaged")
    return key
