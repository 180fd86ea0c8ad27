"""Cache policies and options, and files as inputs."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import graphflow
from graphflow import (
    DEFAULT,
    FLOW_PARAMETERS,
    INPUTS,
    NO_CACHE,
    RUN_ID,
    TASK_SOURCE,
    CachePolicy,
    file_input,
    flow,
    task,
)
from graphflow.errors import TaskOptionError
from graphflow.graph.mapping import classify
from graphflow.identity.hashing import canonical_digest
from graphflow.model.cache_policies import CacheDefaults, FileInput, files_later
from graphflow.model.flow_options import FlowOptions
from graphflow.model.policies import TaskOptions


def add(x: int, y: int = 1) -> int:
    return x + y


def key_of(context: Any, parameters: Any) -> str:
    return "x"


async def key_later(context: Any, parameters: Any) -> str:
    return "x"


def options(**given: Any) -> TaskOptions:
    return task(**given)(add).options  # type: ignore[no-any-return]


# -- policies ------------------------------------------------------------------------------------------------


def test_policies_are_values_that_add_up() -> None:
    assert INPUTS + TASK_SOURCE == TASK_SOURCE + INPUTS == DEFAULT
    assert INPUTS + INPUTS == INPUTS == INPUTS + NO_CACHE == NO_CACHE + INPUTS
    assert len({INPUTS, TASK_SOURCE, FLOW_PARAMETERS, RUN_ID, NO_CACHE, DEFAULT}) == 6
    every = INPUTS + RUN_ID - "x" + FLOW_PARAMETERS - "y"
    assert every == FLOW_PARAMETERS + (RUN_ID + (INPUTS - "y" - "x"))
    assert pickle.loads(pickle.dumps(every)) == every
    assert hash(pickle.loads(pickle.dumps(every))) == hash(every)
    assert repr(every) == "INPUTS + FLOW_PARAMETERS + RUN_ID - 'x' - 'y'"
    assert (repr(NO_CACHE), repr(DEFAULT)) == ("NO_CACHE", "INPUTS + TASK_SOURCE")
    assert every.is_on and not NO_CACHE.is_on


def test_an_argument_that_one_of_two_policies_wants_counts() -> None:
    assert (INPUTS - "x") + INPUTS == INPUTS
    assert (INPUTS - "x" - "y") + (INPUTS - "y") == INPUTS - "y"
    assert (INPUTS - "x") + RUN_ID == RUN_ID + (INPUTS - "x")


@pytest.mark.parametrize("policy", [TASK_SOURCE, RUN_ID, FLOW_PARAMETERS, NO_CACHE])
def test_an_argument_can_be_left_out_of_inputs_only(policy: CachePolicy) -> None:
    with pytest.raises(TaskOptionError, match="has no inputs to leave 'x' out of"):
        policy - "x"


def test_policies_combine_with_policies_and_names_only() -> None:
    for wrong in (lambda: INPUTS + "x", lambda: INPUTS - INPUTS, lambda: INPUTS - 1):
        with pytest.raises(TypeError):
            wrong()  # type: ignore[no-untyped-call]


# -- options -------------------------------------------------------------------------------------------------


def test_caching_is_off_unless_asked_for() -> None:
    assert options().cache is None
    assert options(cache_policy=NO_CACHE).cache is None
    assert options(cache_policy=None, refresh_cache=False, run_once=False).cache is None
    assert options(result_storage="/somewhere", result_serializer="json").cache is None


@pytest.mark.parametrize(
    "given",
    [
        {"cache_key_fn": key_of},
        {"cache_expiration": 5},
        {"cache_version": "1"},
        {"refresh_cache": True},
        {"run_once": True},
    ],
)
def test_any_option_of_caching_turns_it_on_by_all_inputs(given: Mapping[str, Any]) -> None:
    cache = options(**given).cache
    assert cache is not None and cache.policy == DEFAULT and not cache.is_policy_given
    with pytest.raises(
        TaskOptionError, match=rf"NO_CACHE turns caching off, but {next(iter(given))} needs it"
    ):
        options(cache_policy=NO_CACHE, **given)


def test_options_are_kept_as_they_are_meant() -> None:
    made = options(
        cache_policy=INPUTS - "y",
        cache_expiration=timedelta(minutes=2),
        cache_version="7",
        refresh_cache=False,
        result_storage=Path("/results"),
        result_storage_options={"key": "SECRET"},
        result_serializer="json",
    )
    assert made.cache is not None
    assert (made.cache.policy, made.cache.expiration_seconds) == (INPUTS - "y", 120.0)
    assert (made.cache.version, made.cache.refresh) == ("7", False)
    assert (made.result_storage, made.result_serializer) == ("/results", "json")
    assert made.result_storage_options == {"key": "SECRET"}
    assert "SECRET" not in repr(made)
    assert pickle.loads(pickle.dumps(made)) == made
    assert hash(made) == hash(pickle.loads(pickle.dumps(made)))


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"cache_policy": "INPUTS"}, "cache_policy must be made of INPUTS, TASK_SOURCE"),
        (
            {"cache_policy": INPUTS - "z"},
            "leaves out 'z', which the task does not have as an argument; it has x, y",
        ),
        ({"cache_policy": INPUTS, "cache_key_fn": key_of}, "both define the cache key"),
        ({"cache_key_fn": "x"}, "cache_key_fn must be a plain function of"),
        ({"cache_key_fn": key_later}, "cache_key_fn must be a plain function of"),
        ({"cache_key_fn": lambda: "x"}, r"cache_key_fn must be a function of \(context, parameters\)"),
        (
            {"cache_expiration": 0},
            "cache_expiration must be a timedelta or a number of seconds above 0, not 0",
        ),
        ({"cache_expiration": timedelta(seconds=-1)}, "cache_expiration must be a timedelta"),
        ({"cache_expiration": float("inf")}, "cache_expiration must be a timedelta"),
        ({"cache_expiration": float("nan")}, "cache_expiration must be a timedelta"),
        ({"cache_expiration": True}, "cache_expiration must be a timedelta"),
        ({"cache_expiration": "1h"}, "cache_expiration must be a timedelta"),
        ({"cache_version": 1}, "cache_version must be a non-empty string, not 1"),
        ({"cache_version": " "}, "cache_version must be a non-empty string"),
        ({"refresh_cache": "yes"}, "refresh_cache must be True or False"),
        ({"run_once": 1}, "run_once must be True or False"),
        ({"run_once": True, "refresh_cache": True}, "run_once=True contradicts refresh_cache=True"),
        ({"run_once": True, "cache_expiration": 1}, "run_once=True contradicts cache_expiration"),
        ({"run_once": True, "batched": True}, "run_once=True contradicts batched=True"),
        ({"resolve": key_of}, "resolve must be a function|add run_once=True"),
        ({"resolve": lambda item: None}, "add run_once=True, or remove resolve"),
        ({"result_storage": 1}, "result_storage must be a URL"),
        ({"result_storage": ""}, "result_storage must be a URL"),
        ({"result_storage_options": {"a": 1}}, "result_storage, which is not given; pass both"),
        ({"result_storage": "s3://b", "result_storage_options": "x"}, "must be a mapping of names to values"),
        ({"result_serializer": 1}, "result_serializer must be the name of a serializer"),
    ],
)
def test_wrong_options_are_refused(given: Mapping[str, Any], text: str) -> None:
    with pytest.raises(TaskOptionError, match=text):
        task(**given)(add)


def test_a_password_in_a_url_is_refused_and_not_shown() -> None:
    with pytest.raises(TaskOptionError, match="holds a password") as caught:
        options(result_storage="s3://me:SECRET@bucket/x")
    assert "SECRET" not in str(caught.value)
    with pytest.raises(TaskOptionError, match="mapping") as caught:
        options(result_storage="s3://bucket", result_storage_options=["SECRET"])
    assert "SECRET" not in str(caught.value)


def test_a_task_that_takes_any_name_may_leave_any_out() -> None:
    def anything(**given: Any) -> None: ...

    assert task(cache_policy=INPUTS - "z")(anything).options.cache is not None


def test_a_copy_may_turn_caching_off_or_change_how_keys_are_made() -> None:
    cached = task(cache_expiration=5, cache_version="1", refresh_cache=True)(add)
    assert cached.with_options(cache_policy=NO_CACHE).options.cache is None
    again = cached.with_options(cache_policy=INPUTS).options.cache
    assert again is not None and (again.policy, again.expiration_seconds, again.version) == (INPUTS, 5.0, "1")
    by_function = cached.with_options(cache_policy=INPUTS).with_options(cache_key_fn=key_of).options.cache
    assert by_function is not None and by_function.key_fn is key_of
    back = cached.with_options(cache_key_fn=key_of).with_options(cache_policy=INPUTS).options.cache
    assert back is not None and back.key_fn is None


def test_a_copy_with_another_place_does_not_keep_what_opened_the_first() -> None:
    first = task(result_storage="s3://one", result_storage_options={"key": "a"})(add)
    assert first.with_options(result_storage="s3://two").options.result_storage_options is None
    assert first.with_options(retries=1).options.result_storage_options == {"key": "a"}


# -- a flow's defaults ---------------------------------------------------------------------------------------


def defaults(**given: Any) -> CacheDefaults:
    return FlowOptions.checked("flow", given, name="flow").results


def test_a_flow_says_what_its_tasks_do_not_say() -> None:
    by_flow = defaults(
        cache_policy=INPUTS + RUN_ID, refresh_cache=True, result_storage="s3://flow", result_serializer="json"
    )
    plain = options().in_flow(by_flow)
    assert plain.cache is not None and plain.cache.policy == INPUTS + RUN_ID and plain.cache.refresh is True
    assert (plain.result_storage, plain.result_serializer) == ("s3://flow", "json")
    assert options(cache_policy=NO_CACHE).in_flow(by_flow).cache is None
    own = options(cache_policy=INPUTS, refresh_cache=False, result_storage="/own").in_flow(by_flow)
    assert own.cache is not None and (own.cache.policy, own.cache.refresh) == (INPUTS, False)
    assert own.result_storage == "/own"
    unnamed = options(cache_expiration=5).in_flow(by_flow).cache
    assert unnamed is not None and (unnamed.policy, unnamed.expiration_seconds) == (INPUTS + RUN_ID, 5.0)
    once = options(run_once=True).in_flow(by_flow).cache
    assert once is not None and once.refresh is None


def test_a_flow_without_defaults_changes_nothing() -> None:
    made = options(cache_policy=INPUTS)
    assert made.in_flow(defaults()) is made
    off = options().in_flow(defaults(cache_policy=NO_CACHE, refresh_cache=True))
    assert off.cache is None


def test_the_options_that_open_a_place_go_with_the_place() -> None:
    by_flow = defaults(result_storage="s3://flow", result_storage_options={"key": "SECRET"})
    assert options().in_flow(by_flow).result_storage_options == {"key": "SECRET"}
    assert options(result_storage="s3://own").in_flow(by_flow).result_storage_options is None
    assert "SECRET" not in repr(by_flow)


def test_a_flow_inside_a_flow_has_the_outer_ones_defaults_too() -> None:
    outer = defaults(cache_policy=INPUTS, result_storage="s3://outer", result_storage_options={"a": 1})
    inner = defaults(cache_policy=NO_CACHE, result_serializer="json").merged(outer)
    assert inner == defaults(
        cache_policy=NO_CACHE,
        result_storage="s3://outer",
        result_storage_options={"a": 1},
        result_serializer="json",
    )


def test_a_flow_refuses_wrong_options_and_those_of_tasks() -> None:
    with pytest.raises(TaskOptionError, match="@flow: cache_policy must be made of INPUTS"):
        flow(name="f", cache_policy="x")(lambda: None)  # type: ignore[call-overload]
    with pytest.raises(TaskOptionError, match="@flow has no option 'cache_version'"):
        flow(cache_version="1")  # type: ignore[call-overload]


# -- files ---------------------------------------------------------------------------------------------------


def test_a_file_is_told_by_its_content(tmp_path: Path) -> None:
    one, other = tmp_path / "a.txt", tmp_path / "sub.txt"
    one.write_text("x")
    other.write_text("x")
    first = canonical_digest(file_input(one))
    assert first is not None and first == canonical_digest(file_input(str(other)))
    assert first != canonical_digest(str(one))
    other.write_text("y")
    assert first != canonical_digest(file_input(other))
    os.utime(one, (1, 1))
    assert first == canonical_digest(file_input(one)) == canonical_digest(file_input(one))


def test_a_file_may_be_told_by_its_time_and_size(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("x")
    os.utime(path, (1, 1))
    first = canonical_digest(file_input(path, by="mtime"))
    path.write_text("y")
    os.utime(path, (1, 1))
    assert first == canonical_digest(file_input(path, by="mtime")) is not None
    os.utime(path, (2, 2))
    second = canonical_digest(file_input(path, by="mtime"))
    path.write_text("yy")
    os.utime(path, (2, 2))
    assert (
        len(
            {
                first,
                second,
                canonical_digest(file_input(path, by="mtime")),
                canonical_digest(file_input(path)),
            }
        )
        == 4
    )


def test_a_settled_file_that_is_read_again_is_read_anew_when_it_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    found = set()
    for turn in range(3):
        path.write_text(f"{turn}")
        os.utime(path, (1 + turn, 1 + turn))
        found.add(canonical_digest(file_input(path)))
    assert len(found) == 3 and None not in found


def test_what_is_no_file_cannot_be_told(tmp_path: Path) -> None:
    assert canonical_digest(file_input(tmp_path / "missing")) is None
    assert canonical_digest(file_input(tmp_path)) is None
    assert canonical_digest([file_input(tmp_path / "missing", by="mtime")]) is None


def test_a_file_is_a_path_to_its_task_and_one_value_to_a_map(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("hello")
    made = pickle.loads(pickle.dumps(file_input(path, by="mtime")))
    assert type(made) is FileInput and made == str(path) and made.by == "mtime"
    assert Path(made) == path and Path(made).read_text() == "hello"
    assert classify(made) == "constant"
    assert "by='mtime'" in repr(made)


def test_files_can_be_left_for_later(tmp_path: Path) -> None:
    with files_later():
        assert canonical_digest([file_input(tmp_path)]) is None


@pytest.mark.parametrize(
    ("path", "by", "text"),
    [
        (1, "content", "takes the path of a local file, not 1"),
        ("", "content", "takes the path"),
        (b"x", "content", "takes the path"),
        ("s3://bucket/x", "content", "takes the path of a local file, not 's3:"),
        ("x", "name", 'takes "content" or "mtime", not \'name\''),
    ],
)
def test_wrong_files_are_refused(path: Any, by: str, text: str) -> None:
    with pytest.raises(TaskOptionError, match=text):
        file_input(path, by=by)


def test_public_names_are_there() -> None:
    assert graphflow.task_input_hash is not None
    assert {"INPUTS", "NO_CACHE", "file_input", "task_input_hash"} <= set(graphflow.__all__)
