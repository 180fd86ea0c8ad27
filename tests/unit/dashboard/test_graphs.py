"""The layout of graphs: no two things have one place, and lines go from left to right through slots of their own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from graphflow.dashboard.graphs import _without_circles, layers_of


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, set[str]]:
    size = draw(st.integers(1, 14))
    return {
        str(node): {str(each) for each in range(node) if draw(st.booleans()) and draw(st.booleans())}
        for node in range(size)
    }


@given(graphs())
def test_no_two_boxes_or_slots_meet(above: dict[str, set[str]]) -> None:
    places, _ = layers_of(above)
    assert len(set(places.values())) == len(places)
    assert above.keys() <= places.keys()


@given(graphs())
def test_each_line_passes_each_layer_at_its_own_place(above: dict[str, set[str]]) -> None:
    places, ways = layers_of(above)
    assert sorted((way[0], way[-1]) for way in ways) == sorted(
        (upstream, node) for node, several in above.items() for upstream in several
    )
    slots = [each for way in ways for each in way[1:-1]]
    assert len(slots) == len(set(slots)) and above.keys().isdisjoint(slots)
    for way in ways:
        layers = [places[each][0] for each in way]
        assert layers == list(range(layers[0], layers[-1] + 1))


@given(st.dictionaries(st.sampled_from("abcdef"), st.sets(st.sampled_from("abcdef"))))
def test_circles_between_folded_boxes_lose_a_line(given: dict[str, set[str]]) -> None:
    above = {key: set() for key in "abcdef"} | given
    kept = _without_circles(above)
    assert kept.keys() == above.keys()
    assert all(kept[key] <= above[key] for key in above)
    seen: set[str] = set()
    for key, upstream in kept.items():
        assert upstream <= seen
        seen.add(key)
