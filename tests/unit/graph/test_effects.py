"""What is recorded after a call that was made for its effect waits for it; values stay parallel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from graphflow import all_finished, allow_failure, flow, task
from graphflow.graph.effects import MANY


@task
def save(x: Any = 0) -> None: ...


@task
def load(x: Any = 0) -> list[int]:
    return [x]


@task(trigger=all_finished)
def anyway(x: Any = 0) -> None: ...


def edges(body: Callable[[], Any]) -> list[str]:
    """The edges of order of a body's graph, as `before > after`."""
    nodes = {node.id: node for node in flow(body).graph()}
    return [
        f"{nodes[dep.upstream].name} > {node.name}"
        for node in nodes.values()
        for dep in node.deps
        if dep.kind.name == "AFTER"
    ]


def test_what_follows_a_call_that_is_thrown_away_waits_for_it() -> None:
    def body() -> Any:
        save()
        return load()

    assert edges(body) == ["save > load"]


def test_values_stay_parallel() -> None:
    def body() -> Any:
        first, second = load(1), load(2)
        save.submit()
        save.map([1, 2])
        return first, second, load(first)

    assert edges(body) == []


def test_calls_thrown_away_in_turn_run_in_turn() -> None:
    def body() -> Any:
        for x in range(3):
            save(x)
        return load()

    assert edges(body) == ["save > save-1", "save-1 > save-2", "save-2 > load"]


def test_calls_thrown_away_together_run_side_by_side() -> None:
    def body() -> Any:
        [save(x) for x in range(2)]
        return load(), load()

    assert edges(body) == ["save > load", "save-1 > load", "save > load-1", "save-1 > load-1"]


def test_one_node_stands_for_many_calls_thrown_away_together() -> None:
    def body() -> Any:
        [save(x) for x in range(MANY + 1)]
        return load(), load()

    found = edges(body)
    assert len(found) == MANY + 3
    assert found[-2:] == ["effects > load", "effects > load-1"]


def test_what_waits_already_gets_no_edge_of_its_own() -> None:
    def body() -> Any:
        save()
        first = load()
        return load.map(load(first[0])), load(1)

    assert edges(body) == ["save > load", "save > load-3"]


def test_a_call_of_which_another_takes_the_value_is_no_effect() -> None:
    def body() -> Any:
        load(load(1))
        return load(2)

    assert edges(body) == ["load-1 > load-2"]


def test_effects_inside_functions_and_inner_flows_count() -> None:
    @flow
    def inner() -> int:
        save()
        return 3

    def helper() -> Any:
        return save(1)

    def body() -> Any:
        inner()
        helper()
        return load()

    assert edges(body) == ["save > save-1", "save-1 > load"]


def test_what_may_begin_without_its_inputs_gets_an_edge_of_its_own() -> None:
    def body() -> Any:
        save()
        first = load()
        return anyway(first), load(allow_failure(first))

    assert edges(body) == ["save > load", "save > anyway", "save > load-1"]


@pytest.mark.parametrize("form", ["to_text", "to_mermaid", "to_dot", "to_json"])
def test_the_graph_shows_the_edges(form: str) -> None:
    def body() -> Any:
        save()
        return load()

    graph = flow(body).graph()
    assert {
        "to_text": "after save",
        "to_mermaid": "n0 -.-> n1",
        "to_dot": "style=dashed",
        "to_json": '"kind": "after"',
    }[form] in getattr(graph, form)()
    assert [kind for *_, kind in graph.nx.edges(data="kind")] == ["after"]
