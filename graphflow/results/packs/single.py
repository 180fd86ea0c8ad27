"""One value in an object of its own: the parameters and the value of a run. Its digest stands in the run's history, which is signed."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from typing import Any

from graphflow.errors import ResultDamaged
from graphflow.ports import ResultStore

__all__ = ["check", "is_same", "keep", "restore"]

DIGEST_NBYTES = 16


def keep(store: ResultStore, name: str, data: bytes) -> dict[str, Any]:
    """Write an object, and return what finds and verifies it: `name`, `nbytes` and `digest`."""
    store.publish(name, [data])
    return {"name": name, "nbytes": len(data), "digest": _digest(data)}


def is_same(stored: Mapping[str, Any], data: bytes) -> bool:
    """Return whether these are the bytes of an object."""
    return bool(_digest(data) == stored["digest"])


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=DIGEST_NBYTES).hexdigest()


def check(store: ResultStore, stored: Mapping[str, Any], what: str) -> bytes:
    """Return the bytes of an object; nothing is unpickled.

    Raises
    ------
    ResultDamaged
        If they are not what was written; the text names `what`.
    ValueUnavailable, ResultStoreError
        If the object is gone, or the store cannot be read.
    """
    data = store.read(str(stored["name"]), 0, int(stored["nbytes"]))
    if _digest(data) != stored["digest"]:
        raise ResultDamaged(
            f"{what} ({stored['name']} in {store.url}) differs from what was written; it is refused"
        )
    return data


def restore(store: ResultStore, stored: Mapping[str, Any], what: str) -> Any:
    """Return the value of an object; errors as for `check`, and `ResultDamaged` where it cannot be unpickled here."""
    data = check(store, stored, what)
    try:
        return pickle.loads(data)
    except Exception as error:
        raise ResultDamaged(
            f"{what} cannot be restored here: {type(error).__name__}: {error}; is a module that it needs missing?"
        ) from error
