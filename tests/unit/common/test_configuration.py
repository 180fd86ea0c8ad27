"""Where settings come from, in which order, and how wrong ones are refused."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import graphflow
from graphflow.common import settings
from graphflow.common.configuration import load
from graphflow.errors import SettingsError


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder two levels below a project, and a file of the user's own."""
    for each in settings.SETTINGS:
        if each.key != "home":
            monkeypatch.delenv(each.variable, raising=False)
    monkeypatch.setenv("GRAPHFLOW_CONFIG_FILE", str(tmp_path / "user.toml"))
    (tmp_path / "project" / "src" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project" / "src" / "deep")
    return tmp_path


def test_the_first_of_python_environment_files_and_profile_wins(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert settings.lease_seconds() == 30

    (places / "user.toml").write_text("[profiles.default.runs]\nlease_seconds = 11\n")
    assert settings.lease_seconds() == 11

    (places / "project" / "pyproject.toml").write_text(
        "[project]\n[tool.graphflow.runs]\nlease_seconds = 12\n"
    )
    assert settings.lease_seconds() == 12

    (places / "project" / "graphflow.toml").write_text("[runs]\nlease_seconds = 13\n")
    assert settings.lease_seconds() == 13

    (places / "project" / "src" / "graphflow.toml").write_text("runs = {lease_seconds = 14}\n")
    assert settings.lease_seconds() == 14

    monkeypatch.setenv("GRAPHFLOW_LEASE_SECONDS", "15")
    assert settings.lease_seconds() == 15

    monkeypatch.setenv("GRAPHFLOW_RUNS__LEASE_SECONDS", "16")
    assert settings.lease_seconds() == 16

    with graphflow.settings(runs__lease_seconds=17):
        assert settings.lease_seconds() == 17
        with graphflow.settings({"runs.lease_seconds": 18}, display__progress="off"):
            assert (settings.lease_seconds(), settings.progress()) == (18, "off")
        assert (settings.lease_seconds(), settings.progress()) == (17, "auto")
    assert settings.lease_seconds() == 16


def test_a_value_has_its_file_and_line(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = places / "project" / "graphflow.toml"
    file.write_text(
        '# ours\n[store]\nattempts = 2\n\n[results]\nstorage = "s3://bucket"\n[results.storage_options]\nkey = "k"\n'
    )
    monkeypatch.setenv("GRAPHFLOW_PROGRESS", "off")

    found = load().places

    assert (found["store.attempts"].file, found["store.attempts"].line) == (str(file), 3)
    assert found["results.storage"].line == 6
    assert found["results.storage_options"].line == 7
    assert str(found["display.progress"]) == "GRAPHFLOW_PROGRESS"
    assert "runs.history" not in found


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "[runs]\nlease_second = 3\n",
            r"lease_second in .*graphflow.toml, line 2; did you mean runs.lease_seconds\?",
        ),
        ("lease_seconds = 3\n", r"did you mean runs.lease_seconds\?"),
        ("[runs]\nlease_seconds = -3\n", r"line 2 is -3; use a positive number of seconds"),
        ('[display]\nprogress = "of"\n', r"line 2 is 'of'; use 'auto', 'live', 'plain' or 'off'"),
        ("[store]\nattempts = 1.5\n", r"line 2 is 1.5; use a positive integer"),
        ("runs = 3\n", r"line 1 is not a table of settings"),
        ("[runs\n", r"graphflow.toml cannot be read"),
    ],
)
def test_what_is_wrong_in_a_file_is_refused_with_its_line(places: Path, text: str, told: str) -> None:
    (places / "project" / "graphflow.toml").write_text(text)
    with pytest.raises(SettingsError, match=told):
        settings.lease_seconds()


def test_unknown_names_are_refused_elsewhere_too(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=r"did you mean display.progress\?"):  # noqa: SIM117
        with graphflow.settings(display__progres="off"):
            pass
    assert not settings.overrides()
    for name in ("GRAPHFLOW_RUNS__LEASE_SECOND", "GRAPHFLOW_RUN__LEASE_SECONDS"):
        monkeypatch.setenv(name, "3")
        with pytest.raises(SettingsError, match=rf"{name}; did you mean GRAPHFLOW_RUNS__LEASE_SECONDS\?"):
            settings.lease_seconds()
        monkeypatch.delenv(name)


def test_the_active_profile_is_the_one_that_counts(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (places / "user.toml").write_text(
        'active = "slow"\n[profiles.slow.store]\nattempts = 9\n[profiles.quick.store]\nattempts = 1\n'
    )
    assert settings.store_attempts() == 9
    monkeypatch.setenv("GRAPHFLOW_PROFILE", "quick")
    assert settings.store_attempts() == 1
    monkeypatch.setenv("GRAPHFLOW_PROFILE", "quic")
    with pytest.raises(
        SettingsError, match=r"no profile 'quic', which GRAPHFLOW_PROFILE names; did you mean quick\?"
    ):
        settings.store_attempts()


def test_options_of_stores_are_merged_by_nothing_and_shown_to_nobody(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHFLOW_RESULTS__STORAGE_OPTIONS", '{"secret": "canary"}')
    assert settings.result_storage_options() == {"secret": "canary"}
    (places / "project" / "graphflow.toml").write_text(
        '[results]\nstorage = "s3://user:canary@host/bucket"\n'
    )
    shown = settings.shown()
    assert "canary" not in str(shown)
    assert shown["GRAPHFLOW_RESULT_STORAGE"] == "s3://***@host/bucket"
    monkeypatch.setenv("GRAPHFLOW_RESULTS__STORAGE_OPTIONS", "[canary")
    with pytest.raises(SettingsError, match="not a JSON object") as info:
        settings.result_storage_options()
    assert "canary" not in str(info.value)


def test_a_plain_environment_loads_no_pydantic(places: Path) -> None:
    program = (
        "import sys; from graphflow.common import settings; "
        "settings.lease_seconds(); settings.progress(); print('pydantic' in sys.modules)"
    )
    environ = {"GRAPHFLOW_PROGRESS": "off", "GRAPHFLOW_HOME": str(places), "HOME": str(places), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environ, check=True
    )
    assert done.stdout == "False\n"


def test_each_setting_is_in_the_documentation() -> None:
    text = (Path(__file__).parents[3] / "docs" / "configuration.md").read_text(encoding="utf-8")
    for each in settings.SETTINGS:
        assert re.search(rf"`{re.escape(each.key)}` \| `{each.variable}`", text), each.key


def test_a_profile_has_a_server_and_its_token_is_for_it_alone(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert settings.api_server() == ("", "")
    (places / "user.toml").write_text('[profiles.default.api]\nurl = "https://one"\ntoken = "t1"\n')
    assert settings.api_server() == ("https://one", "t1")
    monkeypatch.setenv("GRAPHFLOW_API_TOKEN", "t2")
    assert settings.api_server() == ("https://one", "t2")
    monkeypatch.delenv("GRAPHFLOW_API_TOKEN")
    monkeypatch.setenv("GRAPHFLOW_API_URL", "https://two")
    assert settings.api_server() == ("https://two", "")
    assert settings.shown()["GRAPHFLOW_API_TOKEN"] == "***"
    (places / "project" / "graphflow.toml").write_text('[api]\ntoken = "t3"\n')
    with pytest.raises(SettingsError, match="not a setting of a project; set it in your own file") as caught:
        settings.api_server()
    assert "t3" not in str(caught.value)
