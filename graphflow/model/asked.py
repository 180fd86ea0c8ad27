"""What programs ask for: the bodies of requests to the API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from graphflow.model.access import Role

__all__ = [
    "AskedBackfill",
    "AskedChanges",
    "AskedEvent",
    "AskedLimit",
    "AskedPool",
    "AskedQueue",
    "AskedRate",
    "AskedRun",
    "AskedSettings",
    "AskedToken",
    "AskedTrial",
]


class Asked(BaseModel):
    """A request knows no other fields than these."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class AskedRun(Asked):
    """A run of a deployment."""

    parameters: Mapping[str, Any] = Field(default_factory=dict)
    due: str | None = None
    """When it is due, by default now."""
    tags: tuple[str, ...] = ()


class AskedBackfill(Asked):
    """Runs of a range of a schedule's times."""

    begin: str
    end: str
    schedule: str = ""
    again: int = Field(default=0, ge=0, le=1_000_000)
    dry_run: bool = False


class AskedChanges(Asked):
    """Options of a node, as for `run.update`."""

    node: str
    options: Mapping[str, Any]


class AskedPool(Asked):
    """What a pool becomes; what is not named stays."""

    size: int | None = Field(default=None, ge=0, le=1_000_000)
    is_paused: bool = False
    backend: str = ""


class AskedQueue(Asked):
    """What a queue becomes; what is not named stays."""

    priority: int = Field(default=0, ge=-1_000_000, le=1_000_000)
    size: int | None = Field(default=None, ge=0, le=1_000_000)
    is_paused: bool = False


class AskedLimit(Asked):
    """What a limit becomes."""

    size: int = Field(ge=0, le=1_000_000)
    """Slots; 0 lets nothing begin."""


class AskedRate(Asked):
    """What a rate becomes."""

    rate: str | float
    """Starts per second, or a text such as `50/s`, `600/min` or `1000/h`."""
    burst: int = Field(default=1, ge=1, le=1_000_000)
    """How many may begin at once after a pause."""


class AskedTrial(Asked):
    """An event that automations are tried with; it is not written."""

    type: str
    subject: str = ""
    source: str = "trial"
    related: Mapping[str, Any] = Field(default_factory=dict)
    data: Mapping[str, Any] = Field(default_factory=dict)
    id: str = "trial"


class AskedEvent(Asked):
    """An event of a user."""

    type: str
    subject: str = ""
    data: Mapping[str, Any] = Field(default_factory=dict)


class AskedToken(Asked):
    """A token."""

    name: str
    role: Role
    expires_seconds: float | None = Field(default=None, gt=0, le=1e10)


class AskedSettings(Asked):
    """Settings of a home; what is not named stays."""

    is_paused: bool | None = None
    late_after_seconds: float | None = Field(default=None, gt=0, le=1e9)
