"""`graphflow doctor`: what it finds, and that it leaves nothing behind."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from graphflow.common import settings


@pytest.fixture
def home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for each in settings.SETTINGS:
        monkeypatch.delenv(each.variable, raising=False)
    monkeypatch.setenv("GRAPHFLOW_CONFIG_FILE", str(folder / "user.toml"))
    monkeypatch.setenv("GRAPHFLOW_HOME", str(folder / "home"))
    return folder / "home"


def checks(done: Any) -> dict[str, dict[str, str]]:
    document = json.loads(done.out)
    assert document["schema"] == "graphflow.doctor/1"
    assert document["is_broken"] == (done.code == 1)
    return {each["name"]: each for each in document["checks"]}


def test_a_new_installation_is_well_and_stays_as_it_was(cli: Any, home: Path) -> None:
    found = checks(cli("doctor", "-o", "json"))

    assert [name for name, each in found.items() if each["verdict"] == "broken"] == []
    assert len(found) == 11
    assert not home.exists()


def test_a_home_in_use_is_checked_too(cli: Any, home: Path) -> None:
    home.mkdir(mode=0o700)
    home.chmod(0o777)
    (home / "secret.key").write_bytes(b"short")
    (home / "secret.key").chmod(0o600)

    done = cli("doctor", "-o", "json")

    found = checks(done)
    assert done.code == 1
    assert (found["home"]["verdict"], found["key"]["verdict"]) == ("warning", "broken")
    assert "chmod 700" in found["home"]["advice"]
    assert found["result store"]["verdict"] == "ok"


def test_what_is_broken_has_advice(cli: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("GRAPHFLOW_RESULT_STORAGE", str(home / "file" / "below"))
    monkeypatch.setenv("GRAPHFLOW_BACKEND", f"tcp://127.0.0.1:{port}")
    home.mkdir()
    (home / "file").write_text("")
    monkeypatch.setattr("graphflow.runs.checkup.CLUSTER_SECONDS", 0.5)

    done = cli("doctor")

    assert done.code == 1
    for name, told in (("result store", "check the place"), ("cluster", "start the scheduler")):
        broken = next(line for line in done.out.splitlines() if f"✘ {name}" in line)
        assert broken
        assert told in done.out
