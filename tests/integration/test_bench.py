"""Measuring: in this process, in processes that are watched, and against the server of W8."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from graphflow.bench.harness import run_benchmark
from graphflow.bench.isolated import run_isolated
from graphflow.bench.measure import Order, measure_all
from graphflow.bench.plan import Asked
from graphflow.bench.requests import request

KEYS = ["W1", "W2", "W3", "W4", "W5", "W7"]


@pytest.mark.parametrize("peer", ["loop", "graphflow-inline"])
def test_every_workload_is_measured_and_checked(peer: str) -> None:
    order = Order(
        peer=peer, slots=1, cases=[(key, 8) for key in KEYS], repeats=2, limit_seconds=60, is_smoke=True
    )
    found: list[dict[str, Any]] = []

    measure_all(order, lambda document: found.append(dict(document)))

    assert [(each["key"], each.get("reason")) for each in found] == [(key, None) for key in KEYS]
    assert all(each["repeats"] == 2 and len(each["seconds_all"]) == 2 for each in found)


def test_a_wrong_result_is_told_from_a_right_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphflow.bench.peers.local.Loop.chain", lambda self, values: -1)
    found: list[dict[str, Any]] = []

    measure_all(
        Order(peer="loop", slots=1, cases=[("W2", 4)], repeats=1, limit_seconds=60),
        lambda document: found.append(dict(document)),
    )

    assert [(each["status"], each["reason"]) for each in found] == [
        ("wrong", "returned -1, but a plain loop returns 8")
    ]
    assert "seconds" not in found[0]


def test_what_a_peer_cannot_do_and_what_it_raises_are_lines_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: object, n: int) -> int:
        raise ValueError("no such thing")

    monkeypatch.setattr("graphflow.bench.peers.local.Loop.fan_out", broken)
    found: list[dict[str, Any]] = []

    measure_all(
        Order(peer="loop", slots=1, cases=[("W8", 4), ("W4", 4), ("W1", 4)], repeats=1, limit_seconds=60),
        lambda document: found.append(dict(document)),
    )

    assert [(each["key"], each.get("status"), each.get("reason", "")) for each in found] == [
        ("W8", "cannot", "runs one item per slot: a slot that waits for an answer does nothing else"),
        ("W4", "error", "ValueError: no such thing"),
        ("W1", None, ""),
    ]


def python(code: str, *, timeout_seconds: float = 60.0) -> Any:
    return run_isolated([sys.executable, "-c", code], timeout_seconds=timeout_seconds)


def test_a_process_of_its_own_gives_its_output_code_and_cpu_time() -> None:
    ended = python("import sys; print(7); print('oh', file=sys.stderr); sys.exit(3)")

    assert (ended.out, ended.code, ended.is_timeout, ended.last_words) == ("7\n", 3, False, "oh")
    assert ended.cpu_seconds > 0


FOREVER = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True)
print(child.pid, flush=True)
child.wait()
"""


def test_a_process_that_does_not_end_is_stopped_with_its_descendants() -> None:
    ended = python(FOREVER, timeout_seconds=1.5)

    assert ended.is_timeout
    assert ended.code == -9
    assert ended.tree_peak_rss_bytes > 0
    pid = int(ended.out)
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_measurement_that_does_not_end_in_time_is_a_line_that_says_so() -> None:
    asked = Asked(workloads=["W3"], peers=["loop"], sizes=[1_000], timeout_seconds=1.0, repeats=1)

    (line, *_) = run_benchmark(asked)

    assert (line.key, line.status, line.reason) == ("W3", "timeout", "not done after 1 s")


def test_what_would_take_too_long_is_a_line_that_says_so() -> None:
    asked = Asked(workloads=["W1"], peers=["client.map"], sizes=[1_000_000])

    (line,) = run_benchmark(asked)

    assert line.status == "skipped"
    assert line.reason == "one run would take about 2,000 s, and the limit is 60 s"


@pytest.fixture
def port() -> Iterator[int]:
    """The server, in a process of its own."""
    command = [sys.executable, "-m", "graphflow.bench.requests"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None and server.stdout is not None
        yield int(server.stdout.readline())
        server.stdin.close()
        assert server.wait(30) == 0


def test_the_server_answers_each_request_with_its_value(port: int) -> None:
    async def ask_all() -> list[int]:
        return await asyncio.gather(*[request(value, port, 1) for value in range(50)])

    assert asyncio.run(ask_all()) == list(range(50))


def test_async_requests_are_measured(port: int) -> None:
    found: list[dict[str, Any]] = []

    for peer in ("asyncio", "graphflow-inline"):
        order = Order(peer=peer, slots=1, cases=[("W8", 20)], repeats=1, limit_seconds=60, port=port)
        measure_all(order, lambda document: found.append(dict(document)))

    assert [(each.get("reason"), each.get("repeats")) for each in found] == [(None, 1)] * 2
