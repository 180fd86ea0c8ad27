"""Code that is loaded for its flows alone: what deploys or serves in it is only noted then."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

__all__ = ["LOADING", "StopLoading"]

LOADING: ContextVar[list[Any] | None] = ContextVar("graphflow_loading", default=None)
"""While code is loaded: the deployments that it would make. None where it is run."""


class StopLoading(BaseException):
    """Ends the import of a script at the place where it would begin to serve: all that it defines before is there."""
