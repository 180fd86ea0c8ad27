"""What is deployed: flows with a source, parameters, a pool and schedules, as stored, sent and shown.

Models of pydantic, since this is what users write in files and programs; nothing that runs a flow loads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

__all__ = ["Catchup", "Collision", "Concurrency", "Deployment", "Kind", "Schedule", "Setup", "Source"]

Kind = Literal["cron", "interval", "rrule", "at"]
Catchup = Literal["latest", "none", "all"]
Collision = Literal["queue", "queue-latest", "skip", "cancel-running"]


class Model(BaseModel):
    """A value: it cannot be changed, and knows no other fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Schedule(Model):
    """When a deployment is due, and what happens with times that were missed."""

    kind: Kind
    spec: str
    """A cron expression, an interval (`15m`, `1d from 2026-01-01T02:30`), a recurrence rule, or a time."""
    zone: str = "UTC"
    slug: str = ""
    """Its name within the deployment; by default its place among the schedules."""
    parameters: Mapping[str, Any] = Field(default_factory=dict)
    catchup: Catchup = "latest"
    catchup_limit: int = Field(default=100, ge=1)
    window_seconds: float = Field(default=86_400.0, gt=0)
    jitter_seconds: float = Field(default=0.0, ge=0)
    starts: float | None = None
    ends: float | None = None
    is_paused: bool = False

    def __str__(self) -> str:
        return f"{self.kind} {self.spec} ({self.zone})"


class Source(Model):
    """Where the code of a flow comes from; `version` is what it was when it was deployed."""

    kind: Literal["file", "module", "pickle"]
    place: str
    """`/path/to/file.py:flow`, `package.module:flow`, or the name of a pickle."""
    version: str = ""
    stored: Mapping[str, Any] = Field(default_factory=dict)
    """Where a pickle is, as the store of results describes it."""
    python: str = ""
    """Minor version of the Python that a pickle was made with."""

    def __str__(self) -> str:
        return self.place


class Setup(Model):
    """How a run is driven, whatever becomes of its deployment meanwhile."""

    source: Source
    backend: str = ""
    env: Mapping[str, str] = Field(default_factory=dict)


class Concurrency(Model):
    """How many runs of a deployment are active at once, and what happens to one more."""

    limit: int = Field(default=1, ge=1)
    key: str = ""
    """A format text over parameters, such as `customer={customer}`: the limit holds for each of its values."""
    on_collision: Collision = "queue"


class Deployment(Model):
    """A flow with a name, and how it is run."""

    flow_name: str
    name: str = Field(min_length=1)
    source: Source
    parameters: Mapping[str, Any] = Field(default_factory=dict)
    parameter_schema: Mapping[str, Any] = Field(default_factory=dict)
    """JSON Schema of the flow's parameters; empty where they are not checked before the run."""
    pool: str = Field(default="default", min_length=1)
    queue: str = Field(default="default", min_length=1)
    priority: int = 0
    tags: tuple[str, ...] = ()
    concurrency: Concurrency | None = None
    backend: str = ""
    env: Mapping[str, str] = Field(default_factory=dict)
    needs: tuple[str, ...] = ()
    """Labels that a worker must have, or conditions such as `python>=3.12`."""
    is_paused: bool = False
    description: str = ""
    version: str = ""
    """The user's own name of the version; the source has the one of the code."""
    made_by: str = ""
    """The file that `deploy apply` made it from, else empty."""
    schedules: tuple[Schedule, ...] = ()

    @field_validator("name", "flow_name", "pool", "queue")
    @classmethod
    def _named(cls, text: str) -> str:
        if "/" in text or text != text.strip() or not text.isprintable():
            raise ValueError(f"{text!r} cannot be a name here: no '/', and no space at its ends")
        return text

    @model_validator(mode="after")
    def _slugs(self) -> Self:
        slugs = [each.slug for each in self.named_schedules()]
        twice = {each for each in slugs if slugs.count(each) > 1}
        if twice:
            raise ValueError(f"two schedules have the slug {min(twice)!r}; give each its own")
        return self

    @property
    def full_name(self) -> str:
        """`flow/name`, which finds it."""
        return f"{self.flow_name}/{self.name}"

    @property
    def setup(self) -> Setup:
        """How its runs are driven."""
        return Setup(source=self.source, backend=self.backend, env=self.env)

    def named_schedules(self) -> tuple[Schedule, ...]:
        """Return the schedules, each with a slug."""
        return tuple(
            each if each.slug else each.model_copy(update={"slug": str(place)})
            for place, each in enumerate(self.schedules, start=1)
        )
