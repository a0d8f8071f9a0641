"""osqtwist.targeting: which nodes something is for."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from osqtwist.node import Node
from osqtwist.query import new_query_id
from osqtwist.targeting import NodeFacts, Target, share_of

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
