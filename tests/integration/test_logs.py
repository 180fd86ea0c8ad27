"""Logs and prints, per item and per run."""

from __future__ import annotations

import logging
from typing import Any

from graphflow import flow, get_run_logger, task, task_context
from graphflow.testing.faults.processes import Script


@task
def talk(x: int) -> int:
    get_run_logger().info("info %s", x)
    get_run_logger().warning("warning %s", x)
    get_run_logger().debug("debug %s", x)
    print("print", x)
    return x


def messages(records: Any) -> list[str]:
    return [record.message for record in records]


def test_log_lines_reach_their_item_with_run_node_index_and_attempt(backend_name: str) -> None:
    @task(retries=1)
    def flaky(x: int) -> int:
        get_run_logger().info("attempt %s", task_context().attempt)
        if task_context().attempt == 1:
            raise OSError
        return x

    @flow(backend=backend_name)
    def body() -> Any:
        return flaky.map([1, 2])

    run = body.run()
    lines = run.nodes["flaky"].items[1].log
    assert [(line.message, line.node, line.index, line.attempt, line.run_id) for line in lines] == [
        ("attempt 1", "flaky", 1, 1, run.id),
        ("attempt 2", "flaky", 1, 2, run.id),
    ]
    assert lines[0].level == logging.INFO and lines[0].timestamp <= lines[1].timestamp
    assert len(run.logs) == 4


def test_prints_are_logged_only_where_asked_for(local_name: str, capsys: Any) -> None:
    @flow(backend=local_name)
    def body() -> Any:
        return talk(1), talk.with_options(log_prints=True)(2)

    run = body.run()
    assert messages(run.nodes[0].items[0].log) == ["info 1", "warning 1"]
    assert messages(run.nodes[1].items[0].log) == ["info 2", "warning 2", "print 2"]
    assert sorted(capsys.readouterr().out.splitlines()) == ["print 1", "print 2"]


def test_log_prints_of_a_flow_counts_for_its_tasks_unless_they_say_otherwise(backend_name: str) -> None:
    @task
    def outer() -> Any:
        return talk(3)

    @flow(backend=backend_name, log_prints=True)
    def body() -> Any:
        print("in the body", end="!")
        return talk(1), talk.with_options(log_prints=False)(2), outer()

    run = body.run()
    assert "print 1" in messages(run.logs)
    assert "print 2" not in messages(run.logs)
    assert "print 3" in messages(run.logs)
    assert "in the body" in messages(run.logs)
    assert {record.node for record in run.logs if record.message == "in the body"} == {""}


def test_an_inner_flows_log_prints_counts_for_its_tasks_alone(backend_name: str) -> None:
    @flow(log_prints=True)
    def inner() -> Any:
        print("inner body")
        return talk(1)

    @flow(backend=backend_name)
    def body() -> Any:
        print("outer body")
        return inner(), talk(2)

    logged = messages(body.run().logs)
    assert "print 1" in logged and "inner body" in logged
    assert "print 2" not in logged and "outer body" not in logged


def test_the_standard_librarys_loggers_reach_the_item(backend_name: str) -> None:
    @task
    def work() -> None:
        logging.getLogger("some.library").warning("careful: %s", "hot")

    @flow(backend=backend_name)
    def body() -> Any:
        return work()

    (line,) = body.run().nodes["work"].items[0].log
    assert (line.message, line.logger, line.level) == ("careful: hot", "some.library", logging.WARNING)


def test_a_flows_body_logs_to_its_run(backend_name: str) -> None:
    @flow(backend=backend_name)
    def body() -> None:
        get_run_logger().info("hello %s", "there")

    run = body.run()
    assert messages(run.logs) == ["hello there"]
    assert run.logs[0].run_id == run.id


def test_print_keeps_its_arguments(local_name: str, capsys: Any) -> None:
    import sys

    @task(log_prints=True)
    def work() -> None:
        print(1, "a", sep="-")
        print("to stderr", file=sys.stderr)
        print()

    @flow(backend=local_name)
    def body() -> Any:
        return work()

    assert messages(body.run().nodes["work"].items[0].log) == ["1-a", ""]
    assert "to stderr" in capsys.readouterr().err


def test_a_warning_without_a_handler_is_shown_once(local_name: str) -> None:
    script = f"""
        from graphflow import flow, get_run_logger, task
        @task
        def work():
            get_run_logger().warning("careful")
        @flow(backend={local_name!r})
        def body():
            return work()
        body()
    """
    with Script(script, environment={"GRAPHFLOW_PROGRESS": "off"}) as running:
        running.end()
    assert running.errors.count("careful") == 1


def test_very_many_lines_are_bounded_and_counted(backend_name: str) -> None:
    @task(log_prints=True)
    def work() -> None:
        for i in range(12_000):
            get_run_logger().info("line %s", i)
        get_run_logger().info("x" * 100_000)

    @flow(backend=backend_name)
    def body() -> Any:
        return work()

    run = body.run()
    assert len(run.logs) == 10_000
    assert run.logs.dropped == 2_001


def test_no_handler_or_level_of_logging_is_touched(backend_name: str) -> None:
    before = logging.root.level, list(logging.root.handlers), logging.getLogger("graphflow").handlers

    @flow(backend=backend_name, log_prints=True)
    def body() -> Any:
        return talk(1)

    body()
    assert (
        logging.root.level,
        list(logging.root.handlers),
        logging.getLogger("graphflow").handlers,
    ) == before
