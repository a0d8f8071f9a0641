"""Operators: who they are, what each may do, tokens, and changes that are asked for twice."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_twisted
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor

from osqtwist.access import CertificateRole, OperatorRules
from osqtwist.operator import Actor, NotAllowed, Role, new_token, token_id_of
from osqtwist.operatorinterfaces import Answered
from osqtwist.storage.memory import MemoryStores
from osqtwist.web.openapi import openapi_document
from tests.harness import InMemoryServer
from tests.stores import RealValkey, valkey


@pytest.fixture
def server(tmp_path: Path) -> Iterator[InMemoryServer]:
    made = InMemoryServer(tmp_path)
    yield made
    made.stop()


def bearer(server: InMemoryServer, **order: Any) -> dict[str, str]:
    """Headers with a new token."""
    code, made = server.operate("/api/v1/tokens", {"name": "ci", **order}, "POST")
    assert code == 201, made
    return {"Authorization": f"Bearer {made['token']}"}


ROLES = (Role.VIEWER, Role.OPERATOR, Role.ADMIN)


@pytest.mark.parametrize("role", ROLES)
def test_every_operation_is_for_its_role(role: Role, server: InMemoryServer) -> None:
    """Each operation is refused to each lesser role, and to none other; every refusal is in the audit trail."""
    server.operator = Actor("somebody", role, "socket")
    refused = 0
    for operation in server.admin_api.operations():
        path = operation.path
        for name in operation.names:
            path = path.replace(f"{{{name}}}", "x")
        path += "?follow=0" if path == "/api/v1/logs" else ""
        code, answer = server.operate(path, {} if operation.is_change else None, operation.method)
        if operation.role is not None and role < operation.role:
            refused += 1
            assert (code, answer["type"]) == (403, "forbidden"), operation.name
            assert operation.role.word in answer["detail"]
        else:
            assert code not in (401, 403, 500), (operation.name, answer)
    server.operator = Actor("boss", Role.ADMIN, "socket")
    entries = server.operate("/api/v1/audit?limit=1000")[1]["entries"]
    assert sum("this needs the role" in entry["outcome"] for entry in entries) == refused
    assert (refused == 0) == (role is Role.ADMIN)


def test_nobody_unknown_does_anything(server: InMemoryServer) -> None:
    """Each operation but those for everybody is refused; the audit trail has some of it and the number of the rest."""
    server.operator = None
    for operation in server.admin_api.operations():
        path = operation.path.replace("{", "").replace("}", "")
        code, answer = server.operate(path, {} if operation.is_change else None, operation.method)
        assert (code == 401) == (operation.role is not None), (operation.name, answer)
    server.turn(61)
    assert server.operate("/api/v1/status", Authorization="Basic x")[0] == 401
    server.operator = Actor("boss", Role.ADMIN, "socket")
    entries = server.operate("/api/v1/audit?limit=1000")[1]["entries"]
    assert len(entries) == 11
    assert "Bearer TOKEN" in entries[0]["outcome"]
    assert "others like it before" in entries[0]["outcome"]


def test_a_token_is_good_for_its_role_groups_and_time(server: InMemoryServer) -> None:
    """And its text is nowhere but in the first answer."""
    headers = bearer(server, role="operator", groups=["nodes", "me"], expires_in=60)
    text = headers["Authorization"].removeprefix("Bearer ")
    server.operator = None
    code, me = server.operate("/api/v1/me", **headers)
    assert (code, me) == (200, {"name": "token ci", "role": "operator", "proof": "token", "groups": ["me", "nodes"]})
    assert server.operate("/api/v1/nodes", **headers)[0] == 200
    assert server.operate("/api/v1/queries", **headers)[0] == 403
    for wrong in (text[:-1] + ("A" if text[-1] != "A" else "B"), "osqtwist_", text.replace("osqtwist", "OSQTWIST")):
        assert server.operate("/api/v1/me", Authorization=f"Bearer {wrong}")[0] == 401
    server.turn(61)
    code, answer = server.operate("/api/v1/me", **headers)
    assert (code, "has ended" in answer["detail"]) == (401, True)
    server.operator = Actor("boss", Role.ADMIN, "socket")
    (row,) = server.operate("/api/v1/tokens")[1]["tokens"]
    assert (row["ended"], row["created_by"], row["used_at"]) == (
        True,
        "tester",
        pytest.approx(server.reactor.seconds() - 61),
    )
    assert text not in str(server.operate("/api/v1/audit?limit=1000")) + str(server.operate("/api/v1/tokens"))


def test_a_token_that_is_taken_back_is_good_for_nothing(server: InMemoryServer) -> None:
    """From the next request on; its name is free again."""
    headers = bearer(server)
    code, answer = server.operate("/api/v1/tokens", {"name": "ci"}, "POST")
    assert (code, "there is a token 'ci'" in answer["detail"]) == (400, True)
    assert server.operate("/api/v1/tokens/ci/revoke", {}, "POST") == (200, {"name": "ci", "revoked": 1})
    assert server.operate("/api/v1/tokens/ci/revoke", {}, "POST")[0] == 404
    assert server.operate("/api/v1/me", **headers)[0] == 401
    bearer(server)


@pytest.mark.parametrize(
    ("order", "code"),
    [
        ({"name": "a b"}, 400),
        ({"name": ""}, 400),
        ({"name": "x", "role": "root"}, 400),
        ({"name": "x", "groups": ["nodes", "everything"]}, 400),
        ({"name": "x", "expires_in": 0}, 400),
        ({"name": "x", "expires_in": 1e12}, 400),
        ({"name": "x", "colour": 1}, 400),
    ],
)
def test_a_token_that_cannot_be(order: dict[str, Any], code: int, server: InMemoryServer) -> None:
    """Is refused with a sentence."""
    found, answer = server.operate("/api/v1/tokens", order, "POST")
    assert (found, bool(answer["detail"])) == (code, True)
    assert server.operate("/api/v1/tokens")[1]["tokens"] == []


def test_nobody_hands_out_more_than_they_have(server: InMemoryServer) -> None:
    """A token limited to groups makes none that is not."""
    headers = bearer(server, role="admin", groups=["tokens", "nodes"])
    server.operator = None
    for groups in ([], ["nodes", "queries"]):
        order = {"name": "more", "groups": groups}
        assert server.operate("/api/v1/tokens", order, "POST", **headers)[0] == 403
    assert server.operate("/api/v1/tokens", {"name": "less", "groups": ["nodes"]}, "POST", **headers)[0] == 201


def test_users_of_the_socket_have_the_roles_of_the_settings() -> None:
    """Whoever is not named has the role of the socket, or none."""
    rules = OperatorRules(socket="viewer", users={"alice": "admin"})
    assert rules.actor_on_socket("alice") == Actor("alice", Role.ADMIN, "socket")
    assert rules.actor_on_socket("bob") == Actor("bob", Role.VIEWER, "socket")
    assert OperatorRules().actor_on_socket("bob").role is Role.ADMIN
    with pytest.raises(NotAllowed, match="bob has no role"):
        OperatorRules(socket="nobody").actor_on_socket("bob")


def a_certificate(**attributes: str) -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    oids = {"CN": NameOID.COMMON_NAME, "OU": NameOID.ORGANIZATIONAL_UNIT_NAME, "O": NameOID.ORGANIZATION_NAME}
    name = x509.Name([x509.NameAttribute(oids[each], value) for each, value in attributes.items()])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 5, now, now + datetime.timedelta(days=1))
    return builder.sign(key, hashes.SHA256())


def test_certificates_have_the_roles_they_say() -> None:
    """By default the OU is the role; rules of the settings look elsewhere."""
    rules = OperatorRules()
    assert rules.actor_with(a_certificate(CN="alice", OU="operator")) == Actor("alice", Role.OPERATOR, "certificate")
    for none in (a_certificate(CN="web-1"), a_certificate(CN="web-1", OU="Admin"), a_certificate(O="admin")):
        with pytest.raises(NotAllowed, match="says no role"):
            rules.actor_with(none)
    rules = OperatorRules(certificates=(CertificateRole("Security", "viewer", "subject.O"),))
    assert rules.actor_with(a_certificate(CN="bob", O="Security", OU="admin")).role is Role.VIEWER


def revoke(server: InMemoryServer, key: str, reason: str = "") -> tuple[int, Any]:
    return server.operate("/api/v1/nodes/host-1/revoke", {"reason": reason}, "POST", Idempotency_Key=key)


def test_a_change_asked_for_twice_is_done_once(server: InMemoryServer) -> None:
    """The second has the answer of the first, for a day; with another body it is refused."""
    server.enroll("host-1")
    first = server.operate("/api/v1/queries", {"sql": "select 1"}, "POST", Idempotency_Key="k1")
    assert first[0] == 201
    again = server.operate("/api/v1/queries", {"sql": "select 1"}, "POST", Idempotency_Key="k1")
    assert again == first
    assert len(server.operate("/api/v1/queries")[1]["queries"]) == 1
    code, answer = server.operate("/api/v1/queries", {"sql": "select 2"}, "POST", Idempotency_Key="k1")
    assert (code, answer["type"]) == (422, "unprocessable-entity")
    server.operator = Actor("another", Role.ADMIN, "socket")
    assert server.operate("/api/v1/queries", {"sql": "select 2"}, "POST", Idempotency_Key="k1")[0] == 201
    server.operator = Actor("tester", Role.ADMIN, "socket")
    server.turn(86401)
    later = server.operate("/api/v1/queries", {"sql": "select 1"}, "POST", Idempotency_Key="k1")
    assert (later[0], later != first) == (201, True)


def test_a_change_that_was_refused_may_be_tried_again(server: InMemoryServer) -> None:
    """Under the same key; one that may have been done, because the store went away, may not at once."""
    assert revoke(server, "k2")[0] == 404
    server.enroll("host-1")
    assert revoke(server, "k2")[0] == 200
    server.outages["nodes"].is_down = True
    assert revoke(server, "k3", "why")[0] == 503
    server.outages["nodes"].is_down = False
    assert revoke(server, "k3", "why")[0] == 409
    server.turn(601)
    assert revoke(server, "k3", "why")[0] == 200


@pytest.mark.parametrize(("path", "body"), [("queries/run", {"sql": "select 1"}), ("tokens", {"name": "x"})])
def test_what_is_not_kept_takes_no_key(path: str, body: Any, server: InMemoryServer) -> None:
    """A stream, and an answer with a secret in it; nothing is done."""
    assert server.operate(f"/api/v1/{path}", body, "POST", Idempotency_Key="k")[0] == 400
    assert revoke(server, "k" * 201)[0] == 400
    assert server.operate("/api/v1/tokens")[1]["tokens"] == []


@given(st.text(max_size=70))
def test_no_other_text_is_taken_for_a_token(text: str) -> None:
    """Whatever it is."""
    assert token_id_of(text) == ""


def test_tokens_are_long_and_only_their_digest_is_kept() -> None:
    """A token's text has 256 bits by chance, and cannot be had from what is kept."""
    kept, text = new_token("x", Role.VIEWER, (), 0.0, 10.0, "me")
    assert token_id_of(text) == kept.token_id
    assert text[-43:] not in str(kept)
    assert kept.opens(text, 9.9)
    assert not kept.opens(text, 10.0)


def test_the_openapi_document_is_whole(server: InMemoryServer) -> None:
    """Every operation is in it once, and every reference leads somewhere."""
    operations = server.admin_api.operations()
    code, document = server.operate("/api/v1/openapi.json")
    assert (code, document) == (200, msgspec.json.decode(msgspec.json.encode(openapi_document(operations))))
    ids = [each["operationId"] for path in document["paths"].values() for each in path.values()]
    assert sorted(ids) == sorted(each.name for each in operations)
    assert len(set(ids)) == len(ids)

    def references(part: Any) -> Iterator[str]:
        for key, value in part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ():
            if key == "$ref":
                yield value
            yield from references(value)

    for reference in references(document):
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]


# What osquery or somebody's configuration says.
OF_ANY_TYPE = {"LogLine.line", "ChangeRow.before", "ChangeRow.after"}


def test_no_operation_answers_untyped(server: InMemoryServer) -> None:
    """Every answer, and every line of one, is an object whose keys are declared, each with its type."""
    document = msgspec.json.decode(msgspec.json.encode(openapi_document(server.admin_api.operations())))
    schemas = document["components"]["schemas"]
    answers = []
    for path, methods in document["paths"].items():
        for operation in methods.values():
            (good,) = (each for code, each in operation["responses"].items() if code != "default")
            for media, content in good["content"].items():
                lines = content.get("x-line-schema", {}).get("anyOf")
                answers += lines or ([content["schema"]] if media == "application/json" and "schema" in content else [])
                assert media != "application/x-ndjson" or len(lines) > 1, f"{path} says nothing of its lines"
    assert all("$ref" in each for each in answers), answers
    assert {name for each in answers for name in untyped(each, schemas)} == OF_ANY_TYPE


def untyped(schema: Any, schemas: Any, name: str = "", seen: frozenset[str] = frozenset()) -> Iterator[str]:
    """The keys below a schema of which it says nothing."""
    if reference := schema.get("$ref", "").rsplit("/", 1)[-1]:
        if reference not in seen:
            yield from untyped(schemas[reference], schemas, reference, seen | {reference})
        return
    if not schema.keys() & {"type", "anyOf", "const", "enum"}:
        yield name
    for key, value in schema.get("properties", {}).items():
        yield from untyped(value, schemas, f"{name}.{key}", seen)
    parts = [schema.get("items"), schema.get("additionalProperties"), *schema.get("anyOf", ())]
    for part in filter(lambda each: isinstance(each, dict), parts):
        yield from untyped(part, schemas, name, seen)


@pytest.fixture(scope="module")
def running() -> Iterator[RealValkey]:
    with valkey() as started:
        yield started


@pytest_twisted.async_yield_fixture(params=["memory", "valkey"])
async def store(request: pytest.FixtureRequest, running: RealValkey) -> AsyncIterator[Any]:
    """An IOperatorStore, in memory and for real."""
    clock: Any = reactor
    stores: Any = MemoryStores(clock) if request.param == "memory" else running.stores(reactor)
    await stores.ready()
    yield stores.operators
    await stores.close()


@pytest_twisted.ensureDeferred
async def test_tokens_are_kept(store: Any) -> None:
    """Until they are removed, with when they were used."""
    assert (await store.tokens(), await store.token("x")) == ([], None)
    one, _ = new_token("one", Role.VIEWER, ("nodes",), 1.0, 10.0, "me")
    two, _ = new_token("two", Role.ADMIN, (), 2.0, 10.0, "me")
    await store.add_token(two)
    await store.add_token(one)
    assert msgspec.structs.replace(await store.token(one.token_id), used_at=0.0) == one
    await store.token_used(one.token_id, 5.0)
    await store.token_used("nobody", 5.0)
    assert await store.tokens() == [msgspec.structs.replace(one, used_at=5.0), two]
    assert (await store.remove_token(one.token_id), await store.remove_token(one.token_id)) == (True, False)
    assert await store.tokens() == [two]


@pytest_twisted.ensureDeferred
async def test_keys_are_taken_once(store: Any) -> None:
    """And free again when they are abandoned."""
    assert await store.begin("a", "print", 60) is None
    assert await store.begin("a", "other", 60) == Answered("print")
    await store.finish("a", Answered("print", 201, "{}"), 60)
    assert await store.begin("a", "print", 60) == Answered("print", 201, "{}")
    await store.abandon("a")
    assert await store.begin("a", "other", 60) is None
