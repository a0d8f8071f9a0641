"""What operators see of nodes, and do to them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from osqtwist.authentication import Caller
from tests.harness import START, InMemoryServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[InMemoryServer]:
    found = InMemoryServer(tmp_path)
    yield found
    found.stop()


def show(server: InMemoryServer, name: str) -> Any:
    server.turn(3)
    code, found = server.operate(f"/api/v1/nodes/{name}")
    assert code == 200, found
    return found


def test_the_config_that_a_node_has(server: InMemoryServer) -> None:
    """Which one it was answered, whether it said that it has it, and whether there is a newer one."""
    key = server.enroll("h")
    assert show(server, "h")["config"] is None
    server.ask("/config", {"node_key": key})
    assert show(server, "h")["config"]["state"] == "unconfirmed"
    _, body = server.ask("/config", {"node_key": key, "etag": ""})
    config = show(server, "h")["config"]
    assert (config["state"], config["etag"], config["is_newest"]) == ("sent", body["etag"], True)
    now = server.reactor.seconds()
    server.ask("/config", {"node_key": key, "etag": body["etag"]})
    config = show(server, "h")["config"]
    assert (config["state"], config["at"]) == ("confirmed", now)
    server.ask("/log", {"node_key": key, "log_type": "result", "data": []})
    assert show(server, "h")["config"] == config
    server.configuration.replace([])
    assert show(server, "h")["config"]["is_newest"] is False
    _, listed = server.operate("/api/v1/nodes")
    assert listed["nodes"][0]["config"] == {"etag": body["etag"], "state": "confirmed", "at": now}


def test_a_certificate_is_shown_wherever_the_node_is(server: InMemoryServer) -> None:
    """With its issuer, serial, end, kind of key and what it says of tags."""
    server.certificate = "node-1"
    server.ask("/config", {"node_key": ""}, headers={"User-Agent": "osquery/5.23.1"})
    server.turn(3)
    _, listed = server.operate("/api/v1/nodes")
    for found in (listed["nodes"][0], show(server, "node-1")):
        certificate = found["certificate"]
        assert (certificate["issuer"], certificate["serial"], certificate["key_type"]) == ("CN=test CA", "1f", "P-256")
        assert (certificate["not_after"], certificate["tags"]) == (START + 1e6, ["ou:test"])
        assert certificate["days"] == pytest.approx(1e6 / 86400, abs=0.1)
        assert (found["proof"], found["tag_sources"]) == ("certificate", {"ou:test": ["certificate"]})
        # It never enrolled, and so never told its version in any other way.
        assert found["osquery_version"] == "5.23.1"
        assert found["addresses"] == [{"address": found["address"], "at": START}]


def test_which_certificates_were_renewed_and_who_issued_them(server: InMemoryServer) -> None:
    """The newest of a node counts, the one before it is said, and metrics have the sums."""
    for number in range(3):
        server.certificate = f"node-{number}"
        server.ask("/config", {"node_key": ""})
    server.turn(100)
    server.certificate, server.fingerprint = "node-1", "another"
    server.ask("/config", {"node_key": ""})
    _, found = server.operate("/api/v1/certificates/renewed")
    before = {"issuer": "CN=test CA", "serial": "1f", "not_after": START + 1e6}
    assert [(each["name"], each["shown_at"], each["before"]) for each in found["certificates"]] == [
        ("node-1", server.reactor.seconds(), before)
    ]
    assert server.operate("/api/v1/certificates/issuers")[1] == {"issuers": [{"issuer": "CN=test CA", "nodes": 3}]}
    server.await_(server.inventory.update_metrics())
    value = server.metrics.registry.get_sample_value
    assert value("osqtwist_node_issuers", {"issuer": "CN=test CA"}) == 3
    assert value("osqtwist_nodes_renewed") == 1
    server.turn(86400)
    assert server.operate("/api/v1/certificates/renewed?within=0")[1] == {"certificates": []}
    assert len(server.operate("/api/v1/certificates?within=30")[1]["certificates"]) == 3


def test_store_writes_for_requests_come_together(server: InMemoryServer) -> None:
    """However many requests there are: one write of sightings every two seconds."""
    keys = [server.enroll(f"h{number}") for number in range(5)]
    for key in keys:
        server.ask("/config", {"node_key": key})
    server.turn(3)
    calls = server.outages["nodes"].calls
    calls.clear()
    for _ in range(4):
        for key in keys:
            server.ask("/config", {"node_key": key, "etag": ""})
    server.turn(2)
    assert set(calls) <= {"saw", "revocations"}
    assert calls.count("saw") == 1


# -- merges and notes


def post(server: InMemoryServer, name: str, what: str, body: Any) -> tuple[int, Any]:
    return server.operate(f"/api/v1/nodes/{name}/{what}", body, "POST")


def tagged(server: InMemoryServer, name: str, *tags: str) -> None:
    assert post(server, name, "tags", {"add": tags})[0] == 200


def test_a_machine_that_was_renamed_goes_on(server: InMemoryServer) -> None:
    """With its given tags, its note and its first sighting; it is found by every name it had."""
    server.enroll("old")
    tagged(server, "old", "prod", "x")
    post(server, "old", "note", {"note": "under the desk"})
    old = show(server, "old")
    server.turn(100)
    key = server.enroll("new")
    tagged(server, "new", "y")
    post(server, "new", "note", {"note": "2nd floor"})
    new = show(server, "new")
    assert post(server, "old", "merge", {"into": "new"}) == (200, {"node": new["node"], "merged": old["node"]})
    for name in ("new", "old", old["node"], new["node"]):
        found = show(server, name)
        assert found["node"] == new["node"]
    assert (found["given_tags"], found["note"]) == (["prod", "x", "y"], "2nd floor; under the desk")
    assert found["first_seen_at"] == old["first_seen_at"] < new["first_seen_at"]
    assert [each["node_id"] for each in found["former"]] == [old["node"]]
    assert len(server.operate("/api/v1/nodes")[1]["nodes"]) == 1
    assert server.ask("/config", {"node_key": key})[0] == 200
    assert show(server, "new")["given_tags"] == ["prod", "x", "y"]


def test_the_keys_of_the_merged_node_are_refused(server: InMemoryServer) -> None:
    """If its machine lives after all, it enrolls again, and is a node of its own."""
    key = server.enroll("old")
    server.enroll("new")
    server.turn(100)
    post(server, "old", "merge", {"into": "new"})
    assert server.ask("/config", {"node_key": key})[1]["node_invalid"] is True
    server.turn(1)
    assert server.ask("/config", {"node_key": server.enroll("old")})[0] == 200
    assert show(server, "old")["name"] == "old"
    assert show(server, "new")["former"][0]["name"] == "old"
    assert server.operate("/api/v1/status")[1]["nodes_revoked"] == 0


def test_a_revoked_node_stays_revoked_through_a_merge(server: InMemoryServer) -> None:
    """Its revocation is not weakened to one of its keys."""
    server.enroll("old")
    server.enroll("new")
    server.turn(100)
    post(server, "old", "revoke", {})
    post(server, "old", "merge", {"into": "new"})
    body = {"enroll_secret": "open-sesame", "host_identifier": "old"}
    assert server.ask("/enroll", body)[0] == 401


def test_what_the_merged_node_answered_stays_under_its_name(server: InMemoryServer) -> None:
    """Results of queries are what was said then, by whom."""
    key = server.enroll("old")
    query = server.issue()
    server.ask("/distributed/read", {"node_key": key})
    server.ask("/distributed/write", {"node_key": key, "queries": {query.query_id: [{"a": "1"}]}, "statuses": {}})
    server.enroll("new")
    server.turn(100)
    post(server, "old", "merge", {"into": "new"})
    _, line = server.operate(f"/api/v1/queries/{query.query_id}/results")
    assert (line["name"], line["rows"]) == ("old", [{"a": "1"}])


def test_what_cannot_be_merged(server: InMemoryServer) -> None:
    """A node with itself, with nothing, or one that is alive, unless the operator insists."""
    server.enroll("old")
    server.enroll("new")
    assert post(server, "old", "merge", {"into": "old"})[0] == 409
    assert post(server, "old", "merge", {"into": "nobody"})[0] == 404
    assert post(server, "nobody", "merge", {"into": "old"})[0] == 404
    code, problem = post(server, "old", "merge", {"into": "new"})
    assert (code, "last minute" in problem["detail"]) == (409, True)
    assert post(server, "old", "merge", {"into": "new", "force": True})[0] == 200
    for number in range(20):
        server.enroll(f"n{number}")
        code, problem = post(server, f"n{number}", "merge", {"into": "new", "force": True})
        assert (code == 200) is (number < 15), problem
    tagged(server, "n19", *(f"a{number}" for number in range(60)))
    tagged(server, "n18", *(f"b{number}" for number in range(60)))
    assert "given tags" in post(server, "n18", "merge", {"into": "n19", "force": True})[1]["detail"]


def test_a_note_has_a_length(server: InMemoryServer) -> None:
    """It is shown, replaced, and taken away."""
    server.enroll("h")
    assert post(server, "h", "note", {"note": "x" * 2001})[0] == 400
    assert post(server, "h", "note", {"note": "[bold]x"})[0] == 200
    assert show(server, "h")["note"] == "[bold]x"
    post(server, "h", "note", {"note": ""})
    assert show(server, "h")["note"] == ""


# -- revocation


def test_connections_end_once_held_reads_are_answered(server: InMemoryServer) -> None:
    """Half a second after a revocation is seen: those of the refused, by certificate or by what they asked with."""
    ended: list[float] = []
    server.api.directory.end_connections = lambda: ended.append(server.reactor.seconds())
    key = server.enroll("h")
    reading = server.begin("/distributed/read", {"node_key": key})
    server.turn()
    before = server.reactor.seconds()
    post(server, "h", "revoke", {})
    assert json.loads(server.finish(reading)[2])["node_invalid"] is True
    assert ended == []
    server.turn(0.5)
    assert ended == [before + 0.5]
    server.turn(9)
    assert len(ended) == 1


def test_whose_connection_is_out(server: InMemoryServer) -> None:
    """The newest request says whose it is; before that, the certificate."""
    node = server.enroll("h") and show(server, "h")["node"]
    by_key, by_certificate, unknown = (SimpleNamespace(caller=None, transport=None) for _ in range(3))
    by_key.caller = Caller(node, "", None, START)
    server.certificate = "node-1"
    server.ask("/config", {"node_key": ""})
    assert not any(server.api.is_out(each) for each in (by_key, by_certificate))
    post(server, "h", "revoke", {})
    post(server, show(server, "node-1")["node"], "revoke", {})
    assert all(server.api.is_out(each) for each in (by_key, by_certificate))
    server.certificate = None
    assert not server.api.is_out(unknown)
    post(server, "h", "restore", {})
    assert not server.api.is_out(by_key)
    post(server, "h", "rekey", {})
    assert server.api.is_out(by_key)
