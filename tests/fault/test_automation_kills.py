"""Reactors and senders that are killed at each failpoint, and three at once: each rule fires once, what is sent again has the same key."""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from graphflow.common.failpoints import NAMES
from graphflow.testing.faults.processes import Script

EVENTS = 60
SETUP = """
    import os, sys
    from graphflow.common import failpoints
    from graphflow.model.automated import automation_of
    from graphflow.model.deployed import Deployment, Source
    from graphflow.orchestration.reactor import react
    from graphflow.orchestration.sender import Sender
    from graphflow.orchestration.stores.opening import open_stores
    from graphflow.testing.contracts.histories import ManualClock

    home, address, *places = sys.argv[1:]
    EVENTS = 60

    def clock(ahead=0.0):
        found = ManualClock()
        found.wall_time = 1_790_000_000.0 + ahead
        return found

    def in_children(works):
        pids = []
        for do in works:
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    do()
                    code = 0
                finally:
                    os._exit(code)
            pids.append(pid)
        return [os.waitpid(pid, 0)[1] for pid in pids]

    with open_stores(home, clock=clock()) as stores:
        source = Source(kind="file", place="/x.py:f")
        stores.plans.put(Deployment(flow_name="f", name="d", source=source))
        each = {"type": "shop.paid"}
        stores.rules.put(automation_of("runs", {"when": each, "then": [{"run": "f/d"}, {"webhook": address}]}))
        three = {**each, "count": 3, "within": "1m", "for_each": ["data.group"]}
        stores.rules.put(automation_of("three", {"when": three, "then": [{"emit": "a.b"}]}))
        for number in range(EVENTS):
            stores.events.emit("shop.paid", data={"group": number // 3}, id=f"e{number}")

    def reacts(rules=None, ahead=1.0):
        def work():
            if rules:
                failpoints.activate(rules)
            with open_stores(home, clock=clock(ahead)) as stores:
                while react(stores, most=7).events:
                    pass
        return work

    def sends(rules=None, ahead=2.0):
        def work():
            if rules:
                failpoints.activate(rules)
            with open_stores(home, clock=clock(ahead)) as stores:
                sender = Sender(stores)
                while sender.turn() == 0.0:
                    pass
        return work
"""


@pytest.fixture
def inbox():
    keys = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            keys.append(self.headers["Idempotency-Key"])
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    server.keys = keys
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def counted(home):
    connection = sqlite3.connect(home / "catalog.db")
    tables = {
        "firings": "SELECT COUNT(*) FROM firing",
        "runs": "SELECT COUNT(*) FROM run",
        "emitted": "SELECT COUNT(*) FROM event WHERE type = 'a.b'",
        "pending": "SELECT COUNT(*) FROM event WHERE is_pending = 1",
        "actions": "SELECT COUNT(*) FROM action",
        "unsent": "SELECT COUNT(*) FROM action WHERE kind = 'webhook' AND state <> 'sent'",
        "failed": "SELECT COUNT(*) FROM action WHERE state = 'failed'",
    }
    found = {name: connection.execute(text).fetchone()[0] for name, text in tables.items()}
    connection.close()
    return found


def check(home, inbox):
    assert counted(home) == {
        "firings": EVENTS + EVENTS // 3,
        "runs": EVENTS,
        "emitted": EVENTS // 3,
        "pending": 0,
        "actions": 2 * EVENTS + EVENTS // 3,
        "unsent": 0,
        "failed": 0,
    }
    assert len(set(inbox.keys)) == EVENTS


def test_each_rule_fires_once_whatever_dies_and_what_is_sent_again_has_its_key(tmp_path, inbox) -> None:
    reactor = [each for each in NAMES if each.startswith("reactor.")]
    sender = [each for each in NAMES if each.startswith("sender.")]
    text = (
        SETUP
        + """
    dead = [in_children([reacts(f"{place}:kill@{hit}")])[0] for place in places if place[0] == "r" for hit in (1, 3)]
    in_children([reacts()])
    dead += [
        in_children([sends(f"{place}:kill@{hit}", 2.0 + 500 * number)])[0]
        for number, place in enumerate(place for place in places if place[0] == "s")
        for hit in (1, 2)
    ]
    print(dead, in_children([sends(None, 10_000.0)]), in_children([reacts(None, 10_000.0)]))
    """
    )
    address = f"http://127.0.0.1:{inbox.server_port}/"
    with Script(text, tmp_path / "home", address, *reactor, *sender) as script:
        told = script.hear()
    count = 2 * (len(reactor) + len(sender))
    assert told == f"{[9] * count} [0] [0]"
    check(tmp_path / "home", inbox)
    # Some were sent, and those who sent them died before they wrote it down.
    assert max(Counter(inbox.keys).values()) > 1


def test_three_reactors_and_three_senders_at_once_do_the_same(tmp_path, inbox) -> None:
    text = (
        SETUP
        + """
    print(in_children([reacts(None, float(ahead)) for ahead in (1, 6, 11)]))
    print(in_children([sends(None, 20.0 + ahead) for ahead in (0, 5, 10)]))
    """
    )
    address = f"http://127.0.0.1:{inbox.server_port}/"
    with Script(text, tmp_path / "home", address) as script:
        assert [script.hear(), script.hear()] == ["[0, 0, 0]"] * 2
    check(tmp_path / "home", inbox)
    assert len(inbox.keys) == EVENTS
