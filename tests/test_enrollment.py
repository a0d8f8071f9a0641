"""Enroll secrets that operators hand out, and nodes that wait for approval."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor

from osqtwist import enrollinterfaces
from osqtwist.enrollinterfaces import PendingNode, SecretUse
from osqtwist.enrollsecret import EnrollSecret, EnrollSecrets, digest_of, parse_enroll_secrets
from osqtwist.node import Node
from osqtwist.settings import BadSetting, gather
from osqtwist.storage import memory_enrollment, redis_enrollment
from osqtwist.storage.memory import MemoryStores
from tests.harness import SECRET, START, InMemoryServer
from tests.stores import RealValkey, valkey


@pytest.fixture
def server(tmp_path: Path) -> Iterator[InMemoryServer]:
    made = InMemoryServer(tmp_path)
    yield made
    made.stop()


def hand_out(server: InMemoryServer, name: str = "lab", **order: Any) -> str:
    code, made = server.operate("/api/v1/secrets", {"name": name, **order}, "POST")
    assert code == 201, made
    text = made["secret"]
    assert isinstance(text, str)
    server.turn()
    return text


def enroll(server: InMemoryServer, secret: str, host: str = "host-1") -> tuple[int, Any]:
    return server.ask("/enroll", {"enroll_secret": secret, "host_identifier": host, "host_details": {}})


def listed(server: InMemoryServer, name: str = "lab") -> dict[str, Any]:
    rows = server.operate("/api/v1/secrets")[1]["secrets"]
    return [row for row in rows if row["name"] == name][-1]


def test_a_secret_lets_nodes_in_until_it_is_revoked(server: InMemoryServer) -> None:
    """With its tags; who came by it is listed and found, and stays in when it ends."""
    text = hand_out(server, tags=["lab"])
    code, answer = enroll(server, text)
    assert code == 200
    row = server.operate("/api/v1/nodes/host-1")[1]
    assert (row["secret"], row["tags"]) == ("lab", ["lab"])
    found = server.operate("/api/v1/nodes?where=secret:lab")[1]["nodes"]
    server.turn(5)
    found = server.operate("/api/v1/nodes?where=secret:lab")[1]["nodes"]
    assert [each["name"] for each in found] == ["host-1"]
    assert (listed(server)["enrollments"], listed(server)["used_by"], listed(server)["nodes"]) == (1, "host-1", None)
    assert text not in str(server.operate("/api/v1/secrets"))
    assert server.operate("/api/v1/secrets/lab/revoke", {}, "POST")[0] == 200
    server.turn()
    assert enroll(server, text, "host-2") == (401, {"error": "the enroll secret has ended", "node_invalid": True})
    assert server.ask("/config", {"node_key": answer["node_key"]})[0] == 200
    assert listed(server)["ended"]
    assert server.operate("/api/v1/secrets/lab/revoke", {}, "POST")[1]["detail"] == "every secret 'lab' has ended"
    assert server.operate("/api/v1/secrets/lab/forget", {}, "POST")[1] == {"name": "lab", "forgotten": 1}
    assert server.operate("/api/v1/secrets")[1] == {"secrets": []}


def test_a_secret_ends_by_itself(server: InMemoryServer) -> None:
    """At the second it was said to."""
    text = hand_out(server, expires_in=60)
    assert enroll(server, text)[0] == 200
    server.turn(60)
    assert enroll(server, text)[0] == 401


def test_a_quota_counts_nodes(server: InMemoryServer) -> None:
    """A node that enrolls again uses up nothing; who comes too late is refused, but for one with a certificate."""
    text = hand_out(server, quota=2, tags=["few"])
    for host in ("a", "b", "a"):
        assert enroll(server, text, host)[0] == 200
    code, answer = enroll(server, text, "c")
    assert (code, answer["error"]) == (401, "as many nodes have enrolled by this secret as may")
    assert (listed(server)["enrollments"], listed(server)["nodes"], listed(server)["quota"]) == (3, 2, 2)
    server.certificate = "proven"
    assert enroll(server, text, "d")[0] == 200
    row = server.operate("/api/v1/nodes/proven")[1]
    assert (row["tags"], row["secret"]) == (["ou:test"], None)


def test_a_secret_is_for_nodes_of_a_name(server: InMemoryServer) -> None:
    """By the certificate where there is one, whatever the node calls itself."""
    text = hand_out(server, allow=["web-*", "db-1"])
    assert enroll(server, text, "WEB-7")[0] == 200
    code, answer = enroll(server, text, "mail-1")
    assert (code, answer["error"]) == (401, "the enroll secret is not for a node of this name")
    server.certificate = "mail-1"
    assert enroll(server, text, "web-8")[0] == 200
    assert server.operate("/api/v1/nodes/mail-1")[1]["secret"] is None


def test_rotation_overlaps(server: InMemoryServer) -> None:
    """Both texts are good for a while, then the new one alone; a third ends the first as said first."""
    old = hand_out(server, tags=["lab"])
    code, made = server.operate("/api/v1/secrets/lab/rotate", {"overlap": 100}, "POST")
    assert code == 200
    server.turn()
    assert [enroll(server, text)[0] for text in (old, made["secret"])] == [200, 200]
    assert server.operate("/api/v1/nodes/host-1")[1]["tags"] == ["lab"]
    server.operate("/api/v1/secrets/lab/rotate", {"overlap": 500}, "POST")
    server.turn(101)
    assert [enroll(server, text)[0] for text in (old, made["secret"])] == [401, 200]


@pytest.mark.parametrize(
    "order",
    [
        {"name": "b l a n k"},
        {"name": "x", "tags": ["no tag"]},
        {"name": "x", "secret": "short"},
        {"name": "x", "secret": "new\nlines are not good here"},
        {"name": "x", "allow": [""]},
        {"name": "x", "quota": -1},
    ],
)
def test_what_cannot_be_a_secret(order: dict[str, Any], server: InMemoryServer) -> None:
    """It is said, and nothing is made."""
    code, answer = server.operate("/api/v1/secrets", order, "POST")
    assert (code, answer["status"]) == (400, 400)
    assert server.operate("/api/v1/secrets")[1] == {"secrets": []}


def test_names_and_texts_are_taken_once(server: InMemoryServer) -> None:
    """A second secret of one name, or with one text, would be a riddle."""
    hand_out(server, secret="this-is-what-nodes-have")
    assert "rotate or revoke it" in server.operate("/api/v1/secrets", {"name": "lab"}, "POST")[1]["detail"]
    twice = {"name": "other", "secret": "this-is-what-nodes-have"}
    assert "with this text already" in server.operate("/api/v1/secrets", twice, "POST")[1]["detail"]
    assert enroll(server, "this-is-what-nodes-have")[0] == 200


def test_nobody_is_refused_while_secrets_are_not_known(tmp_path: Path) -> None:
    """A server that could not read them yet says that it cannot tell, rather than that the secret is wrong."""
    made = InMemoryServer(tmp_path)
    made.secrets.stored = None
    made.down()
    assert enroll(made, "a secret of the store")[0] == 503
    made.down(False)
    made.turn(5)
    assert enroll(made, "a secret of the store")[0] == 401
    assert enroll(made, SECRET)[0] == 200
    made.stop()


def test_a_secret_of_the_file_needs_nothing_of_the_store(server: InMemoryServer) -> None:
    """Nobody counts its uses."""
    server.outages["secrets"].calls.clear()
    server.enroll()
    assert "use" not in server.outages["secrets"].calls


def test_of_two_with_one_text_the_one_in_force_counts() -> None:
    """An ended one does not hide it."""
    ended = EnrollSecret(digest=digest_of("text"), secret_id="1", expires_at=5.0)
    good = EnrollSecret(digest=digest_of("text"), secret_id="2")
    assert EnrollSecrets((), (ended, good)).match("text", 9.0) == good
    assert EnrollSecrets((), (good, ended)).match("text", 9.0) == good
    assert EnrollSecrets((), (ended,)).match("text", 9.0) == ended
    assert EnrollSecrets((), (good,)).match("", 9.0) is None
    assert "digest" not in repr(good)


def test_a_tag_of_the_file_must_be_one() -> None:
    """The error names the line."""
    with pytest.raises(ValueError, match="line 2: '<b>' cannot be a tag"):
        parse_enroll_secrets("# of the lab\nsecret <b>\n")


# Approval.


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[InMemoryServer]:
    made = InMemoryServer(tmp_path, approve_nodes="not tag:trusted")
    yield made
    made.stop()


WAITS = {"error": "this node waits until an operator approves of it"}


def waiting(server: InMemoryServer) -> list[str]:
    return [row["name"] for row in server.operate("/api/v1/pending")[1]["pending"]]


def test_a_new_node_waits_until_it_is_approved(strict: InMemoryServer) -> None:
    """It gets no key, and is not told to drop the one it has; approved, it enrolls by itself."""
    assert enroll(strict, SECRET) == (403, WAITS)
    assert waiting(strict) == ["host-1"]
    assert strict.operate("/api/v1/nodes")[1]["nodes"] == []
    code, answer = strict.operate("/api/v1/pending", {"nodes": ["host-1"]}, "POST")
    assert (code, [each["name"] for each in answer["approved"]]) == (200, ["host-1"])
    assert waiting(strict) == []
    code, answer = enroll(strict, SECRET)
    assert code == 200
    assert strict.ask("/config", {"node_key": answer["node_key"]})[0] == 200


def test_who_needs_no_approval(strict: InMemoryServer) -> None:
    """Tags of a secret or certificate decide, as the option says."""
    assert enroll(strict, hand_out(strict, tags=["trusted"]))[0] == 200


def test_a_node_that_never_enrolls_waits_too(strict: InMemoryServer) -> None:
    """One with a certificate and no key: no config, no logs, no queries; then all of it."""
    strict.certificate = "proven"
    for path, body in (("/config", {}), ("/log", {"log_type": "status", "data": []}), ("/distributed_read", {})):
        assert strict.ask(path, {"node_key": "", **body}) == (403, WAITS)
    assert waiting(strict) == ["proven"]
    assert strict.operate("/api/v1/pending", {"where": "cn:prov*"}, "POST")[0] == 200
    assert strict.ask("/config", {"node_key": ""})[0] == 200
    assert strict.ask("/log", {"node_key": "", "log_type": "status", "data": []})[0] == 200


def test_a_node_that_was_forgotten_waits_again(strict: InMemoryServer) -> None:
    """Its key is good still, and does not let it in."""
    enroll(strict, SECRET)
    strict.operate("/api/v1/pending", {"where": "*"}, "POST")
    key = enroll(strict, SECRET)[1]["node_key"]
    strict.turn(30)
    node_id = strict.operate("/api/v1/nodes/host-1")[1]["node"]
    assert strict.operate("/api/v1/nodes/host-1/forget", {}, "POST")[0] == 200
    strict.turn(1)
    assert strict.ask("/config", {"node_key": key}) == (403, WAITS)
    # What it called itself is forgotten too.
    assert waiting(strict) == [node_id]


def test_a_node_is_refused(strict: InMemoryServer) -> None:
    """It is revoked, and gone from the list, until that is taken back."""
    enroll(strict, SECRET)
    assert strict.operate("/api/v1/pending/host-1/refuse", {"reason": "unknown"}, "POST")[0] == 200
    strict.turn(1)
    assert enroll(strict, SECRET)[1]["error"] == "this node is revoked"
    assert waiting(strict) == []
    assert strict.operate("/api/v1/pending", {"nodes": ["host-1"]}, "POST")[0] == 404


def test_who_does_not_ask_any_more_is_not_kept(strict: InMemoryServer) -> None:
    """After a week; who asks keeps its first time."""
    enroll(strict, SECRET, "stays")
    enroll(strict, SECRET, "goes")
    strict.turn(6 * 86400)
    enroll(strict, SECRET, "stays")
    strict.turn(2 * 86400)
    (row,) = strict.operate("/api/v1/pending")[1]["pending"]
    assert (row["name"], row["first_at"], row["asked_at"]) == ("stays", START, START + 6 * 86400)


def test_asking_again_costs_little(strict: InMemoryServer) -> None:
    """A node that asks every second is written down twice a minute."""
    for _ in range(60):
        enroll(strict, SECRET)
        strict.turn(1)
    assert strict.outages["pending"].calls.count("ask") == 2


def test_an_expression_that_is_none() -> None:
    """The error names the option."""
    with pytest.raises(BadSetting, match="--approve-nodes is not an expression: column 1: there is no key 'tags'"):
        gather({"approve_nodes": "tags:x"}, {})


# What every store has to keep.


@pytest.fixture(scope="module")
def redis() -> Iterator[RealValkey]:
    with valkey() as running:
        yield running


@pytest_twisted.async_yield_fixture(params=["memory", "redis"])
async def stores(request: pytest.FixtureRequest, redis: RealValkey) -> AsyncIterator[Any]:
    made: Any = MemoryStores(reactor) if request.param == "memory" else redis.stores(reactor)
    await made.ready()
    yield made
    await made.close()


def a_secret(number: int = 1, **more: Any) -> EnrollSecret:
    return EnrollSecret(digest=digest_of(str(number)), secret_id=f"id{number}", created_at=float(number), **more)


@pytest_twisted.ensureDeferred
async def test_secrets_are_kept_whole(stores: Any) -> None:
    """In the order they were made; what replaces one has its id."""
    full = a_secret(2, name="n", tags=("a",), allow=("b*",), quota=3, created_by="me", expires_at=9.5)
    await stores.secrets.put(full)
    await stores.secrets.put(a_secret(1))
    assert await stores.secrets.all() == [a_secret(1), full]
    await stores.secrets.put(a_secret(1, name="other"))
    assert (await stores.secrets.all())[0].name == "other"
    await stores.secrets.use(full, "n1", "one", 3.0)
    await stores.secrets.remove("id2")
    await stores.secrets.remove("id2")
    assert [each.secret_id for each in await stores.secrets.all()] == ["id1"]
    assert await stores.secrets.uses(["id2"]) == [SecretUse()]


@pytest_twisted.ensureDeferred
async def test_uses_are_counted(stores: Any) -> None:
    """With a quota nodes are, at once with the check."""
    free, tight = a_secret(1), a_secret(2, quota=1)
    assert [await stores.secrets.use(free, node, f"name {node}", 1.5) for node in ("n1", "n2")] == [True, True]
    assert [await stores.secrets.use(tight, node, node, 2.5) for node in ("n1", "n2", "n1")] == [True, False, True]
    assert await stores.secrets.uses(["id1", "id2", "id3"]) == [
        SecretUse(2, 0, 1.5, "name n2"),
        SecretUse(2, 1, 2.5, "n1"),
        SecretUse(),
    ]


def a_pending(name: str = "n1", at: float = 1.0, **more: Any) -> PendingNode:
    return PendingNode(Node(node_id=name, name=f"{name} ü", proof="secret", **more), "192.0.2.1", at, at)


@pytest_twisted.ensureDeferred
async def test_who_waits_is_kept_with_its_first_time(stores: Any) -> None:
    """Whole, as the node asked last."""
    assert await stores.pending.ask(a_pending("n1", 1.0))
    assert await stores.pending.ask(a_pending("n2", 2.0))
    assert not await stores.pending.ask(a_pending("n1", 3.0, tags=("new",), host_details={"os_version": {}}))
    first = await stores.pending.get("n1")
    assert (first.first_at, first.asked_at, first.node.tags) == (1.0, 3.0, ("new",))
    assert first.node.host_details == {"os_version": {}}
    assert [each.node.node_id for each in await stores.pending.all()] == ["n1", "n2"]
    assert await stores.pending.count() == 2
    assert await stores.pending.get("n3") is None
    assert await stores.pending.remove_before(3.0) == 1
    await stores.pending.remove(["n1", "n3"])
    await stores.pending.remove([])
    assert await stores.pending.all() == []


@pytest_twisted.ensureDeferred
async def test_who_waits_is_bounded(stores: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who did not ask for longest makes room."""
    for module in (enrollinterfaces, memory_enrollment, redis_enrollment):
        monkeypatch.setattr(module, "MOST_PENDING", 2)
    for number in (3, 1, 2):
        await stores.pending.ask(a_pending(f"n{number}", float(number)))
    assert [each.node.node_id for each in await stores.pending.all()] == ["n3", "n2"]
    assert await stores.pending.count() == 2
