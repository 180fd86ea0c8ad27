"""How fast the API answers, how many it serves at once, and what `serve` costs while nothing happens.

    python benchmarks/server.py                 # 100,000 runs, 200 clients for 60 s
    python benchmarks/server.py --smoke         # the same questions, small, in seconds

One JSON line per question: GET of a run, a list of 50 of many runs, clients at once, events to many readers, and an idle `graphflow serve`
(seconds of CPU per second, and resident bytes).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import urllib3

import graphflow
from graphflow import flow, task
from graphflow.client.connections import Connection
from graphflow.model.records import RunHeader
from graphflow.operations.home import open_home


@task
def double(x: int) -> int:
    return 2 * x


@flow(backend="inline")
def doubles(n: int) -> Any:
    return double.map(range(n))


def tell(question: str, **figures: Any) -> None:
    place = {"python": platform.python_version(), "cores": os.cpu_count(), "graphflow": graphflow.__version__}
    print(json.dumps({"question": question, **figures, **place}), flush=True)


def timed(ask: Callable[[], Any], times: int) -> dict[str, float]:
    ask()
    seconds = []
    for _ in range(times):
        begin = time.perf_counter()
        ask()
        seconds.append(time.perf_counter() - begin)
    seconds.sort()
    return {
        "median_ms": round(statistics.median(seconds) * 1e3, 2),
        "p99_ms": round(seconds[int(0.99 * (len(seconds) - 1))] * 1e3, 2),
        "times": times,
    }


def fill(runs: int) -> str:
    """Make a home with one run that ran and many that are only listed; return the id of the first."""
    run = doubles.run(100)
    with open_home() as home:
        catalog, left = home.stores.catalog, runs
        while left > 0:
            with catalog.transaction():
                for number in range(left, max(0, left - 5_000), -1):
                    made = RunHeader(
                        id=f"old-{number:08d}",
                        name=f"old-{number}",
                        flow_name="doubles",
                        state="Completed",
                        created=1e9 + number,
                        started=1e9 + number,
                        ended=1e9 + number + 1,
                        epoch=1,
                    )
                    catalog.add(made)
            left -= 5_000
    return run.id


class Served:
    """A `graphflow serve` of its own process."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "graphflow", "serve", "--no-worker", "--port", "0"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if "#token=" in line:
                self.url, _, self.token = line.strip().partition("/#token=")
            if line.startswith("stop:"):
                return
        raise SystemExit("serve did not start")

    def cpu(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def nbytes(self) -> int:
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf(
            "SC_PAGE_SIZE"
        )

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


def at_once(served: Served, run_id: str, clients: int, seconds: float) -> None:
    """Ask from many threads until the time is over; an error ends a client and is counted."""
    counts, errors = [0] * clients, [0] * clients
    pool = urllib3.PoolManager(maxsize=clients, retries=False, timeout=60)
    headers = {"Authorization": f"Bearer {served.token}"}
    deadline = time.monotonic() + seconds

    def ask(number: int) -> None:
        while time.monotonic() < deadline:
            answer = pool.request("GET", f"{served.url}/api/v1/runs/{run_id}", headers=headers)
            counts[number] += 1
            errors[number] += answer.status != 200

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    tell(
        "clients at once",
        clients=clients,
        seconds=seconds,
        answers=sum(counts),
        per_second=round(sum(counts) / seconds),
        errors=sum(errors),
    )


def fan_out(served: Served, gf: Connection, readers: int, events: int) -> None:
    """Let many follow events, and tell how long the last one took to reach all of them."""
    begun, arrived = threading.Barrier(readers + 1), []
    lock = threading.Lock()

    def read() -> None:
        with graphflow.connect(served.url, token=served.token) as own:
            followed = own.events.follow(type="bench.*", after=0)
            for event in followed:
                if event.data["n"] == -1:
                    begun.wait()
                if event.data["n"] == events - 1:
                    with lock:
                        arrived.append(time.time())
                    return

    threads = [threading.Thread(target=read) for _ in range(readers)]
    for each in threads:
        each.start()
    gf.events.emit("bench.first", data={"n": -1})
    begun.wait()
    begin = time.time()
    for number in range(events):
        gf.events.emit("bench.next", data={"n": number})
    sent = time.time()
    for each in threads:
        each.join()
    tell(
        "events to readers",
        readers=readers,
        events=events,
        sent_seconds=round(sent - begin, 3),
        last_seconds=round(max(arrived) - sent, 3),
        reached=len(arrived),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smoke", action="store_true", help="small sizes, seconds in all")
    is_small = parser.parse_args().smoke
    runs, times, clients, seconds = (1_000, 20, 20, 1.0) if is_small else (100_000, 300, 200, 60.0)
    readers, events, idle = (5, 10, 1.0) if is_small else (100, 100, 30.0)
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"GRAPHFLOW_HOME": folder, "GRAPHFLOW_PROGRESS": "off"}
        run_id = fill(runs)
        served = Served()
        try:
            with graphflow.connect(served.url, token=served.token) as gf:
                cpu, begin = served.cpu(), time.monotonic()
                time.sleep(idle)
                share = (served.cpu() - cpu) / (time.monotonic() - begin)
                tell(
                    "idle serve, no worker", cpu_share=round(share, 4), rss_mb=round(served.nbytes() / 1e6, 1)
                )
                tell("GET of a run", **timed(lambda: gf.run(run_id), times))
                tell("list of 50", runs=runs, **timed(lambda: list(gf.runs(limit=50)), times))
                tell("list of 50 by state", runs=runs, **timed(lambda: list(gf.runs(state="Failed")), 3))
                fan_out(served, gf, readers, events)
            at_once(served, run_id, clients, seconds)
            tell("after all", rss_mb=round(served.nbytes() / 1e6, 1))
        finally:
            served.close()


if __name__ == "__main__":
    main()
