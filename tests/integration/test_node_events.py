"""Events of nodes: of tasks alone, once each, and in transactions that are made anyway."""

from __future__ import annotations

import json
import threading
import tomllib
from contextlib import contextmanager

import pytest
from typer.testing import CliRunner

from graphflow import flow, task
from graphflow.cli.main import app
from graphflow.driver import durability
from graphflow.driver.telling import MOST_TOLD
from graphflow.errors import HistoryLocked
from graphflow.histories.catalogs import SqliteCatalog
from graphflow.histories.opening import open_history
from graphflow.model.automated import automation_of
from graphflow.model.deployed import Deployment, Source
from graphflow.model.records import NodeNews, RunHeader
from graphflow.orchestration.reactor import react
from graphflow.orchestration.stores.opening import open_stores
from graphflow.orchestration.stores.pools import WorkerSeen
from graphflow.testing.waiting import eventually


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAPHFLOW_HOME", str(tmp_path / "home"))


@pytest.fixture
def quiet(monkeypatch):
    """Neither lease nor summary is written in the middle of a run, however slow the machine is."""
    monkeypatch.setenv("GRAPHFLOW_LEASE_SECONDS", "3600")
    monkeypatch.setattr(durability, "SUMMARY_SECONDS", 3_600.0)


@task
def step(x):
    return x + 1


@task
def picky(x):
    if x == 2:
        raise ValueError("no 2")
    return x


@task
def total(values):
    return sum(values)


@flow(backend="threads:2")
def pipeline(size=3):
    return total(picky.map(step.map(range(size))))


def told(since=0, type="graphflow.node.*"):
    with open_stores() as stores:
        return stores.events.after(since, type=type)


def words(events):
    return [(each.type.rpartition(".")[2], each.data.get("node")) for each in events]


def test_nodes_begin_and_end_with_counts_of_their_items() -> None:
    run = pipeline.run()
    assert run.state.name == "Failed"
    events = told(type="*")
    assert [each.type for each in events if ".run." in each.type] == [
        "graphflow.run.running",
        "graphflow.run.failed",
    ]
    assert events[-1].type == "graphflow.run.failed"
    nodes = told()
    assert sorted(words(nodes)) == [
        ("completed", "step"),
        ("failed", "picky"),
        ("running", "picky"),
        ("running", "step"),
        ("upstreamfailed", "total"),
    ]
    (failed,) = [each for each in nodes if each.type == "graphflow.node.failed"]
    assert failed.subject == run.id and failed.related == {"flow": "pipeline"}
    assert failed.data == {
        "node": "picky",
        "task": "picky",
        "state": "Failed",
        "width": 3,
        "counts": {"Completed": 2, "Failed": 1},
    }


def test_a_resumed_run_tells_of_what_it_does_and_not_again_of_what_is_done() -> None:
    run = pipeline.run()
    before = told()
    assert pipeline.resume(run.id).state.name == "Failed"
    after = told(before[-1].seq)
    assert sorted(words(after)) == [
        ("failed", "picky"),
        ("running", "picky"),
        ("upstreamfailed", "total"),
    ]
    assert not {each.id for each in before} & {each.id for each in after}


def test_each_attempt_of_a_flow_has_events_of_its_own() -> None:
    tries = []

    @flow(retries=1, retry_delay_seconds=0, backend="threads:1")
    def again():
        value = step(1).result()
        tries.append(value)
        if len(tries) == 1:
            raise ValueError("once")
        return value

    assert again() == 2
    assert words(told()) == [("running", "step"), ("completed", "step")] * 2


def test_beyond_the_limit_moves_are_counted_and_one_event_says_how_many() -> None:
    count = MOST_TOLD // 2 + 10

    @flow(backend="threads:2")
    def wide():
        return [step(number) for number in range(count)]

    wide()
    events = told()
    assert len(events) == MOST_TOLD + 1
    assert events[-1].type == "graphflow.node.omitted"
    assert events[-1].data == {"events": 2 * count - MOST_TOLD}


def test_they_cost_no_transaction_of_their_own(quiet, monkeypatch) -> None:
    counted = []
    transaction = SqliteCatalog.transaction

    @contextmanager
    def counting(self):
        counted.append(1)
        with transaction(self):
            yield

    @flow(backend="threads:2")
    def some(count):
        return [step(number) for number in range(count)]

    some(1)
    monkeypatch.setattr(SqliteCatalog, "transaction", counting)
    found = []
    for count in (0, 1, 20):
        counted.clear()
        some(count)
        found.append(len(counted))
    assert found[0] == found[1] == found[2] > 0
    assert len(told()) == 2 * 22


def test_a_run_that_goes_on_tells_with_its_summary(monkeypatch) -> None:
    monkeypatch.setattr(durability, "SUMMARY_SECONDS", 0.05)
    gate = threading.Event()

    @task
    def hold():
        gate.wait()

    @flow(backend="threads:1")
    def waits():
        hold()

    thread = threading.Thread(target=waits)
    thread.start()
    try:
        eventually(lambda: words(told()) == [("running", "hold")])
    finally:
        gate.set()
        thread.join()
    assert words(told()) == [("running", "hold"), ("completed", "hold")]


NEWS = NodeNews(
    key="1.0.Running", name="step", task_name="step", state="Running", at=5.0, width=3, counts={"Pending": 3}
)


def test_what_could_not_be_told_is_told_by_the_next_transaction_once(monkeypatch) -> None:
    journal = open_history().create(RunHeader(id="run-1", name="r", flow_name="f"))
    try:
        with monkeypatch.context() as patch:

            def locked(*_, **__):
                raise HistoryLocked("others have it")

            patch.setattr(SqliteCatalog, "set_state", locked)
            journal.tell([NEWS])
            journal.commit([], state="Running")
        assert told() == []
        journal.renew()
        assert words(told()) == [("running", "step")]
        journal.tell([NEWS])
        journal.commit([], state="Completed")
    finally:
        journal.close()
    assert words(told()) == [("running", "step")]


def test_a_driver_that_lost_its_run_tells_nothing() -> None:
    journal = open_history().create(RunHeader(id="run-1", name="r", flow_name="f"))
    with open_stores() as stores, stores.catalog.transaction():
        stores.catalog.tell_nodes("run-1", journal.epoch + 1, [NEWS], at=6.0, left_out=3)
        stores.catalog.tell_nodes("run-1", journal.epoch - 1, [NEWS], at=6.0, left_out=3)
        stores.catalog.tell_nodes("run-2", journal.epoch, [NEWS], at=6.0, left_out=3)
    journal.close()
    assert told() == []


def test_a_rule_sees_nodes_of_a_deployments_run_and_the_command_line_lists_them() -> None:
    with open_stores() as stores:
        source = Source(kind="file", place="/x.py:pipeline")
        stored, _ = stores.plans.put(
            Deployment(flow_name="pipeline", name="nightly", source=source, tags=("big",))
        )
        text = """
            when = { type = "graphflow.node.failed", data.task = "picky", related.deployment = "nightly" }
            then = [{ emit = "step.broke", subject = "{event.subject}", data = { failed = "{event.data.counts.Failed}" } }]
        """
        rule, _ = stores.rules.put(automation_of("broke", tomllib.loads(text)))
        run_id = stores.fires.run(stored, {}, origin="user").run_id
        worker = WorkerSeen(
            id="w",
            name="w",
            pool="default",
            host="here",
            boot_id="b",
            pid=1,
            slots=1,
            labels=(),
            versions={},
            started=0.0,
            seen=0.0,
            state="ready",
        )
        (given,) = stores.work.claim(worker, slots=1)
        header = stores.work.header(run_id)
        execution = pipeline._for_work(
            run_id, {}, work=given.epoch, created=header.created, is_new=header.epoch == 0
        )
        execution.execute()
        (failed,) = stores.events.last(type="graphflow.node.failed")
        assert failed.related["deployment"] == "pipeline/nightly" and failed.related["tags"] == ["big"]
        while react(stores).events:
            pass
        (emitted,) = stores.events.last(type="step.broke")
        assert (emitted.subject, emitted.data) == (run_id, {"failed": 1})
        assert len(stores.rules.firings(rule.id)) == 1
    found = CliRunner().invoke(app, ["events", "ls", "--type", "graphflow.node.*", "-o", "json"])
    assert found.exit_code == 0, found.output
    listed = json.loads(found.output)
    assert {each["subject"] for each in listed} == {run_id}
    assert "graphflow.node.failed" in [each["type"] for each in listed]
