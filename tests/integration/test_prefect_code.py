"""Two programs as they are written for Prefect, with only the import line changed."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

TRAINING = """
from {module} import flow, task

@task(retries=3, retry_delay_seconds=60)
def load_data(path: str):
    return [1.0, 2.0, 3.0]

@task(retries=3, retry_delay_seconds=60)
def preprocess(raw):
    return [x / max(raw) for x in raw]

@task(retries=3, retry_delay_seconds=60)
def train_model(features, epochs: int = 10):
    return {{"weights": sum(features), "epochs": epochs}}

@task(retries=3, retry_delay_seconds=60)
def evaluate(model, features):
    return {{"accuracy": round(model["weights"] / len(features), 2), "epochs": model["epochs"]}}

@flow(name="ml-training-pipeline", log_prints=True)
def training_pipeline(data_path: str, epochs: int = 10):
    raw = load_data(data_path)
    features = preprocess(raw)
    model = train_model(features, epochs=epochs)
    metrics = evaluate(model, features)
    print(f"Training complete: {{metrics}}")
    return metrics
"""
EMBEDDING = """
from {module} import flow, task

@task(retries=2, tags=["embedding"])
def embed_single(document_path: str) -> list[float]:
    return [float(len(document_path)), 1.0]

@flow
def embed_documents(document_paths: list[str]):
    futures = embed_single.map(document_paths)
    return [f.result() for f in futures]
"""


@pytest.fixture
def program(request: pytest.FixtureRequest) -> Any:
    module = types.ModuleType("program")
    sys.modules["program"] = module
    yield lambda text: (exec(text.format(module="graphflow"), module.__dict__), module)[1]
    del sys.modules["program"]


def test_a_training_flow_runs_as_it_is(program: Any, backend_name: str, capsys: Any) -> None:
    pipeline = program(TRAINING).training_pipeline.with_options(backend=backend_name)
    expected = {"accuracy": 0.67, "epochs": 5}
    assert pipeline("data.csv", epochs=5) == expected
    assert capsys.readouterr().out == f"Training complete: {expected}\n"
    run = pipeline.run("data.csv")
    assert run.flow_name == "ml-training-pipeline"
    assert f"Training complete: {run.value}" in [record.message for record in run.logs]


def test_a_mapped_flow_that_reads_each_result_runs_as_it_is(program: Any, backend_name: str) -> None:
    embed = program(EMBEDDING).embed_documents.with_options(backend=backend_name)
    assert embed(["a", "bcd"]) == [[1.0, 1.0], [3.0, 1.0]]
    assert embed([]) == []
