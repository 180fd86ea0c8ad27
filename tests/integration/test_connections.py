"""One contract for connections to a home here and behind a server: the same answers, and the same errors."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import graphflow
from graphflow import flow, task
from graphflow.cli.main import app
from graphflow.client.calling import RemoteCaller
from graphflow.client.connections import Connection
from graphflow.errors import AccessDenied, ApiError, GraphflowError, ParameterError
from graphflow.model.automated import automation_of, hook_of
from graphflow.model.deployed import Deployment
from graphflow.model.sourced import Source
from graphflow.operations.home import open_home
from graphflow.server.running import ApiServer, ServerOptions


@task
def double(x: int) -> int:
    if x == 2:
        raise ValueError("two")
    print("a line")
    return 2 * x


@flow(log_prints=True, backend="inline")
def doubles(n: int) -> Any:
    return double.map(range(n))


@flow(backend="inline")
def plain(n: int) -> dict[str, int]:
    return {"n": n}


DEPLOYED = {
    "flow_name": "plain",
    "name": "nightly",
    "source": {"kind": "file", "place": "/nowhere/plain.py:plain"},
    "parameter_schema": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
    "schedules": [{"kind": "cron", "spec": "0 2 * * *"}],
}

STORM = {
    "when": {"type": "graphflow.run.failed", "for_each": ["related.flow"]},
    "then": [{"emit": "shop.alarm", "data": {"flow": "{event.related.flow}"}}],
}
FAILURE = {"type": "graphflow.run.failed", "subject": "x", "related": {"flow": "f"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with runs and a deployment."""
    found = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAPHFLOW_HOME", str(found))
        doubles.run(5, run_id="failed")
        plain.run(3, run_id="good")
        yield found


@pytest.fixture(scope="module")
def both(folder: Path) -> Iterator[tuple[Connection, Connection]]:
    """Connections to one home: here, and behind a server."""
    with open_home(folder) as home:
        home.stores.plans.put(Deployment.model_validate({**DEPLOYED, "source": Source(**DEPLOYED["source"])}))  # type: ignore[arg-type]
        home.stores.limits.set("team/db", 4)
        home.stores.limits.set_rate("team/api", 2.0, burst=3)
        home.stores.rules.put(automation_of("storm", STORM))
        home.stores.hooks.put(hook_of("push", {"kind": "github", "secret": "PUSH_SECRET"}))
        server = ApiServer(home, ServerOptions(port=0))
        server.start()
        try:
            with (
                graphflow.connect(home=folder) as here,
                graphflow.connect(server.url, token=server.token) as there,
            ):
                yield here, there
        finally:
            server.stop()


QUESTIONS: list[Callable[[Connection], Any]] = [
    lambda gf: [run.head for run in gf.runs(limit=None)],
    lambda gf: [run.id for run in gf.runs(state=["Failed", "Crashed"], flow="doubles")],
    lambda gf: [run.id for run in gf.runs(deployment="plain/nightly", state="Failed")],
    lambda gf: [run.id for run in gf.runs(tag="big")],
    lambda gf: [run.id for run in gf.runs(limit=1)],
    lambda gf: gf.run("failed").view,
    lambda gf: gf.run("failed").nodes["double"].counts,
    lambda gf: list(gf.run("failed").items(details=True, values=True)),
    lambda gf: list(gf.run("failed").items("double", state="Failed")),
    lambda gf: gf.run("failed").failures(),
    lambda gf: list(gf.run("failed").logs(level="INFO")),
    lambda gf: gf.run("failed").events(),
    lambda gf: gf.run("good").result(),
    lambda gf: gf.run("failed").value("double", 1),
    lambda gf: gf.run("good").wait(),
    lambda gf: gf.deployments["nightly"].view,
    lambda gf: [each.view for each in gf.deployments],
    lambda gf: gf.deployments.list(flow="plain"),
    lambda gf: gf.deployments["plain/nightly"].preview(count=3, after="2026-01-01"),
    lambda gf: gf.deployments["nightly"].fires(),
    lambda gf: gf.deployments["nightly"].backfill("2026-01-01", "2026-01-04", dry_run=True),
    lambda gf: gf.pools["default"],
    lambda gf: list(gf.pools),
    lambda gf: gf.workers(),
    lambda gf: gf.events.list(type="graphflow.audit.*"),
    lambda gf: list(gf.limits),
    lambda gf: gf.limits["team/db"],
    lambda gf: gf.limits.set("team/db", 4),
    lambda gf: list(gf.rates),
    lambda gf: gf.rates.set("team/api", "120/min", burst=3),
    lambda gf: list(gf.automations),
    lambda gf: gf.automations["storm"],
    lambda gf: gf.automations.test(FAILURE),
    lambda gf: gf.automations.test(FAILURE, automation="storm"),
    lambda gf: list(gf.hooks),
    lambda gf: gf.settings(),
    lambda gf: gf.tokens.list(),
]
MISTAKES: list[Callable[[Connection], Any]] = [
    lambda gf: gf.run("nope"),
    lambda gf: gf.run("."),
    lambda gf: list(gf.runs(state="Odd")),
    lambda gf: list(gf.runs(since="soon")),
    lambda gf: list(gf.run("failed").items("nope")),
    lambda gf: gf.run("failed").value("nope"),
    lambda gf: gf.run("failed").value("double", 2),
    lambda gf: gf.run("failed").result(),
    lambda gf: gf.run("good").pause(),
    lambda gf: gf.run("good").retry(),
    lambda gf: gf.run("failed").retry(),
    lambda gf: gf.run("failed").rerun(),
    lambda gf: gf.run("good").update("double", batch_size=1),
    lambda gf: list(gf.run("failed").logs(level="LOUD")),
    lambda gf: gf.deployments["nope"].view,
    lambda gf: gf.deployments["plain/nope"].pause(),
    lambda gf: gf.deployments["nightly"].run(),
    lambda gf: gf.deployments["nightly"].run(m=3),
    lambda gf: gf.deployments["nightly"].run(n="three"),
    lambda gf: gf.deployments["nightly"].pause(schedule="x"),
    lambda gf: gf.deployments["nightly"].backfill("2027", "2026"),
    lambda gf: gf.deployments.put(DEPLOYED, if_match=77),
    lambda gf: gf.deployments["nightly"].remove(if_match=77),
    lambda gf: gf.pools["nope"],
    lambda gf: gf.pools.put("gpu", backend="odd"),
    lambda gf: gf.limits["nope"],
    lambda gf: gf.limits.set("db", -1),
    lambda gf: gf.limits.set(" ", 1),
    lambda gf: gf.limits.remove("nope"),
    lambda gf: gf.rates.set("api", "often"),
    lambda gf: gf.rates.set("api", 0),
    lambda gf: gf.rates.set("api", 1, burst=0),
    lambda gf: gf.rates.remove("nope"),
    lambda gf: gf.automations["nope"],
    lambda gf: gf.automations.pause("nope"),
    lambda gf: gf.automations.remove("nope"),
    lambda gf: gf.automations.test({"subject": "x"}),
    lambda gf: gf.automations.test(FAILURE, automation="nope"),
    lambda gf: gf.hooks.remove("nope"),
    lambda gf: gf.events.emit("graphflow.mine"),
    lambda gf: gf.events.emit("shop.paid", data={"x": "y" * 70_000}),
    lambda gf: gf.tokens.remove("nobody"),
]


@pytest.mark.parametrize("number", range(len(QUESTIONS)))
def test_answers_are_equal(both: tuple[Connection, Connection], number: int) -> None:
    here, there = (QUESTIONS[number](each) for each in both)
    assert here == there
    assert type(here) is type(there)


@pytest.mark.parametrize("number", range(len(MISTAKES)))
def test_errors_are_equal(both: tuple[Connection, Connection], number: int) -> None:
    told = []
    for each in both:
        with pytest.raises((GraphflowError, TimeoutError)) as caught:
            MISTAKES[number](each)
        told.append((type(caught.value), str(caught.value)))
    assert told[0] == told[1]


def test_the_questions_have_answers(both: tuple[Connection, Connection]) -> None:
    for gf in both:
        run = gf.run("failed")
        assert (run.state_name, run.nodes["double"].counts) == ("Failed", {"Completed": 4, "Failed": 1})
        (item,) = run.failures()
        assert item.exception is not None
        assert (item.index, item.exception.message) == (2, "two")
        assert gf.run("good").result() == {"n": 3}
        assert [each.value for each in run.items(values=True)] == [0, 2, None, 6, 8]
        assert [line.message for line in run.logs(node="double")] == ["a line"] * 4


def test_runs_are_made_once_by_a_key(both: tuple[Connection, Connection]) -> None:
    made = []
    for gf in both:
        run = gf.deployments["plain/nightly"].run(n=5, idempotency_key="order-17")
        made.append(run.id)
        with pytest.raises(ParameterError, match="'order-17' was used for run"):
            gf.deployments["plain/nightly"].run(n=6, idempotency_key="order-17")
        assert run.state_name == "Scheduled"
        assert "waits for a worker of the pool default" in str(run.view.why)
    assert made[0] == made[1]
    tagged = both[1].deployments["nightly"].run(n=7, tags=["big"])
    for gf in both:
        assert [run.id for run in gf.runs(deployment="plain/nightly")] == [tagged.id, made[0]]
        assert [run.id for run in gf.runs(tag="big", state="Scheduled")] == [tagged.id]
        assert [*gf.runs(tag="big", state="Failed")] == [*gf.runs(deployment="nightly")] == []
    listed = json.loads(CliRunner().invoke(app, ["runs", "ls", "--tag", "big", "-o", "json"]).stdout)
    assert [each["id"] for each in listed] == [tagged.id]
    tagged.cancel()
    both[1].run(made[0]).cancel()
    assert both[0].run(made[0]).state_name == "Cancelled"


def test_limits_rates_automations_and_hooks_are_changed(
    both: tuple[Connection, Connection], folder: Path
) -> None:
    for gf, other in (both, both[::-1]):
        assert (gf.limits.set("a/b", 2).size, other.limits["a/b"].size) == (2, 2)
        assert gf.rates.set("a/b", "50/s").per_second == 50
        assert "a/b" in [each.name for each in other.rates]
        gf.limits.remove("a/b")
        gf.rates.remove("a/b")
        assert [[each.name for each in of] for of in (other.limits, other.rates)] == [
            ["team/db"],
            ["team/api"],
        ]
        (tried,) = gf.automations.test(FAILURE)
        assert (tried.fires, tried.actions[0].body["type"]) == (True, "shop.alarm")
        assert not gf.events.list(type="shop.alarm")
        assert gf.automations.pause("storm").is_paused and other.automations["storm"].is_paused
        assert not gf.automations.resume("storm").is_paused
        with open_home(folder) as home:
            home.stores.rules.put(automation_of("gone", STORM))
            home.stores.hooks.put(hook_of("gone", {"kind": "github", "secret": "S"}))
        assert gf.automations.remove("gone").name == "gone"
        gf.hooks.remove("gone")
        assert [[each.name for each in of] for of in (other.automations, other.hooks)] == [
            ["storm"],
            ["push"],
        ]


def test_commands_about_them_are_the_same_here_and_of_a_server(
    both: tuple[Connection, Connection], tmp_path: Path
) -> None:
    caller: Any = both[1]._caller
    there = {"GRAPHFLOW_API_URL": caller._base, "GRAPHFLOW_API_TOKEN": caller._token}

    def ask(*arguments: str, code: int = 0, **environment: str) -> str:
        done = CliRunner().invoke(app, arguments, env=environment, input=json.dumps(FAILURE))
        assert done.exit_code == code, done.output
        return done.output

    for command in (
        *("limits ls", "rates ls", "automations ls", "automations show storm", "automations test -"),
        *("automations pause storm", "automations resume storm", "hooks ls"),
    ):
        told = [json.loads(ask(*command.split(), "-o", "json", **each)) for each in ({}, there)]
        for each in told:
            for field in ("revision", "since") if isinstance(each, dict) else ():
                each.pop(field, None)
        assert told[0] == told[1] != []
    for set_one, remove in (("limits set x 3", "limits rm x"), ("rates set x 5/s", "rates rm x")):
        assert ask(*set_one.split(), **there) == ask(*set_one.split())
        told_there = ask(*remove.split(), **there)
        assert "no " in ask(*remove.split(), code=4)
        ask(*set_one.split())
        assert ask(*remove.split()) == told_there
    profile = tmp_path / "user.toml"
    profile.write_text(f'[profiles.live.api]\nurl = "{caller._base}"\ntoken = "{caller._token}"\n')
    live = {"GRAPHFLOW_CONFIG_FILE": str(profile), "GRAPHFLOW_PROFILE": "live"}
    elsewhere = {"GRAPHFLOW_HOME": str(tmp_path / "home")}
    assert ask("limits", "ls", **live, **elsewhere) == ask("limits", "ls")
    assert ask("runs", "ls", "-o", "json", **live, **elsewhere) == ask("runs", "ls", "-o", "json", **there)
    assert "cannot be sent to http" in ask("pool", "create", "x", code=2, **live, **elsewhere)
    other = ("--api", caller._base.replace("127.0.0.1", "localhost"), "limits", "ls")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAPHFLOW_API_URL", "")
        assert "needs a token" in ask(*other, code=1, **live)
    assert not (tmp_path / "home").exists()
    for command in ("limits rm nope", "rates rm nope", "automations rm nope", "hooks rm nope"):
        assert ask(*command.split(), code=4, **there) == ask(*command.split(), code=4)


def test_events_are_followed_from_the_call_on(both: tuple[Connection, Connection]) -> None:
    for gf in both:
        followed = gf.events.follow(type="shop.*")
        gf.events.emit("other.thing")
        given = gf.events.emit("shop.paid", subject="17", data={"n": 1})
        event = next(followed)
        assert (event.id, event.subject, event.data) == (given, "17", {"n": 1})
        assert next(gf.events.follow(type="shop.*", after=event.seq - 1)) == event


def test_calls_can_be_awaited(both: tuple[Connection, Connection], folder: Path) -> None:
    async def ask() -> Any:
        async with graphflow.connect_async(home=folder) as gf:
            run = await gf.run("failed")
            assert await run.wait()
            ids = [each.id async for each in gf.runs(flow="doubles")]
            names = [await each.view async for each in gf.deployments]
            return (
                (await run.nodes)["double"].counts,
                ids,
                names[0].deployment,
                (await gf.pools["default"]).name,
            )

    assert asyncio.run(ask()) == ({"Completed": 4, "Failed": 1}, ["failed"], "plain/nightly", "default")


# -- a server that fails -------------------------------------------------------------------------------------


class Failing:
    """A server that answers as it is told, request by request."""

    def __init__(self, *answers: tuple[int, dict[str, str], Any]) -> None:
        self.answers = list(answers)
        self.seen: list[str] = []
        self.last_ids: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.seen.append(self.command)
                outer.last_ids.append(self.headers.get("Last-Event-ID"))
                status, headers, body = outer.answers.pop(0)
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = answer

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.slept: list[float] = []
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Connection:
        self.thread.start()
        url = f"http://127.0.0.1:{self.server.server_port}"
        return Connection(RemoteCaller(url, "t", sleep=self.slept.append))

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


BUSY = {"type": "urn:graphflow:problem:HistoryLocked", "detail": "locked", "status": 503}
SETTINGS = {"is_paused": False, "late_after_seconds": 60.0}


def test_what_can_be_repeated_is_asked_again_with_pauses() -> None:
    failing = Failing((503, {}, BUSY), (429, {"Retry-After": "2"}, BUSY), (200, {}, SETTINGS))
    with failing as gf:
        assert gf.settings().late_after_seconds == 60
        gf.close()
    assert failing.slept == [0.25, 2.0]
    made = {"run": "r", "deployment": "f/n", "is_new": True}
    failing = Failing((503, {}, BUSY), (201, {}, made))
    with failing as gf:
        assert gf.deployments["f/n"].run(n=1, idempotency_key="k").id == "r"
        gf.close()


def test_what_cannot_be_repeated_is_asked_once() -> None:
    failing = Failing((503, {}, BUSY))
    with failing as gf, pytest.raises(GraphflowError, match="locked"):
        gf.deployments["f/n"].run(n=1)
    gf.close()
    assert (failing.seen, failing.slept) == (["POST"], [])


def test_a_stream_that_breaks_is_begun_again_where_it_was() -> None:
    def stream(*numbers: int) -> bytes:
        events = [
            {"seq": seq, "id": f"e{seq}", "type": "a.b", "time": "2026-01-01T00:00:00Z"} for seq in numbers
        ]
        texts = [f"id: {each['seq']}\nevent: a.b\ndata: {json.dumps(each)}\n\n" for each in events]
        return f": hello\n\n{''.join(texts)}data: {{".encode()

    failing = Failing(
        (200, {}, {"events": []}), (200, {}, stream(3, 4)), (503, {}, BUSY), (200, {}, stream(5))
    )
    with failing as gf:
        followed = gf.events.follow(type="a.*")
        assert [next(followed).seq for _ in range(3)] == [3, 4, 5]
        gf.close()
    assert failing.last_ids == [None, "0", "4", "4"]


def test_what_is_not_graphflow_is_said_so() -> None:
    with Failing(
        (404, {}, b"<html>"), (302, {"Location": "http://elsewhere/"}, b""), (200, {}, {"a": 1})
    ) as gf:
        for _ in range(2):
            with pytest.raises(ApiError, match="nothing of graphflow's; is it the right address"):
                gf.settings()
        with pytest.raises(ApiError, match="is not one of graphflow's, or of another version"):
            gf.settings()
        gf.close()


def test_a_server_that_is_not_there_and_a_missing_token_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRAPHFLOW_API_TOKEN", raising=False)
    with pytest.raises(AccessDenied, match="needs a token"):
        graphflow.connect("http://127.0.0.1:1")
    gf = Connection(RemoteCaller("http://127.0.0.1:1", "t", sleep=lambda seconds: None))
    with pytest.raises(ApiError, match="does not answer"):
        gf.settings()
    with pytest.raises(ApiError, match="is not the address of a server"):
        graphflow.connect("host:1", token="t")
    with pytest.raises(ApiError, match="is not the address of a server"):
        graphflow.connect("", token="t")


def test_a_wrong_token_is_denied(both: tuple[Connection, Connection]) -> None:
    url = both[1]._caller._base  # type: ignore[attr-defined]
    with graphflow.connect(url, token="wrong") as gf, pytest.raises(AccessDenied, match="a token is needed"):
        gf.settings()


def test_nothing_of_the_server_is_loaded_with_graphflow_or_its_local_client() -> None:
    code = "import sys, graphflow; from graphflow import flow, task, history\n{}\nprint([each for each in sys.modules if each.partition('.')[0] in {}])"
    for then, names in (
        ("", ("fastapi", "uvicorn", "starlette", "urllib3", "pydantic", "jinja2", "markupsafe", "bokeh")),
        ("graphflow.connect", ("fastapi", "uvicorn", "starlette", "jinja2", "bokeh")),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code.format(then, names)],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        assert done.stdout.strip() == "[]"
