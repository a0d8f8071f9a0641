"""The e-mail sink, against a real SMTP server on loopback: TLS verified, logged in, refused, away."""

from __future__ import annotations

import email.policy
import socket
import ssl
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from twisted.internet import reactor

from osqtwist.routing import Route
from osqtwist.sinkinterfaces import BadSinkSetting, SinkUnavailable
from osqtwist.sinks.kinds import kind_named
from tests.certificates import TestPKI
from tests.test_sink_people import an_alert
from tests.test_storage import a_batch

SENDER, TO = "osqtwist@example.org", ("one@example.org", "two@example.org")


@attrs.define
class Mail:
    """
    A mail server, in a thread of its own.

    :ivar refusal: what it answers to a mail, nothing to take it.
    """

    mails: list[bytes] = attrs.field(factory=list)
    rcpts: list[str] = attrs.field(factory=list)
    refusal: str = ""
    controller: Any = None

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        if self.refusal:
            return self.refusal
        self.mails.append(envelope.content)
        self.rcpts += envelope.rcpt_tos
        return "250 OK"

    def start(self, pki: TestPKI, implicit: bool = False) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(pki.path("server.pem"), pki.path("server.key"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]

        def authenticate(server: Any, session: Any, envelope: Any, mechanism: Any, data: Any) -> AuthResult:
            return AuthResult(success=(data.login, data.password) == (b"me", b"open"), handled=False)

        kind = {"ssl_context": context} if implicit else {"tls_context": context, "require_starttls": True}
        more = {"authenticator": authenticate, "auth_require_tls": not implicit}
        self.controller = Controller(self, hostname="127.0.0.1", port=port, **kind, **more)
        self.controller.start()

    @property
    def port(self) -> int:
        return int(self.controller.port)

    def stop(self) -> None:
        self.controller.stop()


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> TestPKI:
    return TestPKI.mint(tmp_path_factory.mktemp("pki"))


@pytest.fixture(params=["starttls", "tls"])
def mail(request: pytest.FixtureRequest, pki: TestPKI) -> Iterator[tuple[Mail, dict[str, Any]]]:
    server = Mail()
    server.start(pki, request.param == "tls")
    yield server, {"host": "localhost", "port": server.port, "tls": request.param, "ca": str(pki.path("ca.pem"))}
    server.stop()


def make(**settings: Any) -> Any:
    found = kind_named("email")
    fields = {"host": "localhost", "sender": SENDER, "to": TO, "timeout": 5.0, **settings}
    return found.make(reactor, "test", found.settings(**fields))


@pytest_twisted.ensureDeferred
async def test_a_delivery_is_a_mail(mail: tuple[Mail, dict[str, Any]]) -> None:
    """The gravest in the subject, a line for each; nothing in a line becomes a header or another line."""
    server, where = mail
    sink = make(**where)
    await sink.open()
    (line,), _ = Route().events(a_batch("x"))
    outcome = await sink.deliver([line, an_alert("Evil\r\nBcc: everybody@example.org", "critical"), an_alert("é")])
    assert outcome.refused == outcome.again == ()
    (raw,) = server.mails
    found = message_from_bytes(raw, policy=email.policy.default)
    assert found["Subject"].strip() == "[osqtwist] critical: Evil Bcc: everybody@example.org at n (and 2 more)"
    assert (found["From"], found["To"], found["Bcc"]) == (SENDER, ", ".join(TO), None)
    assert server.rcpts == list(TO)
    body: Any = found.get_content()
    assert len(body.strip().splitlines()) == 3
    assert "é at n" in body
    await sink.close()


@pytest_twisted.ensureDeferred
async def test_what_goes_wrong_is_tried_again_but_for_the_mails_own_fault(
    mail: tuple[Mail, dict[str, Any]], tmp_path: Path
) -> None:
    """Another CA, a wrong password, a server that is busy or away; a mail that is too large is refused for good."""
    server, where = mail
    other = TestPKI.mint(tmp_path)
    with pytest.raises(SinkUnavailable, match="certificate verify failed"):
        await make(**{**where, "ca": str(other.path("ca.pem"))}).deliver([an_alert()])
    file = tmp_path / "password"
    file.write_text("wrong")
    sink = make(**where, username="me", password_file=str(file))
    with pytest.raises(SinkUnavailable, match="535") as caught:
        await sink.deliver([an_alert()])
    assert "wrong" not in str(caught.value)
    file.write_text("open\n")
    assert (await sink.deliver([an_alert()])).refused == ()
    server.refusal = "451 busy"
    with pytest.raises(SinkUnavailable, match="451"):
        await sink.deliver([an_alert()])
    server.refusal = "552 too large"
    assert [each.index for each in (await sink.deliver([an_alert(), an_alert("x")])).refused] == [0, 1]
    assert len(server.mails) == 1
    with pytest.raises(SinkUnavailable, match="email localhost:1: "):
        await make(**{**where, "port": 1}).deliver([an_alert()])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"host": ""}, "host is missing"),
        ({"sender": "nobody"}, "sender has 'nobody'"),
        ({"to": ()}, "to has ''"),
        ({"to": ("a@b\r\nX: y",)}, "no address"),
        ({"username": "x"}, "go together"),
        ({"username": "x", "password": "y", "tls": "none"}, "tls is none"),
        ({"username": "x", "password": "y", "password_file": "z"}, "one must go"),
        ({"timeout": 0.0}, "timeout is 0"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], words: str) -> None:
    """The key is named."""
    with pytest.raises(BadSinkSetting, match=words):
        make(**settings)
