"""Code that is loaded for its flows alone: what deploys or serves in it does nothing then."""

from __future__ import annotations

from contextvars import ContextVar

__all__ = ["IS_LOADING", "StopLoading"]

IS_LOADING: ContextVar[bool] = ContextVar("graphflow_is_loading", default=False)


class StopLoading(BaseException):
    """Ends the import of a script at the place where it would begin to serve: all that it defines before is there."""
