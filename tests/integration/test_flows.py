"""Flows: values, runs, states, stopping, and what a body may do."""

from __future__ import annotations

import signal
import threading
import time
from typing import Any

import pytest

import graphflow
from graphflow import allow_failure, flow, flow_context, task
from graphflow.errors import (
    BackendError,
    FlowFailed,
    FlowTimedOut,
    GraphflowError,
    RunCancelled,
    TaskOptionError,
    ValueUnavailable,
)


@task
def inc(x: int) -> int:
    return x + 1


@task
def boom(x: Any = None) -> Any:
    raise ValueError(f"boom {x}")


# -- values and runs -----------------------------------------------------------------------------------


def test_a_flow_gives_its_value(backend_name: str) -> None:
    @flow(backend=backend_name)
    def body(x: int) -> Any:
        return inc(inc(x))

    assert body(1) == 3
    assert body.with_options(name="other")(2) == 4


def test_a_flow_without_tasks_or_futures_gives_its_value(backend_name: str) -> None:
    @flow(backend=backend_name)
    def body(x: int) -> Any:
        return {"x": x}

    run = body.run(1)
    assert (run.value, run.state, list(run.nodes)) == ({"x": 1}, "Completed", [])
    assert run.result() == {"x": 1}


def test_what_is_recorded_runs_also_if_the_body_returns_something_else(backend_name: str, tally: Any) -> None:
    @task
    def count() -> None:
        tally.add()

    @flow(backend=backend_name)
    def body() -> str:
        count()
        return "done"

    assert body() == "done"
    assert tally.count() == 1


def test_a_failed_flow_raises_and_its_run_does_not(backend_name: str) -> None:
    @flow(backend=backend_name)
    def body() -> Any:
        return boom(1)

    with pytest.raises(ValueError, match="boom 1"):
        body()
    run = body.run()
    assert run.state == "Failed"
    assert run.state.is_failed() and run.state.is_final()
    assert run.state.message == "ValueError: boom 1"
    assert run.value is None
    with pytest.raises(ValueError, match="boom 1"):
        run.result()
    assert run.result(raise_on_failure=False) is run.exception


def test_several_failures_are_one_group_that_names_the_nodes(backend_name: str) -> None:
    @flow(backend=backend_name)
    def body() -> Any:
        return boom(1), boom(2), inc(boom(3))

    with pytest.raises(FlowFailed, match=r"3 nodes of flow 'body' failed \(boom, boom-1, boom-2\)") as caught:
        body()
    assert [str(error) for error in caught.value.exceptions] == ["boom 1", "boom 2", "boom 3"]


def test_a_run_shows_its_nodes_items_times_and_history(backend_name: str) -> None:
    @task(retries=1)
    def once(x: int) -> int:
        if graphflow.task_context().attempt == 1 and x == 2:
            raise OSError("again")
        return x

    @flow(backend=backend_name, flow_run_name="run of {n}")
    def body(n: int) -> Any:
        return once.map(range(n))

    run = body.run(4)
    assert (
        len(run.id) == 26
        and run.name == "run of 4"
        and run.flow_name == "body"
        and run.parameters == {"n": 4}
    )
    assert [str(state) for state in run.history] == ["Pending", "Running", "Completed"]
    assert run.started <= run.ended  # type: ignore[operator]
    (node,) = run.nodes
    assert run.nodes["once"].name == node.name == "once" and "once" in run.nodes and len(run.nodes) == 1
    assert (node.task_name, node.is_mapped, node.width, node.state) == ("once", True, 4, "Completed")
    assert dict(node.counts) == {"Completed": 4}
    assert [str(state) for state in node.history][-2:] == ["Running", "Completed"]
    assert node.retries == 1
    item = node.items[2]
    assert (item.index, item.label, item.value, item.attempts, item.exception) == (2, "once[2]", 2, 2, None)
    assert [str(state) for state in item.history] == [
        "Pending",
        "Running",
        "AwaitingRetry",
        "Retrying",
        "Completed",
    ]
    assert item.history[2].message == "OSError: again"
    times = [state.timestamp for state in item.history]
    assert times == sorted(times)
    assert [str(state) for state in node.items[0].history] == ["Pending", "Running", "Completed"]
    for each in node.items:
        assert node.started is not None and each.started is not None and each.ended is not None
        assert run.started <= each.started <= each.ended <= run.ended  # type: ignore[operator]
    assert len(node.items) == 4 and [each.value for each in node.items[1:3]] == [1, 2]
    with pytest.raises(KeyError, match="this run has no node 'twice'; its nodes: once"):
        run.nodes["twice"]
    with pytest.raises(IndexError, match="once has 4 items; there is no item 4"):
        node.items[4]


def test_an_item_without_a_value_says_so(backend_name: str) -> None:
    @flow(backend=backend_name)
    def body() -> Any:
        return inc(boom())

    run = body.run()
    with pytest.raises(ValueUnavailable, match="boom is Failed: it has no value"):
        run.nodes["boom"].items[0].value
    with pytest.raises(ValueUnavailable, match="inc is UpstreamFailed: it has no value"):
        run.nodes["inc"].items[0].value
    assert run.nodes["inc"].items[0].attempts == 0
    assert run.nodes["inc"].items[0].started is None
    assert [str(state) for state in run.nodes["inc"].items[0].history] == ["Pending", "UpstreamFailed"]


def test_a_run_name_that_raises_falls_back(backend_name: str) -> None:
    @flow(backend=backend_name, flow_run_name="{nothing}")
    def body() -> None: ...

    @flow(backend=backend_name, flow_run_name=lambda: 1 / 0)  # type: ignore[arg-type,return-value]
    def other() -> None: ...

    assert body.run().name.startswith("body-")
    assert other.run().name.startswith("other-")


def test_a_body_knows_its_run(backend_name: str) -> None:
    @flow(backend=backend_name, name="known")
    def body(x: int) -> Any:
        context = flow_context()
        return context.run_id, context.flow_name, context.parameters, context.attempt

    run = body.run(5)
    assert run.value == (run.id, "known", {"x": 5}, 1)


def test_methods_partials_and_class_methods_can_be_flows(backend_name: str) -> None:
    import functools

    class Pipeline:
        def __init__(self, by: int) -> None:
            self.by = by

        @flow(backend=backend_name)
        def run_it(self, x: int) -> Any:
            return inc(x + self.by)

        @flow(backend=backend_name)
        @classmethod
        def of_class(cls) -> str:
            return cls.__name__

        @flow(backend=backend_name)
        @staticmethod
        def plain(x: int) -> Any:
            return inc(x)

    assert Pipeline(10).run_it(1) == 12
    assert Pipeline(10).run_it.run(x=2).value == 13
    assert (Pipeline.of_class(), Pipeline(1).plain(1)) == ("Pipeline", 2)
    assert flow(functools.partial(Pipeline(5).run_it.fn, x=1), backend=backend_name)() == 7  # type: ignore[call-overload]


def test_a_flow_that_was_started_can_be_waited_for() -> None:
    gate = threading.Event()

    @task
    def blocked() -> bool:
        return gate.wait(30)

    @flow
    def body() -> Any:
        return blocked()

    run = body.start()
    assert not run.wait(0.01)
    with pytest.raises(
        TimeoutError, match=r"run body-\w+ did not end within 0\.01 s; it is (Pending|Running)"
    ):
        run.result(timeout=0.01)
    with pytest.raises(ValueError, match="timeout must be 0 or more"):
        run.wait(-1)
    gate.set()
    assert run.result(timeout=30) is True


def test_a_backend_that_was_given_stays_open_and_serves_several_runs() -> None:
    pool = graphflow.backends.threads(2)

    @flow(backend=pool)
    def body(x: int) -> Any:
        return inc.map(range(x))

    assert body(2) == [1, 2]
    assert body(3) == [1, 2, 3]
    pool.close()
    with pytest.raises(BackendError, match="closed"):
        body(2)


def test_no_threads_of_a_run_are_left(local_name: str) -> None:
    @task(on_completion=[lambda task, run, state: None])
    def hooked(x: int) -> int:
        return x

    @flow(backend=local_name)
    def body() -> Any:
        return hooked.map(iter(range(10)))

    body()
    before = set(threading.enumerate())
    body()
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
        assert not thread.is_alive(), thread


# -- no failure passes unseen --------------------------------------------------------------------------


def ends(backend_name: str, body: Any) -> str:
    return str(flow(backend=backend_name, name="body")(body).run().state)


def test_a_failure_that_nobody_took_fails_the_run_whatever_the_body_returns(backend_name: str) -> None:
    def body() -> str:
        boom()
        return "fine"

    assert ends(backend_name, body) == "Failed"


def test_an_exception_that_the_body_caught_was_seen(backend_name: str) -> None:
    def body() -> str:
        future = boom()
        try:
            inc(inc(future)).result()
        except graphflow.errors.UpstreamFailed:
            return "seen"
        return "not reached"

    assert ends(backend_name, body) == "Completed"


def test_raise_on_failure_false_is_seeing(backend_name: str) -> None:
    def body() -> None:
        boom().result(raise_on_failure=False)
        boom.map([1, 2]).result(raise_on_failure=False)

    assert ends(backend_name, body) == "Completed"


def test_failures_is_seeing(backend_name: str) -> None:
    def body() -> int:
        return len(inc.map(boom.map([1, 2])).failures()) + len(boom().failures())

    assert ends(backend_name, body) == "Completed"


def test_seeing_one_item_is_not_seeing_the_others(backend_name: str) -> None:
    def one() -> None:
        boom.map([1, 2])[0].result(raise_on_failure=False)

    def both() -> None:
        for future in boom.map([1, 2]):
            future.result(raise_on_failure=False)

    assert ends(backend_name, one) == "Failed"
    assert ends(backend_name, both) == "Completed"


def test_allow_failure_and_triggers_are_seeing_only_if_the_task_ran(backend_name: str) -> None:
    @task
    def show(x: Any) -> str:
        return str(x)

    def allowed() -> Any:
        return show(allow_failure(boom())), show.map(allow_failure(boom.map([1, 2])))

    def triggered() -> Any:
        return show.with_options(trigger=graphflow.any_failed)(boom())

    def not_run() -> Any:
        return show.with_options(trigger=graphflow.all_successful)(boom())

    assert ends(backend_name, allowed) == "Completed"
    assert ends(backend_name, triggered) == "Completed"
    assert ends(backend_name, not_run) == "Failed"


def test_a_returned_allow_failure_hands_the_exception_to_the_caller(backend_name: str) -> None:
    @flow(backend=backend_name)
    def body() -> Any:
        return {
            "a": allow_failure(boom(1)),
            "b": [allow_failure(inc(boom(2))), inc(1)],
            "c": allow_failure(boom.map([3])),
        }

    value = body()
    assert str(value["a"]) == "boom 1"
    assert isinstance(value["b"][0], graphflow.errors.UpstreamFailed) and value["b"][1] == 2
    assert isinstance(value["c"], graphflow.errors.MapFailed)


def test_a_failure_that_was_seen_through_its_consequence_was_seen(backend_name: str) -> None:
    def body() -> None:
        futures = inc.map([inc(1), boom(2)])
        futures[1].result(raise_on_failure=False)

    assert ends(backend_name, body) == "Completed"


def test_looking_at_a_final_state_handles_the_failure(backend_name: str) -> None:
    def body() -> None:
        future = boom()
        future.wait()
        assert future.state == "Failed"
        assert "boom" in future.state.message
        with pytest.raises(ValueError, match="boom"):
            future.state.result()

    assert ends(backend_name, body) == "Completed"


# -- a body that raises --------------------------------------------------------------------------------


def test_a_body_that_raises_fails_the_run_and_cancels_what_did_not_begin(
    backend_name: str, tally: Any
) -> None:
    @task
    def count(x: Any = None) -> None:
        tally.add()

    @flow(backend=backend_name)
    def forced() -> None:
        inc(1).result()
        count()
        count.map(range(5))
        count(count())
        raise KeyError("no")

    @flow(backend=backend_name)
    def never_started() -> None:
        count()
        count.map(range(5))
        raise KeyError("no")

    for body in (forced, never_started):
        run = body.run()
        assert run.state == "Failed"
        assert isinstance(run.exception, KeyError)
        assert [str(node.state) for node in run.nodes if node.task_name == "count"] in (
            ["Cancelled"] * 4,
            ["Cancelled"] * 2,
        )
    assert tally.count() == 0


def test_what_runs_when_the_body_raises_may_end() -> None:
    started, gate = threading.Event(), threading.Event()

    @task
    def blocked() -> str:
        started.set()
        assert gate.wait(30)
        return "ended"

    @flow
    def body() -> None:
        blocked.submit()
        assert started.wait(30)
        threading.Timer(0.05, gate.set).start()
        raise KeyError("no")

    run = body.run()
    assert run.nodes["blocked"].items[0].value == "ended"
    assert isinstance(run.exception, KeyError)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_system_exit_and_ctrl_c_in_a_body_end_the_run_and_go_on(
    backend_name: str, error: BaseException
) -> None:
    kept: list[Any] = []

    @flow(
        backend=backend_name,
        on_crashed=[lambda f, r, s: kept.append(r)],
        on_cancellation=[lambda f, r, s: kept.append(r)],
    )
    def body() -> None:
        inc(1)
        raise error

    with pytest.raises(type(error)):
        body()
    (run,) = kept
    assert run.state == ("Crashed" if isinstance(error, SystemExit) else "Cancelled")
    assert run.wait(5)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_system_exit_and_ctrl_c_raised_by_a_task_are_that_items_failure(
    backend_name: str, error: BaseException
) -> None:
    @task(retries=2)
    def leave(x: int) -> int:
        if x == 1:
            raise error
        return x

    @flow(backend=backend_name)
    def body() -> Any:
        return leave.map(range(3))

    run = body.run()
    assert [str(item.state) for item in run.nodes["leave"].items] == ["Completed", "Failed", "Completed"]
    assert run.nodes["leave"].items[1].attempts == 1
    assert type(error).__name__ in str(run.exception)
    with pytest.raises(graphflow.errors.MapFailed):
        run.result()


def test_a_single_task_that_raises_system_exit_is_a_clear_failure(backend_name: str) -> None:
    @task
    def leave() -> None:
        raise SystemExit(3)

    @flow(backend=backend_name)
    def body() -> Any:
        return leave()

    run = body.run()
    assert run.state == "Failed"
    assert str(run.exception) == "the task raised SystemExit: 3, which in a task ends only its item"
    assert isinstance(run.exception, GraphflowError)
    assert isinstance(run.exception.__cause__, SystemExit)


@pytest.mark.parametrize("forces", [True, False])
def test_ctrl_c_while_an_item_runs_in_the_calling_thread_ends_the_run(forces: bool, tally: Any) -> None:
    kept: list[Any] = []

    @task
    def pressed(x: int) -> int:
        tally.add()
        if x == 2:
            signal.raise_signal(signal.SIGINT)
        return x

    @flow(backend="inline", on_cancellation=[lambda f, run, s: kept.append(run)])
    def body() -> Any:
        futures = pressed.with_options(batch_size=2).map(range(10))
        return futures.result() if forces else futures

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        body()
    assert signal.getsignal(signal.SIGINT) is before
    (run,) = kept
    assert run.state == "Cancelled"
    assert dict(run.nodes["pressed"].counts)["Cancelled"] == 7
    assert tally.count() == 3


# -- retries and timeouts of flows ---------------------------------------------------------------------


def test_a_flow_is_tried_again_as_a_whole(backend_name: str, tally: Any) -> None:
    @task
    def flaky() -> int:
        if tally.add() < 3:
            raise OSError("not yet")
        return 7

    @flow(backend=backend_name, retries=3, retry_delay_seconds=[0, 0.01])
    def body() -> Any:
        graphflow.get_run_logger().info("attempt %s", flow_context().attempt)
        return flaky()

    run = body.run()
    assert run.value == 7
    assert [str(state) for state in run.history] == [
        *("Pending", "Running", "Failed", "AwaitingRetry"),
        *("Retrying", "Failed", "AwaitingRetry"),
        *("Retrying", "Completed"),
    ]
    assert [line.message for line in run.logs if line.message.startswith("attempt")] == [
        "attempt 1",
        "attempt 2",
        "attempt 3",
    ]
    assert run.exception is None
    assert tally.count() == 3


def test_a_flow_gives_up_after_its_retries(backend_name: str, tally: Any) -> None:
    @flow(backend=backend_name, retries=2)
    def body() -> None:
        tally.add()
        raise OSError("never")

    with pytest.raises(OSError, match="never"):
        body()
    assert tally.count() == 3


@pytest.mark.parametrize("where", ["waits", "computes", "returned"])
def test_a_flow_that_takes_too_long_times_out(where: str) -> None:
    gate = threading.Event()

    @task
    def blocked() -> bool:
        return gate.wait(30)

    @flow(timeout_seconds=0.2, backend="threads")
    def body() -> Any:
        future = blocked.submit()
        if where == "waits":
            return future.result()
        while where == "computes":
            time.sleep(0.01)
        return future

    run = body.run()
    gate.set()
    assert run.state == "TimedOut"
    with pytest.raises(FlowTimedOut, match=r"flow 'body' ran longer than timeout_seconds=0\.2"):
        run.result()
    assert run.nodes["blocked"].state == "Cancelled"


def test_a_flow_on_the_inline_backend_times_out_too() -> None:
    @task
    def slow(x: int) -> int:
        for _ in range(50):
            time.sleep(0.01)
        return x

    @flow(timeout_seconds=0.2, backend="inline")
    def body() -> Any:
        return slow.map(range(50))

    begun = time.monotonic()
    assert body.run().state == "TimedOut"
    assert time.monotonic() - begun < 30


def test_a_flow_within_its_time_ends_well(backend_name: str) -> None:
    @flow(timeout_seconds=30, backend=backend_name)
    def body() -> Any:
        return inc(inc(1).result())

    assert body() == 3


# -- stopping ------------------------------------------------------------------------------------------


def test_a_run_is_cancelled_from_another_thread() -> None:
    started, gate = threading.Event(), threading.Event()

    @task(batch_size=1)
    def blocked(x: int) -> int:
        started.set()
        gate.wait(30)
        return x

    @flow(backend="threads:2")
    def body() -> Any:
        return inc(blocked.map(range(10)))

    run = body.start()
    assert started.wait(30)
    run.cancel(force=True)
    assert run.wait(30)
    gate.set()
    assert run.state == "Cancelled"
    assert isinstance(run.exception, RunCancelled)
    assert {str(item.state) for item in run.nodes["blocked"].items} == {"Cancelled"}
    assert run.nodes["inc"].state in ("Cancelled", "UpstreamFailed")


def test_a_drained_run_lets_the_running_items_end() -> None:
    started, gate = threading.Semaphore(0), threading.Event()

    @task(batch_size=1)
    def blocked(x: int) -> int:
        started.release()
        gate.wait(30)
        return x

    @flow(backend="threads:2")
    def body() -> Any:
        return blocked.map(range(10))

    run = body.start()
    for _ in range(2):
        assert started.acquire(timeout=30)
    cancelled = threading.Event()
    run.subscribe(lambda event: cancelled.set() if event.state == "Cancelled" else None)
    run.cancel()
    assert cancelled.wait(30)
    gate.set()
    assert run.wait(30)
    assert run.state == "Cancelled"
    assert dict(run.nodes["blocked"].counts) == {"Completed": 2, "Cancelled": 8}


def test_a_cancel_wakes_a_body_that_waits() -> None:
    started, gate = threading.Event(), threading.Event()

    @task
    def blocked() -> bool:
        started.set()
        return gate.wait(30)

    @flow
    def body() -> Any:
        return blocked().result()

    run = body.start()
    assert started.wait(30)
    run.cancel(force=True)
    assert run.wait(30)
    gate.set()
    assert run.state == "Cancelled"


def test_a_cancel_before_anything_was_recorded_keeps_everything_from_running(tally: Any) -> None:
    asked, go = threading.Event(), threading.Event()

    @task
    def count() -> None:
        tally.add()

    @flow
    def body() -> Any:
        asked.set()
        go.wait(30)
        return count()

    run = body.start()
    assert asked.wait(30)
    run.cancel(force=True)
    go.set()
    assert run.wait(30)
    assert run.state == "Cancelled"
    assert tally.count() == 0
    assert run.nodes["count"].state == "Cancelled"


def test_a_cancel_ends_a_wait_for_a_retry_of_the_flow() -> None:
    failed = threading.Event()

    @flow(retries=1, retry_delay_seconds=60)
    def body() -> None:
        failed.set()
        raise OSError("no")

    run = body.start()
    assert failed.wait(30)
    while run.state != "AwaitingRetry":
        assert not run.wait(0.001)
    run.cancel(force=True)
    assert run.wait(30)
    assert run.state.is_final()


def test_a_run_that_ended_cannot_be_cancelled(backend_name: str) -> None:
    @flow(backend=backend_name)
    def body() -> Any:
        return inc(1)

    run = body.run()
    run.cancel(force=True)
    run.cancel()
    assert run.state == "Completed"
    assert run.result() == 2


# -- options -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"retries": -1}, "retries must be an integer"),
        ({"retry_delay_seconds": "x"}, "retry_delay_seconds must be a number of seconds"),
        ({"timeout_seconds": 0}, "timeout_seconds=0 would time out every run"),
        ({"timeout_seconds": -2}, "timeout_seconds must be a number of seconds"),
        ({"validate_parameters": "no"}, "validate_parameters must be True or False"),
        ({"log_prints": 1}, "log_prints must be True or False"),
        ({"flow_run_name": 3}, "flow_run_name must be a template text or a callable"),
        ({"name": ""}, "name must be a non-empty string"),
        ({"description": 1}, "description must be a non-empty string"),
        ({"version": 1}, "version must be a non-empty string"),
        ({"backend": 3}, 'backend must be a name such as "local"'),
        ({"backend": ""}, "backend must be a name"),
        ({"on_crashed": 3}, r"on_crashed takes functions of \(object, run, state\)"),
    ],
)
def test_wrong_options_of_a_flow_fail_at_decoration(options: dict[str, Any], text: str) -> None:
    with pytest.raises(TaskOptionError, match=f"@flow: .*{text}"):
        flow(**options)
    with pytest.raises(TaskOptionError, match=f"flow .*: .*{text}"):
        flow(lambda: None, name="f").with_options(**options)  # type: ignore[call-overload]


def test_unknown_options_of_a_flow_are_refused() -> None:
    with pytest.raises(TaskOptionError, match=r"@flow has no option 'retrise'; did you mean retries\?"):
        flow(retrise=2)  # type: ignore[call-overload]
    with pytest.raises(TaskOptionError, match=r"flow 'f' has no option 'task_runner'; there are name"):
        flow(lambda: None, name="f").with_options(task_runner=2)  # type: ignore[call-overload]


def test_what_cannot_be_a_flow_is_refused() -> None:
    with pytest.raises(TaskOptionError, match="@flow takes a function or another callable, not 3"):
        flow(3)  # type: ignore[call-overload]
    with pytest.raises(TaskOptionError, match="is already a flow; use its with_options"):
        flow(flow(lambda: None))  # type: ignore[call-overload]


@pytest.mark.parametrize("name", ["thread", "threads:none", "threads:0"])
def test_a_backend_that_does_not_exist_is_a_clear_error(name: str) -> None:
    @flow(backend=name)
    def body() -> Any:
        return inc(1)

    for call in (body, body.run, body.start):
        with pytest.raises(BackendError, match="backend"):
            call()


def test_resources_need_a_cluster(local_name: str) -> None:
    @flow(backend=local_name)
    def body() -> Any:
        return inc.with_options(resources={"GPU": 1})(1)

    with pytest.raises(
        BackendError, match=r"task 'inc' asks for resources=.*'GPU'.* run the flow on a Dask cluster"
    ):
        body()
