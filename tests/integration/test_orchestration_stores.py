"""What is stored of deployments, fires and work: each method is one transaction, and what it promises holds."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from graphflow.errors import HistoryError, LeaseLost, NotFound, ParameterError, ScheduleError
from graphflow.histories.catalogued import MOST_CRASHES
from graphflow.model.deployed import Concurrency, Deployment, Schedule, Source
from graphflow.model.records import RunHeader
from graphflow.orchestration.backfilling import backfill
from graphflow.orchestration.naming import run_id_of
from graphflow.orchestration.stores.opening import open_stores
from graphflow.orchestration.stores.pools import WorkerSeen
from graphflow.orchestration.sweeper import sweep
from graphflow.testing.contracts.histories import ManualClock

BEGIN = datetime(2026, 11, 30, 12, 0, 30, tzinfo=UTC).timestamp()
HOUR, DAY = 3_600.0, 86_400.0


@pytest.fixture
def clock():
    clock = ManualClock()
    clock.wall_time = BEGIN
    return clock


@pytest.fixture
def stores(tmp_path, clock):
    with open_stores(tmp_path / "home", clock=clock) as opened:
        yield opened


def model(name="nightly", **changes):
    given = {
        "flow_name": "crawl",
        "name": name,
        "source": Source(kind="file", place="/x/crawl.py:crawl"),
        "schedules": [Schedule(kind="cron", spec="0 * * * *")],
    }
    return Deployment(**{**given, **changes})


def worker(id="w1", **changes):
    given = {
        "id": id,
        "name": id,
        "pool": "default",
        "host": "here",
        "boot_id": "b",
        "pid": 1,
        "slots": 9,
        "labels": (),
        "versions": {"python": "3.12.0"},
        "started": 0.0,
        "seen": 0.0,
        "state": "ready",
    }
    return WorkerSeen(**{**given, **changes})


def made(stores, stored, **parameters):
    return stores.fires.run(stored, parameters, origin="user").run_id


def claimed(stores, slots=9, who=None):
    return [each.run_id for each in stores.work.claim(who or worker(), slots=slots)]


def types(stores):
    return [each.type.removeprefix("graphflow.") for each in stores.events.last(limit=100)]


# -- deployments ---------------------------------------------------------------------------------------------


def test_a_deployment_is_stored_once_and_changed_by_its_name(stores, clock) -> None:
    stored, verb = stores.plans.put(model())
    assert (verb, stored.revision, stored.next_due) == ("added", 1, BEGIN - 30 + HOUR)
    assert stores.plans.put(model())[1] == "unchanged"
    changed, verb = stores.plans.put(model(parameters={"n": 1}))
    assert (verb, changed.revision, changed.id) == ("changed", 2, stored.id)
    assert stores.plans.find("nightly").deployment.parameters == {"n": 1}
    assert stores.plans.find("crawl/nightly").deployment == changed.deployment


def test_a_deployment_that_is_not_there_is_said_with_what_is(stores) -> None:
    stores.plans.put(model())
    with pytest.raises(NotFound, match="did you mean crawl/nightly"):
        stores.plans.find("crawl/nigtly")
    stores.plans.put(model(flow_name="train"))
    with pytest.raises(
        NotFound, match="several deployments have the name 'nightly': crawl/nightly, train/nightly"
    ):
        stores.plans.find("nightly")


def test_a_schedule_that_never_fires_stores_nothing(stores) -> None:
    with pytest.raises(ScheduleError, match="does not fire"):
        stores.plans.put(model(schedules=[Schedule(kind="at", spec="2020-01-01")]))
    assert stores.plans.all() == []


def test_a_moment_that_has_passed_stays_when_its_deployment_is_stored_again(stores, clock) -> None:
    once = [Schedule(kind="at", spec="2026-11-30T13:00")]
    stores.plans.put(model(schedules=once))
    clock.wall_time += HOUR
    assert stores.fires.fire().runs == 1
    assert stores.plans.put(model(schedules=once))[1] == "unchanged"
    assert stores.plans.put(model(schedules=once, priority=3))[1] == "changed"


def test_an_edited_schedule_fires_from_now_on_and_an_unchanged_one_keeps_what_it_missed(
    stores, clock
) -> None:
    two = [Schedule(kind="cron", spec="0 * * * *"), Schedule(kind="cron", spec="5 * * * *")]
    stores.plans.put(model(schedules=two))
    clock.wall_time += 3 * HOUR
    edited = [two[0], Schedule(kind="cron", spec="10 * * * *")]
    stored, _ = stores.plans.put(model(schedules=edited))
    first, second = stored.schedules
    assert first.next_nominal == BEGIN - 30 + HOUR
    assert second.next_nominal == BEGIN - 30 + 3 * HOUR + 600
    assert stores.plans.put(model(schedules=[]))[0].schedules == ()
    assert stores.fires.next_due() is None


def test_a_paused_deployment_misses_nothing_unless_it_is_asked_for(stores, clock) -> None:
    stores.plans.put(model())
    stores.plans.pause("crawl/nightly", True)
    clock.wall_time += 3 * HOUR
    assert stores.fires.next_due() is None
    stored = stores.plans.pause("crawl/nightly", False)
    assert stored.next_due == BEGIN - 30 + 4 * HOUR
    stores.plans.pause("crawl/nightly", True)
    clock.wall_time += 3 * HOUR
    stores.plans.pause("crawl/nightly", False, catches_up=True)
    assert stores.fires.fire().runs == 1
    (missed,) = [each for each in stores.plans.fires(stored) if each.outcome == "missed"]
    assert missed.count == 2


# -- fires ---------------------------------------------------------------------------------------------------


def test_a_fire_is_a_run_with_work_and_an_event_and_moves_its_schedule_on(stores, clock) -> None:
    stored, _ = stores.plans.put(model(parameters={"n": 1}))
    clock.wall_time += HOUR
    assert stores.fires.fire().runs == 1
    assert stores.fires.fire().schedules == 0
    nominal = BEGIN - 30 + HOUR
    (fire,) = stores.plans.fires(stored)
    assert (fire.nominal, fire.outcome, fire.run_id) == (
        nominal,
        "run",
        run_id_of(stored.schedules[0].id, nominal),
    )
    header = stores.history.find(fire.run_id)
    assert (header.state, header.plan.nominal, header.plan.deployment) == (
        "Scheduled",
        nominal,
        "crawl/nightly",
    )
    assert json.loads(header.plan.parameters) == {"n": 1}
    assert types(stores)[1:] == ["run.scheduled", "schedule.fired"]
    assert stores.fires.next_due() == nominal + HOUR


def test_eight_hours_of_sleep_are_one_run_and_a_row_of_what_was_missed(stores, clock) -> None:
    stored, _ = stores.plans.put(model())
    clock.wall_time += 8 * HOUR + 120
    assert stores.fires.fire().runs == 1
    run, missed = stores.plans.fires(stored)
    assert (run.outcome, run.nominal) == ("run", BEGIN - 30 + 8 * HOUR)
    assert (missed.outcome, missed.count, missed.nominal) == ("missed", 7, BEGIN - 30 + HOUR)
    (event,) = [each for each in stores.events.last() if each.type == "graphflow.schedule.missed"]
    assert (event.data["count"], event.data["last"]) == (7, BEGIN - 30 + 7 * HOUR)


def test_a_clock_that_is_set_back_fires_nothing_twice(stores, clock) -> None:
    stored, _ = stores.plans.put(model())
    clock.wall_time += HOUR
    assert stores.fires.fire().runs == 1
    clock.wall_time -= HOUR
    # As after a restore, or an edit while the clock was wrong.
    stores.plans.put(model(schedules=[Schedule(kind="cron", spec="0 */1 * * *")]))
    clock.wall_time += HOUR
    assert stores.fires.fire().runs == 0
    assert len(stores.plans.fires(stored)) == 1


def test_while_everything_is_paused_nothing_fires_and_what_is_missed_is_caught_up(stores, clock) -> None:
    stored, _ = stores.plans.put(model())
    stores.events.pause_all(True)
    clock.wall_time += 3 * HOUR
    assert stores.fires.fire().schedules == 0
    stores.events.pause_all(False)
    assert stores.fires.fire().runs == 1
    assert [each.count for each in stores.plans.fires(stored)] == [1, 2]


def test_jitter_moves_when_a_run_is_due_and_not_which_run_it_is(stores, clock) -> None:
    late = Schedule(kind="cron", spec="0 * * * *", jitter_seconds=600.0)
    stored, _ = stores.plans.put(model(schedules=[late]))
    (schedule,) = stored.schedules
    assert schedule.next_nominal < schedule.next_due < schedule.next_nominal + 600
    clock.wall_time = schedule.next_due - 0.001
    assert stores.fires.fire().schedules == 0
    clock.wall_time = schedule.next_due
    assert stores.fires.fire().runs == 1
    assert stores.plans.fires(stored)[0].run_id == run_id_of(schedule.id, schedule.next_nominal)


def test_parameters_of_a_schedule_are_over_those_of_its_deployment(stores, clock) -> None:
    schedule = Schedule(kind="cron", spec="0 * * * *", parameters={"n": 2})
    stored, _ = stores.plans.put(model(parameters={"n": 1, "day": "x"}, schedules=[schedule]))
    clock.wall_time += HOUR
    stores.fires.fire()
    header = stores.work.header(stores.plans.fires(stored)[0].run_id)
    assert json.loads(header.plan.parameters) == {"n": 2, "day": "x"}


@pytest.mark.parametrize(
    ("policy", "states"),
    [
        ("queue", ["Pending", "Scheduled", "Scheduled"]),
        ("skip", ["Pending"]),
        ("queue-latest", ["Pending", "Cancelled", "Scheduled"]),
    ],
)
def test_runs_beyond_the_limit_of_a_deployment_meet_its_policy(stores, clock, policy, states) -> None:
    stored, _ = stores.plans.put(model(concurrency=Concurrency(on_collision=policy)))
    runs = []
    for _ in range(3):
        clock.wall_time += 1
        found = stores.fires.run(stored, {}, origin="user")
        assert (found.run_id is None) == bool(found.why)
        runs += [found.run_id] if found.run_id else []
        claimed(stores)
    assert [stores.work.header(each).state for each in runs] == states


def test_a_limit_by_key_holds_for_each_value(stores) -> None:
    limited = Concurrency(key="customer={customer}", on_collision="skip")
    stored, _ = stores.plans.put(model(concurrency=limited))
    assert made(stores, stored, customer="a") and made(stores, stored, customer="b")
    assert made(stores, stored, customer="a") is None


def test_cancel_running_asks_the_old_run_to_end_and_the_new_one_waits_for_that(stores) -> None:
    stored, _ = stores.plans.put(model(concurrency=Concurrency(on_collision="cancel-running")))
    old = made(stores, stored)
    (given,) = stores.work.claim(worker(), slots=1)
    journal = stores.history.create(RunHeader(id=old, name="x", flow_name="crawl"), work=given.epoch)
    journal.commit([], state="Running")
    new = made(stores, stored)
    assert [each.kind for each in journal.requests()] == ["cancel"]
    assert claimed(stores) == []
    assert stores.history.find(new).work.why == "1 of 1 runs are active"
    journal.commit([], state="Cancelled")
    journal.close()
    assert claimed(stores) == [new]


def test_a_request_key_makes_one_run(stores) -> None:
    stored, _ = stores.plans.put(model())
    first = stores.fires.run(stored, {}, origin="user", request_key="k")
    again = stores.fires.run(stored, {}, origin="user", request_key="k")
    assert (first.is_new, again.is_new, again.run_id) == (True, False, first.run_id)


def test_a_backfill_makes_what_the_clock_would_have_made_and_nothing_twice(stores, clock) -> None:
    stored, _ = stores.plans.put(model())
    clock.wall_time += HOUR
    stores.fires.fire()
    begin = BEGIN - 30 - HOUR
    filled = backfill(stores, stored, begin, BEGIN - 30 + HOUR)
    assert [each.is_new for each in filled] == [True, True, False]
    assert not any(each.is_new for each in backfill(stores, stored, begin, BEGIN - 30 + HOUR))
    again = backfill(stores, stored, begin, begin, again=1)
    assert again[0].is_new and again[0].run_id != filled[0].run_id
    planned = backfill(stores, stored, begin - HOUR, begin, makes_runs=False)
    assert [each.is_new for each in planned] == [True, False]


def test_another_run_of_a_run_has_its_parameters_and_its_source(stores) -> None:
    stored, _ = stores.plans.put(model(parameters={"n": 1}))
    first = stores.work.header(made(stores, stored, n=5))
    stores.plans.put(model(source=Source(kind="file", place="/other.py:crawl"), parameters={"n": 2}))
    second = stores.work.header(stores.fires.again(first).run_id)
    assert (second.plan.parameters, second.plan.source) == (first.plan.parameters, first.plan.source)
    assert second.plan.origin == f"rerun:{first.id}"


# -- claims --------------------------------------------------------------------------------------------------


def test_claims_go_by_queue_priority_due_and_id(stores, clock) -> None:
    stores.pools.ensure("default", "default", "fast")
    stores.pools.change_queue("default", "fast", priority=-1)
    plain, _ = stores.plans.put(model())
    urgent, _ = stores.plans.put(model("urgent", priority=-5))
    fast, _ = stores.plans.put(model("fast", queue="fast", priority=9))
    runs = {}
    for name, stored in [("a", plain), ("b", urgent), ("c", fast), ("d", plain)]:
        clock.wall_time += 1
        runs[made(stores, stored)] = name
    assert [runs[each] for each in claimed(stores)] == ["c", "b", "a", "d"]


def test_a_pool_is_never_over_its_size(stores) -> None:
    stored, _ = stores.plans.put(model())
    stores.pools.change("default", size=3)
    runs = [made(stores, stored) for _ in range(5)]
    assert len(claimed(stores, 2)) == 2
    assert len(claimed(stores, 2, worker("w2"))) == 1
    assert claimed(stores) == []
    waiting = [stores.history.find(each).work for each in runs]
    assert {each.why for each in waiting if each.state == "waiting"} == {
        "the pool default is full: 3 of 3 run"
    }
    stores.pools.change("default", size=None)
    assert len(claimed(stores)) == 2


def test_a_queue_is_never_over_its_size_and_does_not_hold_up_others(stores, clock) -> None:
    stores.pools.ensure("default", "slow")
    stores.pools.change_queue("default", "slow", size=1, priority=-1)
    slow, _ = stores.plans.put(model("slow", queue="slow"))
    plain, _ = stores.plans.put(model())
    runs = []
    for stored in (slow, slow, plain):
        clock.wall_time += 1
        runs.append(made(stores, stored))
    assert claimed(stores) == [runs[0], runs[2]]
    assert claimed(stores) == []
    assert stores.history.find(runs[1]).work.why == "the queue slow is full: 1 of 1 run"


def test_what_a_worker_lacks_is_left_to_others_with_the_reason(stores) -> None:
    stored, _ = stores.plans.put(model(needs=("gpu", "python>=3.11")))
    run = made(stores, stored)
    assert claimed(stores) == []
    assert stores.history.find(run).work.why == "it needs gpu, which no worker that asked has"
    assert claimed(stores, who=worker("w2", labels=("gpu",))) == [run]


def test_more_runs_than_a_page_that_cannot_run_hide_none_that_can(stores) -> None:
    blocked, _ = stores.plans.put(model("blocked", needs=("gpu",)))
    plain, _ = stores.plans.put(model(priority=1))
    for _ in range(45):
        made(stores, blocked)
    run = made(stores, plain)
    assert claimed(stores) == [run]


@pytest.mark.parametrize(
    ("stop", "go_on", "why"),
    [
        (lambda s: s.events.pause_all(True), lambda s: s.events.pause_all(False), "everything is paused"),
        (
            lambda s: s.pools.change("default", is_paused=True),
            lambda s: s.pools.change("default", is_paused=False),
            "the pool default is paused",
        ),
        (
            lambda s: s.pools.change_queue("default", "default", is_paused=True),
            lambda s: s.pools.change_queue("default", "default", is_paused=False),
            "the queue default is paused",
        ),
        (
            lambda s: s.plans.pause("crawl/nightly", True),
            lambda s: s.plans.pause("crawl/nightly", False),
            "its deployment is paused",
        ),
    ],
    ids=["all", "pool", "queue", "deployment"],
)
def test_what_is_paused_is_not_claimed_and_its_runs_say_so(stores, stop, go_on, why) -> None:
    stored, _ = stores.plans.put(model())
    run = made(stores, stored)
    stop(stores)
    assert claimed(stores) == []
    assert stores.history.find(run).work.why.startswith(why)
    go_on(stores)
    assert claimed(stores) == [run]


def test_a_run_that_waits_too_long_is_late_once_and_can_still_be_claimed(stores, clock) -> None:
    stored, _ = stores.plans.put(model())
    run = made(stores, stored)
    assert stores.work.note_late(60.0) == 0
    clock.wall_time += 61
    assert (stores.work.note_late(60.0), stores.work.note_late(60.0)) == (1, 0)
    assert stores.history.find(run).state == "Late"
    assert types(stores).count("run.late") == 1
    assert claimed(stores) == [run]


# -- the lease passes ----------------------------------------------------------------------------------------


def begun(stores, run_id, epoch):
    header = stores.work.header(run_id)
    return stores.history.create(
        RunHeader(id=run_id, name="calm-otter", flow_name="crawl", created=header.created), work=epoch
    )


def test_a_driver_begins_by_its_claim_and_its_end_ends_the_work(stores) -> None:
    stored, _ = stores.plans.put(model())
    run = made(stores, stored)
    (given,) = stores.work.claim(worker(), slots=1)
    journal = begun(stores, run, given.epoch)
    journal.commit([], state="Running")
    assert stores.history.find(run).lease is not None
    journal.commit([], state="Completed")
    journal.close()
    found = stores.history.find(run)
    assert (found.state, found.work, found.name, found.is_verified) == ("Completed", None, "calm-otter", True)
    assert stores.work.claimed() == []
    assert [each for each in types(stores) if each.startswith("run.")] == [
        "run.scheduled",
        "run.pending",
        "run.running",
        "run.completed",
    ]


def test_a_claim_that_ended_begins_nothing(stores) -> None:
    stored, _ = stores.plans.put(model())
    run = made(stores, stored)
    (first,) = stores.work.claim(worker(), slots=1)
    assert stores.work.give_back(run, first.epoch, why="its worker died")
    (second,) = stores.work.claim(worker("w2"), slots=1)
    assert second.epoch == first.epoch + 1
    with pytest.raises(LeaseLost, match="not this worker's any more"):
        begun(stores, run, first.epoch)
    assert not stores.work.give_back(run, first.epoch, why="late")
    assert not stores.work.end(run, first.epoch, "Crashed", "late")
    begun(stores, run, second.epoch).close()


def test_a_run_that_lost_its_driver_waits_for_the_next_one_which_takes_it(stores) -> None:
    stored, _ = stores.plans.put(model())
    run = made(stores, stored)
    (given,) = stores.work.claim(worker(), slots=1)
    journal = begun(stores, run, given.epoch)
    journal.commit([], state="Running")
    journal.abandon()
    found = stores.history.find(run)
    assert (found.state, found.work.state, found.work.crashes) == ("Resuming", "waiting", 1)
    (again,) = stores.work.claim(worker("w2"), slots=1)
    taken = stores.history.take(run, work=again.epoch)
    assert taken.epoch == 2
    taken.commit([], state="Completed")
    taken.close()
    assert stores.history.find(run).state == "Completed"
    assert types(stores).count("run.lost") == 1


def test_a_driver_that_died_after_the_end_was_durable_leaves_an_ended_run(stores) -> None:
    stored, _ = stores.plans.put(model())
    run = made(stores, stored)
    (given,) = stores.work.claim(worker(), slots=1)
    journal = begun(stores, run, given.epoch)
    journal._publish = lambda: None
    journal.commit([], state="Completed")
    journal.abandon()
    found = stores.history.find(run)
    assert (found.state, stores.work.header(run).work) == ("Completed", None)
    assert types(stores).count("run.completed") == 1


def test_a_run_that_kills_its_drivers_ends_after_the_third(stores) -> None:
    stored, _ = stores.plans.put(model())
    run = made(stores, stored)
    for number in range(MOST_CRASHES):
        (given,) = stores.work.claim(worker(), slots=1)
        journal = (
            begun(stores, run, given.epoch) if number == 0 else stores.history.take(run, work=given.epoch)
        )
        journal.abandon()
        stores.history.find(run)
    found = stores.history.find(run)
    assert (found.state, found.work) == ("Crashed", None)
    assert "lost 3 drivers" in found.message
    assert claimed(stores) == []


def test_a_driver_that_ends_as_resuming_gives_the_work_back_without_a_crash(stores) -> None:
    stored, _ = stores.plans.put(model())
    run = made(stores, stored)
    (given,) = stores.work.claim(worker(), slots=1)
    journal = begun(stores, run, given.epoch)
    journal.commit([], state="Resuming")
    journal.close()
    found = stores.history.find(run)
    assert (found.state, found.work.state, found.work.crashes) == ("Resuming", "waiting", 0)
    assert claimed(stores) == [run]


def test_a_run_that_waits_is_cancelled_paused_and_resumed_in_the_catalog(stores) -> None:
    stored, _ = stores.plans.put(model())
    run = made(stores, stored)
    assert stores.history.answer_of(stores.history.request(run, "pause", {})) == ""
    assert stores.history.find(run).state == "Paused"
    assert claimed(stores) == []
    assert "not" not in stores.history.answer_of(stores.history.request(run, "resume", {}))
    assert stores.history.answer_of(stores.history.request(run, "update", {})) != ""
    stores.history.request(run, "cancel", {})
    assert stores.history.find(run).state == "Cancelled"
    assert claimed(stores) == []


def test_a_run_that_is_cancelled_after_its_claim_never_begins(stores) -> None:
    stored, _ = stores.plans.put(model())
    run = made(stores, stored)
    (given,) = stores.work.claim(worker(), slots=1)
    stores.history.request(run, "cancel", {})
    with pytest.raises(LeaseLost):
        begun(stores, run, given.epoch)
    assert stores.history.find(run).state == "Cancelled"


def test_a_run_that_waits_can_be_driven_by_hand(stores) -> None:
    stored, _ = stores.plans.put(model())
    run = made(stores, stored)
    (given,) = stores.work.claim(worker(), slots=1)
    begun(stores, run, given.epoch).abandon()
    stores.history.find(run)
    journal = stores.history.take(run)
    assert claimed(stores) == []
    journal.commit([], state="Completed")
    journal.close()
    assert stores.work.claimed() == []


def test_a_run_that_has_not_begun_reads_as_empty_and_can_be_removed(stores) -> None:
    stored, _ = stores.plans.put(model())
    run = made(stores, stored)
    assert (list(stores.history.read(run)), stores.history.head(run), stores.history.verify(run)) == (
        [],
        0,
        [],
    )
    assert (list(stores.history.digests(run)), list(stores.history.records(run, [1]))) == ([], [])
    stores.history.remove(run)
    assert claimed(stores) == []


def test_a_changed_row_of_a_planned_run_is_not_believed(stores) -> None:
    stored, _ = stores.plans.put(model())
    run = made(stores, stored)
    stores.catalog.execute("UPDATE run SET parameters = '{\"n\": 666}' WHERE id = ?", (run,))
    assert not stores.work.header(run).is_verified


# -- events --------------------------------------------------------------------------------------------------


def test_events_of_users_are_written_once_by_their_id(stores) -> None:
    assert stores.events.emit("shop.order.paid", subject="17", data={"n": 1}, id="x") == "x"
    stores.events.emit("shop.order.paid", id="x")
    (event,) = stores.events.last(type="shop.*")
    assert event.document()["data"] == {"n": 1}
    assert stores.events.after(event.seq) == []


@pytest.mark.parametrize(
    ("type", "data", "told"),
    [
        ("graphflow.run.completed", {}, "reserved"),
        ("", {}, "not the type"),
        ("a b", {}, "not the type"),
        ("shop.x", {"n": object()}, "not JSON"),
        ("shop.x", {"n": "x" * 70_000}, "more than 65,536"),
    ],
)
def test_events_that_are_wrong_are_refused(stores, type, data, told) -> None:
    with pytest.raises(ParameterError, match=told):
        stores.events.emit(type, data=data)


def test_old_events_and_fires_are_swept(stores, clock) -> None:
    stored, _ = stores.plans.put(model())
    clock.wall_time += HOUR
    stores.fires.fire()
    clock.wall_time += 91 * DAY
    assert sweep(stores) == 3
    assert (stores.events.last(), stores.plans.fires(stored)) == ([], [])


def test_histories_in_memory_are_refused(monkeypatch) -> None:
    monkeypatch.setenv("GRAPHFLOW_HISTORY", "memory")
    with pytest.raises(HistoryError, match="need a catalog on disk"):
        open_stores()


def test_backfilled_runs_have_a_limit_of_their_own_and_leave_out_what_has_run(stores) -> None:
    stored, _ = stores.plans.put(model())
    begin, end = BEGIN - 3 * HOUR, BEGIN
    first = backfill(stores, stored, begin, end - HOUR, limit=1)
    assert sum(each.is_new for each in first) == 2
    assert [(each.name, each.size) for each in stores.limits.all()] == [("backfill:crawl/nightly", 1)]
    rest = backfill(stores, stored, begin, end, is_missing_only=True, limit=1)
    assert [each.is_new for each in rest] == [True]
    assert len(stores.work.claim(worker(), slots=9)) == 1
    stores.limits.set("backfill:crawl/nightly", 2)
    assert len(stores.work.claim(worker(), slots=9)) == 1
