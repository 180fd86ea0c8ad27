"""Deployments of flows, in Prefect's spellings: what a program says is checked, and stored as one model."""

from __future__ import annotations

import difflib
import inspect
import time
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, Self, TypedDict, Unpack

import pydantic

from graphflow.authoring.parameters import takes_secret
from graphflow.authoring.schedules import At, Cron, Duration, Interval, RRule, schedule_given
from graphflow.common.loading import LOADING
from graphflow.common.secrets import is_secret
from graphflow.errors import BackendError, DeploymentError, GraphflowError, ParameterError, ScheduleError
from graphflow.model import deployed
from graphflow.model.deployed import Catchup, Collision, Concurrency, Schedule
from graphflow.model.flow_options import FlowOptions
from graphflow.orchestration.deciding import check_key
from graphflow.orchestration.naming import deployment_id
from graphflow.orchestration.parameters import check_parameters
from graphflow.orchestration.sources import source_of
from graphflow.orchestration.stores.opening import open_stores
from graphflow.orchestration.timing.times import check_schedule

if TYPE_CHECKING:
    from graphflow.runs.recorded import RecordedRun

__all__ = ["ConcurrencyLimitConfig", "DeployOptions", "Deployment", "deployment_of", "run_deployment"]

_COLLISIONS: dict[str, Collision] = {"ENQUEUE": "queue", "CANCEL_NEW": "skip"}
_REFUSED = {
    "build": "flows run from their file; nothing is built",
    "entrypoint_type": "the source follows from where the flow is defined",
    "global_limit": "use concurrency_limit, which holds for all runs of the deployment",
    "image": "flows run in the environment of their worker; start a worker in the container that you want",
    "infrastructure": "start a worker where runs are to be, and name its pool: work_pool_name=...",
    "infra_overrides": "use env={...}, or a pool with the environment that you want",
    "job_variables": "use env={...}, or a pool with the environment that you want",
    "path": "the source follows from where the flow is defined",
    "push": "flows run from their file; nothing is pushed",
    "storage": "flows run from their file, at a path that workers see",
    "triggers": "rules that start runs are not supported yet; use schedules",
    "webserver": "there is no web server yet",
    "work_pool_queue": "use work_queue_name",
}
"""Options of Prefect that have no meaning here, and what to do instead."""


class Deployable(Protocol):
    """The flow of a deployment, and where it is."""

    fn: Callable[..., Any]
    options: FlowOptions

    @property
    def name(self) -> str:
        """Its name."""
        ...

    def checked(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return some of its parameters, coerced to their annotations."""
        ...


@dataclass(frozen=True, slots=True)
class ConcurrencyLimitConfig:
    """How many runs of a deployment are active at once, and what happens to one more; `ENQUEUE`, `CANCEL_NEW`, or ours."""

    limit: int
    collision_strategy: str = "ENQUEUE"
    key: str = ""


class DeployOptions(TypedDict, total=False):
    """Options of a deployment."""

    cron: str | Sequence[str]
    interval: Duration
    rrule: str
    at: str | datetime
    timezone: str
    """Of `cron`, `interval`, `rrule` and `at`: an IANA name; UTC by default."""
    anchor_date: datetime
    """Of `interval`."""
    schedule: Schedule | Mapping[str, Any]
    schedules: Sequence[Schedule | Mapping[str, Any]]
    catchup: Catchup
    """Of `cron`, `interval`, `rrule` and `at`: which missed times run after all."""
    jitter: Duration
    parameters: Mapping[str, Any]
    paused: bool
    is_schedule_active: bool
    work_pool_name: str
    work_queue_name: str
    priority: int
    """Within its queue; smaller ones first."""
    concurrency_limit: int | ConcurrencyLimitConfig | Mapping[str, Any]
    on_collision: Collision
    concurrency_key: str
    backend: str
    env: Mapping[str, str]
    needs: Sequence[str]
    tags: Sequence[str]
    version: str
    description: str
    enforce_parameter_schema: bool


class Deployment:
    """A flow with a name, and how it is run; nothing is stored before `apply`."""

    def __init__(self, model: deployed.Deployment) -> None:
        self.model = model

    @classmethod
    def build_from_flow(cls, flow: Deployable, name: str, **options: Unpack[DeployOptions]) -> Self:
        """Return a deployment of a flow; the options are those of `flow.deploy`.

        Raises
        ------
        DeploymentError, ScheduleError, ParameterError
            If an option is wrong, or has no meaning here.
        """
        return cls(deployment_of(flow, name, options))

    @property
    def name(self) -> str:
        """Its name, which finds it together with the flow's."""
        return self.model.name

    @property
    def full_name(self) -> str:
        """`flow/name`."""
        return self.model.full_name

    @property
    def id(self) -> str:
        """Its id, which follows from its flow and name."""
        return deployment_id(self.model.flow_name, self.model.name)

    def __repr__(self) -> str:
        return f"<Deployment {self.full_name}>"

    def apply(self) -> str:
        """Store it in place of the one of its name, and return its id.

        Raises
        ------
        ScheduleError, HistoryError
            If a schedule never fires, or the catalog cannot be written.
        """
        loading = LOADING.get()
        if loading is not None:
            loading.append(self)
            return self.id
        with open_stores() as stores:
            stores.plans.put(self.model)
        return self.id


def deployment_of(flow: Deployable, name: str, options: DeployOptions) -> deployed.Deployment:
    """Return the model of a deployment, with everything checked that can be before it is stored.

    Raises
    ------
    DeploymentError, ScheduleError, ParameterError
        If an option is wrong, or has no meaning here.
    """
    given: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
    _refuse_unknown(given)
    parameters = _jsonable(flow, given.get("parameters", {}))
    schedules = _schedules(given)
    for schedule in schedules:
        check_schedule(schedule, time.time())
        _jsonable(flow, schedule.parameters)
    concurrency = _concurrency(given)
    check_key(concurrency, list(inspect.signature(flow.fn).parameters))
    try:
        return deployed.Deployment(
            flow_name=flow.name,
            name=name,
            source=given.get("source") or source_of(flow, flow.fn),
            parameters=parameters,
            parameter_schema=_schema_of(flow) if given.get("enforce_parameter_schema", True) else {},
            pool=given.get("work_pool_name", "default"),
            queue=given.get("work_queue_name", "default"),
            priority=given.get("priority", 0),
            tags=tuple(dict.fromkeys([*_texts("tags", given.get("tags", ())), *sorted(flow.options.tags)])),
            concurrency=concurrency,
            backend=_backend(given.get("backend", "")),
            env=given.get("env", {}),
            needs=_needs(given.get("needs", ())),
            is_paused=given.get("paused", False) or not given.get("is_schedule_active", True),
            description=given.get("description") or inspect.getdoc(flow.fn) or "",
            version=str(given.get("version") or flow.options.version or ""),
            made_by=given.get("made_by", ""),
            schedules=tuple(schedules),
        )
    except pydantic.ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}" for each in error.errors()[:3]
        )
        raise DeploymentError(f"the deployment {flow.name}/{name} is wrong: {problems}") from None


def run_deployment(
    name: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    timeout: float | None = None,
    poll_interval: float = 0.2,
    scheduled_time: datetime | None = None,
    tags: Sequence[str] = (),
    idempotency_key: str | None = None,
) -> RecordedRun:
    """Make a run of a deployment, wait for its end, and return it.

    Parameters
    ----------
    name
        `flow/name`, or the deployment's name alone where that is clear.
    parameters
        Over those of the deployment.
    timeout
        Seconds to wait, after which the run is returned as it is; 0 does not wait, None waits for as long as it takes.
    poll_interval
        Seconds between looks.
    scheduled_time
        When it is due; now by default.
    idempotency_key
        The same key makes no second run, but returns the first one.

    Raises
    ------
    NotFound
        If there is no such deployment.
    ParameterError
        If parameters do not fit the flow's.
    DeploymentError
        If the deployment has as many runs as it may, and skips others.
    """
    from graphflow.runs.history import history

    given = _json(dict(parameters or {}))
    with open_stores() as stores:
        stored = stores.plans.find(name)
        check_parameters(stored.deployment, given)
        made = stores.fires.run(
            stored,
            given,
            origin="user",
            due=None if scheduled_time is None else scheduled_time.timestamp(),
            request_key=idempotency_key,
            tags=tags,
        )
    if made.run_id is None:
        raise DeploymentError(f"the deployment {stored.deployment.full_name} skipped this run: {made.why}")
    run = history().run(made.run_id)
    _wait_for(run, timeout, poll_interval)
    return run


def _wait_for(run: RecordedRun, timeout: float | None, poll_interval: float) -> None:
    import threading

    if poll_interval <= 0:
        raise ParameterError(f"poll_interval is {poll_interval!r}; use a number of seconds above 0")
    deadline = None if timeout is None else time.monotonic() + timeout
    pause = threading.Event()
    while not run.is_over and (deadline is None or time.monotonic() < deadline):
        pause.wait(
            poll_interval if deadline is None else min(poll_interval, max(0.0, deadline - time.monotonic()))
        )
        run.refresh()


# -- what options mean -----------------------------------------------------------------------------------------


def _refuse_unknown(given: Mapping[str, Any]) -> None:
    known = [*DeployOptions.__annotations__, "source", "made_by"]
    for name in given:
        if name in known:
            continue
        if name in _REFUSED:
            raise DeploymentError(f"{name} has no meaning here: {_REFUSED[name]}")
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]}?" if close else f"; it takes {', '.join(known[:-2])}"
        raise DeploymentError(f"a deployment has no option {name!r}{hint}")


def _schedules(given: Mapping[str, Any]) -> list[Schedule]:
    ways = [name for name in ("cron", "interval", "rrule", "at", "schedule", "schedules") if name in given]
    if len(ways) > 1:
        raise ScheduleError(
            f"{' and '.join(ways)} are given; use one of them, or schedules=[...] for several"
        )
    for name in ("timezone", "anchor_date", "catchup", "jitter"):
        if name in given and (not ways or ways[0] in ("schedule", "schedules")):
            where = "the schedule itself has it" if ways else "there is no schedule that it could be of"
            raise ScheduleError(f"{name} is given, but {where}")
    if "schedules" in given:
        return [schedule_given(each) for each in given["schedules"]]
    if "schedule" in given:
        return [schedule_given(given["schedule"])]
    shared: dict[str, Any] = {
        name: given[name] for name in ("timezone", "catchup", "jitter") if name in given
    }
    if "cron" in given:
        crons = [given["cron"]] if isinstance(given["cron"], str) else list(given["cron"])
        return [Cron(each, **shared) for each in crons]
    if "interval" in given:
        return [Interval(given["interval"], given.get("anchor_date"), **shared)]
    if "rrule" in given:
        return [RRule(given["rrule"], **shared)]
    return [At(given["at"], **shared)] if "at" in given else []


def _concurrency(given: Mapping[str, Any]) -> Concurrency | None:
    limit: Any = given.get("concurrency_limit")
    key = given.get("concurrency_key", "")
    strategy = given.get("on_collision", "")
    if limit is None and not strategy and not key:
        return None
    if isinstance(limit, ConcurrencyLimitConfig):
        limit, key, strategy = limit.limit, limit.key or key, strategy or limit.collision_strategy
    elif isinstance(limit, Mapping):
        key, strategy = limit.get("key", key), strategy or limit.get("collision_strategy", "")
        limit = limit.get("limit", 1)
    strategy = getattr(strategy, "value", strategy) or "queue"
    collision: Any = _COLLISIONS.get(strategy, strategy)
    known = typing.get_args(Collision)
    if collision not in known:
        raise DeploymentError(
            f"{strategy!r} is not what can happen to one run too many; use {', '.join(known)}"
        )
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise DeploymentError(f"concurrency_limit is {limit!r}; use a number of runs, 1 or more")
    return Concurrency(limit=limit or 1, key=key, on_collision=collision)


def _texts(name: str, given: Sequence[str]) -> tuple[str, ...]:
    if isinstance(given, str):
        raise DeploymentError(f"{name} is the text {given!r}; use a list, such as [{given!r}]")
    return tuple(given)


def _needs(given: Sequence[str]) -> tuple[str, ...]:
    from packaging.requirements import InvalidRequirement, Requirement

    for need in _texts("needs", given):
        try:
            Requirement(need)
        except InvalidRequirement:
            raise DeploymentError(
                f"{need!r} is not what a run can need; use a label such as 'gpu', or a condition such as 'python>=3.12'"
            ) from None
    return tuple(given)


def _backend(given: Any) -> str:
    if not isinstance(given, str):
        raise DeploymentError(
            f"backend is {given!r}, which cannot be stored; use a text such as 'processes:8', or give the flow its backend:"
            " @flow(backend=...)"
        )
    if given:
        from graphflow.backends import check_spec

        try:
            check_spec(given)
        except BackendError as error:
            raise DeploymentError(str(error)) from None
    return given


def _jsonable(flow: Deployable, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters that were checked as far as they are given, as what JSON can hold."""
    for name, value in parameters.items():
        if is_secret(value):
            raise ParameterError(
                f"the parameter {name!r} is a secret, which is not stored; use {{'$secret': 'NAME'}}, which is looked up when the run begins"
            )
    references = {name: value for name, value in parameters.items() if _is_reference(value)}
    found = _json({name: value for name, value in parameters.items() if name not in references})
    known = inspect.signature(flow.fn).parameters
    # Secrets are looked up where the run is, not here.
    flow.checked({name: value for name, value in found.items() if name not in references})
    for name in references:
        if name not in known:
            raise ParameterError(
                f"flow {flow.name!r} has no parameter {name!r}; it takes {', '.join(known) or 'none'}"
            )
    return {**found, **references}


def _is_reference(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) == {"$secret"}


def _json(parameters: Mapping[str, Any]) -> dict[str, Any]:
    from pydantic_core import PydanticSerializationError, to_jsonable_python

    found = {}
    for name, value in parameters.items():
        try:
            found[name] = to_jsonable_python(value, inf_nan_mode="strings")
        except PydanticSerializationError as error:
            raise ParameterError(
                f"the parameter {name!r} cannot be stored as JSON ({error}); pass its place or its name instead"
            ) from None
    return found


def _schema_of(flow: Deployable) -> dict[str, Any]:
    """Return the JSON Schema of a flow's parameters; what an annotation does not tell is left open."""
    try:
        hints = typing.get_type_hints(flow.fn, include_extras=True)
    except Exception:
        hints = {}
    properties: dict[str, Any] = {}
    required, takes_any = [], False
    for name, parameter in inspect.signature(flow.fn).parameters.items():
        if parameter.kind in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL):
            takes_any = takes_any or parameter.kind is inspect.Parameter.VAR_KEYWORD
            continue
        properties[name] = _schema_of_hint(hints.get(name))
        if parameter.default is inspect.Parameter.empty:
            required.append(name)
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": takes_any,
    }


def _schema_of_hint(hint: Any) -> dict[str, Any]:
    if hint is None or takes_secret(hint):
        return {}
    try:
        return pydantic.TypeAdapter(hint).json_schema()
    except (pydantic.PydanticUserError, GraphflowError, TypeError, ValueError):
        return {}
