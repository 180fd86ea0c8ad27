"""Flows: decorated functions that compose tasks; a call runs them and gives the value."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, ParamSpec, TypeVar, overload

from graphflow import ids
from graphflow.backends import resolve
from graphflow.context import FLOW, RECORDER, FlowContext
from graphflow.engine import events as ev
from graphflow.engine.driver import Driver
from graphflow.engine.hooks import call_hook
from graphflow.engine.values import outcome_of, unhandled_exception
from graphflow.errors import (
    BackendError,
    FlowTimedOut,
    GraphflowError,
    RunCancelled,
    TaskOptionError,
)
from graphflow.functions import function_name, is_async
from graphflow.futures import Future, wait_in_loop
from graphflow.graph import Graph
from graphflow.mapping import AllowFailure, Unmapped
from graphflow.parameters import bind_parameters, validated
from graphflow.policies import (
    check_hooks,
    check_name,
    check_retries,
    check_seconds,
    retry_delays,
    unknown_option,
)
from graphflow.ports import Backend
from graphflow.recording import Handle, Recorder, contains_handle
from graphflow.runner.capture import capture_logging, capture_prints
from graphflow.runner.watchdog import ItemTimeout, watchdog
from graphflow.runs import Run, RunRecorder
from graphflow.states import FAILED_CODES, Code
from graphflow.views import Item

__all__ = ["Flow", "flow"]

P = ParamSpec("P")
R = TypeVar("R")

_OPTIONS = (
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
    "on_running",
    "on_completion",
    "on_failure",
    "on_crashed",
    "on_cancellation",
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
    on_running: tuple[Callable[..., Any], ...] = ()
    on_completion: tuple[Callable[..., Any], ...] = ()
    on_failure: tuple[Callable[..., Any], ...] = ()
    on_crashed: tuple[Callable[..., Any], ...] = ()
    on_cancellation: tuple[Callable[..., Any], ...] = ()

    @classmethod
    def checked(cls, owner: str, given: Mapping[str, Any], *, name: str) -> FlowOptions:
        """Check what the user gave."""
        label = given.get("flow_run_name")
        if label is not None and not isinstance(label, str) and not callable(label):
            raise TaskOptionError(
                f"{owner}: flow_run_name must be a template text or a callable, not {label!r}"
            )
        timeout = given.get("timeout_seconds")
        if timeout is not None:
            timeout = check_seconds(owner, "timeout_seconds", timeout)
            if timeout == 0:
                raise TaskOptionError(
                    f"{owner}: timeout_seconds=0 would time every run out; leave it out for none"
                )
        for option in ("validate_parameters", "log_prints"):
            if given.get(option) is not None and not isinstance(given[option], bool):
                raise TaskOptionError(f"{owner}: {option} must be True or False, not {given[option]!r}")
        backend = given.get("backend")
        if backend is not None and (
            isinstance(backend, str) and not backend or isinstance(backend, int | float | list | dict | type)
        ):
            raise TaskOptionError(
                f'{owner}: backend must be a name such as "threads" or "processes", an address, or one of '
                f"graphflow.backends, not {backend!r}"
            )
        retries = check_retries(owner, given.get("retries") or 0)
        validate = given.get("validate_parameters")
        return cls(
            name=check_name(owner, "name", given.get("name")) or name,
            flow_run_name=label,
            description=check_name(owner, "description", given.get("description")),
            version=check_name(owner, "version", given.get("version")),
            backend=backend,
            retries=retries,
            delays=retry_delays(owner, retries, given.get("retry_delay_seconds")),
            timeout_seconds=timeout,
            validate_parameters=True if validate is None else validate,
            log_prints=bool(given.get("log_prints")),
            **{
                hook: check_hooks(owner, hook, given.get(hook))
                for hook in ("on_running", "on_completion", "on_failure", "on_crashed", "on_cancellation")
            },
        )


class Flow(Generic[P, R]):
    """A function that composes tasks; made by `flow`. `flow.fn` is the function."""

    def __init__(self, fn: Callable[P, Any], **options: Any) -> None:
        if isinstance(fn, staticmethod):
            fn = fn.__func__
        if isinstance(fn, type) or not callable(fn):
            raise TaskOptionError(f"@flow takes a function or another callable, not {fn!r}")
        self.fn: Callable[P, Any] = fn
        self._given = dict(options)
        name = function_name(fn)
        self.options = FlowOptions.checked(f"flow {options.get('name') or name!r}", options, name=name)
        self.is_async = is_async(fn)
        functools.update_wrapper(self, fn if hasattr(fn, "__name__") else type(fn).__call__, updated=())

    @property
    def name(self) -> str:
        """The flow's name."""
        return self.options.name

    def __repr__(self) -> str:
        return f"<Flow {self.options.name}>"

    def __get__(self, instance: Any, owner: Any = None) -> Flow[..., R]:
        if instance is None:
            return self
        return Flow(self.fn.__get__(instance, owner), **self._given)  # type: ignore[attr-defined]

    def __reduce__(self) -> Any:
        return _rebuild, (self.fn, self._given)

    def with_options(self, **options: Any) -> Flow[P, R]:
        """A copy with some options changed.

        Raises
        ------
        TaskOptionError
            If an option is unknown or wrong.
        """
        unknown = [name for name in options if name not in _OPTIONS]
        if unknown:
            raise TaskOptionError(unknown_option(f"flow {self.options.name!r}", unknown[0], _OPTIONS))
        return Flow(self.fn, **{**self._given, **options})

    # -- running ----------------------------------------------------------------------------------------

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the flow and give its value; inside another flow, add its calls to that run.

        Raises
        ------
        ParameterError
            If parameters are missing, unknown or of the wrong type; before anything runs.
        Exception
            What the run failed with.
        """
        outer = RECORDER.get()
        if outer is not None:
            return self._called_inside(outer, args, kwargs)
        if self.is_async:
            return self._run_async(args, kwargs, raises=True)  # type: ignore[return-value]
        return self.run(*args, **kwargs).result()  # type: ignore[no-any-return]

    def run(self, *args: P.args, **kwargs: P.kwargs) -> Run:
        """Run the flow and give its run, whatever became of it; for an async flow, an awaitable of it.

        Raises
        ------
        ParameterError
            If parameters are missing, unknown or of the wrong type; before anything runs.
        """
        if self.is_async:
            return self._run_async(args, kwargs, raises=False)  # type: ignore[return-value]
        run = self._new_run(args, kwargs)
        self._execute(run)
        return run

    def start(self, *args: P.args, **kwargs: P.kwargs) -> Run:
        """Begin to run the flow in a thread of its own and give the run at once; `run.wait()` waits.

        Raises
        ------
        ParameterError
            If parameters are missing, unknown or of the wrong type; before anything runs.
        """
        run = self._new_run(args, kwargs)

        def target() -> None:
            if self.is_async:
                asyncio.run(self._execute_async(run))
            else:
                self._execute(run)

        threading.Thread(target=_quiet(target), name=f"graphflow-flow-{run.id[-6:]}", daemon=True).start()
        return run

    def graph(self, *args: P.args, **kwargs: P.kwargs) -> Graph:
        """The graph that the body records, without running anything.

        Raises
        ------
        ForcingError
            If the body forces a future: the rest of its graph depends on a value.
        """
        parameters = self._parameters(args, kwargs)
        recorder = Recorder(flow_name=self.name, scope=self.name)
        token = RECORDER.set(recorder)
        try:
            call_args, call_kwargs = _as_call(self.fn, parameters)
            outcome = self.fn(*call_args, **call_kwargs)  # type: ignore[arg-type]
            if inspect.iscoroutine(outcome):
                _finish_coroutine(outcome)
        finally:
            RECORDER.reset(token)
        return Graph(
            recorder.nodes,
            name=self.name,
            status=lambda node: ("Pending", recorder.known_width(recorder.nodes[node]), {}),
        )

    def _parameters(self, args: Any, kwargs: Any) -> dict[str, Any]:
        parameters = bind_parameters(self.fn, self.name, args, kwargs)
        return validated(self.fn, self.name, parameters) if self.options.validate_parameters else parameters

    def _new_run(self, args: Any, kwargs: Any) -> Run:
        parameters = self._parameters(args, kwargs)
        run_id = ids.run_id()
        run = Run(
            run_id=run_id, name=self._run_name(parameters, run_id), flow_name=self.name, parameters=parameters
        )
        return run

    def _run_name(self, parameters: Mapping[str, Any], run_id: str) -> str:
        label = self.options.flow_run_name
        try:
            if isinstance(label, str):
                return label.format_map({"flow_name": self.name, "run_id": run_id, **parameters})
            if callable(label):
                return str(label())
        except Exception:
            return f"{self.name}-{run_id[-6:].lower()}"
        return f"{self.name}-{run_id[-6:].lower()}"

    # -- one run ------------------------------------------------------------------------------------------

    def _execute(self, run: Run) -> None:
        """All attempts of a run, in this thread."""
        attempts = self._attempts(run)
        for recorder in attempts:
            with self._body_context(run, recorder):
                value, error = self._body(run, recorder)
            self._conclude(
                run, recorder, value, error, lambda driver: driver.wait(lambda: driver.is_finished)
            )
        self._raise_base(run)

    async def _execute_async(self, run: Run) -> None:
        attempts = self._attempts(run)
        for recorder in attempts:
            with self._body_context(run, recorder):
                value, error = await self._body_async(run)
            driver = recorder.driver if recorder.has_driver or recorder.by_id else None
            if driver is not None and driver.failure is None:
                try:
                    self._close_recording(recorder, driver, error)
                    await wait_in_loop(driver, lambda driver=driver: driver.is_finished)  # type: ignore[misc]
                except BaseException as raised:
                    error = error or raised
            self._conclude(run, recorder, value, error, None)
        self._raise_base(run)

    async def _run_async(self, args: Any, kwargs: Any, *, raises: bool) -> Any:
        run = self._new_run(args, kwargs)
        await self._execute_async(run)
        return run.result() if raises else run

    def _raise_base(self, run: Run) -> None:
        error = run.exception
        if error is not None and not isinstance(error, Exception):
            raise error

    def _attempts(self, run: Run) -> Iterator[RunRecorder]:
        """A recorder per attempt; the backend lives for all of them, and is closed if the run made it."""
        opened: list[tuple[Backend, bool]] = []

        def make_backend() -> Backend:
            if not opened:
                opened.append(resolve(self.options.backend))
            return opened[0][0]

        run.started = datetime.now(UTC)
        try:
            while True:
                recorder = RunRecorder(
                    flow_name=self.name,
                    run_id=run.id,
                    make_backend=make_backend,
                    flow_parameters=run.parameters,
                    attempt=run.attempt,
                    log_prints=self.options.log_prints,
                )
                recorder.view = self._hook_view(recorder)
                run._attach(recorder)
                run._move(Code.RUNNING if run.attempt == 1 else Code.RETRYING)
                if run.attempt == 1:
                    self._call_hooks(run, self.options.on_running)
                yield recorder
                if recorder.has_driver:
                    recorder.driver.close()
                code = Code.by_name(run.state.name)
                if code not in FAILED_CODES or run.attempt > self.options.retries or run._stop is not None:
                    break
                delays = self.options.delays
                run._move(Code.AWAITING_RETRY)
                time.sleep(delays[min(run.attempt, len(delays)) - 1] if delays else 0.0)
                run.attempt += 1
                run._exception = None
        finally:
            for backend, is_owned in opened:
                if is_owned:
                    backend.close()
            run._end()
        self._end_hooks(run)

    def _hook_view(self, recorder: RunRecorder) -> Callable[[int, int | None], Any]:
        def view(node_id: int, index: int | None) -> Any:
            node = recorder.by_id[node_id]
            program = node.program
            return (program.options if program is not None else None), Item(recorder.driver, node, index or 0)

        return view

    @contextmanager
    def _body_context(self, run: Run, recorder: RunRecorder) -> Iterator[None]:
        capture_logging()
        if self.options.log_prints:
            capture_prints()
        context = FlowContext(
            run_id=run.id,
            flow_name=self.name,
            run_name=run.name,
            parameters=run.parameters,
            attempt=run.attempt,
            log_prints=self.options.log_prints,
            sink=run.sink,
        )
        tokens = RECORDER.set(recorder), FLOW.set(context)
        try:
            yield
        finally:
            RECORDER.reset(tokens[0])
            FLOW.reset(tokens[1])

    def _body(self, run: Run, recorder: RunRecorder) -> tuple[Any, BaseException | None]:
        """Run the body; gives (what it returned, what it raised)."""
        args, kwargs = _as_call(self.fn, run.parameters)
        timeout = self.options.timeout_seconds
        if timeout is None:
            try:
                return self.fn(*args, **kwargs), None  # type: ignore[arg-type]
            except BaseException as error:
                return None, error
        guard = watchdog().guard(lambda: None)
        timer = threading.Timer(timeout, self._time_out, (run, recorder))
        timer.daemon = True
        timer.start()
        try:
            guard.arm(timeout + 0.2)
            try:
                value = self.fn(*args, **kwargs)  # type: ignore[arg-type]
            finally:
                guard.disarm()
            # What was recorded runs within the same time.
            if recorder.by_id:
                self._close_recording(recorder, recorder.driver, None)
                recorder.driver.wait(lambda: recorder.driver.is_finished)
            return value, None
        except ItemTimeout:
            return None, self._timed_out()
        except BaseException as error:
            return None, error
        finally:
            timer.cancel()
            guard.close()

    def _timed_out(self) -> FlowTimedOut:
        return FlowTimedOut(
            f"flow {self.name!r} ran longer than timeout_seconds={self.options.timeout_seconds:g}"
        )

    def _time_out(self, run: Run, recorder: RunRecorder) -> None:
        if recorder.has_driver:
            recorder.driver.interrupt(self._timed_out())
            recorder.driver.tell(ev.StopRequested(hard=True))

    async def _body_async(self, run: Run) -> tuple[Any, BaseException | None]:
        args, kwargs = _as_call(self.fn, run.parameters)
        timeout = self.options.timeout_seconds
        try:
            if timeout is None:
                return await self.fn(*args, **kwargs), None  # type: ignore[arg-type]
            try:
                async with asyncio.timeout(timeout) as scope:
                    return await self.fn(*args, **kwargs), None  # type: ignore[arg-type]
            except TimeoutError:
                if scope.expired():
                    return None, self._timed_out()
                raise
        except BaseException as error:
            return None, error

    @staticmethod
    def _close_recording(recorder: RunRecorder, driver: Driver, error: BaseException | None) -> None:
        recorder.flush()
        if error is not None:
            driver.tell(
                ev.StopRequested(hard=not isinstance(error, Exception) or isinstance(error, FlowTimedOut))
            )
        driver.tell(ev.RecordingClosed())

    def _conclude(
        self,
        run: Run,
        recorder: RunRecorder,
        value: Any,
        error: BaseException | None,
        wait: Callable[[Driver], Any] | None,
    ) -> None:
        """Run what was recorded, then decide how the attempt ended."""
        driver: Driver | None = None
        try:
            if recorder.has_driver or recorder.by_id:
                driver = recorder.driver
                if wait is not None and driver.failure is None:
                    driver.interrupt(None)
                    if run._stop is not None:
                        driver.tell(run._stop)
                    if not driver.is_finished:
                        self._close_recording(recorder, driver, error)
                        wait(driver)
        except KeyboardInterrupt as interrupt:
            error = interrupt
            assert driver is not None
            driver.tell(ev.StopRequested(hard=True))
            driver.wait(lambda: driver.is_finished, 5.0)
        except BackendError as broken:
            error = broken
        except Exception as broken:
            error = error or broken
        if driver is not None and driver.failure is not None:
            error = driver.failure
        outcome = driver.outcome if driver is not None else None
        if error is None and driver is not None and outcome is not None and outcome.code != Code.COMPLETED:
            error = unhandled_exception(driver, outcome)
        if error is None:
            try:
                run._value = _resolved(value, recorder)
            except Exception as broken:
                error = broken
        self._settle(run, error)

    @staticmethod
    def _settle(run: Run, error: BaseException | None) -> None:
        run._exception = error
        if error is None:
            run._move(Code.COMPLETED)
        elif isinstance(error, KeyboardInterrupt | RunCancelled | asyncio.CancelledError) or (
            run._stop is not None and isinstance(error, RunCancelled)
        ):
            run._move(Code.CANCELLED, error=error)
        elif isinstance(error, FlowTimedOut):
            run._move(Code.TIMED_OUT, error=error)
        elif isinstance(error, BackendError) or not isinstance(error, Exception):
            run._move(Code.CRASHED, error=error)
        else:
            run._move(Code.FAILED, error=error)

    def _end_hooks(self, run: Run) -> None:
        hooks = {
            Code.COMPLETED: self.options.on_completion,
            Code.FAILED: self.options.on_failure,
            Code.TIMED_OUT: self.options.on_failure,
            Code.CRASHED: self.options.on_crashed,
            Code.CANCELLED: self.options.on_cancellation,
        }
        self._call_hooks(run, hooks.get(Code.by_name(run.state.name), ()))

    def _call_hooks(self, run: Run, hooks: tuple[Callable[..., Any], ...]) -> None:
        for hook in hooks:
            call_hook(hook, lambda: (self, run), run.state)

    # -- inside another flow --------------------------------------------------------------------------------

    def _called_inside(self, recorder: Recorder, args: Any, kwargs: Any) -> Any:
        """Record this flow's calls in the run around it, under a group name; its value stays lazy."""
        bound = bind_parameters(self.fn, self.name, args, kwargs)
        parameters = validated(self.fn, self.name, bound) if self.options.validate_parameters else bound
        if self.is_async:
            return self._recorded_async(recorder, parameters)
        call_args, call_kwargs = _as_call(self.fn, parameters)
        attempts = self.options.retries + 1
        for attempt in range(1, attempts + 1):
            with recorder.inside(self.name, log_prints=self.options.log_prints):
                try:
                    value = self.fn(*call_args, **call_kwargs)  # type: ignore[arg-type]
                    if attempts > 1:
                        value = _forced(value)
                    return value
                except Exception:
                    if attempt == attempts:
                        raise
            delays = self.options.delays
            time.sleep(delays[min(attempt, len(delays)) - 1] if delays else 0.0)
        raise GraphflowError(f"flow {self.name!r} made no attempt")

    async def _recorded_async(self, recorder: Recorder, parameters: dict[str, Any]) -> Any:
        call_args, call_kwargs = _as_call(self.fn, parameters)
        with recorder.inside(self.name, log_prints=self.options.log_prints):
            return await self.fn(*call_args, **call_kwargs)  # type: ignore[arg-type]


def _rebuild(fn: Callable[..., Any], options: Mapping[str, Any]) -> Flow[..., Any]:
    return Flow(fn, **options)


def _quiet(target: Callable[[], None]) -> Callable[[], None]:
    """A thread's target whose failure is the run's, and is not printed."""

    def run() -> None:
        try:
            target()
        except BaseException:  # noqa: S110 - the run holds it
            pass

    return run


def _finish_coroutine(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Run the body of an async flow that awaits nothing but futures; those raise where nothing can run."""
    try:
        while True:
            coroutine.send(None)
    except StopIteration:
        return


def _as_call(fn: Callable[..., Any], parameters: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Positional and keyword arguments from parameters by name."""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for name, parameter in inspect.signature(fn).parameters.items():
        if name not in parameters:
            continue
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            args.append(parameters[name])
        elif parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD and not kwargs:
            args.append(parameters[name])
        elif parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            args.extend(parameters[name])
        elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
            kwargs.update(parameters[name])
        else:
            kwargs[name] = parameters[name]
    return args, kwargs


def _forced(value: Any) -> Any:
    """A structure with its futures' values; raises the first failure."""
    if isinstance(value, Future):
        return value.result()
    return value if not contains_handle(value) else _walk(value, lambda handle: handle.result())


def _resolved(value: Any, recorder: RunRecorder) -> Any:
    """What a body returned, with its futures' values in their place; the run has ended."""
    return _walk(value, lambda handle: _final_value(handle, recorder)) if contains_handle(value) else value


def _final_value(handle: Any, recorder: RunRecorder) -> Any:
    node = recorder.own(handle, "the value that the flow returned")
    value, error = outcome_of(recorder.driver, node, handle._index)
    if isinstance(error, IndexError):
        raise error
    return value if error is None else error


def _walk(value: Any, leaf: Callable[[Any], Any]) -> Any:
    if isinstance(value, Handle):
        return leaf(value)
    if isinstance(value, AllowFailure | Unmapped):
        return _walk(value.value, leaf)
    kind = type(value)
    if kind in (list, set, frozenset):
        return kind(_walk(each, leaf) for each in value)
    if kind is dict:
        return {_walk(key, leaf): _walk(each, leaf) for key, each in value.items()}
    if isinstance(value, tuple):
        parts = [_walk(each, leaf) for each in value]
        return value._make(parts) if hasattr(value, "_make") else tuple(parts)
    return value


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
    version: str | None = None,
    backend: Any = None,
    retries: int = 0,
    retry_delay_seconds: float | timedelta | list[float] | Callable[[int], list[float]] | None = None,
    timeout_seconds: float | timedelta | None = None,
    validate_parameters: bool = True,
    log_prints: bool = False,
    on_running: list[Callable[..., Any]] | Callable[..., Any] | None = None,
    on_completion: list[Callable[..., Any]] | Callable[..., Any] | None = None,
    on_failure: list[Callable[..., Any]] | Callable[..., Any] | None = None,
    on_crashed: list[Callable[..., Any]] | Callable[..., Any] | None = None,
    on_cancellation: list[Callable[..., Any]] | Callable[..., Any] | None = None,
) -> Callable[[Callable[P, R]], Flow[P, R]]: ...
def flow(fn: Any = None, /, **options: Any) -> Any:
    """Make a flow of a function; bare, or with options.

    Parameters
    ----------
    name, description, version
        What it is called and how it is marked; the name is the function's by default.
    flow_run_name
        The name of its runs: a template over the parameters, or a callable.
    backend
        Where tasks run: a name such as `"processes"`, an address, or one of `graphflow.backends`.
    retries, retry_delay_seconds
        How often the whole body is run again after a failure, and after how many seconds.
    timeout_seconds
        How long the run may take.
    validate_parameters
        Whether parameters are checked and coerced by their annotations, with pydantic.
    log_prints
        Whether prints of the body and of its tasks reach the log.
    on_running, on_completion, on_failure, on_crashed, on_cancellation
        Functions of (flow, run, state).

    Raises
    ------
    TaskOptionError
        If an option is unknown or wrong.
    """
    unknown = [name for name in options if name not in _OPTIONS]
    if unknown:
        raise TaskOptionError(unknown_option("@flow", unknown[0], _OPTIONS))
    if fn is not None:
        return Flow(fn, **options)
    FlowOptions.checked("@flow", options, name="flow")

    def decorate(function: Callable[P, R]) -> Flow[P, R]:
        return Flow(function, **options)

    return decorate
