"""Times: seconds since the epoch inside, aware datetimes for people and programs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import overload

__all__ = ["moment"]


@overload
def moment(seconds: float) -> datetime: ...
@overload
def moment(seconds: None) -> None: ...
def moment(seconds: float | None) -> datetime | None:
    """Return seconds since the epoch as a datetime in UTC; None stays None."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
