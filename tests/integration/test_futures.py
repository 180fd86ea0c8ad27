"""Futures: lazy calls, forcing, composing, waiting."""

from __future__ import annotations

import pickle
import threading
import time
from collections import OrderedDict, namedtuple
from typing import Any

import pytest

from graphflow import allow_failure, as_completed, flow, task, wait
from graphflow.errors import CrossRunError, CycleError, ForcingError, GraphflowError, TaskOptionError


@task
def inc(x: int) -> int:
    return x + 1


@task
def same(x: Any) -> Any:
    return x


@task
def two() -> tuple[int, str]:
    return 1, "b"


@task
def boom(x: Any = None) -> Any:
    raise ValueError(f"boom {x}")


Point = namedtuple("Point", "x y")


# -- laziness ------------------------------------------------------------------------------------------


def test_a_call_runs_nothing_until_it_is_forced_or_the_body_returns(local_name: str) -> None:
    ran: list[int] = []

    @task
    def note(x: int) -> int:
        ran.append(x)
        return x

    @flow(backend=local_name)
    def body() -> Any:
        first = note(1)
        before = list(ran)
        first.result()
        between = list(ran)
        note(2)
        return before, between

    assert body() == ([], [1])
    assert ran == [1, 2]


def test_forcing_starts_everything_recorded_so_far_but_waits_for_its_own_only() -> None:
    gate = threading.Event()

    @task
    def blocked() -> bool:
        return gate.wait(30)

    @flow(backend="threads")
    def body() -> Any:
        slow = blocked()
        value = inc(1).result()
        gate.set()
        return value, slow

    assert body() == (2, True)


def test_submit_starts_the_call_and_returns_at_once() -> None:
    started, gate = threading.Event(), threading.Event()

    @task
    def blocked() -> str:
        started.set()
        gate.wait(30)
        return "done"

    @flow(backend="threads")
    def body() -> Any:
        future = blocked.submit()
        assert started.wait(30)
        assert future.state != "Completed"
        gate.set()
        return future

    assert body() == "done"


def test_an_equal_call_made_twice_runs_twice_and_two_reads_of_one_future_run_it_once(
    backend_name: str, tally: Any
) -> None:
    @task
    def count() -> int:
        return tally.add()

    @flow(backend=backend_name)
    def body() -> Any:
        first, second = count(), count()
        return [first.result(), first.result(), inc(first), inc(first), second]

    body()
    assert tally.count() == 2


def test_an_order_only_dependency_runs_later_and_hands_nothing_over(backend_name: str, tally: Any) -> None:
    @task
    def mark(what: str) -> None:
        tally.add(what)

    @flow(backend=backend_name)
    def body() -> Any:
        late = mark.map(["b", "b"], wait_for=[mark("a")])
        mark("c", wait_for=late)
        mark("d", wait_for=[late[0], allow_failure(boom())])

    body()
    order = tally.all()
    assert sorted(order) == ["a", "b", "b", "c", "d"]
    assert order[:2] == ["a", "b"] and order.index("c") > 2


def test_wait_for_takes_values_which_have_ended_already(run_body: Any) -> None:
    assert run_body(lambda: inc(1, wait_for=[3])) == 2


def test_a_parameter_named_wait_for_belongs_to_the_function(run_body: Any) -> None:
    @task
    def waits(wait_for: int) -> int:
        return wait_for

    assert run_body(lambda: waits(wait_for=3)) == 3


# -- forcing -------------------------------------------------------------------------------------------


def test_bool_len_str_format_and_contains_force(run_body: Any) -> None:
    def body() -> Any:
        numbers, nothing = same([1, 2, 3]), same([])
        value = inc(1)
        return [
            bool(numbers),
            bool(nothing),
            "yes" if nothing else "no",
            len(numbers),
            str(value),
            f"{value}",
            f"{value:>4}",
            f"{same(3.14159):.2f}",
            f"{numbers!s}",
            2 in numbers,
            9 in numbers,
        ]

    assert run_body(body) == [True, False, "no", 3, "2", "2", "   2", "3.14", "[1, 2, 3]", True, False]


def test_print_of_a_future_in_a_flow_shows_its_value(run_body: Any, capsys: Any) -> None:
    def body() -> None:
        metrics = same({"loss": 1})
        print(f"Training complete: {metrics}")
        print(metrics)

    run_body(body)
    assert capsys.readouterr().out == "Training complete: {'loss': 1}\n{'loss': 1}\n"


def test_repr_never_forces(run_body: Any, tally: Any) -> None:
    @task
    def count() -> int:
        return tally.add()

    def body() -> Any:
        future, mapped, unknown = count(), same.map([1, 2]), same.map(same([1]))
        texts = [repr(future), repr(mapped), repr(unknown), repr(mapped[1]), f"{future!r}", repr([future])]
        assert tally.count() == 0
        return texts

    assert run_body(body) == [
        "<Future count: Pending>",
        "<MappedFuture same[2]: Pending>",
        "<MappedFuture same-2[?]: Pending>",
        "<Future same[1]: Pending>",
        "<Future count: Pending>",
        "[<Future count: Pending>]",
    ]


def test_plain_control_flow_by_forcing(run_body: Any) -> None:
    def body() -> Any:
        n = inc(0)
        rounds = 0
        while n.result() < 5:
            n = inc(n)
            rounds += 1
        return "many" if inc(n).result() > 5 else "few", rounds

    assert run_body(body) == ("many", 4)


def test_a_result_can_be_waited_for_with_a_timeout() -> None:
    gate = threading.Event()

    @task
    def blocked() -> bool:
        return gate.wait(30)

    @flow(backend="threads")
    def body() -> Any:
        future = blocked()
        with pytest.raises(
            TimeoutError, match=r"blocked did not end within 0\.01 s; it is (Pending|Running)"
        ):
            future.result(timeout=0.01)
        assert not future.wait(0)
        gate.set()
        return future.result(timeout=30)

    assert body() is True


def test_a_timeout_counts_with_the_inline_backend_too() -> None:
    @task(batch_size=1)
    def slow(i: int) -> int:
        time.sleep(0.05)  # several end before the timeout, most do not
        return i

    @flow(backend="inline")
    def body() -> Any:
        futures = slow.map(range(60))
        with pytest.raises(TimeoutError):
            futures.result(timeout=0.1)
        begun = sum(future.state == "Completed" for future in futures)
        assert 1 <= begun < 60
        while not futures[begun].wait(0):
            # Each look does a piece of work, or nothing would ever end.
            pass
        raise KeyError("enough")

    with pytest.raises(KeyError):
        body()


@pytest.mark.parametrize("timeout", [-1, -0.5])
def test_a_negative_timeout_is_a_value_error(run_body: Any, timeout: float) -> None:
    def body() -> None:
        future = inc(1)
        for wait_for_it in (
            lambda: future.result(timeout=timeout),
            lambda: future.wait(timeout),
            lambda: wait([future], timeout=timeout),
            lambda: list(as_completed([future], timeout=timeout)),
            lambda: list(inc.map([1]).as_completed(timeout=timeout)),
        ):
            with pytest.raises(ValueError, match="timeout must be 0 or more seconds, not -"):
                wait_for_it()

    run_body(body)


def test_raise_on_failure_false_gives_the_exception(run_body: Any) -> None:
    def body() -> Any:
        error = boom(1).result(raise_on_failure=False)
        return type(error).__name__, str(error)

    assert run_body(body) == ("ValueError", "boom 1")


def test_a_future_has_no_attributes_of_its_value(run_body: Any) -> None:
    def body() -> None:
        with pytest.raises(AttributeError, match=r"use future\.result\(\)\.upper"):
            same("a").upper  # type: ignore[attr-defined]

    run_body(body)


def test_a_future_cannot_be_pickled(run_body: Any) -> None:
    def body() -> None:
        with pytest.raises(GraphflowError, match="cannot be pickled: futures belong to their run"):
            pickle.dumps(inc(1))

    run_body(body)


def test_futures_of_one_output_are_equal(run_body: Any) -> None:
    def body() -> None:
        mapped, future = inc.map([1, 2]), inc(1)
        assert mapped[0] == mapped[0] and hash(mapped[0]) == hash(mapped[0])
        assert len({mapped[0], mapped[1], mapped[-1], future, future}) == 3
        assert mapped[0] != mapped[1] and mapped[0] == future == 2

    run_body(body)


# -- composing -----------------------------------------------------------------------------------------


def test_futures_in_containers_are_resolved_to_any_depth(run_body: Any) -> None:
    def body() -> Any:
        a, b = inc(0), inc(1)
        deep: Any = a
        for _ in range(30):
            deep = [deep]
        value = same(
            {"l": [a, (b, {a: {b}})], "p": Point(a, [b]), "f": frozenset([a]), b: 3, "m": inc.map([1, 2])}
        )
        return value, same(deep), same([a, [1, "x", None]])

    value, deep, flat = run_body(body)
    assert value == {"l": [1, (2, {1: {2}})], "p": Point(1, [2]), "f": frozenset([1]), 2: 3, "m": [2, 3]}
    assert isinstance(value["p"], Point)
    for _ in range(30):
        (deep,) = deep
    assert deep == 1
    assert flat == [1, [1, "x", None]]


def test_futures_in_keyword_and_variable_arguments_are_resolved(run_body: Any) -> None:
    @task
    def collect(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    assert run_body(lambda: collect(inc(0), [inc(1)], x=inc(2), y={"z": inc(3)})) == (
        (1, [2]),
        {"x": 3, "y": {"z": 4}},
    )


def test_a_returned_structure_has_its_futures_values(run_body: Any) -> None:
    def body() -> Any:
        return {"a": inc(1), "b": [inc.map([1, 2]), (inc(3), "text")], "p": Point(inc(4), 0), "n": None}

    assert run_body(body) == {"a": 2, "b": [[2, 3], (4, "text")], "p": Point(5, 0), "n": None}


def test_elements_and_keys_of_a_future_are_futures(run_body: Any) -> None:
    def body() -> Any:
        table = same({"rows": [10, 20, 30], 5: "five"})
        return [table["rows"][1], table["rows"][0:2], table[5], inc(table["rows"][-1]), table[same("rows")]]

    assert run_body(body) == [20, [10, 20], "five", 31, [10, 20, 30]]


def test_a_missing_key_fails_the_element_not_the_value(backend_name: str) -> None:
    @flow(backend=backend_name)
    def body() -> Any:
        return same({"a": 1})["b"]

    run = body.run()
    assert isinstance(run.exception, KeyError)
    assert run.nodes["same"].state == "Completed"


def test_unpacking_by_annotation_does_not_force(run_body: Any, tally: Any) -> None:
    @task
    def counted() -> tuple[int, str]:
        tally.add()
        return 1, "b"

    def body() -> Any:
        a, b = counted()
        assert tally.count() == 0
        return inc(a), b

    assert run_body(body) == (2, "b")
    assert tally.count() == 1


def test_unpacking_by_n_outputs_and_by_forcing(run_body: Any) -> None:
    def body() -> Any:
        a, b = same.with_options(n_outputs=2)([1, 2])
        c, d, e = same([3, 4, 5])
        first, *rest = two()
        return [a, b, c, d, e, first, *rest]

    assert run_body(body) == [1, 2, 3, 4, 5, 1, "b"]


def test_unpacking_into_the_wrong_number_fails_where_it_is_written(run_body: Any) -> None:
    def body() -> None:
        with pytest.raises(ValueError, match="too many values to unpack"):
            (_,) = two()
        with pytest.raises(ValueError, match="not enough values"):
            _, _, _ = two()

    run_body(body)


def test_allow_failure_hands_the_exception_over(run_body: Any) -> None:
    def body() -> Any:
        return (
            same(allow_failure(boom(1))),
            same([allow_failure(boom(2)), inc(0)]),
            same(allow_failure([boom(3), 4])),
        )

    first, (second, one), (third, four) = run_body(body)
    assert [str(first), str(second), one, str(third), four] == ["boom 1", "boom 2", 1, "boom 3", 4]
    assert isinstance(first, ValueError)


# -- user values ---------------------------------------------------------------------------------------


class Touchy:
    """Raises at whatever is done to it."""

    def __iter__(self) -> Any:
        raise AssertionError("walked")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise AssertionError(f"asked for {name}")

    def __eq__(self, other: object) -> bool:
        raise AssertionError("compared")

    def __bool__(self) -> bool:
        raise AssertionError("asked for truth")

    def __len__(self) -> int:
        raise AssertionError("measured")

    __hash__ = object.__hash__


def test_user_values_are_never_walked(local_name: str) -> None:
    touchy = Touchy()

    @task
    def is_it(x: Any, inside: Any) -> bool:
        return x is touchy and inside[0] is touchy

    @task
    def make() -> Any:
        return touchy

    @flow(backend=local_name)
    def body() -> Any:
        return is_it(touchy, [touchy, inc(1)]), is_it(make(), [touchy]), is_it.map(same([touchy]), [[make()]])

    assert body() == (True, True, [True])


def test_subclasses_of_containers_are_user_values(run_body: Any) -> None:
    class Walked(dict[Any, Any]):
        def __iter__(self) -> Any:
            raise AssertionError("walked")

    assert run_body(lambda: same(OrderedDict(a=1))) == OrderedDict(a=1)


def test_a_container_that_contains_itself_is_a_cycle(run_body: Any) -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    table: dict[str, Any] = {"a": 1}
    table["self"] = [table]
    with pytest.raises(CycleError, match="a list passed as an argument contains itself"):
        run_body(lambda: same(loop))
    with pytest.raises(CycleError, match="a dict passed as an argument contains itself"):
        run_body(lambda: same(table))
    with pytest.raises(CycleError):
        run_body(lambda: same([inc(1), loop]))
    with pytest.raises(CycleError):
        run_body(lambda: same.map([loop, inc(1)]))


def test_one_list_in_two_places_is_no_cycle(run_body: Any) -> None:
    shared = [1]
    assert run_body(lambda: same([shared, shared, inc(0)])) == [[1], [1], 1]


# -- other runs ----------------------------------------------------------------------------------------


def test_a_future_of_another_run_is_refused(backend_name: str) -> None:
    kept: list[Any] = []

    @flow(backend=backend_name)
    def first() -> Any:
        kept.append(inc(1))
        return kept[0]

    @flow(backend=backend_name)
    def second() -> Any:
        return inc(kept[0])

    first()
    assert kept[0].result() == 2
    with pytest.raises(
        CrossRunError,
        match=r"task 'inc' got a future of inc that belongs to another run \(of 'first'\)",
    ):
        second()
    with pytest.raises(CrossRunError):
        flow(backend=backend_name)(lambda: kept[0])()
    with pytest.raises(CrossRunError):
        flow(backend=backend_name)(lambda: inc.map(kept[0]))()


# -- waiting for several -------------------------------------------------------------------------------


def test_as_completed_gives_futures_as_they_end() -> None:
    gates = [threading.Event() for _ in range(3)]

    @task(batch_size=1)
    def blocked(i: int) -> int:
        gates[i].wait(30)
        return i

    @flow(backend="threads")
    def body() -> Any:
        order = []
        gates[2].set()
        for future in as_completed([blocked(i) for i in range(3)]):
            order.append(future.result())
            gates[{2: 0, 0: 1, 1: 1}[order[-1]]].set()
        return order

    assert body() == [2, 0, 1]


def test_as_completed_takes_maps_lists_and_single_futures(run_body: Any) -> None:
    def body() -> Any:
        mapped = inc.map(range(20))
        return [
            sorted(f.result() for f in as_completed(mapped)),
            sorted(f.result() for f in mapped.as_completed()),
            [f.result() for f in as_completed(inc(1))],
            list(as_completed([])),
        ]

    assert run_body(body) == [list(range(1, 21)), list(range(1, 21)), [2], []]


def test_as_completed_yields_failed_futures_too_and_once(run_body: Any) -> None:
    def body() -> Any:
        one = boom()
        return [str(f.result(raise_on_failure=False)) for f in as_completed([one, one, inc(1)])]

    assert sorted(run_body(body)) == ["2", "boom None"]


def test_as_completed_and_wait_time_out() -> None:
    gate = threading.Event()

    @task
    def blocked() -> bool:
        return gate.wait(30)

    @flow(backend="threads")
    def body() -> Any:
        futures = [inc(1), blocked()]
        futures[0].result()
        with pytest.raises(TimeoutError, match=r"1 of 2 futures did not end within 0\.01 s"):
            list(as_completed(futures, timeout=0.01))
        done, not_done = wait(futures, timeout=0.01)
        assert (done, not_done) == ([futures[0]], [futures[1]])
        gate.set()
        return len(wait(futures).done)

    assert body() == 2


def test_waiting_for_what_is_no_future_is_a_clear_error(run_body: Any) -> None:
    def body() -> None:
        for look in (lambda: wait([3]), lambda: list(as_completed([3]))):  # type: ignore[list-item]
            with pytest.raises(TaskOptionError, match="a list of futures was expected, but it holds 3"):
                look()

    run_body(body)


# -- where nothing can run -----------------------------------------------------------------------------


def test_forcing_a_call_made_inside_a_task_is_refused(backend_name: str) -> None:
    @task
    def outer() -> int:
        return inc(1).result()

    with pytest.raises(
        ForcingError, match=r"the future of inc was forced inside a running task; .* task\.fn"
    ):
        flow(backend=backend_name)(lambda: outer())()


def test_forcing_a_future_of_the_flow_inside_a_task_is_refused(local_name: str) -> None:
    @flow(backend=local_name)
    def body() -> Any:
        first = inc(1)

        @task
        def sneaky() -> int:
            return first.result()

        return sneaky()

    with pytest.raises(ForcingError, match="was forced inside a running task"):
        body()


def test_returning_or_using_a_future_of_the_flow_inside_a_task_is_refused(local_name: str) -> None:
    @flow(backend=local_name)
    def body(way: str) -> Any:
        first = inc(1)

        @task
        def sneaky() -> Any:
            return first if way == "return" else inc(first)

        return sneaky()

    for way in ("return", "use"):
        with pytest.raises(
            CrossRunError, match="only futures of calls made in the same task run can be used"
        ):
            body(way)


# -- values where a future stands --------------------------------------------------------------------------


def test_comparing_with_a_value_forces(run_body: Any) -> None:
    def body() -> Any:
        one, other = same(3), same(3)
        assert one == 3 and one != 4 and one == 3 and one in (1, 3) and one not in (1, 2)
        assert one == other and other in [one]
        assert same([1, 2]) == [1, 2] and inc.map([1, 2]) == [2, 3]
        assert len({one, other, one}) == 2
        return "equal" if same("ready") == "ready" else "different"

    assert run_body(body) == "equal"


@pytest.mark.parametrize(
    "compute",
    [
        lambda one: one + 1,
        lambda one: 1 + one,
        lambda one: one * 2,
        lambda one: -one,
        lambda one: one < 4,
        lambda one: one < 4,
        lambda one: sorted([one, same(1)]),
        lambda one: sum([one]),
        lambda one: [1, 2, 3][one],
        lambda one: range(one),
        lambda one: int(one),
        lambda one: round(one),
    ],
)
def test_computing_with_a_future_is_refused_and_says_how(run_body: Any, compute: Any) -> None:
    def body() -> None:
        with pytest.raises(TypeError, match=r"same.* is a future.*future\.result\(\)"):
            compute(same(3))

    run_body(body)


def test_the_state_of_a_future_or_an_item_has_its_value_or_failure(run_body: Any) -> None:
    def body() -> Any:
        good, bad, mapped = same(3), boom(1), inc.map([1, 2])
        wait([good, bad, mapped])
        assert good.state.result() == 3 and mapped.state.result() == [2, 3] and mapped[1].state.result() == 3
        with pytest.raises(ValueError, match="boom 1"):
            bad.state.result()
        assert isinstance(bad.state.result(raise_on_failure=False), ValueError)
        return good

    assert run_body(body) == 3


def test_looking_at_a_final_state_handles_the_failure(backend_name: str) -> None:
    @flow(backend=backend_name)
    def body() -> Any:
        futures = [same(1), boom(2), same(3)]
        wait(futures)
        return [future.result() for future in futures if future.state.is_completed()]

    assert body() == [1, 3]
    run = body.run()
    assert run.nodes["boom"].state.result(raise_on_failure=False).args == ("boom 2",)
    assert [item.state.result() for item in run.nodes["same"].items] == [1]


def test_printing_a_future_handles_nothing(backend_name: str) -> None:
    @flow(backend=backend_name)
    def body() -> str:
        future = boom(2)
        wait([future])
        return repr(future)

    assert body.run().state == "Failed"
