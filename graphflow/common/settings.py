"""Settings, and the secret keys of an installation.

A setting is what a block of `settings` says, else the environment, else the nearest `graphflow.toml`, else `[tool.graphflow]` of
`pyproject.toml`, else the active profile of the user's own file, else its default. Nothing is read or written when this is imported.
"""

from __future__ import annotations

import functools
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from graphflow.common.setting_sources import (
    BY_KEY,
    OVERRIDES,
    PROJECT_FILE,
    SETTINGS,
    Setting,
    config_files,
    given_in_environment,
    overrides,
    own_variables,
    unknown_variables,
    user_file,
)
from graphflow.errors import SettingsError

__all__ = [
    "api_server",
    "backend",
    "BY_KEY",
    "compact_cache",
    "config_files",
    "given_in_environment",
    "given_key",
    "history_kind",
    "home",
    "KEY_FILE",
    "KEY_FILE_VARIABLE",
    "KEY_NBYTES",
    "KEY_VARIABLE",
    "lease_seconds",
    "max_depth",
    "wait_for_workers_seconds",
    "worker_timeout_seconds",
    "OLD_KEY_FILES",
    "overrides",
    "progress",
    "PROJECT_FILE",
    "read_key",
    "refresh_cache",
    "resolved",
    "result_storage",
    "result_storage_options",
    "secret_key",
    "secret_keys",
    "Setting",
    "SETTINGS",
    "settings",
    "shown",
    "store_attempts",
    "store_retry_seconds",
    "server_url",
    "store_timeout_seconds",
    "tracebacks",
    "unknown_variables",
    "user_file",
    "volatile_key",
    "without_user",
]

_SECRET = re.compile(r"SECRET|TOKEN|PASSW|CREDENTIAL|_KEY$")
_USER_INFO = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*://)[^/@\s]*@")
KEY_NBYTES = 32
KEY_VARIABLE = "GRAPHFLOW_SECRET_KEY"
KEY_FILE_VARIABLE = "GRAPHFLOW_SECRET_KEY_FILE"
KEY_FILE = "secret.key"
KEY_COPY = "secret.key.copy"
"""The same key again: with a key that is lost or damaged, nothing that it signed could be verified."""
OLD_KEY_FILES = "secret.key.old*"
"""Earlier keys, which sign nothing any more."""


_last: tuple[Any, Mapping[str, Any]] | None = None


@contextmanager
def settings(values: Mapping[str, Any] | None = None, /, **named: Any) -> Iterator[None]:
    """Change settings for the runs of a block, in all threads of this process.

    Parameters
    ----------
    values
        Settings by key, such as `{"runs.lease_seconds": 10}`.
    named
        Settings by section and name, as in the environment: `runs__lease_seconds=10`.

    Raises
    ------
    SettingsError
        If one is unknown or wrong.
    """
    given = {**(values or {}), **{name.replace("__", "."): value for name, value in named.items()}}
    OVERRIDES.append({**overrides(), **given})
    try:
        resolved()
        yield
    finally:
        OVERRIDES.pop()


def resolved() -> Mapping[str, Any]:
    """Return the value of every setting, by key.

    Raises
    ------
    SettingsError
        If one is wrong, or a file has an unknown one; the text says where.
    """
    global _last
    own = own_variables()
    given = given_in_environment(own)
    files = config_files()
    changed = overrides()
    profile = own.get("GRAPHFLOW_PROFILE")
    stamp = (tuple(given.items()), files, repr(changed), unknown_variables(own), profile)
    if _last is not None and _last[0] == stamp:
        return _last[1]
    is_plain = not files and not changed and not stamp[3] and not profile
    values: Mapping[str, Any] | None = _plainly(given) if is_plain else None
    if values is None:
        # pydantic takes longer to import than a small flow takes to run.
        from graphflow.common.configuration import load

        values = load().values
    _last = stamp, values
    return values


def _plainly(given: Mapping[str, tuple[str, str]]) -> dict[str, Any] | None:
    """Return the values where the environment alone gives some, as texts; None if some need to be parsed."""
    values = {each.key: each.default for each in SETTINGS}
    for key, (_, text) in given.items():
        kind = BY_KEY[key].kind
        if kind not in ("text", "path") and text not in kind:
            return None
        values[key] = text
    return values


# -- single settings ---------------------------------------------------------------------------------------


def home() -> Path:
    """Return the folder of histories and results: `GRAPHFLOW_HOME` or the setting `home`, else the user's data folder."""
    given = os.environ.get("GRAPHFLOW_HOME") if not OVERRIDES else None
    given = given or resolved()["home"]
    if given:
        return Path(given).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_data_dir("graphflow", appauthor=False))


def shown() -> dict[str, str]:
    """Return the settings that are not the defaults, by their variables, and graphflow's other environment variables.

    What is or may be secret is masked.
    """
    found: dict[str, str] = {}
    for name in sorted(os.environ):
        if name.startswith("GRAPHFLOW_"):
            is_secret = name == KEY_VARIABLE or name.endswith("_OPTIONS") or _SECRET.search(name) is not None
            found[name] = "***" if is_secret else without_user(os.environ[name])
    values = resolved()
    for each in SETTINGS:
        if values[each.key] != each.default and each.key not in given_in_environment():
            found[each.variable] = "***" if each.is_secret else without_user(str(values[each.key]))
    return found


def without_user(text: str) -> str:
    """Return a text with what stands before the host of URLs masked."""
    return _USER_INFO.sub(r"\1***@", text)


def backend() -> str | None:
    """Return `runs.backend`: where flows run that name no backend; None for the default, `local`."""
    return resolved()["runs.backend"] or None


def progress() -> str:
    """Return `display.progress`: how scripts show their runs: `auto` (the default), `live`, `plain` or `off`."""
    return str(resolved()["display.progress"])


def tracebacks() -> str:
    """Return `display.tracebacks`: `user` (the default) for tracebacks with frames of your own code alone, or `full`."""
    return str(resolved()["display.tracebacks"])


def history_kind() -> str:
    """Return `runs.history`: `disk` (the default), or `memory` for runs that leave nothing behind."""
    return str(resolved()["runs.history"])


def refresh_cache() -> bool:
    """Return `cache.refresh`: whether to recompute cached results; false by default."""
    return bool(resolved()["cache.refresh"])


def compact_cache() -> bool:
    """Return `cache.compact`: whether a run puts many small objects of its tasks' caches together at its end; true by default."""
    return bool(resolved()["cache.compact"])


def lease_seconds() -> float:
    """Return `runs.lease_seconds`: how long a driver keeps its run without renewing its lease; 30 by default."""
    return float(resolved()["runs.lease_seconds"])


def max_depth() -> int:
    """Return `runs.max_depth`: how deep tasks that return calls of tasks may be nested; 10,000 by default."""
    return int(resolved()["runs.max_depth"])


def worker_timeout_seconds() -> float:
    """Return `workers.timeout_seconds`: the silence after which a worker is lost; 60 by default."""
    return float(resolved()["workers.timeout_seconds"])


def wait_for_workers_seconds() -> float:
    """Return `workers.wait_seconds`: how long a run waits where there are no workers; 60 by default."""
    return float(resolved()["workers.wait_seconds"])


def api_server() -> tuple[str, str]:
    """Return `api.url` and `api.token`: the server that is asked instead of the home here, and its token; empty if there is none.

    A token of a profile is for the address of that profile alone.
    """
    values, given = resolved(), given_in_environment()
    is_elsewhere = "api.url" in given and "api.token" not in given
    return values["api.url"] or "", "" if is_elsewhere else values["api.token"] or ""


def server_url() -> str | None:
    """Return `server.url`: where people reach `graphflow serve`; None if nobody said."""
    return resolved()["server.url"] or None


def result_storage() -> str | None:
    """Return `results.storage`: the URL or folder of results; None for the default, `<home>/results`."""
    return resolved()["results.storage"] or None


def result_storage_options() -> dict[str, Any]:
    """Return `results.storage_options`: options for fsspec's file system; may contain credentials."""
    return dict(resolved()["results.storage_options"])


def store_attempts() -> int:
    """Return `store.attempts`: the total attempts of a request to a remote store; 6 by default."""
    return int(resolved()["store.attempts"])


def store_retry_seconds() -> float:
    """Return `store.retry_seconds`: the time after which no further attempt starts; 60 by default."""
    return float(resolved()["store.retry_seconds"])


def store_timeout_seconds() -> float:
    """Return `store.timeout_seconds`: the time limit of one attempt, plus a second per MiB; 30 by default."""
    return float(resolved()["store.timeout_seconds"])


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
