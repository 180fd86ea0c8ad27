"""Tasks: decorated functions with policies. A call records a node and returns a future."""

from __future__ import annotations

import functools
import os
import typing
from collections.abc import Callable, Coroutine, Iterable, Mapping
from datetime import timedelta
from typing import Any, Generic, ParamSpec, TypeVar, overload

from graphflow.authoring.callees import made_callee
from graphflow.authoring.futures import Future
from graphflow.authoring.mapped_futures import MappedFuture
from graphflow.authoring.outside import current_recorder
from graphflow.authoring.spreading import starmap
from graphflow.common.functions import (
    Binding,
    dress,
    function_name,
    is_async,
    result_annotation,
    signature_of,
)
from graphflow.driver.recorder import RunRecorder
from graphflow.errors import TaskOptionError
from graphflow.model.cache_policies import CACHE_OPTIONS, CachePolicy, changed_options, check_arguments
from graphflow.model.policies import TaskOptions, Trigger, refuse_unknown

__all__ = ["Task", "task"]

P = ParamSpec("P")
R = TypeVar("R")

_OPTIONS = (
    "name",
    "description",
    "tags",
    "version",
    "retries",
    "retry_delay_seconds",
    "retry_jitter_factor",
    "retry_on",
    "retry_condition_fn",
    "timeout_seconds",
    "timeout",
    "trigger",
    "task_run_name",
    "log_prints",
    "on_running",
    "on_completion",
    "on_failure",
    "n_outputs",
    "batch_size",
    "concurrency",
    "batched",
    "max_concurrency",
    "rate_limit",
    "tolerated_failure_count",
    "tolerated_failure_percentage",
    "fail_fast",
    "resources",
    "priority",
    "workers",
    "persist_result",
    *CACHE_OPTIONS,
)


class Task(Generic[P, R]):
    """A function with policies; made by `task`.

    Calling it in a flow records a node and returns a future; nothing runs yet. `task.fn` is the function.
    """

    def __init__(self, fn: Callable[P, Any], **options: Any) -> None:
        self._decorated = fn
        self._binding = Binding.of(fn)
        if isinstance(fn, staticmethod | classmethod):
            fn = fn.__func__
        if isinstance(fn, Task):
            raise TaskOptionError(f"{fn!r} is already a task; use its with_options(...) to change options")
        if isinstance(fn, type) or not callable(fn):
            raise TaskOptionError(f"@task takes a function or another callable, not {fn!r}")
        self.fn: Callable[P, Any] = fn
        self.is_async = is_async(fn)
        self._signature = signature_of(fn)
        self._given: dict[str, Any] = {}
        self._set_options(options)
        dress(self, fn)

    def _set_options(self, given: Mapping[str, Any]) -> None:
        self._given = dict(given)
        name = function_name(self.fn)
        self.options = TaskOptions.checked(f"task {given.get('name') or name!r}", given, name=name)
        if self.options.concurrency is not None and not self.is_async:
            raise TaskOptionError(
                f"task {self.options.name!r}: concurrency={self.options.concurrency} is for async def tasks, whose "
                "items run concurrently in one slot; a plain function runs one item per slot"
            )
        if self.options.batched and self.options.concurrency is not None:
            raise TaskOptionError(
                f"task {self.options.name!r}: concurrency={self.options.concurrency} is for tasks whose items run one per "
                "call; a batched task gets many items in one call; remove one of the two"
            )
        check_arguments(f"task {self.options.name!r}", self.options.results.policy, self._signature)
        self._callee = made_callee(self.fn, self.options)

    @property
    def name(self) -> str:
        """The task's name."""
        return self.options.name

    @property
    def tags(self) -> frozenset[str]:
        """Its tags."""
        return self.options.tags

    def __repr__(self) -> str:
        return f"<Task {self.options.name}>"

    def __get__(self, instance: Any, owner: Any = None) -> Task[..., R]:
        bound = self._binding.bind(self.fn, instance, owner)
        return self if bound is self.fn else Task(bound, **self._given)

    def __reduce__(self) -> Any:
        return _rebuild, (self._decorated, self._given)

    def with_options(self, **options: Any) -> Task[P, R]:
        """Return a copy with some options changed; tags are added.

        Raises
        ------
        TaskOptionError
            If an option is unknown or wrong.
        """
        refuse_unknown(f"task {self.options.name!r}", options, _OPTIONS)
        merged = changed_options(self._given, options)
        for one, other in (("timeout", "timeout_seconds"), ("timeout_seconds", "timeout")):
            if one in options and other not in options:
                merged.pop(other, None)
        if options.get("tags") is not None:
            TaskOptions.checked(f"task {self.options.name!r}", {"tags": options["tags"]}, name="x")
            merged["tags"] = [*self.options.tags, *options["tags"]]
        return Task(self._decorated, **merged)

    # -- hooks, also as decorators ----------------------------------------------------------------------

    def on_running(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        """Add a hook of (task, task_run, state) that is called when a run begins; a decorator."""
        return self._add_hook("on_running", hook)

    def on_completion(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        """Add a hook of (task, task_run, state) that is called when a run completes; a decorator."""
        return self._add_hook("on_completion", hook)

    def on_failure(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        """Add a hook of (task, task_run, state) that is called when a run fails; a decorator."""
        return self._add_hook("on_failure", hook)

    def _add_hook(self, option: str, hook: Callable[..., Any]) -> Callable[..., Any]:
        self._set_options({**self._given, option: [*getattr(self.options, option), hook]})
        return hook

    # -- calls ------------------------------------------------------------------------------------------

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Future[R]: ...
    @overload
    def __call__(self, *args: Any, wait_for: Any, **kwargs: Any) -> Future[R]: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Future[R]:
        """Record a call and return the future of its value. `wait_for=[...]` only orders it after others."""
        wait_for = self._wait_for(kwargs)
        recorder = current_recorder([*args, *kwargs.values(), wait_for])
        node = recorder.call(self._callee, args, kwargs, wait_for=wait_for)
        return Future(recorder, node, n_outputs=self._n_outputs())

    @overload
    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Future[R]: ...
    @overload
    def submit(self, *args: Any, wait_for: Any, **kwargs: Any) -> Future[R]: ...
    def submit(self, *args: Any, **kwargs: Any) -> Future[R]:
        """Record a call, start everything recorded so far, and return the future at once."""
        future = self(*args, **kwargs)
        if isinstance(future._recorder, RunRecorder):
            future._recorder.flush()
        return future

    def map(self, *args: Any, **kwargs: Any) -> MappedFuture[R]:
        """Record a map: sequences, iterators and futures of them are zipped, everything else is constant.

        Raises
        ------
        MapTypeError
            If an argument cannot be mapped (a dict, a set, a DataFrame), or none is.
        MapWidthError
            If lengths are known and differ.
        """
        wait_for = self._wait_for(kwargs)
        recorder = current_recorder([*args, *kwargs.values(), wait_for])
        return MappedFuture(recorder, recorder.map(self._callee, args, kwargs, wait_for=wait_for))

    def starmap(self, values: Any, **kwargs: Any) -> MappedFuture[R]:
        """Record a map that spreads each element over the arguments: `add.starmap([(1, 2), (3, 4)])`."""
        return self.map(starmap(values), **kwargs)

    def _wait_for(self, kwargs: dict[str, Any]) -> Any:
        if self._signature is not None and "wait_for" in self._signature.parameters:
            return None
        return kwargs.pop("wait_for", None)

    def _n_outputs(self) -> int | None:
        return self.options.n_outputs or self._declared_outputs

    @functools.cached_property
    def _declared_outputs(self) -> int | None:
        """The number of elements in the `tuple[...]` annotation of the result."""
        annotation = result_annotation(self.fn)
        parts = typing.get_args(annotation) if typing.get_origin(annotation) is tuple else ()
        return len(parts) if parts and parts[-1] is not Ellipsis else None


def _rebuild(fn: Callable[..., Any], options: Mapping[str, Any]) -> Task[..., Any]:
    return Task(fn, **options)


# -- the decorator -----------------------------------------------------------------------------------------


@overload
def task(fn: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
@overload
def task(fn: Callable[P, R], /) -> Task[P, R]: ...
@overload
def task(
    fn: None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    tags: Iterable[str] | None = None,
    version: str | None = None,
    retries: int = 0,
    retry_delay_seconds: float | timedelta | list[float] | Callable[[int], list[float]] | None = None,
    retry_jitter_factor: float | None = None,
    retry_on: type[BaseException] | tuple[type[BaseException], ...] | list[type[BaseException]] | None = None,
    retry_condition_fn: Callable[..., Any] | None = None,
    timeout_seconds: float | timedelta | str | None = None,
    timeout: float | timedelta | str | None = None,
    trigger: Trigger | Callable[..., bool] | None = None,
    task_run_name: str | Callable[..., str] | None = None,
    log_prints: bool | None = None,
    on_running: list[Callable[..., Any]] | Callable[..., Any] | None = None,
    on_completion: list[Callable[..., Any]] | Callable[..., Any] | None = None,
    on_failure: list[Callable[..., Any]] | Callable[..., Any] | None = None,
    n_outputs: int | None = None,
    batch_size: int | str | None = None,
    concurrency: int | None = None,
    batched: bool = False,
    max_concurrency: int | None = None,
    rate_limit: str | float | None = None,
    tolerated_failure_count: int | None = None,
    tolerated_failure_percentage: float | None = None,
    fail_fast: bool = False,
    resources: Mapping[str, float] | None = None,
    priority: int = 0,
    workers: Iterable[str] | None = None,
    persist_result: bool | None = None,
    cache_policy: CachePolicy | None = None,
    cache_key_fn: Callable[..., str | None] | None = None,
    cache_expiration: timedelta | float | None = None,
    cache_version: str | None = None,
    refresh_cache: bool | None = None,
    run_once: bool = False,
    resolve: Callable[..., Any] | None = None,
    result_storage: str | os.PathLike[str] | None = None,
    result_storage_options: Mapping[str, Any] | None = None,
    result_serializer: str | None = None,
) -> _Decorator: ...
def task(fn: Any = None, /, **options: Any) -> Any:
    """Turn a function into a task; bare, or with options.

    Parameters
    ----------
    name, description, tags, version
        What it is called and how it is marked; the name is the function's by default.
    retries, retry_delay_seconds, retry_jitter_factor
        How often a failed attempt is tried again, and after how many seconds: a number, a list whose last
        entry repeats, or a callable of the number of retries such as `exponential_backoff(2)`. A waiting
        retry holds no slot. Jitter factor f adds a random share of 0 to f times the delay.
    retry_on, retry_condition_fn
        Retry only these exception types; only if the callable of (task, task_run, state) says so.
    timeout_seconds, timeout
        How long one attempt of one item may run: seconds, or a percentage of the median duration of the map's
        items such as "300%", which holds once enough of them ran. Both names mean the same; give one.
    trigger
        When it runs, by the upstream states; `all_successful` by default.
    task_run_name
        The label of its runs: a template over the parameters, or a callable.
    log_prints
        Whether prints reach the log; the flow's setting by default.
    on_running, on_completion, on_failure
        Functions of (task, task_run, state), called on the driver. For a mapped item, `on_running` is
        called when its outcome is known, before the others.
    n_outputs
        How many futures unpacking gives, where no `tuple[...]` annotation tells.
    batch_size
        Items per batch; `"auto"` by default.
    concurrency
        For `async def` tasks: items that run concurrently in one slot, 64 by default.
    batched
        The function gets a list of each mapped argument's values and returns (or yields) one result per item; states,
        retries and results stay those of the items.
    max_concurrency
        How many items of the map may run at the same time, over all workers.
    rate_limit
        How many items may begin per time over all workers, such as "50/s" or "600/min".
    tolerated_failure_count, tolerated_failure_percentage
        How many items may fail (or what percentage of them) before the map is ended early and fails. Tolerated failures
        do not fail the map or the flow; what needs the value of such an item is skipped, and gathers leave it out.
    fail_fast
        The first item that fails ends the map: what has not begun is cancelled.
    resources, priority, workers
        Where and how early batches run on a Dask cluster.
    persist_result
        Whether values are kept for a later resume of the run; the flow's setting by default. Without them, a resumed run
        makes again what it needs.
    cache_policy
        What the key is made of by which a result is found again: `INPUTS`, `FLOW_PARAMETERS` and `RUN_ID`, added with `+`;
        `INPUTS - "name"` leaves an argument out; `NO_CACHE` for none. Every key has the task's code. Nothing is cached unless
        one of these options asks for it; `DEFAULT` (all inputs) then is the policy, or the flow's.
    cache_key_fn
        Makes the key, in place of a policy: a function of (context, parameters) that gives a text, or None for an item that is
        not cached, such as `task_input_hash`.
    cache_expiration
        How long a result may be used: a timedelta, or seconds.
    cache_version
        Stands in keys in place of the code, which may then be edited.
    refresh_cache
        Recompute results and ignore cached ones; the flow's setting by default.
    run_once
        Execute each key once, in whatever run: it is claimed before it starts.
    resolve
        With `run_once`: decides about an item whose outcome is unknown, because who claimed it is gone.
    result_storage, result_storage_options
        Where results go: a URL such as `"s3://bucket/prefix"`, or a folder; and what opens it, as fsspec takes it.
    result_serializer
        What makes bytes of results: `"pickle"` by default.

    Raises
    ------
    TaskOptionError
        If an option is unknown or wrong.
    """
    refuse_unknown("@task", options, _OPTIONS)
    if fn is not None:
        return Task(fn, **options)
    return _Decorator(options)


class _Decorator:
    """`@task(...)` with options, waiting for its function."""

    def __init__(self, options: dict[str, Any]) -> None:
        # Options are checked where they are written, not where the function stands.
        TaskOptions.checked("@task", options, name="task")
        self._options = options

    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Task[P, R]: ...
    def __call__(self, fn: Any, /) -> Any:
        return Task(fn, **self._options)
