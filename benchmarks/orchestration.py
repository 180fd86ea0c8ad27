"""What orchestration costs: fires, claims, the way from a due time to the flow's first line, idle workers, lost drivers.

python benchmarks/orchestration.py [--smoke] [--only fires claims latency idle lost]

Each measurement has a home of its own in a temporary folder. Prints one JSON line per figure, with its budget.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

from _measure import home, show

from graphflow.histories.catalogs import SqliteCatalog
from graphflow.model.deployed import Deployment, Schedule, Source
from graphflow.model.records import RunHeader
from graphflow.orchestration.service import Orchestration
from graphflow.orchestration.stores.opening import Stores, open_stores
from graphflow.orchestration.stores.pools import WorkerSeen
from graphflow.orchestration.worker import WorkerOptions
from graphflow.testing.contracts.histories import ManualClock
from graphflow.testing.waiting import eventually

FLOW = """
import time
from pathlib import Path

from graphflow import flow


@flow
def first_line(held: bool = False):
    (Path(__file__).parent / "lines").open("a").write(f"{time.time()}\\n")
    while held and not (Path(__file__).parent / "open").exists():
        time.sleep(0.02)
"""


def forked(count: int, do) -> None:
    """Do something in so many processes, and wait for all."""
    pids = []
    for number in range(count):
        pid = os.fork()
        if pid == 0:
            try:
                do(number)
            finally:
                os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)


def model(name: str, place: str, schedules: int = 0) -> Deployment:
    """A deployment of a flow in a file."""
    return Deployment(
        flow_name="first_line",
        name=name,
        source=Source(kind="file", place=place),
        schedules=[Schedule(kind="cron", spec="0 * * * *", slug=f"s{each}") for each in range(schedules)],
    )


def fires(schedules: int) -> None:
    """Schedules that are due at once, dispatched by one clock and by three."""
    for clocks in (1, 3):
        with home():
            clock = ManualClock()
            with open_stores(clock=clock) as stores:
                for each in range(schedules // 25):
                    stores.plans.put(model(f"d{each}", "/x.py:f", 25))
            due = ManualClock()
            due.wall_time += 3_700.0

            def fire(number: int, due: ManualClock = due) -> None:
                with open_stores(clock=due) as stores:
                    while stores.fires.fire().schedules:
                        pass

            began, cpu = time.perf_counter(), os.times()
            forked(clocks, fire)
            spent = os.times()
            show(
                {
                    "bench": "orchestration",
                    "what": "fires",
                    "schedules": schedules // 25 * 25,
                    "clocks": clocks,
                    "seconds": time.perf_counter() - began,
                    "cpu_seconds": spent.children_user
                    + spent.children_system
                    - cpu.children_user
                    - cpu.children_system,
                    "budget_seconds": 2.0,
                }
            )


def claims(runs: int, workers: int) -> None:
    """Claims with lease, event and end, by several processes."""
    with home():
        with open_stores() as stores:
            stored, _ = stores.plans.put(model("d", "/x.py:f"))
            for _ in range(runs):
                stores.fires.run(stored, {}, origin="user")

        def work(number: int) -> None:
            with open_stores() as stores:
                while given := stores.work.claim(seen(number), slots=1):
                    end(stores, given[0].run_id, given[0].epoch)

        began = time.perf_counter()
        forked(workers, work)
        seconds = time.perf_counter() - began
        show(
            {
                "bench": "orchestration",
                "what": "claims",
                "runs": runs,
                "workers": workers,
                "per_second": runs / seconds,
                "budget_per_second": 200,
            }
        )


def seen(number: int) -> WorkerSeen:
    """A worker."""
    return WorkerSeen(
        id=f"w{number}",
        name=f"w{number}",
        pool="default",
        host="h",
        boot_id="b",
        pid=os.getpid(),
        slots=1,
        labels=(),
        versions={},
        started=0.0,
        seen=0.0,
        state="ready",
    )


def end(stores: Stores, run_id: str, epoch: int) -> None:
    """Do in the catalog what a driver does from its begin to its end."""
    catalog: SqliteCatalog = stores.catalog
    claim = stores.history.claim_of(run_id, 1)
    with catalog.transaction():
        assert catalog.drive(claim, epoch)
        catalog.begin(RunHeader(id=run_id, name="x", flow_name="f", state="Pending"))
        catalog.grant(claim)
    catalog.set_state(run_id, 1, "Completed", started=1.0, ended=2.0, at=2.0, commit=1)
    catalog.give_back(run_id, 1)


def latency(runs: int) -> None:
    """From a run's due time to the first line of its flow, one at a time."""
    with home() as folder:
        (folder / "flows_here.py").write_text(FLOW)
        with open_stores() as stores:
            stored, _ = stores.plans.put(model("d", f"{folder / 'flows_here.py'}:first_line"))
            service = Orchestration(stores, worker=WorkerOptions(slots=1))
            service.start()
            found, waited, cpu = [], [], []
            for number in range(runs):
                with open_stores() as others:
                    before = time.time()
                    run_id = others.fires.run(stored, {}, origin="user").run_id
                began = os.times()
                eventually(lambda run_id=run_id: stores.work.header(run_id).work is None)
                lines = (folder / "lines").read_text().split()
                found.append(float(lines[number]) - before)
                (pending,) = [
                    each for each in stores.events.last(subject=run_id) if each.type.endswith("pending")
                ]
                waited.append(pending.time - before)
                eventually(lambda: service.worker.busy == 0)
                spent = os.times()
                cpu.append(
                    spent.children_user + spent.children_system - began.children_user - began.children_system
                )
            service.stop()
        show(
            {
                "bench": "orchestration",
                "what": "latency",
                "runs": runs,
                "to_first_line_p50_seconds": statistics.median(found),
                "to_claim_p50_seconds": statistics.median(waited),
                "child_cpu_p50_seconds": statistics.median(cpu),
                "budget_seconds": 1.0,
                "budget_to_claim_seconds": 0.25,
            }
        )


def idle(seconds: float) -> None:
    """The CPU and memory of a `serve` with nothing to do."""
    with home() as folder:
        process = subprocess.Popen(
            [sys.executable, "-m", "graphflow", "serve"],
            cwd=folder,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        try:
            with open_stores() as stores:
                eventually(lambda: stores.pools.workers())
            time.sleep(2.0)
            before = ticks(process.pid)
            time.sleep(seconds)
            share = (ticks(process.pid) - before) / os.sysconf("SC_CLK_TCK") / seconds
            rss = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
        show(
            {
                "bench": "orchestration",
                "what": "idle",
                "cpu_share": share,
                "rss_bytes": rss,
                "budget_cpu_share": 0.02,
                "budget_rss_bytes": 150_000_000,
            }
        )


def ticks(pid: int) -> int:
    """Return the CPU time of a process, in ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def lost(times: int) -> None:
    """From the death of a driver until its run waits again."""
    with home() as folder:
        (folder / "flows_here.py").write_text(FLOW)
        found, lines = [], folder / "lines"
        with open_stores() as stores:
            stored, _ = stores.plans.put(model("d", f"{folder / 'flows_here.py'}:first_line"))
            service = Orchestration(stores, worker=WorkerOptions(slots=1))
            service.start()
            for number in range(times):
                run_id = stores.fires.run(stored, {"held": True}, origin="user").run_id
                eventually(
                    lambda number=number: lines.exists() and len(lines.read_text().split()) == 2 * number + 1
                )
                (child,) = service.worker._children.values()
                child.kill()
                killed = time.time()
                told = eventually(
                    lambda run_id=run_id: [
                        each
                        for each in stores.events.last(subject=run_id)
                        if each.type == "graphflow.run.lost"
                    ]
                )
                found.append(told[0].time - killed)
                (folder / "open").touch()
                eventually(lambda run_id=run_id: stores.work.header(run_id).work is None)
                (folder / "open").unlink()
            service.stop()
        show(
            {
                "bench": "orchestration",
                "what": "lost",
                "times": times,
                "found_p50_seconds": statistics.median(found),
                "found_max_seconds": max(found),
                "budget_seconds": 1.0,
            }
        )


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ("fires", "claims", "latency", "idle", "lost")
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--smoke", action="store_true", help="small sizes, to see that it works")
    given = parser.parse_args()
    is_small = given.smoke
    os.environ["GRAPHFLOW_PROGRESS"] = "off"
    if "fires" in given.only:
        fires(50 if is_small else 1_000)
    if "claims" in given.only:
        claims(40 if is_small else 1_000, 2 if is_small else 8)
    if "latency" in given.only:
        latency(2 if is_small else 15)
    if "idle" in given.only:
        idle(2.0 if is_small else 20.0)
    if "lost" in given.only:
        lost(1 if is_small else 5)


if __name__ == "__main__":
    main()
