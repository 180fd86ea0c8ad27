"""Events: what happened, as stored, sent and shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from graphflow.common.times import moment

__all__ = ["Happening"]


class Happening(BaseModel):
    """One event; its document is a CloudEvents 1.0 record with `related`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seq: int
    """Its place in this home; numbers of other homes differ."""
    id: str
    time: float
    type: str
    source: str
    subject: str = ""
    related: Mapping[str, Any] = Field(default_factory=dict)
    depth: int = 0
    data: Mapping[str, Any] = Field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Return it as CloudEvents has it."""
        at = moment(self.time).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {
            "specversion": "1.0",
            "id": self.id,
            "source": self.source,
            "type": self.type,
            "subject": self.subject,
            "time": at,
            "related": dict(self.related),
            "data": dict(self.data),
        }
