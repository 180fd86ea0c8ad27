"""The options of a flow, checked when the decorator is applied."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from graphflow.errors import TaskOptionError
from graphflow.model.cache_policies import (
    FLOW_CACHE_OPTIONS,
    NO_DEFAULTS,
    CacheDefaults,
    checked_cache_defaults,
)
from graphflow.model.policies import (
    check_flag,
    check_hooks,
    check_label,
    check_name,
    check_retries,
    check_timeout,
    retry_delays,
)

__all__ = ["FLOW_OPTIONS", "FlowOptions"]

FLOW_OPTIONS = (
    "name",
    "flow_run_name",
    "description",
    "version",
    "backend",
    "retries",
    "retry_delay_seconds",
    "timeout_seconds",
    "validate_parameters",
    "log_prints",
    "persist_result",
    "on_running",
    "on_completion",
    "on_failure",
    "on_crashed",
    "on_cancellation",
    *FLOW_CACHE_OPTIONS,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowOptions:
    """The checked options of a flow."""

    name: str
    flow_run_name: str | Callable[..., str] | None = None
    description: str | None = None
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
        backend = given.get("backend")
        if backend is not None and (
            (isinstance(backend, str) and not backend)
            or isinstance(backend, int | float | list | dict | type)
        ):
            raise TaskOptionError(
                f'{owner}: backend must be a name such as "local" or "processes", an address, or one of '
                f"graphflow.backends, not {backend!r}"
            )
        retries = check_retries(owner, given.get("retries") or 0)
        validate = check_flag(owner, "validate_parameters", given.get("validate_parameters"))
        return cls(
            name=check_name(owner, "name", given.get("name")) or name,
            flow_run_name=check_label(owner, "flow_run_name", given.get("flow_run_name")),
            description=check_name(owner, "description", given.get("description")),
            version=check_name(owner, "version", given.get("version")),
            backend=backend,
            retries=retries,
            delays=retry_delays(owner, retries, given.get("retry_delay_seconds")),
            timeout_seconds=check_timeout(owner, given.get("timeout_seconds")),
            validate_parameters=True if validate is None else validate,
            log_prints=bool(check_flag(owner, "log_prints", given.get("log_prints"))),
            persist_result=check_flag(owner, "persist_result", given.get("persist_result")),
            results=checked_cache_defaults(owner, given),
            **{
                hook: check_hooks(owner, hook, given.get(hook))
                for hook in ("on_running", "on_completion", "on_failure", "on_crashed", "on_cancellation")
            },
        )
