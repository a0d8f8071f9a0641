"""Documents of JSON and YAML: what they say, and that a hostile one costs little."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from osqtwist.documents import MAX_VALUES, BadDocument, Document, read_json, read_yaml, without_comments

# PyYAML itself cannot write what YAML 1.1 takes for line breaks and read it as the same.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\x85\u2028\u2029"), max_size=12)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | TEXT | st.floats(allow_nan=False, width=32),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
).filter(lambda value: "inf" not in repr(value))


def only(documents: list[Document]) -> Any:
    (document,) = documents
    return document.value


@given(VALUES)
def test_what_json_says_is_said_in_both(value: Any) -> None:
    """Written by json or by PyYAML and read again, it is the same."""
    assert read_json(json.dumps(value)).value == value
    assert only(read_yaml(yaml.safe_dump(value, allow_unicode=True))) == value


def test_values_have_lines() -> None:
    """Of YAML: that of the key, or of the item."""
    (first, second) = read_yaml("# c\nkind: query\nspec:\n  name: a\n  of:\n    - x\n    - y\n---\nz: 1\n")
    assert first.lines["spec", "name"] == 4
    assert first.lines["spec", "of", 1] == 7
    assert second.lines["z",] == 9


def test_words_that_look_like_something_are_text() -> None:
    """on, yes and dates; only true and false are truth."""
    assert only(read_yaml("{a: on, b: yes, c: True, 1: x, d: 2026-01-01, e: ~, f: 0x10, =: =}")) == {
        "a": "on",
        "b": "yes",
        "c": True,
        "1": "x",
        "d": "2026-01-01",
        "e": None,
        "f": 16,
        "=": "=",
    }


def test_aliases_and_merges() -> None:
    """An alias is the value again; an object's own keys win, then the first merged."""
    text = "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc: {<<: [*a, *b], x: 3}\nd: {<<: *b}\ne: [*a]"
    found = only(read_yaml(text))
    assert found["c"] == {"x": 3, "y": 1, "z": 2}
    assert (found["d"], found["e"]) == ({"y": 2, "z": 2}, [{"x": 1, "y": 1}])


@pytest.mark.parametrize(
    ("text", "problem", "line"),
    [
        ("a: 1\nb: ]\n", "expected", 2),
        ("a: 1\na: 2", "'a' stands twice", 2),
        ("x: 1\na: !!python/object/apply:os.system [ls]", "python", 2),
        ("a: !!binary aGk=", "binary", 1),
        ("a: !!set {x}", "set cannot", 1),
        ("a: !!int many", "invalid literal", 1),
        ("a: .inf", "too large", 1),
        ("a: 1.0e+999", "too large", 1),
        ("a: 99999999999999999999999", "64 bits", 1),
        ("a: 1" + ":1" * 50_000, "number is too long", 1),
        ("[a, b]: 1", "a key must be text", 1),
        ("a: *b", "undefined alias", 1),
        ("a: &a [*a]", "nested too deeply", 1),
        ("a: &a {<<: *a}", "nested too deeply", 1),
        ("a: {<<: 1}", "<< must be followed by objects", 1),
        ('a: "\\ud800"', "surrogate", 1),
        ("[" * 500, "nested too deeply", 0),
        ("a: \x01", "special characters", 0),
    ],
)
def test_yaml_that_json_cannot_say_is_refused(text: str, problem: str, line: int) -> None:
    """With the line."""
    with pytest.raises(BadDocument, match=problem) as caught:
        read_yaml(text)
    assert caught.value.line == line


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"a": 1, "a": 2}', "'a' stands twice"),
        ("NaN", "NaN is not JSON"),
        ("1e999", "too large"),
        ("9" * 30, "64 bits"),
        ("9" * 5000, "digits"),
        ("[" * 100_000, "nested"),
        ("[" * 66 + "]" * 66, "nested"),
        ('{"a": ["\\ud800"]}', "surrogate"),
        ('{"\\ud800": 1}', "surrogate"),
        ("{", "Expecting"),
        ("[" + "0," * MAX_VALUES + "0]", "more than"),
    ],
)
def test_json_that_cannot_be_served_is_refused(text: str, problem: str) -> None:
    """With the reason."""
    with pytest.raises(BadDocument, match=problem):
        read_json(text)


@pytest.mark.slow
def test_a_bomb_of_aliases_costs_little() -> None:
    """Ten lists of ten aliases each, nested, would be ten thousand million values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 10)}]" for number in range(1, 10)]
    began = time.process_time()
    with pytest.raises(BadDocument, match="more than"):
        read_yaml("\n".join(lines))
    maps = ["a0: &a0 {x: 1}"]
    maps += [f"a{number}: &a{number} {{<<: [{', '.join([f'*a{number - 1}'] * 10)}]}}" for number in range(1, 10)]
    with pytest.raises(BadDocument, match="more than"):
        read_yaml("\n".join(maps))
    assert time.process_time() - began < 10


def test_comments_and_lines_that_go_on() -> None:
    """As osquery does it: lines are joined first, so a comment can go on too; line numbers stay."""
    assert read_json('{"a": "select 1 \\\nfrom x"}').value == {"a": "select 1 from x"}
    assert read_json('{\n# a comment \\\n "b": 1,\n"a": 1}').value == {"a": 1}
    assert without_comments("#a\n//b\nc\\\nd\ne").split("\n") == ["", "", "cd", "", "e"]
    assert without_comments("a\\") == "a\\"
    with pytest.raises(BadDocument) as caught:
        read_json('{"a": 1,\n "b": \\\n 2,\n nonsense}')
    assert caught.value.line == 4


@given(st.text(max_size=80) | st.text("{}[]:,&*!|>-\"'#\\\n ab1<", max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Never anything else."""
    for read in (read_json, read_yaml):
        try:
            read(text)
        except BadDocument as problem:
            assert str(problem)
