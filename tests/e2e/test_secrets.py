"""Secrets are used, and are found nowhere: neither in what is written, nor in what is shown, nor in requests to a store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from graphflow.histories.sqlite import SqliteHistory
from graphflow.records.codec import decode
from graphflow.records.items import ItemsBody
from graphflow.records.joined import Joined
from graphflow.records.texts import TextVariants
from graphflow.testing.faults.s3proxy import S3Proxy
from graphflow.testing.faults.s3server import Bucket, S3Server

CANARY = 'kanarie-7f3c"9é'
STORE_KEY = "storekanarie4711"
PROGRAM = """
import logging, os, sys
from pydantic import SecretStr
from graphflow import INPUTS, Secret, allow_failure, flow, get_run_logger, task

@task(task_run_name="call {token}", log_prints=True, cache_policy=INPUTS, retries=1)
def call(x: int, token: Secret[str]) -> int:
    text = token.get_secret_value()
    print("calling with", text)
    logging.getLogger("mine").warning("a warning with %s", text)
    get_run_logger().info("text " + text)
    with open(os.environ["TALLY"], "a") as file:
        file.write(f"call {x}\\n")
    if x % 3 == 2 and os.environ.get("FAILS"):
        error = ValueError(f"{x}: bad token {text!r}", {"token": text})
        error.add_note(f"note {text}")
        error.token = text
        raise error from KeyError(text)
    return x * len(text)

@task(task_run_name="plain {text}")
def plain(text: str, x: int) -> int:
    if os.environ.get("FAILS"):
        raise RuntimeError(text + f" {x}")
    return len(text)

@task
def quiet(key: SecretStr) -> int:
    print("a key", key.get_secret_value())
    return len(key.get_secret_value())

@flow(name="keeper", flow_run_name="run with {token}")
def keeper(token: Secret[str], key: SecretStr, both: dict, n: int = 4) -> int:
    print("in the body", token.get_secret_value(), token, f"{key}")
    logging.getLogger("mine").error("the body has %s", both["inner"].get_secret_value())
    found = call.map(range(n), token=token)
    one = plain.map([token.get_secret_value()] * 2, range(2))
    return sum(found.result()) + sum(one.result()) + quiet(key).result()

if __name__ == "__main__":
    backend = sys.argv[1]
    text = os.environ["THE_TOKEN"]
    given = dict(token={"$secret": "THE_TOKEN"}, key=SecretStr(text), both={"inner": Secret(text)})
    chosen = keeper.with_options(backend=backend)
    if sys.argv[2] == "start":
        run = chosen.run(run_id="one", **given)
    else:
        run = chosen.resume("one", parameters={name: given[name] for name in ("key", "both")})
    print(run.state.name, run.value if run.state.is_completed() else run.exception)
    if sys.argv[2] == "start":
        run.result()
"""


class Recording(S3Proxy):
    """A proxy that keeps what it was sent."""

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        self.sent: list[bytes] = []

    def forward(self, method: str, path: str, headers: Sequence[tuple[str, str]], body: bytes) -> Any:
        self.sent.append(f"{method} {path} {headers!r}".encode() + bytes(body))
        return super().forward(method, path, headers, body)


def written(home: Path) -> Iterator[tuple[str, str]]:
    """All that is in a home, unpacked where it is packed."""
    for path in sorted(home.rglob("*")):
        if path.is_file():
            yield str(path), path.read_bytes().decode("utf-8", "replace")
    history = SqliteHistory(home)
    for header in history.runs():
        yield "the catalog", repr(header)
        for entry in history.read(header.id):
            value = decode(entry.record)
            text = repr(value)
            for body in value.bodies if isinstance(value, Joined) else [value]:
                if isinstance(body, ItemsBody) and body.step.labels is not None:
                    text += repr([*body.step.labels.data])
            if isinstance(value, TextVariants):
                text += "".join(repr(value.chunk(each)) for each in range(len(value.chunks)))
            yield f"record {entry.seq}", text
    history.close()


def forms(text: str) -> set[str]:
    return {text, text.encode().decode("latin-1"), repr(text)[1:-1], json.dumps(text)[1:-1], "kanarie"}


@pytest.mark.parametrize("backend", ["threads", "processes"])
def test_a_canary_is_found_nowhere(tmp_path: Path, s3: Bucket, s3_server: S3Server, backend: str) -> None:
    script, home, tally = tmp_path / "keeper.py", tmp_path / "home", tmp_path / "tally"
    script.write_text(PROGRAM)
    proxy = Recording(s3_server.endpoint)
    options = {**s3.storage_options, "endpoint_url": proxy.endpoint, "secret": STORE_KEY}
    env = {
        **os.environ,
        "GRAPHFLOW_HOME": str(home),
        "GRAPHFLOW_RESULT_STORAGE": f"{s3.url}/store",
        "GRAPHFLOW_RESULT_STORAGE_OPTIONS": json.dumps(options),
        "THE_TOKEN": CANARY,
        "TALLY": str(tally),
        "COLUMNS": "400",
        "PYTHONIOENCODING": "utf-8",
    }
    shown: list[str] = []

    def run(*command: str, **more: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, env={**env, **more}, encoding="utf-8"
        )
        shown.append(done.stdout + done.stderr)
        return done

    def cli(*command: str, **more: str) -> subprocess.CompletedProcess[str]:
        return run("-m", "graphflow", *command, **more)

    try:
        assert run(str(script), backend, "start", FAILS="1").returncode == 1
        assert "bad token" in shown[-1] and "***" in shown[-1]
        for command in (
            ("runs", "show", "one"),
            ("runs", "show", "one", "-o", "json"),
            ("runs", "show", "one", "--node", "call", "--index", "2"),
            ("runs", "failures", "one", "-v"),
            ("runs", "failures", "one", "-o", "json"),
            ("runs", "items", "one", "call", "-o", "jsonl"),
            ("runs", "items", "one", "plain"),
            ("runs", "logs", "one"),
            ("runs", "ls"),
            ("fsck",),
        ):
            done = cli(*command)
            assert done.returncode == 0, (command, done.stdout, done.stderr)
        # They are asked for again.
        asked = cli("runs", "resume", "one", "--backend", backend)
        assert asked.returncode == 3 and "began with a secret as" in asked.stderr, asked.stderr
        other = cli("runs", "resume", "one", "-p", "key=other", "-p", 'both:={"inner": "x"}')
        assert other.returncode == 3 and "is not the secret that run" in other.stderr
        before = tally.read_text()
        resumed = run(str(script), backend, "resume")
        assert resumed.returncode == 0, resumed.stderr
        assert f"Completed {6 * len(CANARY) + 3 * len(CANARY)}" in resumed.stdout
        assert sorted(tally.read_text()[len(before) :].splitlines()) == ["call 2"]
        missing = cli(
            "run", f"{script}:keeper", "-p", 'token:={"$secret": "NONE"}', "-p", "key=x", "-p", "both:={}"
        )
        assert missing.returncode == 3 and "there is no secret 'NONE'" in missing.stderr
    finally:
        proxy.close()
    assert len(proxy.sent) > 5
    for place, text in [
        *written(home),
        *((f"output {at}", text) for at, text in enumerate(shown)),
        *(("a request", sent.decode("utf-8", "replace")) for sent in proxy.sent),
    ]:
        found = [form for form in [*forms(CANARY), STORE_KEY] if form in text]
        assert not found, (place, found, text[max(0, text.find(found[0]) - 200) : text.find(found[0]) + 100])
