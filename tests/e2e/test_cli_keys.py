"""`graphflow key`: runs and results outlive their key; keys go to other machines, and are shown by export alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graphflow.cli.exits import ExitCode
from graphflow.common import settings

FLOWS = """
from pathlib import Path
from graphflow import flow, task
from graphflow.backends import threads

@task
def load(x):
    with open("executions", "a") as file:
        file.write(f"{x}\\n")
    if x == 3 and not Path("mended").exists():
        raise ValueError("bad")
    return x * 10

@flow(backend=threads(1))
def crawl(n: int = 5):
    return load.map(range(n))
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAPHFLOW_HOME", str(tmp_path / "home"))
    for name in (settings.KEY_VARIABLE, settings.KEY_FILE_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


def test_runs_outlive_their_key(cli: Callable[..., Any], folder: Path, home: Path) -> None:
    (folder / "flows.py").write_text(FLOWS)
    assert cli("run", "flows.py:crawl", "--run-id", "before", "-q").code == ExitCode.FAILED
    assert cli("key", "rotate").code == 0
    assert cli("fsck").code == 0
    assert json.loads(cli("runs", "show", "before", "-o", "json").out)["id"] == "before"
    (folder / "mended").touch()
    # Another launch of it reads what the old key signed, and goes on with that key.
    again = cli("run", "flows.py:crawl", "--run-id", "before", "-q")
    assert again.code == 0 and json.loads(again.out) == [0, 10, 20, 30, 40]
    assert (folder / "executions").read_text().split() == ["0", "1", "2", "3", "4", "3"]
    assert cli("key", "rotate").code == 0
    assert cli("run", "flows.py:crawl", "--run-id", "after", "-q").code == 0
    assert cli("fsck").code == 0
    # Without the old keys nothing that they signed is believed.
    for place in home.glob("secret.key.old*"):
        place.unlink()
    assert cli("fsck", "after").code == 0
    refused = cli("fsck", "before")
    assert refused.code == ExitCode.FAILED and "another key" in refused.out + refused.err


def test_a_key_is_shared(
    cli: Callable[..., Any], folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = cli("key", "export").out.strip()
    assert exported == settings.secret_key().hex()
    monkeypatch.setenv("GRAPHFLOW_HOME", str(folder / "elsewhere"))
    other = settings.secret_key()
    for command in (("show",), ("show", "-o", "json"), ("import", "-", "--only-accept")):
        done = cli("key", *command, stdin=exported)
        assert done.code == 0 and exported not in done.out + done.err
        assert other.hex() not in done.out + done.err
    assert settings.secret_keys() == (other, bytes.fromhex(exported))
    (folder / "key.txt").write_text(exported)
    done = cli("key", "import", "key.txt")
    assert done.code == 0 and "signs now" in done.err
    assert settings.secret_keys() == (bytes.fromhex(exported), other)
    document = json.loads(cli("key", "show", "-o", "json").out)
    assert [each["signs"] for each in document["keys"]] == [True, False]
    monkeypatch.setenv(settings.KEY_VARIABLE, exported)
    assert cli("key", "rotate").code == ExitCode.CANNOT_LOAD


def test_what_is_no_key_is_refused(cli: Callable[..., Any], folder: Path, home: Path) -> None:
    (folder / "key.txt").write_text("canary")
    for arguments in (("key.txt",), ("nowhere",), ("-",)):
        done = cli("key", "import", *arguments, stdin="canary")
        assert done.code == ExitCode.CANNOT_LOAD and "canary" not in done.out + done.err
    assert not (home / "secret.key").exists()
