"""Automations as recipes: what is watched for fires once, what is done is in the same transaction, what is sent has one key."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import sqlite3
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from graphflow.common.failpoints import activate, deactivate
from graphflow.errors import DeploymentError, NotFound
from graphflow.model.automated import automation_of, hook_of
from graphflow.model.deployed import Deployment, Source
from graphflow.model.happening import Happening
from graphflow.orchestration.hooks import MOST_BODY_NBYTES, receive
from graphflow.orchestration.matching import MOST_DEPTH
from graphflow.orchestration.notifying import NotSent, notify
from graphflow.orchestration.reactor import Reactor, react, try_event
from graphflow.orchestration.sender import Sender
from graphflow.orchestration.signatures import signed_headers, verify
from graphflow.orchestration.stores.opening import open_stores
from graphflow.orchestration.stores.outbox import MOST_TRIES
from graphflow.testing.contracts.histories import ManualClock

HOUR = 3_600.0
CANARY = "canary-7f3a9c-value"


@pytest.fixture
def clock():
    clock = ManualClock()
    clock.wall_time = 1_790_000_000.0
    return clock


@pytest.fixture
def stores(tmp_path, clock):
    with open_stores(tmp_path / "home", clock=clock) as opened:
        yield opened


@pytest.fixture
def inbox():
    """A receiver on this machine; what it got, and what it answers."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(answers.pop(0) if answers else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    got, answers = [], []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    server.got, server.answers = got, answers
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def deployed(stores, name="nightly", **changes):
    given = {"flow_name": "crawl", "name": name, "source": Source(kind="file", place="/x.py:crawl")}
    return stores.plans.put(Deployment(**{**given, **changes}))[0]


def rule(stores, text, name="r"):
    return stores.rules.put(automation_of(name, tomllib.loads(text)))[0]


def states(stores, stored):
    return [each.state for each in stores.rules.actions(stored.id)]


def happen(stores, type="shop.order.paid", **data):
    return stores.events.emit(type, data=data)


def ended(stores, state, deployment="nightly"):
    """A run that ended, with its events."""
    made = stores.fires.run(stores.plans.find(deployment), {}, origin="user")
    at = stores.clock.wall()
    stores.catalog.set_run(made.run_id, state, at=at, ended=at, message="it broke", key=state)
    return made.run_id


def runs_of(stores, stored):
    return [each.body.get("run") for each in stores.rules.actions(stored.id)]


def settle(stores):
    fired = 0
    while (done := react(stores)).events:
        fired += done.firings
    return fired


# -- recipes of docs/automations.md -----------------------------------------------------------------------------


def test_recipe_1_a_nightly_run_that_is_missing_is_told_once_for_each_time_it_is_missing(
    stores, clock
) -> None:
    deployed(stores)
    missing = rule(
        stores,
        'absent = { type = "graphflow.run.completed", related.deployment = "nightly", within = "26h" }\n'
        'then = [{ notify = "oncall" }]',
    )
    clock.wall_time += 25 * HOUR
    ended(stores, "Completed")
    assert settle(stores) == 0
    clock.wall_time += 25 * HOUR
    assert react(stores).firings == 0
    clock.wall_time += 2 * HOUR
    assert (react(stores).firings, react(stores).firings) == (1, 0)
    (sent,) = stores.rules.actions(missing.id)
    assert sent.body["title"] == "r: no graphflow.run.completed within 1d2h"
    assert "nothing that fires automations was running" in sent.body["text"]
    clock.wall_time += 26 * HOUR
    assert react(stores).firings == 1


def test_recipe_2_a_storm_of_failures_pauses_the_deployment_and_is_told_once(stores, clock) -> None:
    deployed(stores)
    storm = rule(
        stores,
        'when = { type = "graphflow.run.failed", for_each = ["related.flow"], count = 3, within = "10m" }\n'
        'then = [{ pause_deployment = "{event.related.deployment}" }, { notify = "oncall" }]',
    )
    for _ in range(9):
        ended(stores, "Failed")
        clock.wall_time += 10
    assert settle(stores) == 1
    assert stores.plans.find("nightly").deployment.is_paused
    assert sorted(states(stores, storm)) == ["done", "waiting"]
    (sent,) = [each for each in stores.rules.actions(storm.id) if each.kind == "notify"]
    assert sent.body["title"] == "3 runs of crawl/nightly failed within 10m"
    assert len(sent.body["runs"]) == 3


def test_recipe_3_a_run_that_is_stuck_is_cancelled(stores, clock) -> None:
    deployed(stores)
    rule(
        stores,
        'after = { type = "graphflow.run.scheduled", for_each = ["subject"] }\n'
        'absent = { type = ["graphflow.run.completed", "graphflow.run.cancelled"], within = "2h" }\n'
        'then = [{ cancel_run = "{event.subject}" }]',
    )
    done = ended(stores, "Completed")
    stuck = stores.fires.run(stores.plans.find("nightly"), {}, origin="user").run_id
    settle(stores)
    clock.wall_time += 2 * HOUR
    assert react(stores).firings == 1
    assert stores.work.header(stuck).state == "Cancelled"
    assert stores.work.header(done).state == "Completed"
    clock.wall_time += 9 * HOUR
    assert settle(stores) == 0


def test_recipe_4_a_run_follows_another_with_a_value_of_the_event(stores) -> None:
    deployed(stores)
    deployed(stores, "report")
    follow = rule(
        stores,
        'when = { type = "shop.order.paid", data.country = ["CH", "FR"] }\n'
        'then = [{ run = "crawl/report", parameters = { order = "{event.data.order}", text = "no {event.data.order}" } }]',
    )
    happen(stores, country="DE", order=1)
    happen(stores, country="FR", order=2)
    assert settle(stores) == 1
    (run_id,) = runs_of(stores, follow)
    header = stores.work.header(run_id)
    assert json.loads(header.plan.parameters) == {"order": 2, "text": "no 2"}
    assert (header.plan.depth, header.plan.origin) == (1, f"rule:{follow.id}")


def test_recipe_5_a_failed_run_is_retried_once_more_until_the_depth_ends(stores) -> None:
    deployed(stores)
    again = rule(
        stores, 'when = { type = "graphflow.run.failed" }\nthen = [{ retry_run = "{event.subject}" }]'
    )
    run_id = ended(stores, "Failed")
    settle(stores)
    header = stores.work.header(run_id)
    assert (header.state, header.work.state, header.plan.depth) == ("Resuming", "waiting", 1)
    assert stores.work.is_retry(header)
    for number in range(2 * MOST_DEPTH):
        if stores.work.header(run_id).work is None:
            break
        at = stores.clock.wall()
        stores.catalog.set_run(run_id, "Failed", at=at, ended=at, message="", key=f"again{number}")
        stores.clock.wall_time += 1
        settle(stores)
    assert number == MOST_DEPTH
    assert states(stores, again).count("done") == MOST_DEPTH


def test_recipe_6_a_late_run_pauses_and_resumes_things_and_a_limit_is_set(stores) -> None:
    deployed(stores)
    stores.catalog.execute('INSERT INTO "limit" (name, size) VALUES (?, ?)', ("db", 9))
    made = rule(
        stores,
        'when = { type = "graphflow.run.late" }\nthen = [{ pause_pool = "default" }, { set_limit = "db", size = 2 },'
        ' { pause_run = "{event.subject}" }, { resume_run = "{event.subject}" }, { set_limit = "none", size = 1 }]',
    )
    run_id = stores.fires.run(stores.plans.find("nightly"), {}, origin="user").run_id
    stores.clock.wall_time += HOUR
    stores.work.note_late(60.0)
    settle(stores)
    assert stores.pools.find("default").is_paused
    assert stores.catalog.rows('SELECT size FROM "limit"') == [(2,)]
    assert stores.work.header(run_id).state == "Resuming"
    assert sorted(states(stores, made)) == ["done"] * 4 + ["failed"]
    (failed,) = stores.events.last(type="graphflow.action.failed")
    assert failed.data["error"] == "there is no limit 'none'"


def test_recipe_7_a_missed_schedule_is_told(stores) -> None:
    missed = rule(stores, 'when = { type = "graphflow.schedule.missed" }\nthen = [{ notify = "oncall" }]')
    stores.catalog.emit(
        id="x",
        at=stores.clock.wall(),
        type="graphflow.schedule.missed",
        subject="crawl/nightly",
        related={"deployment": "crawl/nightly", "schedule": "1"},
        data={"count": 3},
    )
    settle(stores)
    assert stores.rules.actions(missed.id)[0].body["title"] == "crawl/nightly: 3 times missed"


def test_recipe_8_events_lead_to_events_and_end_at_a_depth(stores) -> None:
    rule(
        stores,
        'when = { type = "a.ping" }\nthen = [{ emit = "a.pong", data = { n = "{event.data.n}" } }]',
        "ping",
    )
    rule(
        stores,
        'when = { type = "a.pong" }\nthen = [{ emit = "a.ping", data = { n = "{event.data.n}" } }]',
        "pong",
    )
    happen(stores, "a.ping", n=1)
    settle(stores)
    found = stores.events.last(type="a.p*", limit=100)
    assert [each.depth for each in found] == list(range(MOST_DEPTH + 1))
    assert len(stores.events.last(type="graphflow.action.failed")) == 1


def test_recipe_9_a_webhook_is_signed_and_repeated_with_one_key(stores, clock, inbox, monkeypatch) -> None:
    monkeypatch.setenv("SIGNING", CANARY)
    address = f"http://127.0.0.1:{inbox.server_port}/in?key=secret-in-query"
    made = rule(
        stores, f'when = {{ type = "shop.*" }}\nthen = [{{ webhook = "{address}", secret = "SIGNING" }}]'
    )
    happen(stores, n=1)
    settle(stores)
    inbox.answers += [500] * MOST_TRIES
    sender = Sender(stores)
    for number in range(MOST_TRIES):
        sender.turn()
        assert len(inbox.got) == number + 1
        sender.turn()
        assert len(inbox.got) == number + 1
        clock.wall_time += 360
    assert {headers["idempotency-key"] for headers, _ in inbox.got} == {stores.rules.actions(made.id)[0].id}
    headers, body = inbox.got[-1]
    verify("standard-webhooks", [CANARY], headers, body, float(headers["webhook-timestamp"]))
    assert states(stores, made) == ["failed"]
    (failed,) = stores.events.last(type="graphflow.action.failed")
    assert "answered 500" in failed.data["error"] and "secret-in-query" not in failed.data["error"]


def test_recipe_10_a_notification_tells_failures_by_apprise(stores, inbox, monkeypatch, tmp_path) -> None:
    address = f"json://user:{CANARY}@127.0.0.1:{inbox.server_port}/in"
    monkeypatch.setenv("GRAPHFLOW_NOTIFICATIONS__ONCALL", address)
    deployed(stores)
    made = rule(stores, 'when = { type = "graphflow.run.crashed" }\nthen = [{ notify = "oncall" }]')
    ended(stores, "Crashed")
    settle(stores)
    Sender(stores).turn()
    assert states(stores, made) == ["sent"]
    ((_, body),) = inbox.got
    sent = json.loads(body)
    assert sent["title"] == "crawl/nightly crashed"
    assert "it broke" in sent["message"] and "key: " in sent["message"]
    monkeypatch.setenv("GRAPHFLOW_SERVER_URL", "https://flows.example.org/")
    ended(stores, "Crashed")
    settle(stores)
    inbox.answers.append(500)
    Sender(stores).turn()
    assert "https://flows.example.org/runs/0" in json.loads(inbox.got[-1][1])["message"]
    (waiting,) = [each for each in stores.rules.actions(made.id) if each.state == "waiting"]
    assert waiting.error.startswith("the notification oncall did not reach address 1 (JSON) of 1")
    assert CANARY.encode() not in (tmp_path / "home" / "catalog.db").read_bytes()


# -- what holds -------------------------------------------------------------------------------------------------


def test_a_rule_fires_once_for_an_event_and_not_for_what_happened_before_it_was_there(stores, clock) -> None:
    happen(stores, n=0)
    clock.wall_time += 1
    made = rule(stores, 'when = { type = "shop.*" }\nthen = [{ emit = "a.b" }]')
    happen(stores, n=1)
    stores.catalog.execute("UPDATE event SET is_pending = 1")
    assert settle(stores) == 1
    stores.catalog.execute("UPDATE event SET is_pending = 1")
    assert settle(stores) == 0
    assert len(stores.rules.firings(made.id)) == 1


def test_a_rule_does_not_see_what_it_did(stores) -> None:
    rule(stores, 'when = { type = ["shop.*", "a.*"] }\nthen = [{ emit = "a.b" }]')
    happen(stores)
    assert settle(stores) == 1


def test_an_action_that_fails_changes_nothing_and_others_are_done(stores) -> None:
    deployed(stores)
    made = rule(
        stores,
        'when = { type = "shop.*" }\nthen = [{ run = "nightly", parameters = { n = "{event.data.missing}" } },'
        ' { run = "nightly" }]',
    )
    happen(stores)
    settle(stores)
    found = {each.state: each for each in stores.rules.actions(made.id)}
    assert "there is no event.data.missing" in found["failed"].error
    assert found["done"].body["run"]


@pytest.mark.parametrize("place", ["before", "fired", "decided"])
def test_a_turn_that_breaks_off_leaves_nothing_and_is_done_again(stores, place) -> None:
    deployed(stores)
    made = rule(stores, 'when = { type = "shop.*" }\nthen = [{ run = "nightly" }, { notify = "x" }]')
    happen(stores)
    activate(f"reactor.turn.{place}:raise=OSError@1")
    try:
        with pytest.raises(OSError):
            react(stores)
    finally:
        deactivate()
    assert (stores.rules.firings(made.id), stores.rules.actions(made.id)) == ([], [])
    assert settle(stores) == 1
    assert len(stores.rules.actions(made.id)) == 2


def test_a_trial_says_what_would_happen_and_does_nothing(stores) -> None:
    deployed(stores)
    rule(stores, 'when = { type = "shop.*" }\nthen = [{ run = "nightly" }, { pause_pool = "nowhere" }]', "a")
    rule(stores, 'when = { type = "shop.*", count = 2, within = "1m" }\nthen = [{ emit = "a.b" }]', "b")
    before = len(stores.events.last(limit=1_000))
    event = Happening(seq=0, id="e", time=stores.clock.wall(), type="shop.x", source="user")
    first, second = try_event(stores, event)
    assert (first.fires, [each.state for each in first.actions]) == (True, ["done", "failed"])
    assert (second.fires, second.why) == (False, "it would count this one: 1 of 2 within 1m")
    assert len(stores.events.last(limit=1_000)) == before
    assert stores.catalog.rows("SELECT COUNT(*) FROM run") == [(0,)]


def test_a_paused_automation_sees_nothing(stores, clock) -> None:
    rule(stores, 'when = { type = "shop.*" }\nthen = [{ emit = "a.b" }]')
    stores.rules.pause("r", True)
    happen(stores)
    clock.wall_time += 1
    stores.rules.pause("r", False)
    assert settle(stores) == 0
    with pytest.raises(NotFound, match="no automation 'q'"):
        stores.rules.find("q")


def test_a_reactor_waits_for_what_is_due_next(stores) -> None:
    reactor = Reactor(stores)
    assert 0 < reactor.turn() <= 0.2
    happen(stores)
    reactor.turn()
    assert not stores.events.is_any_pending()


def test_a_notification_without_a_name_says_where_to_write_it(stores) -> None:
    with pytest.raises(NotSent, match="GRAPHFLOW_NOTIFICATIONS__NOBODY"):
        notify("nobody", title="t", text="x")


# -- hooks ------------------------------------------------------------------------------------------------------


def hooked(stores, kind, **more):
    said = {
        "kind": kind,
        "secret": "HOOK_SECRET",
        "deployment": "nightly",
        "parameters": {"ref": "{body.ref}"},
    }
    stores.hooks.put(hook_of("in", {**said, **more}))


def signed(kind, body, at, secret=CANARY):
    digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    match kind:
        case "github":
            return {
                "X-Hub-Signature-256": f"sha256={digest}",
                "X-GitHub-Delivery": "d1",
                "X-GitHub-Event": "push",
            }
        case "plain":
            return {"X-Signature-256": digest, "X-Delivery-Id": "d1"}
        case "stripe":
            told = hmac.new(secret.encode(), f"{at:.0f}.".encode() + body, hashlib.sha256).hexdigest()
            return {"Stripe-Signature": f"t={at:.0f},v1={'0' * 64},v1={told}"}
        case "standard-webhooks":
            return signed_headers(secret, delivery="d1", at=at, body=body)


@pytest.mark.parametrize("kind", ["github", "plain", "stripe", "standard-webhooks"])
def test_a_delivery_that_is_signed_starts_one_run(stores, clock, kind, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HOOK_SECRET", CANARY)
    deployed(stores)
    hooked(stores, kind)
    body, now = json.dumps({"ref": "main", "id": "evt_1"}).encode(), clock.wall()
    first = receive(stores, "in", signed(kind, body, now), body, now)
    second = receive(stores, "in", signed(kind, body, now), body, now + 9)
    assert (first.status, first.document["is_new"]) == (202, True)
    assert (second.status, second.document["is_new"]) == (202, False)
    assert second.document["run"] == first.document["run"]
    header = stores.work.header(first.document["run"])
    assert json.loads(header.plan.parameters) == {"ref": "main"}
    (event,) = stores.events.last(type="graphflow.hook.received")
    assert event.data["body"]["ref"] == "main"
    wrong = receive(stores, "in", signed(kind, body, now, "other"), body, now)
    assert wrong.status == 401 and CANARY not in wrong.document["detail"]
    assert receive(stores, "in", {}, body, now).status == 401
    if kind in ("stripe", "standard-webhooks"):
        assert receive(stores, "in", signed(kind, body, now), body, now + 301).status == 401
    assert CANARY.encode() not in (tmp_path / "home" / "catalog.db").read_bytes()


def test_deliveries_that_are_wrong_leave_nothing(stores, clock, monkeypatch) -> None:
    deployed(stores)
    hooked(stores, "github", where={"header": {"x-github-event": "push"}})
    body, now = b'{"ref": "main"}', clock.wall()
    assert receive(stores, "in", signed("github", body, now), body, now).status == 503
    monkeypatch.setenv("HOOK_SECRET", CANARY)
    assert receive(stores, "other", {}, body, now).status == 404
    assert receive(stores, "in", {}, b"x" * (MOST_BODY_NBYTES + 1), now).status == 413
    for wrong in (
        b"{",
        b"{}",
        b'{"ref": NaN}',
        b'{"ref": ' + b"[" * 50_000,
        b"\xff",
        b'{"ref": ' + b"9" * 9_999 + b"}",
    ):
        assert receive(stores, "in", signed("github", wrong, now), wrong, now).status == 422
    assert stores.events.last(type="graphflow.hook.*") == []
    other = {**signed("github", body, now), "X-GitHub-Event": "ping"}
    assert receive(stores, "in", other, body, now).document["run"] is None


@pytest.mark.parametrize(
    "said, told",
    [
        ({"kind": "github", "secret": "not a name"}, "secret number 1 is not a name"),
        ({"kind": "gitlab", "secret": "X"}, "Input should be 'github'"),
        ({"kind": "github", "secret": "X", "parameters": {"a": "{event.x}"}}, "use {body.NAME}"),
    ],
)
def test_hooks_that_are_wrong_are_refused(said, told) -> None:
    with pytest.raises(DeploymentError, match=told) as refused:
        hook_of("in", said)
    assert "not a name'" not in str(refused.value)


def test_secrets_are_masked_and_base64_keys_are_taken() -> None:
    key = "whsec_" + base64.b64encode(b"k" * 24).decode()
    headers = signed_headers(key, delivery="d", at=1_000.0, body=b"{}")
    assert verify("standard-webhooks", ["old", key], headers, b"{}", 1_000.0).delivery == "d"


def test_a_delivery_and_its_run_are_one_transaction(stores, clock, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HOOK_SECRET", CANARY)
    deployed(stores)
    hooked(stores, "github")
    body, now = b'{"ref": "main"}', clock.wall()
    monkeypatch.setattr(stores.hooks, "deliver", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        receive(stores, "in", signed("github", body, now), body, now)
    with sqlite3.connect(tmp_path / "home" / "catalog.db") as connection:
        assert connection.execute("SELECT COUNT(*) FROM run").fetchone() == (0,)
    connection.close()


@pytest.mark.parametrize("page, count", [("automations", 12), ("webhooks", 1)])
def test_what_the_documentation_shows_is_taken(page, count) -> None:
    text = (Path(__file__).parents[2] / "docs" / f"{page}.md").read_text(encoding="utf-8")
    found = [tomllib.loads(block) for block in re.findall(r"```toml\n(.*?)```", text, re.DOTALL)]
    for said in found:
        for name, options in said.get("automations", {}).items():
            assert automation_of(name, options).then
        for name, options in said.get("hooks", {}).items():
            assert hook_of(name, options).secret
    assert len(found) == count
