"""Pages and reports: figures, states, access, live parts; over a real server in this process."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
import urllib3
from pydantic import SecretStr
from typer.testing import CliRunner

from graphflow import flow, get_run_logger, task
from graphflow.cli.main import app
from graphflow.dashboard.runpage import run_parts
from graphflow.operations.home import Home, open_home
from graphflow.runs.documents import run_document
from graphflow.runs.history import history
from graphflow.server.kept import MOST_RUNS, KeptRuns
from graphflow.server.running import ApiServer, ServerOptions

HOSTILE = "<script>alert(1)</script>\u202e</script><img src=x onerror=alert(1)> {{7*7}}"


@task(task_run_name="page {n}", retries=1)
def fetch(n: int) -> int:
    if n % 5 == 0:
        raise ConnectionError(f"page {n} is gone")
    get_run_logger().warning("slow answer for %s", n)
    return n


@task
def parse(n: int) -> int:
    return n + 1


@flow
def crawl(count: int = 100) -> Any:
    return parse.map(fetch.map(range(count))).result()


@task(task_run_name=HOSTILE)
def odd(n: int) -> str:
    get_run_logger().error(HOSTILE)
    if n == 3:
        raise ValueError(HOSTILE)
    return HOSTILE


@flow(name="odd <b>flow</b>")
def odd_flow(text: str = HOSTILE) -> Any:
    return odd.with_options(name=HOSTILE).map(range(5)).result()


@flow
def empty() -> int:
    return 1


@flow
def inner(count: int) -> Any:
    return parse.map(range(count)).result()


@flow
def outer() -> Any:
    first = parse.map(range(3))
    inner(4)
    return fetch.map(parse.map(first)).result()


@task
def call(number: int) -> int:
    raise ValueError(f"no answer for {number % 3}")


@task
def many(found: list[int]) -> int:
    return len(found)


@flow
def calls() -> Any:
    return many([call(number) for number in range(12)])


def breaking() -> Iterator[int]:
    yield from range(3)
    raise RuntimeError("no more")


@flow
def broken() -> Any:
    return parse.map(breaking()).result()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A home with runs; their ids by the names of their flows."""
    before = os.environ["GRAPHFLOW_HOME"]
    os.environ["GRAPHFLOW_HOME"] = str(tmp_path_factory.mktemp("home"))
    try:
        made = {}
        for each in (crawl, odd_flow, empty, calls, broken, outer):
            run = each.with_options(backend="threads").run()
            made[each.name] = run.id
        yield made
    finally:
        os.environ["GRAPHFLOW_HOME"] = before


@pytest.fixture(scope="module")
def home(runs: dict[str, str]) -> Iterator[Home]:
    with open_home() as found:
        yield found


class Client:
    """A server of a home, and requests as a browser sends them."""

    def __init__(self, server: ApiServer) -> None:
        self.server = server
        self.pool = urllib3.PoolManager(retries=False, timeout=60)

    def get(
        self, address: str, *, params: dict[str, str] | None = None, headers: dict[str, str] | None = None
    ) -> urllib3.BaseHTTPResponse:
        sent = {"Authorization": f"Bearer {self.server.token}", "Accept": "text/html", **(headers or {})}
        query = f"?{urlencode(params)}" if params else ""
        sent = {name: value for name, value in sent.items() if value}
        return self.pool.request("GET", f"{self.server.url}{address}{query}", headers=sent, redirect=False)

    def text(self, address: str, **given: Any) -> str:
        return self.get(address, **given).data.decode()


@contextmanager
def client_of(home: Home, **options: Any) -> Iterator[Client]:
    server = ApiServer(home, ServerOptions(port=0, **options))
    server.start()
    try:
        yield Client(server)
    finally:
        server.stop()


@pytest.fixture(scope="module")
def client(home: Home) -> Iterator[Client]:
    with client_of(home) as made:
        yield made


def addresses(runs: dict[str, str]) -> list[str]:
    made = ["/", "/runs", "/runs?state=Failed&state=Crashed", "/runs?flow=crawl&since=2h"]
    for name, run in runs.items():
        made += [f"/runs/{run}", f"/runs/{run}/log", f"/runs/{run}/report.html?plots=false"]
        node = {"crawl": "fetch", "odd <b>flow</b>": HOSTILE}.get(name)
        if node:
            made += [
                f"/runs/{run}/nodes/{quote(node, safe='')}{more}"
                for more in ("", "?state=Failed", "/items/0", "/items/3")
            ]
    return made


def test_each_page_answers_and_nothing_of_users_is_html(client: Client, runs: dict[str, str]) -> None:
    for address in addresses(runs):
        answer = client.get(address)
        assert answer.status == 200, (address, answer.data.decode())
        # Ours but for inline scripts of reports, which are not made of texts of users.
        assert "<img" not in answer.data.decode() and "<b>flow" not in answer.data.decode(), address
        assert "\u202e" not in answer.data.decode() and "alert(1)</script>" not in answer.data.decode(), (
            address
        )
        assert not re.search(r'<[^>]* (style|on\w+)="', answer.data.decode()), address
        assert "built-in method" not in answer.data.decode(), address
    shown = unescape(client.text(f"/runs/{runs['odd <b>flow</b>']}"))
    assert HOSTILE.replace("\u202e", "\\u202e") in shown


def test_pages_need_a_token_and_lead_to_the_sign_in(client: Client, runs: dict[str, str]) -> None:
    for address in addresses(runs):
        answer = client.get(address, headers={"Authorization": ""})
        assert answer.status == 303
        assert answer.headers["location"].startswith("/login?next=")
    assert client.get("/", headers={"Authorization": "", "Accept": "*/*"}).status == 401
    assert client.get("/login", headers={"Authorization": ""}).status == 200


@pytest.mark.parametrize(
    "target", ["//evil.example", "https://evil.example", "\\evil", "javascript:alert(1)", "a\nb"]
)
def test_the_sign_in_leads_to_no_other_place(client: Client, target: str) -> None:
    found = client.text("/login", params={"next": target})
    assert 'data-next="/"' in found
    assert 'data-next="/runs/1?state=Failed"' in client.text("/login", params={"next": "runs/1?state=Failed"})


def test_figures_are_those_of_the_document(home: Home, runs: dict[str, str]) -> None:
    run = home.runs.run(runs["crawl"]).folded()
    document = run_document(home.runs.run(runs["crawl"]), values=False)
    parts = run_parts(run, base="/").parts
    rows = {row["name"]: row for row in parts["nodes"]["rows"]}
    for node in document["nodes"]:
        assert rows[node["name"]]["counts"] == node["counts"]
        assert rows[node["name"]]["of"] == node["width"]
        assert rows[node["name"]]["retries"] == node["retries"]
    assert parts["progress"]["failed"] == 20 and parts["progress"]["blocked"] == 20
    assert parts["progress"]["ended"] == sum(sum(node["counts"].values()) for node in document["nodes"])
    (fault,) = parts["failures"]["faults"]
    assert (fault.count, fault.texts, fault.first, fault.attempts, fault.label) == (20, 20, 0, 2, "page 0")
    assert fault.heading == "page … is gone"
    assert [each.start for each in fault.ranges] == [0, 5, 10, 15, 20, 25]


def test_failures_of_calls_are_one_kind_and_a_map_that_failed_is_no_item(
    home: Home, runs: dict[str, str]
) -> None:
    failures = run_parts(home.runs.run(runs["calls"]).folded()).parts["failures"]
    (fault,) = failures["faults"]
    assert (fault.count, fault.texts, fault.label) == (12, 3, "call") and failures["total"] == 12
    failures = run_parts(home.runs.run(runs["broken"]).folded()).parts["failures"]
    (fault,) = failures["faults"]
    assert (fault.type_name, fault.message, fault.count) == ("RuntimeError", "no more", 0)
    assert failures["total"] == 0


def test_a_node_page_pages_through_the_items_of_a_state(client: Client, runs: dict[str, str]) -> None:
    address = f"/runs/{runs['crawl']}/nodes/fetch"
    first = client.text(f"{address}?state=Completed")
    assert len(re.findall(r"<tr data-key=\"\d+\"><td><a", first)) == 50 + 20
    following = re.search(r'start=(\d+)">Next', first)
    assert following is not None
    second = client.text(f"{address}?state=Completed&start={following[1]}")
    assert "99</a>" in second and ">Next<" not in second
    assert client.get(f"{address}?state=Nonsense").status == 422


def test_flows_inside_are_one_box_until_they_are_opened(client: Client, runs: dict[str, str]) -> None:
    address = f"/runs/{runs['outer']}"
    closed = client.text(address)
    assert 'href="?open=inner#nodes"' in closed
    opened = client.text(f"{address}?open=inner")
    assert 'href="?open=inner#nodes"' not in opened and "inner is open" in opened


def test_what_is_not_there_is_a_page_that_says_so(client: Client, runs: dict[str, str]) -> None:
    for address, status in (
        ("/runs/nothing", 404),
        (f"/runs/{runs['crawl']}/nodes/nothing", 404),
        (f"/runs/{runs['crawl']}/nodes/fetch/items/1000", 404),
        (f"/runs/{runs['crawl']}?launch=9", 422),
        (f"/runs/{runs['crawl']}?node=nothing", 404),
        ("/nothing", 404),
    ):
        answer = client.get(address)
        assert answer.status == status, address
        assert answer.headers["content-type"].startswith("text/html") and "<h1>" in answer.data.decode()
    assert client.get("/static/nothing").status == 404
    assert client.get("/runs?q=nothing").status == 200
    assert client.get("/runs", params={"q": runs["crawl"]}).headers["location"] == f"/runs/{runs['crawl']}"


def test_live_answers_have_what_changed_alone(client: Client, runs: dict[str, str]) -> None:
    address = f"/runs/{runs['crawl']}"
    tag = re.search(r'data-tag="([^"]+)"', client.text(address))[1]  # type: ignore[index]
    same = client.get(f"{address}?part=live", headers={"If-None-Match": f'"{tag}"'})
    assert (same.status, same.data) == (304, b"")
    other = re.sub(r"progress-\w+", "progress-0", tag)
    changed = client.get(f"{address}?part=live", headers={"If-None-Match": f'"{other}"'})
    document = changed.json()
    assert list(document["html"]) == ["progress"] and document["over"] is True and document["tag"] == tag
    assert "columns" not in document and changed.headers["etag"] == f'"{tag}"'
    whole = client.get(f"{address}?part=live").json()
    assert {"head", "progress", "nodes", "log"} <= whole["html"].keys() and "busy" in whole["columns"]


def test_pages_have_their_policy_and_files_stay_in_caches(client: Client, runs: dict[str, str]) -> None:
    page = client.get(f"/runs/{runs['crawl']}")
    assert "style-src-attr 'none'" in page.headers["content-security-policy"]
    assert "unsafe-eval" not in page.headers["content-security-policy"]
    assert page.headers["cache-control"] == "no-cache"
    names = set(re.findall(r'"/static/([\w.-]+)"', page.data.decode()))
    assert len(names) == 4
    for name in names:
        answer = client.get(f"/static/{name}", headers={"Authorization": ""})
        assert answer.status == 200 and "immutable" in answer.headers["cache-control"]
    skeletons = client.get(f"/static/{next(each for each in names if each.startswith('plots'))}").json()
    assert skeletons.keys() == {"timeline", "durations"}
    assert "CustomJS" not in json.dumps(skeletons)


def test_addresses_begin_with_the_prefix(home: Home, runs: dict[str, str]) -> None:
    with client_of(home, prefix="/flows") as client:
        found = client.text(f"/flows/runs/{runs['crawl']}")
        answer = client.get("/flows/runs", headers={"Authorization": ""})
    # The graph's own boxes lead to other views of the same page.
    assert all(
        each.startswith(("/flows/", "#", "data:")) for each in re.findall(r'(?:href|src)="([^"]+)"', found)
    )
    assert answer.headers["location"] == "/flows/login?next=runs"


def test_without_pages_there_is_the_api_alone(home: Home) -> None:
    with client_of(home, has_pages=False) as client:
        assert client.get("/runs").status == 404
        assert "openapi.json" in client.text("/")


def test_kept_runs_are_few_and_are_brought_up_to_date(home: Home, runs: dict[str, str]) -> None:
    now = [0.0]
    kept = KeptRuns(home, clock=lambda: now[0])
    with kept.run(runs["crawl"]) as first:
        assert first.replay.folded is not None
    with kept.run("@latest") as latest:
        assert latest.id == runs["outer"]
    with kept.run(runs["crawl"]) as second:
        assert second is first and len(kept) == 2 <= MOST_RUNS
    now[0] = 2.0
    with kept.run(runs["crawl"]) as third:
        assert third is first and len(third.failures()) == 40


def test_what_many_ask_for_is_made_once_while_a_run_is_as_it_is(home: Home, runs: dict[str, str]) -> None:
    now, made = [0.0], []
    kept = KeptRuns(home, clock=lambda: now[0])

    def make(run: Any) -> int:
        made.append(run.id)
        return len(made)

    assert [kept.page(runs["crawl"], "one", make) for _ in range(3)] == [1, 1, 1]
    assert kept.page(runs["crawl"], "other", make) == 2
    now[0] = 5.0
    assert kept.page(runs["crawl"], "one", make) == 1
    for number in range(20):
        kept.page(runs["crawl"], number, make)
    assert kept.page(runs["crawl"], "one", make) == 23


def test_a_report_is_one_file_without_requests(runs: dict[str, str], tmp_path: Path) -> None:
    with history() as histories:
        run = histories.run(runs["crawl"])
        place = run.report(tmp_path / "with.html")
        text = place.read_text()
        assert len(text) < 2_000_000 and not re.findall(
            r'(?:src|href)="(?!#|data:)', text.split("<script>")[0]
        )
        document = json.loads(re.search(r'<script type="application/json" id="run">(.*?)</script>', text)[1])  # type: ignore[index]
        assert document == json.loads(json.dumps(run_document(run, values=False)))
        small = run.report(tmp_path / "small.html", has_plots=False)
        assert small.stat().st_size < 250_000 and "as numbers" in small.read_text()
        with pytest.raises(ValueError, match="already exists"):
            run.report(place)


def test_a_run_of_this_process_writes_its_report_too(tmp_path: Path) -> None:
    run = crawl.with_options(backend="threads").run(10)
    text = run.report(tmp_path / "live.html", has_plots=False).read_text()
    assert "page … is gone" in text and "What workers did is not known." in text


def test_the_command_line_writes_a_report_once(runs: dict[str, str], tmp_path: Path) -> None:
    place = tmp_path / "report.html"
    command = ["runs", "report", runs["crawl"], "-o", str(place), "--no-plots"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0 and "page … is gone" in place.read_text()
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 2 and "already exists" in again.output
    assert CliRunner().invoke(app, [*command, "--overwrite"]).exit_code == 0


@flow(backend="inline")
def locked(key: SecretStr, place: str = "here") -> int:
    return len(key.get_secret_value())


def test_secrets_are_in_no_report(runs: dict[str, str], tmp_path: Path) -> None:
    run = locked.run(SecretStr("open sesame"))
    with history() as histories:
        recorded = histories.run(run.id).report(tmp_path / "recorded.html", has_plots=False)
    for place in (recorded, run.report(tmp_path / "live.html", has_plots=False)):
        text = place.read_text()
        assert "sesame" not in text and "here" in text
