"""The node API over HTTP, in memory: what each route answers to whom."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail

from osqtwist.identity import node_id_for_host
from osqtwist.interfaces import StoreFull
from osqtwist.targeting import Target
from osqtwist.web.routes import paths_by_route
from tests.harness import SECRET, InMemoryServer

Server = InMemoryServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    found = Server(tmp_path)
    yield found
    found.stop()
    assert not [call for call in found.reactor.getDelayedCalls() if call.active()]


def log_body(key: str, *lines: Any, log_type: str = "result") -> dict[str, Any]:
    return {"node_key": key, "log_type": log_type, "data": list(lines)}


# -- enroll


def test_a_secret_buys_a_node_key(server: Server) -> None:
    """The right secret gives a non-empty key, and the node gets the secret's tags and keeps its host details."""
    body = {
        "enroll_secret": SECRET,
        "host_identifier": "h",
        "platform_type": "9",
        "host_details": {"osquery_info": {"version": "5.23.1"}},
    }
    assert server.ask("/enroll", body)[1]["node_key"]
    _, node = server.operate("/api/v1/nodes/h")
    assert (node["tags"], node["platform"], node["osquery_version"]) == (["tagged"], "linux", "5.23.1")
    assert node["host_details"]["osquery_info"] == {"version": "5.23.1"}


def test_a_certificate_enrolls_without_a_secret(server: Server) -> None:
    """With a certificate no secret is needed; the identity is the certificate's."""
    server.certificate = "node-1"
    assert server.ask("/enroll", {"enroll_secret": "", "host_identifier": "liar"})[1]["node_key"]
    _, node = server.operate("/api/v1/nodes/node-1")
    assert (node["name"], node["proof"], node["tags"]) == ("node-1", "certificate", ["ou:test"])
    assert node["certificate"]["serial"] == "1f"


@pytest.mark.parametrize("secret", ["wrong", "", SECRET + " ", SECRET.upper(), "é"])
def test_a_wrong_secret_gets_no_key(server: Server, secret: str) -> None:
    """Any other secret is refused, with no node_key and no id in the answer: all that osquery looks for."""
    code, answer = server.ask("/enroll", {"enroll_secret": secret, "host_identifier": "h"})
    assert code == 401
    assert not {"node_key", "id"} & set(answer)


def test_enrolling_again_gives_the_same_node_and_old_keys_stay_good(server: Server) -> None:
    """Re-enrollment is idempotent: one node, and no two clones throw each other out."""
    first, second = server.enroll("h"), server.enroll("h")
    assert server.ask("/log", log_body(first, {"a": 1}))[1] == {}
    assert server.ask("/log", log_body(second, {"a": 1}))[1] == {}
    server.turn(3)
    assert len(server.operate("/api/v1/nodes")[1]["nodes"]) == 1


def test_a_secret_alone_needs_a_host_identifier(server: Server) -> None:
    """Without certificate and host identifier there is nothing to know the node by."""
    assert server.ask("/enroll", {"enroll_secret": SECRET, "host_identifier": ""})[0] == 401


def test_enroll_while_the_store_is_down(server: Server) -> None:
    """The answer holds no key and no node_invalid: nothing is known of the node's right."""
    server.down()
    code, answer = server.ask("/enroll", {"enroll_secret": SECRET, "host_identifier": "h"})
    assert code == 503
    assert set(answer) == {"error"}


def test_enroll_secret_under_another_name_and_in_the_query(tmp_path: Path) -> None:
    """tls_enroll_override renames the key; tls_secret_always repeats the secret in the query, which changes nothing."""
    server = Server(tmp_path, enroll_secret_name="deploy")
    code, answer = server.ask(f"/enroll?deploy={SECRET}", {"deploy": SECRET, "host_identifier": "h"})
    assert code == 200
    assert answer["node_key"]
    server.stop()


# -- who is it


@pytest.mark.parametrize("path", ["/config", "/log", "/distributed/read", "/distributed/write", "/carver/start"])
@pytest.mark.parametrize("key", ["", None, "wrong", "o1.aa.00000000000000000000.1.s.AAAA"])
def test_a_key_that_is_not_ours_is_node_invalid(server: Server, path: str, key: str | None) -> None:
    """Proven bad: node_invalid, a real bool, on every route that takes a key."""
    body = {"node_key": key, "log_type": "result", "data": [], "block_count": 0, "block_size": 1, "carve_size": 0}
    code, answer = server.ask(path, body)
    assert code == 401
    assert answer["node_invalid"] is True


def test_certificate_mode_needs_no_key(server: Server) -> None:
    """With --disable_enrollment a node sends an empty key; its certificate says who it is."""
    server.certificate = "node-1"
    assert server.ask("/config", {"node_key": ""})[1]["schedule"]
    assert server.ask("/log", log_body("", {"a": 1}))[1] == {}
    assert server.operate("/api/v1/nodes/node-1")[1]["enrolled_at"] is None


def test_a_bound_key_with_another_certificate_is_node_invalid(server: Server) -> None:
    """A stolen key is worthless with another certificate; the node enrolls again with its own."""
    server.certificate = "node-1"
    key = server.ask("/enroll", {"enroll_secret": "", "host_identifier": "h"})[1]["node_key"]
    assert server.ask("/log", log_body(key, {"a": 1}))[1] == {}
    server.certificate = "node-2"
    assert server.ask("/log", log_body(key, {"a": 1}))[1]["node_invalid"] is True


def test_a_bound_key_without_a_certificate_is_only_refused(server: Server) -> None:
    """osqueryd goes without a certificate when it cannot read its file: the key is kept, nothing is lost."""
    server.certificate = "node-1"
    key = server.ask("/enroll", {"enroll_secret": "", "host_identifier": "h"})[1]["node_key"]
    server.certificate = None
    code, answer = server.ask("/log", log_body(key, {"a": 1}))
    assert code == 401
    assert "node_invalid" not in answer
    assert answer["error"]


def test_unbound_keys_end_when_certificates_are_required(tmp_path: Path) -> None:
    """A fleet that moves to certificates enrolls again, and then has bound keys."""
    server = Server(tmp_path, client_auth="required")
    server.certificate = None
    key = server.enroll()
    server.certificate = "node-1"
    assert server.ask("/config", {"node_key": key})[1]["node_invalid"] is True
    bound = server.ask("/enroll", {"enroll_secret": SECRET, "host_identifier": "h"})[1]["node_key"]
    assert server.ask("/config", {"node_key": bound})[0] == 200
    server.stop()


def test_header_and_body_keys(server: Server) -> None:
    """The header suffices; two different keys contradict each other and are refused, not invalidated."""
    key, other = server.enroll("a"), server.enroll("b")
    header = {"Authorization": f"NodeKey {key}"}
    assert server.ask("/config", {"node_key": key}, headers=header)[0] == 200
    assert server.ask("/config", {}, headers=header)[0] == 200
    code, answer = server.ask("/config", {"node_key": other}, headers=header)
    assert (code, "node_invalid" in answer) == (401, False)


def test_a_revoked_node_is_out_and_stays_out(server: Server) -> None:
    """After a revocation keys are invalid and enrolling is refused; taking it back lets the node in again."""
    key = server.enroll("h")
    assert server.operate("/api/v1/nodes/h/revoke", {"reason": "stolen"}, "POST")[1]["revoked"] is True
    assert server.ask("/config", {"node_key": key})[1]["node_invalid"] is True
    assert server.ask("/enroll", {"enroll_secret": SECRET, "host_identifier": "h"})[0] == 401
    server.operate("/api/v1/nodes/h/restore", {}, "POST")
    assert server.ask("/config", {"node_key": key})[0] == 200


def test_no_store_outage_makes_a_node_enroll_again(server: Server) -> None:
    """With the store away, every route answers a good key with success or a plain error, never node_invalid."""
    known, unknown = server.enroll("known"), server.enroll("unknown")
    server.ask("/config", {"node_key": known})
    server.turn(3)
    server.down()
    for key in (known, unknown):
        for path, body in (
            ("/config", {}),
            ("/log", log_body("", {"a": 1})),
            ("/distributed/write", {"queries": {"q": []}, "statuses": {"q": 0}}),
            ("/carver/start", {"block_count": 1, "block_size": 9, "carve_size": 9, "carve_id": "c"}),
        ):
            code, answer = server.ask(path, {**body, "node_key": key})
            assert "node_invalid" not in answer
            assert (code, path) in ((503, path), (200, "/config")), answer
    server.down(False)
    assert server.ask("/log", log_body(known, {"a": 1}))[1] == {}


# -- config


def test_config_is_served_from_memory(server: Server) -> None:
    """A config that is known costs no store call, and is there while the store is away."""
    key = server.enroll()
    server.ask("/config", {"node_key": key})
    calls = [len(outage.calls) for outage in server.outages.values()]
    code, answer = server.ask("/config", {"node_key": key})
    assert [len(outage.calls) for outage in server.outages.values()] == calls
    assert answer["options"]["distributed_interval"] == 1
    server.down()
    assert server.ask("/config", {"node_key": key}) == (code, answer)


def test_what_was_known_of_a_node_is_kept_until_something_better_can_be_had(server: Server) -> None:
    """Signals that were missed, or one about the node, have it asked for anew; while the store is away it stands."""
    key = server.enroll("h")
    before = server.ask("/config", {"node_key": key})
    assert before[0] == 200
    for payload in ("", node_id_for_host("h")):
        server.await_(server.stores.signals.publish("nodes", payload))
        server.turn()
        server.down()
        assert server.ask("/config", {"node_key": key}) == before
        server.down(False)
        calls = len(server.outages["nodes"].calls)
        assert server.ask("/config", {"node_key": key}) == before
        assert len(server.outages["nodes"].calls) > calls


def test_a_store_that_is_full_keeps_no_node_from_its_config(server: Server) -> None:
    """A certificate that is new is noted when there is room; who shows it is proven without."""
    server.certificate = "node-9"
    server.outages["nodes"].before = lambda name: fail(StoreFull("no room")) if name == "record" else None
    assert server.ask("/config", {"node_key": ""})[0] == 200
    assert server.operate("/api/v1/nodes/node-9")[0] == 404
    server.outages["nodes"].before = lambda name: None
    assert server.ask("/config", {"node_key": ""})[0] == 200
    assert server.operate("/api/v1/nodes/node-9")[0] == 200


def test_etag_protocol(server: Server) -> None:
    """No etag for old clients; with one that differs, the config and its etag; with the same, exactly that."""
    key = server.enroll()
    _, old = server.ask("/config", {"node_key": key})
    _, new = server.ask("/config", {"node_key": key, "etag": ""})
    assert "etag" not in old
    assert {**old, "etag": new["etag"]} == new
    _, _, same = server.finish(server.begin("/config", {"node_key": key, "etag": new["etag"]}))
    assert same == b'{"etag":"ok"}'
    assert server.ask("/config", {"node_key": key, "etag": "old"})[1] == new
    assert server.ask("/config", {"node_key": key, "etag": None})[1] == new


def test_layers_are_for_whom_they_say(tmp_path: Path) -> None:
    """A layer reaches only the nodes of its target."""
    layers = {
        "00.conf": '{"options": {"a": 1}}',
        "10.conf": '{"osqtwist": {"target": {"tags": ["tagged"]}}, "options": {"b": 2}}',
        "20.conf": '{"osqtwist": {"target": {"platforms": ["darwin"]}}, "options": {"c": 3}}',
    }
    server = Server(tmp_path, layers)
    linux, mac = server.enroll("linux"), server.enroll("mac", platform="21")
    assert set(server.ask("/config", {"node_key": linux})[1]["options"]) >= {"a", "b"}
    assert "c" not in server.ask("/config", {"node_key": linux})[1]["options"]
    assert "c" in server.ask("/config", {"node_key": mac})[1]["options"]
    found = server.operate("/api/v1/nodes/mac/config")[1]
    assert found["layers"] == ["00.conf", "10.conf", "20.conf"]
    because = [row["because"] for row in server.operate("/api/v1/nodes/linux/config")[1]["why"]["layers"]]
    assert because == [
        ["it is for every node"],
        ["tags: tag tagged (from its enroll secret)"],
        ["platforms: its platform is linux, posix"],
    ]
    options = {row["option"]: row["layer"] for row in found["why"]["options"]}
    assert (options["c"], options["logger_tls_period"]) == ("20.conf", "")
    server.stop()


def test_a_tag_of_a_certificate_is_known_to_be_of_it(tmp_path: Path) -> None:
    """However the node came in, and though operators gave it the same one."""
    server = Server(tmp_path, {"00.conf": '{"osqtwist": {"target": {"where": "tag:ou:test"}}}'})
    for name, enrolls in (("node-1", False), ("node-2", True)):
        server.certificate = name
        if enrolls:
            server.ask("/enroll", {"enroll_secret": SECRET, "host_identifier": name})
        server.ask("/config", {"node_key": ""})
        server.operate(f"/api/v1/nodes/{name}/tags", {"add": ["ou:test"]}, "POST")
        (row,) = server.operate(f"/api/v1/nodes/{name}/config")[1]["why"]["layers"]
        assert row["because"] == ["where: tag:ou:test: tag ou:test (from operators and its certificate)"]
    server.stop()


# -- log


def test_lines_are_stored_with_who_sent_them(server: Server) -> None:
    """The buffer has the lines, the proven identity, and an event id for each."""
    server.certificate = "node-1"
    assert server.ask("/log", log_body("", {"name": "a"}, {"name": "b"}))[1] == {}
    _, lines = server.operate("/api/v1/logs?from=start&follow=0")
    assert [line["line"]["name"] for line in lines] == ["a", "b"]
    assert {line["identity"] for line in lines} == {"node-1"}
    assert len({line["event_id"] for line in lines}) == 2
    assert lines[0]["log_type"] == "result"


def test_gzip_bodies(server: Server) -> None:
    """logger_tls_compress: the whole body is gzip."""
    key = server.enroll()
    packed = gzip.compress(json.dumps(log_body(key, {"a": 1})).encode())
    assert server.ask("/log", raw=packed, headers={"Content-Encoding": "gzip"})[1] == {}
    code, answer = server.ask("/log", raw=packed[:-9], headers={"Content-Encoding": "gzip"})
    assert (code, set(answer)) == (400, {"error"})
    code, answer = server.ask("/log", raw=b"not gzip", headers={"Content-Encoding": "gzip"})
    assert (code, set(answer)) == (400, {"error"})


def test_a_gzip_bomb_is_refused(tmp_path: Path) -> None:
    """Inflating stops at the limit."""
    server = Server(tmp_path, max_log_body_mib=1)
    server.enroll()
    bomb = gzip.compress(b"0" * 20_000_000)
    code, answer = server.ask("/log", raw=bomb, headers={"Content-Encoding": "gzip"})
    assert (code, set(answer)) == (413, {"error"})
    server.stop()


@pytest.mark.slow
def test_who_wastes_much_may_send_little_for_a_while(tmp_path: Path) -> None:
    """A stranger cannot have large bodies read without end; small ones, and other addresses, are served."""
    server = Server(tmp_path, max_log_body_mib=64)
    key, waste = server.enroll(), server.api.exchange.waste
    bomb = gzip.compress(b"{}" * (16 * 2**20), 9)
    headers = {"Content-Encoding": "gzip"}
    answers = [server.ask("/log", raw=bomb, headers=headers) for _ in range(10)]
    assert [code for code, _ in answers] == [400] * 9 + [429]
    assert "try again" in answers[-1][1]["error"]
    assert waste.most("192.0.2.9", 2**26) == 2**26
    assert server.ask("/log", log_body(key, {"name": "a"})) == (200, {})
    large = {"node_key": key, "queries": {"none": [{"a": "x" * 2**21}]}}
    assert server.ask("/distributed/write", large)[0] == 429
    server.turn(40)
    assert server.ask("/distributed/write", large) == (200, {})
    server.turn(400)
    assert waste.most("127.0.0.1", 2**26) == 2**26 and not waste._by_address
    server.stop()


def test_bad_lines_do_not_block_a_node(server: Server) -> None:
    """What cannot be delivered goes to the dead letters; the node is told that all is well."""
    key = server.enroll()
    assert server.ask("/log", log_body(key, {"a": 1}, "text", None))[1] == {}
    assert server.operate("/api/v1/logs?from=start&follow=0")[1]["line"] == {"a": 1}
    _, dead = server.operate("/api/v1/logs/dead")
    assert [(each["text"], each["reason"]) for each in dead] == [
        ('"text"', "not a JSON object"),
        ("null", "not a JSON object"),
    ]
    assert server.ask("/log", log_body(key, {"a": 1}, log_type="mystery"))[1] == {}


def test_an_empty_post_is_acknowledged(server: Server) -> None:
    """data may be empty: the client dropped all its lines for their size."""
    assert server.ask("/log", log_body(server.enroll()))[1] == {}


def test_a_full_buffer_leaves_the_lines_with_the_node(server: Server) -> None:
    """Past the budget the answer is an error, and nothing was stored; room makes it go on."""
    key = server.enroll()
    for letter in "ab":
        assert server.ask("/log", log_body(key, {"a": letter * 400_000}))[1] == {}
    body = log_body(key, {"a": "c" * 400_000})
    code, answer = server.ask("/log", body)
    assert (code, set(answer)) == (503, {"error"})
    assert server.operate("/api/v1/status")[1]["log_buffer"]["batches"] == 2
    server.turn(10)
    assert server.operate("/api/v1/logs/trim", {"older_than": 1}, "POST")[1] == {"deleted": 2}
    assert server.ask("/log", body)[1] == {}


@pytest.mark.parametrize("known", [True, False], ids=["good lines", "a bad line first"])
def test_a_post_that_has_grown_while_its_answer_was_lost(known: bool, server: Server) -> None:
    """osquery sends the same lines with newer ones after them: only those are stored."""
    key = server.enroll()
    first = {"a": 1} if known else "no object"
    posts = [[first], [first, {"a": 2}], [first, {"a": 2}, "bad", {"a": 3}], [first, {"a": 2}, "bad", {"a": 3}]]
    for lines in posts:
        assert server.ask("/log", log_body(key, *lines))[1] == {}
    # The same beginning, but no more the same lines: it is stored whole.
    assert server.ask("/log", log_body(key, first, {"a": 9}, {"b": 1}, {"b": 2}, {"b": 3}))[1] == {}
    _, lines = server.operate("/api/v1/logs?from=start&follow=0")
    found = [line["line"] for line in lines]
    live = [{"a": 1}] * known
    assert found == [*live, {"a": 2}, {"a": 3}, *live, {"a": 9}, {"b": 1}, {"b": 2}, {"b": 3}]
    assert len({line["event_id"] for line in lines}) == len(lines)
    _, dead = server.operate("/api/v1/logs/dead")
    assert len([dead] if known else dead) == (1 if known else 3)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"x"', b'{"data":5}', b"\xff", b"{} x"])
@pytest.mark.parametrize("path", ["/log", "/config", "/distributed/write"])
def test_what_is_not_a_request_is_an_error(server: Server, path: str, body: bytes) -> None:
    """A body that osquery cannot have sent is answered with an error that it would understand."""
    code, answer = server.ask(path, raw=body)
    assert code in (400, 401)
    assert answer["error"]


# -- distributed


def test_a_query_is_given_once_and_its_result_counted_once(server: Server) -> None:
    """Read gives the query; write takes the rows; a second write of the same changes nothing."""
    key = server.enroll()
    query = server.issue("select 1 as one")
    _, work = server.ask("/distributed/read", {"node_key": key})
    assert work == {"queries": {query.query_id: "select 1 as one"}}
    result = {
        "node_key": key,
        "queries": {query.query_id: [{"one": "1"}]},
        "statuses": {query.query_id: 0},
        "messages": {query.query_id: ""},
        "stats": {query.query_id: {"wall_time_ms": 3}},
    }
    assert server.ask("/distributed/write", result)[1] == {}
    assert server.ask("/distributed/write", result)[1] == {}
    _, found = server.operate(f"/api/v1/queries/{query.query_id}/results")
    assert (found["rows"], found["stats"], found["status"]) == ([{"one": "1"}], {"wall_time_ms": 3}, 0)
    assert server.operate(f"/api/v1/queries/{query.query_id}")[1]["answered"] == 1


def test_results_nobody_asked_for_are_taken_and_passed_over(server: Server) -> None:
    """An unknown query id must not make the node send its results for ever."""
    key = server.enroll()
    body = {"node_key": key, "queries": {"q-unknown": [{"a": "1"}]}, "statuses": {"q-unknown": 0}}
    assert server.ask("/distributed/write", body)[1] == {}


def test_invalid_utf8_in_rows(server: Server) -> None:
    """Rows are not checked for UTF-8 by the client: wrong bytes are kept as text."""
    key = server.enroll()
    query = server.issue()
    server.ask("/distributed/read", {"node_key": key})
    raw = f'{{"node_key":"{key}","queries":{{"{query.query_id}":[{{"p":"a?b"}}]}},"statuses":{{}}}}'
    assert server.ask("/distributed/write", raw=raw.encode().replace(b"?", b"\xff"))[1] == {}
    assert server.operate(f"/api/v1/queries/{query.query_id}/results")[1]["rows"] == [{"p": "a\\xFFb"}]


# -- carve


def carve(server: Server, key: str, data: bytes, size: int = 100) -> str:
    body = {
        "node_key": key,
        "block_count": -(-len(data) // size),
        "block_size": size,
        "carve_size": len(data),
        "carve_id": "../../etc/passwd",
        "request_id": "r",
    }
    code, answer = server.ask("/carver/start", body)
    assert code == 200, answer
    found = answer["session_id"]
    assert isinstance(found, str)
    return found


def block(server: Server, session: str, number: int, data: bytes, **more: Any) -> tuple[int, bytes]:
    body = {
        "session_id": session,
        "block_id": number,
        "request_id": "r",
        "data": base64.b64encode(data[number * 100 : (number + 1) * 100]).decode(),
    }
    code, _, content = server.finish(server.begin("/carver/continue", body, **more))
    return code, content


def test_a_carve_in_any_order_and_twice(server: Server, tmp_path: Path) -> None:
    """Blocks may come in any order and again; the file is whole, and its SHA-256 known."""
    key = server.enroll()
    data = bytes(range(256)) + b"tail"
    session = carve(server, key, data)
    for number in (2, 0, 0, 2, 1, 1):
        assert block(server, session, number, data) == (200, b"{}")
    (found,) = server.operate("/api/v1/carves")[1]["carves"]
    assert (found["received_blocks"], found["sha256"]) == (3, hashlib.sha256(data).hexdigest())
    assert "/" not in found["file"]
    assert (tmp_path / found["file"]).read_bytes() == data
    assert not list(tmp_path.glob("*.part"))


def test_a_carve_of_nothing_is_complete_at_once(server: Server) -> None:
    """No block is ever sent for it."""
    carve(server, server.enroll(), b"")
    (found,) = server.operate("/api/v1/carves")[1]["carves"]
    assert found["sha256"] == hashlib.sha256(b"").hexdigest()


def test_refused_blocks_are_not_json(server: Server) -> None:
    """osquery takes any JSON for success on a block, so a refusal is text."""
    key, other = server.enroll("a"), server.enroll("b")
    data = b"x" * 250
    session = carve(server, key, data)
    stranger = {"Authorization": f"NodeKey {other}"}
    for answer in (
        block(server, "unknown", 0, data),
        block(server, session, 3, data),
        block(server, session, -1, data),
        block(server, session, 2, b"x" * 300),
        block(server, session, 0, data, headers=stranger),
        server.finish(server.begin("/carver/continue", raw=b"{"))[::2],
    ):
        with pytest.raises(ValueError, match="Expecting value"):
            json.loads(answer[1])
        assert answer[1]
    own = {"Authorization": f"NodeKey {key}"}
    assert block(server, session, 0, data, headers=own) == (200, b"{}")


def test_a_carve_begun_with_a_certificate_goes_on_with_it_only(server: Server) -> None:
    """Old clients show no key with a block, but their connection shows their certificate."""
    server.certificate = "node-1"
    data = b"y" * 150
    session = carve(server, "", data)
    server.certificate = "node-2"
    assert block(server, session, 0, data)[0] == 404
    server.certificate = None
    assert block(server, session, 0, data)[0] == 404
    server.certificate = "node-1"
    assert block(server, session, 0, data) == (200, b"{}")


@pytest.mark.parametrize(
    "figures",
    [(1, 100, 201), (3, 100, 100), (1, 0, 0), (-1, 100, -100), (1, 10**9, 10**9), (10**9, 100, 10**11)],
)
def test_figures_of_a_carve_must_agree(server: Server, figures: tuple[int, int, int]) -> None:
    """Block count, block size and carve size are checked against each other and the limits."""
    count, size, total = figures
    body = {"node_key": server.enroll(), "block_count": count, "block_size": size, "carve_size": total}
    code, answer = server.ask("/carver/start", body)
    assert code == 400
    assert "session_id" not in answer


def test_one_node_cannot_open_carves_without_end(server: Server) -> None:
    """There is a limit of carves under way for each node."""
    key = server.enroll()
    for _ in range(8):
        carve(server, key, b"z")
    assert server.ask("/carver/start", {"node_key": key, "block_count": 1, "block_size": 1, "carve_size": 1})[0] == 400


# -- routes


def test_every_alias_reaches_its_route(tmp_path: Path) -> None:
    """All paths of the table answer as their route does, with and without the prefix, to POST and PUT."""
    server = Server(tmp_path, route_prefix=("/public/osquery",))
    for route, paths in paths_by_route(("/public/osquery",)).items():
        for path in paths:
            for method in ("POST", "PUT"):
                code, _, content = server.finish(server.begin(path, raw=b"{", method=method))
                assert code == 400, (route, path, method)
                assert b"malformed" in content.lower() or b"error" in content, (route, path, method)
    server.stop()


@pytest.mark.parametrize("path", ["/", "/nope", "/enroll/", "/config/x", "/%2e%2e/enroll", "/ENROLL", "/a%00b"])
def test_unknown_paths_are_errors(server: Server, path: str) -> None:
    """404, and a body that no client mistakes for success."""
    code, answer = server.ask(path, {})
    assert code == 404
    assert set(answer) == {"error"}


@pytest.mark.parametrize("method", ["GET", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_are_errors(server: Server, method: str) -> None:
    """405 with the methods that there are."""
    code, headers, content = server.finish(server.begin("/config", raw=b"", method=method))
    assert code == 405
    assert headers.getRawHeaders("Allow") == ["POST, PUT"]
    assert set(json.loads(content)) == {"error"}


def test_what_nobody_expected_is_an_incident(server: Server) -> None:
    """The node sees an id and nothing else, and its lines stay with it."""
    key = server.enroll()
    server.outages["logs"].store = None
    code, answer = server.ask("/log", log_body(key, {"a": 1}))
    assert code == 500
    assert "incident" in answer["error"]
    assert "NoneType" not in answer["error"]


def test_operators_give_tags(server: Server) -> None:
    """A layer and a query for the tag reach the node at once, and still do after it enrolled again."""
    key = server.enroll()
    reading = server.begin("/distributed/read", {"node_key": key})
    query = server.issue("select 1", target=Target(tags=("blue",)))
    server.turn()
    assert not reading.called
    _, answer = server.operate("/api/v1/nodes/host-1/tags", {"add": ["blue", "ou:eu/web"]}, "POST")
    assert answer["tags"] == ["blue", "ou:eu/web", "tagged"]
    server.turn(10)
    work = server.ask("/distributed/read", {"node_key": server.enroll()})[1]
    assert work["queries"] == {query.query_id: "select 1"}
    _, node = server.operate("/api/v1/nodes/host-1")
    assert (node["tags"], node["given_tags"]) == (["blue", "ou:eu/web", "tagged"], ["blue", "ou:eu/web"])
    assert server.operate("/api/v1/nodes/host-1/tags", {"remove": ["blue", "tagged"]}, "POST")[1]["tags"] == [
        "ou:eu/web",
        "tagged",
    ]
    for bad in ({"add": ["a b"]}, {"add": [f"t{number}" for number in range(200)]}, {"put": []}):
        code, answer = server.operate("/api/v1/nodes/host-1/tags", bad, "POST")
        assert (code, answer["type"]) == (400, "bad-request")


def test_a_forgotten_node_comes_back_as_new(server: Server) -> None:
    """Nothing of it is kept; its key is still good."""
    key = server.enroll()
    server.operate("/api/v1/nodes/host-1/tags", {"add": ["blue"]}, "POST")
    assert server.operate("/api/v1/nodes/host-1/forget", {}, "POST")[1]["forgotten"]
    assert server.operate("/api/v1/nodes/host-1")[0] == 404
    assert "schedule" in server.ask("/config", {"node_key": key})[1]
    server.turn(10)
    (node,) = server.operate("/api/v1/nodes")[1]["nodes"]
    assert (node["tags"], node["enrolled_at"]) == ([], None)


def test_nodes_are_searched_in_the_target_language(server: Server) -> None:
    """Pages of those that match; a bad expression is a sentence."""
    for number in range(7):
        server.enroll(f"host-{number}", platform="16" if number % 2 else "9")
    server.turn(10)
    code, page = server.operate("/api/v1/nodes?where=platform:darwin&limit=2")
    assert (code, len(page["nodes"])) == (200, 2)
    _, rest = server.operate(f"/api/v1/nodes?where=platform:darwin&limit=2&offset={page['next_offset']}")
    names = {each["name"] for each in (*page["nodes"], *rest["nodes"])}
    assert (names, rest["next_offset"]) == ({"host-1", "host-3", "host-5"}, None)
    code, answer = server.operate("/api/v1/nodes?where=colour:red")
    assert (code, "no key 'colour'" in answer["detail"]) == (400, True)


@pytest.mark.parametrize("path", ["/api/v1/queries", "/api/v1/queries/run"])
def test_sql_that_no_node_could_run_is_refused(path: str, server: Server) -> None:
    """Before any node is asked; unless the operator knows better."""
    code, answer = server.operate(path, {"sql": "select nme from processes"}, "POST")
    assert (code, "name" in answer["detail"]) == (400, True)
    code, answer = server.operate(path, {"sql": "select 1", "discovery": "selec"}, "POST")
    assert (code, "selec" in answer["detail"]) == (400, True)
    assert server.operate("/api/v1/queries")[1]["queries"] == []
    assert server.operate("/api/v1/queries", {"sql": "select nme from processes", "check": False}, "POST")[0] == 201


def test_certificates_that_end_soon(server: Server) -> None:
    """As a list, the first to end first, and as a metric; a node without a certificate is not there."""
    server.enroll()
    server.certificate = "node-1"
    assert "schedule" in server.ask("/config", {"node_key": ""})[1]
    assert server.operate("/api/v1/certificates?within=5")[1] == {"certificates": []}
    _, found = server.operate("/api/v1/certificates?within=30")
    (row,) = found["certificates"]
    assert (row["name"], row["issuer"], row["days"]) == ("node-1", "CN=test CA", 11.6)
    server.finish(Deferred.fromCoroutine(server.inventory.update_metrics()))
    counts = {word: server.metrics.node_certificates.labels(ends=word)._value.get() for word in ("30 days", "expired")}
    assert counts == {"30 days": 1, "expired": 0}


def test_a_herd_that_enrolls_does_not_have_all_revocations_read_each_time(server: Server) -> None:
    """Once at the first, and once for all others within the same tenth of a second; a revocation is seen by then."""
    calls = server.outages["nodes"].calls
    server.turn(1)
    calls.clear()
    keys = [server.enroll(f"host-{number}") for number in range(20)]
    assert calls.count("revocations") <= 1
    server.operate("/api/v1/nodes/host-3/revoke", {}, "POST")
    server.turn(0.1)
    assert calls.count("revocations") <= 3
    assert server.ask("/config", {"node_key": keys[3]})[1]["node_invalid"] is True
