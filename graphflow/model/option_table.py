"""All options of tasks and flows, each written once: what `@task` and `@flow` take, check and document.

Only the typed overloads of `task` and `flow` write them again, for editors and type checkers; a test compares
them with this table.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from graphflow.model.option_checks import (
    check_backend,
    check_batch_size,
    check_condition,
    check_flag,
    check_hooks,
    check_jitter,
    check_label,
    check_name,
    check_positive,
    check_priority,
    check_resources,
    check_retries,
    check_retry_on,
    check_switch,
    check_switch_on,
    check_tags,
    check_timeout,
    check_weight,
    check_workers,
)

__all__ = ["OPTIONS", "Option", "checked_values", "documented", "markdown", "names_of"]

Owner = Literal["task", "flow"]


@dataclass(frozen=True, slots=True)
class Option:
    """An option of tasks, or of flows.

    `type` and `default` are as the overload writes them. Options that are checked together with others (a trigger, delays of
    retries, timeouts, options of maps and of caches) have no `check` of their own.
    """

    owner: Owner
    name: str
    type: str
    default: str
    what: str
    check: Callable[[str, str, Any], Any] | None = None


_FN = "Callable[..., Any] | None"
_HOOKS = "list[Callable[..., Any]] | Callable[..., Any] | None"
_LABEL = "str | Callable[..., str] | None"
_DELAYS = "float | timedelta | list[float] | Callable[[int], list[float]] | None"
_STORAGE = "str | os.PathLike[str] | None"
_MAPPING = "Mapping[str, Any] | None"


def _retries(owner: str, option: str, value: Any) -> int:
    return check_retries(owner, value or 0)


def _timeout(owner: str, option: str, value: Any) -> float | None:
    return check_timeout(owner, value)


OPTIONS: tuple[Option, ...] = (
    Option("task", "name", "str | None", "None", "The task's name; the function's by default.", check_name),
    Option(
        "task",
        "description",
        "str | None",
        "None",
        "What it does, in a sentence; it is shown, and changes nothing.",
        check_name,
    ),
    Option(
        "task",
        "tags",
        "Iterable[str] | None",
        "None",
        "Texts that mark it; `with_options` adds to them.",
        check_tags,
    ),
    Option(
        "task",
        "limit",
        "str | None",
        "None",
        "A limit or rate that its runs share with those of other runs, by name; each tag names one, too, where there is one.",
        check_name,
    ),
    Option("task", "weight", "int", "1", "How many slots of its limits each item takes.", check_weight),
    Option("task", "version", "str | None", "None", "A text that marks its version.", check_name),
    Option("task", "retries", "int", "0", "How often a failed attempt is tried again.", _retries),
    Option(
        "task",
        "retry_delay_seconds",
        _DELAYS,
        "None",
        "Seconds before a retry: a number, a list whose last entry repeats, or a callable of the number of retries "
        "such as `exponential_backoff(2)`. A waiting retry holds no slot.",
    ),
    Option(
        "task",
        "retry_jitter_factor",
        "float | None",
        "None",
        "A factor f adds a random share of 0 to f times the delay to each delay.",
        check_jitter,
    ),
    Option(
        "task",
        "retry_on",
        "type[BaseException] | tuple[type[BaseException], ...] | list[type[BaseException]] | None",
        "None",
        "Retry only these exception types.",
        check_retry_on,
    ),
    Option(
        "task",
        "retry_condition_fn",
        _FN,
        "None",
        "Retry only if this callable of (task, task_run, state) returns true.",
        check_condition,
    ),
    Option(
        "task",
        "timeout_seconds",
        "float | timedelta | str | None",
        "None",
        "How long one attempt of one item may run: seconds, or a percentage of the median duration of the map's items "
        'such as "300%", which holds once enough of them ran.',
    ),
    Option(
        "task",
        "timeout",
        "float | timedelta | str | None",
        "None",
        "The same as `timeout_seconds`; give one of the two.",
    ),
    Option(
        "task",
        "trigger",
        "Trigger | Callable[..., bool] | None",
        "None",
        "When it runs, by the upstream states; `all_successful` by default.",
    ),
    Option(
        "task",
        "task_run_name",
        _LABEL,
        "None",
        "The label of its runs: a template over the parameters, or a callable.",
        check_label,
    ),
    Option(
        "task",
        "log_prints",
        "bool | None",
        "None",
        "Whether prints reach the log; the flow's setting by default.",
        check_flag,
    ),
    Option(
        "task",
        "on_running",
        _HOOKS,
        "None",
        "Functions of (task, task_run, state), called on the driver when a run begins. For a mapped item they are called "
        "when its outcome is known, before the others.",
        check_hooks,
    ),
    Option(
        "task",
        "on_completion",
        _HOOKS,
        "None",
        "Functions of (task, task_run, state), called on the driver when a run completes.",
        check_hooks,
    ),
    Option(
        "task",
        "on_failure",
        _HOOKS,
        "None",
        "Functions of (task, task_run, state), called on the driver when a run fails.",
        check_hooks,
    ),
    Option(
        "task",
        "n_outputs",
        "int | None",
        "None",
        "How many futures unpacking gives, where no `tuple[...]` annotation tells.",
        check_positive,
    ),
    Option(
        "task",
        "batch_size",
        "int | str | None",
        "None",
        'Items per batch; `"auto"` by default.',
        check_batch_size,
    ),
    Option(
        "task",
        "concurrency",
        "int | None",
        "None",
        "For `async def` tasks: items that run concurrently in one slot, 64 by default.",
        check_positive,
    ),
    Option(
        "task",
        "batched",
        "bool",
        "False",
        "The function gets a list of each mapped argument's values and returns (or yields) one result per item; states, "
        "retries and results stay those of the items.",
        check_switch,
    ),
    Option(
        "task",
        "max_concurrency",
        "int | None",
        "None",
        "How many items of the map may run at the same time, over all workers.",
    ),
    Option(
        "task",
        "rate_limit",
        "str | float | None",
        "None",
        'How many items may begin per time over all workers, such as "50/s" or "600/min".',
    ),
    Option(
        "task",
        "tolerated_failure_count",
        "int | None",
        "None",
        "How many items may fail before the map is ended early and fails. Tolerated failures do not fail the map or the "
        "flow; what needs the value of such an item is skipped, and gathers leave it out.",
    ),
    Option(
        "task",
        "tolerated_failure_percentage",
        "float | None",
        "None",
        "The same as a percentage of the items.",
    ),
    Option(
        "task",
        "fail_fast",
        "bool",
        "False",
        "The first item that fails ends the map: what has not begun is cancelled.",
    ),
    Option(
        "task",
        "resources",
        "Mapping[str, float] | None",
        "None",
        'What a batch needs on a worker of a Dask cluster, such as `{"GPU": 1}`.',
        check_resources,
    ),
    Option(
        "task",
        "priority",
        "int",
        "0",
        "How early batches run on a Dask cluster: higher runs first.",
        check_priority,
    ),
    Option(
        "task",
        "workers",
        "Iterable[str] | None",
        "None",
        "The addresses or names of the workers of a Dask cluster that batches may run on.",
        check_workers,
    ),
    Option(
        "task",
        "persist_result",
        "bool | None",
        "None",
        "Whether values are kept for a later resume of the run; the flow's setting by default. Without them, a resumed run "
        "makes again what it needs.",
        check_flag,
    ),
    Option(
        "task",
        "cache_policy",
        "CachePolicy | None",
        "None",
        "What the key is made of by which a result is found again: `INPUTS`, `FLOW_PARAMETERS` and `RUN_ID`, added with "
        '`+`; `INPUTS - "name"` leaves an argument out; `NO_CACHE` for none. Every key has the task\'s code. Nothing is '
        "cached unless one of these options asks for it; `DEFAULT` (all inputs) then is the policy, or the flow's.",
    ),
    Option(
        "task",
        "cache_key_fn",
        "Callable[..., str | None] | None",
        "None",
        "Makes the key, in place of a policy: a function of (context, parameters) that gives a text, or None for an item "
        "that is not cached, such as `task_input_hash`.",
    ),
    Option(
        "task",
        "cache_expiration",
        "timedelta | float | None",
        "None",
        "How long a result may be used: a timedelta, or seconds.",
    ),
    Option(
        "task",
        "cache_version",
        "str | None",
        "None",
        "Stands in keys in place of the code, which may then be edited.",
    ),
    Option(
        "task",
        "refresh_cache",
        "bool | None",
        "None",
        "Recompute results and ignore cached ones; the flow's setting by default.",
    ),
    Option(
        "task",
        "run_once",
        "bool",
        "False",
        "Execute each key once, in whatever run: it is claimed before it starts.",
    ),
    Option(
        "task",
        "resolve",
        _FN,
        "None",
        "With `run_once`: decides about an item whose outcome is unknown, because the process that claimed it is gone.",
    ),
    Option(
        "task",
        "result_storage",
        _STORAGE,
        "None",
        'Where results go: a URL such as `"s3://bucket/prefix"`, or a folder.',
    ),
    Option("task", "result_storage_options", _MAPPING, "None", "What opens that place, as fsspec takes it."),
    Option(
        "task",
        "result_serializer",
        "str | None",
        "None",
        'What makes bytes of results; `"pickle"` by default.',
    ),
    Option("flow", "name", "str | None", "None", "The flow's name; the function's by default.", check_name),
    Option(
        "flow",
        "flow_run_name",
        _LABEL,
        "None",
        "The name of its runs: a template over the parameters, or a callable.",
        check_label,
    ),
    Option(
        "flow",
        "description",
        "str | None",
        "None",
        "What it does, in a sentence; it is shown, and changes nothing.",
        check_name,
    ),
    Option(
        "flow",
        "tags",
        "Iterable[str] | None",
        "None",
        "Texts that mark its runs, and those of its deployments; `with_options` adds to them.",
        check_tags,
    ),
    Option("flow", "version", "str | None", "None", "A text that marks its version.", check_name),
    Option(
        "flow",
        "backend",
        "Any",
        "None",
        'Where tasks run: a name such as `"processes"`, an address, or one of `graphflow.backends`. By default `"local"`: on '
        "threads, and on local worker processes where there are seconds of CPU work.",
        check_backend,
    ),
    Option("flow", "retries", "int", "0", "How often the whole body is run again after a failure.", _retries),
    Option(
        "flow",
        "retry_delay_seconds",
        _DELAYS,
        "None",
        "Seconds before it is run again: a number, a list whose last entry repeats, or a callable of the number of retries.",
    ),
    Option(
        "flow", "timeout_seconds", "float | timedelta | None", "None", "How long the run may take.", _timeout
    ),
    Option(
        "flow",
        "validate_parameters",
        "bool",
        "True",
        "Whether parameters are checked and coerced by their annotations, with pydantic.",
        check_switch_on,
    ),
    Option(
        "flow",
        "log_prints",
        "bool",
        "False",
        "Whether prints of the body and of its tasks reach the log.",
        check_switch,
    ),
    Option(
        "flow",
        "persist_result",
        "bool | None",
        "None",
        "Whether values of its tasks are kept for a later resume, where a task does not set it itself; True by default. "
        "Without them, a resumed run makes again what it needs.",
        check_flag,
    ),
    Option(
        "flow",
        "on_running",
        _HOOKS,
        "None",
        "Functions of (flow, run, state), called when a run begins.",
        check_hooks,
    ),
    Option(
        "flow",
        "on_completion",
        _HOOKS,
        "None",
        "Functions of (flow, run, state), called when a run completes.",
        check_hooks,
    ),
    Option(
        "flow",
        "on_failure",
        _HOOKS,
        "None",
        "Functions of (flow, run, state), called when a run fails.",
        check_hooks,
    ),
    Option(
        "flow",
        "on_crashed",
        _HOOKS,
        "None",
        "Functions of (flow, run, state), called when a run crashes.",
        check_hooks,
    ),
    Option(
        "flow",
        "on_cancellation",
        _HOOKS,
        "None",
        "Functions of (flow, run, state), called when a run is cancelled.",
        check_hooks,
    ),
    Option(
        "flow",
        "cache_policy",
        "CachePolicy | None",
        "None",
        "The cache policy of its tasks where they set none: see `task`.",
    ),
    Option(
        "flow",
        "refresh_cache",
        "bool | None",
        "None",
        "Whether its tasks recompute cached results, unless they set it themselves: see `task`.",
    ),
    Option(
        "flow",
        "result_storage",
        _STORAGE,
        "None",
        "Where the results of its runs go, and of its tasks where these set none: see `task`.",
    ),
    Option("flow", "result_storage_options", _MAPPING, "None", "What opens that place, as fsspec takes it."),
    Option(
        "flow",
        "result_serializer",
        "str | None",
        "None",
        'What makes bytes of the results of its tasks where they set none; `"pickle"` by default.',
    ),
)
"""In the order in which they are checked, documented and listed. `with_options` takes the same ones."""


def _of(owner: Owner) -> tuple[Option, ...]:
    return tuple(option for option in OPTIONS if option.owner == owner)


_BY_OWNER: dict[Owner, tuple[Option, ...]] = {"task": _of("task"), "flow": _of("flow")}
_NAMES: dict[Owner, tuple[str, ...]] = {
    owner: tuple(option.name for option in options) for owner, options in _BY_OWNER.items()
}


def names_of(owner: Owner) -> tuple[str, ...]:
    """The names of all options of tasks, or of flows."""
    return _NAMES[owner]


def checked_values(owner: Owner, what: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The checked values of the options that have a check of their own, given or not.

    Parameters
    ----------
    what
        How errors name the task or flow.

    Raises
    ------
    TaskOptionError
        If one is of the wrong kind.
    """
    return {
        option.name: option.check(what, option.name, given.get(option.name))
        for option in _BY_OWNER[owner]
        if option.check is not None
    }


# -- how they are shown ------------------------------------------------------------------------------------

_MARK = "{options}\n"


def documented(owner: Owner) -> Callable[[Any], Any]:
    """A decorator: put the options in the docstring, in place of a line `{options}`."""

    def document(function: Any) -> Any:
        if function.__doc__ is not None:
            # Python 3.13 takes the indentation of docstrings away, earlier ones do not.
            text = inspect.cleandoc(function.__doc__)
            entries = "".join(
                f"{option.name}\n{_wrapped(option.what, ' ' * 4, 106)}" for option in _BY_OWNER[owner]
            )
            function.__doc__ = text.replace(_MARK, entries)
        return function

    return document


def _wrapped(text: str, indent: str, width: int) -> str:
    # `textwrap` takes a hundred times as long, at each import.
    lines, line = "", indent
    for word in text.split():
        if len(line) + len(word) > width and line != indent:
            lines += line.rstrip() + "\n"
            line = indent
        line += word + " "
    return lines + line.rstrip() + "\n"


def markdown() -> str:
    """The page of all options, `docs/options.md`."""
    parts = [
        "# Options of tasks and flows\n\n"
        "Made from `graphflow/model/option_table.py`, which a test compares with this page. To make it again:\n\n"
        "    python -c \"from graphflow.model.option_table import markdown; print(markdown(), end='')\" > docs/options.md\n"
    ]
    for owner, title in (("task", "`@task(...)`"), ("flow", "`@flow(...)`")):
        parts.append(
            f"\n## {title}\n\n"
            f"`{owner}.with_options(...)` returns a copy with some of these changed.\n\n"
            "| option | type | default | what it does |\n|---|---|---|---|\n"
        )
        for option in OPTIONS:
            if option.owner == owner:
                kind = option.type.replace("|", "\\|")
                parts.append(f"| `{option.name}` | `{kind}` | `{option.default}` | {option.what} |\n")
    return "".join(parts)
