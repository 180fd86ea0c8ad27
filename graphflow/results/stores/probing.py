"""Whether a store works: an object that is written, read and removed."""

from __future__ import annotations

import os

from graphflow.errors import ResultStoreError
from graphflow.ports import ResultStore
from graphflow.results.stores.names import probe_name

__all__ = ["probe"]


def probe(store: ResultStore, what: str) -> None:
    """Write, read and remove an object; `what` is how errors name the store.

    Raises
    ------
    ResultStoreError
        If that does not work, with the reason.
    """
    token = os.urandom(8).hex()
    name = probe_name(token)
    store.publish(name, [token.encode()])
    if store.read(name, 0, len(token)) != token.encode():
        raise ResultStoreError(f"{what} returns different bytes than were written")
    store.delete([name])
