"""Serving flows: deploy them, and run what is due in this process until it is told to stop."""

from __future__ import annotations

import sys
from typing import Protocol

from graphflow.authoring.deployments import Deployment
from graphflow.common.loading import LOADING, StopLoading
from graphflow.common.times import moment
from graphflow.common.wording import count_text
from graphflow.display.consoles import make_console
from graphflow.errors import DeploymentError
from graphflow.orchestration.service import Orchestration, Signals
from graphflow.orchestration.stores.opening import Stores, open_stores
from graphflow.orchestration.stores.plans import Stored
from graphflow.orchestration.worker import WorkerOptions

__all__ = ["Beside", "run_service", "serve"]


class Beside(Protocol):
    """What is served by the same process, such as the API."""

    def start(self) -> None:
        """Begin."""

    def stop(self) -> None:
        """End."""

    def lines(self) -> list[str]:
        """Return what a person is told at the start."""


def serve(
    *deployments: Deployment,
    limit: int | None = None,
    pause_on_shutdown: bool = False,
    print_starting_message: bool = True,
) -> None:
    """Store deployments, fire their schedules, and run what is due, until Ctrl-C or SIGTERM.

    Runs that are going on then are handed over: the next one who serves resumes them.

    Parameters
    ----------
    limit
        How many runs at once; one per processor by default.
    pause_on_shutdown
        Whether the schedules are paused at the end, and resumed at the next start. Else times that are missed meanwhile are caught up
        by the policy of each schedule.

    Raises
    ------
    DeploymentError
        If nothing is given.
    ScheduleError, HistoryError
        If a schedule never fires, or the catalog cannot be written.
    """
    if not deployments or not all(isinstance(each, Deployment) for each in deployments):
        raise DeploymentError(
            "serve takes deployments; use serve(flow.to_deployment('nightly', cron='0 2 * * *'), ...)"
        )
    loading = LOADING.get()
    if loading is not None:
        loading.extend(deployments)
        raise StopLoading
    pools = {each.model.pool for each in deployments}
    if len(pools) > 1:
        raise DeploymentError(
            f"the deployments are of several pools ({', '.join(sorted(pools))}), and serve runs one; store them with apply(), and"
            " start a worker for each pool: graphflow worker start POOL"
        )
    with open_stores() as stores:
        stored = []
        for each in deployments:
            found, _ = stores.plans.put(each.model)
            if pause_on_shutdown and found.deployment.is_paused:
                found = stores.plans.pause(each.full_name, False)
            stored.append(found)
        options = WorkerOptions(pool=pools.pop(), slots=limit or default_slots())
        run_service(stores, options, stored, says_so=print_starting_message)
        if pause_on_shutdown:
            for each in deployments:
                stores.plans.pause(each.full_name, True)


def run_service(
    stores: Stores,
    worker: WorkerOptions | None,
    stored: list[Stored],
    *,
    has_clock: bool = True,
    says_so: bool = True,
    name: str = "serve",
    beside: Beside | None = None,
) -> int:
    """Run the loops until SIGINT or SIGTERM, and return its number; another signal kills the runs that are still going on."""
    service = Orchestration(stores, has_clock=has_clock, worker=worker)
    with Signals(service.stop_at_once) as signals:
        service.start()
        try:
            if beside is not None:
                beside.start()
            if says_so:
                _say(stores, service, stored, name, [] if beside is None else beside.lines())
            number = signals.wait()
            if says_so and service.worker is not None and service.worker.busy:
                what = count_text(service.worker.busy, "run")
                make_console().print(f"stopping: {what} handed over", markup=False)
        finally:
            if beside is not None:
                beside.stop()
            service.stop()
    return number


def default_slots() -> int:
    """Return how many runs a worker drives at once unless it is told: one per processor."""
    import os

    return os.cpu_count() or 1


def _say(stores: Stores, service: Orchestration, stored: list[Stored], name: str, more: list[str]) -> None:
    console = make_console()
    lines = []
    if service.worker is not None:
        options = service.worker.options
        lines.append(
            f"{name}: the pool {options.pool}, {options.slots} runs at once, in {stores.history.folder}"
        )
    else:
        lines.append(f"{name}: schedules and lost runs, no worker, in {stores.history.folder}")
    for each in stored:
        next_at = each.next_due
        when = "no schedule" if next_at is None else f"next at {moment(next_at):%Y-%m-%d %H:%M:%S}Z"
        if each.deployment.is_paused:
            when = "paused"
        lines.append(f"  {each.deployment.full_name}: {when}")
    if stored:
        lines.append(f"start a run: graphflow deploy run {stored[0].deployment.full_name}")
    lines += more
    lines.append("stop: Ctrl-C")
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
    sys.stderr.flush()
