from __future__ import annotations

import logging
import math
import os
import threading

import pytest

from graphflow.common.service import Service

PATIENCE = 20.0


class Turns:
    """A tick that counts its turns, each of which may be scripted."""

    def __init__(self, *script):
        self.script = list(script)
        self.count = 0
        self.threads = set()
        self.enough = threading.Event()
        self.needed = len(script) or 3

    def __call__(self):
        self.count += 1
        self.threads.add(threading.current_thread())
        act = self.script.pop(0) if self.script else None
        if self.count >= self.needed:
            self.enough.set()
        if isinstance(act, Exception):
            raise act
        return act


def test_it_ticks_in_one_named_daemon_thread_until_it_is_stopped():
    turns = Turns()
    service = Service(turns, name="ticker", interval=0.0)
    assert not service.is_running and turns.count == 0
    service.start()
    service.start()
    assert turns.enough.wait(PATIENCE) and service.is_running
    assert service.stop(PATIENCE) and not service.is_running
    after = turns.count
    (thread,) = turns.threads
    assert (thread.name, thread.daemon, thread.is_alive()) == ("ticker", True, False)
    assert service.stop() and turns.count == after


def test_the_first_turn_comes_after_the_interval():
    turns = Turns()
    with Service(turns, name="ticker", interval=math.inf):
        pass
    assert turns.count == 0


def test_a_loop_that_waits_for_long_is_woken_and_stopped_at_once():
    turns = Turns(None)
    with Service(turns, name="ticker", interval=math.inf) as service:
        service.wake()
        assert turns.enough.wait(PATIENCE)
    assert turns.count == 1 and not service.is_running


def test_what_a_turn_returns_replaces_the_interval_once():
    asked = []

    def interval():
        asked.append(turns.count)
        return 0.0

    turns = Turns(0.0, None, 0, math.inf)
    service = Service(turns, name="ticker", interval=interval)
    service.start()
    assert turns.enough.wait(PATIENCE)
    assert service.stop(PATIENCE)
    assert (turns.count, asked) == (4, [0, 2])


def test_a_turn_that_fails_is_logged_and_the_loop_goes_on(caplog):
    turns = Turns(ValueError("broken"), None)
    with (
        caplog.at_level(logging.ERROR, "graphflow.service"),
        Service(turns, name="ticker", interval=0.0) as service,
    ):
        assert turns.enough.wait(PATIENCE)
        assert service.is_running
    (record,) = caplog.records
    assert "ticker failed" in record.getMessage() and "broken" in caplog.text


def test_what_a_turn_raised_is_handed_over_and_may_stop_the_loop():
    handed = []
    done = threading.Event()

    def handle(error):
        handed.append(error)
        assert service.stop()
        done.set()

    error = ValueError("broken")
    turns = Turns(error)
    service = Service(turns, name="ticker", interval=0.0, on_error=handle)
    service.start()
    assert done.wait(PATIENCE)
    assert service.stop(PATIENCE)
    assert (turns.count, handed) == (1, [error])


def test_a_handler_that_fails_is_logged_and_the_loop_goes_on(caplog):
    def handle(error):
        raise KeyError("the handler")

    turns = Turns(ValueError(), None)
    with Service(turns, name="ticker", interval=0.0, on_error=handle):
        assert turns.enough.wait(PATIENCE)
    assert "the handler" in caplog.text


def test_an_interval_that_cannot_be_told_is_reported_and_tried_again(monkeypatch):
    monkeypatch.setattr("graphflow.common.service.ERROR_SECONDS", 0.0)
    handed = []
    turns = Turns(None, None)
    with Service(turns, name="ticker", interval=lambda: 1 / 0, on_error=handed.append):
        assert turns.enough.wait(PATIENCE)
    assert {type(error) for error in handed} == {ZeroDivisionError}


def test_stopping_waits_for_a_turn_that_goes_on_but_not_for_ever():
    begun, may_end = threading.Event(), threading.Event()

    def tick():
        begun.set()
        may_end.wait(PATIENCE)

    service = Service(tick, name="ticker", interval=0.0)
    service.start()
    assert begun.wait(PATIENCE)
    assert not service.stop(timeout=0.0)
    may_end.set()
    assert service.stop(PATIENCE)


def test_a_stopped_service_starts_again_also_where_its_last_turn_goes_on():
    may_end = threading.Event()
    begun = threading.Semaphore(0)
    threads = []

    def tick():
        threads.append(threading.current_thread())
        begun.release()
        may_end.wait(PATIENCE)

    service = Service(tick, name="ticker", interval=0.0)
    for _ in range(2):
        service.start()
        assert begun.acquire(timeout=PATIENCE)
        assert not service.stop(timeout=0.0)
    may_end.set()
    assert service.stop(PATIENCE)
    for thread in threads:
        thread.join(PATIENCE)
    assert len(threads) == 2 and len(set(threads)) == 2
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_fork_has_a_loop_of_its_own_once_it_is_started_there():
    turns = Turns()
    with Service(turns, name="ticker", interval=math.inf) as service, service._lock:
        child = os.fork()
        if child == 0:
            # Whatever goes wrong here, the child must not go on with the parent's tests.
            try:
                told = service.is_running
                service.start()
                service.wake()
                ended = not told and service.is_running and service.stop(PATIENCE)
                os._exit(0 if ended else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert turns.count == 0
