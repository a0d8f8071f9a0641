"""Why a configuration is what it is: what is said agrees with what is done, and suffices."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from osqtwist.configuration import DEFAULT_OPTIONS, NodeConfiguration
from osqtwist.explaining import deciding, explain, origin_of, sources
from osqtwist.expression import And, Everything, Expression, Not, Or
from osqtwist.layers import Layer, merge, parse_layer
from osqtwist.node import CertificateRecord, Node
from osqtwist.tagging import Tagging, TagQuery, TagRule
from osqtwist.targeting import NodeFacts, Target
from tests.test_expression import EXPRESSIONS, VALUES

WORDS = st.sampled_from(["prod", "test", "web", "linux", "darwin", "n1"])
SETS = st.frozensets(WORDS, max_size=3)
SOME = st.lists(WORDS, max_size=2).map(tuple)
FACTS = st.builds(NodeFacts, WORDS, WORDS, WORDS | st.just(""), SETS, SETS, st.just("5.1"), WORDS | st.just(""))
TERMS = st.builds("{}:{}".format, st.sampled_from(["tag", "name", "platform", "cn", "proof"]), WORDS | st.just("*"))
WHERE = st.recursive(
    TERMS,
    lambda inner: st.one_of(
        st.builds("not ({})".format, inner),
        st.builds("({} and {})".format, inner, inner),
        st.builds("({} or {})".format, inner, inner),
    ),
    max_leaves=6,
)
TARGETS = st.builds(
    Target, SOME, SOME, SOME, WHERE | st.just("") | st.just("*"), st.floats(0, 120).map(lambda x: min(x, 100.0))
)

NODE = Node(
    node_id="1" * 20,
    name="web-1.example.com",
    proof="certificate",
    host_identifier="AAAA-1",
    platform_type="9",
    tags=("early",),
    given_tags=("canary", "prod"),
    host_details={"osquery_info": {"version": "5.12.1"}},
    certificate=CertificateRecord("web-1.example.com", "CN=CA", "1f", "ab", 2e9, "P-256", ("prod",)),
    found_tags=("ssd",),
)
TAGGING = Tagging((TagRule("fast", "tag:ssd"),), (TagQuery("ssd", "SELECT 1"),))


@given(TARGETS, FACTS)
def test_explain_says_applies_exactly_when_it_matches(target: Target, facts: NodeFacts) -> None:
    """Whatever the target and the node; and what it names all speaks for that outcome."""
    explanation = explain(target, facts)
    assert explanation.matches is target.matches(facts)
    assert explanation.findings
    assert {finding.matches for finding in explanation.findings} == {explanation.matches}
    assert all(finding.because for finding in explanation.findings)


def evaluated(expression: Expression, terms: dict[Expression, bool]) -> bool:
    """An expression with its terms decided by hand."""
    match expression:
        case Not(part):
            return not evaluated(part, terms)
        case And(parts):
            return all(evaluated(part, terms) for part in parts)
        case Or(parts):
            return any(evaluated(part, terms) for part in parts)
        case Everything():
            return True
    return terms[expression]


def terms_of(expression: Expression) -> set[Expression]:
    match expression:
        case Not(part):
            return terms_of(part)
        case And(parts) | Or(parts):
            return set().union(*map(terms_of, parts))
    return {expression}


@given(EXPRESSIONS, st.lists(VALUES, max_size=3), st.integers(-6, 6), st.data())
def test_the_deciding_terms_suffice(expression: Any, tags: list[str], days: int, data: st.DataObject) -> None:
    """With them as they are, the outcome is the same whatever the other terms were."""
    facts = {"tag": tags, "cn": tags[:1], "days": [str(days)]}
    matches, terms = deciding(expression, lambda key: facts[key])
    assert matches is expression.matches(lambda key: facts[key])
    assert all(term.matches is term.expression.matches(lambda key: facts[key]) for term in terms)
    fixed = {term.expression: term.matches for term in terms}
    free = {term: data.draw(st.booleans()) for term in sorted(terms_of(expression) - set(fixed), key=str)}
    assert evaluated(expression, fixed | free) is matches


@pytest.mark.parametrize(
    ("target", "text"),
    [
        (Target(), "it is for every node"),
        (Target(where="tag:prod"), "where: tag:prod: tag prod (from operators and its certificate)"),
        (Target(tags=("early", "canary")), "tags: tag early (from its enroll secret), canary (from operators)"),
        (Target(tags=("fast", "ssd")), "tags: tag fast (from a tag rule), ssd (from a tag query)"),
        (Target(tags=("test",)), "tags: its tag is canary, early, fast, prod, ssd"),
        (Target(platforms=("darwin",)), "platforms: its platform is linux, posix"),
        (Target(platforms=("Linux",)), "platforms: platform linux (from its own word)"),
        (Target(where="not cn:web-*"), "where: not cn:web-*: certificate name web-1.example.com (from its cert"),
        (
            Target(where="version:4.* or tag:x"),
            "where: version:4.* or tag:x: its osquery version is 5.12.1; its tag is",
        ),
        (Target(nodes=("web-*", "db")), "nodes: web-1.example.com is web-*"),
        (Target(nodes=("db",)), "nodes: its names are 11111111111111111111, web-1.example.com, AAAA-1"),
        (Target(percent=0, salt="s"), "percent: its place "),
        (Target(where="proof:secret"), "where: proof:secret: its proof is certificate"),
    ],
)
def test_what_is_said(target: Target, text: str) -> None:
    """The part of the target, what of the node decided, and where the node has that from."""
    assert str(explain(target, TAGGING.applied(NODE.facts()), origin_of(NODE, TAGGING))).startswith(text)


def test_a_node_without_anything() -> None:
    """What is not known is said to be not there, and an own tag comes from the secret."""
    node = Node(node_id="2", name="h", proof="secret", tags=("t",))
    assert str(explain(Target(where="cn:*"), node.facts())) == "where: cn:*: it has no certificate name"
    origin = origin_of(node, Tagging())
    assert "tag t (from its enroll secret)" in str(explain(Target(tags=("t",)), node.facts(), origin))
    assert "name h (from its own word)" in str(explain(Target(where="name:h"), node.facts(), origin))


def test_hostile_values_stay_short() -> None:
    """A node with long words, and many: an explanation is still one line that can be read."""
    facts = NodeFacts("1", "n", platforms=frozenset(f"{number}{'x' * 4000}" for number in range(500)))
    assert len(str(explain(Target(platforms=("linux",)), facts))) < 2000


ENTRIES = st.dictionaries(
    st.sampled_from("abc"), st.none() | st.builds(dict, query=st.sampled_from(["1", "2"])), max_size=3
)
PACKS = st.dictionaries(st.sampled_from("pq"), st.none() | st.builds(dict, queries=ENTRIES), max_size=2)
OPTIONS = st.dictionaries(st.sampled_from(["x", "distributed_interval"]), st.none() | st.integers(0, 2), max_size=2)
BODIES = st.fixed_dictionaries(
    {}, optional={"schedule": st.none() | ENTRIES, "packs": st.none() | PACKS, "options": st.none() | OPTIONS}
)


@given(st.lists(BODIES, max_size=4))
def test_every_query_and_option_has_its_source(bodies: list[dict[str, Any]]) -> None:
    """All that is served is listed, nothing else is, and the layer named says it in just these words."""
    layers = [Layer(str(number), Target(), body) for number, body in enumerate(bodies)]
    merged = merge([{"options": dict(DEFAULT_OPTIONS)}, *bodies])
    found = sources(layers, DEFAULT_OPTIONS)
    served = {("", name) for name in merged.get("schedule") or {}}
    served |= {(pack, name) for pack, body in (merged.get("packs") or {}).items() for name in body["queries"]}
    assert sorted((row["pack"], row["query"]) for row in found["queries"]) == sorted(served)
    assert {row["option"] for row in found["options"]} == set(merged.get("options") or {})
    for row in found["queries"]:
        body = bodies[int(row["layer"])]
        said = body["packs"][row["pack"]]["queries"] if row["pack"] else body["schedule"]
        where = merged["packs"][row["pack"]]["queries"] if row["pack"] else merged["schedule"]
        assert said[row["query"]] == where[row["query"]]
    for row in found["options"]:
        value = bodies[int(row["layer"])]["options"][row["option"]] if row["layer"] else DEFAULT_OPTIONS[row["option"]]
        assert value == merged["options"][row["option"]]


def test_a_configuration_says_why() -> None:
    """Each layer, in order, whether it applies; each query with what it replaces."""
    texts = {
        "00.conf": '{"schedule": {"q": {"query": "select 1"}}}',
        "10.conf": '{"osqtwist": {"target": {"platforms": ["darwin"]}, "description": "Macs"}}',
        "20.conf": '{"osqtwist": {"target": {"where": "tag:prod"}}, "schedule": {"q": {"query": "select 2"}}}',
    }
    ssd = Tagging((), (TagQuery("x", "SELECT 1", where="tag:fast"),))
    (asked,) = NodeConfiguration([], tagging=attrs.evolve(TAGGING, queries=(*TAGGING.queries, *ssd.queries))).why(NODE)[
        "layers"
    ][1:]
    assert asked["because"] == ["where: tag:fast: its tag is canary, early, prod"], "a tag query sees firm tags only"
    why = NodeConfiguration([parse_layer(*each) for each in texts.items()]).why(NODE)
    assert [(row["layer"], row["applies"]) for row in why["layers"]] == [
        ("00.conf", True),
        ("10.conf", False),
        ("20.conf", True),
    ]
    assert why["layers"][1]["because"] == ["platforms: its platform is linux, posix"]
    assert why["queries"] == [
        {"query": "q", "pack": "", "layer": "20.conf", "file": "20.conf", "replaces": ["00.conf"]}
    ]
