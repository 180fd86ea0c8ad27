"""What is not asked for is not loaded."""

from __future__ import annotations

import subprocess
import sys


def test_networkx_is_loaded_only_when_it_is_asked_for() -> None:
    code = "import sys, graphflow.graph.graph as g; g.Graph().to_json(); print('networkx' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": ":".join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "False"


def test_opening_a_store_loads_no_file_system() -> None:
    text = (
        "import sys; from graphflow.results.stores.opening import open_store; open_store('s3://b', key=bytes(32));"
        "print([name for name in ('fsspec', 's3fs', 'botocore', 'asyncio', 'dask') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]", done.stdout


def test_numpy_is_loaded_by_those_who_use_a_cache_alone() -> None:
    code = (
        "import sys, graphflow, graphflow.cli.main, graphflow.cache.cached, graphflow.results.packs.serializers\n"
        "assert not {'numpy', 'pyarrow', 'backports.zstd'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_backend_keeps_its_name_when_its_modules_are_loaded() -> None:
    code = (
        "from graphflow import backends; import graphflow.backends.dask.cluster, graphflow.backends.local;"
        "assert all(callable(getattr(backends, name)) for name in backends.__all__), vars(backends)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
