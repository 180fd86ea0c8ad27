"""What pages of a run cost the server, how large they are, and how large a report is.

    python benchmarks/dashboard.py              # a run of 1,000,000 quick items, 10,000 runs in the list
    python benchmarks/dashboard.py --smoke      # the same questions, small, in seconds

One JSON line per question. Milliseconds are medians; CPU is that of the server's process, which is this one, without the client's
share of a request over loopback being told apart.
"""

from __future__ import annotations

import argparse
import gzip
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import urllib3
from _measure import show

from graphflow import flow, task
from graphflow.dashboard import nodepage, runpage
from graphflow.dashboard.rendering import asset
from graphflow.model.records import RunHeader
from graphflow.operations.home import Home, open_home
from graphflow.runs.history import history
from graphflow.server.kept import KeptRuns
from graphflow.server.running import ApiServer, ServerOptions

BUDGETS = {
    "open": 1_000,
    "run page": 60,
    "node page": 50,
    "item page": 15,
    "runs list": 25,
    "first answer": 150,
    "report": 500,
}
"""Milliseconds."""


@task
def work(n: int) -> int:
    if n % 4_321 == 7:
        raise TimeoutError(f"no answer for {n}")
    return n


@flow(backend="threads")
def quick(count: int) -> None:
    work.with_options(tolerated_failure_count=count).map(range(count)).wait()


def tell(question: str, milliseconds: float | None = None, **figures: Any) -> None:
    if milliseconds is not None:
        figures = {"ms": round(milliseconds, 2), "budget_ms": BUDGETS.get(question), **figures}
    show({"question": question, **figures})


def cpu_ms(call: Callable[[], Any], times: int) -> float:
    """The median CPU of a call, after one that fills caches."""
    call()
    found = []
    for _ in range(times):
        begin = time.process_time()
        call()
        found.append(time.process_time() - begin)
    return 1e3 * statistics.median(found)


def pages(home: Home, run_id: str, times: int) -> None:
    kept = KeptRuns(home)
    begin = time.process_time()
    with kept.run(run_id) as run:
        items = run.items("work")
        tell("open", 1e3 * (time.process_time() - begin), items=len(items))

    def run_page() -> Any:
        with kept.run(run_id) as run:
            return runpage.rendered_parts(runpage.run_parts(run, base="/"))

    def node_page() -> Any:
        with kept.run(run_id) as run:
            return nodepage.node_page(run, "work", base="/", state="Failed")

    def item_page() -> Any:
        with kept.run(run_id) as run:
            return nodepage.item_page(run, "work", 7, base="/")

    tell("run page", cpu_ms(run_page, times))
    tell("node page", cpu_ms(node_page, times))
    tell("item page", cpu_ms(item_page, times))


def answers(home: Home, run_id: str, times: int) -> None:
    server = ApiServer(home, ServerOptions(port=0))
    server.start()
    pool = urllib3.PoolManager()
    sent = {"Authorization": f"Bearer {server.token}"}

    def ask(path: str, **more: str) -> urllib3.BaseHTTPResponse:
        return pool.request("GET", f"{server.url}{path}", headers={**sent, **more})

    try:
        # The server is warm, and has not opened the run.
        ask("/runs/00000000")
        begin = time.perf_counter()
        page = ask(f"/runs/{run_id}")
        first = time.perf_counter() - begin
        assert page.status == 200
        size, packed = len(page.data), len(gzip.compress(page.data, 5))
        tell("first answer, of a run that was not read yet", 1e3 * first)
        begin = time.perf_counter()
        ask(f"/runs/{run_id}?launch=1")
        tell("first answer", 1e3 * (time.perf_counter() - begin), bytes=size, gzipped=packed)
        tag = page.data.decode().partition('data-tag="')[2].partition('"')[0]
        unchanged = cpu_ms(lambda: ask(f"/runs/{run_id}?part=live", **{"If-None-Match": f'"{tag}"'}), times)
        tell("live answer, nothing changed", unchanged)
        tell("runs list", cpu_ms(lambda: ask("/runs"), times))
        names = [each.partition('"')[0] for each in page.data.decode().split("/static/")[1:]]
        files = sum(
            len(
                pool.request(
                    "GET",
                    f"{server.url}/static/{name}",
                    headers={"Accept-Encoding": "gzip"},
                    decode_content=False,
                ).data
            )
            for name in names
        )
        tell("first visit", bytes=packed + files, budget_bytes=420_000)
    finally:
        server.stop()


def reports(run_id: str, folder: Path) -> None:
    with history() as histories:
        run = histories.run(run_id)
        run.report(folder / "warm.html")
        begin = time.perf_counter()
        place = histories.run(run_id).report(folder / "report.html")
        seconds = time.perf_counter() - begin
        small = run.report(folder / "small.html", has_plots=False)
        tell("report", 1e3 * seconds, bytes=place.stat().st_size, without_plots=small.stat().st_size)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smoke", action="store_true")
    smoke = parser.parse_args().smoke
    count, listed, times = (20_000, 100, 3) if smoke else (1_000_000, 10_000, 9)
    with tempfile.TemporaryDirectory(prefix="graphflow-bench-") as folder:
        os.environ.update(GRAPHFLOW_HOME=folder, GRAPHFLOW_PROGRESS="off")
        run_id = quick.run(count).id
        with open_home() as home:
            with home.stores.catalog.transaction():
                for number in range(listed):
                    at = 1e9 + number
                    header = RunHeader(
                        id=f"00{number:08}",
                        name=f"other-{number}",
                        flow_name="other",
                        state="Completed",
                        created=at,
                        started=at,
                        ended=at + 1,
                        epoch=1,
                    )
                    home.stores.catalog.add(header)
            pages(home, run_id, times)
            answers(home, run_id, times)
        reports(run_id, Path(folder))
    tell("script and style", bytes=len(asset("app.js").encode()) + len(asset("style.css").encode()))
    tell("memory", peak_mb=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_024, 1))


if __name__ == "__main__":
    main()
