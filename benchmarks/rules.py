"""What automations cost: events through rules in a second, and how long after its event an automation fires.

python benchmarks/rules.py [--smoke]

Each measurement has a home of its own in a temporary folder. Prints one JSON line per figure, with its budget.
"""

from __future__ import annotations

import argparse
import statistics
import time

from _measure import home, show

from graphflow.model.automated import automation_of
from graphflow.orchestration.reactor import react
from graphflow.orchestration.service import Orchestration
from graphflow.orchestration.stores.opening import open_stores
from graphflow.testing.waiting import eventually


def through_rules(events: int, rules: int) -> None:
    """Events that wait, through rules of which one counts in windows and one fires for a tenth of them."""
    with home(), open_stores() as stores:
        for number in range(rules - 2):
            other = {"type": f"other.{number}.*", "data": {"n": number}}
            stores.rules.put(automation_of(f"r{number}", {"when": other, "then": [{"emit": "a.b"}]}))
        count = {"type": "shop.*", "for_each": ["data.group"], "count": 50, "within": "1m"}
        stores.rules.put(automation_of("counts", {"when": count, "then": [{"emit": "a.storm"}]}))
        fires = {"when": {"type": "shop.*", "data": {"tenth": 0}}, "then": [{"emit": "a.tenth"}]}
        stores.rules.put(automation_of("fires", fires))
        with stores.catalog.transaction():
            for number in range(events):
                stores.events.emit("shop.paid", data={"group": number % 100, "tenth": number % 10})
        began, seen, firings = time.perf_counter(), 0, 0
        while (done := react(stores)).events:
            seen, firings = seen + done.events, firings + done.firings
        seconds = time.perf_counter() - began
        show(
            {
                "bench": "rules",
                "what": "events through rules",
                "events": seen,
                "rules": rules,
                "firings": firings,
                "seconds": seconds,
                "events_per_second": seen / seconds,
                "budget_events_per_second": 500,
            }
        )


def latency(events: int) -> None:
    """From an event to its firing, in a `serve` that is idle otherwise."""
    with home(), open_stores() as stores, open_stores() as other:
        stored, _ = stores.rules.put(
            automation_of("r", {"when": {"type": "shop.*"}, "then": [{"emit": "a.b"}]})
        )
        service = Orchestration(stores)
        service.start()
        waits = []
        try:
            for _ in range(events):
                # Another process: nothing wakes the reactor.
                began = time.time()
                id = other.events.emit("shop.paid")
                at = eventually(
                    lambda id=id: next((at for of, _, at in other.rules.firings(stored.id) if of == id), None)
                )
                waits.append(at - began)
        finally:
            service.stop()
        show(
            {
                "bench": "rules",
                "what": "from an event to its firing",
                "events": events,
                "p50_seconds": statistics.median(waits),
                "max_seconds": max(waits),
                "budget_seconds": 1.0,
            }
        )


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="Small sizes, to see that it works.")
    smoke = parser.parse_args().smoke
    through_rules(500 if smoke else 10_000, 10)
    latency(5 if smoke else 50)


if __name__ == "__main__":
    main()
