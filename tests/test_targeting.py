"""osqtwist.targeting: which nodes something is for."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from osqtwist.node import CertificateRecord, Node
from osqtwist.query import new_query_id
from osqtwist.targeting import VOCABULARY, BadTarget, NodeFacts, Target, share_of

WEB = NodeFacts("0" * 20, "web-1.example.com", "AAAA-1", frozenset({"linux", "debian"}), frozenset({"prod", "web"}))


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (Target(), True),
        (Target(tags=("prod",)), True),
        (Target(tags=("test", "web")), True),
        (Target(tags=("test",)), False),
        (Target(platforms=("Linux",)), True),
        (Target(platforms=("darwin", "windows")), False),
        (Target(nodes=("web-*",)), True),
        (Target(nodes=("WEB-1.*",)), True),
        (Target(nodes=("aaaa-1",)), True),
        (Target(nodes=("0" * 20,)), True),
        (Target(nodes=("db-?",)), False),
        (Target(nodes=("web-*",), tags=("test",)), False),
        (Target(percent=0), False),
        (Target(percent=100), True),
    ],
)
def test_fields_are_a_conjunction_of_alternatives(target: Target, expected: bool) -> None:
    """Every field given must match; in a field one value is enough."""
    assert target.matches(WEB) is expected


NODE = Node(
    node_id="1" * 20,
    name="web-1.example.com",
    proof="certificate",
    host_identifier="AAAA-1",
    platform_type="9",
    tags=("prod", "ou:eu/web"),
    host_details={"osquery_info": {"version": "5.12.1", "build_platform": "ubuntu"}},
    certificate=CertificateRecord("web-1.example.com", "CN=Old CA,O=Example", "1f", "ab", 2e9, "P-256"),
)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("tag:prod and platform:linux and not cn:build-*", True),
        ("tag:ou:eu/web", True),
        ("tag:test or platform:darwin", False),
        ("name:WEB-1.* and host:aaaa-1 and id:1*", True),
        ('issuer:"CN=Old CA,O=Example" and proof:certificate', True),
        ("version:5.1?.*", True),
        ("version:4.*", False),
        ("*", True),
    ],
)
def test_expressions_ask_what_is_known_of_a_node(where: str, expected: bool) -> None:
    """Each key of the vocabulary has its values; an expression and the fields must both match."""
    assert Target(where=where).matches(NODE.facts()) is expected
    assert not Target(where=where, tags=("other",)).matches(NODE.facts())
    assert Target(where=where).is_everything is False


def test_a_node_without_a_certificate_has_none_to_ask_for() -> None:
    """What is not known matches nothing, and so its negation matches."""
    facts = NodeFacts("2" * 20, "host")
    assert not any(Target(where=f"{key}:*").matches(facts) for key in ("cn", "issuer", "version", "tag", "platform"))
    assert Target(where="not cn:* and proof:secret").matches(facts)
    others = {"tag", "platform", "version", "issuer", "proof", "secret"}
    assert set(VOCABULARY.keys) == {"id", "name", "cn", "host"} | others
    assert all(isinstance(list(facts.values(key)), list) for key in VOCABULARY.keys)


@pytest.mark.parametrize(
    ("where", "text"), [("colour:red", "no key 'colour'"), ("tag:prod and", "where is not an exp")]
)
def test_what_is_no_expression_is_refused(where: str, text: str) -> None:
    """When the target is made, with the column."""
    with pytest.raises(BadTarget, match=text):
        Target(where=where)
    with pytest.raises(msgspec.ValidationError, match=text):
        msgspec.convert({"where": where}, Target)


@given(st.text(max_size=40), st.text(max_size=10), st.floats(0, 100), st.floats(0, 100))
def test_shares_are_stable_and_nested(node_id: str, salt: str, one: float, other: float) -> None:
    """A node's place does not change, and a larger share contains a smaller one with the same salt."""
    assert share_of(node_id, salt) == share_of(node_id, salt)
    small, large = sorted((one, other))
    facts = NodeFacts(node_id, "n")
    if Target(percent=small, salt=salt).matches(facts):
        assert Target(percent=large, salt=salt).matches(facts)


def test_a_share_is_about_as_large_as_it_says() -> None:
    """Ten percent of ten thousand nodes is near a thousand."""
    target = Target(percent=10, salt="canary")
    chosen = sum(target.matches(NodeFacts(f"{number:020x}", "n")) for number in range(10_000))
    assert 850 < chosen < 1150


def test_a_percentage_out_of_range_is_refused() -> None:
    """The error names the field and the range."""
    with pytest.raises(msgspec.ValidationError, match="percent"):
        msgspec.json.decode(b'{"percent":101}', type=Target)


def test_platform_words_come_from_both_sources() -> None:
    """The family comes from platform_type or the build, the distribution from os_version."""
    node = Node(
        node_id="0" * 20,
        name="n",
        proof="secret",
        platform_type="9",
        host_details={"os_version": {"platform": "ubuntu", "platform_like": "debian"}},
    )
    assert node.platforms == {"linux", "posix", "ubuntu", "debian"}
    assert node.platform == "linux"
    assert Node(node_id="1", name="n", proof="secret", platform_type="21").platform == "darwin"
    assert Node(node_id="1", name="n", proof="secret", platform_type="2").platform == "windows"
    assert Node(node_id="1", name="n", proof="secret", platform_type="zz").platform == ""


def test_query_ids_sort_by_time_and_do_not_repeat() -> None:
    """A later query has a later id, and two of one moment differ."""
    assert new_query_id(1_000_000.0) < new_query_id(1_000_001.0)
    assert len({new_query_id(5.0) for _ in range(100)}) == 100
