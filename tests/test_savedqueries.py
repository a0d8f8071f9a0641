"""Saved queries: what operators keep for each other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from osqtwist.operator import Actor, Role
from tests.harness import InMemoryServer

SAVED = "/api/v1/queries/saved"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[InMemoryServer]:
    made = InMemoryServer(tmp_path)
    yield made
    made.stop()


def save(server: InMemoryServer, name: str = "users", code: int = 201, **more: Any) -> Any:
    found, row = server.operate(SAVED, {"name": name, "sql": "select uid from users", **more}, "POST")
    assert found == code, row
    return row


def test_a_query_is_kept_for_every_operator(server: InMemoryServer) -> None:
    """With who saved it and when, whom it is meant for, and what for."""
    server.operator = Actor("alice", Role.OPERATOR, "token")
    row = save(server, target={"where": "platform:linux"}, description="Who is there", discovery="select 1")
    assert (row["saved_by"], row["saved_at"]) == ("alice", server.reactor.seconds())
    assert (row["target"], row["description"], row["discovery"]) == (
        {"where": "platform:linux"},
        "Who is there",
        "select 1",
    )
    save(server, "a")
    server.operator = Actor("bob", Role.VIEWER, "token")
    assert [each["name"] for each in server.operate(SAVED)[1]["saved"]] == ["a", "users"]
    assert server.operate(f"{SAVED}?limit=1")[1]["next_offset"] == 1
    assert server.operate(f"{SAVED}/users") == (200, row)


def test_nobody_overwrites_anothers_by_accident(server: InMemoryServer) -> None:
    """A name that is taken is refused, unless whoever saves says so; then the new one counts, with its own words."""
    save(server, description="old")
    assert "there is a saved query 'users'" in save(server, code=409)["detail"]
    server.operator = Actor("bob", Role.OPERATOR, "token")
    row = save(server, sql="select 2", replace=True)
    assert (row["sql"], row["saved_by"], row["description"]) == ("select 2", "bob", "")
    assert server.operate(f"{SAVED}/users/forget", {}, "POST") == (200, {"name": "users", "forgotten": True})
    assert server.operate(f"{SAVED}/users/forget", {}, "POST")[0] == 404
    assert server.operate(f"{SAVED}/users")[0] == 404


def test_every_change_is_in_the_trail(server: InMemoryServer) -> None:
    """With the query itself, also that of somebody who may not."""
    save(server)
    server.operator = Actor("eve", Role.VIEWER, "token")
    save(server, code=403)
    server.operator = Actor("tester", Role.ADMIN, "socket")
    server.operate(f"{SAVED}/users/forget", {}, "POST")
    entries = server.operate("/api/v1/audit")[1]["entries"]
    assert [each["action"].rpartition("/")[2] for each in entries] == ["forget", "saved", "saved"]
    assert "select uid from users" in entries[2]["detail"]
    assert entries[1]["actor"] == "eve"


def test_what_nobody_could_ask_is_not_kept(server: InMemoryServer) -> None:
    """With the reason; nothing is stored."""
    orders: list[tuple[dict[str, Any], str]] = [
        ({"sql": "selec 1"}, "syntax error"),
        ({"sql": "select nobody from users"}, "no column nobody"),
        ({"sql": " \n"}, "sql"),
        ({"name": ""}, "name"),
        ({"name": "../x"}, "name"),
        ({"name": "a\n"}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"target": {"where": "colour:red"}}, "where"),
        ({"discovery": "drop table users"}, "DROP"),
        ({"saved_by": "x"}, "saved_by"),
    ]
    for order, words in orders:
        assert words in save(server, code=400, **order)["detail"], order
    assert server.operate(SAVED)[1] == {"saved": [], "next_offset": None}


def test_a_table_of_an_extension_can_be_kept(server: InMemoryServer) -> None:
    """What osquery's own tables cannot answer, when told not to look."""
    assert "no column" in save(server, sql="select x from users", code=400)["detail"]
    save(server, sql="select x from users", check=False)
