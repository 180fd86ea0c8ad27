"""A training pipeline as one would write it for Prefect: only the import line differs.

python examples/training.py
graphflow run examples/training.py -p learning_rate=0.1
"""

from graphflow import flow, task


@task(retries=3, retry_delay_seconds=60)
def load_data(rows: int) -> list[tuple[float, float]]:
    return [(x / rows, 3 * x / rows + 1) for x in range(rows)]


@task
def split(data: list[tuple[float, float]], share: float) -> dict[str, list[tuple[float, float]]]:
    cut = int(len(data) * share)
    return {"train": data[:cut], "test": data[cut:]}


@task(retries=3, retry_delay_seconds=60)
def train_model(train: list[tuple[float, float]], learning_rate: float, epochs: int) -> dict[str, float]:
    slope = intercept = 0.0
    for _ in range(epochs):
        for x, y in train:
            error = slope * x + intercept - y
            slope -= learning_rate * error * x
            intercept -= learning_rate * error
    return {"slope": slope, "intercept": intercept}


@task
def evaluate_model(model: dict[str, float], test: list[tuple[float, float]]) -> dict[str, float]:
    errors = [model["slope"] * x + model["intercept"] - y for x, y in test]
    return {"mean_absolute_error": round(sum(map(abs, errors)) / len(errors), 6)}


@flow(name="ml-training-pipeline", log_prints=True)
def training_pipeline(rows: int = 100, learning_rate: float = 0.05, epochs: int = 200) -> dict[str, float]:
    data = load_data(rows)
    parts = split(data, 0.8)
    model = train_model(parts["train"], learning_rate, epochs)
    metrics = evaluate_model(model, parts["test"])
    print(f"Training complete: {metrics}")
    return metrics


if __name__ == "__main__":
    training_pipeline()
