"""Mapping: what is mapped, widths, chains, helpers, iterators, and the failures of maps."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pydantic
import pytest

import graphflow
from graphflow import (
    allow_failure,
    flatten,
    flow,
    items,
    product,
    rows,
    starmap,
    task,
    task_context,
    unmapped,
)
from graphflow.common.wording import with_article
from graphflow.errors import MapFailed, MapTypeError, MapWidthError, UpstreamFailed, ValueUnavailable


@task
def inc(x: Any) -> Any:
    return x + 1


@task
def same(x: Any) -> Any:
    return x


@task
def add(x: Any, y: Any = 100) -> Any:
    return x + y


@task
def total(xs: Any) -> Any:
    return sum(xs)


@task
def boom(x: Any = None) -> Any:
    raise ValueError(f"boom {x}")


@task
def odd_fails(x: int) -> int:
    if x % 2:
        raise ValueError(f"odd {x}")
    return x


class Settings(pydantic.BaseModel):
    y: int


def numbers(n: int) -> Iterator[int]:
    yield from range(n)


SEQUENCES: dict[str, Any] = {
    "list": lambda: [1, 2, 3],
    "tuple": lambda: (1, 2, 3),
    "range": lambda: range(1, 4),
    "deque": lambda: deque([1, 2, 3]),
    "array": lambda: np.array([1, 2, 3]),
    "series": lambda: pd.Series([1, 2, 3], index=[7, 5, 7]),
    "index": lambda: pd.Index([1, 2, 3]),
    "generator": lambda: (x + 1 for x in numbers(3)),
    "iterator": lambda: iter([1, 2, 3]),
    "map": lambda: map(int, "123"),
    "dict keys": lambda: {1: "a", 2: "b", 3: "c"}.keys(),
    "dict values": lambda: {"a": 1, "b": 2, "c": 3}.values(),
}


# -- kinds of input ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SEQUENCES)
def test_sequences_and_iterators_of_every_kind_are_mapped(run_body: Any, kind: str) -> None:
    assert run_body(lambda: inc.map(SEQUENCES[kind]())) == [2, 3, 4]


@pytest.mark.parametrize("kind", sorted(set(SEQUENCES) - {"dict keys", "dict values"}))
def test_futures_of_sequences_and_iterators_are_mapped(run_body: Any, kind: str) -> None:
    @task
    def make() -> Any:
        return SEQUENCES[kind]()

    assert run_body(lambda: inc.map(make())) == [2, 3, 4]


def test_dict_views_made_at_run_time_are_mapped(local_name: str) -> None:
    @task
    def make(what: str) -> Any:
        return getattr({1: 2, 3: 4}, what)()

    @flow(backend=local_name)
    def body() -> Any:
        return inc.map(make("keys")), inc.map(make("values")), same.map(make("items"))

    assert body() == ([2, 4], [3, 5], [(1, 2), (3, 4)])


def test_an_array_of_two_dimensions_is_mapped_by_rows(run_body: Any) -> None:
    matrix = np.arange(6).reshape(3, 2)
    assert run_body(lambda: total.map(matrix)) == [1, 5, 9]
    assert run_body(lambda: total.map(same(matrix))) == [1, 5, 9]


def test_user_sequences_and_iterables_are_mapped(local_name: str) -> None:
    class Squares:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, i: int) -> int:
            return i * i

    class Thrice:
        def __iter__(self) -> Iterator[int]:
            return iter([1, 2, 3])

    @task
    def make(kind: Any) -> Any:
        return kind()

    @flow(backend=local_name)
    def body() -> Any:
        return inc.map(Squares()), inc.map(Thrice()), inc.map(make(Squares)), inc.map(make(Thrice))

    assert body() == ([1, 2, 5], [2, 3, 4], [1, 2, 5], [2, 3, 4])


def test_lists_of_futures_are_mapped(run_body: Any) -> None:
    def body() -> Any:
        return inc.map([same(1), same(2), 5]), inc.map((same(1),)), total.map([[same(1), 2], [3]])

    assert run_body(body) == ([2, 3, 6], [2], [3, 3])


@pytest.mark.parametrize(
    "constant", ["text", b"bytes", 3, 2.5, None, True, object, np.float64(2), np.array(4)]
)
def test_scalars_texts_and_bytes_are_constant(run_body: Any, constant: Any) -> None:
    @task
    def pair(x: Any, y: Any) -> Any:
        return x, y

    assert run_body(lambda: pair.map([1, 2], constant)) == [(1, constant), (2, constant)]


def test_pydantic_models_are_constant(run_body: Any) -> None:
    @task
    def use(x: int, settings: Settings) -> int:
        return x + settings.y

    assert run_body(lambda: use.map([1, 2], Settings(y=5))) == [6, 7]


def test_unmapped_makes_anything_a_constant(run_body: Any) -> None:
    @task
    def pair(x: Any, y: Any) -> Any:
        return x, y

    def body() -> Any:
        return (
            pair.map([1], unmapped([5, 6])),
            pair.map([1], unmapped({"a": same(2)})),
            pair.map([1], unmapped(same.map([1, 2]))),
            pair.map([1], y=unmapped(same([3, 4]))),
        )

    assert run_body(body) == ([(1, [5, 6])], [(1, {"a": 2})], [(1, [1, 2])], [(1, [3, 4])])


def test_a_large_constant_is_one_object_for_all_items(local_name: str) -> None:
    constant = bytes(1_000_000)

    @task
    def place(x: int, y: Any) -> int:
        return id(y)

    @flow(backend=local_name)
    def body() -> Any:
        return place.map(range(50), unmapped(constant))

    assert set(body()) == {id(constant)}


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"a": 1}, r"a dict cannot be mapped.*Use items\(\.\.\.\) for pairs, list\(d\) for keys"),
        ({1, 2}, r"a set cannot be mapped: it has no order. Use items\(\.\.\.\)"),
        (frozenset([1]), "a frozenset cannot be mapped"),
        (pd.DataFrame({"a": [1]}), r"a DataFrame cannot be mapped.*Use rows\(\.\.\.\) for its rows"),
    ],
)
def test_what_has_no_plain_order_is_refused_by_name(backend_name: str, wrong: Any, text: str) -> None:
    @flow(backend=backend_name)
    def recorded() -> Any:
        return inc.map(wrong)

    @flow(backend=backend_name)
    def at_run_time() -> Any:
        return inc.map(same(wrong))

    with pytest.raises(MapTypeError, match=rf"task 'inc': argument 'x': {text}"):
        recorded()
    run = at_run_time.run()
    assert isinstance(run.exception, MapTypeError)
    assert run.nodes["same"].state == "Completed"
    assert run.nodes["inc"].state == "Failed"
    with pytest.raises(
        MapTypeError, match=rf"(?i)inc cannot be mapped over x: same returned an? \w+. {text}"
    ):
        run.result()


@pytest.mark.parametrize("wrong", [3, None, "text"])
def test_a_scalar_made_at_run_time_fails_the_map_not_the_run(backend_name: str, wrong: Any) -> None:
    @flow(backend=backend_name)
    def body() -> Any:
        inc.map(same(wrong))
        return same("still here")

    run = body.run()
    assert [node.state for node in run.nodes] == ["Completed", "Failed", "Completed"]
    assert f"same returned {with_article(type(wrong).__name__)}. Only sequences are mapped" in str(
        run.exception
    )


def test_a_map_over_constants_alone_is_refused(run_body: Any) -> None:
    with pytest.raises(
        MapTypeError, match=r"task 'add': nothing to map over: all arguments are constants \(int, Unmapped"
    ):
        run_body(lambda: add.map(1, unmapped([2])))
    with pytest.raises(MapTypeError, match="there are none"):
        run_body(lambda: task(lambda: 1).map())


# -- widths --------------------------------------------------------------------------------------------


def test_mapped_arguments_are_zipped(run_body: Any) -> None:
    assert run_body(
        lambda: [add.map([1, 2], [10, 20]), add.map(same([1, 2]), y=range(2)), add.map(iter([1]), [2])]
    ) == [
        [11, 22],
        [1, 3],
        [3],
    ]


def test_widths_that_differ_are_refused_by_name_where_they_are_known(run_body: Any) -> None:
    with pytest.raises(
        MapWidthError,
        match=r"task 'add' is mapped over arguments of different lengths \(x: 2, y: 3\); .* unmapped",
    ) as caught:
        run_body(lambda: add.map([1, 2], [1, 2, 3]))
    assert caught.value.widths == {"x": 2, "y": 3}
    with pytest.raises(MapWidthError, match=r"x: 2, y: 3"):
        run_body(lambda: add.map(inc.map([1, 2]), y=inc.map(inc.map([1, 2, 3]))))


def test_widths_that_differ_at_run_time_fail_the_map(backend_name: str) -> None:
    @flow(backend=backend_name)
    def body(which: str) -> Any:
        two, three = same([1, 2]), same([1, 2, 3])
        if which == "futures":
            return add.map(two, three)
        if which == "maps":
            return add.map(inc.map(two), inc.map(three))
        if which == "iterator":
            return add.map(iter([1, 2]), three)
        return add.map(numbers(3), [1, 2])

    for which in ("futures", "maps", "iterator", "long iterator"):
        run = body.run(which)
        error = run.exception
        assert isinstance(error, MapWidthError), (which, error)
        assert set(error.widths) == {"x", "y"}
        assert "different lengths" in str(error)
        assert run.nodes["add"].state == "Failed"


def test_empty_maps_complete_with_an_empty_list(run_body: Any) -> None:
    def body() -> Any:
        none = inc.map([])
        return [
            none,
            inc.map(same([])),
            inc.map(none),
            inc.map(numbers(0)),
            total(none),
            add.map(none, []),
            inc.map(()),
        ]

    assert run_body(body) == [[], [], [], [], 0, [], []]


def test_an_empty_map_has_state_width_and_no_items(backend_name: str) -> None:
    @flow(backend=backend_name)
    def body() -> Any:
        return inc.map(same([]))

    node = body.run().nodes["inc"]
    assert (node.state, node.width, len(node.items), dict(node.counts)) == ("Completed", 0, 0, {})


def test_a_list_changed_after_the_call_does_not_change_the_map(run_body: Any) -> None:
    def body() -> Any:
        values, array, queue = [1, 2, 3], np.array([1, 2]), deque([1])
        mapped = [inc.map(values), inc.map(array), inc.map(queue)]
        values.append(4)
        values[0] = 99
        array[0] = 99
        queue.append(5)
        return mapped

    assert run_body(body) == [[2, 3, 4], [2, 3], [2]]


def test_index_and_width_are_in_the_context(run_body: Any) -> None:
    @task
    def where(x: Any) -> Any:
        return task_context().map_index, task_context().width

    def body() -> Any:
        first = where.map(same(["a", "b"]))
        return first, where.map(first), where.map(iter(["a"]))

    mapped, chained, streamed = run_body(body)
    assert mapped == chained == [(0, 2), (1, 2)]
    assert streamed[0][0] == 0


# -- chains --------------------------------------------------------------------------------------------


def test_chains_and_diamonds_give_what_a_plain_loop_gives(run_body: Any) -> None:
    def body() -> Any:
        a = inc.map(range(100))
        b, c = inc.map(a), add.map(a, 1000)
        return add.map(b, c), total(b), add.map(b, range(100))

    diamond, summed, mixed = run_body(body)
    assert diamond == [(i + 2) + (i + 1001) for i in range(100)]
    assert summed == sum(i + 2 for i in range(100))
    assert mixed == [i + 2 + i for i in range(100)]


@pytest.mark.parametrize(
    "second_options", [{}, {"priority": 1}, {"batch_size": 1}], ids=["fused", "unfused", "batches"]
)
def test_an_item_goes_on_before_its_siblings_are_done(second_options: dict[str, Any]) -> None:
    reached = threading.Event()

    @task(batch_size=1)
    def first(i: int) -> int:
        if i == 3:
            assert reached.wait(30), "item 0 did not reach the second step while item 3 was in the first"
        return i

    @task(**{"batch_size": 1, **second_options})
    def second(i: int) -> int:
        if i == 0:
            reached.set()
        return i

    @flow(backend="threads:2")
    def body() -> Any:
        return second.map(first.map(range(4)))

    assert body() == [0, 1, 2, 3]


def test_a_reduce_takes_its_items_in_index_order_whatever_the_timing() -> None:
    gates = [threading.Event() for _ in range(4)]

    @task(batch_size=1)
    def late_first(i: int) -> int:
        if i < 3:
            gates[i + 1].wait(30)
        gates[i].set()
        return i

    @task
    def listed(xs: list[int]) -> list[int]:
        return list(xs)

    @flow(backend="threads:4")
    def body() -> Any:
        return listed(late_first.map(range(4)))

    assert body() == [0, 1, 2, 3]


def test_maps_nest(run_body: Any) -> None:
    @task
    def sizes(n: int) -> list[int]:
        return list(range(n))

    @task
    def summed(xs: list[int]) -> Any:
        return total(inc.map(xs))

    def body() -> Any:
        nested = sizes.map([1, 2, 3])
        return summed.map(nested), total.map(nested), inc.map(nested[2])

    assert run_body(body) == ([1, 3, 6], [0, 1, 3], [1, 2, 3])


# -- helpers -------------------------------------------------------------------------------------------


def test_product_spreads_over_the_arguments(run_body: Any) -> None:
    @task
    def pair(p: Any) -> Any:
        return p

    @task
    def fit(lr: float, depth: int, name: str = "m") -> Any:
        return name, lr, depth

    def body() -> Any:
        return [
            add.map(product([1, 2], [10, 20])),
            pair.map(product("ab", [1])) if False else pair.map(product(["a", "b"], [1])),
            fit.map(product(lr=[0.1], depth=[1, 2])),
            add.map(product(same([1, 2]), [10])),
            add.map(product([1], [2], [3])[0:0]) if False else add.map(product([], [10])),
            fit.map(product([0.1], [3]), name="n"),
        ]

    assert run_body(body) == [
        [11, 21, 12, 22],
        [("a", 1), ("b", 1)],
        [("m", 0.1, 1), ("m", 0.1, 2)],
        [11, 12],
        [],
        [("n", 0.1, 3)],
    ]


def test_a_product_is_computed_not_stored(run_body: Any) -> None:
    def body() -> Any:
        huge = product(range(10_000), range(10_000))
        return len(huge.value), huge.value[12_345_678]

    assert run_body(body) == (100_000_000, (1234, 5678))


@pytest.mark.parametrize(
    ("pools", "text"),
    [
        (({"a": 1},), "a dict cannot be mapped"),
        ((3,), "argument 0 must be a sequence, not 3"),
        (({1},), "a set cannot be mapped"),
    ],
)
def test_a_product_of_what_is_not_mapped_is_refused(run_body: Any, pools: Any, text: str) -> None:
    with pytest.raises(MapTypeError, match=text):
        run_body(lambda: inc.map(product(*pools)))
    with pytest.raises(MapTypeError, match=text):
        run_body(lambda: inc.map(product(*map(same, pools))))


def test_starmap_spreads_tuples_and_mappings(run_body: Any) -> None:
    def body() -> Any:
        return [
            add.map(starmap([(1, 2), (3, 4)])),
            add.starmap([(1,), (3, 4)]),
            starmap(add, [(1, 2)]),
            add.map(starmap([{"x": 1, "y": 2}, {"x": 5}])),
            add.map(starmap(same([(1, 2), {"x": 3}]))),
            add.map(starmap(same.map([(1, 2), (3, 4)]))),
            add.starmap(numbers_pairs()),
            add.starmap([(1,), (2,)], y=[10, 20]),
        ]

    def numbers_pairs() -> Iterator[tuple[int, int]]:
        yield from zip(range(2), range(2), strict=True)

    assert run_body(body) == [[3, 7], [101, 7], [3], [3, 105], [3, 103], [3, 7], [0, 2], [11, 22]]


def test_starmap_of_what_is_no_sequence_is_refused(run_body: Any) -> None:
    with pytest.raises(graphflow.errors.GraphflowError, match=r"starmap\(\.\.\.\): a dict cannot be mapped"):
        run_body(lambda: add.map(starmap({"a": 1})))
    with pytest.raises(MapTypeError, match=r"starmap\(\.\.\.\) takes a sequence of tuples, not 3"):
        run_body(lambda: add.map(starmap(3)))
    with pytest.raises(MapTypeError, match="for mapped arguments only"):
        run_body(lambda: add(starmap([(1, 2)])))


def test_starmap_over_an_element_that_cannot_be_spread_fails_that_item(backend_name: str) -> None:
    @flow(backend=backend_name)
    def body() -> Any:
        return add.starmap([(1, 2), 7, (1, 2, 3)])

    run = body.run()
    assert [item.state for item in run.nodes["add"].items] == ["Completed", "Failed", "Failed"]


def test_flatten_takes_away_one_level(run_body: Any) -> None:
    @task
    def upto(n: int) -> list[int]:
        return list(range(n))

    def body() -> Any:
        nested = upto.map([1, 0, 3])
        return [
            flatten(nested),
            inc.map(flatten(nested)),
            flatten(same([[1], [[2]]])),
            flatten([[1], (2, 3)]),
            inc.map(flatten([[1], [2]])),
            flatten([upto(2), [9]]),
            inc.map(flatten(iter([[1], [2]]))),
        ]

    assert run_body(body) == [[0, 0, 1, 2], [1, 1, 2, 3], [1, [2]], [1, 2, 3], [2, 3], [0, 1, 9], [2, 3]]


def test_flatten_of_what_is_not_nested_is_a_clear_failure(run_body: Any) -> None:
    with pytest.raises(MapTypeError, match="takes a sequence of sequences, but found an int among them"):
        run_body(lambda: flatten(same([1])))


def test_filter_keeps_what_a_task_or_function_says(run_body: Any) -> None:
    @task
    def is_even(x: int) -> bool:
        return x % 2 == 0

    def body() -> Any:
        numbers = inc.map(range(6))
        return [
            numbers.filter(is_even),
            numbers.filter(lambda x: x > 4),
            inc.map(numbers.filter(is_even)),
            numbers.filter(lambda x: False),
        ]

    assert run_body(body) == [[2, 4, 6], [5, 6], [3, 5, 7], []]


def test_items_maps_over_dicts_and_sets_sorted(run_body: Any) -> None:
    def body() -> Any:
        return [
            same.map(items({"b": 1, "a": 2})),
            same.map(items({3, 1, 2})),
            same.map(items({"x", 1})),
            add.map(starmap(items(same({1: 2, 3: 4})))),
        ]

    assert run_body(body) == [[("b", 1), ("a", 2)], [1, 2, 3], [1, "x"], [3, 7]]


def test_items_and_rows_refuse_other_things(run_body: Any) -> None:
    with pytest.raises(MapTypeError, match=r"items\(\.\.\.\) takes a dict or a set, not a list"):
        run_body(lambda: same.map(items([1])))
    with pytest.raises(MapTypeError, match=r"rows\(\.\.\.\) takes a DataFrame, not a list"):
        run_body(lambda: same.map(rows([1])))
    with pytest.raises(MapTypeError, match=r"rows\(\.\.\.\) takes a DataFrame, not a dict"):
        run_body(lambda: same.map(rows(same({}))))


def test_rows_maps_over_a_data_frame(run_body: Any) -> None:
    frame = pd.DataFrame({"x": [1, 2], "y": [10, 20]}, index=[5, 5])

    def body() -> Any:
        return add.map(starmap(rows(frame))), add.map(starmap(rows(same(frame))))

    assert run_body(body) == ([11, 22], [11, 22])


# -- iterators -----------------------------------------------------------------------------------------


def test_a_generator_is_pulled_as_its_items_are_used(local_name: str) -> None:
    pulled: list[int] = []
    seen: list[int] = []

    def source() -> Iterator[int]:
        for i in range(2_000):
            pulled.append(i)
            yield i

    @task(batch_size=4)
    def look(i: int) -> int:
        seen.append(len(pulled))
        return i

    @flow(backend=local_name)
    def body() -> Any:
        return total(look.map(source()))

    assert body() == sum(range(2_000))
    assert seen[0] < 2_000


def test_an_endless_generator_holds_nobody_up_and_ends_with_the_run() -> None:
    def endless() -> Iterator[int]:
        yield from itertools.count()

    @flow(backend="threads")
    def body() -> Any:
        forever = inc.map(endless())
        first = [forever[i].result() for i in range(3)]
        other = total(inc.map(range(10))).result()
        raise KeyError(first, other)

    with pytest.raises(KeyError) as caught:
        body()
    assert caught.value.args == ([1, 2, 3], 55)


def test_a_generator_that_waits_holds_nobody_up() -> None:
    gate = threading.Event()

    def waiting() -> Iterator[int]:
        yield 1
        assert gate.wait(30)
        yield 2

    @flow(backend="threads")
    def body() -> Any:
        slow = inc.map(waiting())
        quick = total(inc.map([1, 2])).result()
        first = slow[0].result()
        gate.set()
        return quick, first, slow

    assert body() == (5, 2, [2, 3])


def test_a_generator_that_raises_fails_the_map_after_its_earlier_items(backend_name: str) -> None:
    def source() -> Iterator[int]:
        yield from range(3)
        raise RuntimeError("no more")

    @flow(backend=backend_name)
    def body() -> Any:
        return total(inc.map(source()))

    run = body.run()
    node = run.nodes["inc"]
    assert node.state == "Failed"
    assert [item.value for item in node.items] == [1, 2, 3]
    assert isinstance(run.exception, RuntimeError)
    assert str(run.exception) == "no more"
    assert run.nodes["total"].state == "UpstreamFailed"


def test_an_iterator_of_futures_is_refused(backend_name: str) -> None:
    @flow(backend=backend_name)
    def body() -> Any:
        return inc.map(same(i) for i in range(3))

    with pytest.raises(MapTypeError, match=r"yielded a future.*use a list of futures instead"):
        body()


def test_several_iterators_are_zipped(run_body: Any) -> None:
    assert run_body(lambda: add.map(numbers(300), (i * 10 for i in range(300)))) == [
        11 * i for i in range(300)
    ]


# -- mapped futures as sequences -----------------------------------------------------------------------


def test_a_mapped_future_is_a_sequence_of_futures(run_body: Any) -> None:
    def body() -> Any:
        mapped = inc.map(same([1, 2, 3, 4]))
        assert len(mapped) == 4
        with pytest.raises(IndexError, match="inc has 4 items"):
            mapped[4]
        with pytest.raises(IndexError):
            mapped[-5]
        with pytest.raises(
            TypeError, match=r"a mapped future is indexed by an integer \(the map index\), not 'a'"
        ):
            mapped["a"]
        return [
            len(mapped),
            bool(mapped),
            bool(inc.map([])),
            [f.result() for f in mapped],
            mapped[0],
            mapped[-1],
            mapped[1:3],
            inc(mapped[1]),
            total(mapped[::2]),
            [f.result() for f in reversed(mapped[:2])],
        ]

    assert run_body(body) == [4, True, False, [2, 3, 4, 5], 2, 5, [3, 4], 4, 6, [3, 2]]


def test_the_results_of_a_map_read_one_by_one(run_body: Any) -> None:
    def body() -> Any:
        futures = inc.map(range(5))
        return [f.result() for f in futures]

    assert run_body(body) == [1, 2, 3, 4, 5]


def test_an_index_beyond_a_width_that_turns_out_later_is_a_clear_error(backend_name: str) -> None:
    @flow(backend=backend_name)
    def forced() -> Any:
        return inc.map(same([1]))[5].result()

    @flow(backend=backend_name)
    def given() -> Any:
        return inc(inc.map(same([1]))[5])

    @flow(backend=backend_name)
    def returned() -> Any:
        return inc.map(same([1]))[5]

    with pytest.raises(IndexError, match="inc has 1 item; there is no item 5"):
        forced()
    with pytest.raises(ValueUnavailable, match=r"needs item 5 of inc, which has only 1 item"):
        given()
    with pytest.raises(IndexError, match="inc has 1 item; there is no item 5"):
        returned()


# -- failures of maps ----------------------------------------------------------------------------------


def test_the_failures_of_a_map_are_one_group_that_names_counts_indices_and_labels(backend_name: str) -> None:
    @task(task_run_name="file-{x}")
    def load(x: int) -> int:
        return odd_fails.fn(x)

    @flow(backend=backend_name)
    def body() -> Any:
        return load.map(range(14))

    with pytest.raises(MapFailed) as caught:
        body()
    group = caught.value
    assert "7 of 14 items of load failed (first: file-1, file-3, file-5, file-7, file-9)" in str(group)
    assert "ValueError: odd 1" in str(group)
    assert (group.failed, group.width, group.indices) == (7, 14, (1, 3, 5, 7, 9, 11, 13))
    assert [str(error) for error in group.exceptions] == [f"odd {i}" for i in range(1, 14, 2)]
    assert all(type(error) is ValueError for error in group.exceptions)


def test_equal_failures_are_shown_once_and_large_groups_stay_small(backend_name: str) -> None:
    @task
    def fail(i: int) -> None:
        raise OSError("disk full") if i % 2 else ValueError(i)

    @flow(backend=backend_name)
    def body() -> Any:
        return fail.map(range(1000))

    with pytest.raises(MapFailed) as caught:
        body()
    assert caught.value.failed == 1000
    assert len(caught.value.exceptions) <= 101


def test_an_items_failure_stops_no_sibling(backend_name: str) -> None:
    @flow(backend=backend_name)
    def body() -> Any:
        return inc.map(odd_fails.map(range(6)))

    run = body.run()
    assert [item.state for item in run.nodes["odd_fails"].items] == ["Completed", "Failed"] * 3
    assert [item.state for item in run.nodes["inc"].items] == ["Completed", "UpstreamFailed"] * 3
    assert dict(run.nodes["inc"].counts) == {"Completed": 3, "UpstreamFailed": 3}
    assert [run.nodes["inc"].items[i].value for i in (0, 2, 4)] == [1, 3, 5]


@pytest.mark.parametrize("fused", [True, False])
def test_a_failed_lane_names_its_root(backend_name: str, fused: bool) -> None:
    @flow(backend=backend_name)
    def body() -> Any:
        middle = inc.map(odd_fails.map(range(3)))
        last = inc.with_options(name="last", priority=0 if fused else 1).map(middle)
        return last[1].result()

    with pytest.raises(
        UpstreamFailed,
        match=r"last\[1\] did not run, because odd_fails\[1\] failed \(through inc\): ValueError: odd 1",
    ) as caught:
        body()
    assert caught.value.root == "odd_fails[1]"
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_failed_item_in_a_list_fails_its_lane_alone(backend_name: str) -> None:
    @flow(backend=backend_name)
    def body() -> Any:
        return inc.map([same(1), boom(2), same(3)])

    run = body.run()
    assert [item.state for item in run.nodes["inc"].items] == ["Completed", "UpstreamFailed", "Completed"]
    assert "inc[1] did not run, because boom failed: ValueError: boom 2" in str(
        run.nodes["inc"].items[1].exception
    )
    assert run.state == "Failed"
    assert str(run.exception) == "boom 2"


def test_a_failed_item_in_a_flattened_or_filtered_map_fails_its_lane_alone(backend_name: str) -> None:
    @task
    def pair(x: int) -> list[int]:
        return [odd_fails.fn(x), x]

    @flow(backend=backend_name)
    def body(how: str) -> Any:
        if how == "flatten":
            return inc.map(flatten(pair.map(range(3))))
        return inc.map(odd_fails.map(range(3)).filter(lambda x: True))

    run = body.run("flatten")
    assert [item.state for item in run.nodes["inc"].items] == ["Completed"] * 2 + ["UpstreamFailed"] + [
        "Completed"
    ] * 2
    assert run.state == "Failed"
    run = body.run("filter")
    assert [item.state for item in run.nodes["inc"].items] == ["Completed", "UpstreamFailed", "Completed"]
    assert run.state == "Failed"


def test_a_failure_in_a_flattened_list_fails_what_takes_the_whole(backend_name: str) -> None:
    @flow(backend=backend_name)
    def body() -> Any:
        return total(odd_fails.map(range(3)).filter(lambda x: True))

    run = body.run()
    assert run.nodes["total"].state == "UpstreamFailed"
    assert "odd_fails[1] failed: ValueError: odd 1" in str(run.nodes["total"].exception)


def test_failures_of_a_future_are_data(backend_name: str) -> None:
    @task(retries=1, task_run_name="f{x}")
    def load(x: int, y: str) -> int:
        graphflow.get_run_logger().info("loading %s", x)
        return odd_fails.fn(x)

    @flow(backend=backend_name)
    def body() -> Any:
        failures = load.map(range(4), "why").failures()
        return [
            (f.index, f.label, f.inputs, str(f.exception), f.attempts, [line.message for line in f.log])
            for f in failures
        ], failures[0].traceback

    value, text = body()
    assert value == [
        (1, "f1", "x=1, y='why'", "odd 1", 2, ["loading 1", "loading 1"]),
        (3, "f3", "x=3, y='why'", "odd 3", 2, ["loading 3", "loading 3"]),
    ]
    assert "odd_fails" in text and "graphflow/runner" not in text


def test_allow_failure_of_a_map_hands_exceptions_over_in_their_places(run_body: Any) -> None:
    @task
    def kinds(xs: list[Any]) -> Any:
        return [type(x).__name__ for x in xs]

    @task
    def kind(x: Any) -> Any:
        return type(x).__name__

    def body() -> Any:
        mapped = odd_fails.map(range(3))
        return kinds(allow_failure(mapped)), kind.map(allow_failure(mapped))

    assert run_body(body) == (["int", "ValueError", "int"], ["int", "ValueError", "int"])


def test_batch_size_is_kept(run_body: Any) -> None:
    assert run_body(lambda: inc.with_options(batch_size=3).map(range(10))) == list(range(1, 11))
