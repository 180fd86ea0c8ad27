"""Deployments as programs say them, in Prefect's spellings: what is stored, and what is refused by name."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, date, datetime, timedelta

import pytest

from graphflow import Secret, flow, history, serve
from graphflow.authoring.deployments import deployment_of
from graphflow.common.loading import LOADING, StopLoading
from graphflow.deployments import ConcurrencyLimitConfig, Deployment, run_deployment
from graphflow.errors import DeploymentError, NotFound, ParameterError, ScheduleError, TaskOptionError
from graphflow.model.deployed import Source
from graphflow.orchestration.stores.opening import open_stores
from graphflow.schedules import At, Cron, CronSchedule, Interval, IntervalSchedule, RRule, RRuleSchedule

SOURCE = Source(kind="file", place="/x.py:tagged")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAPHFLOW_HOME", str(tmp_path / "home"))


@flow
def training_pipeline(raw_path: str, epochs: int = 3, day: date | None = None):
    """Train a model."""


@flow
def secret_flow(token: Secret):
    pass


def stored(name):
    with open_stores() as stores:
        return stores.plans.find(name).deployment


def test_a_program_of_prefect_runs_with_its_import_line_changed() -> None:
    deployment = Deployment.build_from_flow(
        flow=training_pipeline,
        name="nightly-training",
        schedule={"cron": "0 2 * * *"},
        work_pool_name="kubernetes-pool",
        parameters={"raw_path": "s3://bucket/raw/latest.csv"},
    )
    key = deployment.apply()
    found = stored(
        "training-pipeline/nightly-training" if "-" in training_pipeline.name else "nightly-training"
    )
    assert (found.pool, found.parameters) == ("kubernetes-pool", {"raw_path": "s3://bucket/raw/latest.csv"})
    assert [(each.kind, each.spec, each.zone) for each in found.schedules] == [("cron", "0 2 * * *", "UTC")]
    assert (found.description, key) == ("Train a model.", deployment.id)
    run = run_deployment(f"{training_pipeline.name}/nightly-training", {"epochs": 5}, timeout=0)
    assert (run.state_name, run.plan.deployment) == (
        "Scheduled",
        f"{training_pipeline.name}/nightly-training",
    )


def test_a_flow_deploys_itself_with_several_schedules_and_a_limit() -> None:
    training_pipeline.deploy(
        name="many",
        work_pool_name="gpu",
        work_queue_name="fast",
        schedules=[
            Cron("0 2 * * *", timezone="Europe/Paris", slug="night", parameters={"epochs": 1}),
            Interval(timedelta(minutes=15), anchor_date=datetime(2026, 1, 1, tzinfo=UTC), jitter="30s"),
            RRule("FREQ=WEEKLY;BYDAY=MO;BYHOUR=6", catchup="all", catchup_window="7d"),
            At("2099-01-01T00:00", timezone="Asia/Tokyo", active=False),
        ],
        concurrency_limit=ConcurrencyLimitConfig(limit=2, collision_strategy="CANCEL_NEW"),
        parameters={"raw_path": "x", "day": date(2026, 1, 31)},
        tags=["a"],
        version="7",
        paused=True,
    )
    found = stored("many")
    by_slug = {each.slug: each for each in found.schedules}
    assert set(by_slug) == {"night", "2", "3", "4"}
    assert (by_slug["2"].spec, by_slug["2"].jitter_seconds) == ("15m from 2026-01-01T00:00:00+00:00", 30.0)
    assert (by_slug["3"].catchup, by_slug["3"].window_seconds) == ("all", 604_800.0)
    assert (by_slug["4"].is_paused, by_slug["4"].zone) == (True, "Asia/Tokyo")
    assert (found.concurrency.limit, found.concurrency.on_collision) == (2, "skip")
    assert (found.parameters["day"], found.queue, found.is_paused, found.version) == (
        "2026-01-31",
        "fast",
        True,
        "7",
    )


def test_tags_of_a_flow_are_those_of_its_runs_their_events_and_its_deployments() -> None:
    @flow(tags=["big", "a"])
    def tagged():
        return 1

    more = tagged.with_options(tags=["more"])
    assert (tagged.tags, more.tags) == ({"big", "a"}, {"big", "a", "more"})
    assert more.with_options(name="other").tags == more.tags
    assert deployment_of(more, "nightly", {"tags": ["own", "a"], "source": SOURCE}).tags == (
        "own",
        "a",
        "big",
        "more",
    )
    run = more.run()
    assert tagged.run().id != run.id
    with history() as runs:
        (found,) = runs.runs(tag="more")
        assert (found.id, found.plan.tags) == (run.id, ("a", "big", "more"))
        assert len(runs.runs(tag="big")) == 2
    with open_stores() as stores:
        events = stores.events.last(subject=run.id)
        assert stores.work.header(run.id).is_verified
    assert [each.type.rpartition(".")[2] for each in events] == ["running", "completed"]
    assert {tuple(each.related["tags"]) for each in events} == {("a", "big", "more")}
    with pytest.raises(TaskOptionError, match=r'use tags=\["big"\]'):
        tagged.with_options(tags="big")


def test_prefects_names_of_schedules_are_the_same_classes() -> None:
    assert (CronSchedule, IntervalSchedule, RRuleSchedule) == (Cron, Interval, RRule)
    assert CronSchedule(cron="0 2 * * *", timezone="Europe/Paris") == Cron("0 2 * * *", "Europe/Paris")
    assert IntervalSchedule(interval=timedelta(hours=1)).spec == "1h"


@pytest.mark.parametrize(
    "name", ["image", "job_variables", "infrastructure", "triggers", "build", "entrypoint_type"]
)
def test_what_has_no_meaning_here_is_refused_by_name(name) -> None:
    with pytest.raises(DeploymentError, match=f"{name} has no meaning here: "):
        training_pipeline.to_deployment("x", **{name: "y"})


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"crom": "0 2 * * *"}, DeploymentError, "did you mean cron"),
        ({"cron": "0 2 *"}, ScheduleError, "did you mean 0 2"),
        ({"cron": "0 2 * * *", "interval": 60}, ScheduleError, "cron and interval are given"),
        ({"cron": "0 2 * * *", "timezone": "Mars"}, ScheduleError, "no time zone 'Mars'"),
        ({"timezone": "UTC"}, ScheduleError, "there is no schedule that it could be of"),
        ({"schedule": {"cron": "0 2 * * *", "interval": 3}}, ScheduleError, "has cron and interval"),
        ({"schedule": "0 2 * * *"}, ScheduleError, "is not a schedule"),
        (
            {"schedules": [Cron("0 2 * * *", slug="a"), Cron("0 3 * * *", slug="a")]},
            DeploymentError,
            "two schedules",
        ),
        ({"interval": True}, ParameterError, "is not a duration"),
        ({"concurrency_limit": 0}, DeploymentError, "1 or more"),
        ({"on_collision": "explode"}, DeploymentError, "use queue, queue-latest"),
        ({"concurrency_key": "{customer}"}, DeploymentError, "names a parameter 'customer'"),
        ({"parameters": {"epochs": "many"}}, ParameterError, "must be int"),
        ({"parameters": {"epoch": 1}}, ParameterError, "no parameter 'epoch'"),
        ({"parameters": {"raw_path": object()}}, ParameterError, "cannot be stored as JSON"),
        ({"tags": "a"}, DeploymentError, "use a list"),
        ({"needs": ["??"]}, DeploymentError, "is not what a run can need"),
        ({"backend": object()}, DeploymentError, "cannot be stored"),
        ({"work_pool_name": "a/b"}, DeploymentError, "cannot be a name"),
    ],
)
def test_options_that_are_wrong_are_refused_before_anything_is_stored(
    options, error, told, home, tmp_path
) -> None:
    with pytest.raises(error, match=told):
        training_pipeline.deploy("x", **options)
    assert not (tmp_path / "home" / "catalog.db").exists()


def test_a_secret_is_stored_by_its_name_alone() -> None:
    with pytest.raises(ParameterError, match="use {'\\$secret': 'NAME'}"):
        secret_flow.to_deployment("x", parameters={"token": Secret("hush")})
    secret_flow.deploy("x", parameters={"token": {"$secret": "API_TOKEN"}})
    assert stored("x").parameters == {"token": {"$secret": "API_TOKEN"}}


def test_parameters_of_a_run_are_checked_against_what_is_stored_of_the_flow() -> None:
    training_pipeline.deploy("x")
    for given, told in (
        ({}, "needs a value of raw_path"),
        ({"raw_path": "a", "epoch": 1}, "did you mean 'epochs'"),
        ({"raw_path": 3}, "'raw_path' of .* must be a text, not 3"),
        ({"raw_path": "a", "epochs": [1]}, "must be an integer"),
    ):
        with pytest.raises(ParameterError, match=told):
            run_deployment("x", given, timeout=0)
    assert run_deployment("x", {"raw_path": "a", "epochs": "5"}, timeout=0).state_name == "Scheduled"
    with pytest.raises(NotFound, match="there is no deployment 'y'"):
        run_deployment("y", timeout=0)


def test_the_same_key_makes_one_run_and_a_run_can_be_due_later() -> None:
    training_pipeline.deploy("x")
    later = datetime.now(UTC) + timedelta(hours=1)
    first = run_deployment(
        "x", {"raw_path": "a"}, timeout=0, idempotency_key="k", scheduled_time=later, tags=["t"]
    )
    assert run_deployment("x", {"raw_path": "b"}, timeout=0, idempotency_key="k").id == first.id
    assert first.why.startswith("it is due at") and first.plan.tags == ("t",)


def test_while_code_is_loaded_for_its_flows_nothing_is_stored() -> None:
    found: list = []
    token = LOADING.set(found)
    try:
        training_pipeline.deploy("a")
        with pytest.raises(StopLoading):
            serve(training_pipeline.to_deployment("b"))
    finally:
        LOADING.reset(token)
    assert [each.name for each in found] == ["a", "b"]
    with open_stores() as stores:
        assert stores.plans.all() == []


def test_serve_takes_deployments_of_one_pool() -> None:
    with pytest.raises(DeploymentError, match="serve takes deployments"):
        serve()
    one, other = (
        training_pipeline.to_deployment("a"),
        training_pipeline.to_deployment("b", work_pool_name="gpu"),
    )
    with pytest.raises(DeploymentError, match="several pools"):
        serve(one, other)


def test_a_flow_inside_a_function_is_refused_and_one_without_a_file_is_pickled() -> None:
    @flow
    def inner():
        pass

    with pytest.raises(DeploymentError, match="Define it at the top of the file"):
        inner.to_deployment("x")
    code = (
        "from graphflow import flow\n"
        "@flow\ndef unsaved(n: int = 2):\n    return n * 21\n"
        "unsaved.deploy('x')\n"
        "from graphflow.orchestration.stores.opening import open_stores\n"
        "from graphflow.launching.loading import load_source\n"
        "with open_stores() as stores:\n"
        "    source = stores.plans.find('x').deployment.source\n"
        "print(source.kind, load_source(source)[0](2))\n"
    )
    done = subprocess.run(
        [sys.executable, "-"], input=code, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "pickle 42\n"
