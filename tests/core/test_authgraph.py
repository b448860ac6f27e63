"""Auth difference and conflicted subgraph equal what their definitions say, word for word."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.matrix.authgraph import AuthGraph

Edges = dict[int, set[int]]


@st.composite
def graphs(draw: st.DrawFn) -> Edges:
    """Events with gaps between their numbers, each with some lower ones as parents."""
    nids = sorted(draw(st.sets(st.integers(1, 200), min_size=1, max_size=25)))
    edges: Edges = {}
    for place, nid in enumerate(nids):
        lower = st.sampled_from(nids[:place]) if place else st.nothing()
        edges[nid] = draw(st.sets(lower, max_size=4)) if place else set()
    return edges


def packed(edges: Edges) -> AuthGraph:
    graph = AuthGraph()
    for nid, parents in edges.items():
        graph.add(nid, parents, power_levels=False)
    return graph


def chain(edges: Edges, nid: int) -> set[int]:
    """The event and its auth chain."""
    return {nid}.union(*(chain_of for chain_of in (chain(edges, up) for up in edges[nid])))


@given(edges=graphs(), data=st.data())
def test_the_auth_difference_is_union_without_intersection(
    edges: Edges, data: st.DataObject
) -> None:
    members = st.sets(st.sampled_from(list(edges)), max_size=6)
    sets = data.draw(st.lists(members, min_size=2, max_size=10))
    common = data.draw(members)
    chains = [set().union(*(chain(edges, nid) for nid in one | common)) for one in sets]
    expected = set().union(*chains) - set(chains[0]).intersection(*chains)
    assert packed(edges).difference(sets, common) == expected
    assert packed(edges).difference([one | common for one in sets]) == expected


@given(edges=graphs(), data=st.data())
def test_the_subgraph_holds_every_path_between_two_conflicted_events(
    edges: Edges, data: st.DataObject
) -> None:
    conflicted = data.draw(st.sets(st.sampled_from(list(edges)), max_size=6))
    expected = set(conflicted)
    for start, end in itertools.permutations(conflicted, 2):
        expected |= {nid for nid in chain(edges, start) if end in chain(edges, nid)}
    assert packed(edges).conflicted_subgraph(conflicted) == expected


def test_parents_and_power_levels() -> None:
    graph = AuthGraph()
    graph.add(5, [], power_levels=False)
    graph.add(7, [5], power_levels=True)
    graph.add(20, [5, 7], power_levels=False)
    assert graph.parents(20) == [5, 7]
    assert graph.power_levels_of(20) == 7
    assert graph.power_levels_of(7) is None
    assert len(graph) == 3
    assert 7 in graph
    assert 8 not in graph
    assert 21 not in graph


def test_numbers_rise() -> None:
    graph = AuthGraph()
    graph.add(5, [], power_levels=False)
    for nid in (5, 4):
        with pytest.raises(ValueError, match="added after 5"):
            graph.add(nid, [], power_levels=False)


def test_parents_that_are_not_there_are_left_out() -> None:
    graph = AuthGraph()
    graph.add(5, [2, 5, 9], power_levels=False)
    assert graph.parents(5) == []


@pytest.mark.parametrize("missing", [1, 6, 9])
def test_a_missing_event_is_an_error(missing: int) -> None:
    graph = AuthGraph()
    graph.add(5, [], power_levels=False)
    graph.add(7, [5], power_levels=False)
    for ask in (
        lambda: graph.parents(missing),
        lambda: graph.power_levels_of(missing),
        lambda: graph.difference([[5], [missing]]),
        lambda: graph.conflicted_subgraph([5, missing]),
    ):
        with pytest.raises(KeyError):
            ask()
