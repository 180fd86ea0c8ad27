"""Workers that say nothing are told of, and then lost, once; those of which nothing is wanted are left alone."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from graphflow.backends.dask import silence
from graphflow.backends.dask.silence import Silence


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(silence.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def watched(*labels: str, timeout: float = 60.0) -> Silence:
    return Silence(name="dask", timeout=timeout, batches=lambda address: list(labels))


def test_a_silent_worker_is_told_of_and_then_lost_once(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    found = watched("fetch[0-9]")
    assert found.look({"a": 1.0, "b": 1.0}, {}) == []
    clock.now += 11
    assert found.look({"a": 1.0, "b": 2.0}, {}) == []
    assert "worker a has said nothing for 11 s; fetch[0-9] is waited for" in caplog.text
    clock.now += 50
    assert found.look({"a": 1.0, "b": 3.0}, {}) == ["a"]
    assert found.look({"a": 1.0, "b": 4.0}, {}) == []
    assert "is taken for lost; fetch[0-9] goes to other workers" in caplog.text


def test_a_worker_that_speaks_again_begins_anew(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    found = watched("fetch[0]")
    found.look({"a": 1.0}, {})
    clock.now += 30
    found.look({"a": 1.0}, {})
    assert found.look({"a": 2.0}, {}) == []
    assert "is there again" in caplog.text
    clock.now += 59
    assert found.look({"a": 2.0}, {}) == []


def test_a_worker_without_batches_is_left_alone(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    found = watched()
    found.look({"a": 1.0}, {})
    clock.now += 500
    with caplog.at_level(logging.WARNING):
        assert found.look({"a": 1.0}, {}) == []
    assert caplog.text == ""


def test_a_worker_that_computes_is_heard(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    found = watched("fetch[0]")
    used = iter([1.0, 2.0, 3.0, 3.0])
    monkeypatch.setattr(silence, "_cpu_seconds", lambda pid: next(used))
    for _ in range(3):
        assert found.look({"a": 1.0}, {"a": 7}) == []
        clock.now += 50
    clock.now += 50
    assert found.look({"a": 1.0}, {"a": 7}) == ["a"]


def test_what_a_process_has_used() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert silence._cpu_seconds(child.pid) is not None
    finally:
        silence.end_process(child.pid)
        child.communicate()
    assert silence._cpu_seconds(child.pid) is None
    assert silence._cpu_seconds(None) is None
