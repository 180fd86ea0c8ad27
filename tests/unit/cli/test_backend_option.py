"""The `--backend` option's forms."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from graphflow.cli.backend_option import BackendSpec, parse_backend


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("inline", BackendSpec(name="inline")),
        ("threads", BackendSpec(name="threads")),
        ("local", BackendSpec(name="local")),
        ("local:4", BackendSpec(name="local", slots=4)),
        ("threads:3", BackendSpec(name="threads", slots=3)),
        ("processes:4", BackendSpec(name="processes", slots=4)),
        ("tcp://10.0.0.1:8786", BackendSpec(name="dask", address="tcp://10.0.0.1:8786")),
        ("tls://host:8786", BackendSpec(name="dask", address="tls://host:8786")),
    ],
)
def test_a_form_is_understood(text: str, spec: BackendSpec) -> None:
    assert parse_backend(text) == spec


def test_a_json_file_is_a_scheduler_file(tmp_path: Path) -> None:
    path = tmp_path / "scheduler.json"
    path.write_text("{}", encoding="utf-8")

    assert parse_backend(str(path)) == BackendSpec(name="dask", scheduler_file=str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("thread", "unknown backend 'thread'; use local[:N], inline, threads[:N]"),
        ("thread", "Did you mean 'threads'?"),
        ("threads:0", "must be a whole number of at least 1, not '0'"),
        ("processes:two", "must be a whole number of at least 1, not 'two'"),
        ("processes:", "not ''"),
        ("missing.json", "there is no scheduler file 'missing.json'"),
    ],
)
def test_anything_else_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(typer.BadParameter) as caught:
        parse_backend(text)

    assert message in str(caught.value)
