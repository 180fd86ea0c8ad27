"""What changes around the caller's process reaches its worker processes, and goes again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from graphflow.runner import surroundings
from graphflow.runner.surroundings import Surroundings, Watch, apply


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(surroundings, "_applied", None)
    monkeypatch.setattr(os, "environ", dict(os.environ, KEPT="kept", CHANGED="before"))
    monkeypatch.chdir(tmp_path)
    yield


def test_nothing_is_told_while_nothing_has_changed() -> None:
    assert Watch().now() is None


def test_changes_are_told(tmp_path: Path) -> None:
    watch = Watch()
    os.environ["ADDED"] = "new"
    os.environ["CHANGED"] = "after"
    del os.environ["KEPT"]
    (tmp_path / "sub").mkdir()
    os.chdir(tmp_path / "sub")
    found = watch.now()
    assert found == Surroundings(str(tmp_path / "sub"), {"ADDED": "new", "CHANGED": "after", "KEPT": None})


def test_a_process_takes_changes_on_and_off(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    before = dict(os.environ)
    apply(None)
    assert dict(os.environ) == before
    apply(Surroundings(str(tmp_path / "sub"), {"ADDED": "new", "KEPT": None}))
    assert os.environ == {**{name: text for name, text in before.items() if name != "KEPT"}, "ADDED": "new"}
    assert os.getcwd() == str(tmp_path / "sub")
    apply(Surroundings(str(tmp_path), {"CHANGED": "after"}))
    assert os.environ == {**before, "CHANGED": "after"}
    apply(None)
    assert os.environ == before
    assert os.getcwd() == str(tmp_path)


def test_a_folder_that_is_gone_stops_nothing(tmp_path: Path) -> None:
    apply(Surroundings(str(tmp_path / "gone"), {"ADDED": "new"}))
    assert os.environ["ADDED"] == "new"
