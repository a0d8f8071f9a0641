"""Configuration layers: read, checked, merged, served."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from osqtwist import configuration as configuration_module
from osqtwist.announcement import SAMPLE_CONFIG
from osqtwist.confcheck import check, check_size
from osqtwist.configfolder import ConfigFolder, check_folder, read_folder
from osqtwist.configuration import NodeConfiguration, StaticConfiguration
from osqtwist.documents import without_comments
from osqtwist.layers import BadConfiguration, Layer, merge, parse_layer, parse_text, render
from osqtwist.outcomes import Chosen
from osqtwist.targeting import NodeFacts, Target

FACTS = NodeFacts("0" * 20, "node-1", platforms=frozenset({"linux"}))
json_values = st.recursive(
    st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.text(max_size=6), json_values, max_size=4)


# -- reading


@given(objects, st.sampled_from(["# note", "  // note", "//", "#"]))
def test_comments_never_change_what_is_said(value: dict[str, Any], comment: str) -> None:
    """Lines that are comments may stand anywhere; # and // inside strings are text."""
    text = "\n".join(line + "\n" + comment for line in json.dumps(value, indent=1).split("\n"))
    assert parse_text("a.conf", text) == value


def test_comments_are_lines() -> None:
    """A comment takes the whole line, and the lines after it keep their numbers."""
    assert parse_text("a.conf", '# x\n{"a": "# // b"}\n  // y') == {"a": "# // b"}
    assert parse_text("a.conf", '{"a": "select 1 \\\nfrom x"}') == {"a": "select 1 from x"}
    assert without_comments("#a\nb").count("\n") == 1
    with pytest.raises(BadConfiguration, match=r"a\.conf: line 3"):
        parse_text("a.conf", "# one\n{\n  nonsense\n}")


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("a.conf", "[]", ["a.conf", "object"]),
        ("a.conf", '{"a": 1, "a": 2}', ["a.conf", "'a' stands twice"]),
        ("a.conf", '{"a": NaN}', ["a.conf", "NaN"]),
        ("a.conf", '{"a": ' + "[" * 100_000, ["a.conf", "nested"]),
        ("a.yaml", "a: [", ["a.yaml", "line"]),
        ("a.yaml", "- 1", ["a.yaml", "object"]),
        ("a.conf", '{"osqtwist": {"target": {"tag": ["x"]}}}', ["a.conf", "osqtwist", "tag"]),
        ("a.conf", '{"osqtwist": {"target": {"percent": 200}}}', ["a.conf", "osqtwist", "percent"]),
        ("a.conf", '{"osqtwist": {"targets": {}}}', ["a.conf", "targets"]),
    ],
)
def test_what_cannot_be_read_is_named(file: str, text: str, words: list[str]) -> None:
    """The file, the line or key, and why."""
    with pytest.raises(BadConfiguration) as caught:
        parse_layer(file, text)
    for word in words:
        assert word in str(caught.value)


def test_yaml_says_what_it_looks_like() -> None:
    """on, yes and dates are text; true is a boolean; keys are text."""
    text = "options: {a: on, b: yes, c: true, 1: x}\nversion: 2026-01-01\nquery: |\n  select 1\n"
    found = parse_text("a.yaml", text)
    assert found["options"] == {"a": "on", "b": "yes", "c": True, "1": "x"}
    assert (found["version"], found["query"]) == ("2026-01-01", "select 1\n")


def test_a_layer_says_whom_it_is_for() -> None:
    """The target is taken out; a share has the file's name for salt unless it has its own."""
    layer = parse_layer("a.conf", '{"osqtwist": {"target": {"percent": 10}}, "options": {}}')
    assert (layer.target.percent, layer.target.salt, dict(layer.body)) == (10, "a.conf", {"options": {}})


# -- merging


@pytest.mark.parametrize(
    ("earlier", "later", "merged"),
    [
        ({"options": {"a": 1, "b": 1}}, {"options": {"b": 2}}, {"options": {"a": 1, "b": 2}}),
        (
            {"schedule": {"q": {"query": "1", "interval": 5}}},
            {"schedule": {"q": {"query": "2"}}},
            {"schedule": {"q": {"query": "2"}}},
        ),
        (
            {"packs": {"p": {"queries": {"a": {}}}}},
            {"packs": {"p": {"queries": {"b": {}}}, "r": {}}},
            {"packs": {"p": {"queries": {"b": {}}}, "r": {}}},
        ),
        (
            {"file_paths": {"etc": ["a", "b"]}},
            {"file_paths": {"etc": ["b", "c"]}},
            {"file_paths": {"etc": ["a", "b", "c"]}},
        ),
        ({"decorators": {"load": ["1"]}}, {"decorators": {"load": ["2"]}}, {"decorators": {"load": ["1", "2"]}}),
        ({"schedule": {"q": {}, "r": {}}}, {"schedule": {"q": None}}, {"schedule": {"r": {}}}),
        ({"options": {"a": 1}}, {"options": None}, {}),
        ({"options": {"a": {"x": 1}}}, {"options": {"a": 2}}, {"options": {"a": 2}}),
    ],
)
def test_merging(earlier: dict[str, Any], later: dict[str, Any], merged: dict[str, Any]) -> None:
    """Objects by key, schedule and packs by entry, lists joined, null removes."""
    assert merge([earlier, later]) == merged


@given(objects, objects)
def test_merging_changes_nothing_it_is_given(one: dict[str, Any], two: dict[str, Any]) -> None:
    """What is merged stays as it was, and a layer alone is itself."""
    before = json.dumps([one, two])
    merge([one, two])
    assert json.dumps([one, two]) == before
    assert merge([one]) == one
    assert merge([one, {}]) == one


@given(objects)
def test_the_same_configuration_is_the_same_bytes(value: dict[str, Any]) -> None:
    """Whatever the order of its keys: the client hashes what it gets."""
    backwards = dict(reversed(list(value.items())))
    assert render(value) == render(backwards)
    assert json.loads(render(value)) == value


# -- checking

QUERY = {"query": "select 1", "interval": 60}


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"schedule": []}, "schedule"),
        ({"schedule": {"q": 5}}, "schedule.q"),
        ({"schedule": {"q": {}}}, "schedule.q.query"),
        ({"schedule": {"q": {"query": " "}}}, "schedule.q.query"),
        ({"schedule": {"q": {**QUERY, "interval": 0}}}, "schedule.q.interval"),
        ({"schedule": {"q": {**QUERY, "interval": 604801}}}, "schedule.q.interval"),
        ({"schedule": {"q": {**QUERY, "interval": "often"}}}, "schedule.q.interval"),
        ({"schedule": {"q": {**QUERY, "interval": 1.5}}}, "schedule.q.interval"),
        ({"schedule": {"q": {**QUERY, "snapshot": "yes"}}}, "schedule.q.snapshot"),
        ({"schedule": {"q": {**QUERY, "shard": 101}}}, "schedule.q.shard"),
        ({"schedule": {"q": {**QUERY, "platform": 1}}}, "schedule.q.platform"),
        ({"schedule": {"query.x": QUERY}}, "schedule.query.x"),
        ({"schedule": {"my_epoch": QUERY}}, "schedule.my_epoch"),
        ({"schedule": {"a\nb": QUERY}}, "schedule.a\nb"),
        ({"packs": {"main": {"queries": {}}}}, "packs.main"),
        ({"packs": {"p": "missing"}}, "packs.p"),
        ({"packs": {"p": {"queries": {"q": {}}}}}, "packs.p.queries.q.query"),
        ({"packs": {"p": {"discovery": "select 1"}}}, "packs.p.discovery"),
        ({"options": {"a": 1.5}}, "options.a"),
        ({"options": {"a": -1}}, "options.a"),
        ({"options": {"a": []}}, "options.a"),
        ({"decorators": {"load": "select 1"}}, "decorators.load"),
        ({"decorators": {"interval": {"61": ["x"]}}}, "decorators.interval.61"),
        ({"decorators": {"interval": []}}, "decorators.interval"),
        ({"file_paths": {"etc": "/etc"}}, "file_paths.etc"),
        ({"file_accesses": {}}, "file_accesses"),
        ({"views": {"v": 1}}, "views.v"),
    ],
)
def test_what_osquery_would_refuse_is_an_error(body: dict[str, Any], where: str) -> None:
    """With the key that is wrong."""
    assert (where, "error") in [(problem.where, problem.severity) for problem in check(body, "a.conf")]


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"options": {"config_refresh": 10}}, "options.config_refresh"),
        ({"options": {"schedule_splay_percent": 1}}, "options.schedule_splay_percent"),
        ({"exclude_paths": {"a": ["b"]}}, "exclude_paths"),
        ({"mystery": {}}, "mystery"),
        ({"packs": {"p": {"queries": {}, "mystery": 1}}}, "packs.p.mystery"),
    ],
)
def test_what_osquery_would_not_take_is_found(body: dict[str, Any], where: str) -> None:
    """What does no harm but nothing else either is a warning."""
    assert [(problem.where, problem.severity) for problem in check(body, "a.conf")] == [(where, "warning")]


def test_size_and_depth() -> None:
    """Past the client's limits a host would be left without a schedule."""
    deep: dict[str, Any] = {}
    for _ in range(32):
        deep = {"a": deep}
    assert "nested" in str(check_size(deep, "f")[0])
    assert "bytes long" in str(check_size({"a": "x" * 2**20}, "f")[0])
    assert check_size({"a": {"b": 1}}, "f") == []


# -- serving


def layers(**texts: str) -> NodeConfiguration:
    return NodeConfiguration([parse_layer(f"{name}.conf", text) for name, text in sorted(texts.items())])


def test_defaults_are_filled_in_unless_set() -> None:
    """A held read needs an interval of 1; a layer may say otherwise."""
    plain = json.loads(layers(a="{}").config_for(FACTS, None).body)
    assert plain["options"] == {"distributed_interval": 1, "disable_distributed": False, "logger_tls_period": 10}
    own = json.loads(layers(a='{"options": {"distributed_interval": 5}}').config_for(FACTS, None).body)
    assert own["options"]["distributed_interval"] == 5


def test_etags() -> None:
    """None: no etag. Different or empty: with etag. The same: exactly that. The etag is of the body without it."""
    served = layers(a='{"schedule": {"q": {"query": "select 1", "interval": 60}}}')
    plain, tagged = served.config_for(FACTS, None), served.config_for(FACTS, "")
    assert "etag" not in json.loads(plain.body)
    assert json.loads(tagged.body) == {**json.loads(plain.body), "etag": plain.etag}
    assert served.config_for(FACTS, plain.etag).body == b'{"etag":"ok"}'
    assert served.config_for(FACTS, plain.etag).is_unchanged
    assert served.config_for(FACTS, "ok").body == tagged.body
    assert plain.etag != "ok" and len(plain.etag) == 32


def test_gzip_is_the_same_body() -> None:
    """And the same bytes each time."""
    answer = layers(a="{}").config_for(FACTS, None)
    assert gzip.decompress(answer.gzipped()) == answer.body
    assert answer.gzipped() == layers(a="{}").config_for(FACTS, None).gzipped()


def test_a_configuration_is_made_once_for_each_set_of_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand nodes and three layers: as many renderings as there are different outcomes."""
    renderings = []

    def counting(body: Any) -> bytes:
        renderings.append(body)
        return render(body)

    # Counting calls of a pure function; nothing is replaced by something else.
    monkeypatch.setattr(configuration_module, "render", counting)
    served = layers(
        a="{}",
        b='{"osqtwist": {"target": {"tags": ["t"]}}, "options": {"b": 1}}',
        c='{"osqtwist": {"target": {"percent": 50}}, "options": {"c": 1}}',
    )
    for number in range(10_000):
        tags = frozenset({"t"}) if number % 2 else frozenset()
        served.config_for(NodeFacts(f"{number:020x}", "n", tags=tags), None)
    assert len(renderings) == 4


def test_static_bytes_stay_as_they_are() -> None:
    """The reference profile serves bytes whose order of keys counts."""
    assert StaticConfiguration(b'{"b":1,"a":2}').config_for(FACTS, None).body == b'{"b":1,"a":2}'


# -- folders


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "packs").mkdir()
    (tmp_path / "00.conf").write_text('{"options": {"custom_a": 1}}')
    yield tmp_path


def test_packs_of_other_files_are_put_in(folder: Path) -> None:
    """By path relative to the layer; "*" holds several; a pack that is an object stays."""
    (folder / "packs" / "p.conf").write_text('# c\n{"queries": {"q": {"query": "select 1", "interval": 60}}}')
    (folder / "10.conf").write_text(
        '{"packs": {"p": "packs/p.conf", "o": {"queries": {}}, "*": {"s": {"queries": {}}}}}'
    )
    found, problems = read_folder(folder)
    assert problems == []
    assert set(found[1].body["packs"]) == {"p", "o", "s"}
    assert found[1].body["packs"]["p"]["queries"]["q"]["query"] == "select 1"


@pytest.mark.parametrize("spoken", ["../outside.conf", "/etc/passwd", "packs/link.conf", "packs/none.conf", "packs"])
def test_packs_stay_inside_the_folder(folder: Path, spoken: str) -> None:
    """No way up, no absolute path, no link that leads out; what is missing is named."""
    (folder.parent / "outside.conf").write_text("{}")
    (folder / "packs" / "link.conf").symlink_to(folder.parent / "outside.conf")
    (folder / "10.conf").write_text(json.dumps({"packs": {"p": spoken}}))
    with pytest.raises(BadConfiguration, match=r"10\.conf: packs\.p"):
        read_folder(folder)


def test_every_problem_is_told(folder: Path) -> None:
    """Not only the first one, and the count of the others stands in the sentence."""
    (folder / "10.conf").write_text('{"schedule": {"a": {}, "b": {}}}')
    (folder / "20.conf").write_text("{")
    with pytest.raises(BadConfiguration, match="and 2 more") as caught:
        read_folder(folder)
    assert len(caught.value.problems) == 3
    assert [problem.file for problem in check_folder(folder)] == ["10.conf", "10.conf", "20.conf"]


@pytest.mark.parametrize("what", ["missing", "empty", "not UTF-8"])
def test_a_folder_that_cannot_be_served_is_named(tmp_path: Path, what: str) -> None:
    """One sentence."""
    target = tmp_path / "config"
    if what != "missing":
        target.mkdir()
    if what == "not UTF-8":
        (target / "a.conf").write_bytes(b"\xff")
    with pytest.raises(BadConfiguration) as caught:
        read_folder(target)
    assert "config" in str(caught.value) or "a.conf" in str(caught.value)


def test_a_folder_that_is_bad_from_the_start_is_served_as_it_was_when_it_was_good(folder: Path) -> None:
    """By a worker that is started again, with what twistd had of it; a good change ends that."""
    clock, reloads = Clock(), list[bool]()
    (folder / "rollout.toml").write_text("steps = [10, 100]\n")
    before = ConfigFolder(clock, folder)
    assert before.plan is not None
    good = before.configuration.config_for(FACTS, None).body
    (folder / "10.conf").write_text("{")
    (folder / "rollout.toml").write_text("steps = ")
    with pytest.raises(BadConfiguration):
        ConfigFolder(clock, folder)
    before.reload()
    found = ConfigFolder(clock, folder, reloads.append, before.good)
    assert found.configuration.config_for(FACTS, None).body == good
    assert found.plan == before.plan
    assert found.good == before.good
    (folder / "10.conf").write_text('{"options": {"custom_b": 3}}')
    (folder / "rollout.toml").unlink()
    found.check()
    assert json.loads(found.configuration.config_for(FACTS, None).body)["options"]["custom_b"] == 3
    assert reloads == [False, True]


def test_a_folder_that_cannot_be_looked_at_is_looked_at_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file descriptors: nothing is known to have changed, and the watch goes on."""
    clock = Clock()
    found = ConfigFolder(clock, folder)
    found.startService()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rglob", lambda self, pattern: (_ for _ in ()).throw(OSError(24, "Too many open files")))
        clock.advance(2)
    (folder / "10.conf").write_text('{"options": {"custom_b": 4}}')
    clock.advance(2)
    assert json.loads(found.configuration.config_for(FACTS, None).body)["options"]["custom_b"] == 4
    found.stopService()


def test_a_change_is_served_and_a_bad_one_is_not(folder: Path) -> None:
    """The last good configuration stays in force until a good one comes."""
    clock, reloads = Clock(), []
    found = ConfigFolder(clock, folder, reloads.append)
    found.startService()
    first = found.configuration.config_for(FACTS, None).body
    clock.advance(2)
    assert reloads == [True]
    (folder / "10.conf").write_text('{"options": {"custom_b": 1}')
    clock.advance(2)
    assert found.configuration.config_for(FACTS, None).body == first
    clock.advance(2)
    assert reloads == [True, False]
    (folder / "10.conf").write_text('{"options": {"custom_b": 2}}')
    clock.advance(2)
    assert json.loads(found.configuration.config_for(FACTS, None).body)["options"]["custom_b"] == 2
    assert reloads == [True, False, True]
    found.stopService()
    assert not clock.getDelayedCalls()


def test_the_sample_is_good_for_every_platform() -> None:
    """No problem, a heartbeat for everybody, and what each platform gets besides."""
    found, problems = read_folder(SAMPLE_CONFIG)
    assert problems == []
    for platform, own in (("linux", "kernel_modules"), ("darwin", "launchd"), ("windows", "heartbeat")):
        answer = NodeConfiguration(found).config_for(NodeFacts("n", "n", platforms=frozenset({platform})), None)
        assert {"heartbeat", own} <= set(json.loads(answer.body)["schedule"])


# -- the manual


def _files_of_the_manual(heading: str) -> dict[str, str]:
    """The files that a section shows, each by the comment that is its first line."""
    manual = (Path(__file__).parent.parent / "docs" / "configuration.md").read_text("utf-8")
    section = manual.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return dict(re.findall(r"```\n# (\S+)\n(.*?)```", section, re.S))


def test_the_recipe_for_groups_does_what_it_says(tmp_path: Path) -> None:
    """Each node has exactly one pack of a group; a tenth has the new version, and keeps it as the share grows."""
    files = _files_of_the_manual("One group for each node, and a new version on a share first")
    assert len(files) == 5
    for name in ("default-3", "web-7", "db-2"):
        files[f"packs/{name}.yaml"] = f"queries: {{version: {{query: SELECT '{name}' AS version, interval: 3600}}}}"
    (tmp_path / "packs").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert check_folder(tmp_path) == []

    def versions(*tags: str) -> list[str]:
        served = NodeConfiguration(read_folder(tmp_path)[0])
        found = []
        for number in range(2000):
            facts = NodeFacts(f"{number:020x}", "n", tags=frozenset(tags), platforms=frozenset({"linux"}))
            packs = json.loads(served.config_for(facts, None).body)["packs"]
            assert set(packs) == {"group"}
            found.append(packs["group"]["queries"]["version"]["query"].split("'")[1])
        return found

    assert set(versions()) == {"default-3"}
    assert set(versions("group:db")) == {"db-2"}
    before = versions("group:web")
    assert set(before) == {"web-7", "web-8"}
    assert 140 < before.count("web-8") < 260
    assert versions("group:web", "group:db") == before
    next_one = tmp_path / "21-web-next.yaml"
    next_one.write_text(next_one.read_text().replace("percent: 10", "percent: 50"))
    after = versions("group:web")
    assert 900 < after.count("web-8") < 1100
    assert all(new == "web-8" for old, new in zip(before, after, strict=True) if old == "web-8")
    next_one.unlink()
    assert set(versions("group:web")) == {"web-7"}


def test_bodies_are_kept_as_long_as_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the one asked for longest ago goes; who has it already is told so without its being made again."""
    monkeypatch.setattr("osqtwist.outcomes.MOST_BYTES", 500)
    layers = [Layer(f"{number}", Target(tags=(f"{number}",)), {"options": {"a": number}}) for number in range(9)]
    made: list[Any] = []

    class Counted(NodeConfiguration):
        def _render(self, chosen: Chosen) -> bytes:
            made.append(chosen)
            return super()._render(chosen)

    served = Counted(layers)
    nodes = [NodeFacts(f"{number:020x}", "n", tags=frozenset({f"{number}"})) for number in range(9)]
    etags = [served.config_for(facts, "").etag for facts in nodes]
    assert len(set(etags)) == len(made) == 9
    assert all(served.config_for(facts, etag).is_unchanged for facts, etag in zip(nodes, etags, strict=True))
    assert len(made) == 9
    first = served.config_for(nodes[0], None)
    assert (first.etag, len(made)) == (etags[0], 10)
    assert (msgspec.json.decode(first.body)["options"]["a"], served.config_for(nodes[8], "").etag) == (0, etags[8])
    assert len(made) == 10
