"""The open queries: each node finds its own, all of them, once, whatever else is open."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osqtwist.openqueries import IDLE, Concerned, OpenQueries
from osqtwist.query import DistributedQuery
from osqtwist.targeting import NodeFacts, Target
from tests.examples import examples

NOW = 1000.0
NODES = [
    NodeFacts("n1", "web-1", "host-1", frozenset({"linux"}), frozenset({"prod"})),
    NodeFacts("n2", "WEB-2", "web-1", frozenset({"linux"}), frozenset()),
    NodeFacts("n3", "\u017ftraße", "", frozenset({"darwin"}), frozenset({"prod", "eu"})),
]
TARGETS = [
    Target(),
    Target(nodes=("web-1",)),
    Target(nodes=("Web-2", "n1")),
    Target(nodes=("n1", "web-1", "host-1")),
    Target(nodes=("web-1",), tags=("prod",)),
    Target(nodes=("web-*",)),
    Target(nodes=("straße",)),
    Target(nodes=("STRA?E", "n2")),
    Target(tags=("eu",)),
    Target(platforms=("linux",), percent=50),
    Target(where="tag:prod and not name:web-1"),
    Target(nodes=("nobody",)),
]


def a_query(name: str, target: Target = Target(), **more: Any) -> DistributedQuery:
    fields: dict[str, Any] = {"query_id": name, "sql": "select 1", "created_at": NOW, "expires_at": NOW + 100}
    return DistributedQuery(**{**fields, **more}, target=target)


def ids(queries: list[DistributedQuery]) -> list[str]:
    return [query.query_id for query in queries]


_steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from(TARGETS)),
        st.tuples(st.just("discard"), st.integers(0, 30)),
        st.tuples(st.just("read"), st.sampled_from(NODES), st.integers(1, 4), st.booleans()),
        st.tuples(st.just("release"), st.sampled_from(NODES), st.integers(0, 30)),
        st.tuples(st.just("learn"), st.sampled_from(NODES)),
    ),
    max_size=60,
)


@settings(max_examples=examples(300), deadline=None)
@given(_steps)
def test_a_node_is_offered_what_a_look_at_every_query_would_find(steps: list[Any]) -> None:
    """Each once, whatever was added, dropped, answered or given back in between."""
    known = OpenQueries()
    queries: dict[str, DistributedQuery] = {}
    done: set[tuple[str, str]] = set()
    under_lease: set[tuple[str, str]] = set()
    tags = {facts.node_id: facts.tags for facts in NODES}
    for number, (kind, what, *more) in enumerate(steps):
        if kind == "add":
            query = a_query(f"q{number}", what)
            queries[query.query_id] = query
            known.add(query)
        elif kind == "discard":
            queries.pop(f"q{what}", None)
            known.discard(f"q{what}")
        elif kind == "release":
            if (what.node_id, f"q{more[0]}") in under_lease:
                under_lease.remove((what.node_id, f"q{more[0]}"))
                known.settle(what.node_id, f"q{more[0]}", 0.0)
        elif kind == "learn":
            # What is known of a node changes: of what is under way the store will have to say it again.
            tags[what.node_id] = tags[what.node_id] ^ {"eu"} | {f"new-{number}"}
            under_lease = {each for each in under_lease if each[0] != what.node_id}
            done = {each for each in done if each[0] != what.node_id}
        else:
            count, is_answered = more
            facts = NodeFacts(what.node_id, what.name, what.host_identifier, what.platforms, tags[what.node_id])
            expected = [
                query_id
                for query_id, query in queries.items()
                if query.target.matches(facts) and (what.node_id, query_id) not in done | under_lease
            ]
            found = ids(known.for_node(facts, NOW, count))
            assert set(found) <= set(expected)
            assert len(found) == min(count, len(expected))
            for query_id in found:
                (done if is_answered else under_lease).add((what.node_id, query_id))
                known.settle(what.node_id, query_id, math.inf if is_answered else NOW + 30)
    assert len(known) == len(queries)


def test_the_oldest_come_first() -> None:
    """Over all targets, and those that are given back before new ones."""
    known = OpenQueries()
    for number in range(6):
        known.add(a_query(f"q{number}", TARGETS[number % 3]))
    assert ids(known.for_node(NODES[0], NOW, 4)) == ["q0", "q1", "q2", "q3"]
    known.settle("n1", "q1", NOW + 30)
    assert ids(known.for_node(NODES[0], NOW, 9)) == ["q0", "q2", "q3", "q4", "q5"]
    assert ids(known.for_node(NODES[0], NOW + 30, 2)) == ["q0", "q1"]


def test_what_is_over_is_not_offered() -> None:
    """Without anybody dropping it."""
    known = OpenQueries()
    known.add(a_query("q1", expires_at=NOW + 1))
    known.add(a_query("q2"))
    assert ids(known.for_node(NODES[0], NOW, 9)) == ["q1", "q2"]
    assert ids(known.for_node(NODES[0], NOW + 1, 9)) == ["q2"]
    assert ids(known.for_node(NODES[1], NOW + 1, 9)) == ["q2"]


def test_targets_are_looked_at_once_for_each_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand queries for tags are few comparisons, and one for each of other nodes none at all."""
    looked = []
    matches = Target.matches
    monkeypatch.setattr(Target, "matches", lambda self, facts: bool(looked.append(self)) or matches(self, facts))
    known = OpenQueries()
    for number in range(1000):
        known.add(a_query(f"t{number}", Target(tags=(f"tag-{number % 5}",))))
        known.add(a_query(f"n{number}", Target(nodes=(f"other-{number}",))))
    for _ in range(3):
        assert known.for_node(NODES[0], NOW, 100) == []
    assert len(looked) == 5
    known.add(a_query("new", Target(tags=("prod",))))
    assert ids(known.for_node(NODES[0], NOW, 100)) == ["new"]
    assert len(looked) == 6


def test_little_is_kept_of_a_node() -> None:
    """Only what it has under way; nothing when it has not asked for long, or when nothing is open."""
    known = OpenQueries()
    for number in range(1000):
        known.add(a_query(f"q{number}"))
    seen = []
    while found := known.for_node(NODES[0], NOW, 20):
        assert len(known._views["n1"].under_way) <= 20
        for query in found:
            seen.append(query.query_id)
            known.settle("n1", query.query_id, math.inf)
    assert seen == [f"q{number}" for number in range(1000)]
    known.forget_idle(NOW + IDLE - 1)
    assert known._views
    known.forget_idle(NOW + IDLE + 1)
    assert not known._views
    known.for_node(NODES[0], NOW, 1)
    for number in range(1000):
        known.discard(f"q{number}")
    assert not known._views
    assert not known._groups


def test_targets_that_are_gone_are_not_kept_with_a_node() -> None:
    """While one query stays open, others for the same node come and go."""
    known = OpenQueries()
    known.add(a_query("stays"))
    for number in range(200):
        known.add(a_query(f"q{number}", TARGETS[1 + number % 4]))
        known.for_node(NODES[0], NOW, 20)
        known.discard(f"q{number}")
    assert len(known._views["n1"].places) < 40


@pytest.mark.parametrize("facts", NODES, ids=lambda facts: facts.node_id)
def test_those_concerned_are_those_of_some_target(facts: NodeFacts) -> None:
    """The same as asking each target."""
    for target in TARGETS:
        assert Concerned.by([target, Target(nodes=("nobody",))])(facts) is target.matches(facts)
    assert Concerned.by(TARGETS[1:5])(facts) is any(target.matches(facts) for target in TARGETS[1:5])
    assert Concerned.by([])(facts) is False
    for target in TARGETS:
        concerned = Concerned.by([target])
        if concerned.names is not None and concerned(facts):
            assert concerned.names & facts.name_keys()
