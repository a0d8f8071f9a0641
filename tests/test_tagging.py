"""Tags by rules and by tag queries, and where each tag of a node comes from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from osqtwist.configfolder import ConfigFolder, check_folder, read_folder
from osqtwist.layers import BadConfiguration
from osqtwist.node import CertificateRecord, Node
from osqtwist.tagging import QUERY_PREFIX, Tagging, parse_tagging
from tests.harness import InMemoryServer

RULES = """
[[tag_rules]]
tag = "prod"
where = "cn:*.prod.example and platform:linux"

[[tag_rules]]
tag = "docker-prod"
where = "tag:has-docker and not tag:lab"

[[tag_rules]]
tag = "of-a-rule"
where = "tag:prod"

[[tag_queries]]
tag = "has-docker"
sql = "select 1 from processes where name = 'dockerd' -- or podman"
interval = 600
where = "platform:linux and not tag:no-queries"
"""


def a_node(**more: Any) -> Node:
    certificate = CertificateRecord("web-1.prod.example", "CN=ca", "1f", "ab", 2e9, "P-256", ("ou:x",))
    fields: dict[str, Any] = {"node_id": "0" * 20, "name": "n", "proof": "certificate", "certificate": certificate}
    return Node(**{**fields, "platform_type": "9", **more})


def snapshot(tag: str = "has-docker", found: Any = "1", **more: Any) -> dict[str, Any]:
    line = {"snapshot": [{"found": found}], "action": "snapshot", "name": QUERY_PREFIX + tag, "unixTime": 1}
    return {**line, **more}


def findings(tagging: Tagging, *lines: Any) -> dict[str, bool]:
    raw = [msgspec.Raw(json.dumps(line).encode()) for line in lines]
    return tagging.findings(json.dumps(lines).encode(), raw)


# -- what a node has


def test_every_tag_says_where_it_comes_from() -> None:
    """Operators, secret, certificate, tag query, rule: all that give it."""
    node = a_node(tags=("blue", "prod"), given_tags=("blue",), found_tags=("has-docker", "gone"))
    assert parse_tagging(RULES).sources(node) == {
        "blue": ["operator", "secret"],
        "docker-prod": ["rule"],
        "has-docker": ["query"],
        "of-a-rule": ["rule"],
        "ou:x": ["certificate"],
        "prod": ["secret", "rule"],
    }


def test_rules_do_not_see_what_rules_give() -> None:
    """So their order is no matter, and nothing goes round in circles; what tag queries give they see."""
    tagging = parse_tagging(RULES)
    facts = tagging.applied(a_node(found_tags=("has-docker",)).facts())
    assert facts.tags == {"ou:x", "prod", "has-docker", "docker-prod"}
    assert tagging.applied(facts) == facts
    assert Tagging().applied(facts).tags == {"ou:x"}


def test_a_found_tag_counts_where_its_query_is_asked() -> None:
    """A node that the query no longer means loses the tag; a rule that depends on it goes too."""
    tagging = parse_tagging(RULES)
    asked = a_node(found_tags=("has-docker",))
    for other in (a_node(found_tags=("has-docker",), given_tags=("no-queries",)), a_node(platform_type="2")):
        assert tagging.applied(asked.facts()).tags >= {"has-docker", "docker-prod"}
        assert not tagging.applied(other.facts()).tags & {"has-docker", "docker-prod"}


def test_a_tag_query_does_not_see_what_follows_from_others() -> None:
    """One that asks only nodes without its own tag would lose the tag as soon as it is given."""
    tagging = parse_tagging('[[tag_queries]]\ntag = "a"\nsql = "select 1"\nwhere = "not tag:a"')
    node = a_node(found_tags=("a",))
    facts = tagging.applied(node.facts())
    assert "a" in facts.tags
    assert all(layer.is_for(facts) for layer in tagging.layers())
    assert not any(layer.is_for(tagging.applied(a_node(given_tags=("a",)).facts())) for layer in tagging.layers())


# -- what a node says


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([snapshot()], {"has-docker": True}),
        ([snapshot(found="0")], {"has-docker": False}),
        ([snapshot(found=1, numerics=True)], {"has-docker": True}),
        ([snapshot(), {"a": 1}, snapshot(found="0")], {"has-docker": False}),
        ([snapshot(snapshot=[], columns={"found": "1"})], {"has-docker": True}),
        ([snapshot(snapshot=[], columns={"found": "0"})], {"has-docker": False}),
        ([snapshot(snapshot=[])], {}),
        ([snapshot("other")], {}),
        ([snapshot(action="added")], {}),
        ([snapshot(name="has-docker", x=QUERY_PREFIX)], {}),
        ([{"name": "x", "columns": {"text": QUERY_PREFIX}}], {}),
        ([{"name": QUERY_PREFIX + "has-docker", "snapshot": "x"}], {}),
        ([[QUERY_PREFIX], QUERY_PREFIX, {}], {}),
    ],
)
def test_lines_of_tag_queries(lines: list[Any], expected: dict[str, bool]) -> None:
    """As a snapshot, and row by row (logger_snapshot_event_type); the newest counts; all else is passed over."""
    assert findings(parse_tagging(RULES), *lines) == expected


def test_without_tag_queries_no_line_is_looked_at() -> None:
    """Not even searched."""

    class Untouched:
        def __contains__(self, text: object) -> bool:
            raise AssertionError

    assert Tagging().findings(Untouched(), []) == {}  # type: ignore[arg-type]


# -- the file


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[[tag_rules]]\ntag = 1", "tag"),
        ('[[tag_rules]]\ntag = "a b"\nwhere = ""', "tag"),
        ('[[tag_rules]]\ntag = "a"', "where"),
        ('[[tag_rules]]\ntag = "a"\nwhere = "nope:1"', "tag_rules 1: where is not an expression"),
        ('[[tag_queries]]\ntag = "a"\nsql = ""', "sql"),
        ('[[tag_queries]]\ntag = "a"\nsql = "select 1"\ninterval = 0', "604800"),
        ('[[tag_queries]]\ntag = "a-counter"\nsql = "select 1"', "osquery keeps data of its own"),
        ('[[tag_queries]]\ntag = "a"\nsql = "x"\n' * 2, "there is a tag query for a already"),
        ('rules = "x"', "rules"),
        ("not toml", "line 1"),
    ],
)
def test_a_bad_file_is_refused(text: str, problem: str, tmp_path: Path) -> None:
    """With one sentence that says what is wrong; the check of a folder says it too."""
    with pytest.raises(BadConfiguration, match=problem) as refused:
        parse_tagging(text)
    assert str(refused.value).startswith("tags.toml")
    (tmp_path / "00.conf").write_text("{}")
    (tmp_path / "tags.toml").write_text(text)
    assert [each.severity for each in check_folder(tmp_path)] == ["error"]


def test_the_sql_of_tag_queries_is_checked(tmp_path: Path) -> None:
    """With that of the layers."""
    (tmp_path / "00.conf").write_text("{}")
    (tmp_path / "tags.toml").write_text(RULES)
    assert check_folder(tmp_path) == []
    (tmp_path / "tags.toml").write_text(RULES.replace("name =", "nmae ="))
    (found,) = check_folder(tmp_path)
    assert "nmae" in str(found)
    assert str(found).startswith("tags.toml:has-docker")


def test_layers_keep_off_the_names_of_tag_queries(tmp_path: Path) -> None:
    """A query of that name would be replaced."""
    (tmp_path / "00.conf").write_text('{"schedule": {"osqtwist_tag:x": {"query": "select 1"}}}')
    with pytest.raises(BadConfiguration, match="tag queries have such names"):
        read_folder(tmp_path)


# -- a server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[InMemoryServer]:
    found = InMemoryServer(tmp_path)
    found.configuration.replace(read_folder_of(tmp_path / "c", RULES), parse_tagging(RULES))
    yield found
    found.stop()


def read_folder_of(folder: Path, tags: str) -> Any:
    folder.mkdir()
    (folder / "00.conf").write_text('{"options": {"custom_a": 1}}')
    (folder / "10.conf").write_text(
        '{"osqtwist": {"target": {"tags": ["docker-prod"]}}, "options": {"custom_docker": 1}}'
    )
    (folder / "tags.toml").write_text(tags)
    return read_folder(folder)[0]


def log(server: InMemoryServer, key: str, *lines: Any) -> None:
    body = {"node_key": key, "log_type": "result", "data": list(lines)}
    assert server.ask("/log", body) == (200, {})


def test_a_tag_comes_with_rows_and_goes_without(server: InMemoryServer) -> None:
    """It targets layers, lists nodes and goes with log batches; the store is told when it changes, and only then."""
    key = server.enroll("h")
    assert server.ask("/config", {"node_key": key})[1]["schedule"] == {
        "osqtwist_tag:has-docker": {
            "query": "SELECT EXISTS (select 1 from processes where name = 'dockerd' -- or podman\n) AS found;",
            "interval": 600,
            "snapshot": True,
        }
    }
    log(server, key, {"n": 1}, snapshot())
    calls = server.outages["nodes"].calls
    assert calls.count("tag_found") == 1
    server.turn(3)
    _, node = server.operate("/api/v1/nodes/h")
    assert node["tag_sources"] == {"docker-prod": ["rule"], "has-docker": ["query"], "tagged": ["secret"]}
    _, listed = server.operate("/api/v1/nodes?where=tag:docker-prod%20and%20tag:has-docker")
    assert [each["name"] for each in listed["nodes"]] == ["h"]
    assert server.ask("/config", {"node_key": key})[1]["options"]["custom_docker"] == 1
    for number in range(3):
        log(server, key, snapshot(unixTime=number + 2))
    assert calls.count("tag_found") == 1
    log(server, key, snapshot(found="0"))
    assert calls.count("tag_found") == 2
    assert server.operate("/api/v1/nodes/h")[1]["tags"] == ["tagged"]
    assert "custom_docker" not in server.ask("/config", {"node_key": key})[1]["options"]
    server.ask("/log", {"node_key": key, "log_type": "result", "data": []})


def test_other_lines_ask_the_store_nothing_more(server: InMemoryServer) -> None:
    """Who logs anything else is looked up no more often."""
    key = server.enroll("h")
    log(server, key, {"n": 1})
    before = list(server.outages["nodes"].calls)
    log(server, key, {"n": 2}, snapshot("not-ours"), snapshot(found="0"))
    assert server.outages["nodes"].calls == before


def test_lines_are_kept_when_tags_cannot_be(server: InMemoryServer) -> None:
    """A store that takes the lines and not the tag: the post succeeds, the tag comes with the next result."""
    key = server.enroll("h")
    log(server, key, {"n": 1})
    server.outages["nodes"].is_down = True
    log(server, key, snapshot(unixTime=1))
    server.outages["nodes"].is_down = False
    assert server.operate("/api/v1/nodes/h")[1]["tags"] == ["tagged"]
    log(server, key, snapshot(unixTime=2))
    assert "has-docker" in server.operate("/api/v1/nodes/h")[1]["tags"]


def test_new_rules_count_at_the_next_request_without_the_store(server: InMemoryServer, tmp_path: Path) -> None:
    """They are evaluated in memory; a query that is gone takes its tag along."""
    key = server.enroll("h")
    log(server, key, snapshot())
    assert server.ask("/config", {"node_key": key})[1]["options"]["custom_docker"] == 1
    before = list(server.outages["nodes"].calls)
    tagging = parse_tagging('[[tag_rules]]\ntag = "docker-prod"\nwhere = "host:h"')
    server.configuration.replace(read_folder(tmp_path / "c")[0], tagging)
    assert server.ask("/config", {"node_key": key})[1]["options"]["custom_docker"] == 1
    server.configuration.replace(read_folder(tmp_path / "c")[0])
    assert "custom_docker" not in server.ask("/config", {"node_key": key})[1]["options"]
    assert server.outages["nodes"].calls == before
    assert server.operate("/api/v1/nodes/h")[1]["tags"] == ["tagged"]


def test_a_config_is_put_together_once_for_each_outcome(server: InMemoryServer) -> None:
    """Not once for each set of tags."""
    for number in range(20):
        key = server.enroll(f"h{number}")
        server.await_(
            server.stores.nodes.tag(server.operate(f"/api/v1/nodes/h{number}")[1]["node"], [f"t{number}"], [])
        )
        server.await_(server.stores.signals.publish("nodes", ""))
        server.ask("/config", {"node_key": key})
    assert len(server.configuration._outcomes) == 1


def test_the_folder_is_watched(server: InMemoryServer, tmp_path: Path) -> None:
    """A change of the file is served; one that is bad changes nothing but the log."""
    folder = ConfigFolder(server.reactor, tmp_path / "c")
    assert folder.configuration.tagging == parse_tagging(RULES)
    (tmp_path / "c" / "tags.toml").write_text("rubbish")
    folder.check()
    assert folder.configuration.tagging == parse_tagging(RULES)
    (tmp_path / "c" / "tags.toml").unlink()
    folder.check()
    assert folder.configuration.tagging == Tagging()
