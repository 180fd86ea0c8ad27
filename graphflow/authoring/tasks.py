"""Tasks: decorated functions with policies. A call records a node and returns a future."""

from __future__ import annotations

import functools
import os
import typing
from collections.abc import Callable, Coroutine, Iterable, Mapping
from datetime import timedelta
from typing import Any, Generic, ParamSpec, TypeVar, overload

from graphflow.authoring.callees import made_callee
from graphflow.authoring.decorated import Decorated, check_results
from graphflow.authoring.futures import Future
from graphflow.authoring.mapped_futures import MappedFuture
from graphflow.authoring.outside import current_recorder, keep_running
from graphflow.authoring.spreading import starmap
from graphflow.common.functions import function_name, result_annotation
from graphflow.driver.recorder import RunRecorder
from graphflow.errors import TaskOptionError
from graphflow.model.cache_policies import CachePolicy, changed_options, check_arguments
from graphflow.model.option_checks import refuse_unknown
from graphflow.model.option_table import documented, names_of
from graphflow.model.policies import TaskOptions, Trigger

__all__ = ["Task", "task"]

P = ParamSpec("P")
R = TypeVar("R")


class Task(Decorated[P], Generic[P, R]):
    """A function with policies; made by `task`.

    Calling it in a flow records a node and returns a future; nothing runs yet. `task.fn` is the function.
    """

    _kind = "task"
    _takes_types = True
    options: TaskOptions

    def _set_options(self, given: Mapping[str, Any]) -> None:
        self._given = dict(given)
        name = function_name(self.fn)
        self.options = TaskOptions.checked(f"task {given.get('name') or name!r}", given, name=name)
        check_results(given)
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
    def tags(self) -> frozenset[str]:
        """Its tags."""
        return self.options.tags

    def __get__(self, instance: Any, owner: Any = None) -> Task[..., R]:
        bound: Task[..., R] = super().__get__(instance, owner)
        return bound

    def with_options(self, **options: Any) -> Task[P, R]:
        """Return a copy with some options changed; tags are added.

        Raises
        ------
        TaskOptionError
            If an option is unknown or wrong.
        """
        refuse_unknown(f"task {self.options.name!r}", options, names_of("task"))
        merged = changed_options(self._given, options)
        for one, other in (("timeout", "timeout_seconds"), ("timeout_seconds", "timeout")):
            if one in options and other not in options:
                merged.pop(other, None)
        if options.get("tags") is not None:
            TaskOptions.checked(f"task {self.options.name!r}", {"tags": options["tags"]}, name="x")
            merged["tags"] = [*self.options.tags, *options["tags"]]
        return Task(self._decorated, **merged)

    # -- calls ------------------------------------------------------------------------------------------

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Future[R]: ...
    @overload
    def __call__(self, *args: Any, wait_for: Any, **kwargs: Any) -> Future[R]: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Future[R]:
        """Record a call and return the future of its value. `wait_for=[...]` only orders it after others."""
        future = self._call(args, kwargs)
        future._recorder.effects.watch(future)
        return future

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future[R]:
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
        future = self._call(args, kwargs)
        if isinstance(future._recorder, RunRecorder):
            future._recorder.flush()
            keep_running(future._recorder)
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

    def _n_outputs(self) -> int | None:
        return self.options.n_outputs or self._declared_outputs

    @functools.cached_property
    def _declared_outputs(self) -> int | None:
        """The number of elements in the `tuple[...]` annotation of the result."""
        annotation = result_annotation(self.fn)
        parts = typing.get_args(annotation) if typing.get_origin(annotation) is tuple else ()
        return len(parts) if parts and parts[-1] is not Ellipsis else None


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
    limit: str | None = None,
    weight: int = 1,
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
@documented("task")
def task(fn: Any = None, /, **options: Any) -> Any:
    """Turn a function into a task; bare, or with options.

    Parameters
    ----------
    {options}

    Raises
    ------
    TaskOptionError
        If an option is unknown or wrong.
    """
    refuse_unknown("@task", options, names_of("task"))
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
