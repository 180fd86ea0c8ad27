"""Events that programs write beside those of graphflow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphflow.orchestration.stores.opening import open_stores

__all__ = ["emit_event"]


def emit_event(
    type: str, *, subject: str = "", data: Mapping[str, Any] | None = None, id: str | None = None
) -> str:
    """Write an event, durably when this returns; return its id.

    Parameters
    ----------
    type
        Words with dots, such as `shop.order.paid`; those that begin with `graphflow` are reserved.
    subject
        What it is about.
    data
        What JSON can hold, up to 64 KiB.
    id
        Of your own: the same id is written once.

    Raises
    ------
    ParameterError
        If the type is reserved or wrong, or the data is not JSON or too large.
    """
    with open_stores() as stores:
        return stores.events.emit(type, subject=subject, data=data, id=id)
