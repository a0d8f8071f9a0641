"""What pages make of what people type, and of what nodes say."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from osqtwist.targeting import NodeFacts, Target
from osqtwist.web.pages.targets import expression_of, words_of
from osqtwist.web.pages.times import duration, moment
from osqtwist.web.pages.visible import cell, lines
from osqtwist.wire import MalformedRequest

_word = st.sampled_from(["web-1", "WEB-2", "db 3", 'x"y', "prod", "linux", "a(b", "*", "web-*"])
_facts = st.builds(
    NodeFacts,
    node_id=_word,
    name=_word,
    host_identifier=_word,
    platforms=st.frozensets(st.sampled_from(["linux", "ubuntu", "darwin"])),
    tags=st.frozensets(st.sampled_from(["prod", "web", "a:b"])),
)
_targets = st.builds(
    Target,
    nodes=st.lists(st.sampled_from(["web-1", "WEB-*", "db 3", 'x"y', "web-[12]"]), max_size=3).map(tuple),
    tags=st.lists(st.sampled_from(["prod", "web", "a:b", "none"]), max_size=2).map(tuple),
    platforms=st.lists(st.sampled_from(["Linux", "darwin"]), max_size=2).map(tuple),
    where=st.sampled_from(["", "*", "tag:prod", "tag:prod or name:db*", "not platform:linux"]),
)


@given(_targets, _facts)
def test_a_target_is_the_same_as_an_expression(target: Target, facts: NodeFacts) -> None:
    """Whoever asks a query again, asks the same nodes."""
    text = expression_of(msgspec.to_builtins(target))
    assert Target(where=text).matches(facts) == target.matches(facts), text


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ({}, "all nodes"),
        ({"percent": 10}, "10 % of all nodes"),
        ({"tags": ["prod"], "percent": 0.5}, "0.5 % of tag:prod"),
        ({"platforms": ["linux"], "where": "tag:a or tag:b"}, "(platform:linux) and (tag:a or tag:b)"),
    ],
)
def test_a_target_in_words(target: Any, words: str) -> None:
    """With its share."""
    assert words_of(target) == words


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("1.5 m", 90), ("2H", 7200), ("7d", 604800), ("", None), ("-5m", None), ("1y", None)],
)
def test_durations(text: str, seconds: float | None) -> None:
    """Seconds, minutes, hours, days; what is none may be a time."""
    assert duration(text) == seconds


def test_times_are_utc_unless_they_say_otherwise() -> None:
    """A server does not know where a browser is."""
    assert moment("1970-01-02T00:00") == 86400
    assert moment(" 1970-01-02T00:00+02:00 ") == 79200
    assert moment("1970-01-02 00:00Z") == 86400
    with pytest.raises(MalformedRequest, match="no time"):
        moment("tomorrow")


def test_nothing_in_a_cell_is_hidden() -> None:
    """Control characters, line ends, what turns the direction; and no more than has room."""
    assert cell("a\nb\x1b[31m\u202ecod.exe\u2028") == "a\\nb\\x1b[31m\\u202ecod.exe\\u2028"
    assert lines("a\r\nb\tc\x07") == "a\nb\tc\\x07"
    assert (cell(None), cell(5), cell({"a": "é"})) == ("", "5", '{"a": "é"}')
    assert cell("x" * 400, 300) == "x" * 299 + "…"
