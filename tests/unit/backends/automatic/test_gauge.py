"""What the gauge reads off a process's clocks."""

from __future__ import annotations

import pytest

from graphflow.backends.automatic.gauge import Gauge, Work


def test_only_time_in_which_batches_ran_counts() -> None:
    gauge = Gauge()
    gauge.change(2, now=10.0, process_cpu=1.0)
    gauge.change(0, now=10.4, process_cpu=1.4)
    gauge.change(4, now=99.0, process_cpu=50.0)
    gauge.change(0, now=99.4, process_cpu=50.4)
    reading = gauge.reading()
    assert reading.seconds == pytest.approx(0.8)
    assert reading.cpu_rate == pytest.approx(1.0)
    assert reading.running == pytest.approx(3.0)


def test_it_looks_back_a_window_and_no_further() -> None:
    gauge = Gauge(window_seconds=1.0)
    for tick in range(101):
        # Ten seconds of waiting, then ten of computing.
        gauge.change(2, now=tick / 10, process_cpu=0.0)
    for tick in range(1, 101):
        gauge.change(2, now=10 + tick / 10, process_cpu=tick / 10)
    reading = gauge.reading()
    assert reading.seconds == pytest.approx(1.0, abs=0.11)
    assert reading.cpu_rate == pytest.approx(1.0)


def test_nothing_is_read_before_anything_ran() -> None:
    assert Gauge().reading().seconds == 0


def test_newer_batches_weigh_more() -> None:
    work = Work()
    assert work.share == 0
    for _ in range(20):
        work.add(cpu=0.0, elapsed=1.0, items=1)
    for _ in range(20):
        work.add(cpu=1.0, elapsed=1.0, items=1)
    assert work.share > 0.95
