"""The server: who may ask for what, wrong requests, and its document."""

from __future__ import annotations

import hmac
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import schemathesis
import urllib3
from fastapi import FastAPI
from fastapi.routing import APIRoute
from schemathesis.generation import GenerationMode

from graphflow import flow, task
from graphflow.errors import GraphflowError, NotFound, SettingsError
from graphflow.model.automated import Hook
from graphflow.operations.home import Home, open_home
from graphflow.server.access import MOST_NBYTES, Access, check_roles, route_role, rules_of
from graphflow.server.application import make_application
from graphflow.server.document import page
from graphflow.server.running import ApiServer, ServerOptions
from graphflow.testing.waiting import eventually

DOCUMENT = Path(__file__).parents[2] / "docs" / "reference" / "openapi.json"
ROLES = ("viewer", "operator", "admin")
PLACES = {
    "run": "nope",
    "flow": "f",
    "name": "n",
    "pool": "p",
    "queue": "q",
    "token": "t",
    "node": "n",
    "index": "0",
    "limit": "l",
    "rate": "r",
    "automation": "a",
    "hook": "h",
}


class Asking:
    """A server of a home, and requests to it."""

    def __init__(self, server: ApiServer, home: Home) -> None:
        self.server = server
        self.home = home
        self.tokens = {role: home.stores.tokens.create(role, role)[1] for role in ROLES}
        self.pool = urllib3.PoolManager(retries=False, timeout=60)

    def __call__(
        self,
        method: str,
        path: str,
        *,
        role: str | None = "admin",
        body: Any = None,
        headers: dict[str, str] | None = None,
    ) -> urllib3.BaseHTTPResponse:
        sent = {"Content-Type": "application/json", **(headers or {})}
        if role is not None:
            sent["Authorization"] = f"Bearer {self.tokens[role]}"
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        return self.pool.request(
            method, f"{self.server.url}{path}", headers=sent, body=content, redirect=False
        )

    def routes(self) -> list[tuple[str, str, str]]:
        """Method, address and role of each route but the stream, which does not end."""
        found = []
        for route in self.server._app.routes:
            assert isinstance(route, APIRoute)
            if not route.path.endswith("/stream"):
                for method in route.methods:
                    found.append(
                        (method, route.path.replace(":path", "").format(**PLACES), str(route_role(route)))
                    )
        return found


def asking_of(folder: Path, **options: Any) -> Iterator[Asking]:
    with open_home(folder) as home:
        server = ApiServer(home, ServerOptions(port=0, **options))
        server.start()
        try:
            yield Asking(server, home)
        finally:
            server.stop()


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asking]:
    yield from asking_of(tmp_path_factory.mktemp("home"))


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Asking]:
    """A server that counts this test's failures alone."""
    yield from asking_of(tmp_path)


def test_no_route_answers_without_a_token_but_the_public_ones(ask: Asking) -> None:
    public = set()
    for method, path, role in ask.routes():
        answer = ask(method, path, role=None, body=b"{")
        if role == "public":
            public.add(path)
        else:
            assert answer.status == 401, path
            assert answer.headers["content-type"] == "application/problem+json"
            assert json.loads(answer.data)["type"] == "urn:graphflow:problem:Unauthorized"
    assert public == {"/login", "/static/n", "/healthz", "/readyz", "/api/v1/session", "/hooks/n"}


@pytest.mark.parametrize("role", ["viewer", "operator"])
def test_a_role_may_do_what_it_is_for_and_no_more(ask: Asking, role: str) -> None:
    seen = set()
    for method, path, needed in ask.routes():
        if needed == "public":
            continue
        is_allowed = ROLES.index(role) >= ROLES.index(needed)
        answer = ask(method, path, role=role, body=b"{")
        assert (answer.status != 403) is is_allowed, (method, path)
        assert answer.status < 500
        seen.add(is_allowed)
    assert seen == {True, False}


def test_a_viewer_changes_nothing(ask: Asking) -> None:
    for method, path, needed in ask.routes():
        if method != "GET" and needed == "viewer":
            assert path.endswith("/validate")


def test_each_route_refuses_other_sites_and_other_names(ask: Asking) -> None:
    for method, path, _ in ask.routes():
        assert ask(method, path, headers={"Origin": "https://evil.example"}).status == 403
        assert ask(method, path, headers={"Origin": "null"}).status == 403
        assert ask(method, path, headers={"Host": "evil.example"}).status == 421
        assert (
            ask(method, path, headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}).status
            == 403
        )
    own = {"Origin": ask.server.url}
    assert ask("GET", "/api/v1/runs", headers=own).status == 200


def test_each_answer_has_the_headers_that_browsers_obey(ask: Asking) -> None:
    for path in ("/", "/api/v1/runs", "/api/v1/nothing", "/healthz"):
        headers = ask("GET", path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cache-control"] == ("no-cache" if path == "/" else "no-store")
        assert "access-control-allow-origin" not in headers


def test_a_cookie_reads_and_changes_only_with_the_header(ask: Asking) -> None:
    answer = ask("POST", "/api/v1/session", role="operator")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie
    sent = {"Cookie": cookie.partition(";")[0]}
    assert ask("GET", "/api/v1/runs", role=None, headers=sent).status == 200
    emitted = {"type": "shop.paid"}
    assert ask("POST", "/api/v1/events", role=None, headers=sent, body=emitted).status == 403
    sent["X-Graphflow"] = "1"
    assert ask("POST", "/api/v1/events", role=None, headers=sent, body=emitted).status == 201
    # Its role is the token's, and it ends with it.
    assert ask("GET", "/api/v1/tokens", role=None, headers=sent).status == 403
    text = ask.home.stores.tokens.create("short", "operator")[1]
    headers = {"Authorization": f"Bearer {text}"}
    short = ask("POST", "/api/v1/session", role=None, headers=headers).headers["set-cookie"].partition(";")[0]
    ask.home.stores.tokens.remove("short")
    assert ask("GET", "/api/v1/runs", role=None, headers={"Cookie": short}).status == 401
    assert ask("POST", "/api/v1/session", role=None, headers={"Authorization": "Bearer x"}).status == 401


def test_a_forged_cookie_is_refused(alone: Asking) -> None:
    cookie = alone("POST", "/api/v1/session").headers["set-cookie"].partition(";")[0]
    name, _, value = cookie.partition("=")
    body, _, mac = value.strip('"').partition(".")
    for forged in (f"{body}.{'0' * 64}", f"{body[:-4]}AAA=.{mac}", "x", ".", f"é.{mac}"):
        sent = {"Cookie": f"{name}={forged}".encode().decode("latin-1")}
        assert alone("GET", "/api/v1/runs", role=None, headers=sent).status == 401


def test_wrong_tokens_are_limited_by_address(alone: Asking) -> None:
    wrong = {"Authorization": "Bearer gf_wrong"}
    answers = [alone("GET", "/api/v1/runs", role=None, headers=wrong).status for _ in range(11)]
    assert answers == [401] * 10 + [429]
    refused = alone("GET", "/api/v1/runs")
    assert refused.status == 429
    assert 0 < int(refused.headers["retry-after"]) <= 60


def test_an_expired_token_and_a_removed_one_are_refused(alone: Asking) -> None:
    tokens = alone.home.stores.tokens
    for name, seconds in (("old", 1e-9), ("gone", 60.0)):
        _, text = tokens.create(name, "admin", expires_seconds=seconds)
        if name == "gone":
            tokens.remove(name)
        headers = {"Authorization": f"Bearer {text}"}
        assert alone("GET", "/api/v1/runs", role=None, headers=headers).status == 401
    with pytest.raises(NotFound):
        tokens.remove("gone")


def test_tokens_are_stored_as_digests_and_shown_once(alone: Asking) -> None:
    made = alone("POST", "/api/v1/tokens", body={"name": "ci", "role": "viewer"})
    text = json.loads(made.data)["token"]
    assert made.status == 201
    assert text not in alone("GET", "/api/v1/tokens").data.decode()
    assert text not in alone("GET", "/api/v1/events").data.decode()
    for file in alone.home.stores.history.folder.rglob("*"):
        assert not file.is_file() or text.encode() not in file.read_bytes()
    again = alone("POST", "/api/v1/tokens", body={"name": "ci", "role": "viewer"})
    assert again.status == 409


def test_large_and_malformed_bodies_are_refused(ask: Asking) -> None:
    large = b'{"type": "a.b", "data": {"x": "' + b"x" * MOST_NBYTES + b'"}}'
    assert ask("POST", "/api/v1/events", body=large).status == 413

    def parts() -> Iterator[bytes]:
        yield from (b"x" * 65_536 for _ in range(MOST_NBYTES // 65_536 + 2))

    headers = {"Authorization": f"Bearer {ask.tokens['admin']}", "Content-Type": "application/json"}
    try:
        sent = ask.pool.request(
            "POST", f"{ask.server.url}/api/v1/events", headers=headers, body=parts(), redirect=False
        )
        assert sent.status == 413
    except urllib3.exceptions.ProtocolError:
        pass  # It was refused while it was being sent.
    for body in (
        b"",
        b"{",
        b"[]",
        b'"x"',
        b"\xff\xfe",
        b'{"type": 1}',
        b'{"type": "a.b", "more": 1}',
        b"[" * 20_000,
    ):
        answer = ask("POST", "/api/v1/events", body=body)
        assert answer.status in (400, 422), body[:20]
        assert "detail" in json.loads(answer.data)
    assert b"secret-word" not in ask(
        "POST", "/api/v1/events", body={"type": "a", "secret-word": "secret-word"}
    ).data.replace(b"body.secret-word", b"")


def test_unknown_names_and_wrong_numbers_are_errors(ask: Asking) -> None:
    for path in (
        "runs?limits=3",
        "runs?limit=0",
        "runs?limit=501",
        "runs?state=Odd",
        "runs?since=soon",
        "runs?cursor=no",
    ):
        assert ask("GET", f"/api/v1/{path}").status in (404, 422), path
    assert json.loads(ask("GET", "/api/v1/runs?limits=3").data)["detail"].startswith(
        "unknown query name 'limits'"
    )
    assert ask("PATCH", "/api/v1/runs").status == 405


def test_changes_say_who_and_from_where(alone: Asking) -> None:
    alone("PUT", "/api/v1/pools/gpu", body={"size": 2})
    alone("POST", "/api/v1/pools/gpu/pause", role="operator")
    found = json.loads(alone("GET", "/api/v1/events?type=graphflow.audit.pool").data)["events"]
    assert [(each["subject"], each["data"]["who"], each["data"]["from"]) for each in found] == [
        ("gpu", "token:admin", "127.0.0.1"),
        ("gpu", "token:operator", "127.0.0.1"),
    ]
    alone("PUT", "/api/v1/limits/team%2Fdb", body={"size": 2}, role="operator")
    (found,) = json.loads(alone("GET", "/api/v1/events?type=graphflow.limit.changed").data)["events"]
    assert (found["subject"], found["data"]["who"]) == ("team/db", "token:operator")


def test_a_change_can_be_of_a_revision_alone(alone: Asking) -> None:
    fields: dict[str, Any] = {"flow_name": "f", "name": "n", "source": {"kind": "file", "place": "x.py:f"}}
    made = json.loads(alone("PUT", "/api/v1/deployments/f/n", body=fields).data)
    assert made["revision"] == 1
    changed = {**fields, "priority": 3, "env": {"KEY": "a-secret"}}
    for match, status in (('"7"', 412), ('"1"', 200), ('"1"', 412)):
        answer = alone("PUT", "/api/v1/deployments/f/n", body=changed, headers={"If-Match": match})
        assert answer.status == status
    shown = alone("GET", "/api/v1/deployments/-/n").data
    assert b"a-secret" not in shown
    assert json.loads(shown)["env"] == ["KEY"]
    assert alone("PUT", "/api/v1/deployments/f/other", body=fields).status == 422


def test_a_read_only_server_changes_nothing(tmp_path: Path) -> None:
    for ask in asking_of(tmp_path, is_read_only=True):
        for method, path, role in ask.routes():
            if method != "GET" and role != "public":
                assert ask(method, path, body=b"{}").status == 403
        assert ask("GET", "/api/v1/runs").status == 200


def test_behind_a_proxy_its_name_prefix_and_addresses_count(tmp_path: Path) -> None:
    for ask in asking_of(tmp_path, proxy="https://flows.example.org", prefix="/gf"):
        assert ask.server.link.startswith("https://flows.example.org/gf/#token=gf_")
        sent = {
            "Host": "flows.example.org",
            "Origin": "https://flows.example.org",
            "X-Forwarded-For": "6.6.6.6, 10.1.2.3",
        }
        for path in ("/gf/api/v1/pools/gpu", "/api/v1/pools/cpu"):
            assert ask("PUT", path, headers=sent, body={}).status == 200
        cookie = ask("POST", "/gf/api/v1/session", headers=sent).headers["set-cookie"]
        assert "Secure" in cookie and "Path=/gf" in cookie
        found = json.loads(ask("GET", "/api/v1/events?type=graphflow.audit.pool").data)["events"]
        assert {each["data"]["from"] for each in found} == {"10.1.2.3"}


def test_a_port_in_use_and_a_public_one_without_tokens_are_refused(tmp_path: Path) -> None:
    with open_home(tmp_path) as home:
        with pytest.raises(SettingsError, match="no token is there; make one first"):
            ApiServer(home, ServerOptions(host="0.0.0.0", port=0))
        for ask in asking_of(tmp_path / "other"):
            with pytest.raises(SettingsError, match=rf":{ask.server.port} is in use.*--port 0"):
                ApiServer(home, ServerOptions(port=ask.server.port))
        for options in ({"prefix": "gf"}, {"proxy": "flows.example.org"}, {"host": "999.1.1.1"}):
            with pytest.raises(SettingsError):
                ApiServer(home, ServerOptions(port=0, **options))


def test_a_route_without_a_role_does_not_start(tmp_path: Path) -> None:
    with open_home(tmp_path) as home:
        app = make_application(home, Access(home.stores.tokens, rules_of("127.0.0.1", 1)))
        app.add_api_route("/bare", lambda: None)
        with pytest.raises(GraphflowError, match="the route /bare names no role"):
            check_roles(app)
    with pytest.raises(GraphflowError, match="names no role"):
        check_roles(FastAPI())


def test_a_hook_takes_what_is_signed(alone: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUSH_SECRET", "a-secret-of-a-hook")
    alone.home.stores.hooks.put(Hook(name="push", kind="github", secret=("PUSH_SECRET",)))
    body = b'{"after": "abc"}'
    mac = hmac.new(b"a-secret-of-a-hook", body, "sha256").hexdigest()
    sent = {"X-GitHub-Delivery": "1", "X-Hub-Signature-256": f"sha256={mac}"}
    assert alone("POST", "/hooks/push", role=None, headers=sent, body=body).status == 202
    assert alone("POST", "/hooks/push", role=None, headers=sent, body=body + b" ").status == 401
    assert alone("POST", "/hooks/push", role=None, body=body).status == 401
    assert alone("POST", "/hooks/other", role=None, headers=sent, body=body).status == 404
    found = json.loads(alone("GET", "/api/v1/events?type=graphflow.hook.*").data)["events"]
    assert [each["subject"] for each in found] == ["push"]


def test_health_and_figures(ask: Asking) -> None:
    assert json.loads(ask("GET", "/healthz", role=None).data) == {"status": "ok"}
    assert json.loads(ask("GET", "/readyz", role=None).data) == {"status": "ready"}
    text = ask("GET", "/metrics", role="viewer").data.decode()
    assert "# TYPE graphflow_queue_length gauge" in text
    assert "graphflow_events_pending" in text


def test_items_per_second_are_those_of_runs_that_go_on(
    alone: Asking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHFLOW_HOME", str(tmp_path))
    gate = threading.Event()

    @task
    def step(n: int) -> int:
        return n if n < 50 or gate.wait(100) else -1

    @flow(name="steady", backend="threads:2")
    def steady() -> Any:
        return step.map(range(52))

    def rate() -> float:
        text = alone("GET", "/metrics", role="viewer").data.decode()
        found = re.search(r'graphflow_items_per_second\{flow="steady"\} (\S+)', text)
        return 0.0 if found is None else float(found[1])

    run = threading.Thread(target=steady)
    run.start()
    try:
        eventually(lambda: rate() > 0)
    finally:
        gate.set()
        run.join()
    assert rate() == 0


def test_the_document_is_the_committed_one(ask: Asking) -> None:
    found = json.loads(ask("GET", "/api/openapi.json", role="viewer").data)
    assert found["info"].pop("version")
    assert found == json.loads(DOCUMENT.read_text()), (
        "the API changed; look at the difference, and write the document anew: python -m graphflow.server.document "
        "docs/reference"
    )


def test_the_page_of_the_reference_is_made_from_the_document() -> None:
    assert DOCUMENT.with_name("api.md").read_text() == page(json.loads(DOCUMENT.read_text()))


def test_whatever_the_document_allows_is_answered_without_a_server_error(ask: Asking) -> None:
    """Requests of all kinds, made from the document; none of them is answered with 500."""
    document = json.loads(ask("GET", "/api/openapi.json").data)
    del document["paths"]["/api/v1/events/stream"]
    schema = schemathesis.openapi.from_dict(document)
    counts: dict[int, int] = {}
    for result in schema.get_all_operations():
        operation = result.ok()

        @hypothesis.settings(
            max_examples=4,
            derandomize=True,
            deadline=None,
            database=None,
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(case=operation.as_strategy(generation_mode=GenerationMode.POSITIVE))
        def answers(case: Any) -> None:
            case.headers = {**(case.headers or {}), "Authorization": f"Bearer {ask.tokens['admin']}"}
            case.headers.pop("X-Graphflow", None)
            answer = case.call(base_url=ask.server.url)
            counts[answer.status_code] = counts.get(answer.status_code, 0) + 1
            assert answer.status_code < 500, (case.method, case.path, answer.text[:500])

        answers()
    assert counts.get(200, 0) > 10 and counts.get(404, 0) > 10
