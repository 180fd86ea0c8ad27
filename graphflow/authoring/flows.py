"""Flows: decorated functions that compose tasks; a call runs them and returns the value."""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, Unpack, overload

from graphflow.authoring.decorated import Decorated, check_results
from graphflow.authoring.parameters import bind_parameters, validated, with_named_secrets
from graphflow.common import ids
from graphflow.common.functions import function_name
from graphflow.driver.run_record import RunRecord
from graphflow.errors import ForcingError, ParameterError
from graphflow.graph.graph import Graph
from graphflow.graph.recording import RECORDER, Recorder
from graphflow.model.cache_policies import CachePolicy, changed_options
from graphflow.model.flow_options import FlowOptions
from graphflow.model.option_checks import check_tags, refuse_unknown
from graphflow.model.option_table import documented, names_of
from graphflow.runs.run import Run

if TYPE_CHECKING:
    from graphflow.authoring.deployments import Deployment, DeployOptions
    from graphflow.authoring.execution import Execution
    from graphflow.driver.definition import Definition
    from graphflow.ports import Backend
    from graphflow.runs.forecasting import Forecast

__all__ = ["Flow", "flow"]

P = ParamSpec("P")
R = TypeVar("R")


class Flow(Decorated[P], Generic[P, R]):
    """A function that composes tasks; made by `flow`. `flow.fn` is the function."""

    _kind = "flow"
    options: FlowOptions

    def _set_options(self, given: Mapping[str, Any]) -> None:
        self._given = dict(given)
        name = function_name(self.fn)
        self.options = FlowOptions.checked(f"flow {given.get('name') or name!r}", given, name=name)
        check_results(given)

    def __get__(self, instance: Any, owner: Any = None) -> Flow[..., R]:
        bound: Flow[..., R] = super().__get__(instance, owner)
        return bound

    @property
    def tags(self) -> frozenset[str]:
        """Its tags."""
        return self.options.tags

    def with_options(self, **options: Any) -> Flow[P, R]:
        """Return a copy with some options changed; tags are added.

        Raises
        ------
        TaskOptionError
            If an option is unknown or wrong.
        """
        owner = f"flow {self.options.name!r}"
        refuse_unknown(owner, options, names_of("flow"))
        merged = changed_options(self._given, options)
        if options.get("tags") is not None:
            merged["tags"] = self.options.tags | check_tags(owner, "tags", options["tags"])
        return Flow(self._decorated, **merged)

    # -- hooks, also as decorators ----------------------------------------------------------------------

    def on_crashed(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        """Add a hook of (flow, run, state) that is called when a run crashes; a decorator."""
        return self._add_hook("on_crashed", hook)

    def on_cancellation(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        """Add a hook of (flow, run, state) that is called when a run is cancelled; a decorator."""
        return self._add_hook("on_cancellation", hook)

    # -- running ----------------------------------------------------------------------------------------

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the flow and return its value; inside another flow, add its calls to that run.

        Raises
        ------
        ParameterError
            If parameters are missing, unknown or of the wrong type; before anything runs.
        Exception
            What the run failed with.
        """
        outer = RECORDER.get()
        if outer is not None:
            return self._called_inside(outer, args, kwargs)  # type: ignore[no-any-return]
        if self.is_async:
            return self._value_async(args, kwargs)  # type: ignore[return-value]
        value: R = self.run(*args, **kwargs).result()
        return value

    @overload
    def run(  # type: ignore[overload-overlap]
        self: Flow[P, Coroutine[Any, Any, Any]], *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, Run]: ...
    @overload
    def run(self, *args: P.args, **kwargs: P.kwargs) -> Run: ...
    @overload
    def run(self, *args: Any, run_id: str, **kwargs: Any) -> Any: ...
    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Run the flow and return its run, in whatever state it ended; for an async flow, an awaitable of the run.

        Parameters
        ----------
        args, kwargs
            The flow's parameters.
        run_id
            Your own id for the run: letters, digits, `.`, `_` and `-`, up to 64 of them. If there is such a run already, it is
            resumed, or returned as it is if it completed; so the same call can be repeated until the run is done. In a flow
            with a parameter of this name, it is that parameter.

        Raises
        ------
        ParameterError
            If parameters are missing, unknown or of the wrong type, or not those of the run of this id; before anything runs.
        LeaseHeld
            If the run of this id has a driver.
        """
        run_id = None if "run_id" in inspect.signature(self.fn).parameters else kwargs.pop("run_id", None)
        if run_id is not None:
            return self._with_id(run_id, args, kwargs)
        if self.is_async:
            return self._run_async(args, kwargs)
        execution = self._execution(args, kwargs)
        execution.execute()
        return execution.run

    def start(self, *args: P.args, **kwargs: P.kwargs) -> Run:
        """Start the flow in its own thread and return the run at once; `run.wait()` waits for its end.

        Raises
        ------
        ParameterError
            If parameters are missing, unknown or of the wrong type; before anything runs.
        """
        return self._started(self._execution(args, kwargs))

    def _started(self, execution: Execution) -> Run:
        """Start the run in its own thread."""
        run = execution.run

        def target() -> None:
            import asyncio

            if self.is_async:
                asyncio.run(execution.execute_async())
            else:
                execution.execute()

        # No `Service`: the flow's body, once.
        threading.Thread(target=_quiet(target), name=f"graphflow-flow-{run.id[-6:]}", daemon=True).start()
        return run

    def _with_id(self, run_id: str, args: Any, kwargs: Any, *, starts: bool = False) -> Any:
        from graphflow.driver.durability import is_known

        ids.check_run_id(run_id)
        parameters = self._parameters(args, kwargs)
        if is_known(run_id):
            return self._again(run_id, None, parameters=parameters, starts=starts)
        execution = self._execution(args, kwargs, run_id=run_id)
        if starts:
            return self._started(execution)
        if self.is_async:
            return _executed(execution)
        execution.execute()
        return execution.run

    def resume(
        self,
        run_id: str,
        *,
        parameters: Mapping[str, Any] | None = None,
        rerun_changed: bool = False,
        force: bool = False,
    ) -> Any:
        """Resume a run that crashed, failed, was cancelled or interrupted: run missing items, keep finished ones.

        The body runs again with the original parameters; its calls are matched with the earlier ones. Returns the run,
        in whatever state it ended; for an async flow, an awaitable of it. A completed run is returned as it is.

        Parameters
        ----------
        run_id
            The run's id, a unique prefix of it, its name, `@latest` or `@latest-failed`.
        parameters
            Secrets, which are not stored, by the names of their parameters; those that the run began with. Others, if given,
            must be the same as then.
        rerun_changed
            Whether to rerun tasks whose code has changed, and what depends on them. Otherwise their finished items
            are kept, with one warning, and the new code runs the others.
        force
            Whether to resume even if the flow's calls no longer match the earlier ones.

        Raises
        ------
        RunNotFound
            If there is no such run, or it is another flow's.
        ParameterError
            If a secret is missing, or a parameter differs from what the run began with.
        LeaseHeld
            If it has a driver.
        FlowChanged
            If the calls of the changed flow do not match, and this is not forced; as the run's exception.
        """
        return self._again(run_id, None, rerun_changed=rerun_changed, force=force, given=parameters)

    def redrive(
        self,
        run_id: str,
        *,
        failed: bool | None = None,
        node: str | None = None,
        indices: Iterable[int] | None = None,
        parameters: Mapping[str, Any] | None = None,
        rerun_changed: bool = False,
        force: bool = False,
    ) -> Any:
        """Run items of an earlier run again, in the same run, with everything that depends on them; all others are kept.

        Returns the run; for an async flow, an awaitable of it.

        Parameters
        ----------
        failed
            All failed items; the default if no node and no items are given.
        node
            The node, by its name in the run.
        indices
            Only these items of it; without `node`, of the run's only map.
        parameters, rerun_changed, force
            As for `resume`.

        Raises
        ------
        RunNotFound
            If there is no such run or node.
        IndexError
            If there is no such item.
        LeaseHeld
            If the run has a driver.
        """
        chosen = None if indices is None else frozenset(indices)
        if chosen is not None and not chosen:
            raise ParameterError(
                "redrive: indices is empty; list the items, or leave it out for all items of the node"
            )
        if failed and (node is not None or chosen is not None):
            raise ParameterError("redrive: use failed=True, or a node and its indices, not both")
        if failed is False and node is None and chosen is None:
            raise ParameterError("redrive: nothing to run again; use failed=True, or a node and its indices")
        return self._redriven(
            run_id, node, chosen, rerun_changed=rerun_changed, force=force, given=parameters
        )

    def _redriven(
        self,
        run_id: str,
        node: str | None,
        indices: Iterable[int] | None,
        *,
        rerun_changed: bool = False,
        force: bool = False,
        starts: bool = False,
        given: Mapping[str, Any] | None = None,
    ) -> Any:
        """Another launch in which these run again: all that failed, where neither a node nor items are named."""
        from graphflow.driver.recovery import Selection

        chosen = None if indices is None else frozenset(indices)
        selections = [] if node is None and chosen is None else [Selection(node=node or "", indices=chosen)]
        return self._again(
            run_id, selections, rerun_changed=rerun_changed, force=force, starts=starts, given=given
        )

    def _again(
        self,
        run_id: str,
        selections: Any,
        *,
        rerun_changed: bool = False,
        force: bool = False,
        parameters: Mapping[str, Any] | None = None,
        given: Mapping[str, Any] | None = None,
        starts: bool = False,
        work: int | None = None,
    ) -> Any:
        """Start another launch of a run; with `starts` in its own thread, so that the run is returned at once.

        With `work` it is not started: its execution is returned, for a worker that claimed the run under this number.
        """
        from graphflow.authoring.execution import Execution
        from graphflow.backends import reached
        from graphflow.driver.durability import reopen

        opened: list[tuple[Backend, bool] | None] = [None]

        def prepare() -> None:
            opened[0] = reached(self.options.backend)

        try:
            found = reopen(
                self._definition,
                run_id,
                selections=selections,
                rerun_changed=rerun_changed,
                is_forced=force,
                parameters=parameters,
                given=self.checked(given),
                checked=self._checked,
                prepare=prepare,
                work=work,
            )
        except BaseException:
            _close(opened[0])
            raise
        if found.durability is None:
            from graphflow.runs.history import history

            run: Run = history().run(found.header.id)
            return _ready(run) if self.is_async and not starts else run
        record = RunRecord(
            run_id=found.header.id,
            name=found.header.name,
            flow_name=self.name,
            parameters=found.parameters,
        )
        record.created = found.header.created
        execution = Execution(self._definition, record, found.durability, opened[0])
        if work is not None:
            return execution
        if starts:
            return self._started(execution)
        if self.is_async:
            return _executed(execution)
        execution.execute()
        return execution.run

    def _for_work(
        self,
        run_id: str,
        parameters: Mapping[str, Any],
        *,
        work: int,
        created: float,
        is_new: bool,
        retries: bool = False,
    ) -> Execution:
        """Return the execution of a run that a worker claimed under a number; the run is its driver's when this returns.

        With `retries` what failed runs again too.

        Raises
        ------
        LeaseLost
            If that claim does not hold any more.
        LeaseHeld
            If the driver before is still there.
        """
        from graphflow.driver.durability import has_launches

        if is_new:
            return self._execution((), parameters, run_id=run_id, work=work, created=created)
        # A driver that died before it wrote anything down left no parameters.
        given = None if has_launches(run_id) else self._parameters((), parameters)
        chosen: list[Any] | None = [] if retries and given is None else None
        execution: Execution = self._again(run_id, chosen, parameters=given, work=work)
        return execution

    # -- deploying --------------------------------------------------------------------------------------

    def to_deployment(self, name: str, **options: Unpack[DeployOptions]) -> Deployment:
        """Return a deployment of this flow, for `serve(...)`, or to store with `apply()`; the options are those of `deploy`."""
        from graphflow.authoring.deployments import Deployment

        return Deployment.build_from_flow(self, name, **options)

    def deploy(self, name: str, **options: Unpack[DeployOptions]) -> str:
        """Store a deployment of this flow in place of the one of its name, and return its id; workers run it when it is due.

        Parameters
        ----------
        name
            Its name, which finds it together with the flow's: `flow/name`.
        cron, interval, rrule, at, timezone, anchor_date, catchup, jitter
            When it is due, for a single schedule: see `Cron`, `Interval`, `RRule` and `At`; several expressions may be given as `cron`.
        schedule, schedules
            A schedule, or several, each with its own zone, parameters and policies.
        parameters
            Values that JSON can hold; a secret is `{"$secret": NAME}`.
        work_pool_name, work_queue_name, priority
            Which workers run it, and in which order.
        concurrency_limit, on_collision, concurrency_key
            How many runs are active at once, for each value of a key such as `customer={customer}`, and what happens to one more: `queue`
            (default), `queue-latest`, `skip` or `cancel-running`.
        backend, env, needs
            Where its runs compute, their environment, and the labels that a worker must have.
        tags, version, description, paused, enforce_parameter_schema
            As in Prefect.

        Raises
        ------
        DeploymentError, ScheduleError, ParameterError
            If an option is wrong, or has no meaning here; nothing is stored then.
        """
        return self.to_deployment(name, **options).apply()

    def serve(
        self,
        name: str | None = None,
        *,
        limit: int | None = None,
        pause_on_shutdown: bool = False,
        print_starting_message: bool = True,
        **options: Unpack[DeployOptions],
    ) -> None:
        """Store a deployment of this flow, and run what is due in this process until Ctrl-C; see `serve` and `deploy`.

        While the file is loaded for its flows alone, its import ends here.
        """
        from graphflow.authoring.serving import serve

        serve(
            self.to_deployment(name or self.name, **options),
            limit=limit,
            pause_on_shutdown=pause_on_shutdown,
            print_starting_message=print_starting_message,
        )

    def graph(self, *args: P.args, **kwargs: P.kwargs) -> Graph:
        """Build the graph that the body records, without running it.

        Raises
        ------
        ForcingError
            If the body forces a future: the rest of its graph depends on a value.
        """
        recorder = self._recorder(self._parameters(args, kwargs))
        self._record(recorder)
        return Graph(
            recorder.nodes,
            name=self.name,
            status=lambda node: ("Pending", recorder.known_width(recorder.nodes[node]), {}),
        )

    def forecast(self, *args: P.args, **kwargs: P.kwargs) -> Forecast:
        """Return what a run would find in the cache, without running it.

        The flow's body runs, as for `graph`; where it asks for a value, the forecast ends and says so. Items whose inputs follow from
        what would run first are unknown.

        Raises
        ------
        ResultStoreError
            If the cache cannot be read.
        """
        from graphflow.runs.forecasting import forecast

        recorder = self._recorder(self._parameters(args, kwargs))
        forced = ""
        try:
            self._record(recorder)
        except ForcingError as error:
            forced = str(error)
        return forecast(self.name, recorder.nodes, forced=forced)

    def _recorder(self, parameters: dict[str, Any]) -> Recorder:
        return Recorder(
            flow_name=self.name,
            scope=self.name,
            results=self.options.results,
            flow_parameters=parameters,
        )

    def _record(self, recorder: Recorder) -> None:
        """Call the body, so that what it calls is recorded and nothing runs."""
        token = RECORDER.set(recorder)
        try:
            outcome = self._definition.call(dict(recorder.flow_parameters))
            if inspect.iscoroutine(outcome):
                _finish_coroutine(outcome)
        finally:
            RECORDER.reset(token)

    def _parameters(self, args: Any, kwargs: Any) -> dict[str, Any]:
        parameters = with_named_secrets(bind_parameters(self.fn, self.name, args, kwargs))
        return validated(self.fn, self.name, parameters) if self.options.validate_parameters else parameters

    def checked(self, parameters: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return some of the parameters, coerced to their annotations.

        Raises
        ------
        ParameterError
            If the flow has no such parameter, or a value does not match its annotation.
        """
        names = inspect.signature(self.fn).parameters
        for name in parameters or ():
            if name not in names:
                raise ParameterError(
                    f"flow {self.name!r} has no parameter {name!r}; it takes {', '.join(names) or 'none'}"
                )
        return self._checked(with_named_secrets(parameters or {}))

    def _checked(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return some of the parameters, coerced to their annotations."""
        found = dict(parameters)
        return validated(self.fn, self.name, found) if self.options.validate_parameters else found

    @property
    def _definition(self) -> Definition:
        # What runs a flow, and the engine below it, is loaded with the first run.
        from graphflow.driver.definition import Definition

        return Definition(self.fn, self.options, self)

    def _execution(
        self,
        args: Any,
        kwargs: Any,
        *,
        run_id: str | None = None,
        work: int | None = None,
        created: float | None = None,
    ) -> Execution:
        parameters = self._parameters(args, kwargs)
        run_id = run_id or ids.run_id()
        definition = self._definition
        name = definition.run_name(parameters, run_id)
        record = RunRecord(run_id=run_id, name=name, flow_name=self.name, parameters=parameters)
        record.created = record.created if created is None else created
        from graphflow.authoring.execution import Execution
        from graphflow.backends import reached
        from graphflow.driver.durability import Durability

        # What is configured wrongly, or not there, leaves no run behind.
        opened = reached(self.options.backend)
        try:
            durability = Durability.create(definition, record, work=work)
        except BaseException:
            _close(opened)
            raise
        return Execution(definition, record, durability, opened)

    async def _run_async(self, args: Any, kwargs: Any) -> Run:
        return await _executed(self._execution(args, kwargs))

    async def _value_async(self, args: Any, kwargs: Any) -> Any:
        return (await self._run_async(args, kwargs)).result()

    def _called_inside(self, recorder: Recorder, args: Any, kwargs: Any) -> Any:
        from graphflow.authoring.subflows import InnerCall

        wait_for = self._wait_for(kwargs)
        call = InnerCall(self._definition, recorder, self._parameters(args, kwargs), wait_for)
        if self.is_async:
            return call.execute_async() if call.is_eager else call.record_async()
        return call.execute() if call.is_eager else call.record()


async def _executed(execution: Execution) -> Run:
    await execution.execute_async()
    return execution.run


async def _ready(run: Run) -> Run:
    return run


def _quiet(target: Callable[[], None]) -> Callable[[], None]:
    """Return a thread's target that does not print its exception, which is the run's."""

    def run() -> None:
        with suppress(BaseException):
            target()

    return run


def _close(opened: tuple[Backend, bool] | None) -> None:
    """Close a backend that was opened for a run which does not begin."""
    if opened is not None and opened[1]:
        opened[0].close()


def _finish_coroutine(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Run the body of an async flow that awaits only futures; these raise where nothing can run."""
    try:
        while True:
            coroutine.send(None)
    except StopIteration:
        return


@overload
def flow(fn: Callable[P, R], /) -> Flow[P, R]: ...
@overload
def flow(
    fn: None = None,
    /,
    *,
    name: str | None = None,
    flow_run_name: str | Callable[..., str] | None = None,
    description: str | None = None,
    tags: Iterable[str] | None = None,
    version: str | None = None,
    backend: Any = None,
    retries: int = 0,
    retry_delay_seconds: float | timedelta | list[float] | Callable[[int], list[float]] | None = None,
    timeout_seconds: float | timedelta | None = None,
    validate_parameters: bool = True,
    log_prints: bool = False,
    persist_result: bool | None = None,
    on_running: list[Callable[..., Any]] | Callable[..., Any] | None = None,
    on_completion: list[Callable[..., Any]] | Callable[..., Any] | None = None,
    on_failure: list[Callable[..., Any]] | Callable[..., Any] | None = None,
    on_crashed: list[Callable[..., Any]] | Callable[..., Any] | None = None,
    on_cancellation: list[Callable[..., Any]] | Callable[..., Any] | None = None,
    cache_policy: CachePolicy | None = None,
    refresh_cache: bool | None = None,
    result_storage: str | os.PathLike[str] | None = None,
    result_storage_options: Mapping[str, Any] | None = None,
    result_serializer: str | None = None,
) -> Callable[[Callable[P, R]], Flow[P, R]]: ...
@documented("flow")
def flow(fn: Any = None, /, **options: Any) -> Any:
    """Turn a function into a flow; bare, or with options.

    Parameters
    ----------
    {options}

    Raises
    ------
    TaskOptionError
        If an option is unknown or wrong.
    """
    refuse_unknown("@flow", options, names_of("flow"))
    if fn is not None:
        return Flow(fn, **options)
    FlowOptions.checked("@flow", options, name="flow")

    def decorate(function: Callable[P, R]) -> Flow[P, R]:
        return Flow(function, **options)

    return decorate
