"""The graph: built without running, and shown with the state of a run."""

from __future__ import annotations

import json
from typing import Any

import networkx
import pytest

from graphflow import flow, product, task, unmapped
from graphflow.errors import ForcingError


@task(tags=["io"], retries=2)
def load(folder: str) -> list[str]:
    return [f"{folder}/{i}" for i in range(3)]


@task
def count(path: str, by: int) -> int:
    return len(path) * by


@task
def merge(counts: list[int]) -> int:
    return sum(counts)


@flow
def pipeline(folder: str) -> Any:
    counts = count.map(load(folder), unmapped(2))
    return merge(counts, wait_for=[load("other")])


def test_a_graph_is_built_without_running_anything(tally: Any) -> None:
    @task
    def touch(x: int) -> int:
        return tally.add()

    @flow
    def body(n: int) -> Any:
        return touch.map([touch(1)] * n)

    graph = body.graph(3)
    assert len(graph) == 3
    assert tally.count() == 0


def test_it_is_a_networkx_dag_with_attributes() -> None:
    graph = pipeline.graph("x").nx
    assert isinstance(graph, networkx.MultiDiGraph)
    assert networkx.is_directed_acyclic_graph(graph)
    nodes = dict(graph.nodes(data=True))
    assert [node["name"] for node in nodes.values()] == ["load", "count", "load-1", "merge"]
    first = nodes[0]
    assert first["task"] == "load" and first["options"].tags == {"io"} and first["options"].retry.retries == 2
    assert (first["is_mapped"], first["width"], first["state"]) == (False, None, "Pending")
    edges = {(a, b): data for a, b, data in graph.edges(data=True)}
    assert edges[(0, 1)] == {"argument": "path", "mapped": True, "kind": "elements"}
    assert edges[(1, 3)] == {"argument": "counts", "mapped": False, "kind": "gather"}
    assert edges[(2, 3)]["kind"] == "order"


def test_a_mapped_node_is_one_node_whose_width_is_known_as_far_as_it_is() -> None:
    @flow
    def body() -> Any:
        known = count.map(["a", "b"], 1)
        grid = count.map(product(["a", "b"], [1, 2, 3]))
        return known, count.map(known, [1, 2]), count.map(load("x"), 1), grid

    assert [data["width"] for _, data in body.graph().nx.nodes(data=True)] == [2, 6, 2, None, None]


def test_forcing_while_a_graph_is_built_is_a_clear_error() -> None:
    @flow
    def body() -> Any:
        return merge([1]).result()

    with pytest.raises(
        ForcingError,
        match=r"the future of merge was forced while the graph of 'body' is built, not run.*flow\.run",
    ):
        body.graph()


def test_the_exports_name_nodes_edges_and_widths() -> None:
    graph = pipeline.graph("x")
    mermaid, dot, text = graph.to_mermaid(), graph.to_dot(), graph.to_text()
    assert mermaid.splitlines()[0] == "flowchart TD"
    assert 'n1[["count [?]"]]' in mermaid and "n0 ==>|path| n1" in mermaid and "n2 -.-> n3" in mermaid
    assert dot.startswith('digraph "pipeline" {') and dot.endswith("}")
    assert 'n1 [label="count [?]", shape=box3d];' in dot and 'n0 -> n1 [label="path", style=bold];' in dot
    assert text.splitlines()[1] == "count [?]  Pending  <- path=load[*]"
    document = json.loads(graph.to_json())
    assert document["name"] == "pipeline"
    assert [node["name"] for node in document["nodes"]] == ["load", "count", "load-1", "merge"]
    assert document["edges"][0] == {
        "from": 0,
        "to": 1,
        "argument": "path",
        "kind": "elements",
        "mapped": True,
    }


def test_names_with_odd_characters_are_quoted() -> None:
    odd = task(lambda x: x, name='say "hi" | \\ [x]')  # type: ignore[call-overload]

    @flow(name='a "flow"')
    def body() -> Any:
        return odd(odd(1))

    graph = body.graph()
    assert '"say \\"hi\\" | \\\\ [x]"' in graph.to_dot()
    assert '"' not in graph.to_mermaid().splitlines()[1].split('"', 1)[1].rsplit('"', 1)[0]
    json.loads(graph.to_json())


def test_a_runs_graph_shows_states_widths_counts_and_grafts(backend_name: str) -> None:
    @task
    def branch(x: int) -> Any:
        return merge([x, x])

    @flow(backend=backend_name)
    def body() -> Any:
        counts = count.map(load("x"), 2)
        return merge(counts), branch(1)

    run = body.run()
    nodes = {data["name"]: data for _, data in run.graph.nx.nodes(data=True)}
    assert set(nodes) == {"load", "count", "merge", "branch", "merge-1"}
    assert (nodes["count"]["width"], nodes["count"]["state"]) == (3, "Completed")
    assert nodes["count"]["counts"] == {"Completed": 3}
    assert "count [3]  Completed  <- path=load[*]" in run.graph.to_text()


def test_the_graph_of_a_failed_run_shows_where_it_broke(backend_name: str) -> None:
    @task
    def boom(x: int) -> int:
        raise ValueError

    @flow(backend=backend_name)
    def body() -> Any:
        return merge([boom(1)])

    lines = body.run().graph.to_text().splitlines()
    assert lines == ["boom  Failed", "merge  UpstreamFailed  <- counts=boom"]


def test_elements_of_futures_are_nodes_of_the_graph() -> None:
    @flow
    def body() -> Any:
        return count(load("x")[0], 2)

    assert [node.name for node in body.graph()] == ["load", "load[0]", "count"]


def test_keys_are_the_same_in_each_run_and_differ_within_one() -> None:
    first, second = pipeline.graph("x"), pipeline.graph("y")
    assert [node.key for node in first] == [node.key for node in second]
    assert len({node.key for node in first}) == len(first)
