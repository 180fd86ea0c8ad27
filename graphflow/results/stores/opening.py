"""Which store a folder or a URL means."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from graphflow.common import settings
from graphflow.errors import ResultStoreError
from graphflow.ports import ResultStore
from graphflow.results.stores.local import LocalStore
from graphflow.results.stores.locations import check_options, local_folder, parse
from graphflow.results.stores.names import check_name
from graphflow.results.stores.remote import FsspecStore

__all__ = ["check_protocol", "default_store_url", "open_store"]


def open_store(
    url_or_path: str | os.PathLike[str],
    *,
    storage_options: Mapping[str, Any] | None = None,
    key: bytes | None = None,
    older_keys: Sequence[bytes] = (),
    path: str = "",
    allow_unsigned: bool = False,
) -> ResultStore:
    """Return the store of a folder, a file URL, or any other URL that fsspec knows. Nothing is asked of it yet.

    Parameters
    ----------
    storage_options
        For a URL: what its file system gets. By default what this process used for the same URL before, else what
        `GRAPHFLOW_RESULT_STORAGE_OPTIONS` says for URLs of its kind.
    key
        What packs are signed with; the installation's keys by default, for `memory://` one that only this process has.
    older_keys
        Keys of which the signatures are accepted too.
    path
        A folder below the place.
    allow_unsigned
        Whether packs may be used that were signed with none of the keys.

    Raises
    ------
    ResultStoreError
        If the place, the path or an option cannot be used.
    SettingsError
        If the installation's key cannot be read.
    """
    place = os.fspath(url_or_path)
    if not place:
        raise ResultStoreError(
            f"{place!r} is not a result store; pass a folder or a URL such as s3://bucket/prefix"
        )
    if path:
        check_name(path)
    if key is None:
        # What is in memory is read by this process alone, and must not leave a key on the disk.
        is_volatile = place.partition(":")[0] == "memory"
        key, *older = (settings.volatile_key(),) if is_volatile else settings.secret_keys()
        older_keys = (*older_keys, *older)
    folder = local_folder(place)
    if folder is not None:
        if storage_options:
            raise ResultStoreError(
                f"a folder has no storage_options; {', '.join(map(repr, storage_options))} given for {place}"
            )
        return LocalStore(folder / path, key=key, older_keys=older_keys, allow_unsigned=allow_unsigned)
    url, options = _used(place, storage_options)
    return FsspecStore(
        f"{url}/{path}" if path else url,
        options,
        key=key,
        older_keys=older_keys,
        allow_unsigned=allow_unsigned,
    )


def check_protocol(url: str) -> None:
    """Refuse a kind of URL that no file system is known for, before anything is asked of it.

    Raises
    ------
    ResultStoreError
        If it is of such a kind.
    """
    protocol = url.partition("://")[0].partition("::")[0]
    if protocol == "memory" or local_folder(url) is not None:
        return
    from fsspec.registry import known_implementations, registry

    if protocol not in known_implementations and protocol not in registry:
        raise ResultStoreError(
            f"no file system is known for {parse(url).shown}; use a folder, or a URL such as s3://bucket/prefix"
        )


def default_store_url() -> str:
    """Return where results go unless something else is said: `GRAPHFLOW_RESULT_STORAGE`, else the home's folder `results`."""
    return settings.result_storage() or str(settings.home() / "results")


def _used(url: str, options: Mapping[str, Any] | None) -> tuple[str, dict[str, Any]]:
    """Return the URL with its credentials, and the options, where this process used it before without saying them now."""
    location = parse(url)
    with _lock:
        if options is None:
            known = _known.get(location.shown)
            if known is not None:
                return known
            used = location.url, check_options(_configured(location.protocol))
            if location.url == location.shown:
                return used
        else:
            used = location.url, check_options(options)
        _known[location.shown] = used
        return used


def _configured(protocol: str) -> Mapping[str, Any]:
    options = settings.result_storage_options()
    storage = settings.result_storage()
    if not options or (storage and local_folder(storage) is None and parse(storage).protocol != protocol):
        return {}
    return options


_known: dict[str, tuple[str, dict[str, Any]]] = {}
"""The options of used URLs, by the URL as it is shown: a reader that finds it in a history opens the same store."""

_lock = threading.Lock()


def _begin_anew() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
