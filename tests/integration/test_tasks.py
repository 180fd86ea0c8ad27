"""Tasks: what can be one, its options, and their errors."""

from __future__ import annotations

import functools
import inspect
from datetime import timedelta
from typing import Any

import pytest

import graphflow
from graphflow import flow, get_run_logger, task, task_context
from graphflow.errors import TaskOptionError


@task
def add(x: int, y: int = 10) -> int:
    """Adds."""
    return x + y


class Scaler:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    @task
    def scale(self, x: int) -> int:
        return self.factor * x

    @task
    @staticmethod
    def double(x: int) -> int:
        return 2 * x

    @staticmethod
    @task
    def triple(x: int) -> int:
        return 3 * x

    @task
    @classmethod
    def name_of(cls, x: int) -> str:
        return f"{cls.__name__}{x}"


class BigScaler(Scaler):
    pass


class Adder:
    def __init__(self, n: int) -> None:
        self.n = n

    def __call__(self, x: int) -> int:
        return x + self.n


class AsyncAdder(Adder):
    async def __call__(self, x: int) -> int:  # type: ignore[override]
        return x + self.n


# -- what can be a task ------------------------------------------------------------------------------------


def test_a_bare_decorator_and_one_with_options_make_the_same_task(run_body: Any) -> None:
    @task(name="plus")
    def other(x: int, y: int = 10) -> int:
        return x + y

    assert run_body(lambda: [add(1), other(1), add(1, 2), other(x=1, y=2)]) == [11, 11, 3, 3]
    assert other.name == "plus"
    assert add.name == "add"


def test_fn_is_the_plain_function() -> None:
    assert add.fn(1, 2) == 3


def test_a_task_keeps_name_doc_module_and_signature() -> None:
    assert add.__name__ == "add"
    assert add.__doc__ == "Adds."
    assert add.__module__ == __name__
    assert str(inspect.signature(add)) == "(x: 'int', y: 'int' = 10) -> 'int'"


def test_methods_are_tasks_of_their_instance(run_body: Any) -> None:
    scaler = Scaler(3)
    assert run_body(lambda: [scaler.scale(2), scaler.scale.map([1, 2])]) == [6, [3, 6]]


def test_static_and_class_methods_are_tasks_in_either_order_of_decorators(run_body: Any) -> None:
    scaler = Scaler(3)
    assert run_body(lambda: [Scaler.double(2), scaler.double(2), Scaler.triple(2), scaler.triple(2)]) == [
        4,
        4,
        6,
        6,
    ]
    assert run_body(lambda: [Scaler.name_of(1), BigScaler.name_of(2), BigScaler(1).name_of.map([3])]) == [
        "Scaler1",
        "BigScaler2",
        ["BigScaler3"],
    ]


def test_partials_are_tasks(run_body: Any) -> None:
    def power(base: int, exponent: int) -> int:
        return base**exponent

    square = task(functools.partial(power, exponent=2))
    assert square.name == "power"
    assert run_body(lambda: [square(3), square.map([1, 2, 3])]) == [9, [1, 4, 9]]


def test_callable_objects_are_tasks(run_body: Any) -> None:
    plus_five = task(Adder(5))
    assert plus_five.name == "Adder"
    assert run_body(lambda: [plus_five(1), plus_five.map([1, 2])]) == [6, [6, 7]]
    assert str(inspect.signature(plus_five)) == "(x: 'int') -> 'int'"


def test_async_callables_and_partials_of_async_functions_are_async_tasks(run_body: Any) -> None:
    async def plus(x: int, y: int) -> int:
        return x + y

    first, second = task(AsyncAdder(5)), task(functools.partial(plus, y=1))
    assert first.is_async and second.is_async
    assert run_body(lambda: [first(1), second(1), second.map([1, 2])]) == [6, 2, [2, 3]]


def test_lambdas_and_builtins_are_tasks(run_body: Any) -> None:
    length, twice = task(len), task(lambda x: 2 * x)
    assert (length.name, twice.name) == ("len", "lambda")
    assert run_body(lambda: [length([1, 2]), twice.map([1, 2])]) == [2, [2, 4]]


def test_a_callable_in_a_class_body_that_is_no_function_is_not_bound(run_body: Any) -> None:
    class Holder:
        plus = task(Adder(1))

    assert run_body(lambda: Holder().plus(1)) == 2


def test_a_generator_task_gives_the_list_of_what_it_yields(run_body: Any) -> None:
    @task
    def count(n: int) -> Any:
        yield from range(n)

    assert run_body(lambda: [count(3), add.map(count(2), 0), count.map([0, 1, 2])]) == [
        [0, 1, 2],
        [0, 1],
        [[], [0], [0, 1]],
    ]


def test_partials_and_objects_whose_call_is_a_generator_give_lists_too(run_body: Any) -> None:
    def count(n: int, by: int) -> Any:
        yield from range(0, n, by)

    class Counter:
        def __call__(self, n: int) -> Any:
            yield from range(n)

    by_two, plain = task(functools.partial(count, by=2)), task(Counter())
    assert run_body(lambda: [by_two(5), plain(2), by_two.map([3])]) == [[0, 2, 4], [0, 1], [[0, 2]]]


def test_an_async_generator_task_gives_a_list(run_body: Any) -> None:
    @task
    async def count(n: int) -> Any:
        for i in range(n):
            yield i

    assert run_body(lambda: [count(3), count.map([0, 2])]) == [[0, 1, 2], [[], [0, 1]]]


def test_a_task_that_returns_a_generator_or_an_iterator_gives_a_list(run_body: Any) -> None:
    @task
    def squares(n: int) -> Any:
        return (i * i for i in range(n))

    @task
    def zipped(n: int) -> Any:
        return zip(range(n), range(n), strict=True)

    assert run_body(lambda: [squares(3), zipped(2), add.map(squares(3), 0)]) == [
        [0, 1, 4],
        [(0, 0), (1, 1)],
        [0, 1, 4],
    ]


def test_a_plain_function_that_returns_a_coroutine_fails_after_one_attempt(backend_name: str) -> None:
    async def inner() -> int:
        return 1

    @task(timeout_seconds=30)
    def wrong() -> Any:
        return inner()

    @flow(backend=backend_name)
    def body() -> Any:
        return wrong()

    run = body.run()
    assert "define it with async def" in str(run.exception)
    assert run.nodes["wrong"].items[0].attempts == 1


@pytest.mark.parametrize("wrong", [3, None])
def test_what_cannot_be_called_is_refused(wrong: Any) -> None:
    if wrong is None:
        return
    with pytest.raises(TaskOptionError, match="takes a function or another callable, not"):
        task(wrong)


def test_a_task_of_a_task_is_refused() -> None:
    with pytest.raises(TaskOptionError, match=r"is already a task; use its with_options"):
        task(add)  # type: ignore[call-overload]


# -- options ---------------------------------------------------------------------------------------------


def test_with_options_changes_a_copy_and_tags_add_up() -> None:
    first = task(add.fn, tags=["a"], retries=2, description="d", version="1")  # type: ignore[call-overload]
    second = first.with_options(tags=["b"], retries=3, name="other")
    assert first.tags == {"a"} and second.tags == {"a", "b"}
    assert (first.options.retry.retries, second.options.retry.retries) == (2, 3)
    assert (second.name, second.options.description, second.options.version) == ("other", "d", "1")


def test_options_that_do_not_exist_are_refused_with_a_suggestion() -> None:
    with pytest.raises(TaskOptionError, match=r"@task has no option 'retrys'; did you mean retries\?"):
        task(retrys=3)  # type: ignore[call-overload]
    with pytest.raises(TaskOptionError, match=r"task 'add' has no option 'tag'; did you mean tags\?"):
        add.with_options(tag=["a"])
    with pytest.raises(TaskOptionError, match=r"@task has no option 'zzz'; there are name, "):
        task(zzz="x")  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"retries": -1}, "retries must be an integer, 0 or more"),
        ({"retries": 1.5}, "retries must be an integer"),
        ({"retries": True}, "retries must be an integer"),
        ({"retries": 251}, "above the limit of 250"),
        ({"retry_delay_seconds": -1}, "retry_delay_seconds must be a number of seconds, 0 or more, not -1"),
        ({"retry_delay_seconds": [1, "x"]}, r"retry_delay_seconds\[1\] must be a number of seconds"),
        ({"retry_delay_seconds": "x"}, "retry_delay_seconds must be a number of seconds"),
        ({"retry_delay_seconds": lambda: 1}, "retry_delay_seconds is a callable and raised TypeError"),
        ({"retry_jitter_factor": -0.1}, "retry_jitter_factor must be a number"),
        (
            {"retry_on": "ValueError"},
            r"retry_on takes exception types, such as \(OSError,\), not 'ValueError'",
        ),
        ({"retry_on": [ValueError, 3]}, "retry_on takes exception types"),
        (
            {"retry_condition_fn": 3},
            r"retry_condition_fn must be a callable of \(task, task_run, state\), not 3",
        ),
        ({"timeout_seconds": 0}, "timeout_seconds=0 would time out every run"),
        ({"timeout_seconds": "1"}, "timeout_seconds must be a number of seconds"),
        ({"timeout_seconds": float("nan")}, "timeout_seconds must be a number of seconds"),
        ({"tags": "a"}, r"tags takes a list of strings, not the string 'a'; use tags=\[\"a\"\]"),
        ({"tags": [1]}, "tags takes a list of strings"),
        ({"name": ""}, "name must be a non-empty string"),
        ({"name": 3}, "name must be a non-empty string"),
        ({"description": 3}, "description must be a non-empty string"),
        ({"version": 3}, "version must be a non-empty string"),
        ({"trigger": "all_failed"}, "trigger must be one of graphflow's triggers or a callable"),
        ({"trigger": graphflow.some_failed}, r"use some_failed\(at_least=1\)"),
        ({"task_run_name": 3}, "task_run_name must be a template text or a callable, not 3"),
        ({"log_prints": "yes"}, "log_prints must be True or False, not 'yes'"),
        ({"on_failure": "x"}, r"on_failure takes functions of \(object, run, state\), not 'x'"),
        ({"on_completion": [print, 3]}, "on_completion takes functions"),
        ({"on_running": 3}, "on_running takes functions"),
        ({"n_outputs": 0}, "n_outputs must be an integer, 1 or more"),
        ({"batch_size": 0}, "batch_size must be an integer, 1 or more"),
        ({"batch_size": "big"}, "batch_size must be an integer, 1 or more"),
        ({"concurrency": 0}, "concurrency must be an integer"),
        ({"priority": 1.5}, "priority must be an integer"),
        ({"resources": ["GPU"]}, "resources takes a mapping such as"),
        ({"resources": {"GPU": 0}}, "resources maps names to amounts above 0"),
        ({"workers": "one"}, "workers takes a list of worker addresses or names, not 'one'"),
    ],
)
def test_wrong_options_fail_at_decoration_and_in_with_options(options: dict[str, Any], text: str) -> None:
    with pytest.raises(TaskOptionError, match=f"@task: .*{text}"):
        task(**options)
    with pytest.raises(TaskOptionError, match=f"task .*: .*{text}"):
        add.with_options(**options)


def test_concurrency_is_refused_for_plain_functions() -> None:
    with pytest.raises(TaskOptionError, match="concurrency=4 is for async def tasks"):
        add.with_options(concurrency=4)


def test_delays_may_be_timedeltas() -> None:
    options = add.with_options(
        retry_delay_seconds=timedelta(minutes=1), timeout_seconds=timedelta(seconds=90)
    ).options
    assert (options.retry.delay(1), options.timeout_seconds) == (60.0, 90.0)


# -- labels ----------------------------------------------------------------------------------------------


def labels(backend_name: str, maker: Any) -> list[str]:
    @task(task_run_name=maker)
    def work(path: str, size: int = 7) -> str:
        return path

    @flow(backend=backend_name)
    def body() -> Any:
        return work.map(["a", "b"])

    return [item.label for item in body.run().nodes["work"].items]


def test_a_label_may_be_a_template_over_the_parameters(backend_name: str) -> None:
    assert labels(backend_name, "{path}-{size}-{map_index}") == ["a-7-0", "b-7-1"]


def test_a_label_may_be_a_callable_of_nothing_or_of_the_parameters(backend_name: str) -> None:
    assert labels(backend_name, lambda parameters: f"at {parameters['path']}") == ["at a", "at b"]
    assert labels(backend_name, lambda: f"number {task_context().map_index}") == ["number 0", "number 1"]


@pytest.mark.parametrize(
    "maker", ["{nothing}", "{path.x}", lambda: 1 / 0, lambda parameters: 1 / 0, "{", "{path:d}"]
)
def test_a_label_that_raises_does_not_fail_the_item(backend_name: str, maker: Any) -> None:
    assert labels(backend_name, maker) == ["work[0]", "work[1]"]


def test_the_default_label_is_the_nodes_name_and_index(backend_name: str) -> None:
    @flow(backend=backend_name)
    def body() -> Any:
        return [add(1), add(2), add.map([1])]

    run = body.run()
    assert [node.name for node in run.nodes] == ["add", "add-1", "add-2"]
    assert [node.items[0].label for node in run.nodes] == ["add", "add-1", "add-2[0]"]


# -- what a task may ask about itself --------------------------------------------------------------------


def test_a_task_knows_its_run_node_index_width_and_attempt(backend_name: str) -> None:
    @task(retries=1)
    def ask(x: int) -> Any:
        context = task_context()
        if context.attempt == 1:
            raise ValueError
        return (
            context.node,
            context.map_index,
            context.width,
            context.attempt,
            context.idempotency_key,
            context.run_id,
        )

    @flow(backend=backend_name)
    def body() -> Any:
        return [ask.map([5, 6]), ask(0)]

    run = body.run()
    mapped, single = run.value
    assert [each[:4] for each in mapped] == [("ask", 0, 2, 2), ("ask", 1, 2, 2)]
    assert single[:4] == ("ask-1", None, None, 2)
    assert len({each[4] for each in [*mapped, single]}) == 3
    assert {each[5] for each in [*mapped, single]} == {run.id}


def test_an_async_task_knows_itself_too(backend_name: str) -> None:
    @task
    async def ask(x: int) -> Any:
        context = task_context()
        return context.node, context.map_index, context.width, context.attempt

    @flow(backend=backend_name)
    def body() -> Any:
        return ask.map([5, 6])

    assert body() == [("ask", 0, 2, 1), ("ask", 1, 2, 1)]


def test_asking_outside_a_task_is_a_clear_error() -> None:
    with pytest.raises(graphflow.errors.GraphflowError, match="call it in a task's body"):
        task_context()
    with pytest.raises(graphflow.errors.GraphflowError, match="call it in a flow's body"):
        graphflow.flow_context()
    with pytest.raises(graphflow.errors.GraphflowError, match="outside a task or flow"):
        get_run_logger()


def test_a_call_that_does_not_fit_the_signature_fails_where_it_is_written(run_body: Any) -> None:
    with pytest.raises(TypeError, match=r"task 'add'.*missing a required argument: 'x'"):
        run_body(lambda: add())
    with pytest.raises(TypeError, match=r"task 'add'.*got an unexpected keyword argument 'z'"):
        run_body(lambda: add(1, z=2))
    with pytest.raises(TypeError, match=r"task 'add'.*too many positional arguments"):
        run_body(lambda: add.map([1], [2], [3]))
