"""How two configurations differ: what is told is all that differs, and in osquery's terms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from osqtwist.cli.main import main
from osqtwist.confdiff import NOTHING, Change, compare_bodies, compare_layers, words
from osqtwist.layers import parse_layer

VALUES = st.none() | st.booleans() | st.integers(0, 2) | st.just("1") | st.sampled_from([0.0, 1.0])
QUERIES = st.dictionaries(st.sampled_from("abc"), VALUES | st.dictionaries(st.sampled_from(["query", "x"]), VALUES))
PACK = st.dictionaries(st.sampled_from(["queries", "discovery", "shard"]), VALUES | QUERIES | st.lists(VALUES))
BODIES = st.dictionaries(
    st.sampled_from(["schedule", "packs", "options", "file_paths", "events", "mystery"]),
    VALUES | QUERIES | st.dictionaries(st.sampled_from("pq"), VALUES | PACK) | st.lists(VALUES),
)


@given(BODIES, BODIES)
def test_something_differs_exactly_if_the_bytes_do(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Whatever the bodies; and every change can be told, to people and to programs."""
    changes = compare_bodies(before, after)
    one, other = (json.dumps(body, sort_keys=True) for body in (before, after))
    assert bool(changes) is (one != other)
    for change in changes:
        assert list(words(change))
        assert json.dumps(change.as_row())


@given(BODIES, BODIES)
def test_the_other_way_round_is_the_other_way_round(before: dict[str, Any], after: dict[str, Any]) -> None:
    """What came went, what went came."""
    there, back = compare_bodies(before, after), compare_bodies(after, before)
    assert [(each.what, each.name, each.after, each.before) for each in back] == [
        (each.what, each.name, each.before, each.after) for each in there
    ]


QUERY = {"query": "select 1", "interval": 60}


@pytest.mark.parametrize(
    ("before", "after", "way", "what", "name"),
    [
        ({}, {"schedule": {"q": QUERY}}, "added", "query", "q"),
        ({"schedule": {"q": QUERY}}, {"schedule": {}}, "removed", "query", "q"),
        ({"schedule": {"q": QUERY}}, {"schedule": {"q": {**QUERY, "interval": 90}}}, "changed", "query", "q"),
        ({"schedule": {"q": QUERY}}, {"schedule": {"q": None}}, "changed", "query", "q"),
        ({"packs": {"p": {"queries": {}}}}, {"packs": {"p": {"queries": {"q": QUERY}}}}, "added", "query", "p/q"),
        ({"packs": {"p": {}}}, {"packs": {"p": {"shard": 5}}}, "added", "pack", "p.shard"),
        ({"packs": {"p": {}}}, {"packs": {"p": {"discovery": ["1"]}}}, "added", "discovery", "p"),
        ({"packs": {}}, {"packs": {"p": {}}}, "added", "pack", "p"),
        ({"options": {"a": 1}}, {"options": {"a": True}}, "changed", "option", "a"),
        ({"file_paths": {"x": ["a"]}}, {"file_paths": {"x": ["b"]}}, "changed", "key", "file_paths.x"),
        ({"decorators": {"load": ["a"]}}, {}, "removed", "key", "decorators"),
    ],
)
def test_changes_are_in_osquerys_terms(before: Any, after: Any, way: str, what: str, name: str) -> None:
    """Queries, packs, options: each by its name."""
    (change,) = compare_bodies(before, after)
    assert (change.way, change.what, change.name) == (way, what, name)


def test_people_see_what_changed() -> None:
    """Only the keys that did; blanks where only they differ."""
    change = Change("", "query", "q", QUERY, {**QUERY, "interval": 90, "snapshot": True})
    expected = ["~ query q", "    interval:", "      - 60", "      + 90", "    snapshot:", "      + true"]
    assert list(words(change)) == expected
    assert list(words(Change("", "option", "a", 1, NOTHING))) == ["- option a", "    - 1"]
    assert list(words(Change("", "description", "", "a", "a\n")))[1:] == ['      - "a"', '      + "a\\n"']


def test_layers_are_compared_by_name() -> None:
    """Whom they are for, what they are called, and what they say."""
    old = [parse_layer("a.conf", "{}"), parse_layer("b.conf", '{"options": {"x": 1}}')]
    new = [
        parse_layer("b.conf", '{"osqtwist": {"target": {"tags": ["t"]}, "description": "d"}, "options": {"x": 1}}'),
        parse_layer("c.yaml", "options: {y: 1}"),
    ]
    changes = compare_layers(old, new)
    assert [(each.layer, each.what, each.way) for each in changes] == [
        ("a.conf", "layer", "removed"),
        ("b.conf", "target", "changed"),
        ("b.conf", "description", "changed"),
        ("c.yaml", "layer", "added"),
    ]
    assert compare_layers(old, list(reversed(old))) == []


# -- the command


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("a", "b"):
        (tmp_path / name / "packs").mkdir(parents=True)
        (tmp_path / name / "00.conf").write_text('{"packs": {"p": "packs/p.conf"}, "options": {"custom_a": 1}}')
        (tmp_path / name / "packs" / "p.conf").write_text('{"queries": {"q": {"query": "select 1"}}}')
    return tmp_path / "a", tmp_path / "b"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments])


def test_the_same_folders_are_0(folders: tuple[Path, Path]) -> None:
    """And nothing is printed."""
    done = run("config", "diff", *folders)
    assert (done.exit_code, done.output) == (0, "")
    assert json.loads(run("--json", "config", "diff", *folders).output) == []


def test_different_folders_are_1(folders: tuple[Path, Path]) -> None:
    """A pack's file is looked into."""
    (folders[1] / "packs" / "p.conf").write_text('{"queries": {"q": {"query": "select\\u001b[2J 2"}}}')
    done = run("config", "diff", *folders)
    assert done.exit_code == 1
    assert done.output.split("\n")[:5] == [
        "00.conf",
        "  ~ query p/q",
        "      query:",
        "        - select 1",
        "        + select\\x1b[2J 2",
    ]
    (row,) = json.loads(run("--json", "config", "diff", *folders).output)
    assert (row["way"], row["layer"], row["what"], row["name"]) == ("changed", "00.conf", "query", "p/q")


def test_a_folder_that_cannot_be_read_is_2(folders: tuple[Path, Path]) -> None:
    """With the reason, as diff does it."""
    (folders[1] / "00.conf").write_text("{")
    done = run("config", "diff", *folders)
    assert done.exit_code == 2
    assert "00.conf: line 1" in done.output


def test_what_differs_for_one_node(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """Of the file that node show printed: layers that it has or has not, and what they make together."""
    node = tmp_path / "node.json"
    shown = {"node": "1", "name": "n", "platforms": ["linux"], "certificate": {"identity": "n"}}
    shown["tag_sources"] = {"prod": ["operator"], "ruled": ["rule"], "found": ["query"]}
    node.write_text(json.dumps(shown))
    new = '{"osqtwist": {"target": {"where": "tag:%s and proof:certificate"}}, "options": {"custom_a": 2}}'
    (folders[1] / "10.conf").write_text(new % "test")
    assert run("config", "diff", *folders).exit_code == 1
    assert run("config", "diff", *folders, "--node", node).exit_code == 0
    (folders[1] / "10.conf").write_text(new % "prod")
    done = run("--json", "config", "diff", *folders, "--node", node)
    assert done.exit_code == 1
    assert [(row["what"], row["name"]) for row in json.loads(done.output)] == [
        ("layer", "10.conf"),
        ("option", "custom_a"),
    ]
    (folders[1] / "tags.toml").write_text('[[tag_rules]]\ntag = "new"\nwhere = "tag:ruled or tag:prod"\n')
    (folders[1] / "10.conf").unlink()
    done = run("--json", "config", "diff", *folders, "--node", node)
    assert [(row["way"], row["what"], row["name"]) for row in json.loads(done.output)] == [("added", "tag", "new")]
    done = run("config", "diff", *folders)
    assert (done.exit_code, done.output.split("\n")[:2]) == (1, ["tags.toml", "  + tag rules new"])
    node.write_text("[]")
    done = run("config", "diff", *folders, "--node", node)
    assert (done.exit_code, "is not what" in done.output) == (2, True)
