"""The deny list: what a denial is about, who is refused by it and how, and what operators do to it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from osqtwist.denial import BadDenial, Denial, DenialIndex, checked_value
from osqtwist.denialinterfaces import MOST_DENIALS
from osqtwist.denials import KEPT_AFTER
from osqtwist.identity import CertificateIdentity
from osqtwist.operator import Actor, Role
from osqtwist.storage import memory_denials
from tests.harness import InMemoryServer, result_of

NOW = 1_790_000_000.0
FINGERPRINT = "ab" * 32


def denial(kind: Any, value: str, **more: Any) -> Denial:
    return Denial(
        **{"denial_id": f"{kind} {value}", "kind": kind, "value": value, "created_at": NOW, "created_by": "t", **more}
    )


def certificate(**more: Any) -> CertificateIdentity:
    fields: dict[str, Any] = {
        "value": "web-1.example.com",
        "source": "subject.CN",
        "issuer": "CN=Fleet CA,O=Example",
        "serial": "1f2e",
        "fingerprint": FINGERPRINT,
        "not_after": NOW + 1e6,
        "key_type": "P-256",
    }
    return CertificateIdentity(**{**fields, **more})


# -- what it is about


@pytest.mark.parametrize(
    ("made", "is_denied"),
    [
        (denial("fingerprint", FINGERPRINT), True),
        (denial("fingerprint", "cd" * 32), False),
        (denial("serial", "1f2e"), True),
        (denial("serial", "1f2f"), False),
        (denial("serial", "1f2e", issuer="Fleet CA"), True),
        (denial("serial", "1f2e", issuer="CN=Fleet CA,O=Example"), True),
        (denial("serial", "1f2e", issuer="Other CA"), False),
        (denial("identity", "web-1.example.com"), True),
        (denial("identity", "WEB-1.Example.com"), True),
        (denial("identity", "web-1"), False),
        (denial("identity", "web-*"), True),
        (denial("identity", "web-[!1].*"), False),
        (denial("identity", "*.example.org"), False),
        (denial("serial", "1f2e", expires_at=NOW + 1), True),
        (denial("serial", "1f2e", expires_at=NOW), False),
        (denial("identity", "web-*", expires_at=NOW - 1), False),
    ],
)
def test_what_a_denial_is_about(made: Denial, is_denied: bool) -> None:
    """Serial number (of an issuer), fingerprint, identity or pattern; as long as its time is not up."""
    index = DenialIndex.of([denial("serial", "77"), made, denial("identity", "db-*")])
    assert index.find(certificate(), NOW) == (made if is_denied else None)


def test_one_that_is_over_hides_no_other() -> None:
    """Two about the same serial number, of two issuers or two times."""
    over = denial("serial", "1f2e", expires_at=NOW - 1)
    other = denial("serial", "1f2e", issuer="Other CA")
    both = denial("serial", "1f2e", issuer="Fleet CA")
    assert DenialIndex.of([over, other, both]).find(certificate(), NOW) is both
    assert not DenialIndex.of([])


@pytest.mark.parametrize(
    ("kind", "value", "kept"),
    [
        ("serial", "0x00:1F:2E", "1f2e"),
        ("serial", "1f2e", "1f2e"),
        ("fingerprint", ":".join(["AB"] * 32), FINGERPRINT),
        ("identity", "Build-*", "Build-*"),
    ],
)
def test_numbers_are_taken_as_tools_print_them(kind: Any, value: str, kept: str) -> None:
    """With colons, in capitals, with zeros before them."""
    assert checked_value(kind, value, "") == kept


@pytest.mark.parametrize(
    ("kind", "value", "issuer", "words"),
    [
        ("serial", "xyz", "", "not hexadecimal"),
        ("serial", "00", "", "not 0"),
        ("serial", "1" * 41, "", "40 digits"),
        ("fingerprint", "ab" * 20, "", "64 digits"),
        ("fingerprint", FINGERPRINT, "CN=CA", "serial number only"),
        ("identity", "*", "", "every certificate"),
        ("identity", "?*", "", "every certificate"),
        ("identity", "x" * 256, "", "255"),
    ],
)
def test_what_cannot_be_denied_is_refused(kind: Any, value: str, issuer: str, words: str) -> None:
    """Rather than kept and never in force; and nobody denies the whole fleet by one letter."""
    with pytest.raises(BadDenial, match=words):
        checked_value(kind, value, issuer)


# -- who is refused


@pytest.fixture
def server(tmp_path: Path) -> Iterator[InMemoryServer]:
    made = InMemoryServer(tmp_path)
    yield made
    made.stop()


def deny(server: InMemoryServer, kind: str = "identity", value: str = "node-1", **more: Any) -> Any:
    code, row = server.operate("/api/v1/denials", {"kind": kind, "value": value, **more}, "POST")
    assert code == 201, row
    return row


ROUTES = ["/enroll", "/config", "/log", "/distributed/read", "/distributed/write", "/carver/start"]


@pytest.mark.parametrize("path", ROUTES)
def test_a_denied_certificate_gets_an_error_and_keeps_what_it_has(server: InMemoryServer, path: str) -> None:
    """Never node_invalid: a node that is let in again goes on with the key and the lines that it has."""
    server.certificate = "node-1"
    body = {"node_key": "", "host_identifier": "h", "log_type": "result", "data": [], "queries": {}}
    body |= {"block_count": 1, "block_size": 1, "carve_size": 1, "carve_id": "c", "request_id": "r"}
    row = deny(server)
    code, answer = server.ask(path, body)
    assert code == 403
    assert "node_invalid" not in answer and "node_key" not in answer
    assert row["denial_id"] in answer["error"]
    server.certificate = "node-2"
    if path == "/distributed/read":
        reading = server.begin(path, body)
        server.turn(13)
        assert result_of(reading)[0] == 200
    else:
        assert server.ask(path, body)[0] == 200


def test_a_block_of_a_carve_is_refused_in_plain_words(server: InMemoryServer) -> None:
    """JSON there would be success to osquery."""
    server.certificate = "node-1"
    start = {"block_count": 1, "block_size": 4, "carve_size": 4, "carve_id": "c", "request_id": "r", "node_key": ""}
    _, session = server.ask("/carver/start", start)
    deny(server)
    block = {"block_id": 0, "session_id": session["session_id"], "request_id": "r", "data": "YWJjZA=="}
    code, _, content = server.finish(server.begin("/carver/continue", block))
    assert (code, content) == (403, b"refused: certificate_refused")


def test_a_key_is_no_way_round(server: InMemoryServer) -> None:
    """Who shows a denied certificate is refused with any key; a node without a certificate is no business of it."""
    key = server.enroll("host-1")
    deny(server)
    assert server.ask("/config", {"node_key": key})[0] == 200
    server.certificate = "node-1"
    assert server.ask("/config", {"node_key": key})[0] == 403


@pytest.mark.parametrize(
    ("kind", "value", "more"),
    [
        ("serial", "1F", {"issuer": "test CA"}),
        ("serial", "1f", {}),
        ("fingerprint", "66" * 32, {}),
        ("identity", "NODE-*", {}),
    ],
)
def test_every_kind_of_denial_is_in_force(server: InMemoryServer, kind: str, value: str, more: Any) -> None:
    """At once, and no more when it is removed."""
    server.fingerprint = "66" * 32
    server.certificate = "node-1"
    row = deny(server, kind, value, **more)
    assert server.ask("/config", {"node_key": ""})[0] == 403
    assert server.operate(f"/api/v1/denials/{row['denial_id']}/remove", {}, "POST")[0] == 200
    assert server.ask("/config", {"node_key": ""})[0] == 200


def test_a_denial_ends_by_itself(server: InMemoryServer) -> None:
    """It is still listed for a week, as one that is not in force, and then makes room for others."""
    server.certificate = "node-1"
    row = deny(server, expires_in=60, reason="stolen")
    assert row["expires_at"] == server.reactor.seconds() + 60
    assert server.ask("/config", {"node_key": ""})[0] == 403
    server.turn(60)
    assert server.ask("/config", {"node_key": ""})[0] == 200
    (listed,) = server.operate("/api/v1/denials")[1]["denials"]
    assert (listed["reason"], listed["created_by"], listed["in_force"]) == ("stolen", "tester", False)
    server.turn(KEPT_AFTER)
    deny(server, value="node-9")
    assert [each["value"] for each in server.operate("/api/v1/denials")[1]["denials"]] == ["node-9"]


def test_the_list_that_was_seen_last_stays_in_force(server: InMemoryServer) -> None:
    """While the store is away; when it is back, what was changed meanwhile is seen within a second."""
    server.certificate = "node-1"
    row = deny(server)
    server.down()
    server.turn(30)
    assert server.ask("/config", {"node_key": ""})[0] == 403
    code, problem = server.operate("/api/v1/denials", {"kind": "identity", "value": "node-2"}, "POST")
    assert code == 503, problem
    server.down(False)
    server.await_(server.stores.denials.store.remove([row["denial_id"]]))
    server.turn(1)
    assert server.ask("/config", {"node_key": ""})[0] == 200


def test_a_lost_signal_costs_a_second(server: InMemoryServer) -> None:
    """What another process stored is seen anyway."""
    server.certificate = "node-1"
    server.await_(server.stores.denials.store.add(denial("identity", "node-1")))
    assert server.ask("/config", {"node_key": ""})[0] == 200
    server.turn(1)
    assert server.ask("/config", {"node_key": ""})[0] == 403


def test_many_changes_are_looked_at_together(server: InMemoryServer) -> None:
    """A thousand signals in a moment are a look or two."""
    server.turn(5)
    server.outages["denials"].calls.clear()
    for _ in range(1000):
        server.await_(server.stores.signals.publish("denials"))
    server.turn(0.2)
    assert len(server.outages["denials"].calls) <= 3


# -- what operators do


def test_roles(server: InMemoryServer) -> None:
    """A viewer sees the list, an operator changes it; each change is in the trail."""
    server.operator = Actor("eve", Role.VIEWER, "token")
    order = {"kind": "identity", "value": "node-1", "reason": "lost"}
    assert server.operate("/api/v1/denials", order, "POST")[0] == 403
    assert server.operate("/api/v1/denials")[1] == {"denials": [], "next_offset": None}
    server.operator = Actor("olga", Role.OPERATOR, "token")
    _, row = server.operate("/api/v1/denials", order, "POST")
    assert row["created_by"] == "olga"
    assert server.operate(f"/api/v1/denials/{row['denial_id']}/remove", {}, "POST")[0] == 200
    assert server.operate(f"/api/v1/denials/{row['denial_id']}/remove", {}, "POST")[0] == 404
    entries = server.operate("/api/v1/audit")[1]["entries"]
    changes = [each for each in reversed(entries) if "denials" in each["action"] and each["outcome"] == "begun"]
    assert [each["actor"] for each in changes] == ["olga"] * 3
    assert json.loads(changes[0]["detail"]) == order


@pytest.mark.parametrize(
    "body",
    [
        {"kind": "identity", "value": "*"},
        {"kind": "colour", "value": "red"},
        {"kind": "serial", "value": "zz"},
        {"kind": "serial", "value": "1", "expires_in": 0},
        {"kind": "serial", "value": "1", "until": 5},
        {"value": "node-1"},
    ],
)
def test_what_makes_no_sense_is_refused(server: InMemoryServer, body: Any) -> None:
    """With a reason, and nothing is stored."""
    code, problem = server.operate("/api/v1/denials", body, "POST")
    assert code == 400 and problem["detail"]
    assert server.operate("/api/v1/denials")[1]["denials"] == []


def test_the_list_is_bounded(server: InMemoryServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """One too many is refused rather than kept in the place of another."""
    monkeypatch.setattr(memory_denials, "MOST_DENIALS", 2)
    for number in range(2):
        deny(server, value=f"node-{number}")
    code, problem = server.operate("/api/v1/denials", {"kind": "identity", "value": "x"}, "POST")
    assert code == 400 and f"there are {MOST_DENIALS} denials" in problem["detail"]


def test_the_list_is_paged_and_counted(server: InMemoryServer) -> None:
    """In the API, in the metrics and in the status."""
    for number in range(5):
        deny(server, value=f"node-{number}", expires_in=60 if number else None)
        server.turn(1)
    _, page = server.operate("/api/v1/denials?limit=2&offset=2")
    assert [each["value"] for each in page["denials"]] == ["node-2", "node-3"]
    assert page["next_offset"] == 4
    assert server.metrics.registry.get_sample_value("osqtwist_denials") == 5
    server.turn(60)
    assert server.metrics.registry.get_sample_value("osqtwist_denials") == 1
    _, status = server.operate("/api/v1/status")
    assert (status["denials"], status["ocsp"], status["revocation_lists"]) == (1, "off", [])
