"""The options of tasks and flows, checked when the decorator is applied.

Names follow Prefect 3, so that its users' code carries over. Nothing is accepted and then ignored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from graphflow.errors import TaskOptionError
from graphflow.model.cache_policies import (
    NO_DEFAULTS,
    CacheDefaults,
    CacheOptions,
    checked_cache,
    checked_cache_defaults,
)
from graphflow.model.map_options import NO_MAP_OPTIONS, MapOptions, checked_map_options, timeout_factor
from graphflow.model.option_checks import check_retries, check_seconds, check_timeout, retry_delays
from graphflow.model.option_table import checked_values
from graphflow.model.states import Counts

__all__ = [
    "ASYNC_CONCURRENCY",
    "NOT_SET",
    "POLICY_NAMES",
    "Fail",
    "NotSet",
    "Pause",
    "Retry",
    "RetryPolicy",
    "Signal",
    "Skip",
    "TaskOptions",
    "Trigger",
    "all_failed",
    "all_finished",
    "all_successful",
    "any_failed",
    "any_successful",
    "as_trigger",
    "exponential_backoff",
    "not_all_skipped",
    "some_failed",
    "some_successful",
]


ASYNC_CONCURRENCY = 64
"""The default number of items of an async task that run concurrently in one slot."""


POLICY_NAMES = ("retries", "retry_delay_seconds", "retry_jitter_factor", "timeout_seconds")
"""Options of a task that can be changed while it runs."""


class NotSet:
    """The type of `NOT_SET`: an option that was not given."""

    def __repr__(self) -> str:
        return "NOT_SET"


NOT_SET = NotSet()


# -- signals -----------------------------------------------------------------------------------------


class Signal(Exception):
    """Raised in a task's body to end the attempt in a certain state."""


class Skip(Signal):
    """End this task run as `Skipped`; what needs its value is skipped too."""


class Fail(Signal):
    """End this task run as `Failed` now, whatever retries are left."""


class Retry(Signal):
    """Retry after `after_seconds`, even beyond the task's `retries`.

    Parameters
    ----------
    message
        Why; shown in the history.
    after_seconds
        How long to wait; the wait holds no slot.
    """

    def __init__(self, message: str = "", *, after_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.after_seconds = check_seconds("Retry", "after_seconds", after_seconds)

    def __reduce__(self) -> tuple[Any, ...]:
        return _retry, (str(self), self.after_seconds)


def _retry(message: str, after_seconds: float) -> Retry:
    return Retry(message, after_seconds=after_seconds)


class Pause(Signal):
    """Pause this task run, holding no slot, until `run.resume()` runs it again."""


# -- triggers ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trigger:
    """Decides from the counts of the upstream states whether a task runs.

    Each non-mapped upstream counts one; a mapped upstream that is reduced counts each item.
    """

    name: str
    decide: Callable[[Counts], bool]

    def __call__(self, counts: Counts) -> bool:
        """Return whether the task runs."""
        return bool(self.decide(counts))

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> Any:
        # The library's own are known by identity, so they must be themselves in another process too.
        return self.name if globals().get(self.name) is self else (Trigger, (self.name, self.decide))


def _all_successful(counts: Counts) -> bool:
    return counts.failed == 0 and counts["Cancelled"] == 0


def _all_failed(counts: Counts) -> bool:
    return counts.failed == counts.finished


def _any_successful(counts: Counts) -> bool:
    return counts.successful > 0


def _any_failed(counts: Counts) -> bool:
    return counts.failed > 0


def _all_finished(counts: Counts) -> bool:
    return True


def _not_all_skipped(counts: Counts) -> bool:
    return counts.failed == 0 and counts["Cancelled"] == 0 and counts.skipped < max(counts.finished, 1)


all_successful = Trigger("all_successful", _all_successful)
all_failed = Trigger("all_failed", _all_failed)
any_successful = Trigger("any_successful", _any_successful)
any_failed = Trigger("any_failed", _any_failed)
all_finished = Trigger("all_finished", _all_finished)
not_all_skipped = Trigger("not_all_skipped", _not_all_skipped)


@dataclass(frozen=True, slots=True)
class _Some:
    """A trigger with bounds on the failed or successful upstreams; a float is a fraction, an int a number."""

    what: Literal["failed", "successful"]
    at_least: int | float | None
    at_most: int | float | None

    def __call__(self, counts: Counts) -> bool:
        found = counts.failed if self.what == "failed" else counts.successful
        total = counts.finished
        low, high = self.at_least, self.at_most
        if isinstance(low, float):
            low = math.ceil(low * total - 1e-9)
        if isinstance(high, float):
            high = math.floor(high * total + 1e-9)
        return (low is None or found >= low) and (high is None or found <= high)


def _bound(maker: str, name: str, value: int | float | None) -> int | float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TaskOptionError(
            f"{maker}({name}=...) takes an int (a number of tasks) or a float from 0 to 1 (a fraction), "
            f"not {value!r}"
        )
    if value < 0 or (isinstance(value, float) and value > 1):
        raise TaskOptionError(
            f"{maker}({name}={value!r}): a float is a fraction from 0.0 to 1.0 and an int a number of tasks; "
            f"use {name}={math.ceil(abs(value))} for a number"
        )
    return value


def _some(maker: str, what: Literal["failed", "successful"], low: Any, high: Any) -> Trigger:
    low, high = _bound(maker, "at_least", low), _bound(maker, "at_most", high)
    if low is None and high is None:
        low = 1
    if low is not None and high is not None and type(low) is type(high) and low > high:
        raise TaskOptionError(
            f"{maker}(at_least={low!r}, at_most={high!r}) can never hold: at_least is above at_most"
        )
    return Trigger(f"{maker}(at_least={low!r}, at_most={high!r})", _Some(what, low, high))


def some_failed(*, at_least: int | float | None = None, at_most: int | float | None = None) -> Trigger:
    """Run if a number (int) or a fraction (float, 0 to 1) of the upstreams failed; at least one by default."""
    return _some("some_failed", "failed", at_least, at_most)


def some_successful(*, at_least: int | float | None = None, at_most: int | float | None = None) -> Trigger:
    """Run if a number (int) or a fraction (float, 0 to 1) of the upstreams succeeded; at least one by default."""
    return _some("some_successful", "successful", at_least, at_most)


def as_trigger(owner: str, value: Any) -> Trigger:
    """Return a trigger for a trigger or any callable over the counts; raise `TaskOptionError` for anything else."""
    if isinstance(value, Trigger):
        return value
    if value in (some_failed, some_successful):
        raise TaskOptionError(
            f"{owner}: trigger={value.__name__} needs its bounds; use {value.__name__}(at_least=1)"
        )
    if callable(value):
        return Trigger(getattr(value, "__name__", repr(value)), value)
    raise TaskOptionError(
        f"{owner}: trigger must be one of graphflow's triggers or a callable over the counts, not {value!r}"
    )


# -- retries -----------------------------------------------------------------------------------------


def exponential_backoff(backoff_factor: float) -> Callable[[int], list[float]]:
    """Return delays that double: factor, 2 x factor, 4 x factor, ... seconds, one per retry."""
    factor = check_seconds("exponential_backoff", "backoff_factor", backoff_factor)

    def delays(retries: int) -> list[float]:
        return [factor * 2.0**attempt for attempt in range(retries)]

    return delays


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When a failed attempt is tried again.

    `delays` are seconds before retry 1, 2, ...; the last one repeats.
    """

    retries: int = 0
    delays: tuple[float, ...] = ()
    jitter_factor: float | None = None
    retry_on: tuple[type[BaseException], ...] | None = None
    condition: Callable[..., Any] | None = None

    def delay(self, retry: int) -> float:
        """Return seconds before retry number `retry` (from 1), before jitter."""
        if not self.delays:
            return 0.0
        return self.delays[min(retry, len(self.delays)) - 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """The checked options of a task; made by `TaskOptions.checked`.

    `cache` is None if nothing is cached; `results` has the task's own cache policy and result store, which `in_flow` merges
    with its flow's.
    """

    name: str
    description: str | None = None
    tags: frozenset[str] = frozenset()
    limit: str | None = None
    weight: int = 1
    version: str | None = None
    retry: RetryPolicy = RetryPolicy()
    timeout_seconds: float | None = None
    trigger: Trigger = all_successful
    task_run_name: str | Callable[..., str] | None = None
    log_prints: bool | None = None
    on_running: tuple[Callable[..., Any], ...] = ()
    on_completion: tuple[Callable[..., Any], ...] = ()
    on_failure: tuple[Callable[..., Any], ...] = ()
    n_outputs: int | None = None
    batch_size: int | None = None
    concurrency: int | None = None
    batched: bool = False
    map_options: MapOptions = NO_MAP_OPTIONS
    resources: tuple[tuple[str, float], ...] = ()
    priority: int = 0
    workers: tuple[str, ...] = ()
    persist_result: bool | None = None
    cache: CacheOptions | None = None
    results: CacheDefaults = NO_DEFAULTS

    @property
    def limits(self) -> tuple[tuple[str, int], ...]:
        """What an item takes of limits that runs share, by name; there need not be one of each name."""
        names = self.tags if self.limit is None else {*self.tags, self.limit}
        return tuple((name, self.weight) for name in sorted(names)) if names else ()

    @property
    def result_storage(self) -> str | None:
        """The URL or folder of results; None for the default."""
        return self.results.result_storage

    @property
    def result_storage_options(self) -> Mapping[str, Any] | None:
        """Options for fsspec to open that URL; may contain secrets."""
        return self.results.result_storage_options

    @property
    def result_serializer(self) -> str | None:
        """The name of the serializer; None for the default."""
        return self.results.result_serializer

    def in_flow(self, flow: CacheDefaults) -> TaskOptions:
        """Return the options that apply in a flow with these defaults."""
        if flow == NO_DEFAULTS:
            return self
        return replace(
            self,
            cache=flow.cache_of(self.cache, self.results.policy),
            results=self.results.merged(flow),
        )

    @classmethod
    def checked(cls, owner: str, given: Mapping[str, Any], *, name: str) -> TaskOptions:
        """Check the given options; unknown ones never reach this point.

        Parameters
        ----------
        owner
            The task's name in errors.
        given
            The options by their public names.
        name
            The name if none is given.

        Raises
        ------
        TaskOptionError
            If any option is of the wrong kind.
        """
        values = checked_values("task", owner, given)
        timeout = given.get("timeout_seconds")
        if given.get("timeout") is not None and timeout is not None:
            raise TaskOptionError(f"{owner}: use timeout or timeout_seconds, not both")
        if timeout_factor(owner, given.get("timeout", timeout)) is not None:
            given = {**given, "timeout": given.get("timeout", timeout)}
            timeout = None
        elif given.get("timeout") is not None:
            timeout = given["timeout"]
        trigger = given.get("trigger")
        retry = RetryPolicy(
            retries=values["retries"],
            delays=retry_delays(owner, values.pop("retries"), given.get("retry_delay_seconds")),
            jitter_factor=values.pop("retry_jitter_factor"),
            retry_on=values.pop("retry_on"),
            condition=values.pop("retry_condition_fn"),
        )
        return cls(
            name=values.pop("name") or name,
            retry=retry,
            timeout_seconds=check_timeout(owner, timeout),
            trigger=all_successful if trigger is None else as_trigger(owner, trigger),
            map_options=checked_map_options(owner, given),
            cache=checked_cache(owner, given),
            results=checked_cache_defaults(owner, given),
            **values,
        )

    def with_policy(self, owner: str, change: Mapping[str, Any]) -> TaskOptions:
        """Return a copy with other retries, delays or timeout (`POLICY_NAMES`).

        Raises
        ------
        TaskOptionError
            If one is of the wrong kind.
        """
        retry = self.retry
        retries = check_retries(owner, change.get("retries", retry.retries) or 0)
        delays = retry.delays
        if "retry_delay_seconds" in change:
            delays = retry_delays(owner, max(1, retries), change["retry_delay_seconds"])
        jitter = retry.jitter_factor
        if "retry_jitter_factor" in change:
            given = change["retry_jitter_factor"]
            jitter = None if given is None else check_seconds(owner, "retry_jitter_factor", given)
        timeout = self.timeout_seconds
        if "timeout_seconds" in change:
            timeout = check_timeout(owner, change["timeout_seconds"])
        return replace(
            self,
            retry=replace(retry, retries=retries, delays=delays, jitter_factor=jitter),
            timeout_seconds=timeout,
        )
