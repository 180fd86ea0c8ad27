"""Checks of single options of tasks and flows; each returns the option in its checked form."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from graphflow.errors import TaskOptionError

__all__ = [
    "check_backend",
    "check_batch_size",
    "check_condition",
    "check_flag",
    "check_hooks",
    "check_jitter",
    "check_label",
    "check_name",
    "check_positive",
    "check_priority",
    "check_resources",
    "check_retries",
    "check_retry_on",
    "check_seconds",
    "check_switch",
    "check_switch_on",
    "check_tags",
    "check_timeout",
    "check_weight",
    "check_workers",
    "refuse_unknown",
    "retry_delays",
]


def check_retries(owner: str, retries: Any) -> int:
    """Return a number of retries, 0 or more."""
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
        raise TaskOptionError(
            f"{owner}: retries must be an integer, 0 or more (how often to try again), not {retries!r}"
        )
    if retries > 250:
        raise TaskOptionError(f"{owner}: retries={retries} is above the limit of 250 attempts per item")
    return retries


def check_seconds(owner: str, name: str, value: Any) -> float:
    """Return a finite number of seconds, 0 or more, of a number or a timedelta."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise TaskOptionError(f"{owner}: {name} must be a number of seconds, 0 or more, not {value!r}")
    return float(value)


def retry_delays(owner: str, retries: int, value: Any) -> tuple[float, ...]:
    """Return `retry_delay_seconds`, in any of its forms, as one delay per entry; the last one repeats."""
    if value is None:
        return ()
    if callable(value):
        try:
            value = value(retries)
        except Exception as error:
            raise TaskOptionError(
                f"{owner}: retry_delay_seconds is a callable and raised {type(error).__name__}: {error} when called "
                f"for the delays of {retries} retries; it must take that number and return a list of seconds"
            ) from error
    if isinstance(value, list | tuple):
        return tuple(check_seconds(owner, f"retry_delay_seconds[{i}]", each) for i, each in enumerate(value))
    return (check_seconds(owner, "retry_delay_seconds", value),)


def check_name(owner: str, option: str, value: Any) -> str | None:
    """Return a string or None."""
    if value is not None and (not isinstance(value, str) or not value.strip()):
        raise TaskOptionError(f"{owner}: {option} must be a non-empty string, not {value!r}")
    return value


def check_hooks(owner: str, option: str, value: Any) -> tuple[Callable[..., Any], ...]:
    """Return a list of callables (or one) as a tuple."""
    if value is None:
        return ()
    hooks = tuple(value) if isinstance(value, list | tuple) else (value,)
    for hook in hooks:
        if not callable(hook):
            raise TaskOptionError(f"{owner}: {option} takes functions of (object, run, state), not {hook!r}")
    return hooks


def refuse_unknown(owner: str, options: Iterable[str], known: Sequence[str]) -> None:
    """Raise for an option that does not exist, with the nearest one that does."""
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"
            raise TaskOptionError(f"{owner} has no option {name!r}{hint}")


def check_timeout(owner: str, value: Any) -> float | None:
    """Return `timeout_seconds`: a number of seconds above 0, or None for no limit."""
    if value is None:
        return None
    seconds = check_seconds(owner, "timeout_seconds", value)
    if seconds == 0:
        raise TaskOptionError(
            f"{owner}: timeout_seconds=0 would time out every run; leave it out for no timeout"
        )
    return seconds


def check_label(owner: str, option: str, value: Any) -> str | Callable[..., str] | None:
    """Return a template string, a callable that returns one, or None."""
    if value is not None and not isinstance(value, str) and not callable(value):
        raise TaskOptionError(f"{owner}: {option} must be a template text or a callable, not {value!r}")
    checked: str | Callable[..., str] | None = value
    return checked


def check_flag(owner: str, option: str, value: Any) -> bool | None:
    """Return True, False or None."""
    if value is not None and not isinstance(value, bool):
        raise TaskOptionError(f"{owner}: {option} must be True or False, not {value!r}")
    return value


def check_retry_on(owner: str, option: str, value: Any) -> tuple[type[BaseException], ...] | None:
    """Exception types (or one) as a tuple, or None."""
    if value is None:
        return None
    kinds = tuple(value) if isinstance(value, list | tuple | set | frozenset) else (value,)
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise TaskOptionError(
                f"{owner}: {option} takes exception types, such as (OSError,), not {kind!r}"
            )
    return kinds


def check_tags(owner: str, option: str, value: Any) -> frozenset[str]:
    """Return a list of strings as a set."""
    if value is None:
        return frozenset()
    if isinstance(value, str):
        raise TaskOptionError(
            f'{owner}: {option} takes a list of strings, not the string {value!r}; use {option}=["{value}"]'
        )
    tags = list(value) if isinstance(value, Iterable) else [value]
    if not all(isinstance(tag, str) for tag in tags):
        raise TaskOptionError(f"{owner}: {option} takes a list of strings, not {value!r}")
    return frozenset(tags)


def check_positive(owner: str, option: str, value: Any) -> int | None:
    """A whole number, 1 or more, or None."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise TaskOptionError(f"{owner}: {option} must be an integer, 1 or more, not {value!r}")
    return value


def check_resources(owner: str, option: str, value: Any) -> tuple[tuple[str, float], ...]:
    """Names with amounts above 0, sorted."""
    if value is None:
        return ()
    if not isinstance(value, Mapping):
        raise TaskOptionError(f'{owner}: {option} takes a mapping such as {{"GPU": 1}}, not {value!r}')
    for name, amount in value.items():
        if (
            not isinstance(name, str)
            or isinstance(amount, bool)
            or not isinstance(amount, int | float)
            or amount <= 0
        ):
            raise TaskOptionError(
                f"{owner}: {option} maps names to amounts above 0, not {name!r}: {amount!r}"
            )
    return tuple(sorted((name, float(amount)) for name, amount in value.items()))


def check_priority(owner: str, option: str, value: Any) -> int:
    """A whole number; 0 where none is given."""
    priority = value or 0
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise TaskOptionError(f"{owner}: {option} must be an integer (higher runs first), not {priority!r}")
    return priority


def check_weight(owner: str, option: str, value: Any) -> int:
    """A whole number, 1 or more."""
    weight = 1 if value is None else value
    if isinstance(weight, bool) or not isinstance(weight, int) or weight < 1:
        raise TaskOptionError(f"{owner}: {option} must be an integer, 1 or more, not {value!r}")
    return weight


def check_workers(owner: str, option: str, value: Any) -> tuple[str, ...]:
    """A list of addresses or names as a tuple."""
    if value is None:
        return ()
    workers = list(value) if isinstance(value, list | tuple | set | frozenset) else [None]
    if not all(isinstance(each, str) for each in workers):
        raise TaskOptionError(f"{owner}: {option} takes a list of worker addresses or names, not {value!r}")
    return tuple(workers)  # type: ignore[arg-type]


def check_condition(owner: str, option: str, value: Any) -> Callable[..., Any] | None:
    """A callable of (task, task_run, state), or None."""
    if value is not None and not callable(value):
        raise TaskOptionError(
            f"{owner}: {option} must be a callable of (task, task_run, state), not {value!r}"
        )
    checked: Callable[..., Any] | None = value
    return checked


def check_jitter(owner: str, option: str, value: Any) -> float | None:
    """A factor, 0 or more, or None."""
    return None if value is None else check_seconds(owner, option, value)


def check_batch_size(owner: str, option: str, value: Any) -> int | None:
    """A whole number, 1 or more; None for `"auto"`."""
    return None if value == "auto" else check_positive(owner, option, value)


def check_switch(owner: str, option: str, value: Any) -> bool:
    """True or False; False where it is not given."""
    return bool(check_flag(owner, option, value))


def check_switch_on(owner: str, option: str, value: Any) -> bool:
    """True or False; True where it is not given."""
    return value is None or bool(check_flag(owner, option, value))


def check_backend(owner: str, option: str, value: Any) -> Any:
    """A name, an address or a backend, or None."""
    if value is not None and (
        (isinstance(value, str) and not value) or isinstance(value, int | float | list | dict | type)
    ):
        raise TaskOptionError(
            f'{owner}: {option} must be a name such as "local" or "processes", an address, or one of '
            f"graphflow.backends, not {value!r}"
        )
    return value
