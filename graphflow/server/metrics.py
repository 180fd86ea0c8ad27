"""Figures for Prometheus, read from the catalog when they are asked for; nothing is counted in this process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from graphflow.histories import statements
from graphflow.histories.checks import is_final
from graphflow.model.states import Code
from graphflow.operations.home import Home
from graphflow.server.problems import Refused

if TYPE_CHECKING:
    from prometheus_client.core import GaugeMetricFamily

__all__ = ["metrics_text"]

MOST_RUNS = 500
"""Of so many runs that go on are items counted, the newest."""


def metrics_text(home: Home) -> tuple[bytes, str]:
    """Return the figures, and their media type.

    Raises
    ------
    Refused
        If prometheus-client is not installed.
    """
    try:
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
    except ImportError:
        raise Refused(
            404, "metrics need a package that is not installed here; use pip install 'graphflow[metrics]'"
        ) from None

    class Figures:
        def collect(self) -> Iterator[GaugeMetricFamily]:
            return _figures(home)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Figures())
    return generate_latest(registry), CONTENT_TYPE_LATEST


def _figures(home: Home) -> Iterator[GaugeMetricFamily]:
    from prometheus_client.core import GaugeMetricFamily

    catalog, now = home.stores.catalog, time.time()
    runs = GaugeMetricFamily("graphflow_runs", "Runs by state.", labels=["state"])
    for state, count in catalog.rows(statements.RUNS_BY_STATE):
        runs.add_metric([state], count)
    yield runs
    rates = GaugeMetricFamily(
        "graphflow_items_per_second",
        "Items that ended, by flow, of runs that go on: the mean of each since it began.",
        labels=["flow"],
    )
    for flow, rate in _item_rates(home, now).items():
        rates.add_metric([flow], rate)
    yield rates
    labels = ["pool", "queue"]
    waiting = GaugeMetricFamily("graphflow_queue_length", "Runs that wait for a worker.", labels=labels)
    age = GaugeMetricFamily(
        "graphflow_queue_age_seconds", "How long the first of them is due.", labels=labels
    )
    used = GaugeMetricFamily("graphflow_slots_in_use", "Runs that are being driven.", labels=labels)
    for pool, queue, state, count, due in catalog.rows(statements.WORK_BY_QUEUE):
        if state == "waiting":
            waiting.add_metric([pool, queue], count)
            age.add_metric([pool, queue], max(0.0, now - due))
        elif state == "claimed":
            used.add_metric([pool, queue], count)
    yield from (waiting, age, used)
    workers = GaugeMetricFamily("graphflow_workers", "Workers that are there.", labels=["pool", "state"])
    slots = GaugeMetricFamily(
        "graphflow_worker_slots", "Runs that workers can drive at once.", labels=["pool"]
    )
    seen: dict[tuple[str, str], int] = {}
    places: dict[str, int] = {}
    for each in home.stores.pools.workers():
        seen[each.pool, each.state] = seen.get((each.pool, each.state), 0) + 1
        places[each.pool] = places.get(each.pool, 0) + each.slots
    for (pool, state), count in seen.items():
        workers.add_metric([pool, state], count)
    for pool, count in places.items():
        slots.add_metric([pool], count)
    yield from (workers, slots)
    ((pending, oldest),) = catalog.rows(statements.EVENTS_BEHIND)
    lag = GaugeMetricFamily("graphflow_events_pending", "Events that no rule has looked at.")
    lag.add_metric([], pending)
    late = GaugeMetricFamily("graphflow_event_lag_seconds", "How old the first of them is.")
    late.add_metric([], 0.0 if oldest is None else max(0.0, now - oldest))
    yield from (lag, late)


def _item_rates(home: Home, now: float) -> dict[str, float]:
    """Return the items per second of runs that go on, by flow, as their summaries tell."""
    found: dict[str, float] = {}
    for run in home.runs.runs(state=[Code.RUNNING.state_name], limit=MOST_RUNS):
        summary, started = run.summary, run.started
        if summary is None or started is None:
            continue
        ended = sum(count for name, count in summary.counts.items() if is_final(name))
        seconds = max(now - started.timestamp(), 1.0)
        found[run.flow_name] = found.get(run.flow_name, 0.0) + ended / seconds
    return found
