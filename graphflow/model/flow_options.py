"""The options of a flow, checked when the decorator is applied."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from graphflow.model.cache_policies import NO_DEFAULTS, CacheDefaults, checked_cache_defaults
from graphflow.model.option_checks import retry_delays
from graphflow.model.option_table import checked_values

__all__ = ["FlowOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowOptions:
    """The checked options of a flow."""

    name: str
    flow_run_name: str | Callable[..., str] | None = None
    description: str | None = None
    tags: frozenset[str] = frozenset()
    version: str | None = None
    backend: Any = None
    retries: int = 0
    delays: tuple[float, ...] = ()
    timeout_seconds: float | None = None
    validate_parameters: bool = True
    log_prints: bool = False
    persist_result: bool | None = None
    on_running: tuple[Callable[..., Any], ...] = ()
    on_completion: tuple[Callable[..., Any], ...] = ()
    on_failure: tuple[Callable[..., Any], ...] = ()
    on_crashed: tuple[Callable[..., Any], ...] = ()
    on_cancellation: tuple[Callable[..., Any], ...] = ()
    results: CacheDefaults = NO_DEFAULTS
    """Defaults of its tasks: caching, and where results go."""

    def delay(self, retry: int) -> float:
        """Return seconds before retry number `retry`, from 1."""
        return self.delays[min(retry, len(self.delays)) - 1] if self.delays else 0.0

    @property
    def has_hooks(self) -> bool:
        """Whether any hook was given."""
        return bool(
            self.on_running
            or self.on_completion
            or self.on_failure
            or self.on_crashed
            or self.on_cancellation
        )

    @classmethod
    def checked(cls, owner: str, given: Mapping[str, Any], *, name: str) -> FlowOptions:
        """Check what the user gave."""
        values = checked_values("flow", owner, given)
        return cls(
            name=values.pop("name") or name,
            delays=retry_delays(owner, values["retries"], given.get("retry_delay_seconds")),
            results=checked_cache_defaults(owner, given),
            **values,
        )
