"""The language of targets: what is read, what is refused, and what is meant, against a plain evaluator."""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osqtwist.expression import (
    MAX_DEPTH,
    MAX_LENGTH,
    And,
    BadExpression,
    Compares,
    Everything,
    Expression,
    Matches,
    Not,
    Or,
    Vocabulary,
    parse,
)

WORDS = Vocabulary(frozenset({"tag", "cn", "platform", "decoration.", "days"}), frozenset({"days"}))
FACTS: dict[str, list[str]] = {
    "tag": ["prod", "Berlin"],
    "cn": ["build-7"],
    "platform": ["linux"],
    "days": ["12"],
    "decoration.owner": ["A B"],
}


def lookup(key: str) -> Iterable[str]:
    return FACTS.get(key, [])


@pytest.mark.parametrize(
    ("text", "is_meant"),
    [
        ("", True),
        (" * ", True),
        ("tag:prod", True),
        ("TAG:PROD", True),
        ("tag:berlin and tag:prod", True),
        ("tag:test", False),
        ("not tag:test", True),
        ("not not tag:test", False),
        ("tag:prod and platform:linux and not cn:build-*", False),
        ("tag:test or platform:l?nux", True),
        ("tag:test or tag:prod and tag:test", False),
        ("(tag:prod or tag:test) and cn:build-[0-9]", True),
        ("cn:build-[!0-9]", False),
        ("cn:*7", True),
        ("cn:*l*-*", True),
        ('decoration.owner:"a b"', True),
        ('decoration.owner:"a*"', False),
        ("decoration.other:*", False),
        ("days<30", True),
        ("days <30", None),
        ("days>=12 and days<=12", True),
        ("days>12", False),
        ("cn:a]b", False),
        ("cn:build-[7", False),
    ],
)
def test_what_is_meant(text: str, is_meant: bool | None) -> None:
    """Case is alike, `and` binds closer than `or`, a pattern is a shell's, a quoted value is literal."""
    if is_meant is None:
        with pytest.raises(BadExpression):
            parse(text, WORDS)
    else:
        assert parse(text, WORDS).matches(lookup) is is_meant


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("prod", "column 1: 'prod' is not a term"),
        ("tag:prod tag:test", "column 10: 'tag:test' needs and, or"),
        ("tag:prod and", "ends too early"),
        ("and tag:prod", "column 1: 'and' is not a term"),
        ("(tag:prod", "column 1: this parenthesis is never closed"),
        ("tag:prod)", "column 9: ')' needs an opening parenthesis"),
        ("tga:prod", "no key 'tga'; there is tag"),
        ("tag:", "a value is missing after tag:"),
        ('tag:"prod', "column"),
        ("tag<3", "'tag' is not a number"),
        ("days<many", "'many' is not a number"),
        ("days<inf", "'inf' is not a number"),
        ("(" * (MAX_DEPTH + 2) + "tag:a", "nested at most"),
        ("not " * (MAX_DEPTH + 2) + "tag:a", "nested at most"),
        (" or ".join(["tag:a"] * 300), "at most 256 terms"),
        ("tag:" + "a" * MAX_LENGTH, "at most 4096 letters"),
    ],
)
def test_what_is_refused(text: str, problem: str) -> None:
    """With the column and the reason."""
    with pytest.raises(BadExpression) as caught:
        parse(text, WORDS)
    assert problem in str(caught.value)


def test_keys_are_what_has_to_be_looked_up() -> None:
    """Once each."""
    assert parse("tag:a and (not days<3 or tag:b)", WORDS).keys == {"tag", "days"}


# -- against a plain evaluator

VALUES = st.text("ab-* ?[]!", max_size=6)
PATTERNS = st.text("ab-*?", min_size=1, max_size=6)
TERMS = st.one_of(
    st.builds(Matches, st.sampled_from(["tag", "cn"]), PATTERNS),
    st.builds(Matches, st.just("tag"), VALUES, st.just(True)),
    st.builds(Compares, st.just("days"), st.sampled_from(["<", "<=", ">", ">="]), st.integers(-5, 5).map(float)),
)
EXPRESSIONS: st.SearchStrategy[Any] = st.recursive(
    TERMS,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(And, st.lists(inner, min_size=2, max_size=3).map(tuple)),
        st.builds(Or, st.lists(inner, min_size=2, max_size=3).map(tuple)),
    ),
    max_leaves=8,
)


def plainly(expression: Expression, facts: dict[str, list[str]]) -> bool:
    """What an expression means, said in another way."""
    match expression:
        case Everything():
            return True
        case Not(part):
            return not plainly(part, facts)
        case And(parts):
            return min(plainly(part, facts) for part in parts)
        case Or(parts):
            return max(plainly(part, facts) for part in parts)
        case Compares(key, operator, number):
            return any(eval(f"{value} {operator} {number}") for value in facts[key])
        case Matches(key, pattern, True):
            return pattern in [value.lower() for value in facts[key]]
        case Matches(key, pattern, False):
            return any(fnmatch.fnmatchcase(value.lower(), pattern) for value in facts[key])
    raise AssertionError


@given(EXPRESSIONS, st.lists(VALUES, max_size=3), st.lists(VALUES, max_size=1), st.integers(-6, 6))
def test_it_means_what_a_plain_evaluator_says(expression: Any, tags: list[str], names: list[str], days: int) -> None:
    """Whatever the expression and the facts."""
    facts = {"tag": tags, "cn": names, "days": [str(days)]}
    assert expression.matches(lambda key: facts[key]) == plainly(expression, facts)


def _flat(expression: Expression) -> Any:
    """Without the difference between (a and b) and c, and a and (b and c)."""
    match expression:
        case Not(part):
            return ("not", _flat(part))
        case And(parts) | Or(parts):
            return (type(expression).__name__, tuple(_flat(part) for part in parts))
    return expression


@given(EXPRESSIONS)
def test_its_text_is_read_as_the_same(expression: Any) -> None:
    """str() is canonical: read again it is equal, and its text is the same."""
    text = str(expression)
    again = parse(text, WORDS)
    assert _flat(again) == _flat(expression)
    assert str(again) == text
    assert hash(again) == hash(parse(text, WORDS))


@given(st.text(max_size=60) | st.text('tag:()"\\ andorno*<>=[]!', max_size=60))
def test_any_text_is_an_expression_or_refused(text: str) -> None:
    """Never anything else."""
    try:
        parse(text, WORDS).matches(lookup)
    except BadExpression as problem:
        assert str(problem)


def test_a_pattern_takes_no_longer_than_it_must() -> None:
    """Many stars against a long value: where a backtracking matcher would not end."""
    expression = parse("cn:" + "*a" * 100 + "b", WORDS)
    began = time.process_time()
    assert not expression.matches(lambda key: ["a" * 5000])
    assert time.process_time() - began < 5
