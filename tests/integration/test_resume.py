"""Another launch of a run: what was done is kept, what is missing runs, and what depends on it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from graphflow import allow_failure, flow, history, pause_run, task, task_context, unmapped
from graphflow.errors import (
    FlowChanged,
    GraphflowError,
    MapFailed,
    ParameterError,
    RunNotFound,
    SourceChanged,
)
from graphflow.runs.run import Run


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """While this file is there, what looks at it fails."""
    place = tmp_path / "broken"
    place.touch()
    return place


def counts(tally: Any) -> dict[str, int]:
    """How often each was executed."""
    found: dict[str, int] = {}
    for each in tally.all():
        found[each] = found.get(each, 0) + 1
    return found


def test_only_what_is_missing_runs(backend_name: Any, tally: Any, broken: Path) -> None:
    place, log = str(broken), tally

    @task
    def square(x: int) -> int:
        log.add(f"square {x}")
        if x % 10 == 3 and Path(place).exists():
            raise ValueError(f"bad {x}")
        return x * x

    @task
    def double(x: int) -> int:
        log.add(f"double {x}")
        return 2 * x

    @task
    def total(values: list[int]) -> int:
        log.add("total")
        return sum(values)

    @flow(backend=backend_name)
    def body(n: int) -> Any:
        return total(double.map(square.map(range(n))))

    run = body.run(100)
    assert run.state == "Failed"
    before = counts(tally)
    assert "total" not in before
    broken.unlink()
    again = body.resume(run.id)
    assert again.state == "Completed" and again.id == run.id
    assert again.value == sum(2 * x * x for x in range(100))
    after = counts(tally)
    for x in range(100):
        assert after[f"square {x}"] == (2 if x % 10 == 3 else 1)
        assert after[f"double {x * x}"] == 1
    assert after["total"] == 1
    assert again.nodes["square"].counts["Completed"] == 100
    assert body.resume(run.id).value == again.value
    assert counts(tally) == after


def test_what_is_done_is_not_loaded_but_can_be_asked_for(local_name: str, tally: Any, broken: Path) -> None:
    @task
    def load(x: int) -> dict[str, int]:
        tally.add(f"load {x}")
        return {"x": x}

    @task
    def check(rows: list[dict[str, int]]) -> int:
        if broken.exists():
            raise OSError("not yet")
        return sum(row["x"] for row in rows)

    @flow(backend=local_name)
    def body() -> Any:
        rows = load.map([3, 4, 5])
        first = rows[0].result()
        return first["x"], check(rows)

    run = body.run()
    assert run.state == "Failed"
    broken.unlink()
    again = body.resume(run.id)
    assert again.value == (3, 12)
    assert counts(tally) == {"load 3": 1, "load 4": 1, "load 5": 1}
    assert [item.value for item in again.nodes["load"].items] == [{"x": 3}, {"x": 4}, {"x": 5}]


def test_the_body_decides_anew(local_name: str, tally: Any, broken: Path) -> None:
    @task
    def probe() -> bool:
        tally.add("probe")
        return broken.exists()

    @task
    def fail() -> int:
        tally.add("fail")
        raise ValueError("no")

    @task
    def work(x: int) -> int:
        tally.add("work")
        return x

    @flow(backend=local_name)
    def body() -> Any:
        if probe().result() and broken.exists():
            return fail()
        return work(7)

    run = body.run()
    assert run.state == "Failed"
    broken.unlink()
    again = body.resume(run.id)
    assert again.value == 7
    assert counts(tally) == {"probe": 1, "fail": 1, "work": 1}


def test_what_took_a_failure_runs_again_when_that_is_mended(
    local_name: str, tally: Any, broken: Path
) -> None:
    @task
    def pick(x: int) -> int:
        if x == 1 and broken.exists():
            raise ValueError("bad")
        return x

    @task
    def report(values: list[Any]) -> list[str]:
        tally.add("report")
        return [str(value) for value in values]

    @task
    def finish(lines: list[str]) -> int:
        if broken.exists():
            raise OSError("no")
        return len(lines)

    @flow(backend=local_name)
    def body() -> Any:
        lines = report(allow_failure(pick.map([0, 1, 2])))
        return lines, finish(lines)

    run = body.run()
    assert run.state == "Failed"
    broken.unlink()
    again = body.resume(run.id)
    assert again.value == (["0", "1", "2"], 3)
    assert counts(tally) == {"report": 2}


def test_tasks_that_return_futures_are_taken_over(local_name: str, tally: Any, broken: Path) -> None:
    @task
    def leaf(x: int) -> int:
        tally.add(f"leaf {x}")
        if x == 5 and broken.exists():
            raise ValueError("bad")
        return x

    @task
    def fan(n: int) -> Any:
        tally.add(f"fan {n}")
        return leaf.map(range(n))

    @flow(backend=local_name)
    def body() -> Any:
        return fan.map([2, 4, 6])

    run = body.run()
    assert run.state == "Failed"
    broken.unlink()
    again = body.resume(run.id)
    assert again.value == [[0, 1], [0, 1, 2, 3], [0, 1, 2, 3, 4, 5]]
    found = counts(tally)
    assert found["fan 2"] == found["fan 4"] == 1
    assert found["leaf 5"] == 2 and found["leaf 4"] == 1


def made(tally: Any, broken: Path, *, version: int) -> Callable[..., Any]:
    """A flow whose task has this version of its code."""
    if version == 1:

        @task(name="work")
        def work(x: int) -> int:
            tally.add(f"one {x}")
            if x == 2 and broken.exists():
                raise ValueError("bad")
            return x
    else:

        @task(name="work")
        def work(x: int) -> int:
            tally.add(f"two {x}")
            return x + 100

    @task
    def collect(values: list[int]) -> list[int]:
        return values

    @flow(name="made", backend="threads")
    def body() -> Any:
        return collect(work.map(range(4)))

    return body


def test_a_task_whose_code_changed_keeps_what_is_done(
    tally: Any, broken: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = made(tally, broken, version=1).run()
    with caplog.at_level(logging.WARNING, "graphflow.recovery"):
        again = made(tally, broken, version=2).resume(run.id)
    assert again.value == [0, 1, 102, 3]
    warned = [record.getMessage() for record in caplog.records if "changed code" in record.getMessage()]
    assert len(warned) == 1 and "'work'" in warned[0]


def test_changed_tasks_run_anew_where_that_is_asked_for(tally: Any, broken: Path) -> None:
    run = made(tally, broken, version=1).run()
    again = made(tally, broken, version=2).resume(run.id, rerun_changed=True)
    assert again.value == [100, 101, 102, 103]


def test_a_flow_that_does_not_match_any_more_is_refused(tally: Any, broken: Path) -> None:
    @task
    def first() -> int:
        tally.add("first")
        return 1

    @task
    def second(x: int) -> int:
        tally.add("second")
        if broken.exists():
            raise ValueError("bad")
        return x + 1

    @task
    def other(x: int) -> int:
        tally.add("other")
        return x + 10

    @flow(name="changing", backend="threads")
    def before() -> Any:
        return second(first())

    @flow(name="changing", backend="threads")
    def after() -> Any:
        return second(other(first()))

    run = before.run()
    assert run.state == "Failed"
    broken.unlink()
    refused = after.resume(run.id)
    assert refused.state == "Failed"
    assert isinstance(refused.exception, FlowChanged)
    assert "call 2 was 'second'" in str(refused.exception) and "'other'" in str(refused.exception)
    forced = after.resume(run.id, force=True)
    assert forced.value == 12
    assert counts(tally)["first"] == 1


def test_items_whose_input_changed_run_again(tally: Any, broken: Path) -> None:
    given = ["a", "b", "c", "d"]

    @task
    def shout(text: str) -> str:
        tally.add(text)
        return text.upper()

    @task
    def join(texts: list[str]) -> str:
        if broken.exists():
            raise ValueError("bad")
        return "".join(texts)

    @flow(backend="threads")
    def body() -> Any:
        return join(shout.map(given))

    run = body.run()
    assert run.state == "Failed"
    broken.unlink()
    given[1] = "x"
    given.append("e")
    again = body.resume(run.id)
    assert again.value == "AXCDE"
    assert counts(tally) == {"a": 1, "b": 1, "c": 1, "d": 1, "x": 1, "e": 1}


def test_a_constant_that_changed_runs_all_anew(tally: Any, broken: Path) -> None:
    factor = [2]

    @task
    def scale(x: int, by: int) -> int:
        tally.add(f"{x} {by}")
        if x == 2 and broken.exists():
            raise ValueError("bad")
        return x * by

    @flow(backend="threads")
    def body() -> Any:
        return scale.map(range(3), by=factor[0])

    run = body.run()
    broken.unlink()
    factor[0] = 3
    assert body.resume(run.id).value == [0, 3, 6]
    assert counts(tally) == {"0 2": 1, "1 2": 1, "2 2": 1, "0 3": 1, "1 3": 1, "2 3": 1}


def test_maps_over_generators_resume(local_name: str, tally: Any, broken: Path) -> None:
    start = [0]

    def source() -> Iterator[int]:
        yield from range(start[0], start[0] + 50)

    @task
    def work(x: int) -> int:
        tally.add(f"{x}")
        if x == 40 and broken.exists():
            raise ValueError("bad")
        return x

    @flow(backend=local_name)
    def body() -> Any:
        return work.map(source())

    run = body.run()
    assert run.state == "Failed"
    broken.unlink()
    again = body.resume(run.id)
    assert again.value == [*range(50)]
    assert counts(tally) == {str(x): 2 if x == 40 else 1 for x in range(50)}


def test_a_generator_that_gives_something_else_is_refused(tally: Any, broken: Path) -> None:
    words = ["a", "b", "c", "d"]

    @task
    def work(x: str) -> str:
        if x == "d" and broken.exists():
            raise ValueError("bad")
        return x

    @flow(backend="threads")
    def body() -> Any:
        return work.map(word for word in words)

    run = body.run()
    assert isinstance(run.exception, MapFailed | ValueError)
    broken.unlink()
    words[2] = "other"
    again = body.resume(run.id)
    assert isinstance(again.exception, SourceChanged) and "item 2" in str(again.exception)
    del words[2:]
    again = body.resume(run.id)
    assert isinstance(again.exception, SourceChanged)


def test_values_that_do_not_persist_are_made_again_where_they_are_needed(tally: Any, broken: Path) -> None:
    @task(persist_result=False)
    def load() -> int:
        tally.add("load")
        return 10

    @task
    def work(x: int, base: int) -> int:
        tally.add(f"work {x}")
        if x == 2 and broken.exists():
            raise ValueError("bad")
        return base + x

    @flow(backend="threads")
    def body() -> Any:
        return work.map(range(4), base=unmapped(load()))

    run = body.run()
    broken.unlink()
    assert body.resume(run.id).value == [10, 11, 12, 13]
    assert counts(tally) == {"load": 2, "work 0": 1, "work 1": 1, "work 2": 2, "work 3": 1}


def test_a_damaged_pack_runs_its_items_again(
    tally: Any, broken: Path, results_of: Callable[[Run], Path]
) -> None:
    @task(batch_size=2)
    def work(x: int) -> str:
        tally.add(f"{x}")
        return f"value {x}"

    @task
    def join(texts: list[str]) -> str:
        if broken.exists():
            raise ValueError("bad")
        return ",".join(texts)

    @flow(backend="threads")
    def body() -> Any:
        return join(work.map(range(6)))

    run = body.run()
    (pack,) = results_of(run).glob("*.pack")
    data = bytearray(pack.read_bytes())
    column = (len(data) - 16) // 3
    data[16 + column + column // 2] ^= 16
    pack.write_bytes(data[:-8])
    broken.unlink()
    assert body.resume(run.id).value == ",".join(f"value {x}" for x in range(6))
    assert sorted(counts(tally).values()) == [1, 1, 2, 2, 2, 2]


def test_redrive_runs_just_those_items_and_what_depends_on_them(backend_name: Any, tally: Any) -> None:
    log = tally

    @task
    def square(x: int) -> int:
        log.add(f"square {x}")
        return x * x

    @task
    def double(x: int) -> int:
        log.add(f"double {x}")
        return 2 * x

    @task
    def total(values: list[int]) -> int:
        log.add("total")
        return sum(values)

    @flow(backend=backend_name)
    def body() -> Any:
        return total(double.map(square.map(range(20))))

    run = body.run()
    again = body.redrive(run.id, node="square", indices=[3, 7])
    assert again.value == run.value
    found = counts(tally)
    assert {key for key, count in found.items() if count == 2} == {
        "square 3",
        "square 7",
        "double 9",
        "double 49",
        "total",
    }
    body.redrive(run.id, node="double")
    found = counts(tally)
    assert (
        found["square 1"] == 1 and found["double 1"] == 2 and found["double 9"] == 3 and found["total"] == 3
    )


def test_redrive_of_what_failed(tally: Any, broken: Path) -> None:
    @task
    def work(x: int) -> int:
        tally.add(f"{x}")
        if x in (3, 5) and broken.exists():
            raise ValueError("bad")
        return x

    @flow(backend="threads")
    def body() -> Any:
        found = work.map(range(8))
        return len(found.failures())

    run = body.run()
    assert run.state == "Completed" and run.value == 2
    broken.unlink()
    again = body.redrive(run.id)
    assert again.value == 0
    assert counts(tally) == {str(x): 2 if x in (3, 5) else 1 for x in range(8)}


def test_redrive_of_what_failed_in_a_lane_keeps_its_inputs(local_name: str, tally: Any, broken: Path) -> None:
    """Nothing else needed the values of the task before it; they are kept all the same."""
    place, log = str(broken), tally

    @task
    def fetch(x: int) -> list[int]:
        log.add(f"fetch {x}")
        return [x] * 2_000

    @task
    def parse(page: list[int]) -> int:
        log.add(f"parse {page[0]}")
        if page[0] in (3, 5) and Path(place).exists():
            raise ValueError("bad")
        return page[0]

    @flow(backend=local_name)
    def body() -> Any:
        return parse.map(fetch.map(range(8)))

    run = body.run()
    assert run.state == "Failed"
    broken.unlink()
    again = body.redrive(run.id)
    assert again.value == [*range(8)]
    executed = {f"fetch {x}": 1 for x in range(8)} | {f"parse {x}": 2 if x in (3, 5) else 1 for x in range(8)}
    assert counts(tally) == executed


def test_redrive_leaves_other_failures_alone(tally: Any, broken: Path) -> None:
    @task
    def work(x: int) -> int:
        tally.add(f"{x}")
        if x in (3, 5) and broken.exists():
            raise ValueError(f"bad {x}")
        return x

    @flow(backend="threads")
    def body() -> Any:
        return work.map(range(8))

    run = body.run()
    broken.unlink()
    again = body.redrive(run.id, node="work", indices=[3])
    assert again.state == "Failed"
    assert [failure.index for failure in again.nodes["work"].failures()] == [5]
    assert "bad 5" in str(again.exception)
    assert counts(tally) == {str(x): 2 if x == 3 else 1 for x in range(8)}


def test_bad_requests_are_refused_before_anything_runs(tally: Any) -> None:
    @task
    def work(x: int) -> int:
        tally.add("work")
        return x

    @flow(name="asked", backend="threads")
    def body(n: int) -> Any:
        return work.map(range(n))

    @flow(name="another", backend="threads")
    def another() -> int:
        return 1

    run = body.run(2)
    for wrong in (
        lambda: body.redrive(run.id, node="nothing"),
        lambda: body.resume("01ZZZZZZZZZZZZZZZZZZZZZZZZ"),
        lambda: another.resume(run.id),
    ):
        with pytest.raises(RunNotFound):
            wrong()
    with pytest.raises(IndexError):
        body.redrive(run.id, node="work", indices=[2])
    with pytest.raises(ParameterError):
        body.redrive(run.id, node="work", indices=[])
    with pytest.raises(ParameterError):
        body.redrive(run.id, failed=True, node="work")
    assert counts(tally) == {"work": 2}
    assert body.resume(run.id).value == [0, 1]


def test_an_id_of_ones_own_runs_once(tally: Any, broken: Path) -> None:
    @task
    def work(x: int) -> int:
        tally.add(f"{x}")
        if x == 1 and broken.exists():
            raise ValueError("bad")
        return x

    @flow(backend="threads")
    def body(n: int = 3) -> Any:
        return work.map(range(n))

    name = f"nightly-{broken.parent.name}"
    run = body.run(run_id=name)
    assert run.id == name and run.state == "Failed"
    with pytest.raises(ParameterError, match="n=3"):
        body.run(4, run_id=name)
    broken.unlink()
    assert body.run(run_id=name).value == [0, 1, 2]
    assert body.run(run_id=name).value == [0, 1, 2]
    assert counts(tally) == {"0": 1, "1": 2, "2": 1}
    with pytest.raises(ParameterError, match="id"):
        body.run(run_id="../elsewhere")


async def resumed(body: Any, run_id: str) -> Run:
    run: Run = await body.resume(run_id)
    return run


def test_async_flows_resume(tally: Any, broken: Path) -> None:
    import asyncio

    @task
    async def work(x: int) -> int:
        tally.add(f"{x}")
        if x == 1 and broken.exists():
            raise ValueError("bad")
        return x

    @flow(backend="threads")
    async def body() -> Any:
        return await work.map(range(3))

    async def both() -> tuple[Run, Run]:
        run = await body.run()
        broken.unlink()
        return run, await resumed(body, run.id)

    run, again = asyncio.run(both())
    assert run.state == "Failed" and again.value == [0, 1, 2]
    assert counts(tally) == {"0": 1, "1": 2, "2": 1}


def test_attempts_of_a_flow_start_anew_and_resume_takes_the_last(tally: Any, broken: Path) -> None:
    @task
    def work(x: int) -> int:
        tally.add(f"{x}")
        if x == 1 and broken.exists():
            raise ValueError("bad")
        return x

    @flow(backend="threads", retries=1)
    def body() -> Any:
        return work.map(range(3))

    run = body.run()
    assert run.attempt == 2 and run.state == "Failed"
    assert counts(tally) == {"0": 2, "1": 2, "2": 2}
    broken.unlink()
    assert body.resume(run.id).value == [0, 1, 2]
    assert counts(tally) == {"0": 2, "1": 3, "2": 2}


def test_what_was_changed_while_it_ran_holds_in_the_next_launch(tally: Any, broken: Path) -> None:
    started, updated = threading.Event(), threading.Event()

    @task(retries=0)
    def work(x: int) -> int:
        tally.add(f"{x}")
        started.set()
        assert updated.wait(30)
        if x == 3 and broken.exists():
            raise ValueError("bad")
        return x

    @flow(backend="threads:1")
    def body() -> Any:
        return work.with_options(batch_size=1).map(range(6))

    run = body.start()
    assert started.wait(30)
    run.update("work", max_concurrency=1, retries=1, retry_delay_seconds=0.01)
    updated.set()
    run.wait()
    assert run.state == "Failed"
    before = counts(tally)["3"]
    again = body.resume(run.id)
    node = again.nodes["work"]
    # It fails again, now with the retry that was asked for then.
    assert again.state == "Failed" and node.items[3].attempts == 2
    assert counts(tally)["3"] == before + 2
    assert again._record.recorder is not None
    assert again._record.recorder.driver.core.books[node.id].map_options.max_concurrency == 1


def test_a_paused_body_goes_on_when_it_is_resumed(local_name: str, wait_until: Callable[..., None]) -> None:
    @task
    def work(x: int) -> int:
        return x + 1

    @flow(backend=local_name)
    def body() -> Any:
        first = work(1).result()
        pause_run()
        return work(first)

    run = body.start()
    wait_until(lambda: run.state == "Paused")
    with history() as past:
        assert past.run(run.id).state == "Paused"
        past.run(run.id).resume()
    run.wait()
    assert run.value == 3
    assert [state.name for state in run.history] == ["Pending", "Running", "Paused", "Running", "Completed"]

    @flow(backend=local_name)
    def impatient() -> Any:
        pause_run(timeout=0.05)

    assert isinstance(impatient.run().exception, TimeoutError)
    with pytest.raises(GraphflowError, match="pause_run"):
        pause_run()


def test_hooks_are_called_when_all_is_written_down(local_name: str) -> None:
    seen: dict[str, str] = {}

    def look(obj: Any, run: Any, state: Any) -> None:
        with history() as past:
            found = past.run("@latest")
            if isinstance(run, Run):
                seen["flow"] = f"{found.state} {state.name}"
            else:
                item = found.nodes["work"].items[run.index or 0]
                seen[f"item {run.index}"] = f"{item.state} {state.name}"

    @task(on_completion=[look], on_failure=[look])
    def work(x: int) -> int:
        if x == 2:
            raise ValueError("bad")
        return x

    @flow(backend=local_name, on_failure=[look])
    def body() -> Any:
        return work.map(range(3))

    body.run()
    assert seen == {
        "item 0": "Completed Completed",
        "item 1": "Completed Completed",
        "item 2": "Failed Failed",
        "flow": "Failed Failed",
    }


def test_what_does_not_persist_is_said(tally: Any, broken: Path, caplog: pytest.LogCaptureFixture) -> None:
    @task(persist_result=False)
    def load(x: int) -> int:
        tally.add(f"{x}")
        return x

    @task
    def total(values: list[int]) -> int:
        if broken.exists():
            raise ValueError("bad")
        return sum(values)

    @flow(backend="threads")
    def body() -> Any:
        return total(load.map(range(3)))

    run = body.run()
    broken.unlink()
    with caplog.at_level(logging.WARNING, "graphflow.recovery"):
        assert body.resume(run.id).value == 3
    assert [record for record in caplog.records if "has persist_result=False" in record.getMessage()]
    assert counts(tally) == {"0": 2, "1": 2, "2": 2}


def test_tasks_see_one_run_in_all_its_launches(backend_name: Any, tally: Any, broken: Path) -> None:
    place, log = str(broken), tally

    @task
    def work(x: int) -> int:
        context = task_context()
        log.add(f"{context.run_id} {context.idempotency_key}")
        if Path(place).exists():
            raise ValueError("bad")
        return x

    @flow(backend=backend_name)
    def body() -> Any:
        return work.map(range(3))

    run = body.run()
    broken.unlink()
    assert body.resume(run.id).value == [0, 1, 2]
    found = counts(tally)
    assert set(found.values()) == {2} and len(found) == 3
    assert {key.split()[0] for key in found} == {run.id}


def test_a_retry_of_what_failed_runs_tolerated_failures_too(
    backend_name: Any, tally: Any, tmp_path: Path
) -> None:
    mended, executed = tmp_path / "mended", tally

    @task
    def fetch(x: int) -> int:
        executed.add(x)
        if x % 4 == 1 and not mended.exists():
            raise OSError(f"no {x}")
        return x

    @task
    def plus(x: int) -> int:
        return x + 1

    @task
    def total(xs: list[int]) -> int:
        return sum(xs)

    @flow(backend=backend_name)
    def body() -> Any:
        fetched = fetch.with_options(tolerated_failure_count=3).map(range(10))
        return total(fetched), total(plus.map(fetched))

    run = body.run()
    assert run.state == "Completed"
    assert run.value == (45 - 1 - 5 - 9, 45 - 15 + 7)
    mended.touch()
    assert body.resume(run.id).value == run.value, "a resume keeps what was tolerated"
    again = body.redrive(run.id, failed=True)
    assert again.state == "Completed" and again.value == (45, 55)
    assert again.nodes["fetch"].counts == {"Completed": 10}
    assert [executed.count(x) for x in range(10)] == [1, 2, 1, 1, 1, 2, 1, 1, 1, 2]
