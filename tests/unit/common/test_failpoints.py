"""Failpoints: what rules mean, and that nothing happens without any."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import graphflow
from graphflow.common.failpoints import NAMES, activate, deactivate, failpoint, hits
from graphflow.errors import SettingsError


@pytest.fixture(autouse=True)
def nothing_is_planned() -> Iterator[None]:
    deactivate()
    yield
    deactivate()


def test_nothing_happens_and_nothing_is_counted_where_nothing_is_planned() -> None:
    failpoint("journal.commit.before")
    assert hits() == {}


def test_hits_are_counted_where_that_is_all_that_is_asked_for() -> None:
    activate("")
    for _ in range(3):
        failpoint("journal.commit.before")
    failpoint("batch.begin")
    assert hits() == {"journal.commit.before": 3, "batch.begin": 1}


def test_an_error_is_raised_at_just_that_hit() -> None:
    activate("batch.begin:raise=ENOSPC@2; journal.commit.before:raise=ValueError")
    failpoint("batch.begin")
    with pytest.raises(OSError) as raised:
        failpoint("batch.begin")
    assert raised.value.errno == errno.ENOSPC
    failpoint("batch.begin")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"journal\.commit\.before"):
            failpoint("journal.commit.before")


def test_a_star_counts_the_hits_of_all() -> None:
    activate("*:raise=KeyError@3")
    failpoint("batch.begin")
    failpoint("driver.tell.before")
    with pytest.raises(KeyError):
        failpoint("batch.begin")
    failpoint("batch.begin")


def test_what_is_done_once_is_done_by_whoever_makes_the_file(tmp_path: Path) -> None:
    activate(f"batch.begin:raise=ValueError!{tmp_path / 'done'}")
    with pytest.raises(ValueError):
        failpoint("batch.begin")
    failpoint("batch.begin")
    activate(f"batch.begin:raise=ValueError!{tmp_path / 'done'}")
    failpoint("batch.begin")


def test_hits_are_recorded_in_a_file(tmp_path: Path) -> None:
    activate(f"*:record={tmp_path / 'hits'}")
    failpoint("batch.begin")
    failpoint("driver.tell.before")
    lines = (tmp_path / "hits").read_text().splitlines()
    assert lines == [f"{os.getpid()} batch.begin", f"{os.getpid()} driver.tell.before"]


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ("batch.begin", "NAME:ACTION"),
        ("batch.begin:kill@0", "1 or more"),
        ("batch.begin:kill@x", "1 or more"),
        ("batch.begn:kill", "did you mean 'batch.begin'"),
        ("batch.begin:explode", "unknown failpoint action 'explode'"),
        ("batch.begin:raise=Nonsense", "cannot raise 'Nonsense'"),
        ("batch.begin:record=", "unknown failpoint action 'record='"),
    ],
)
def test_rules_that_make_no_sense_are_refused(rules: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        activate(rules)


def test_a_name_that_is_not_in_the_list_is_refused() -> None:
    activate("")
    with pytest.raises(SettingsError, match=r"'batch\.end'"):
        failpoint("batch.end")


def test_all_names_of_the_list_are_in_the_code_and_each_in_one_place() -> None:
    found: dict[str, int] = {}
    for path in Path(graphflow.__file__).parent.rglob("*.py"):
        if path.name == "failpoints.py":
            continue
        for name in re.findall(r"failpoint(?:\(|, )\"([\w.]+)\"", path.read_text()):
            found[name] = found.get(name, 0) + 1
    assert set(found) == set(NAMES)
    assert {name for name, count in found.items() if count > 1} <= {
        "launch.begin.before",
        "launch.begin.after",
    }
