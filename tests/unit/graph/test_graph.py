from __future__ import annotations

import json
from collections.abc import Mapping

import networkx
import pytest

from graphflow.errors import CycleError
from graphflow.graph.graph import Dep, DepKind, Graph, Node, Source


def node(id_: int, *deps: Dep, name: str = "", width: int | None = None) -> Node:
    """A node; mapped over a sequence of its own if it has a width."""
    sources = () if width is None else (Source(slot=0, argument="x", length=width),)
    is_mapped = width is not None or any(dep.kind in (DepKind.ITEMS, DepKind.ELEMENTS) for dep in deps)
    name = name or f"n{id_}"
    return Node(
        id=id_, key=f"k{id_}", name=name, task_name=name, is_mapped=is_mapped, deps=deps, sources=sources
    )


def word_count() -> Graph:
    return Graph(
        [
            node(1, name="list"),
            node(2, Dep(upstream=1, kind=DepKind.ELEMENTS, argument="path"), name="read"),
            node(3, Dep(upstream=2, kind=DepKind.GATHER, argument="counts"), name="merge"),
            node(4, Dep(upstream=3, kind=DepKind.ORDER), name="notify"),
        ],
        name="words",
    )


def test_a_node_that_depends_on_itself_is_refused() -> None:
    with pytest.raises(CycleError, match="n1 cannot depend on itself"):
        Graph([node(1, Dep(upstream=1, kind=DepKind.VALUE))])


def test_a_node_that_depends_on_a_later_one_is_refused() -> None:
    with pytest.raises(CycleError, match="node 2, which is not recorded before it"):
        Graph([node(1, Dep(upstream=2, kind=DepKind.VALUE)), node(2)])


def test_a_refused_node_is_not_added() -> None:
    graph = Graph([node(1)])
    with pytest.raises(CycleError):
        graph.add(node(2, Dep(upstream=9, kind=DepKind.VALUE)))
    assert [each.id for each in graph] == [1]
    assert len(graph) == 1
    assert graph[1].name == "n1"


def test_networkx_gets_a_dag_with_arguments_on_its_edges() -> None:
    found = word_count().nx
    assert networkx.is_directed_acyclic_graph(found)
    assert found.graph["name"] == "words"
    assert found.nodes[2]["task"] == "read"
    assert found.nodes[2]["is_mapped"]
    edge = found.edges[1, 2, 0]
    assert (edge["argument"], edge["mapped"], edge["kind"]) == ("path", True, "elements")
    assert found.edges[3, 4, 0]["argument"] is None


def test_two_arguments_of_one_upstream_are_two_edges() -> None:
    twice = Graph([node(1), node(2, *(Dep(upstream=1, kind=DepKind.VALUE, argument=each) for each in "ab"))])
    assert twice.nx.number_of_edges(1, 2) == 2


def test_json_is_one_document_with_all_nodes_and_edges() -> None:
    document = json.loads(word_count().to_json())
    assert document["schema"] == "graphflow.graph.graph/1"
    assert [each["name"] for each in document["nodes"]] == ["list", "read", "merge", "notify"]
    assert [(each["from"], each["to"], each["kind"], each["mapped"]) for each in document["edges"]] == [
        (1, 2, "elements", True),
        (2, 3, "gather", False),
        (3, 4, "order", False),
    ]


def test_mermaid_tells_mapped_nodes_and_edges_from_plain_ones() -> None:
    assert word_count().to_mermaid().splitlines() == [
        "flowchart TD",
        '    n1["list"]',
        '    n2[["read [?]"]]',
        '    n3["merge"]',
        '    n4["notify"]',
        "    n1 ==>|path| n2",
        "    n2 -->|counts| n3",
        "    n3 -.-> n4",
    ]


def test_mermaid_and_dot_escape_names() -> None:
    graph = Graph([node(1, name='say "hi" | there\\')])
    assert "say #quot;hi#quot; #124; there" in graph.to_mermaid()
    assert r'label="say \"hi\" | there\\"' in graph.to_dot()


def test_dot_draws_one_edge_per_dependency() -> None:
    lines = word_count().to_dot().splitlines()
    assert lines[0] == 'digraph "words" {'
    assert lines[-1] == "}"
    assert sum("->" in line for line in lines) == 3
    assert any("style=dashed" in line for line in lines)


def test_text_has_a_line_per_node_in_the_order_of_recording() -> None:
    assert word_count().to_text().splitlines() == [
        "list  Pending",
        "read [?]  Pending  <- path=list[*]",
        "merge  Pending  <- counts=read",
        "notify  Pending  <- merge",
    ]


def test_a_picked_item_shows_its_index() -> None:
    graph = Graph([node(1, width=3), node(2, Dep(upstream=1, kind=DepKind.PICK, index=2, argument="x"))])
    assert graph.to_text().splitlines() == ["n1 [3]  Pending", "n2  Pending  <- x=n1[2]"]


def test_a_graph_with_a_run_behind_it_shows_live_states() -> None:
    def status(id_: int) -> tuple[str, int | None, Mapping[str, int]]:
        return "Completed", 7, {"Completed": 7}

    graph = Graph([node(1, width=7)], status=status)
    assert graph.to_text() == "n1 [7]  Completed"
    assert graph.nx.nodes[1]["state"] == "Completed"
    assert json.loads(graph.to_json())["nodes"][0]["counts"] == {"Completed": 7}


def test_the_width_is_known_before_a_run_only_from_the_users_own_sequences() -> None:
    assert node(1, width=4).fixed_width == 4
    assert node(1).fixed_width is None
    lazy = Source(slot=1, argument="y", length=None)
    mixed = Node(
        id=1, key="", name="", task_name="", is_mapped=True, sources=(*node(1, width=4).sources, lazy)
    )
    assert mixed.fixed_width is None
