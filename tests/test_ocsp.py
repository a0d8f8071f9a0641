"""OCSP: what an answer is worth, and what becomes of a node while issuers say nothing; with a responder on loopback."""

from __future__ import annotations

import datetime
import itertools
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock, deferLater
from twisted.logger import capturedLogs

from osqtwist import ocsp as service
from osqtwist.identity import CertificateIdentity, IdentityRule, identify, node_id_for_certificate
from osqtwist.metrics import Metrics
from osqtwist.ocsp import AGAIN_AFTER, DEADLINE, MOST_AT_ONCE, REST, TIRED_AFTER, Responders, Unchecked
from osqtwist.ocspanswer import Answer, BadAnswer, Issuer, Question, read_answer, responders_of
from osqtwist.ocspclient import NoAnswer, OcspClient
from osqtwist.pki import Authority, Credential, utc_now
from osqtwist.settings import BadSetting, gather
from tests.certificates import plain_authority
from tests.harness import InMemoryServer, certificate_for, result_of
from tests.ocsp_responder import HOUR, Responder, Signing, delegate, node_with_responder

# Real connections, and responders that take their time.
pytestmark = pytest.mark.slow

NONCE = b"n" * 16


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create("test CA")


@pytest.fixture(scope="module")
def node(authority: Authority) -> Credential:
    return authority.issue("node-1", "node")


def question(authority: Authority, node: Credential, url: str = "http://x") -> Question:
    return Question(node.certificate.serial_number, Issuer.of(authority.credential.certificate), url)


def asked(authority: Authority, node: Credential, **signing: Any) -> Answer:
    """What an answer that is signed so says."""
    ask = question(authority, node)
    request = ocsp.load_der_ocsp_request(ask.encoded(NONCE))
    return read_answer(Signing(authority, **signing).answer(request), ask, NONCE, time.time())


# -- what an answer is worth


def test_a_question_is_what_others_ask(authority: Authority, node: Credential) -> None:
    """The same certificate id as cryptography makes of the certificates themselves, and a nonce."""
    builder = ocsp.OCSPRequestBuilder().add_certificate(
        node.certificate, authority.credential.certificate, hashes.SHA1()
    )
    theirs, ours = builder.build(), ocsp.load_der_ocsp_request(question(authority, node).encoded(NONCE))
    for name in ("serial_number", "issuer_name_hash", "issuer_key_hash"):
        assert getattr(theirs, name) == getattr(ours, name)
    assert ours.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce == NONCE


@pytest.mark.parametrize("by_key", [False, True])
def test_the_issuer_and_its_delegate_may_answer(authority: Authority, node: Credential, by_key: bool) -> None:
    """Good, revoked, unknown; named by name or by key."""
    serial = node.certificate.serial_number
    for by in (None, delegate(authority)):
        assert asked(authority, node, by=by, by_key=by_key).status == "good"
        revoked = asked(authority, node, by=by, by_key=by_key, revoked={serial})
        assert (revoked.status, revoked.reason) == ("revoked", "keyCompromise")
        assert asked(authority, node, by=by, by_key=by_key, strange={serial}).status == "unknown"


@pytest.mark.parametrize("kind", ["RSA-2048", "P-384"])
def test_other_kinds_of_keys_sign_too(kind: str) -> None:
    """RSA and larger curves."""
    authority = Authority.create("another CA", kind)
    assert asked(authority, authority.issue("node-1", "node")).status == "good"


STRANGER = Authority.create("test CA")
LONG_AGO = utc_now() - 24 * HOUR

WORTHLESS: dict[str, tuple[Callable[[Authority], dict[str, Any]], str]] = {
    "a CA of the same name": (lambda _: {"by": STRANGER.credential, "by_key": True}, "did not entrust"),
    "a delegate of somebody else": (lambda _: {"by": delegate(STRANGER)}, "did not entrust"),
    "a node of the CA": (lambda ca: {"by": delegate(ca, ExtendedKeyUsageOID.CLIENT_AUTH)}, "did not entrust"),
    "a delegate without its certificate": (lambda ca: {"by": delegate(ca), "shows": False}, "neither the issuer"),
    "another certificate": (lambda _: {"about": 4711}, "another certificate"),
    "stale": (lambda _: {"this_update": LONG_AGO, "next_update": LONG_AGO + HOUR}, "stale"),
    "old without an end": (lambda _: {"this_update": LONG_AGO, "has_end": False}, "does not say how long"),
    "of the future": (lambda _: {"this_update": utc_now() + HOUR}, "in the future"),
    "another nonce": (lambda _: {"nonce": b"another"}, "nonce"),
}


@pytest.mark.parametrize("name", WORTHLESS)
def test_what_proves_nothing_counts_for_nothing(authority: Authority, node: Credential, name: str) -> None:
    """Each with its reason."""
    signing, reason = WORTHLESS[name]
    with pytest.raises(BadAnswer, match=reason):
        asked(authority, node, **signing(authority))


def test_a_signature_that_is_none(node: Credential) -> None:
    """One that is wrong, as of another key; and one over SHA-1, which proves nothing."""
    authority = Authority.create("RSA CA", "RSA-2048")
    ask = question(authority, node)
    encoded = Signing(authority).answer(ocsp.load_der_ocsp_request(ask.encoded(NONCE)))
    signature = ocsp.load_der_ocsp_response(encoded).signature
    with pytest.raises(BadAnswer, match="signature of the answer is wrong"):
        read_answer(encoded.replace(signature, bytes(255 - each for each in signature)), ask, NONCE, time.time())
    over_sha256, over_sha1 = bytes.fromhex("2a864886f70d01010b"), bytes.fromhex("2a864886f70d010105")
    with pytest.raises(BadAnswer, match="sha1"):
        read_answer(encoded.replace(over_sha256, over_sha1), ask, NONCE, time.time())


def test_an_answer_may_leave_the_nonce_out_and_its_end(authority: Authority, node: Credential) -> None:
    """Most responders sign answers beforehand; without an end one counts for five minutes."""
    assert asked(authority, node, nonce=None).status == "good"
    without_end = asked(authority, node, has_end=False)
    assert 200 < without_end.valid_until - time.time() < 400


@pytest.mark.parametrize("encoded", [b"", b"rubbish", b"\x30\x03\x0a\x01\x06"])
def test_rubbish_is_no_answer(authority: Authority, node: Credential, encoded: bytes) -> None:
    """Nor is one that says it is none."""
    with pytest.raises(BadAnswer):
        read_answer(encoded, question(authority, node), NONCE, time.time())


def test_responders_are_found_in_certificates(authority: Authority, node: Credential) -> None:
    """Those of http, in their order."""
    urls = ("ldap://x/", "http://a/", "https://b/", "HTTP://c/")
    assert responders_of(node_with_responder(authority, "node-1", *urls).certificate) == ["http://a/", "HTTP://c/"]
    assert responders_of(node.certificate) == []


# -- what becomes of nodes


class Said:
    """Plays a client: what it answers, and how often it was asked."""

    def __init__(self, authority: Authority) -> None:
        self.signing = Signing(authority, this_update=datetime.datetime.fromtimestamp(1_790_000_000, datetime.UTC))
        self.waits = False
        self.trouble: str | None = None
        self.asked: list[str] = []
        self.waiting: list[Deferred[None]] = []
        self.most = 0

    async def post(self, url: str, body: bytes) -> bytes:
        self.asked.append(url)
        if self.waits:
            waiting: Deferred[None] = Deferred()
            self.waiting.append(waiting)
            self.most = max(self.most, sum(not each.called for each in self.waiting))
            await waiting
        if self.trouble is not None:
            raise NoAnswer(self.trouble)
        return self.signing.answer(ocsp.load_der_ocsp_request(body))


@attrs.define
class Stage:
    """Responders of a clock, for nodes of a CA."""

    authority: Authority
    clock: Clock
    said: Said
    metrics: Metrics
    responders: Responders
    revocations: list[float] = attrs.field(factory=list)

    def check(self, node: Credential) -> Deferred[str]:
        """Ask about a certificate, as a request does; fires with how it went."""
        return Deferred.fromCoroutine(self._check(node))

    async def _check(self, node: Credential) -> str:
        who = identity(node)
        if not self.responders.is_good(who.fingerprint):
            try:
                await self.responders.check(who, lambda: [node.certificate, self.authority.credential.certificate])
            except Unchecked:
                return "unchecked"
        return "revoked" if self.responders.is_revoked(who.fingerprint) else "in"

    def now(self, node: Credential) -> str:
        """The same, where it needs no time."""
        return str(result_of(self.check(node)))

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"osqtwist_ocsp_{name}_total", labels) or 0.0


def identity(node: Credential) -> CertificateIdentity:
    return identify(node.certificate, (IdentityRule(),))


@pytest.fixture
def stage(authority: Authority) -> Iterator[Callable[..., Stage]]:
    made: list[Stage] = []

    def begin(mode: Any = "hard", url: str = "http://responder/") -> Stage:
        clock, said, metrics = Clock(), Said(authority), Metrics()
        clock.rightNow = 1_790_000_000.0
        found = Stage(authority, clock, said, metrics, Responders(clock, said, mode, url, metrics))
        found.responders.on_revoked = lambda: found.revocations.append(clock.seconds())
        found.responders.startService()
        made.append(found)
        return found

    yield begin
    for each in made:
        each.responders.stopService()
        assert not each.clock.getDelayedCalls()


def test_a_good_certificate_is_asked_about_once(stage: Callable[..., Stage], node: Credential) -> None:
    """And again in good time, without anybody having to wait."""
    one = stage()
    assert one.now(node) == "in"
    for _ in range(5):
        assert one.now(node) == "in"
    assert one.said.asked == ["http://responder/"]
    one.clock.advance(0.82 * 3600)
    one.said.waits = True
    assert one.now(node) == "in"
    assert len(one.said.asked) == 2
    one.said.signing.this_update = None
    one.said.signing.this_update = datetime.datetime.fromtimestamp(one.clock.seconds(), datetime.UTC)
    one.said.waiting[0].callback(None)
    one.clock.advance(0.5 * 3600)
    assert one.now(node) == "in"
    assert one.count("answers", answer="good") == 2


def test_a_revoked_certificate_is_out_until_it_is_not(stage: Callable[..., Stage], node: Credential) -> None:
    """It is told at once to whoever ends connections; a hold that is lifted is seen within two minutes."""
    one = stage("soft")
    serial = node.certificate.serial_number
    assert one.now(node) == "in"
    one.said.signing.revoked.add(serial)
    one.clock.advance(0.82 * 3600)
    one.said.signing.this_update = datetime.datetime.fromtimestamp(one.clock.seconds(), datetime.UTC)
    one.now(node)
    assert one.now(node) == "revoked"
    assert len(one.revocations) == 1
    one.said.trouble = "dead"
    one.clock.advance(30 * 86400)
    assert [one.now(node) for _ in range(3)] == ["revoked"] * 3
    one.said.trouble = None
    one.said.signing.revoked.clear()
    one.clock.advance(120)
    one.said.signing.this_update = datetime.datetime.fromtimestamp(one.clock.seconds(), datetime.UTC)
    one.now(node)
    assert one.now(node) == "in"


def test_what_was_revoked_is_not_let_in_by_less_than_a_newer_answer(
    stage: Callable[..., Stage], node: Credential
) -> None:
    """Not by one of before that somebody plays again, and not by a responder that does not know it any more."""
    one = stage("soft")
    serial = node.certificate.serial_number
    before = one.said.signing.this_update
    one.said.signing.revoked.add(serial)
    one.clock.advance(600)
    one.said.signing.this_update = datetime.datetime.fromtimestamp(one.clock.seconds(), datetime.UTC)
    assert one.now(node) == "revoked"
    one.said.signing.revoked.clear()
    one.said.signing.this_update = before
    one.clock.advance(120)
    assert [one.now(node) for _ in range(2)] == ["revoked"] * 2
    one.said.signing.strange.add(serial)
    one.clock.advance(120)
    one.said.signing.this_update = datetime.datetime.fromtimestamp(one.clock.seconds(), datetime.UTC)
    assert [one.now(node) for _ in range(2)] == ["revoked"] * 2
    assert len(one.said.asked) == 3
    one.said.signing.strange.clear()
    one.clock.advance(120)
    one.now(node)
    assert one.now(node) == "in"


@pytest.mark.parametrize(("mode", "fate"), [("soft", "in"), ("hard", "unchecked")])
def test_without_an_answer_the_mode_decides(
    stage: Callable[..., Stage], node: Credential, mode: str, fate: str
) -> None:
    """It is counted for each request, said once a minute, and not asked for again at once."""
    one = stage(mode)
    one.said.trouble = "no route to host"
    with capturedLogs() as said:
        assert [one.now(node) for _ in range(4)] == [fate] * 4
    assert len(one.said.asked) == 1
    assert one.count("answers", answer="none") == 1
    assert one.count("unchecked", result="let_in" if mode == "soft" else "refused") == 4
    (line,) = said
    assert "no route to host" in line["problem"]
    one.clock.advance(AGAIN_AFTER)
    one.said.trouble = None
    assert one.now(node) == "in"


@pytest.mark.parametrize(("mode", "fate"), [("soft", "in"), ("hard", "unchecked")])
def test_unknown_is_no_answer(stage: Callable[..., Stage], node: Credential, mode: str, fate: str) -> None:
    """A CA that has just issued a certificate may not know it yet; it is asked again in a minute."""
    one = stage(mode)
    one.said.signing.strange.add(node.certificate.serial_number)
    assert one.now(node) == one.now(node) == fate
    one.said.signing.strange.clear()
    one.clock.advance(60)
    assert one.now(node) == "in"


def test_an_answer_counts_to_its_end_while_there_is_no_other(stage: Callable[..., Stage], node: Credential) -> None:
    """And then no more."""
    one = stage()
    assert one.now(node) == "in"
    one.said.trouble = "dead"
    one.clock.advance(0.95 * 3600)
    assert one.now(node) == "in"
    one.clock.advance(0.1 * 3600)
    assert one.now(node) == "unchecked"


def test_who_comes_while_it_is_asked_waits_for_the_same_answer(stage: Callable[..., Stage], node: Credential) -> None:
    """One request to the responder; a node that goes away disturbs nobody."""
    one = stage()
    one.said.waits = True
    checks = [one.check(node) for _ in range(3)]
    checks[1].addErrback(lambda failure: "gone")
    checks[1].cancel()
    assert len(one.said.asked) == 1
    one.said.waiting[0].callback(None)
    assert [result_of(each) for each in checks] == ["in", "gone", "in"]


def test_nobody_waits_longer_than_the_deadline(stage: Callable[..., Stage], authority: Authority) -> None:
    """However many ask; so many at a time are asked for, and a responder that fails again and again is left alone."""
    one = stage("soft")
    one.said.waits = True
    nodes = [authority.issue(f"node-{number}", "node") for number in range(MOST_AT_ONCE + 4)]
    checks = [one.check(each) for each in nodes]
    one.clock.advance(DEADLINE - 0.1)
    assert not any(each.called for each in checks)
    assert len(one.said.asked) == one.said.most == MOST_AT_ONCE
    one.clock.advance(0.2)
    assert [result_of(each) for each in checks] == ["in"] * len(nodes)
    more = authority.issue("one more", "node")
    assert one.now(more) == "in"
    assert len(one.said.asked) < MOST_AT_ONCE + TIRED_AFTER
    one.said.waits = False
    one.clock.advance(REST + AGAIN_AFTER)
    assert one.now(more) == "in"
    assert one.count("answers", answer="good") == 1


def test_a_certificate_that_names_nobody_is_like_one_without_an_answer(
    stage: Callable[..., Stage], node: Credential, authority: Authority
) -> None:
    """And one that names a responder is asked there."""
    one = stage(url="")
    assert one.now(node) == "unchecked"
    assert one.now(node_with_responder(authority, "node-2", "http://mine/")) == "in"
    assert one.said.asked == ["http://mine/"]


def test_the_cache_is_bounded(
    stage: Callable[..., Stage], authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one asked about longest ago makes room."""
    monkeypatch.setattr(service, "MOST_KNOWN", 2)
    one = stage()
    nodes = [authority.issue(f"node-{number}", "node") for number in range(3)]
    for each in nodes:
        assert one.now(each) == "in"
    good = [one.responders.is_good(identity(each).fingerprint) for each in nodes]
    assert good == [False, True, True]


# -- over HTTP


@pytest_twisted.async_yield_fixture
async def responder(authority: Authority) -> AsyncIterator[Responder]:
    made = Responder(authority)
    yield made
    await made.stop()


@pytest.fixture
def client() -> OcspClient:
    return OcspClient(reactor)


@pytest_twisted.ensureDeferred
async def test_a_real_responder(
    authority: Authority, node: Credential, responder: Responder, client: OcspClient
) -> None:
    """Good and revoked, many at a time, and no more than that."""
    url = responder.start()
    clock: Any = reactor
    made = Responders(clock, client, "hard", url, Metrics())
    made.startService()
    others = [authority.issue(f"node-{number}", "node") for number in range(20)]
    responder.signing.revoked.add(others[0].certificate.serial_number)

    def check(each: Credential) -> Deferred[None]:
        chain = [each.certificate, authority.credential.certificate]
        return Deferred.fromCoroutine(made.check(identity(each), lambda: chain))

    await gatherResults([check(each) for each in others])
    assert [made.is_good(identity(each).fingerprint) for each in others] == [False] + [True] * 19
    assert made.is_revoked(identity(others[0]).fingerprint)
    assert responder.requests == 20
    made.stopService()


MOODS = {
    "rubbish": "cannot be read",
    "empty": "cannot be read",
    "declines": "unauthorized",
    "fails": "HTTP status 500",
    "huge": "more than 65536 bytes",
    "slow": "no answer in 0.3 s",
    "trickles": "no answer in 0.3 s",
    "dead": "refused",
}


@pytest.mark.parametrize("mood", MOODS)
@pytest_twisted.ensureDeferred
async def test_a_responder_may_do_what_it_likes(
    mood: str,
    authority: Authority,
    node: Credential,
    responder: Responder,
    client: OcspClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There is no answer then, in bounded time and memory, and the reactor goes on."""
    monkeypatch.setattr(service, "DEADLINE", 0.3 if mood in ("slow", "trickles") else 10.0)
    url = responder.start()
    responder.mood = mood
    if mood == "dead":
        await responder.port.stopListening()
    clock: Any = reactor
    made = Responders(clock, client, "soft", url, Metrics())
    made.startService()
    turns: list[float] = []

    async def tick() -> None:
        while made.running:
            turns.append(time.monotonic())
            await deferLater(clock, 0.01)

    ticking = Deferred.fromCoroutine(tick())
    with capturedLogs() as said:
        chain = [node.certificate, authority.credential.certificate]
        await made.check(identity(node), lambda: chain)
    assert not made.is_good(identity(node).fingerprint)
    assert MOODS[mood] in next(each["problem"] for each in said if "problem" in each)
    if mood == "slow":
        assert max(after - before for before, after in itertools.pairwise(turns)) < 0.25
    made.stopService()
    await ticking


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("openssl"), reason="there is no openssl command")
@pytest_twisted.ensureDeferred
async def test_the_responder_of_openssl(authority: Authority, client: OcspClient, tmp_path: Path) -> None:
    """Somebody else's idea of OCSP: its answers are understood, of a delegate, about good, revoked and unknown ones."""
    nodes = [authority.issue(f"node-{number}", "node") for number in range(3)]
    end = (utc_now() + 365 * 24 * HOUR).strftime("%y%m%d%H%M%SZ")
    rows = [
        f"V\t{end}\t\t{nodes[0].certificate.serial_number:X}\tunknown\t/CN=node-0",
        f"R\t{end}\t{utc_now():%y%m%d%H%M%SZ},keyCompromise\t{nodes[1].certificate.serial_number:X}\tunknown\t/CN=node-1",
    ]
    (tmp_path / "index.txt").write_text("\n".join(rows) + "\n")
    authority.credential.write(tmp_path / "ca.pem", tmp_path / "ca.key")
    delegate(authority).write(tmp_path / "responder.pem", tmp_path / "responder.key")
    words = "openssl ocsp -index index.txt -CA ca.pem -rsigner responder.pem -rkey responder.key -port 0 -nmin 60"
    out: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    process = subprocess.Popen(words.split(), cwd=tmp_path, **out)  # noqa: ASYNC220
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        while "ACCEPT" not in line:
            assert line, "openssl ocsp did not start"
            line = process.stdout.readline()
        port = int(line.split()[1].rpartition(":")[2])
        clock: Any = reactor
        made = Responders(clock, client, "soft", f"http://127.0.0.1:{port}/", Metrics())
        made.startService()
        for each in nodes:
            chain = [each.certificate, authority.credential.certificate]
            await made.check(identity(each), lambda chain=chain: chain)  # type: ignore[misc]
        assert [made.is_good(identity(each).fingerprint) for each in nodes] == [True, False, False]
        assert [made.is_revoked(identity(each).fingerprint) for each in nodes] == [False, True, False]
        made.stopService()
    finally:
        process.kill()
        process.wait(10)
        if process.stdout:
            process.stdout.close()


def test_an_intermediate_answers_for_its_own(stage: Callable[..., Stage]) -> None:
    """The issuer is who signed the certificate, not who is trusted."""
    root = plain_authority("root")
    middle = plain_authority("middle", root)
    node = middle.issue("node-1", "node")
    assert asked(middle, node).status == "good"
    ask = question(middle, node)
    request = ocsp.load_der_ocsp_request(ask.encoded(NONCE))
    with pytest.raises(BadAnswer):
        read_answer(Signing(root).answer(request), ask, NONCE, time.time())


# -- what nodes are answered

BODY = {
    "node_key": "",
    "host_identifier": "h",
    "log_type": "result",
    "data": [{"a": 1}],
    "queries": {},
    "block_count": 1,
    "block_size": 4,
    "carve_size": 4,
    "carve_id": "c",
    "request_id": "r",
}
ROUTES = ["/enroll", "/config", "/log", "/distributed/write", "/carver/start"]


@pytest.fixture
def server(authority: Authority, node: Credential, tmp_path: Path) -> Iterator[Callable[[str], InMemoryServer]]:
    made: list[InMemoryServer] = []

    def begin(mode: str) -> InMemoryServer:
        found = InMemoryServer(tmp_path, ocsp=mode, ocsp_url="http://responder/")
        found.certificate, found.chain = "node-1", [node.certificate, authority.credential.certificate]
        if found.api.checks.responders is not None:
            found.api.checks.responders._client = Said(authority)
        made.append(found)
        return found

    yield begin
    for each in made:
        each.stop()


def said_to(server: InMemoryServer) -> Any:
    assert server.api.checks.responders is not None
    return server.api.checks.responders._client


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_a_node_loses_nothing_while_nobody_answers(
    server: Callable[[str], InMemoryServer], mode: str, path: str
) -> None:
    """soft serves it; hard answers an error that leaves it key and lines, and serves it once there is an answer."""
    one = server(mode)
    said_to(one).trouble = "dead"
    code, answer = one.ask(path, BODY)
    if mode == "soft":
        assert code == 200
        return
    assert code == 503
    assert set(answer) == {"error"} and "try again" in answer["error"]
    said_to(one).trouble = None
    one.turn(AGAIN_AFTER)
    assert one.ask(path, BODY)[0] == 200


@pytest.mark.parametrize("path", ROUTES)
def test_a_revoked_certificate_gets_an_error(
    server: Callable[[str], InMemoryServer], node: Credential, path: str
) -> None:
    """Not node_invalid, as with the deny list."""
    one = server("soft")
    said_to(one).signing.revoked.add(node.certificate.serial_number)
    code, answer = one.ask(path, BODY)
    assert code == 403
    assert answer == {"error": "this certificate is revoked"}


def test_a_block_of_a_carve_waits_too(server: Callable[[str], InMemoryServer]) -> None:
    """In plain words: osquery tries it again."""
    one = server("hard")
    _, session = one.ask("/carver/start", BODY)
    one.turn(7200)
    said_to(one).trouble = "dead"
    block = {"block_id": 0, "session_id": session["session_id"], "request_id": "r", "data": "YWJjZA=="}
    code, _, content = one.finish(one.begin("/carver/continue", block))
    assert (code, content) == (503, b"refused: certificate_unchecked")


def test_who_shows_no_certificate_is_not_asked_about(server: Callable[[str], InMemoryServer]) -> None:
    """A node with a secret has nothing that an issuer could say something of."""
    one = server("hard")
    said_to(one).trouble = "dead"
    one.certificate = None
    key = one.enroll()
    assert one.ask("/config", {"node_key": key})[0] == 200
    assert said_to(one).asked == []


def test_off_asks_nobody(server: Callable[[str], InMemoryServer]) -> None:
    """There is nothing that could."""
    with pytest.raises(BadSetting, match="--ocsp is off"):
        gather({"ocsp_url": "http://responder/"}, {})
    with pytest.raises(BadSetting, match="http://HOST"):
        gather({"ocsp": "hard", "ocsp_url": "https://responder/"}, {})
    one = server("off")
    assert one.api.checks.responders is None
    assert one.ask("/config", BODY)[0] == 200


def test_a_held_read_of_a_certificate_that_is_revoked_meanwhile(
    server: Callable[[str], InMemoryServer], node: Credential
) -> None:
    """It does not go on once that is known."""
    one = server("soft")
    reading = one.begin("/distributed/read", BODY)
    one.turn(1)
    assert not reading.called
    said_to(one).signing.revoked.add(node.certificate.serial_number)
    one.api.checks.responders._known[certificate_for("node-1").fingerprint].look_at = 0.0  # type: ignore[union-attr]
    one.api.checks.responders._known[certificate_for("node-1").fingerprint].good_until = 0.0  # type: ignore[union-attr]
    assert one.ask("/config", BODY)[0] == 403 or one.ask("/config", BODY)[0] == 403
    one.distributed.end_reads_of(node_id_for_certificate("node-1"))
    code, _, content = one.finish(reading)
    assert (code, content) == (403, b'{"error":"this certificate is revoked"}')
