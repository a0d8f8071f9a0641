"""Browsers that sign in: sessions and their end, and what a page of somebody else cannot have a browser do."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlencode

import attrs
import msgspec
import pytest
import pytest_twisted
from treq.testing import StubTreq
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from osqtwist.access import OperatorRules
from osqtwist.operating import OperatorsPort, operators_root
from osqtwist.operator import Actor, Role
from osqtwist.ports import UnusablePort, bind_for_operators
from osqtwist.session import actor_of, change_token_of, digest_of, new_session
from osqtwist.settings import Settings
from osqtwist.storage.memory import MemoryStores
from osqtwist.web.browsers import is_local_name
from osqtwist.web.pages.application import local_path
from osqtwist.web.pages.headers import POLICY
from tests.harness import InMemoryServer
from tests.stores import RealValkey, valkey

HOST = "osqtwist.test"
US = f"https://{HOST}"


class Door:
    """A browser, more or less, before a server in memory."""

    def __init__(self, server: InMemoryServer, is_local: bool = False) -> None:
        self.server = server
        api = server.admin_api
        # The harness' own gate lets everybody in as whom the test says.
        self.client = StubTreq(operators_root(attrs.evolve(api, gate=api.gate.gate), is_local))  # type: ignore[attr-defined]
        self.cookies: dict[str, str] = {}

    def ask(self, method: str, path: str, data: Any = None, /, **headers: str) -> tuple[int, Any, str]:
        """Status, headers and text; keeps cookies."""
        named = {name.replace("_", "-"): value for name, value in headers.items() if value}
        named["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        if isinstance(data, dict):
            named["Content-Type"] = "application/x-www-form-urlencoded"
            data = urlencode(data).encode()

        async def exchange() -> tuple[int, Any, str]:
            url = path if "://" in path else US + path
            answer = await self.client.request(method, url, data=data, headers=named, allow_redirects=False)
            return answer.code, answer.headers, (await answer.content()).decode()

        asking = Deferred.fromCoroutine(exchange())
        for _ in range(5):
            self.client.flush()
        code, heads, text = self.server.finish(asking)
        for line in heads.getRawHeaders("set-cookie", []):
            name, _, value = line.partition(";")[0].partition("=")
            self.cookies[name] = value
            if not value:
                del self.cookies[name]
        return code, heads, text

    def sign_in(self, role: str = "admin", **more: Any) -> str:
        """With a token; answers with its name."""
        name = f"t{len(self.server.await_(self.server.stores.operators.tokens()))}"
        code, made = self.server.operate("/api/v1/tokens", {"name": name, "role": role, **more}, "POST")
        assert code == 201, made
        code, _, text = self.ask("POST", "/sign-in", {"token": made["token"]}, Origin=US)
        assert code == 303, text
        return name

    @property
    def change_token(self) -> str:
        return change_token_of(self.cookies["__Host-osqtwist-session"])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[InMemoryServer]:
    made = InMemoryServer(tmp_path)
    yield made
    made.stop()


@pytest.fixture
def door(server: InMemoryServer) -> Door:
    return Door(server)


def audit(server: InMemoryServer) -> str:
    return str(server.operate("/api/v1/audit?limit=1000")[1])


def test_a_session_is_good_for_pages_and_api(server: InMemoryServer, door: Door) -> None:
    """Its cookie is for this host, and for no script; only its digest is kept."""
    assert door.ask("GET", "/nodes")[0] == 303
    assert door.ask("GET", "/api/v1/nodes")[0] == 401
    door.sign_in()
    session = door.cookies["__Host-osqtwist-session"]
    assert server.await_(server.stores.operators.session(digest_of(session), 60)).digest == digest_of(session)
    code, heads, text = door.ask("GET", "/nodes")
    assert (code, "No node has come yet" in text) == (200, True)
    assert heads.getRawHeaders("content-security-policy") == [POLICY]
    assert heads.getRawHeaders("cache-control") == ["no-store"]
    code, _, text = door.ask("GET", "/api/v1/me")
    assert msgspec.json.decode(text) == {"name": "token t0", "role": "admin", "proof": "session", "groups": []}
    assert session not in audit(server)


def test_cookies_say_what_they_are_for(server: InMemoryServer, door: Door) -> None:
    """Secure and for one host over TLS; without TLS as much of it as there is."""
    _, made = server.operate("/api/v1/tokens", {"name": "x"}, "POST")
    form = {"token": made["token"]}
    _, heads, _ = door.ask("POST", "/sign-in", form, Origin=US)
    (cookie,) = heads.getRawHeaders("set-cookie")
    for word in ("__Host-osqtwist-session=", "Path=/", "Secure", "HttpOnly", "SameSite=strict"):
        assert word.lower() in cookie.lower()
    assert "domain" not in cookie.lower()
    _, heads, _ = Door(server, True).ask("POST", "http://localhost/sign-in", form, Origin="http://localhost")
    (cookie,) = heads.getRawHeaders("set-cookie")
    assert cookie.startswith("osqtwist-session=") and "secure" not in cookie.lower()


def test_a_session_ends_with_its_token(server: InMemoryServer, door: Door) -> None:
    """From the next request on, pages and API alike; and the page says why."""
    name = door.sign_in("operator")
    assert server.operate(f"/api/v1/tokens/{name}/revoke", {}, "POST")[0] == 200
    code, _, text = door.ask("GET", "/api/v1/nodes")
    assert (code, "was taken back" in text) == (401, True)
    code, heads, _ = door.ask("GET", "/nodes?where=tag:a")
    assert (code, heads.getRawHeaders("location")) == (303, ["/sign-in?next=%2Fnodes%3Fwhere%3Dtag%3Aa"])
    assert "was taken back" in unquote(door.cookies["__Host-osqtwist-said"])
    door = Door(server)
    door.sign_in("viewer", expires_in=60)
    server.turn(61)
    assert door.ask("GET", "/api/v1/nodes")[0] == 401


def test_a_session_ends_by_itself(server: InMemoryServer, door: Door) -> None:
    """When it is not used for two hours, and after twelve however it is used."""
    door.sign_in()
    server.turn(7199)
    assert door.ask("GET", "/api/v1/me")[0] == 200
    server.turn(7201)
    assert door.ask("GET", "/api/v1/me")[0] == 401
    door = Door(server)
    door.sign_in()
    for _ in range(6):
        assert door.ask("GET", "/api/v1/me")[0] == 200
        server.turn(7190)
    assert door.ask("GET", "/api/v1/me")[0] == 200
    server.turn(3600)
    assert door.ask("GET", "/api/v1/me")[0] == 401


def test_signed_out_is_out(server: InMemoryServer, door: Door) -> None:
    """On the server too, not in the browser alone."""
    door.sign_in()
    session = door.cookies["__Host-osqtwist-session"]
    assert door.ask("POST", "/sign-out", {"change_token": "x"}, Origin=US)[0] == 403
    assert door.ask("POST", "/sign-out", {"change_token": door.change_token}, Origin=US)[0] == 303
    assert "__Host-osqtwist-session" not in door.cookies
    door.cookies["__Host-osqtwist-session"] = session
    assert door.ask("GET", "/api/v1/me")[0] == 401


def test_whoever_signs_in_has_a_new_session(server: InMemoryServer, door: Door) -> None:
    """One that somebody else put into the browser is worth nothing."""
    door.cookies["__Host-osqtwist-session"] = "A" * 43
    door.sign_in()
    first = door.cookies["__Host-osqtwist-session"]
    assert first != "A" * 43
    door.sign_in()
    door.cookies["__Host-osqtwist-session"] = first
    assert door.ask("GET", "/api/v1/me")[0] == 401


@pytest.mark.parametrize(
    ("headers", "is_done"),
    [
        ({"Origin": US, "X_CSRF_Token": "good"}, True),
        ({"Origin": US, "Sec_Fetch_Site": "same-origin", "X_CSRF_Token": "good"}, True),
        ({"Sec_Fetch_Site": "same-origin", "X_CSRF_Token": "good"}, True),
        ({"X_CSRF_Token": "good"}, False),
        ({"Origin": US}, False),
        ({"Origin": US, "X_CSRF_Token": "wrong"}, False),
        ({"Origin": "https://evil.example", "X_CSRF_Token": "good"}, False),
        ({"Origin": "null", "X_CSRF_Token": "good"}, False),
        ({"Origin": f"http://{HOST}", "X_CSRF_Token": "good"}, False),
        ({"Origin": f"{US}:8443", "X_CSRF_Token": "good"}, False),
        ({"Origin": US, "Sec_Fetch_Site": "same-site", "X_CSRF_Token": "good"}, False),
        ({"Sec_Fetch_Site": "cross-site", "X_CSRF_Token": "good"}, False),
    ],
)
def test_a_change_must_come_from_a_page_of_ours(
    headers: dict[str, str], is_done: bool, server: InMemoryServer, door: Door
) -> None:
    """By what the browser says of its origin, and by the change token; a refusal is in the audit trail."""
    server.enroll("host-1")
    door.sign_in()
    if headers.get("X_CSRF_Token") == "good":
        headers = headers | {"X_CSRF_Token": door.change_token}
    code, _, text = door.ask("POST", "/api/v1/nodes/host-1/note", b'{"note": "x"}', **headers)
    assert code == (200 if is_done else 403), text
    assert (server.operate("/api/v1/nodes/host-1")[1]["note"] == "x") == is_done
    assert ("refused: this" in audit(server)) != is_done


def test_a_browser_without_a_session_changes_nothing(server: InMemoryServer, door: Door) -> None:
    """Though its connection shows who it is, by certificate or because it comes through the admin socket."""
    gate = server.admin_api.gate.gate  # type: ignore[attr-defined]

    class Request:
        method = b"POST"
        transport = None

        def __init__(self, **headers: str) -> None:
            self.headers = headers

        def getHeader(self, name: str) -> str | None:
            return self.headers.get(name)

        def getCookie(self, name: bytes) -> None:
            return None

        def isSecure(self) -> bool:
            return True

    from osqtwist.operator import NotAllowed, NotKnown

    for headers in ({"origin": US}, {"sec-fetch-site": "none"}):
        with pytest.raises(NotAllowed, match="has to sign in"):
            server.await_(gate.actor_of(Request(**headers)))
    with pytest.raises(NotKnown, match="nothing shows"):
        server.await_(gate.actor_of(Request()))


def test_a_form_of_somebody_else_signs_nobody_in(server: InMemoryServer, door: Door) -> None:
    """Or the browser would go on as who the other chose."""
    _, made = server.operate("/api/v1/tokens", {"name": "x"}, "POST")
    for origin in ("https://evil.example", "null", ""):
        assert door.ask("POST", "/sign-in", {"token": made["token"]}, Origin=origin)[0] == 403
    assert not door.cookies
    code, _, text = door.ask("POST", "/sign-in", {"token": "osqtwist_1"}, Origin=US)
    assert (code, "the token is not known" in text) == (401, True)
    assert "the token is not known" in audit(server)
    assert made["token"] not in audit(server)


def test_a_link_signs_in_once(server: InMemoryServer, door: Door) -> None:
    """Within a minute, as whoever had it made; a session makes no other."""
    server.operator = None
    assert server.operate("/api/v1/links", {}, "POST")[0] == 401
    server.operator = Actor("alice", Role.OPERATOR, "socket")
    code, answer = server.operate("/api/v1/links", {}, "POST")
    assert (code, "--admin-port" in answer["detail"]) == (404, True)
    sessions = server.admin_api.gate.sessions
    path = f"/sign-in/{server.await_(sessions.link(server.operator))}"
    assert path.rpartition("/")[2] not in audit(server)
    code, heads, _ = door.ask("GET", path)
    assert (code, heads.getRawHeaders("location")) == (303, ["/"])
    assert msgspec.json.decode(door.ask("GET", "/api/v1/me")[2])["role"] == "operator"
    code, _, text = Door(server).ask("GET", path)
    assert (code, "used already" in text) == (401, True)
    path = f"/sign-in/{server.await_(sessions.link(server.operator))}"
    server.turn(61)
    assert Door(server).ask("GET", path)[0] == 401
    token = door.change_token
    server.operator = None
    assert door.ask("POST", "/api/v1/links", b"{}", Origin=US, X_CSRF_Token=token)[0] in (403, 404)


def test_no_session_is_good_for_more_than_its_owner_is_now() -> None:
    """The lesser role of then and now, and the groups of now."""
    for then, now, role in (
        (Role.ADMIN, Role.VIEWER, Role.VIEWER),
        (Role.VIEWER, Role.ADMIN, Role.VIEWER),
        (Role.OPERATOR, Role.OPERATOR, Role.OPERATOR),
    ):
        session, text = new_session(Actor("a", then, "socket"), 0.0, 10.0)
        assert text not in str(session)
        found = actor_of(session, Actor("a", now, "socket", frozenset({"nodes"})))
        assert found == Actor("a", role, "session", frozenset({"nodes"}))


def test_what_nodes_say_is_text(server: InMemoryServer, door: Door) -> None:
    """Never markup, whatever it is."""
    server.enroll('"><script>alert(1)</script>')
    server.turn(3)
    door.sign_in()
    text = door.ask("GET", "/nodes")[2]
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text
    text = door.ask("GET", "/nodes?where=" + quote('"><img src=x onerror=alert(1)>'))[2]
    assert "<img src=x" not in text
    assert not re.search(r"<script(?![^>]* src=)|<[^>]*(\sstyle=|\son\w+=)|javascript:", re.sub(r'"[^"]*"', '""', text))


@pytest.mark.parametrize(
    "where",
    ["//evil.example", "/\\evil.example", "https://evil.example", "/a\nb", "/a b", "javascript:alert(1)", "", "/é"],
)
def test_nobody_is_led_elsewhere(where: str) -> None:
    """Where a browser goes after it signed in is a path of ours."""
    assert local_path(where) == ""


def test_links_from_elsewhere_work(server: InMemoryServer, door: Door) -> None:
    """A browser keeps the cookie back from a link on another site, so the page is asked for once more."""
    code, heads, text = door.ask("GET", "/nodes?online=1", Sec_Fetch_Site="cross-site")
    assert (code, heads.getRawHeaders("refresh")) == (200, ["0"])
    assert 'href="/nodes?online=1"' in text
    assert door.ask("GET", "/nodes?online=1", Sec_Fetch_Site="same-origin")[0] == 303


def test_a_store_that_is_away_is_no_reason_to_sign_in(server: InMemoryServer, door: Door) -> None:
    """The page says what is wrong."""
    door.sign_in()
    server.down()
    assert door.ask("GET", "/nodes")[0] == 503
    assert door.ask("GET", "/nowhere")[0] == 404
    server.down(False)
    assert door.ask("GET", "/nodes")[0] == 200


@pytest.mark.parametrize(
    ("host", "is_ours"),
    [
        ("localhost:9080", True),
        ("127.0.0.1:9080", True),
        ("[::1]:9080", True),
        ("[::1]", True),
        ("admin", True),
        ("osqtwist.localhost", True),
        ("", True),
        ("evil.example:9080", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example:9080", False),
    ],
)
def test_names_of_others_are_not_answered(host: str, is_ours: bool, server: InMemoryServer) -> None:
    """On the socket and without TLS: anybody's name can be made to lead here."""
    assert is_local_name(host) == is_ours
    code = Door(server, True).ask("GET", "/healthz", Host=host)[0] if host else 200
    assert code == (200 if is_ours else 421)


@pytest.mark.parametrize(
    ("port", "words"),
    [
        ("tcp:0", "for this machine only"),
        ("tcp:0:interface=0.0.0.0", "for this machine only"),
        ("tcp:0:interface=localhost.evil.example", "for this machine only"),
        ("tcp:x:interface=127.0.0.1", "not a port number"),
        ("unix:x", "must begin with ssl:"),
    ],
)
def test_without_tls_it_is_for_this_machine(port: str, words: str) -> None:
    """The error names the option."""
    with pytest.raises(UnusablePort, match=f"--admin-port {port}.*{words}"):
        bind_for_operators(port)
    found = OperatorsPort.of(Settings(admin_port="tcp:0:interface=127.0.0.1"))
    assert found and found.url == f"http://localhost:{found.bound.number}"
    found.bound.socket.close()


def test_hours_of_sessions_are_settings() -> None:
    """Within reason."""
    assert msgspec.convert({"session_hours": 1}, OperatorRules).session_hours == 1
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"session_idle_hours": 0}, OperatorRules)


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
async def test_sessions_are_kept(store: Any) -> None:
    """Until they are ended; a link is taken by one."""
    session, _ = new_session(Actor("a", Role.ADMIN, "token", frozenset({"x"}), "id"), 1.0, 2.0)
    assert await store.session(session.digest, 60) is None
    await store.keep_session(session, 60)
    assert await store.session(session.digest, 60) == session
    await store.end_session(session.digest)
    assert await store.session(session.digest, 60) is None
    await store.keep_link(session, 60)
    assert [await store.take_link(session.digest) for _ in range(2)] == [session, None]
