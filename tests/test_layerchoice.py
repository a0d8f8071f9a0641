"""Which layers are for a node: what is remembered for its kind says the same as asking each layer."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from osqtwist import layerchoice
from osqtwist.layerchoice import LayerChoice
from osqtwist.layers import Layer
from osqtwist.targeting import NodeFacts, Target
from tests.examples import examples

_TAGS = st.frozensets(st.sampled_from(["red", "blue"]))
_ATOMS = st.sampled_from(
    [
        "tag:red",
        "tag:b*",
        "platform:linux",
        "version:5.*",
        "issuer:ca-1",
        "secret:first",
        "proof:secret",
        "name:web-*",
        "cn:*.example.com",
        "id:1*",
        "host:h",
    ]
)


def _larger(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        parts.map("not ({})".format),
        st.builds("({}) and ({})".format, parts, parts),
        st.builds("({}) or ({})".format, parts, parts),
    )


_TARGETS = st.builds(
    Target,
    nodes=st.sampled_from([(), (), ("web-*",), ("db-1", "h")]),
    tags=st.sampled_from([(), (), ("red",), ("red", "blue")]),
    platforms=st.sampled_from([(), (), ("Linux",), ("windows",)]),
    where=st.one_of(st.just(""), st.recursive(_ATOMS, _larger, max_leaves=4)),
    percent=st.sampled_from([100.0, 100.0, 50.0, 0.0]),
)
_LAYERS = st.lists(st.builds(Layer, st.just("a"), _TARGETS, st.just({}), sees_firm_tags_only=st.booleans()), max_size=6)
_FACTS = st.builds(
    NodeFacts,
    node_id=st.sampled_from(["1a", "2b", "3c"]),
    name=st.sampled_from(["web-1", "web-2", "db-1"]),
    host_identifier=st.sampled_from(["", "h"]),
    platforms=st.sampled_from([frozenset(), frozenset({"linux", "ubuntu"}), frozenset({"windows"})]),
    tags=_TAGS,
    firm_tags=_TAGS,
    osquery_version=st.sampled_from(["", "5.12.1", "4.9.0"]),
    identity=st.sampled_from(["", "web-1.example.com", "other"]),
    issuer=st.sampled_from(["", "ca-1", "ca-2"]),
    secret=st.sampled_from(["", "first"]),
)


@settings(max_examples=examples(60))
@given(_LAYERS, st.lists(_FACTS, min_size=1, max_size=8))
def test_it_is_as_if_each_layer_was_asked(layers: list[Layer], fleet: list[NodeFacts]) -> None:
    """Whatever targets look at, and however nodes of one kind differ."""
    choice = LayerChoice(tuple(layers))
    for facts in [*fleet, *fleet]:
        assert choice.chosen(facts) == tuple(number for number, layer in enumerate(layers) if layer.is_for(facts))


def test_a_kind_is_looked_at_once() -> None:
    """Nodes that differ by their names alone share what is known, and layers that names decide are asked for each."""
    asked: list[str] = []

    class Watched(Layer):
        def is_for(self, facts: NodeFacts) -> bool:
            asked.append(self.name)
            return super().is_for(facts)

    targets = {"tags": "tag:red", "names": "tag:red and name:web-*", "never": "tag:blue and name:web-*"}
    choice = LayerChoice(tuple(Watched(name, Target(where=where), {}) for name, where in targets.items()))
    found = [
        choice.chosen(NodeFacts(f"{n}", name, tags=frozenset({"red"}))) for n, name in enumerate(["web-1", "db-1"])
    ]
    assert (found, asked) == ([(0, 1), (0,)], ["names", "names"])


def test_what_is_remembered_is_bounded() -> None:
    """Nodes may have any number of kinds: an agent says itself which version it is."""
    choice = LayerChoice((Layer("a", Target(where="version:1"), {}),))
    for number in range(layerchoice._MAX_KINDS + 10):
        choice.chosen(NodeFacts("a", "a", osquery_version=str(number)))
    assert len(choice._kinds) <= layerchoice._MAX_KINDS
