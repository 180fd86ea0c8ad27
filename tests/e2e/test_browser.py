"""Pages in a real browser: nothing in the console, no request to elsewhere, no sideways scroll, the figures of the command line.

Chromium is Debian's. Where it is not installed, these tests are skipped, or fail with GRAPHFLOW_TEST_BROWSER=required, as in CI.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from typer.testing import CliRunner

from graphflow import flow, get_run_logger, task
from graphflow.cli.main import app
from graphflow.operations.home import Home, open_home
from graphflow.server.running import ApiServer, ServerOptions

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
MILLISECONDS = 60_000
HOSTILE = "<script>alert(1)</script>\u202e</script><img src=x onerror=alert(1)> {{7*7}}"
GATES = [threading.Event(), threading.Event()]
pytestmark = pytest.mark.slow


@task(task_run_name=HOSTILE, retries=1)
def odd(n: int) -> str:
    get_run_logger().warning("%s %s", HOSTILE, n)
    if n % 5 == 0:
        raise ValueError(f"{HOSTILE} {n}")
    return HOSTILE


@task
def after(text: str) -> int:
    return len(text)


@flow(name="odd <b>flow</b>")
def odd_flow(text: str = HOSTILE) -> Any:
    return after.map(odd.with_options(name=HOSTILE).map(range(200))).result()


@task
def gated(n: int) -> int:
    get_run_logger().info("line %s", n)
    if n == 3:
        raise ValueError("the first")
    if n >= 20:
        GATES[n >= 30].wait(100)
    return n


@flow
def live(count: int = 40) -> Any:
    return gated.with_options(batch_size=5).map(range(count)).result()


@dataclass
class Seen:
    """What went wrong on a page."""

    page: Page
    origin: str
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", lambda message: self.wrong.append(f"console: {message.text}"))
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: self.wrong.append(f"dialog: {dialog.message}"))
        self.page.on("request", self._requested)

    def _requested(self, request: Any) -> None:
        if not request.url.startswith((self.origin, "data:")):
            self.wrong.append(f"request: {request.url}")

    def open(self, address: str) -> None:
        self.page.goto(address)
        self.page.wait_for_selector("html[data-ready]", timeout=MILLISECONDS)
        assert self.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), address
        assert self.wrong == [], address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        reason = "chromium is not installed; use: apt-get install chromium"
        if os.environ.get("GRAPHFLOW_TEST_BROWSER") == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    before = os.environ["GRAPHFLOW_HOME"]
    os.environ["GRAPHFLOW_HOME"] = str(tmp_path_factory.mktemp("home"))
    try:
        with open_home() as found:
            yield found
    finally:
        os.environ["GRAPHFLOW_HOME"] = before


@pytest.fixture(scope="module")
def run_id(home: Home) -> str:
    return odd_flow.with_options(backend="threads").run().id


@pytest.fixture(scope="module")
def server(home: Home) -> Iterator[ApiServer]:
    made = ApiServer(home, ServerOptions(port=0))
    made.start()
    yield made
    made.stop()


def signed_in(browser: Browser, server: ApiServer, **options: Any) -> Seen:
    context = browser.new_context(**options)
    context.set_default_timeout(MILLISECONDS)
    seen = Seen(context.new_page(), server.url)
    seen.page.goto(server.link)
    seen.page.wait_for_url(f"{server.url}/")
    return seen


def number(text: str) -> int:
    return int(text.replace(",", ""))


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_each_page_is_quiet_and_has_the_figures_of_the_command_line(
    browser: Browser, server: ApiServer, run_id: str, width: int, scheme: Any, tmp_path: Path
) -> None:
    seen = signed_in(browser, server, viewport={"width": width, "height": 900}, color_scheme=scheme)
    page, base = seen.page, f"{server.url}/runs/{run_id}"
    node = f"{base}/nodes/{quote(HOSTILE, safe='')}"
    others = ("/", "/runs", "/runs?state=Failed")
    for address in (*(f"{server.url}{each}" for each in others), f"{base}/log", node, f"{node}/items/5"):
        seen.open(address)
    seen.open(f"{base}/report.html")
    seen.open(base)
    printed = CliRunner().invoke(app, ["runs", "show", run_id, "-o", "json"])
    document = json.loads(printed.stdout)
    counts = {each["name"]: each["counts"] for each in document["nodes"]}
    shown = dict(
        zip(
            page.locator(".figures dt").all_inner_texts(),
            page.locator(".figures dd").all_inner_texts(),
            strict=True,
        )
    )
    assert number(shown["Items ended"]) == sum(sum(each.values()) for each in counts.values()) == 400
    assert number(shown["Failed"]) == counts[HOSTILE]["Failed"] == 40
    assert number(shown["Retries"]) == sum(each["retries"] for each in document["nodes"]) == 40
    assert page.locator(".plot canvas").count() >= 2
    assert page.locator("details.fault").count() == 1 and page.locator("details.fault[open] pre").is_visible()
    picture = page.screenshot(path=tmp_path / "run.png", full_page=True)
    assert len(picture) > 20_000
    page.context.close()


def test_a_live_page_keeps_what_a_reader_did_and_falls_silent_at_the_end(
    browser: Browser, server: ApiServer
) -> None:
    run = live.with_options(backend="threads").start()
    try:
        seen = signed_in(browser, server, viewport={"width": 1440, "height": 700})
        page = seen.page
        seen.open(f"{server.url}/runs/{run.id}")
        ended = page.locator(".figures dd").first
        expect(ended).to_have_text("20", timeout=MILLISECONDS)
        page.locator("details.fault summary").click()
        assert page.locator("details.fault[open]").count() == 0
        page.locator("[data-filter]").fill("line 1")
        page.evaluate("scrollTo(0, 200)")
        GATES[0].set()
        expect(ended).to_have_text("30", timeout=MILLISECONDS)
        kept = page.evaluate(
            "[scrollY, document.activeElement.value, document.querySelectorAll('details.fault[open]').length]"
        )
        assert kept == [200, "line 1", 0]
        assert page.locator("#log-lines .line:visible").count() == 11
        GATES[1].set()
        page.wait_for_selector("body[data-live=over]", timeout=MILLISECONDS)
        assert page.locator("h1 + span").inner_text() == "Failed"
        assert ended.inner_text() == "40" and seen.wrong == []
        page.context.close()
    finally:
        for gate in GATES:
            gate.set()
        run.wait(60)


def test_a_page_says_that_the_server_does_not_answer(browser: Browser, home: Home, run_id: str) -> None:
    server = ApiServer(home, ServerOptions(port=0))
    server.start()
    try:
        page = signed_in(browser, server).page
        page.goto(f"{server.url}/runs")
        page.wait_for_selector("html[data-ready]")
    finally:
        server.stop()
    page.keyboard.press("r")
    page.wait_for_selector("#banner:visible", timeout=MILLISECONDS)
    assert "does not answer" in page.locator("#banner").inner_text()
    page.context.close()


def test_a_report_opens_without_a_network(browser: Browser, home: Home, run_id: str, tmp_path: Path) -> None:
    place = home.runs.run(run_id).report(tmp_path / "report.html")
    context = browser.new_context(viewport={"width": 390, "height": 800}, offline=True)
    seen = Seen(context.new_page(), place.as_uri())
    seen.open(place.as_uri())
    assert seen.page.locator(".plot canvas").count() >= 2
    assert seen.page.locator(".figures dd").first.inner_text() == "400"
    context.close()
