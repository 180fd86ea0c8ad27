"""Deployments: stored, run, paused, and what becomes of their schedules."""

from __future__ import annotations

import json
from typing import Annotated

from pydantic import Field

from graphflow.common.moments import parse_moment
from graphflow.errors import DeploymentError, ParameterError
from graphflow.model.asked import AskedBackfill, AskedRun
from graphflow.model.views import (
    BackfillView,
    DeploymentList,
    DeploymentView,
    FilledView,
    FireList,
    FireView,
    MadeRun,
    NewDeployment,
    PreviewedView,
    PreviewView,
    ScheduleView,
)
from graphflow.operations.home import Home, check_backend, iso
from graphflow.orchestration.backfilling import backfill as fill
from graphflow.orchestration.parameters import check_parameters
from graphflow.orchestration.stores.plans import Stored
from graphflow.orchestration.timing.preview import preview as previewed

__all__ = [
    "backfill",
    "fires",
    "list_deployments",
    "pause",
    "preview",
    "put",
    "remove",
    "resume",
    "run",
    "show",
    "validate",
]


def list_deployments(home: Home, *, flow: str = "") -> DeploymentList:
    """List deployments."""
    return DeploymentList(deployments=[_view(each) for each in home.stores.plans.all(flow_name=flow)])


def show(home: Home, *, deployment: str) -> DeploymentView:
    """Show a deployment."""
    return _view(home.stores.plans.find(deployment))


def put(
    home: Home, *, deployment: str, definition: NewDeployment, if_match: str | None = None
) -> DeploymentView:
    """Store a deployment in place of the one of its name. Its source is code that workers run."""
    if definition.full_name != deployment:
        raise DeploymentError(
            f"the definition is of {definition.full_name}, and its address of {deployment}; use one name"
        )
    check_backend(definition.backend)
    stored, _ = home.stores.plans.put(definition, revision=_revision(if_match))
    return _view(stored)


def remove(home: Home, *, deployment: str, if_match: str | None = None) -> DeploymentView:
    """Remove a deployment with its schedules; its runs stay."""
    plans = home.stores.plans
    name = plans.find(deployment).deployment.full_name
    return _view(plans.remove(name, revision=_revision(if_match)))


def run(home: Home, *, deployment: str, asked: AskedRun, idempotency_key: str | None = None) -> MadeRun:
    """Make a run of a deployment; the same key makes no second one."""
    stored = home.stores.plans.find(deployment)
    check_parameters(stored.deployment, asked.parameters)
    made = home.stores.fires.run(
        stored,
        asked.parameters,
        origin="api",
        due=None if asked.due is None else parse_moment(asked.due),
        request_key=idempotency_key,
        tags=asked.tags,
    )
    name = stored.deployment.full_name
    if made.run_id is not None and not made.is_new:
        _check_same(home, made.run_id, name, asked, idempotency_key)
    elif made.run_id is not None:
        home.stores.catalog.audit(
            "run-made", made.run_id, at=home.stores.clock.wall(), related={"deployment": name}
        )
    return MadeRun(run=made.run_id, deployment=name, is_new=made.is_new, why=made.why)


def validate(home: Home, *, deployment: str, asked: AskedRun) -> DeploymentView:
    """Check parameters of a run without making one."""
    stored = home.stores.plans.find(deployment)
    check_parameters(stored.deployment, asked.parameters)
    return _view(stored)


def pause(home: Home, *, deployment: str, schedule: str = "") -> DeploymentView:
    """Pause a deployment, or one of its schedules."""
    plans = home.stores.plans
    return _view(plans.pause(plans.find(deployment).deployment.full_name, True, slug=schedule))


def resume(home: Home, *, deployment: str, schedule: str = "", catchup: bool = False) -> DeploymentView:
    """Let a deployment, or one of its schedules, go on from now, or catch up."""
    plans = home.stores.plans
    name = plans.find(deployment).deployment.full_name
    return _view(plans.pause(name, False, slug=schedule, catches_up=catchup))


def backfill(home: Home, *, deployment: str, asked: AskedBackfill) -> BackfillView:
    """Make the runs of a range of a schedule's times; what has run is not run again."""
    filled = fill(
        home.stores,
        home.stores.plans.find(deployment),
        parse_moment(asked.begin),
        parse_moment(asked.end),
        slug=asked.schedule,
        again=asked.again,
        makes_runs=not asked.dry_run,
    )
    return BackfillView(
        runs=[
            FilledView(nominal=iso(each.nominal), run=each.run_id, is_new=each.is_new, why=each.why)
            for each in filled
        ]
    )


def fires(home: Home, *, deployment: str, limit: Annotated[int, Field(ge=1, le=500)] = 50) -> FireList:
    """List what became of the times of a deployment's schedules, newest first."""
    found = home.stores.plans.fires(home.stores.plans.find(deployment), limit=limit)
    return FireList(
        fires=[
            FireView(
                schedule=each.slug,
                nominal=iso(each.nominal),
                outcome=each.outcome,
                count=each.count,
                run=each.run_id,
                at=iso(each.at),
            )
            for each in found
        ]
    )


def preview(
    home: Home,
    *,
    deployment: str,
    schedule: str = "",
    after: str | None = None,
    count: Annotated[int, Field(ge=1, le=500)] = 10,
) -> PreviewView:
    """Show when a schedule of a deployment, by default the first, fires next."""
    stored = home.stores.plans.find(deployment)
    named = {each.slug: each for each in stored.deployment.named_schedules()}
    slug = schedule or next(iter(named), "")
    if slug not in named:
        raise ParameterError(
            f"the deployment {stored.deployment.full_name} has no schedule {slug!r}; it has {', '.join(named) or 'none'}"
        )
    begin = home.stores.clock.wall() if after is None else parse_moment(after)
    found = previewed(named[slug], begin, count=count)
    return PreviewView(
        schedule=slug,
        explanation=found.explanation,
        fires=[
            PreviewedView(
                utc=iso(each.at),
                local=each.local.isoformat(),
                offset_seconds=each.offset_seconds,
                note=each.note,
            )
            for each in found.fires
        ],
    )


def _revision(if_match: str | None) -> str | None:
    return None if if_match is None else if_match.strip().strip('"')


def _check_same(home: Home, run_id: str, name: str, asked: AskedRun, key: str | None) -> None:
    """Refuse a key that was used for something else."""
    header = home.stores.work.header(run_id)
    if header is None:
        return
    before = json.loads(header.plan.parameters or "{}")
    if header.plan.deployment != name or any(
        name not in before or before[name] != value for name, value in asked.parameters.items()
    ):
        raise ParameterError(
            f"the idempotency key {key!r} was used for run {run_id} of {header.plan.deployment} with other parameters; use"
            " a new key"
        )


def _view(stored: Stored) -> DeploymentView:
    fields = stored.deployment.model_dump(mode="json", exclude={"schedules"})
    name = stored.deployment.full_name
    return DeploymentView.model_validate(
        {
            **fields,
            "id": stored.id,
            "deployment": name,
            "env": sorted(stored.deployment.env),
            "revision": stored.revision,
            "created": iso(stored.created),
            "updated": iso(stored.updated),
            "next": iso(stored.next_due),
            "schedules": [
                ScheduleView.model_validate(
                    {
                        **each.schedule.model_dump(mode="json"),
                        "id": each.id,
                        "deployment": name,
                        "next": iso(each.next_nominal),
                        "next_due": iso(each.next_due),
                    }
                )
                for each in stored.schedules
            ],
        }
    )
