"""What is answered while somebody writes a query: how many nodes, which words, what is wrong; and who is silent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osqtwist import census
from osqtwist.expression import parse, term_for
from osqtwist.operator import Actor, Role
from osqtwist.sqlwords import completions
from osqtwist.targeting import VOCABULARY
from osqtwist.web.targets import WordsWanted
from tests.harness import InMemoryServer

QUERIES, TARGETS = "/api/v1/queries", "/api/v1/targets"
LAYERS = {
    "00.conf": '{"options": {"verbose": true}, "schedule": {"a": {"query": "select 1", "interval": 60}}}',
    "10.conf": '{"osqtwist": {"target": {"tags": ["prod"]}, "description": "Prod"},'
    ' "packs": {"p": {"queries": {"b": {"query": "select 1", "interval": 60}}}}}',
    "20.conf": '{"osqtwist": {"target": {"nodes": ["host-1"]}}}',
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[InMemoryServer]:
    made = InMemoryServer(tmp_path, LAYERS, hold=0.0)
    yield made
    made.stop()


def fleet(server: InMemoryServer, *hosts: str, tags: tuple[str, ...] = ()) -> dict[str, str]:
    """Nodes that were heard of just now, and their keys."""
    keys = {host: server.enroll(host) for host in hosts}
    for host, key in keys.items():
        assert server.ask("/config", {"node_key": key})[0] == 200
        if tags:
            assert server.operate(f"/api/v1/nodes/{host}/tags", {"add": tags}, "POST")[0] == 200
    return keys


def count(server: InMemoryServer, **target: Any) -> Any:
    code, found = server.operate(f"{TARGETS}/count", target, "POST")
    assert code == 200, found
    return found


def test_the_nodes_of_a_target_are_counted(server: InMemoryServer) -> None:
    """And those of them that are online; those that are refused answer nothing, so they are not counted."""
    fleet(server, "host-1", "host-2", tags=("prod",))
    server.turn(100)
    fleet(server, "host-3", "host-4")
    assert count(server) == {"nodes": 4, "online": 2, "looked_at": 4, "known": 4}
    for target, nodes, online in (
        ({"where": "tag:prod"}, 2, 0),
        ({"where": "not tag:prod"}, 2, 2),
        ({"where": "tag:prod or name:host-3"}, 3, 1),
        ({"nodes": ["host-*"], "tags": ["prod"]}, 2, 0),
        ({"platforms": ["windows"]}, 0, 0),
        ({"percent": 0}, 0, 0),
    ):
        found = count(server, **target)
        assert (found["nodes"], found["online"]) == (nodes, online), target
    server.operate("/api/v1/nodes/host-3/revoke", {}, "POST")
    server.turn(2)
    assert count(server)["nodes"] == 3


def test_who_types_does_not_have_every_node_read_each_time(server: InMemoryServer) -> None:
    """Within a second nothing is read anew; a change of a tag is seen after it."""
    fleet(server, "host-1")
    count(server)
    reads = server.outages["nodes"].calls.count("seen_since")
    for _ in range(5):
        count(server, where="tag:prod")
    assert server.outages["nodes"].calls.count("seen_since") == reads
    server.operate("/api/v1/nodes/host-1/tags", {"add": ["prod"]}, "POST")
    server.turn(1)
    assert count(server, where="tag:prod")["nodes"] == 1
    server.turn(1)
    server.down()
    assert server.operate(f"{TARGETS}/count", {}, "POST")[0] == 503
    server.down(False)
    assert count(server)["nodes"] == 1


def test_no_more_nodes_than_so_many_are_looked_at(server: InMemoryServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those heard of last; and that it is so is said."""
    monkeypatch.setattr(census, "MOST_COUNTED", 2)
    fleet(server, "host-1", "host-2")
    server.turn(100)
    fleet(server, "host-3")
    assert count(server) == {"nodes": 2, "online": 1, "looked_at": 2, "known": 3}


def test_words_of_the_fleet_complete_an_expression(server: InMemoryServer) -> None:
    """Those of most nodes first; each as it has to be written."""
    fleet(server, "host-1", "host-2", tags=("prod", "Paris"))
    fleet(server, 'ho"st (3)', tags=("prod",))

    def words(key: str, begun: str = "", **more: Any) -> Any:
        path = f"{TARGETS}/words?key={key}&begun={begun}"
        return server.operate(path + "".join(f"&{name}={value}" for name, value in more.items()))

    assert words("tag", "p")[1]["words"] == [
        {"value": "prod", "nodes": 3, "term": "tag:prod"},
        {"value": "Paris", "nodes": 2, "term": "tag:paris"},
    ]
    assert words("tag", "p", limit=1)[1]["words"][0]["value"] == "prod"
    assert words("name", "HOST-")[1]["words"][0]["term"] == "name:host-1"
    assert words("name", "ho%22")[1]["words"][0]["term"] == r'name:"ho\"st (3)"'
    assert words("colour")[0] == 400
    keys = WordsWanted.__annotations__["key"]
    assert VOCABULARY.keys == {key for key in VOCABULARY.keys if f'"{key}"' in str(keys) or words(key)[0] == 200}


@given(st.text(min_size=1, max_size=40))
def test_a_term_means_the_value_it_was_made_of(value: str) -> None:
    """Whatever a node calls itself; nothing in it becomes another part of the expression."""
    if len(value.lower()) != len(value):
        return  # A letter that has no single small one.
    expression = parse(term_for("name", value), VOCABULARY)
    assert expression.matches(lambda key: (value,))
    assert not expression.matches(lambda key: (value + "x",))


def test_a_draft_is_checked_and_asked_of_nobody(server: InMemoryServer) -> None:
    """Each problem with its place; and whether somebody would have to approve, for whoever asks."""
    server.operator = Actor("alice", Role.OPERATOR, "token")

    def check(sql: str, **more: Any) -> Any:
        code, found = server.operate(f"{QUERIES}/check", {"sql": sql, **more}, "POST")
        assert code == 200, found
        return found

    assert check("select uid from users where uid = 0") == {
        "sql": [],
        "discovery": [],
        "dangers": [],
        "needs_approval": False,
    }
    (problem,) = check("select\n uidd from users where uid = 0")["sql"]
    assert (problem["severity"], problem["line"], problem["column"]) == ("error", 2, 2)
    assert "did you mean" in problem["text"]
    problems = check("select label from launchd", target={"platforms": ["linux"]})["sql"]
    assert {each["severity"] for each in problems} == {"warning"}
    found = check("select 1", discovery="selec")
    assert (found["sql"], len(found["discovery"])) == ([], 1)
    assert check("")["sql"] == []
    assert check("-- no more")["sql"][0]["text"] == "there is no SQL in it"
    found = check("select * from curl where url = 'http://x'")
    assert (found["dangers"], found["needs_approval"]) == (["the table curl"], True)
    server.operator = Actor("root", Role.ADMIN, "socket")
    assert check("select * from curl where url = 'http://x'")["needs_approval"] is False
    assert server.operate(QUERIES)[1]["queries"] == []
    assert not [each for each in server.operate("/api/v1/audit")[1]["entries"] if "check" in each["action"]]


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ("select p.", "pid"),
        ("select pid from pro", "processes"),
        ("select u", "uid"),
        ("select 'a u", None),
        ('select "a u', None),
        ("select 1 -- u", None),
        ("select 1 /* u", None),
        ("select 1 /* u */ wh", "where"),
        ("select 'it''s', u", "uid"),
        ("select 1 -- u\n, u", "uid"),
    ],
)
def test_nothing_is_offered_inside_texts_and_comments(before: str, expected: str | None) -> None:
    """There anything can come next."""
    words, _ = completions(f"{before} from processes p, users", before)
    assert (expected in {word.text for word in words}) if expected else words == []


def test_words_of_sql_are_offered_with_what_they_are(server: InMemoryServer) -> None:
    """Columns of the tables that are named come first, with their type."""
    server.operator = Actor("eve", Role.VIEWER, "token")
    order = {"sql": "select u from users", "at": 8}
    code, found = server.operate(f"{QUERIES}/complete", order, "POST")
    assert (code, found["begun"]) == (200, 1)
    assert found["words"][0] == {"text": "uid", "kind": "column", "says": "bigint of users"}
    assert {each["kind"] for each in found["words"]} == {"column", "table", "keyword"}
    _, schema = server.operate(f"{QUERIES}/schema")
    (users,) = [table for table in schema["tables"] if table["name"] == "users"]
    assert users["columns"][0]["name"] == "uid"


def test_who_has_not_answered_is_told_of(server: InMemoryServer) -> None:
    """Those that are online first; nobody who was not meant."""
    fleet(server, "away")
    server.turn(100)
    keys = fleet(server, "host-1", "host-2")
    fleet(server, "other", tags=("other",))
    _, query = server.operate(QUERIES, {"sql": "select 1", "target": {"where": "not tag:other"}}, "POST")
    path = f"{QUERIES}/{query['query_id']}/silent"
    _, found = server.operate(path)
    assert (found["nodes"], found["count"], found["online"]) == (3, 3, 2)
    assert [each["name"] for each in found["silent"]] == ["host-1", "host-2", "away"]
    assert query["query_id"] in server.ask("/distributed/read", {"node_key": keys["host-1"]})[1]["queries"]
    body = {"node_key": keys["host-1"], "queries": {query["query_id"]: [{}]}, "statuses": {query["query_id"]: 0}}
    assert server.ask("/distributed/write", body)[0] == 200
    _, found = server.operate(f"{path}?limit=1")
    assert (found["count"], found["online"], found["next_offset"]) == (2, 1, 1)
    assert [each["name"] for each in found["silent"]] == ["host-2"]
    assert [each["name"] for each in server.operate(f"{path}?limit=1&offset=1")[1]["silent"]] == ["away"]
    assert server.operate(f"{QUERIES}/q1/silent")[0] == 404


def test_layers_are_shown_with_how_many_nodes_get_them(server: InMemoryServer) -> None:
    """And what each says; a layer for one node alone is counted by name."""
    fleet(server, "host-1", "host-2", tags=("prod",))
    server.turn(100)
    fleet(server, "host-3")
    code, found = server.operate("/api/v1/config/layers")
    assert (code, found["nodes"]) == (200, 3)
    counts = [(each["layer"], each["nodes"], each["online"]) for each in found["layers"]]
    assert counts == [("00.conf", 3, 1), ("10.conf", 2, 0), ("20.conf", 1, 0)]
    base, prod, _ = found["layers"]
    assert (base["target"], base["queries"], base["options"], base["packs"]) == ({}, ["a"], ["verbose"], [])
    assert (prod["description"], prod["packs"]) == ("Prod", [{"pack": "p", "file": None, "queries": ["b"]}])
    assert prod["target"] == {"tags": ["prod"], "salt": "10.conf"}
