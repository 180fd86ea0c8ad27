"""`graphflow config`: what is in force, why, and how it is changed."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from graphflow.common import settings


@pytest.fixture
def place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for each in settings.SETTINGS:
        if each.key != "home":
            monkeypatch.delenv(each.variable, raising=False)
    monkeypatch.delenv("GRAPHFLOW_PROFILE", raising=False)
    monkeypatch.setenv("GRAPHFLOW_CONFIG_FILE", str(folder / "user.toml"))
    return folder


def test_a_setting_is_set_and_shown_with_its_file_and_line(cli: Any, place: Path) -> None:
    assert cli("config", "set", "store.attempts", "3").code == 0
    (place / "graphflow.toml").write_text(
        "# ours\n[runs]\nhistory = 'disk'  # kept\n\n[store]\nattempts = 4\n"
    )
    assert cli("config", "set", "--project", "runs.lease_seconds", "12.5").code == 0

    shown = json.loads(cli("config", "show", "-o", "json").out)
    found = {each["key"]: each for each in shown["settings"]}
    assert shown["schema"] == "graphflow.settings/1"
    project = str(place / "graphflow.toml")
    for key, value, line in (("runs.lease_seconds", 12.5, 4), ("store.attempts", 4, 7)):
        assert (found[key]["value"], found[key]["file"], found[key]["line"]) == (value, project, line)
    assert found["display.progress"]["is_default"]
    assert "graphflow.toml" in cli("config", "show", "--sources").out
    assert "# kept" in (place / "graphflow.toml").read_text()
    assert stat.S_IMODE((place / "user.toml").stat().st_mode) == 0o600

    (place / "graphflow.toml").unlink()
    assert cli("config", "get", "store.attempts").out == "3\n"
    assert json.loads(cli("config", "path", "-o", "json").out)["files"] == [str(place / "user.toml")]


def test_a_wrong_setting_changes_no_file(cli: Any, place: Path) -> None:
    for arguments, told in (
        (("store.atempts", "3"), "did you mean store.attempts?"),
        (("store.attempts", "many"), "use a positive integer"),
        (("results.storage_options", "3"), "not a JSON object"),
    ):
        done = cli("config", "set", *arguments)
        assert done.code == 3
        assert told in done.err
    assert not (place / "user.toml").exists()


def test_profiles_are_created_listed_and_chosen(cli: Any, place: Path) -> None:
    cli("config", "set", "store.attempts", "3")
    assert cli("config", "profile", "create", "cluster one").code == 0
    assert cli("config", "profile", "use", "cluster one").code == 0
    assert cli("config", "set", "store.attempts", "5").code == 0

    found = json.loads(cli("config", "profile", "ls", "-o", "json").out)
    assert found == {
        "schema": "graphflow.profiles/1",
        "active": "cluster one",
        "profiles": ["cluster one", "default"],
    }
    assert cli("config", "get", "store.attempts").out == "5\n"
    assert cli("config", "profile", "use", "default").code == 0
    assert cli("config", "get", "store.attempts").out == "3\n"
    assert "no profile 'nope'" in cli("config", "profile", "use", "nope").err


def test_secrets_are_shown_to_nobody(cli: Any, place: Path) -> None:
    cli("config", "set", "results.storage_options", '{"secret": "canary", "endpoint_url": "http://x"}')
    cli("config", "set", "results.storage", "s3://user:canary@bucket/x")

    for arguments in (
        ("show",),
        ("show", "-o", "json"),
        ("get", "results.storage_options"),
        ("get", "results.storage"),
    ):
        out = cli("config", *arguments).out
        assert "***" in out and "canary" not in out


def test_a_run_keeps_the_settings_that_it_began_with(
    cli: Any, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHFLOW_HOME", str(place / "home"))
    (place / "jobs.py").write_text("from graphflow import flow\n\n@flow\ndef one():\n    return 1\n")
    (place / "graphflow.toml").write_text(
        '[runs]\nlease_seconds = 12\n[results]\nstorage_options = {key = "canary"}\n'
    )
    monkeypatch.setenv("GRAPHFLOW_STORE_ATTEMPTS", "3")

    assert cli("run", "jobs.py", "--backend", "inline", "-q").code == 0
    (place / "graphflow.toml").unlink()

    shown = cli("runs", "show", "@latest", "-o", "json").out
    kept = json.loads(shown)["launches"][0]["settings"]
    assert (kept["GRAPHFLOW_LEASE_SECONDS"], kept["GRAPHFLOW_STORE_ATTEMPTS"]) == ("12.0", "3")
    assert "canary" not in shown
