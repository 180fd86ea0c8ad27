"""Cache keys of items: what they depend on, and what they do not."""

from __future__ import annotations

import functools
import pickle
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydantic
import pytest

from graphflow import (
    DEFAULT,
    FLOW_PARAMETERS,
    INPUTS,
    RUN_ID,
    TASK_SOURCE,
    file_input,
    starmap,
    task,
    task_input_hash,
    unmapped,
)
from graphflow.graph.mapping import FailedInput, PartialList
from graphflow.graph.recording import Recorder
from graphflow.identity.cache_keys import NO_KEY, folder_of, key_spec
from graphflow.identity.canonical import register_hash
from graphflow.identity.hashing import canonical_digest
from graphflow.model.orders import Program
from graphflow.runner.inputs import Constant, MixedColumn, Ready
from graphflow.runner.keymaking import KeyMaker, Keys

HINT = "; add one with register_hash or __graphflow_hash__"


def add(x: Any, y: Any = 2, *more: Any, z: Any = 3, **named: Any) -> Any:
    return x, y, more, z, named


def other(x: Any, y: Any = 2, *more: Any, z: Any = 3, **named: Any) -> Any:
    return named, z, more, y, x


def program_of(
    fn: Callable[..., Any], *args: Any, mapped: bool = False, flow: Any = None, **rest: Any
) -> Program:
    """The program of a call; options of the task are named, arguments by name stand in `kwargs`."""
    kwargs = rest.pop("kwargs", {})
    options = rest or {"cache_policy": INPUTS}
    recorder = Recorder(flow_name="f", flow_parameters=flow)
    callee = task(**options)(fn)._callee  # type: ignore[call-overload]
    node = recorder.map(callee, args, kwargs) if mapped else recorder.call(callee, args, kwargs)
    assert node.program is not None
    return node.program


def keys_of(program: Program, slots: Sequence[Ready] = (), *, count: int = 1, run_id: str = "r") -> Keys:
    spec = key_spec(program, run_id=run_id)
    assert spec is not None
    # Specs travel.
    spec = pickle.loads(pickle.dumps(spec))
    return KeyMaker(program, spec, slots).keys(range(count))


def key(fn: Callable[..., Any], *args: Any, run_id: str = "r", **rest: Any) -> bytes:
    """The key of a plain call, which must have one."""
    found = keys_of(program_of(fn, *args, **rest), run_id=run_id)
    assert not found.problems and found.keys != NO_KEY, found.problems
    return found.keys


def split(keys: bytes) -> list[bytes]:
    return [keys[at : at + 16] for at in range(0, len(keys), 16)]


# -- inputs --------------------------------------------------------------------------------------------------


def test_how_an_argument_is_given_makes_no_difference() -> None:
    expected = key(add, 1, 5)
    assert expected == key(add, 1, kwargs={"y": 5})
    assert expected == key(add, kwargs={"z": 3, "y": 5, "x": 1})
    assert expected == key(add, kwargs={"x": 1, "z": 3, "y": 5})
    assert expected == key(add, 1, unmapped(5))
    for program, slots in (
        (program_of(add, [9, 1], unmapped(5), mapped=True), [[1]]),
        (program_of(add, [9, 1], [5, 5], mapped=True), [[1], [5]]),
        (program_of(add, mapped=True, kwargs={"y": [5], "x": [1]}), [[5], [1]]),
        (program_of(add, starmap([(1, 5)]), mapped=True), [[(1, 5)]]),
        (program_of(add, starmap([{"y": 5, "x": 1}]), mapped=True), [[{"y": 5, "x": 1}]]),
        (program_of(add, [1], mapped=True, kwargs={"y": 5, "z": 3}), [[1]]),
    ):
        assert keys_of(program, slots).keys == expected


def test_all_arguments_count_each_by_its_name() -> None:
    keys = {
        key(add, 1, 5),
        key(add, 5, 1),
        key(add, 1),
        key(add, 1, 5, 3),
        key(add, 1, 5, 3, 4),
        key(add, 1, 5, (3, 4)),
        key(add, 1, 5, kwargs={"z": 4}),
        key(add, 1, 5, kwargs={"a": 3}),
        key(add, 1, 5, kwargs={"b": 3}),
        key(add, 1, 5, kwargs={"a": 3, "b": 3}),
        key(add, 1, kwargs={"z": 5}),
    }
    assert len(keys) == 11
    assert key(add, 1, kwargs={"a": 3, "b": 4}) == key(add, 1, kwargs={"b": 4, "a": 3})


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ((1, 2), [1, 2]),
        (1, True),
        (1, 1.0),
        (0, False),
        ({1: "x"}, {"1": "x"}),
        ("1", 1),
        (b"1", "1"),
        (None, ()),
        ({1}, frozenset({1})),
        (np.int64(1), 1),
        (np.array([1, 2]), [1, 2]),
        (pd.Series([1]), [1]),
    ],
)
def test_values_of_different_types_have_different_keys(one: Any, two: Any) -> None:
    assert key(add, one) != key(add, two)
    column = keys_of(program_of(add, [0, 0], mapped=True), [[one, two]], count=2)
    assert split(column.keys) == [key(add, one), key(add, two)]


class Model(pydantic.BaseModel):
    x: int
    names: set[str] = set()


class Registered:
    def __init__(self, value: Any) -> None:
        self.value = value


def test_objects_of_libraries_and_registered_types_have_keys() -> None:
    register_hash(Registered, lambda each: each.value)
    assert (
        key(add, Model(x=1, names={"a", "b"}))
        == key(add, Model(x=1, names={"b", "a"}))
        != key(add, Model(x=2))
    )
    assert key(add, Registered({1, 2})) == key(add, Registered({2, 1})) != key(add, Registered({1}))
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    assert key(add, frame) == key(add, frame.copy()) != key(add, frame.assign(a=[1, 3]))
    assert (
        key(add, np.arange(100_000)) == key(add, np.arange(200_000)[:100_000]) != key(add, np.arange(100_001))
    )


def test_arguments_can_be_left_out() -> None:
    keys = {key(add, 1, value, cache_policy=INPUTS - "y") for value in (1, 2, "x", threading.Lock())}
    assert len(keys) == 1
    assert keys != {key(add, 2, 1, cache_policy=INPUTS - "y")}
    assert key(add, 1, 2, 3, cache_policy=DEFAULT - "y" - "more") == key(
        add, 1, 5, cache_policy=DEFAULT - "more" - "y"
    )
    assert key(add, 1, cache_policy=INPUTS - "a", kwargs={"a": 1}) == key(add, 1, cache_policy=INPUTS - "a")
    by_row = program_of(add, starmap([(1, 2)]), mapped=True, cache_policy=INPUTS - "y")
    assert split(keys_of(by_row, [[(1, 2), (1, 3)]], count=2).keys) == [keys.pop()] * 2


def test_the_position_the_batch_and_the_other_items_make_no_difference() -> None:
    values = [3, "x", 3, (1,), 4, "y" * 100]
    program = program_of(add, list(values), mapped=True)
    spec = key_spec(program, run_id="r")
    assert spec is not None
    together = split(KeyMaker(program, spec, [values]).keys(range(6)).keys)
    assert together == [key(add, value) for value in values]
    assert together[0] == together[2]
    assert split(KeyMaker(program, spec, [values]).keys([5, 1]).keys) == [together[5], together[1]]


def test_batched_tasks_have_a_key_per_item() -> None:
    program = program_of(add, [1, 2], unmapped(5), mapped=True, cache_policy=INPUTS, batched=True)
    plain = program_of(add, [1, 2], unmapped(5), mapped=True)
    assert keys_of(program, [[1, 2]], count=2).keys == keys_of(plain, [[1, 2]], count=2).keys


def test_futures_inside_of_arguments_count_by_their_values() -> None:
    recorder = Recorder(flow_name="f")
    callee = task(cache_policy=INPUTS)(add)._callee
    from graphflow.graph.recording import Handle

    first = Handle(recorder, recorder.call(callee, (1,), {}))
    program = recorder.call(callee, ([first, {"k": first}], 5), {}).program
    assert program is not None and program.has_nested
    slots = [Constant(7), Constant(8)]
    assert keys_of(program, slots).keys == key(add, [7, {"k": 8}], 5)


def test_values_of_other_tasks_count_like_constants() -> None:
    program = program_of(add, [1, 2], mapped=True)
    assert keys_of(program, [Constant((1, 2))]).keys == key(add, (1, 2))
    frame = pd.DataFrame({"a": range(1000)})
    spec = key_spec(program, run_id="r")
    assert spec is not None
    for _ in range(2):
        assert KeyMaker(program, spec, [Constant(frame)]).keys([0]).keys == key(add, frame.copy())


def test_policies_add_the_run_and_the_parameters_of_the_flow() -> None:
    assert key(add, 1, cache_policy=RUN_ID) == key(add, 2, cache_policy=RUN_ID)
    assert key(add, 1, cache_policy=RUN_ID, run_id="a") != key(add, 1, cache_policy=RUN_ID, run_id="b")
    assert key(add, 1, cache_policy=INPUTS, run_id="a") == key(add, 1, cache_policy=INPUTS, run_id="b")
    one, two = {"a": 1, "b": {1, 2}}, {"b": {2, 1}, "a": 1}
    assert key(add, 1, flow=one, cache_policy=FLOW_PARAMETERS) == key(
        add, 2, flow=two, cache_policy=FLOW_PARAMETERS
    )
    assert key(add, 1, flow=one, cache_policy=FLOW_PARAMETERS) != key(
        add, 1, flow={}, cache_policy=FLOW_PARAMETERS
    )
    assert key(add, 1, flow=one) == key(add, 1, flow={})
    assert key(add, 1, cache_policy=INPUTS) == key(add, 1, cache_policy=DEFAULT)
    assert key(add, 1, cache_policy=TASK_SOURCE) == key(add, 2, cache_policy=TASK_SOURCE) != key(add, 1)


# -- identity ------------------------------------------------------------------------------------------------


def test_two_tasks_with_equal_inputs_have_different_keys() -> None:
    assert key(add, 1) != key(other, 1)
    assert key(add, 1, cache_version="1") != key(other, 1, cache_version="1")
    assert key(add, 1, cache_key_fn=lambda c, p: "x") != key(other, 1, cache_key_fn=lambda c, p: "x")
    assert folder_of(program_of(add, 1)) != folder_of(program_of(other, 1))
    assert folder_of(program_of(add, 1)).startswith("add-")
    assert folder_of(program_of(add, 1)) == folder_of(program_of(add, 1, cache_version="2", name="ad/d"))


def test_a_version_stands_for_the_code() -> None:
    assert key(add, 1, cache_version="1") != key(add, 1) != key(add, 1, cache_version="2")
    one, two = version_of("x + 1"), version_of("x + 2")
    assert key(one, 1) != key(two, 1)
    assert key(one, 1, cache_version="1") == key(two, 1, cache_version="1")


def version_of(body: str) -> Callable[..., Any]:
    """A function of one module and name with this body."""
    space: dict[str, Any] = {"__name__": "versions"}
    exec(f"def work(x):\n    return {body}\n", space)
    return space["work"]  # type: ignore[no-any-return]


def test_what_a_task_closes_over_counts() -> None:
    def closing(value: Any) -> Callable[..., Any]:
        def inner(x: Any) -> Any:
            return x, value

        return inner

    assert key(closing(1), 1) == key(closing(1), 1) != key(closing(2), 1)
    assert key(closing([1]), 1, cache_version="1") != key(closing([2]), 1, cache_version="1")
    assert key(lambda x: x + 1, 1, cache_version="1") != key(lambda x: x + 2, 1, cache_version="1")
    found = keys_of(program_of(closing(object()), 1))
    assert found.keys == NO_KEY
    assert "uses 'value' of the function around it, which has no canonical form" in found.problems[0]
    assert key(closing(object()), 1, cache_version="1")
    assert key(closing(threading.Lock()), 1)


def test_a_closure_counts_as_it_is_when_the_task_is_called() -> None:
    value = 1

    def inner(x: int) -> int:
        return x + value

    first = key(inner, 1)
    value = 2
    assert key(inner, 1) != first


class Scale:
    def __init__(self, factor: Any) -> None:
        self.factor = factor

    def times(self, x: Any) -> Any:
        return x * self.factor

    def __call__(self, x: Any) -> Any:
        return self.times(x)


def test_what_a_callable_brings_with_it_counts() -> None:
    partial = functools.partial
    assert len({key(partial(add, 1)), key(partial(add, 2)), key(partial(add, x=1)), key(add, 1)}) == 4
    assert key(partial(add, 1), cache_version="1") != key(partial(add, 2), cache_version="1")
    assert key(Scale(2).times, 1) == key(Scale(2).times, 1) != key(Scale(3).times, 1)
    assert key(Scale(2), 1) != key(Scale(3), 1)
    assert key(Scale(2).times, 1, cache_version="1") != key(Scale(3).times, 1, cache_version="1")
    found = keys_of(program_of(Scale(threading.Lock()).times, 1))
    assert found.problems[0] == f"argument self: a lock has no canonical form{HINT}"


def test_builtins_and_tasks_that_are_not_cached_have_no_keys() -> None:
    assert key_spec(program_of(add, 1, retries=1), run_id="r") is None
    assert key_spec(program_of(add, 1, cache_policy=INPUTS), run_id="r") is not None


def test_a_function_without_a_signature_has_keys_too() -> None:
    @dataclass
    class Bare:
        pass

    assert key(max, 1, 2, cache_policy=INPUTS) != key(max, 2, 1, cache_policy=INPUTS)


# -- items without a key -------------------------------------------------------------------------------------


def test_an_item_without_a_canonical_form_says_so_and_the_others_have_keys() -> None:
    values = [1, object(), "x", [threading.Lock()]]
    found = keys_of(program_of(add, [0] * 4, mapped=True), [values], count=4)
    assert [each != NO_KEY for each in split(found.keys)] == [True, False, True, False]
    assert found.problems == {
        1: f"argument x: an object has no canonical form{HINT}",
        3: f"argument x: a lock has no canonical form{HINT}",
    }
    assert len(found.parts["argument x"]) == 16
    everywhere = keys_of(program_of(add, [0] * 2, unmapped(object()), mapped=True), [[1, 2]], count=2)
    assert everywhere.keys == NO_KEY * 2 and set(everywhere.problems) == {0, 1}


def test_a_default_without_a_canonical_form_matters_only_where_it_is_used() -> None:
    lock = threading.Lock()

    def work(x: Any, guard: Any = lock) -> Any:
        return x

    assert "argument guard: a lock" in keys_of(program_of(work, 1)).problems[0]
    assert key(work, 1, 2)
    assert key(work, 1, cache_policy=INPUTS - "guard")


def test_parameters_of_the_flow_without_a_canonical_form_are_told() -> None:
    found = keys_of(program_of(add, 1, flow={"a": object()}, cache_policy=FLOW_PARAMETERS))
    assert found.problems == {0: f"flow parameters: an object has no canonical form{HINT}"}


def test_items_that_will_not_run_have_neither_key_nor_problem() -> None:
    failed = FailedInput(ValueError("x"))
    column = keys_of(program_of(add, [0, 0], mapped=True), [MixedColumn([failed, 1])], count=2)
    assert split(column.keys) == [NO_KEY, key(add, 1)] and not column.problems
    for lost in (failed, PartialList([1, failed])):
        found = keys_of(program_of(add, [0], [0], mapped=True), [Constant(lost), [1]])
        assert found.keys == NO_KEY and not found.problems
    spread = keys_of(program_of(add, starmap([(1, 2)]), mapped=True), [MixedColumn([failed])])
    assert spread.keys == NO_KEY and not spread.problems
    wrong = keys_of(program_of(other, starmap([()]), mapped=True), [[(), 5]], count=2)
    assert wrong.keys == NO_KEY * 2 and not wrong.problems


# -- files ---------------------------------------------------------------------------------------------------


def test_a_file_counts_by_what_is_in_it_when_the_item_is_looked_up(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    program = program_of(add, file_input(path))
    spec = key_spec(program, run_id="r")
    assert spec is not None
    missing = KeyMaker(program, spec, []).keys([0])
    assert missing.keys == NO_KEY and "FileNotFoundError" in missing.problems[0]
    found = []
    for text in ("one", "two", "one"):
        path.write_text(text)
        found.append(KeyMaker(program, spec, []).keys([0]).keys)
    assert found[0] == found[2] != found[1]
    copy = tmp_path / "b.txt"
    copy.write_text("one")
    mapped = program_of(add, [file_input(copy)], mapped=True)
    assert keys_of(mapped, [[file_input(copy)]]).keys == found[0]


# -- functions that make keys --------------------------------------------------------------------------------


def test_a_function_makes_the_key_of_the_arguments_by_name() -> None:
    seen: list[Any] = []

    def make(context: Any, parameters: Any) -> str | None:
        seen.append((context, parameters))
        return None if parameters["x"] is None else f"{parameters['x']}"

    program = program_of(add, [0] * 3, 5, mapped=True, cache_key_fn=make, tags=["t"], flow={"p": 1})
    found = keys_of(program, [[1, None, "1"]], count=3)
    first, none, text = split(found.keys)
    assert first == text != NO_KEY and none == NO_KEY and not found.problems
    context, parameters = seen[0]
    assert parameters == {"x": 1, "y": 5, "more": (), "z": 3, "named": {}}
    assert (context.task, context.run_id, context.flow_name, context.tags) == ("add", "r", "f", {"t"})
    assert (
        context.fn is program.fn and context.flow_parameters == {"p": 1} and context.parameters is parameters
    )
    assert context.task_key.endswith("test_keymaking.add")
    assert not hasattr(context, "map_index")
    again = keys_of(program_of(add, 1, 6, cache_key_fn=make)).keys
    assert again == first
    assert keys_of(program_of(add, 1, 6, cache_key_fn=make, cache_version="2")).keys != first


def test_a_function_that_fails_or_gives_no_text_makes_no_key() -> None:
    def make(context: Any, parameters: Any) -> Any:
        return 1 / parameters["x"]

    found = keys_of(program_of(add, [0] * 2, mapped=True, cache_key_fn=make), [[0, 1]], count=2)
    assert found.keys == NO_KEY * 2
    assert found.problems == {
        0: "cache_key_fn raised ZeroDivisionError: division by zero",
        1: "cache_key_fn returned a float, not a string or None",
    }


def test_task_input_hash_makes_keys_of_code_and_inputs() -> None:
    make = {"cache_key_fn": task_input_hash}
    assert key(add, 1, **make) == key(add, kwargs={"x": 1, "y": 2}, **make) != key(add, 2, **make)
    assert key(add, 1, **make) != key(other, 1, **make)
    assert key(add, {1, 2}, **make) == key(add, {2, 1}, **make) != key(add, [1, 2], **make)
    found = keys_of(program_of(add, object(), **make))
    assert "argument x: an object has no canonical form" in found.problems[0]
    one, two = version_of("x + 1"), version_of("x + 2")
    assert key(one, 1, **make) != key(two, 1, **make)


# -- parts ---------------------------------------------------------------------------------------------------


def test_parts_tell_what_differs() -> None:
    program = program_of(
        add, [0] * 3, 5, mapped=True, flow={"p": 1}, cache_policy=DEFAULT + FLOW_PARAMETERS + RUN_ID
    )
    parts = keys_of(program, [[1, 2, 1]], count=3).parts
    assert set(parts) == {
        "code",
        "flow parameters",
        "run id",
        *(f"argument {name}" for name in ("x", "y", "z", "more")),
    }
    assert [len(each) for name, each in parts.items() if name != "argument x"] == [8] * 6
    each = [parts["argument x"][at : at + 4] for at in (0, 4, 8)]
    assert each[0] == each[2] != each[1]
    # What is the same for all and what is not can be compared.
    alone = keys_of(program_of(add, 1, 5)).parts
    assert alone["argument x"] == each[0] * 2
    rows = keys_of(program_of(add, starmap([(1, 5)]), mapped=True), [[(1, 5), (1,)]], count=2).parts
    assert rows["argument x"] == each[0] * 2
    assert rows["argument y"][:4] == alone["argument y"][:4] != rows["argument y"][4:]
    versioned = keys_of(program_of(add, 1, cache_version="1")).parts
    assert "code" not in versioned and "cache_version" in versioned


# -- other processes, other versions of Python ---------------------------------------------------------------


GOLDEN_OF_LIBRARIES = {
    "int64": "ae0e798b775b1847e9921891ec9e4f0e",
    "array": "4381a89850dce8c2d246c97c8b4be2a2",
    "frame": "cd3fd819f6b3ab324031af68a3f78ede",
    "model": "e048a83372ee8908b074cba85c4c27f1",
}


def test_digests_of_libraries_objects_are_as_they_were() -> None:
    frame = pd.DataFrame({0: np.array([1, 2], dtype="int64"), 1: np.array([0.5, np.nan])})
    # Which kind of index pandas makes by itself depends on its version.
    frame.columns = pd.Index([0, 1], dtype="int64")
    found = {
        "int64": np.int64(1),
        "array": np.arange(6, dtype="<f8").reshape(2, 3),
        "frame": frame,
        "model": Model(x=1, names={"a", "b"}),
    }
    assert {
        name: (canonical_digest(value) or b"").hex() for name, value in found.items()
    } == GOLDEN_OF_LIBRARIES
