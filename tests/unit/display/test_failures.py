"""Failures in groups."""

from __future__ import annotations

from dataclasses import dataclass

from graphflow.display.failures import describe, group_failures
from graphflow.display.tracebacks import is_user_frame, user_text
from graphflow.errors import RemoteError

FRAMES = 'Traceback (user frames only):\n  File "crawl.py", line {line}, in fetch\n    raise\n'


@dataclass
class Failure:
    index: int | None
    exception: BaseException
    label: str | None = None
    inputs: str = ""
    attempts: int = 1
    traceback: str = FRAMES.format(line=3)


def test_failures_that_differ_in_numbers_only_are_one_group() -> None:
    failures = [Failure(i, ValueError(f"document {i} is empty")) for i in range(12)]
    failures.append(Failure(12, KeyError("title")))

    groups = group_failures("load", failures)

    assert [(group.count, type(group.first.exception)) for group in groups] == [
        (12, ValueError),
        (1, KeyError),
    ]
    assert groups[0].first.index == 0


def test_the_same_exception_from_another_line_is_another_group() -> None:
    failures = [
        Failure(0, ValueError("empty")),
        Failure(1, ValueError("empty"), traceback=FRAMES.format(line=9)),
    ]

    assert len(group_failures("load", failures)) == 2


def test_a_group_tells_how_many_what_where_and_the_first_one() -> None:
    failures = [
        Failure(492 + i, ValueError("empty document"), label=f"doc-{i}", inputs="path='a'", attempts=3)
        for i in range(12)
    ]

    text = describe(group_failures("load", failures)[0])

    assert text.splitlines() == [
        "12 × ValueError: empty document",
        "  in load, items 492, 493, 494, 495, 496, 497, 498, 499, ...",
        "  first, #492: label 'doc-0', inputs path='a', 3 attempts",
        "  Traceback (user frames only):",
        '    File "crawl.py", line 3, in fetch',
        "      raise",
    ]


def test_a_heading_masks_what_differs_and_the_texts_follow_the_most_frequent_first() -> None:
    hosts = [5, 7, 7, 7, 9, 9, 11, 12, 13, 14]
    failures = [Failure(i, OSError(f"host {host} is down")) for i, host in enumerate(hosts)]

    text = describe(group_failures("fetch", failures)[0])

    assert text.splitlines()[:7] == [
        "10 × OSError: host # is down",
        "    3 × host 7 is down",
        "    2 × host 9 is down",
        "    1 × host 5 is down",
        "    1 × host 11 is down",
        "    1 × host 12 is down",
        "    … and 2 more texts",
    ]


def test_an_exception_that_could_not_be_carried_over_shows_its_own_name() -> None:
    failure = Failure(0, RemoteError("crawl.Odd", "cannot be pickled"))

    assert describe(group_failures("load", [failure])[0]).startswith(
        "crawl.Odd: cannot be pickled\n  in load, item 0"
    )


def test_frames_of_the_engine_are_not_shown() -> None:
    import graphflow

    assert not is_user_frame(graphflow.__file__)
    assert not is_user_frame("<frozen importlib._bootstrap>")
    assert not is_user_frame("/x/lib/python3.11/site-packages/distributed/worker.py")
    assert is_user_frame("/x/lib/python3.11/site-packages/pandas/core.py")
    assert is_user_frame("/home/me/crawl.py")


def test_a_traceback_of_user_frames_names_the_line() -> None:
    try:
        raise ValueError("boom")
    except ValueError as error:
        text = user_text(error)

    assert "test_failures.py" in text
    assert 'raise ValueError("boom")' in text
    assert user_text(ValueError("never raised")) == ""
