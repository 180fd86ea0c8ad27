"""Automations and hooks from a file and by the command line, in this process."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from graphflow.cli.main import app

FILE = """
[notifications]
oncall = { "$secret" = "ONCALL_ADDRESS" }

[automations.storm]
when = { type = "graphflow.run.failed", for_each = ["related.flow"], count = 3, within = "10m" }
then = [{ notify = "oncall" }]

[hooks.push]
kind = "github"
secret = "PUSH_SECRET"
"""


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAPHFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "graphflow.toml").write_text(FILE)

    def run(*arguments, code=0, input=None):
        found = CliRunner().invoke(app, [*arguments], input=input)
        assert found.exit_code == code, found.output
        return found

    return run


def test_a_file_is_applied_with_a_plan_and_what_it_leaves_out_is_removed(call, tmp_path) -> None:
    call("deploy", "apply", "--check", code=1)
    plan = json.loads(call("deploy", "apply", "--yes", "-o", "json").stdout)
    assert [(each["change"], each["kind"], each["name"]) for each in plan["changes"]] == [
        ("add", "automation", "storm"),
        ("add", "hook", "push"),
    ]
    call("deploy", "apply", "--check")
    (tmp_path / "graphflow.toml").write_text(FILE.replace("count = 3", "count = 4").partition("[hooks")[0])
    text = call("deploy", "apply", "--yes").stdout
    assert "~ automation storm\n    count: 3 -> 4\n- hook push" in text
    assert json.loads(call("hooks", "ls", "-o", "json").stdout) == []


def test_automations_are_listed_shown_tried_paused_and_removed(call) -> None:
    call("deploy", "apply", "--yes")
    (found,) = json.loads(call("automations", "ls", "-o", "json").stdout)
    assert (found["name"], found["watches"], found["fired"]) == (
        "storm",
        "graphflow.run.failed, 3 within 10m for each related.flow",
        0,
    )
    assert "notify oncall" in call("automations", "ls").stdout
    event = json.dumps({"type": "graphflow.run.failed", "subject": "x", "related": {"flow": "f"}})
    tried = json.loads(call("automations", "test", "-", "-o", "json", input=event).stdout)
    assert tried["automations"] == [
        {
            "automation": "storm",
            "fires": False,
            "why": "it would count this one: 1 of 3 within 10m",
            "actions": [],
        }
    ]
    assert "would not fire" in call("automations", "test", "-", input=event).stdout
    assert "not an event" in call("automations", "test", "-", input="{", code=2).output
    call("automations", "pause", "storm")
    assert json.loads(call("automations", "show", "storm", "-o", "json").stdout)["is_paused"]
    assert "storm" in call("automations", "show", "storm").stdout
    call("automations", "resume", "storm")
    call("automations", "rm", "storm")
    assert "no automation 'storm'" in call("automations", "show", "storm", code=4).output


def test_a_notification_that_cannot_be_sent_says_why_without_its_address(call, monkeypatch) -> None:
    assert "there is no secret 'ONCALL_ADDRESS'" in call("notify", "test", "oncall", code=3).output
    monkeypatch.setenv("ONCALL_ADDRESS", "json://user:canary-password@127.0.0.1:1/canary-path")
    found = call("notify", "test", "oncall", code=3).output
    assert "did not reach address 1 (JSON) of 1" in found and "canary" not in found
    assert "there is oncall" in call("notify", "test", "nobody", code=3).output


@pytest.mark.parametrize(
    "said, told",
    [
        ("[automations.x]\nwhen = {}\nthen = []", "[automations.x]"),
        ("[notifications]\nx = 'plain-password'", "the notification x is not an address"),
        ("[hooks.x]\nkind = 'github'\nsecret = 'the secret itself'", "secret number 1 is not a name"),
    ],
)
def test_a_file_that_is_wrong_changes_nothing_and_shows_no_secret(call, tmp_path, said, told) -> None:
    (tmp_path / "graphflow.toml").write_text(f"{FILE.partition('[notif')[0]}\n{said}\n")
    found = call("deploy", "apply", "--yes", code=3).output
    assert told in " ".join(found.split())
    assert "plain-password" not in found and "secret itself" not in found
    assert json.loads(call("automations", "ls", "-o", "json").stdout) == []
