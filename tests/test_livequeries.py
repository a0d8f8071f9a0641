"""Distributed queries for people: when they open, who approves, what is kept of results, how these are had."""

from __future__ import annotations

import csv
import datetime
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from osqtwist import liveresults
from osqtwist.livequery import LONGEST
from osqtwist.liverules import LiveRules
from osqtwist.operator import Actor, Role
from tests.harness import InMemoryServer, result_of

QUERIES = "/api/v1/queries"
ALICE, BOB = Actor("alice", Role.OPERATOR, "token"), Actor("bob", Role.OPERATOR, "token")
ROOT = Actor("root", Role.ADMIN, "socket")
DANGEROUS = "select * from curl where url = 'http://example.org/'"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[InMemoryServer]:
    found = InMemoryServer(tmp_path, hold=0.0)
    yield found
    found.stop()


def issue(server: InMemoryServer, sql: str = "select 1", actor: Actor = ROOT, code: int = 201, **more: Any) -> Any:
    server.operator = actor
    found, answer = server.operate(QUERIES, {"sql": sql, **more}, "POST")
    assert found == code, answer
    return answer


def work_of(server: InMemoryServer, key: str) -> dict[str, str]:
    _, answer = server.ask("/distributed/read", {"node_key": key})
    found: dict[str, str] = answer.get("queries", {})
    return found


def answer(server: InMemoryServer, key: str, query_id: str, rows: Any, **more: Any) -> None:
    body = {"node_key": key, "queries": {query_id: rows}, "statuses": {query_id: 0}}
    assert server.ask("/distributed/write", {**body, **more}) == (200, {})


def asked(server: InMemoryServer, query_id: str, *hosts: str, rows: Any = None) -> None:
    """Nodes take a query and answer it."""
    for host in hosts:
        key = server.enroll(host)
        assert query_id in work_of(server, key)
        answer(server, key, query_id, [{"a": host}] if rows is None else rows)


# -- from when, until when


def test_a_query_may_open_later_and_end_at_a_moment(server: InMemoryServer) -> None:
    """As Unix times, or as dates; how long it lasts counts from its opening."""
    now = server.reactor.seconds()
    key = server.enroll("h")
    later = issue(server, **{"from": now + 100, "expires_in": 50})
    assert (later["state"], later["opens_at"], later["expires_at"]) == ("scheduled", now + 100, now + 150)
    dated = issue(server, until="2099-01-01T00:00:00+01:00", code=400)
    assert "two years" in dated["detail"]
    date = datetime.datetime.fromtimestamp(now - 1, datetime.timezone(datetime.timedelta(hours=2)))
    until = issue(server, **{"from": date.isoformat(), "until": now + 7000})
    assert until["expires_at"] == now + 7000
    assert until["state"] == "open"
    server.turn(99)
    assert work_of(server, key) == {until["query_id"]: "select 1"}
    server.turn(2)
    assert work_of(server, key) == {later["query_id"]: "select 1"}
    server.turn(50)
    assert server.operate(f"{QUERIES}/{later['query_id']}")[1]["state"] == "expired"


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ({"from": 1_790_000_100, "until": 1_790_000_100}, "over before it opens"),
        ({"until": 1}, "over before it opens"),
        ({"from": 1_990_000_000}, "two years"),
        ({"expires_in": 0}, "expires_in"),
        ({"expires_in": LONGEST + 1}, "expires_in"),
        ({"keep_for": -1}, "keep_for"),
        ({"from": "2026-09-21T16:53:21"}, "from"),
        ({"from": "tomorrow"}, "from"),
        ({"sql": " "}, "sql is empty"),
        ({"sql": "selec 1"}, "syntax error"),
        ({"created_by": "somebody else"}, "created_by"),
    ],
)
def test_what_cannot_be_meant_is_refused(server: InMemoryServer, order: dict[str, Any], expected: str) -> None:
    """With the reason."""
    found = server.operate(QUERIES, {"sql": "select 1", **order}, "POST")
    assert found[0] == 400
    assert expected in found[1]["detail"]


def test_a_query_that_opens_later_is_not_run(server: InMemoryServer) -> None:
    """Nobody waits for it."""
    order = {"sql": "select 1", "from": server.reactor.seconds() + 5}
    code, found = server.operate(f"{QUERIES}/run", order, "POST")
    assert (code, "issue it" in found["detail"]) == (400, True)


def test_a_share_of_the_target_is_the_same_each_time(server: InMemoryServer) -> None:
    """A quarter of the nodes, chosen by a hash; another salt chooses others."""
    keys = {number: server.enroll(f"h{number}") for number in range(60)}
    first, again, other = (
        issue(server, target={"percent": 25, "salt": salt})["query_id"] for salt in ("", "", "canary")
    )
    found = {number: work_of(server, key) for number, key in keys.items()}
    shares = [{number for number, work in found.items() if query in work} for query in (first, again, other)]
    assert 5 < len(shares[0]) < 27
    assert shares[0] == shares[1] != shares[2]


def test_results_are_kept_as_long_and_as_many_as_the_rules_say(tmp_path: Path) -> None:
    """Or as long as the query says."""
    rules = LiveRules(keep_days=2, max_results_rows=3, max_results_mib=1)
    server = InMemoryServer(tmp_path, hold=0.0, live=rules)
    query = issue(server, expires_in=60)
    assert query["kept_until"] == query["expires_at"] + 2 * 86400
    assert issue(server, expires_in=60, keep_for=90)["kept_until"] == query["expires_at"] + 90
    asked(server, query["query_id"], "one", "two", rows=[{"a": "1"}, {"a": "2"}])
    found = server.operate(f"{QUERIES}/{query['query_id']}")[1]
    assert (found["answered"], found["results_rows"]) == (2, 2)
    lines = server.operate(f"{QUERIES}/{query['query_id']}/results")[1]
    assert [(line["row_count"], line["rows_dropped"], len(line["rows"])) for line in lines] == [
        (2, False, 2),
        (2, True, 0),
    ]
    server.stop()


# -- what it cost


def test_a_query_says_what_it_cost(server: InMemoryServer) -> None:
    """Median, most and whose it was, of what nodes said; of old nodes the time until their answer."""
    query_id = issue(server)["query_id"]
    for number, host in enumerate(("a", "b", "c")):
        key = server.enroll(host)
        assert query_id in work_of(server, key)
        server.turn(number + 1)
        cost = {"wall_time_ms": 10 * number, "user_time": 1, "system_time": 0, "memory": 100, "odd": True}
        answer(server, key, query_id, [], **({"stats": {query_id: cost}} if host != "a" else {}))
    cost = server.operate(f"{QUERIES}/{query_id}")[1]["cost"]
    assert cost["wall_time_ms"] == {"nodes": 2, "total": 30, "median": 15, "max": 20, "max_node": "c"}
    assert cost["memory"]["total"] == 200
    assert cost["elapsed"] == {"nodes": 3, "median": 2.0, "max": 3.0, "max_node": "c"}
    lines = server.operate(f"{QUERIES}/{query_id}/results")[1]
    assert [line["elapsed"] for line in lines] == [1.0, 2.0, 3.0]
    assert lines[1]["stats"] == {"wall_time_ms": 10, "user_time": 1, "system_time": 0, "memory": 100}
    assert server.operate(f"{QUERIES}/{issue(server)['query_id']}")[1]["cost"] == {}


# -- approval


def test_a_dangerous_query_waits_for_somebody_else(server: InMemoryServer) -> None:
    """It is offered to nobody before; who issued it cannot approve; both are recorded; its time counts from then."""
    key = server.enroll("h")
    query = issue(server, DANGEROUS, ALICE, expires_in=30)
    assert (query["state"], query["dangers"], query["created_by"]) == ("waiting", ["the table curl"], "alice")
    path = f"{QUERIES}/{query['query_id']}"
    assert work_of(server, key) == {}
    code, found = server.operate(f"{path}/approve", {}, "POST")
    assert (code, "somebody else must" in found["detail"]) == (403, True)
    server.turn(3600)
    assert work_of(server, key) == {}
    server.operator = BOB
    code, found = server.operate(f"{path}/approve", {}, "POST")
    now = server.reactor.seconds()
    assert code == 200
    assert (found["state"], found["approved_by"], found["approved_at"]) == ("open", "bob", now)
    assert found["expires_at"] == now + 30
    assert list(work_of(server, key)) == [query["query_id"]]
    assert server.operate(f"{path}/approve", {}, "POST")[0] == 409
    entries = server.operate("/api/v1/audit")[1]["entries"]
    assert {(entry["actor"], entry["action"].rsplit("/", 1)[-1]) for entry in entries} >= {
        ("alice", "queries"),
        ("bob", "approve"),
    }


def test_who_approves_must_be_an_operator(server: InMemoryServer) -> None:
    """Looking is not enough; and there must be such a query."""
    query = issue(server, DANGEROUS, ALICE)
    server.operator = Actor("carol", Role.VIEWER, "token")
    assert server.operate(f"{QUERIES}/{query['query_id']}/approve", {}, "POST")[0] == 403
    server.operator = BOB
    assert server.operate(f"{QUERIES}/q123/approve", {}, "POST")[0] == 404
    assert server.operate(f"{QUERIES}/{issue(server)['query_id']}/approve", {}, "POST")[0] == 409


def test_a_query_that_waits_can_be_called_off_and_does_not_wait_for_ever(server: InMemoryServer) -> None:
    """A day, if nothing else is said."""
    server.enroll("h")
    one, two = issue(server, DANGEROUS, ALICE), issue(server, DANGEROUS, ALICE)
    server.operate(f"{QUERIES}/{one['query_id']}/cancel", {}, "POST")
    server.operator = BOB
    assert server.operate(f"{QUERIES}/{one['query_id']}/approve", {}, "POST")[0] == 409
    server.turn(86401)
    code, found = server.operate(f"{QUERIES}/{two['query_id']}/approve", {}, "POST")
    assert (code, "is expired" in found["detail"]) == (409, True)


def test_a_scheduled_query_that_is_approved_opens_at_its_time(server: InMemoryServer) -> None:
    """Approved before, it is scheduled; approved after, it opens at once."""
    now = server.reactor.seconds()
    one, two = (issue(server, DANGEROUS, ALICE, **{"from": now + 100, "expires_in": 50}) for _ in range(2))
    server.operator = BOB
    found = server.operate(f"{QUERIES}/{one['query_id']}/approve", {}, "POST")[1]
    assert (found["state"], found["expires_at"]) == ("scheduled", now + 150)
    server.turn(200)
    found = server.operate(f"{QUERIES}/{two['query_id']}/approve", {}, "POST")[1]
    assert (found["state"], found["expires_at"]) == ("open", now + 250)


def test_an_admin_needs_nobody_unless_the_rules_say_so(tmp_path: Path) -> None:
    """Then admins wait as all others do."""
    for admins_wait, state in ((False, "open"), (True, "waiting")):
        server = InMemoryServer(tmp_path, live=LiveRules(admins_need_approval=admins_wait))
        query = issue(server, DANGEROUS)
        assert (query["state"], query["dangers"]) == (state, ["the table curl"])
        server.stop()


def test_a_run_that_needs_approval_says_so_and_stays(server: InMemoryServer) -> None:
    """The stream ends at once, the query waits."""
    server.operator = ALICE
    code, line = server.operate(f"{QUERIES}/run", {"sql": DANGEROUS}, "POST")
    assert (code, line["type"], line["dangers"]) == (200, "waiting", ["the table curl"])
    assert server.operate(f"{QUERIES}/{line['query_id']}")[1]["state"] == "waiting"


@pytest.mark.parametrize(
    ("sql", "dangers"),
    [
        ("select * from users join processes using (uid)", 0),
        ("with x as (select url from curl) select * from x", 1),
        ("select carve(path) from file where path = '/etc/passwd'", 1),
        ("select sleep(1000)", 1),
        ("select * from hidden", 1),
        ("select * from harmless_view", 0),
        ("select * from ours", 1),
        ("select * from acme_things", 0),
        ("select * from made", 0),
        ("select load_extension('x')", 1),
        ("drop table users", 1),
        ("select 1; select * from curl", 1),
        ("select * from CuRl", 1),
        ("select 1 from yara where path = '/x'", 1),
        ("select " + "(" * 200 + "1" + ")" * 200, 1),
    ],
)
def test_what_is_dangerous(sql: str, dangers: int) -> None:
    """What is listed, by any name and through views, and what cannot be understood or nobody knows."""
    rules = LiveRules(dangerous_tables=("curl", "carves", "Yara"), extension_tables=("acme_*",))
    views = {"hidden": "select * from curl", "harmless_view": "select * from users"}
    found = rules.dangers_of([sql], extra_tables={"made": ["a"]}, views=views)
    assert len(found) == dangers, found


def test_the_discovery_query_and_views_of_the_configuration_are_looked_at_too(tmp_path: Path) -> None:
    """Harm may come from there."""
    layer = '{"views": {"v": "select * from curl"}, "schedule": {}}'
    server = InMemoryServer(tmp_path, {"00.conf": layer})
    assert issue(server, "select * from v", ALICE)["dangers"] == ["the table curl"]
    assert issue(server, "select 1", ALICE, discovery=DANGEROUS)["state"] == "waiting"
    assert issue(server, "selec t", ALICE, check=False)["state"] == "waiting"
    server.stop()


# -- results


def test_results_can_be_had_as_files(server: InMemoryServer) -> None:
    """CSV with all columns and the node first, safe for spreadsheets; JSON; JSON lines; all of the same results."""
    query_id = issue(server)["query_id"]
    asked(server, query_id, "one", rows=[{"a": "1", "b": "=cmd|' /C calc'!A0"}, {"a": "-3.5", "b": 'x,"y"\nz'}])
    asked(server, query_id, "=two", rows=[{"c": "@SUM(1)", "a": "+1 555"}, "no object", {}])
    asked(server, query_id, "none", rows=[])
    path = f"{QUERIES}/{query_id}/results"
    code, headers, content = server.finish(server.begin_operation(f"{path}?format=csv"))
    assert code == 200
    assert headers.getRawHeaders("Content-Type") == ["text/csv; charset=utf-8; header=present"]
    assert headers.getRawHeaders("Content-Disposition") == [f'attachment; filename="{query_id}.csv"']
    assert list(csv.reader(io.StringIO(content.decode(), newline=""))) == [
        ["node", "a", "b", "c"],
        ["one", "1", "'=cmd|' /C calc'!A0", ""],
        ["one", "-3.5", 'x,"y"\nz', ""],
        ["'=two", "'+1 555", "", "'@SUM(1)"],
        ["'=two", "", "", ""],
    ]
    _, _, content = server.finish(server.begin_operation(f"{path}?format=json"))
    whole = json.loads(content)
    _, _, content = server.finish(server.begin_operation(f"{path}?format=ndjson"))
    lines = [json.loads(line) for line in content.splitlines()]
    assert whole == lines == server.operate(path)[1]
    assert [line["name"] for line in lines] == ["one", "=two", "none"]
    after = server.operate(f"{path}?after={lines[1]['id']}")[1]
    assert after == lines[2]


def test_exports_of_nothing_are_whole_files(server: InMemoryServer) -> None:
    """A heading, an empty array, nothing; of an unknown query an error."""
    path = f"{QUERIES}/{issue(server)['query_id']}/results"
    found = [server.finish(server.begin_operation(f"{path}?format={form}"))[2] for form in ("csv", "json", "ndjson")]
    assert found == [b'"node"\r\n', b"[]\n", b""]
    for words in ("?format=csv", "", "?follow=1"):
        assert server.operate(f"{QUERIES}/q1/results{words}")[0] == 404
    assert server.operate(f"{path}?format=xml")[0] == 400
    assert server.operate(f"{path}?after=x")[0] == 400


def test_results_are_had_a_page_at_a_time(server: InMemoryServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many, or as many as are some megabytes; the last page says that it is."""
    query_id = issue(server)["query_id"]
    asked(server, query_id, *(f"h{number}" for number in range(5)))
    path = f"{QUERIES}/{query_id}/results/page"
    names, after, pages = [], "", 0
    while after is not None:
        _, page = server.operate(f"{path}?limit=2&after={after}")
        names += [each["name"] for each in page["results"]]
        after, pages = page["next_after"], pages + 1
    assert (names, pages) == ([f"h{number}" for number in range(5)], 3)
    monkeypatch.setattr(liveresults, "_MOST_PAGE_BYTES", 1)
    assert len(server.operate(path)[1]["results"]) == 1
    assert server.operate(f"{QUERIES}/q1/results/page")[0] == 404
    assert server.operate(f"{path}?after=x")[0] == 400


def test_a_column_called_node_is_not_ours(server: InMemoryServer) -> None:
    """Each heading stands there once."""
    query_id = issue(server)["query_id"]
    asked(server, query_id, "one", rows=[{"node": "n"}])
    _, _, content = server.finish(server.begin_operation(f"{QUERIES}/{query_id}/results?format=csv"))
    assert content.split() == [b'"_node","node"', b'"one","n"']


def test_line_ends_between_a_nodes_rows_do_not_make_lines(server: InMemoryServer) -> None:
    """Rows are handed on as they are: a node could have put a line of its own among ours."""
    query_id = issue(server)["query_id"]
    key = server.enroll("h")
    work_of(server, key)
    raw = b'{"node_key":"%s","queries":{"%s":[\n{"type":\r"end"}\n]},"statuses":{"%s":0}}'
    body = raw % (key.encode(), query_id.encode(), query_id.encode())
    server.finish(server.begin("/distributed/write", raw=body))
    _, _, content = server.finish(server.begin_operation(f"{QUERIES}/{query_id}/results"))
    assert content.count(b"\n") == 1
    assert b"\r" not in content
    assert json.loads(content)["rows"] == [{"type": "end"}]


class Stream:
    """An answer that is under way."""

    def __init__(self, server: InMemoryServer, path: str, headers: dict[str, str] | None = None) -> None:
        self.server, self.content = server, b""
        self.reading = Deferred.fromCoroutine(self._read(path, headers or {}))
        server.admin.flush()
        server.turn()

    async def _read(self, path: str, headers: dict[str, str]) -> None:
        response = await self.server.admin.request("GET", f"https://server{path}", headers=headers)
        assert response.code == 200
        self.headers = response.headers
        await response.collect(self._take)

    def _take(self, data: bytes) -> None:
        self.content += data

    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.content.splitlines() if line]


def test_results_are_followed_as_they_come(server: InMemoryServer) -> None:
    """Those that are in, those that come, a sign of life now and then, and an end when no more can come."""
    query_id = issue(server, expires_in=100)["query_id"]
    asked(server, query_id, "one")
    stream = Stream(server, f"{QUERIES}/{query_id}/results?follow=1")
    assert [line["name"] for line in stream.lines()] == ["one"]
    asked(server, query_id, "two")
    server.turn()
    assert [line["name"] for line in stream.lines()] == ["one", "two"]
    server.turn(16)
    assert stream.content.endswith(b"\n\n")
    late = server.enroll("late")
    assert work_of(server, late)
    server.turn(90)
    assert not stream.reading.called
    answer(server, late, query_id, [])
    server.turn()
    result_of(stream.reading)
    assert [line.get("name", line["type"]) for line in stream.lines()] == ["one", "two", "late", "end"]
    assert stream.lines()[-1] == {"type": "end", "state": "expired", "answered": 3}


def test_following_ends_when_those_asked_have_had_their_time(server: InMemoryServer) -> None:
    """A query that is called off is over, but for those who have it; a lease later nobody waits for them."""
    query_id = issue(server, expires_in=1000)["query_id"]
    assert work_of(server, server.enroll("silent"))
    stream = Stream(server, f"{QUERIES}/{query_id}/results?follow=1")
    server.operate(f"{QUERIES}/{query_id}/cancel", {}, "POST")
    server.turn(20)
    assert not stream.reading.called
    server.turn(15)
    result_of(stream.reading)
    assert stream.lines() == [{"type": "end", "state": "cancelled", "answered": 0}]


def test_events_can_be_gone_on_with(server: InMemoryServer) -> None:
    """Server-sent events with the results' ids; who comes again with the last one gets those behind it."""
    query_id = issue(server, expires_in=100)["query_id"]
    path, accept = f"{QUERIES}/{query_id}/results", {"Accept": "text/event-stream"}
    asked(server, query_id, "one", "two")
    stream = Stream(server, path, accept)
    assert stream.headers.getRawHeaders("Content-Type") == ["text/event-stream"]
    events = stream.content.decode().split("\n\n")
    assert events[0] == ": results"
    assert events[1].startswith("event: result\nid: 1-0\ndata: {")
    assert json.loads(events[1].split("data: ")[1])["name"] == "one"
    server.turn(16)
    assert stream.content.endswith(b"\n\n: beat\n\n")
    again = Stream(server, path, {**accept, "Last-Event-ID": "1-0"})
    assert [event.split("\n")[1] for event in again.content.decode().split("\n\n")[1:-1]] == ["id: 2-0"]
    server.turn(100)
    for each in (stream, again):
        result_of(each.reading)
        assert each.content.decode().split("\n\n")[-2].startswith("event: end\ndata: {")
    code, _, content = server.finish(server.begin_operation(path, headers={**accept, "Last-Event-ID": "2-0"}))
    assert (code, content) == (204, b"")
    found = server.finish(server.begin_operation(path, headers={**accept, "Last-Event-ID": "x\u00e9"}))
    assert found[0] == 400


def test_a_follower_that_goes_away_leaves_nothing(server: InMemoryServer) -> None:
    """No subscription, no timer."""
    query_id = issue(server)["query_id"]
    stream = Stream(server, f"{QUERIES}/{query_id}/results?follow=1")
    before = len(server.stores.signals._subscribers["results"])
    stream.reading.addErrback(lambda failure: None)
    stream.reading.cancel()
    server.turn()
    assert len(server.stores.signals._subscribers["results"]) == before - 1
