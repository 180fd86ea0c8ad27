"""Digests, fingerprints and keys are the same in all processes, whatever their hash seed and their version of Python."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

from graphflow.common.ids import node_key

DIGEST_SCRIPT = """
import sys, pathlib, decimal, uuid, datetime
sys.path.insert(0, sys.argv[1])
from graphflow.identity.hashing import canonical_digest, item_digests
import collections
value = {
    "set": {"a", "b", "c", 1, None, (1, "x"), frozenset({"p", "q"})},
    "dict": {("k", i): str(i) for i in range(20)},
    "path": pathlib.Path("a/b"), "decimal": decimal.Decimal("1.50"), "uuid": uuid.UUID(int=7),
    "when": datetime.datetime(2020, 1, 2, tzinfo=datetime.timezone.utc),
}
print(canonical_digest(value).hex(), item_digests([1, "a", b"b", 2.5, None, {"x", "y"}]).hex())
"""


def test_a_digest_is_the_same_in_another_process_with_another_hash_seed() -> None:
    found = set()
    for seed in ("0", "1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", DIGEST_SCRIPT, "."],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        found.add(done.stdout)
    assert len(found) == 1
    # As it was when this format was made: digests that are kept must not change.
    assert found == {DIGEST_GOLDEN}


DIGEST_GOLDEN = (
    "3ccb2c744aa351821ec62582c5bb20c7 "
    "9c5ba731e8c4768b4e898737fc485a5be72b5c1c36f0a03bc32e946d1bf95c975dba33a5971e98b48ae6f7e398aa4abf\n"
)


CODE_SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from graphflow.identity.fingerprints import code_fingerprint
import main
print(code_fingerprint(main.f), code_fingerprint(main.g))
"""


def test_a_fingerprint_is_the_same_in_another_process(tmp_path: Path) -> None:
    source = """
        KINDS = frozenset({"a", "b", "c"})

        class Row:
            fields = ("x", "y")

        def g(x, *, kinds=frozenset({"p", "q"})):
            return x in KINDS and x in {"u", "v", "w"} and f"{x!r:>{len(x)}}" and Row.fields

        f = lambda x: g(x)
    """
    (tmp_path / "main.py").write_text(textwrap.dedent(source))
    found = set()
    for seed in ("0", "1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", CODE_SCRIPT, str(tmp_path)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        found.add(done.stdout)
    assert len(found) == 1
    # As it was when this was written: the same for all versions of Python.
    assert found == {CODE_GOLDEN}


CODE_GOLDEN = "c83bc5f99323c0fab81aa04e10d946e6 f7724af775ccb55ea62b9e9d8df15ee3\n"


def test_a_node_key_is_the_same_in_a_process_with_another_hash_seed() -> None:
    code = "from graphflow.common.ids import node_key; print(node_key('flow', 'scope', 'task', 3))"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONHASHSEED": "7", "PYTHONPATH": ":".join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == node_key("flow", "scope", "task", 3)


DATA = Path(__file__).resolve().parents[1] / "data"


def pythons() -> list[str]:
    """The versions of Python that are here and that graphflow supports."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = {sys.version_info[:2]: sys.executable}
    for minor in range(11, 15):
        places = [str(each / "bin" / "python") for each in sorted(root.glob(f"3.{minor}.*"))]
        path = places[-1] if places else shutil.which(f"python3.{minor}")
        if path is not None and (3, minor) not in found:
            runs = subprocess.run([path, "--version"], capture_output=True, timeout=30)
            if runs.returncode == 0:
                found[(3, minor)] = path
    return list(found.values())


def test_keys_are_the_same_in_all_processes_for_all_versions_and_as_they_were() -> None:
    golden = json.loads((DATA / "keys.json").read_text())
    for seed, python in enumerate([sys.executable, *pythons()]):
        done = subprocess.run(
            [python, str(DATA / "key_program.py")],
            env={**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        # A change here makes all that users have cached worthless: change SCHEME, and say so in the changelog.
        assert json.loads(done.stdout) == golden, python
    values = [name for name in golden if name.startswith("value ")]
    assert len({golden[name] for name in values}) == len(values)


PIPELINE = """
from graphflow import INPUTS, task
from graphflow.identity.cache_keys import key_spec
from graphflow.graph.recording import Recorder

LIMIT = 3

def helper(x):
    return x + LIMIT

@task(cache_policy=INPUTS)
def work(x):
    return helper(x)

spec = key_spec(Recorder(flow_name="f").call(work._callee, (1,), {}).program, run_id="r")
print(spec.task_key, spec.folder, spec.prefix.hex())
"""


def test_a_script_has_the_keys_that_it_has_as_a_module(tmp_path: Path) -> None:
    (tmp_path / "pipeline.py").write_text(PIPELINE)
    found = {
        subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for command in (["pipeline.py"], ["-m", "pipeline"], ["-c", "import pipeline"])
    }
    assert len(found) == 1
    assert found.pop().startswith("pipeline.work work-")
