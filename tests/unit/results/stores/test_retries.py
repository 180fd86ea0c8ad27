"""What is tried again, how often, and what errors mean."""

from __future__ import annotations

from typing import Any

import pytest

from graphflow.results.stores import retries as module
from graphflow.results.stores.retries import Retries, explain, is_missing, is_transient, is_unsatisfiable


class Clock:
    """Stands in for the module `time`."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    # The longest delay that could be drawn.
    monkeypatch.setattr(module.random, "uniform", lambda low, high: high)
    return clock


class Answered(OSError):
    """An error like botocore's."""

    def __init__(self, code: str, status: int = 0) -> None:
        super().__init__(f"An error occurred ({code})")
        self.response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}


def fails(error: BaseException, calls: list[int]) -> Any:
    calls.append(1)
    raise error


def test_delays_grow_and_are_bounded(clock: Clock) -> None:
    calls: list[int] = []
    with pytest.raises(ConnectionResetError):
        Retries(attempts=7, base_seconds=1, most_seconds=8).call(
            lambda: fails(ConnectionResetError("x"), calls)
        )
    assert len(calls) == 7 and clock.slept == [1, 2, 4, 8, 8, 8]


def test_no_attempt_begins_after_the_budget(clock: Clock) -> None:
    calls: list[int] = []
    with pytest.raises(TimeoutError):
        Retries(attempts=100, seconds=10, base_seconds=1).call(lambda: fails(TimeoutError(), calls))
    assert clock.now == 7 and len(calls) == 4


def test_what_does_not_pass_is_not_tried_again(clock: Clock) -> None:
    for error in (Answered("AccessDenied", 403), PermissionError(13, "no"), ValueError("x")):
        calls: list[int] = []
        with pytest.raises(type(error)):
            Retries().call(lambda error=error, calls=calls: fails(error, calls))
        assert len(calls) == 1 and clock.slept == []


def test_it_ends_when_it_succeeds(clock: Clock) -> None:
    answers = iter([Answered("SlowDown", 503), Answered("InternalError", 500), None])

    def act() -> str:
        error = next(answers)
        if error is not None:
            raise error
        return "done"

    assert Retries().call(act) == "done"
    assert len(clock.slept) == 2


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (Answered("SlowDown", 503), True),
        (Answered("", 500), True),
        (Answered("SomethingNew", 502), True),
        (Answered("ConditionalRequestConflict", 409), True),
        (Answered("RequestTimeout", 400), True),
        (Answered("PreconditionFailed", 412), False),
        (Answered("NoSuchKey", 404), False),
        (Answered("NoSuchBucket", 404), False),
        (Answered("AccessDenied", 403), False),
        (Answered("ExpiredToken", 400), False),
        (BrokenPipeError(32, "x"), True),
        (OSError(104, "x"), True),
        (FileNotFoundError("x"), False),
        (OSError(28, "No space left on device"), False),
        (type("EndpointConnectionError", (type("ConnectionError", (Exception,), {}),), {})("x"), True),
        (type("NoCredentialsError", (Exception,), {})("x"), False),
    ],
)
def test_what_passes(error: BaseException, passes: bool) -> None:
    assert is_transient(error) is passes
    wrapped = OSError(5, "wrapped")
    wrapped.__cause__ = error
    assert is_transient(wrapped) is passes


def test_what_is_missing_is_an_object_not_a_bucket() -> None:
    assert is_missing(Answered("NoSuchKey", 404)) and is_missing(Answered("404", 404))
    assert not is_missing(Answered("NoSuchBucket", 404)) and not is_missing(Answered("AccessDenied", 403))
    assert is_missing(FileNotFoundError("x")) and not is_missing(PermissionError("x"))
    assert is_unsatisfiable(Answered("InvalidRange", 416)) and not is_unsatisfiable(OSError(22, "x"))


def test_errors_say_what_to_do() -> None:
    for error, text in (
        (Answered("NoSuchBucket", 404), "there is no such bucket"),
        (Answered("ExpiredToken", 400), "have expired"),
        (Answered("InvalidAccessKeyId", 403), "does not accept the credentials"),
        (Answered("AccessDenied", 403), "do not permit this operation"),
        (PermissionError(13, "Permission denied"), "do not permit this operation"),
        (Answered("PermanentRedirect", 301), "another region"),
        (Answered("SlowDown", 503), "try again later"),
        (type("ProfileNotFound", (Exception,), {})("the profile (x)"), "no usable credentials"),
        (ValueError("odd"), "ValueError: odd"),
        (KeyError(), "KeyError"),
    ):
        assert text in explain(error)
