"""The syslog sink: messages, a receiver that is written to RFC 5424 and RFC 5425 alone, and a real rsyslogd."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import Certificate, PrivateCertificate
from twisted.internet.task import deferLater

from osqtwist.logevent import LogEvent
from osqtwist.sinkinterfaces import BadSinkSetting, ILogSink, ISinkKind, Outcome, SinkUnavailable
from osqtwist.sinks import syslogconnection
from osqtwist.sinks.syslog import SyslogKind, SyslogSettings
from osqtwist.sinks.syslogmessage import FACILITIES, SEVERITIES, MessageStyle
from tests.certificates import TestPKI
from tests.sinkcontract import CONTRACT, Promise, an_event, name_of, read, some_events

# Twisted hands pyOpenSSL its own objects.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Passing pyOpenSSL .* objects is deprecated:DeprecationWarning"),
]

LINUX = sys.platform == "linux"
HEADER = re.compile(
    rb"<(\d{1,3})>1 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z) ([!-~]{1,255}) ([!-~]{1,48}) ([!-~]{1,128}) ([!-~]{1,32}) "
)
ELEMENT_NAME = re.compile(rb"[^\0- =\]\"\x7f-\xff]{1,32}")


@attrs.frozen
class Message:
    """What RFC 5424 makes of a message."""

    priority: int
    timestamp: str
    hostname: str
    app_name: str
    proc_id: str
    msg_id: str
    data: dict[str, dict[str, str]]
    text: bytes


def parse(message: bytes) -> Message:
    """Read a message letter by letter after the grammar of RFC 5424, 6."""
    header = HEADER.match(message)
    assert header, message
    place, data = header.end(), {}

    def take(wanted: bytes) -> None:
        nonlocal place
        assert message[place : place + len(wanted)] == wanted, (message, place, wanted)
        place += len(wanted)

    def name() -> str:
        nonlocal place
        found = ELEMENT_NAME.match(message, place)
        assert found, (message, place)
        place = found.end()
        return found[0].decode()

    def value() -> str:
        nonlocal place
        take(b'"')
        found = bytearray()
        while message[place : place + 1] != b'"':
            assert message[place : place + 1] != b"]" and place < len(message)
            if message[place : place + 1] == b"\\" and message[place + 1 : place + 2] in (b'"', b"\\", b"]"):
                place += 1
            found += message[place : place + 1]
            place += 1
        take(b'"')
        return found.decode()

    if message[place : place + 1] == b"-":
        take(b"-")
    else:
        while message[place : place + 1] == b"[":
            take(b"[")
            parameters = data.setdefault(name(), {})
            while message[place : place + 1] == b" ":
                take(b" ")
                key = name()
                take(b"=")
                parameters[key] = value()
            take(b"]")
    take(b" ")
    words = [word.decode() for word in header.groups()[1:]]
    return Message(int(header[1]), *words, data, message[place:])


def message_of(event: LogEvent, **style: Any) -> Message:
    return parse(MessageStyle(**style).message(event))


def pause(seconds: float = 0.02) -> Deferred[None]:
    """Let the reactor turn."""
    return deferLater(reactor, seconds)  # type: ignore[arg-type]


# Messages


def test_a_message_says_what_the_event_is() -> None:
    """Facility, severity, time, node, type and event each have their place; the document is the text."""
    event = an_event(7)
    found = message_of(event)
    assert found.priority == 16 * 8 + 6
    assert found.timestamp == "2026-09-21T14:15:07.500000Z"
    assert datetime.fromisoformat(found.timestamp) == datetime.fromtimestamp(event.received_at, UTC)
    assert (found.hostname, found.app_name, found.proc_id, found.msg_id) == ("node-1", "osquery", "-", "result")
    assert found.data == {"osqtwist@32473": {"node": "n-1", "type": "result", "event": event.event_id}}
    assert found.text == event.document


def test_the_style_of_messages() -> None:
    """Facility, severity, name and structured data are those of the settings."""
    found = message_of(an_event(), facility=FACILITIES["user"], severity=SEVERITIES["debug"], app_name="x", sd_id="y@1")
    assert (found.priority, found.app_name, list(found.data)) == (15, "x", ["y@1"])
    assert message_of(an_event(), sd_id="").data == {}


@pytest.mark.parametrize(
    ("said", "severity"),
    [(0, 6), ("1", 4), (2, 3), ("3", 2), (9, 5), ("x", 5), (None, 5), ([], 5), (0.5, 5)],
)
def test_a_status_line_says_how_bad_it_is(said: Any, severity: int) -> None:
    """osquery's INFO, WARNING, ERROR and FATAL; what says nothing else has the severity of the settings."""
    line = an_event(0, severity=said)
    assert message_of(attrs.evolve(line, log_type="status"), severity=5).priority % 8 == severity
    assert message_of(line, severity=5).priority % 8 == 5


@given(node_id=st.text(), node_name=st.text(), log_type=st.text(max_size=60), time=st.floats(0, 4e9))
def test_whatever_a_node_is_called_its_messages_can_be_read(
    node_id: str, node_name: str, log_type: str, time: float
) -> None:
    """Any letters: what is printable survives in structured data; the header has ASCII of the right lengths."""
    event = LogEvent("0" * 32, node_id, node_name, log_type, time, b'{"a":"]\\"<1>1"}')
    found = message_of(event)
    assert found.text == event.document
    values = found.data["osqtwist@32473"]
    assert values["node"] == "".join(each if each.isprintable() else "_" for each in node_id)
    assert values["event"] == "0" * 32
    assert len(found.hostname) == max(1, min(len(node_name), 255))
    assert abs(datetime.fromisoformat(found.timestamp).timestamp() - time) < 1e-5


@given(node_id=st.text('\\"] =[\n', max_size=20))
def test_escapes_are_undone_by_the_reader(node_id: str) -> None:
    """Quotes, backslashes and brackets arrive as they were."""
    found = message_of(attrs.evolve(an_event(), node_id=node_id))
    assert found.data["osqtwist@32473"]["node"] == node_id.replace("\n", "_")


# A receiver of our own


class _Incoming(Protocol):
    """One connection: frames are taken off as they come (RFC 5425, 4.3.1)."""

    factory: Receiver

    def __init__(self) -> None:
        self.buffer = b""

    def connectionMade(self) -> None:
        self.factory.connections.append(self)
        if self.factory.is_stalled:
            self.transport.pauseProducing()  # type: ignore[union-attr]

    def dataReceived(self, data: bytes) -> None:
        self.buffer += data
        while (space := self.buffer.find(b" ")) >= 0:
            assert re.fullmatch(rb"[1-9][0-9]*", self.buffer[:space])
            end = space + 1 + int(self.buffer[:space])
            if len(self.buffer) < end:
                return
            self.factory.messages.append(self.buffer[space + 1 : end])
            self.buffer = self.buffer[end:]

    def connectionLost(self, reason: Any = None) -> None:
        self.factory.connections.remove(self)


@attrs.define(eq=False)
class Receiver(Factory):
    """A receiver with TLS that wants client certificates; see also :class:`tests.sinkcontract.Destination`."""

    protocol = _Incoming

    pki: TestPKI
    tls: bool = True
    certificate: str = "server"
    is_stalled: bool = False
    messages: list[bytes] = attrs.field(factory=list)
    connections: list[_Incoming] = attrs.field(factory=list)
    sinks: list[Any] = attrs.field(factory=list)
    number: int = 0
    listening: Any = None

    def make(self, **more: Any) -> Any:
        sink = SyslogKind().make(reactor, "siem", SyslogSettings(**(self.settings | more)))
        self.sinks.append(sink)
        return sink

    @property
    def settings(self) -> dict[str, Any]:
        where = {"host": "127.0.0.1", "port": self.number, "timeout": 5.0}
        if not self.tls:
            return where | {"tls": False}
        cert, key = self.pki.files_of("good")
        return where | {"ca": str(self.pki.path("ca.pem")), "cert": cert, "key": key}

    async def received(self) -> Sequence[bytes]:
        await pause(0.05)
        return [parse(message).text for message in self.messages]

    async def take_away(self) -> None:
        # What TCP has taken is to be read.
        await pause(0.05)
        listening, self.listening = self.listening, None
        if listening is not None:
            await listening.stopListening()
        await self.hang_up()

    def stall(self) -> None:
        """Read no more, on any connection."""
        self.is_stalled = True
        for each in self.connections:
            each.transport.pauseProducing()  # type: ignore[union-attr]

    def go_on(self) -> None:
        """Read again."""
        self.is_stalled = False
        for each in self.connections:
            each.transport.resumeProducing()  # type: ignore[union-attr]

    async def hang_up(self) -> None:
        """Cut all connections."""
        for each in list(self.connections):
            each.transport.abortConnection()  # type: ignore[union-attr]
        await pause()

    async def give_back(self) -> None:
        self.start()

    def start(self) -> None:
        listen: Any = reactor
        if not self.tls:
            self.listening = listen.listenTCP(self.number, self, interface="127.0.0.1")
        else:
            pem = b"".join(self.pki.path(f"{self.certificate}.{kind}").read_bytes() for kind in ("pem", "key"))
            options = PrivateCertificate.loadPEM(pem).options(Certificate.loadPEM(self.pki.path("ca.pem").read_bytes()))
            self.listening = listen.listenSSL(self.number, self, options, interface="127.0.0.1")
        self.number = self.listening.getHost().port

    async def end(self) -> None:
        for sink in self.sinks:
            await sink.close()
        await self.take_away()


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> TestPKI:
    return TestPKI.mint(tmp_path_factory.mktemp("syslog"))


@pytest_twisted.async_yield_fixture(params=[True, False], ids=["tls", "tcp"])
async def receiver(request: pytest.FixtureRequest, pki: TestPKI) -> AsyncIterator[Receiver]:
    found = Receiver(pki, request.param)
    found.start()
    yield found
    await found.end()


@pytest_twisted.async_yield_fixture
async def secure(pki: TestPKI) -> AsyncIterator[Receiver]:
    found = Receiver(pki)
    found.start()
    yield found
    await found.end()


async def unavailable(sink: Any, events: Sequence[LogEvent] | None = None) -> str:
    """What the sink says when it takes nothing."""
    with pytest.raises(SinkUnavailable) as caught:
        await sink.open()
        await sink.deliver(events or some_events(1))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("promise", CONTRACT, ids=name_of)
@pytest_twisted.ensureDeferred
async def test_it_keeps_the_contract(promise: Promise, receiver: Receiver) -> None:
    await promise(receiver)


def test_it_is_a_sink() -> None:
    """The interfaces are provided."""
    assert ISinkKind.providedBy(SyslogKind())
    assert ILogSink.providedBy(SyslogKind().make(reactor, "siem", SyslogSettings(host="x")))


@pytest_twisted.ensureDeferred
async def test_much_more_than_buffers_hold_arrives_as_it_was(receiver: Receiver) -> None:
    """Several megabytes through one connection: the same bytes in the same order."""
    events = [an_event(number, text="ü" * (37 * number % 9000)) for number in range(600)]
    sink = receiver.make()
    await sink.open()
    assert await sink.deliver(events) == Outcome()
    assert await receiver.received() == [event.document for event in events]
    assert len(receiver.connections) == 1


@pytest_twisted.ensureDeferred
async def test_a_delivery_reads_its_events_as_the_receiver_takes_them(receiver: Receiver) -> None:
    """To a receiver that stands still no more is formatted than the system's buffers and one chunk hold."""
    events = [an_event(number, text="x" * 60_000) for number in range(1000)]
    sink = receiver.make(timeout=0.8)
    formatted = 0

    class Counting(MessageStyle):
        def message(self, event: LogEvent) -> bytes:
            nonlocal formatted
            formatted += 1
            return super().message(event)

    sink.style = Counting()
    await sink.open()
    receiver.stall()
    with pytest.raises(SinkUnavailable):
        await sink.deliver(events)
    assert 0 < formatted < 500


@pytest.mark.skipif(not LINUX, reason="only Linux says what TCP has acknowledged")
@pytest.mark.parametrize("count", [10, 200], ids=["in the system's buffer", "in ours"])
@pytest_twisted.ensureDeferred
async def test_a_stalled_receiver_costs_the_timeout(receiver: Receiver, count: int) -> None:
    """SinkUnavailable in time; when the receiver reads again, a new connection brings everything."""
    sink = receiver.make(timeout=0.8)
    await sink.open()
    receiver.stall()
    events = [an_event(number, text="x" * 60_000) for number in range(count)]
    began = time.monotonic()
    with pytest.raises(SinkUnavailable, match=r"^syslog 127.0.0.1:\d+: it has not taken everything in 0.8 s$"):
        await sink.deliver(events)
    assert 0.7 < time.monotonic() - began < 2
    receiver.go_on()
    await pause()
    receiver.messages.clear()
    assert await sink.deliver(events) == Outcome()
    assert await receiver.received() == [event.document for event in events]


@pytest_twisted.ensureDeferred
async def test_a_cancelled_delivery_cuts_its_connection(receiver: Receiver) -> None:
    """Half a message may be on the way, so nothing can follow it."""
    sink = receiver.make()
    await sink.open()
    receiver.stall()
    under_way = Deferred.fromCoroutine(sink.deliver([an_event(0, text="x" * 60_000)] * 200))
    await pause(0.1)
    assert not under_way.called
    under_way.cancel()
    with pytest.raises(CancelledError):
        await under_way
    receiver.go_on()
    await pause(0.1)
    assert receiver.connections == []
    assert await sink.deliver(some_events(2)) == Outcome()
    assert list(await receiver.received())[-2:] == [event.document for event in some_events(2)]


@pytest_twisted.ensureDeferred
async def test_a_connection_that_was_closed_is_made_anew(receiver: Receiver) -> None:
    """A receiver may hang up between deliveries, politely or not; nobody notices."""
    sink = receiver.make()
    await sink.open()
    for number, hang_up in enumerate(("loseConnection", "abortConnection")):
        assert await sink.deliver(some_events(1, number)) == Outcome()
        await pause(0.05)
        for each in list(receiver.connections):
            getattr(each.transport, hang_up)()
        await pause(0.05)
    assert await sink.deliver(some_events(1, 2)) == Outcome()
    assert await receiver.received() == [event.document for event in some_events(3)]


@pytest.mark.parametrize("hang_up", ["loseConnection", "abortConnection"])
@pytest_twisted.ensureDeferred
async def test_a_connection_that_is_lost_takes_its_delivery_with_it(receiver: Receiver, hang_up: str) -> None:
    """SinkUnavailable at once, not after the timeout."""
    sink = receiver.make(timeout=10.0)
    await sink.open()
    receiver.stall()
    under_way = Deferred.fromCoroutine(sink.deliver([an_event(0, text="x" * 60_000)] * 200))
    await pause(0.1)
    began = time.monotonic()
    for each in list(receiver.connections):
        each.transport.resumeProducing()  # type: ignore[union-attr]
        getattr(each.transport, hang_up)()
    with pytest.raises(SinkUnavailable, match=r"^syslog 127.0.0.1:\d+: "):
        await under_way
    assert time.monotonic() - began < 2


@pytest_twisted.ensureDeferred
async def test_what_is_too_long_is_refused_alone(receiver: Receiver) -> None:
    """Everything else arrives; max_message is the largest message, to the byte."""
    event = an_event(1, text="x" * 1000)
    size = len(MessageStyle().message(event))
    long = an_event(2, text="x" * 1001)
    sink = receiver.make(max_message=size)
    await sink.open()
    outcome = await sink.deliver([an_event(0), long, event])
    assert [each.index for each in outcome.refused] == [1]
    assert outcome.refused[0].reason == f"its message has {size + 1} bytes, and max_message is {size}"
    assert outcome.again == ()
    assert await receiver.received() == [an_event(0).document, event.document]
    assert [each.index for each in (await sink.deliver([long])).refused] == [0]


@pytest_twisted.ensureDeferred
async def test_tls_is_verified_both_ways(secure: Receiver) -> None:
    """What is wrong is said in words that name the receiver; one that does not want us takes nothing from us."""
    ca, key = str(secure.pki.path("other-ca.pem")), secure.pki.files_of("second")[1]
    strange = dict(zip(("cert", "key"), secure.pki.files_of("other CA"), strict=True))
    place = f"syslog 127.0.0.1:{secure.number}: "
    for wrong, text in (
        ({"ca": ca}, "TLS: certificate verify failed"),
        ({"ca": ""}, "TLS: certificate verify failed"),
        ({"cert": "", "key": ""}, "TLS: "),
        (strange, "TLS: "),
        ({"key": key}, f"key {key} is not the key of cert"),
        ({"ca": key}, f"ca {key} cannot be used: there is no certificate in it"),
        ({"server_name": "elsewhere.example"}, "TLS: its certificate is for another host"),
    ):
        said = await unavailable(secure.make(**wrong))
        assert said.startswith(place + text)
    sink = secure.make(server_name="localhost")
    await sink.open()
    assert await sink.deliver(some_events(1)) == Outcome()
    assert await secure.received() == [some_events(1)[0].document]


@pytest_twisted.ensureDeferred
async def test_a_receiver_that_never_shakes_hands_costs_the_timeout(pki: TestPKI) -> None:
    """A port where nobody speaks TLS."""
    dumb = Receiver(pki, tls=False, is_stalled=True)
    dumb.start()
    sink = dumb.make(tls=True, timeout=0.3)
    try:
        assert "it has not taken everything in 0.3 s" in await unavailable(sink)
    finally:
        await dumb.end()


@pytest_twisted.ensureDeferred
async def test_a_receiver_that_hangs_up_a_moment_later_has_taken_nothing(pki: TestPKI) -> None:
    """It accepts, thinks, and closes, reading nothing: its TCP would have acknowledged what nobody ever reads."""
    unwilling = Receiver(pki, tls=False, is_stalled=True)
    unwilling.start()
    sink = unwilling.make()
    try:
        under_way = Deferred.fromCoroutine(sink.deliver(some_events(1)))
        await pause(0.15)
        await unwilling.hang_up()
        with pytest.raises(SinkUnavailable):
            await under_way
    finally:
        await unwilling.end()


@pytest_twisted.ensureDeferred
async def test_renewed_certificates_are_used_by_the_next_connection(secure: Receiver, tmp_path: Path) -> None:
    """The files are read at each connection."""
    ca = tmp_path / "ca.pem"
    ca.write_bytes(secure.pki.path("other-ca.pem").read_bytes())
    sink = secure.make(ca=str(ca))
    assert "certificate verify failed" in await unavailable(sink)
    ca.write_bytes(secure.pki.path("ca.pem").read_bytes())
    assert await sink.deliver(some_events(1)) == Outcome()


@pytest_twisted.ensureDeferred
async def test_closing_waits_for_nobody_for_long(secure: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A receiver that does not answer the goodbye of TLS is left without it."""
    monkeypatch.setattr(syslogconnection, "_GOODBYE_SECONDS", 0.2)
    sink = secure.make()
    await sink.open()
    secure.stall()
    began = time.monotonic()
    await sink.close()
    assert 0.1 < time.monotonic() - began < 1
    secure.go_on()


@pytest_twisted.ensureDeferred
async def test_a_host_that_no_certificate_can_name(secure: Receiver) -> None:
    """An underscore will do for plain TCP only."""
    assert "no certificate can be for my_host, which is not a host name" in await unavailable(
        secure.make(server_name="my_host")
    )


# Settings


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"host": ""}, "host is missing"),
        ({"host": "tls://x"}, "host is 'tls://x'"),
        ({"host": "x:6514"}, "host is 'x:6514'"),
        ({"host": "a..b"}, "host is 'a..b'"),
        ({"server_name": "a b"}, "server_name is 'a b'"),
        ({"port": 0}, "port is 0"),
        ({"port": 65536}, "port is 65536"),
        ({"tls": False, "ca": "/x"}, "ca has no use with tls = false"),
        ({"tls": False, "cert": "/x", "key": "/x"}, "cert has no use"),
        ({"tls": False, "server_name": "x"}, "server_name has no use"),
        ({"cert": "/x"}, "cert and key go together"),
        ({"key": "/x"}, "cert and key go together"),
        ({"facility": "local8"}, "facility is 'local8'; it must be one of kern, user"),
        ({"severity": "bad"}, "severity is 'bad'; it must be one of emerg, alert"),
        ({"app_name": ""}, "app_name must have"),
        ({"app_name": "os query"}, "app_name must have"),
        ({"app_name": "x" * 49}, "app_name must have"),
        ({"sd_id": "a=b"}, "sd_id must have"),
        ({"sd_id": "a]"}, "sd_id must have"),
        ({"sd_id": "x" * 33}, "sd_id must have"),
        ({"max_message": 479}, "max_message is 479"),
        ({"max_message": 2**30}, "max_message is 1073741824"),
        ({"timeout": 0.0}, "timeout is 0"),
        ({"timeout": float("nan")}, "timeout is nan"),
    ],
)
def test_settings_that_cannot_be_used(settings: dict[str, Any], text: str) -> None:
    """One sentence that names the key."""
    given = SyslogSettings(**({"host": "x"} | settings))
    with pytest.raises(BadSinkSetting, match=f"^{re.escape(text)}") as caught:
        SyslogKind().make(reactor, "siem", given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("host", ["syslog.example.org", "10.0.0.1", "::1", "fe80::1", "siem-1", "localhost"])
def test_hosts_that_can_be_used(host: str) -> None:
    """Names and addresses of both kinds."""
    SyslogKind().make(reactor, "siem", SyslogSettings(host=host, server_name=host))


# A real rsyslogd

CONFIGURATION = """
global(workDirectory="{folder}" maxMessageSize="128k" parser.escapeControlCharactersOnReceive="off"
    defaultNetstreamDriverCAFile="{pki}/ca.pem" defaultNetstreamDriverCertFile="{pki}/server.pem"
    defaultNetstreamDriverKeyFile="{pki}/server.key")
main_queue(queue.type="Direct")
module(load="imtcp" streamDriver.name="{driver}" streamDriver.mode="1" streamDriver.authMode="x509/name"
    permittedPeer=["node-1"])
template(name="document" type="string" string="%msg%\\n")
template(name="header" type="string"
    string="%pri% %timereported:::date-rfc3339% %hostname% %app-name% %procid% %msgid% %structured-data%\\n")
ruleset(name="all" queue.type="Direct") {{
    action(type="omfile" file="{folder}/documents" template="document")
    action(type="omfile" file="{folder}/headers" template="header")
}}
input(type="imtcp" address="127.0.0.1" port="{port}" listenPortFileName="{folder}/port" ruleset="all")
"""


@attrs.define
class Rsyslog:
    """Debian's rsyslogd as a process of ours, with TLS both ways."""

    folder: Path
    pki: TestPKI
    driver: str
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = shutil.which("rsyslogd", path="/usr/sbin:/sbin:/usr/bin:/usr/local/sbin")
        assert program, "rsyslogd is not installed; it is in the packages rsyslog, rsyslog-gnutls and rsyslog-openssl"
        text = CONFIGURATION.format(folder=self.folder, pki=self.pki.folder, driver=self.driver, port=self.port)
        file, log = self.folder / "rsyslog.conf", self.folder / "log"
        file.write_text(text)
        words = [program, "-n", "-f", str(file), "-i", str(self.folder / "pid")]
        with log.open("ab") as output:
            self.process = subprocess.Popen(words, stdout=output, stderr=output)
        deadline = time.monotonic() + 10
        while not self._listens():
            assert self.process.poll() is None and time.monotonic() < deadline, (
                f"rsyslogd does not start (are rsyslog-gnutls and rsyslog-openssl installed?): {log.read_text()}"
            )
            time.sleep(0.02)

    def _listens(self) -> bool:
        """Whether it does; the first time it says on which port."""
        number = self.folder / "port"
        if not self.port and number.exists() and (text := number.read_text().strip()):
            self.port = int(text)
        # Connecting to see would be a failed handshake, and rsyslog's OpenSSL driver blames the next session for that.
        sockets = Path("/proc/net/tcp").read_text()
        return f"0100007F:{self.port:04X} 00000000:0000 0A" in sockets

    def kill(self) -> None:
        """End it as a power cut would."""
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(signal.SIGKILL)
            process.wait(10)

    def make(self, node: str = "good", **more: Any) -> Any:
        cert, key = self.pki.files_of(node)
        where = {"host": "127.0.0.1", "port": self.port, "timeout": 5.0, "server_name": "localhost"}
        tls = {"ca": str(self.pki.path("ca.pem")), "cert": cert, "key": key}
        return SyslogKind().make(reactor, "siem", SyslogSettings(**(where | tls | more)))

    def lines(self, name: str = "documents") -> list[bytes]:
        found = self.folder / name
        return found.read_bytes().split(b"\n")[:-1] if found.exists() else []

    async def received(self) -> Sequence[bytes]:
        """What it has written, once it has written nothing new for a moment."""
        found, since = self.lines(), time.monotonic()
        while time.monotonic() - since < 0.4:
            await pause(0.05)
            if (now := self.lines()) != found:
                found, since = now, time.monotonic()
        return found

    async def take_away(self) -> None:
        # What TCP has taken and rsyslogd has not read would be lost, which is syslog's nature.
        await self.received()
        self.kill()
        await pause()

    async def give_back(self) -> None:
        self.start()


@pytest.fixture(params=["gtls", "ossl"])
def rsyslog(request: pytest.FixtureRequest, tmp_path: Path, pki: TestPKI) -> Iterator[Rsyslog]:
    found = Rsyslog(tmp_path, pki, request.param)
    try:
        found.start()
        yield found
    finally:
        found.kill()


@pytest.mark.slow
@pytest.mark.parametrize("promise", CONTRACT, ids=name_of)
@pytest_twisted.ensureDeferred
async def test_it_keeps_the_contract_with_rsyslog(promise: Promise, rsyslog: Rsyslog) -> None:
    await promise(rsyslog)


@pytest.mark.slow
@pytest_twisted.ensureDeferred
async def test_rsyslog_writes_what_was_sent(rsyslog: Rsyslog) -> None:
    """Every document byte for byte and in order, and what it understood of the headers."""
    events = [an_event(number, text="é]\\ \x7f\u2028" * (number * 13 % 4000)) for number in range(400)]
    sink = rsyslog.make()
    await sink.open()
    for first in range(0, 400, 80):
        assert await sink.deliver(events[first : first + 80]) == Outcome()
    await sink.close()
    assert await rsyslog.received() == [event.document for event in events]
    wanted = '134 2026-09-21T14:15:00.500000Z node-1 osquery - result [osqtwist@32473 node="n-1" type="result" '
    assert rsyslog.lines("headers")[0].decode() == f'{wanted}event="{events[0].event_id}"]'


@pytest.mark.slow
@pytest_twisted.ensureDeferred
async def test_rsyslog_dies_and_comes_back(rsyslog: Rsyslog) -> None:
    """Killed between deliveries, again and again: nothing is lost, and what was not taken comes when it is back."""
    sink = rsyslog.make(timeout=1.0)
    await sink.open()
    sent = []
    for turn in range(3):
        events = some_events(50, turn * 100)
        assert await sink.deliver(events) == Outcome()
        await rsyslog.take_away()
        more = some_events(50, turn * 100 + 50)
        for _ in range(2):
            with pytest.raises(SinkUnavailable, match="refused"):
                await sink.deliver(more)
        await rsyslog.give_back()
        assert await sink.deliver(more) == Outcome()
        sent += [event.document for event in (*events, *more)]
    await sink.close()
    assert await rsyslog.received() == sent


@pytest.mark.slow
@pytest_twisted.ensureDeferred
async def test_rsyslog_stands_still(rsyslog: Rsyslog) -> None:
    """A stopped process: the delivery ends in time and comes again; nothing is lost, some of it may be there twice."""
    sink = rsyslog.make(timeout=1.0)
    await sink.open()
    events = [an_event(number, text="x" * 60_000) for number in range(300)]
    assert rsyslog.process is not None
    rsyslog.process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(SinkUnavailable, match="it has not taken everything in 1 s"):
        await sink.deliver(events)
    assert time.monotonic() - began < 3
    rsyslog.process.send_signal(signal.SIGCONT)
    deadline = time.monotonic() + 20
    while True:
        try:
            assert await sink.deliver(events) == Outcome()
            break
        except SinkUnavailable:
            assert time.monotonic() < deadline
    await sink.close()
    found = list(await rsyslog.received())
    assert found[-300:] == [event.document for event in events]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rsyslog", "node"),
    [
        # Debian's rsyslog 8.2302 does not look at names with its OpenSSL driver.
        ("gtls", "second"),
        *((driver, node) for driver in ("gtls", "ossl") for node in ("other CA", "expired", "")),
    ],
    indirect=["rsyslog"],
)
@pytest_twisted.ensureDeferred
async def test_rsyslog_does_not_want_this_node(rsyslog: Rsyslog, node: str) -> None:
    """It looks at certificates after the handshake, and hangs up: that is no delivery."""
    sink = rsyslog.make(node) if node else rsyslog.make(cert="", key="")
    assert await unavailable(sink)
    assert await rsyslog.received() == []


def test_the_parser_of_these_tests_can_fail() -> None:
    """A quote that is not escaped, and a header that is too short."""
    good = MessageStyle().message(an_event())
    assert json.loads(parse(good).text) == read([an_event().document])[0]
    for bad in (good.replace(b"n-1", b'n"1', 1), good.replace(b" osquery", b"", 1), good.replace(b"Z", b"", 1)):
        with pytest.raises(AssertionError):
            parse(bad)
