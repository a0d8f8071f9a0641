"""
The S3 sink: boto3's own HTTP over loopback, to moto's server, or to one that answers as the test says.

``OSQ_TEST_S3=URL`` runs the contract on another server instead: its keys are boto3's (``AWS_ACCESS_KEY_ID`` and so on).
"""

from __future__ import annotations

import gzip
import os
import ssl
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor as the_reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.protocols.portforward import ProxyFactory, ProxyServer
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from osqtwist.sinkinterfaces import BadSinkSetting, Outcome, SinkUnavailable
from osqtwist.sinks.s3 import S3Kind, S3Settings
from tests.certificates import TestPKI
from tests.sinkcontract import CONTRACT, Promise, an_event, name_of, some_events

pytestmark = pytest.mark.slow

boto3 = pytest.importorskip("boto3")
moto_server = pytest.importorskip("moto.server")

reactor: Any = the_reactor
REAL = os.environ.get("OSQ_TEST_S3", "")
KEYS = {} if REAL else {"access_key_id": "AKIATEST", "secret_access_key": "rose"}
TIMEOUT = 5.0


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    """Where the S3 server listens."""
    if REAL:
        yield urlsplit(REAL).hostname or "", urlsplit(REAL).port or 80
        return
    server = moto_server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        yield server.get_host_and_port()
    finally:
        server.stop()
        server._server.server_close()


class Link(ProxyServer):
    """A forwarded connection that the door knows."""

    def connectionMade(self) -> None:
        self.factory.links.append(self)
        super().connectionMade()


class Door(ProxyFactory):
    """Forwards a port to the S3 server, and can be shut: what the server has stays."""

    protocol = Link
    noisy = False

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(*address)
        self.links: list[Link] = []
        self.number = 0
        self._listening: Any = None
        self.open()

    def open(self) -> None:
        self._listening = reactor.listenTCP(self.number, self, interface="127.0.0.1")
        self.number = self._listening.getHost().port

    async def shut(self) -> None:
        listening, self._listening = self._listening, None
        if listening is not None:
            await listening.stopListening()
        for link in self.links:
            link.transport.abortConnection()
        self.links.clear()


@attrs.define
class Bucket:
    """A bucket behind a door; see :class:`tests.sinkcontract.Destination`."""

    door: Door
    name: str
    client: Any

    def make(self, **more: Any) -> Any:
        url = f"http://127.0.0.1:{self.door.number}"
        given = {"bucket": self.name, "endpoint_url": url, "region": "us-east-1", "timeout": TIMEOUT} | KEYS | more
        return S3Kind().make(reactor, "archive", S3Settings(**given))

    async def received(self) -> Sequence[bytes]:
        objects = await self.objects()
        return [line for body in objects.values() for line in gzip.decompress(body).splitlines()]

    async def objects(self) -> dict[str, bytes]:
        return await deferToThread(self._read)

    async def head(self, key: str) -> Any:
        return await deferToThread(self.client.head_object, Bucket=self.name, Key=key)

    def _read(self) -> dict[str, bytes]:
        listed = self.client.list_objects_v2(Bucket=self.name).get("Contents", [])
        keys = sorted(each["Key"] for each in listed)
        return {key: self.client.get_object(Bucket=self.name, Key=key)["Body"].read() for key in keys}

    async def take_away(self) -> None:
        await self.door.shut()

    async def give_back(self) -> None:
        self.door.open()


@pytest.fixture(scope="module")
def client(address: tuple[str, int]) -> Iterator[Any]:
    """To see what there is."""
    keys = {} if REAL else {"aws_access_key_id": "AKIATEST", "aws_secret_access_key": "rose"}
    found = boto3.client("s3", region_name="us-east-1", endpoint_url=f"http://{address[0]}:{address[1]}", **keys)
    yield found
    found.close()


@pytest.fixture
def destination(address: tuple[str, int], client: Any) -> Iterator[Bucket]:
    name = f"osquery-{uuid4().hex}"
    client.create_bucket(Bucket=name)
    door = Door(address)
    yield Bucket(door, name, client)
    pytest_twisted.blockon(Deferred.fromCoroutine(door.shut()))


@attrs.define
class Reply:
    """What a server answers; nothing at all if the status is 0."""

    status: int
    code: str = ""
    message: str = "said so"
    headers: dict[str, str] = attrs.field(factory=dict)


class Answers(Resource):
    """Answers every request as it was told to, the last reply for ever."""

    isLeaf = True

    def __init__(self, *replies: Reply) -> None:
        super().__init__()
        self.replies = list(replies)
        self.requests: list[Any] = []
        self.bodies: list[bytes] = []

    def render(self, request: Any) -> Any:
        self.requests.append(request)
        self.bodies.append(request.content.read())
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if not reply.status:
            request.notifyFinish().addErrback(lambda failure: None)
            return NOT_DONE_YET
        request.setResponseCode(reply.status)
        for name, value in reply.headers.items():
            request.setHeader(name, value)
        text = f"<Error><Code>{reply.code}</Code><Message>{reply.message}</Message></Error>"
        return text.encode() if reply.code else b""


@attrs.define
class Server:
    """A server of :class:`Answers`."""

    answers: Answers
    port: int

    def make(self, **more: Any) -> Any:
        url = f"http://127.0.0.1:{self.port}"
        given = {"bucket": "logs", "endpoint_url": url, "region": "us-east-1", "timeout": TIMEOUT} | KEYS | more
        return S3Kind().make(reactor, "archive", S3Settings(**given))


@pytest.fixture
def server() -> Iterator[Server]:
    answers = Answers(Reply(200))
    site = Site(answers)
    links: list[Any] = []
    build = site.buildProtocol

    def remember(address: Any) -> Any:
        links.append(build(address))
        return links[-1]

    site.buildProtocol = remember  # type: ignore[method-assign]
    listening = reactor.listenTCP(0, site, interface="127.0.0.1")
    yield Server(answers, listening.getHost().port)
    pytest_twisted.blockon(listening.stopListening())
    for link in links:
        if link._channel.transport is not None:
            link._channel.transport.abortConnection()


def putting() -> int:
    """How many threads are in a put."""
    frames = sys._current_frames().values()
    return sum(any(each.name == "_put" for each in traceback.extract_stack(frame)) for frame in frames)


async def pause(seconds: float) -> None:
    await deferLater(reactor, seconds)


@pytest.mark.parametrize("promise", CONTRACT, ids=name_of)
@pytest_twisted.ensureDeferred
async def test_it_keeps_the_contract(promise: Promise, destination: Bucket) -> None:
    await promise(destination)


@pytest_twisted.ensureDeferred
async def test_what_an_object_is(destination: Bucket) -> None:
    """Gzipped JSON lines, named by the time and the ids of its events, below a prefix with the UTC date."""
    sink = destination.make(
        prefix="logs/%Y/%m/%d/%H%M/%j-", storage_class="STANDARD_IA", server_side_encryption="AES256"
    )
    await sink.open()
    assert await sink.deliver(some_events(3)) == Outcome()
    await sink.close()
    ((key, body),) = (await destination.objects()).items()
    start, _, digest = key.removesuffix(".jsonl.gz").rpartition("-")
    # 1790000100.5
    assert start == "logs/2026/09/21/1415/264-20260921T141500.500Z-3"
    assert len(bytes.fromhex(digest)) == 8
    assert gzip.decompress(body) == b"".join(event.document + b"\n" for event in some_events(3))
    head = await destination.head(key)
    assert head["ContentType"] == "application/x-ndjson"
    assert not head.get("ContentEncoding")
    assert (head["StorageClass"], head["ServerSideEncryption"]) == ("STANDARD_IA", "AES256")


@pytest_twisted.ensureDeferred
async def test_a_repetition_replaces_what_is_there(destination: Bucket) -> None:
    """The same events make the same object to the byte, at any time; other events make another."""
    sink = destination.make()
    await sink.open()
    await sink.deliver(some_events(3))
    before = await destination.objects()
    # A time in the gzip header would be in seconds.
    await pause(1.1)
    await sink.deliver(some_events(3))
    assert await destination.objects() == before
    await sink.deliver([*some_events(2), an_event(9)])
    await sink.close()
    assert len(await destination.objects()) == 2


@pytest_twisted.ensureDeferred
async def test_deliveries_share_a_connection(server: Server) -> None:
    """However often the sink is opened."""
    sink = server.make()
    for number in range(3):
        await sink.open()
        await sink.deliver(some_events(1, number))
    await sink.close()
    assert len({request.getClientAddress().port for request in server.answers.requests}) == 1


@pytest_twisted.ensureDeferred
async def test_a_server_that_is_away_costs_no_client(destination: Bucket) -> None:
    """To make one takes long, and it is not to blame."""
    sink = destination.make()
    await sink.open()
    client = sink._client
    await destination.take_away()
    with pytest.raises(SinkUnavailable, match=r"no connection: Connection refused$"):
        await sink.deliver(some_events(1))
    await destination.give_back()
    await sink.open()
    assert await sink.deliver(some_events(1)) == Outcome()
    assert sink._client is client
    await sink.close()


@pytest_twisted.ensureDeferred
async def test_a_bucket_that_is_not_there_is_named(destination: Bucket) -> None:
    """The lines wait for an operator who makes it."""
    other = f"{destination.name}-2"
    sink = destination.make(bucket=other)
    await sink.open()
    wanted = f"^s3 bucket {other} at 127.0.0.1:{destination.door.number}: there is no such bucket .NoSuchBucket"
    with pytest.raises(SinkUnavailable, match=wanted):
        await sink.deliver(some_events(1))
    await deferToThread(destination.client.create_bucket, Bucket=other)
    assert await sink.deliver(some_events(1)) == Outcome()
    await sink.close()


@pytest.mark.parametrize("checksum", ["md5", "crc32", "sha256"])
@pytest_twisted.ensureDeferred
async def test_the_server_can_check_what_it_gets(checksum: Any, server: Server) -> None:
    """One checksum in a header, the payload's digest signed, and the body as it is: not in chunks with a trailer."""
    sink = server.make(checksum=checksum)
    await sink.open()
    await sink.deliver(some_events(2))
    await sink.close()
    (request,) = server.answers.requests
    names = {"md5": b"content-md5", "crc32": b"x-amz-checksum-crc32", "sha256": b"x-amz-checksum-sha256"}
    sums = {name for name in names.values() if request.requestHeaders.hasHeader(name)}
    assert sums == {names[checksum]}
    assert len(request.requestHeaders.getRawHeaders(b"x-amz-content-sha256")[0]) == 64
    assert gzip.decompress(server.answers.bodies[0]).splitlines() == [event.document for event in some_events(2)]


@pytest.mark.parametrize("checksum", ["md5", "crc32", "sha256"])
@pytest_twisted.ensureDeferred
async def test_a_checksum_is_right(checksum: Any, destination: Bucket) -> None:
    """A server that checks takes it."""
    sink = destination.make(checksum=checksum)
    await sink.open()
    assert await sink.deliver(some_events(2)) == Outcome()
    await sink.close()
    assert len(await destination.received()) == 2


@pytest_twisted.ensureDeferred
async def test_a_server_that_wants_a_rest_gets_it(server: Server) -> None:
    """SlowDown with Retry-After: one try, and delivery is told how long to wait."""
    server.answers.replies = [Reply(503, "SlowDown", headers={"Retry-After": "17"}), Reply(503, "SlowDown"), Reply(200)]
    sink = server.make()
    await sink.open()
    for seconds in (17.0, 0.0):
        with pytest.raises(SinkUnavailable, match="SlowDown: said so") as caught:
            await sink.deliver(some_events(1))
        assert caught.value.retry_after == seconds
    assert await sink.deliver(some_events(1)) == Outcome()
    await sink.close()
    assert len(server.answers.requests) == 3


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (Reply(403, "AccessDenied"), "the credentials do not allow s3:PutObject there .AccessDenied: said so.$"),
        (Reply(403, "InvalidAccessKeyId"), "the access key is not known there"),
        (Reply(403, "SignatureDoesNotMatch"), "the secret access key is not"),
        (Reply(400, "ExpiredToken"), "the temporary credentials have expired"),
        (Reply(403, "RequestTimeTooSkewed"), "the clock of this machine is wrong"),
        (Reply(400, "KMS.DisabledException", "a\nb rose"), r"KMS.DisabledException: a b \*\*\*$"),
        (Reply(409, "OperationAborted"), "OperationAborted: said so"),
        (Reply(500, "InternalError"), "InternalError: said so"),
        (Reply(502), "502: Bad Gateway"),
        (Reply(429, "TooManyRequests"), "TooManyRequests: said so"),
    ],
    ids=lambda value: value.code or str(value.status) if isinstance(value, Reply) else "",
)
@pytest_twisted.ensureDeferred
async def test_no_line_is_lost_for_what_an_operator_can_mend(reply: Reply, text: str, server: Server) -> None:
    """Every refusal of the whole object is SinkUnavailable; a client whose credentials may be wrong is made anew."""
    server.answers.replies = [reply, Reply(200)]
    sink = server.make()
    await sink.open()
    client = sink._client
    with pytest.raises(SinkUnavailable, match=rf"^s3 bucket logs at 127.0.0.1:\d+: {text}") as caught:
        await sink.deliver(some_events(2))
    assert "rose" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert await sink.deliver(some_events(2)) == Outcome()
    assert (sink._client is client) == (reply.status == 429 or reply.status >= 500)
    await sink.close()


@pytest.mark.parametrize("reply", [Reply(400, "EntityTooLarge"), Reply(413)], ids=["code", "status"])
@pytest_twisted.ensureDeferred
async def test_what_is_too_large_is_halved(reply: Reply, server: Server) -> None:
    """Until it is taken; one line that is too large alone is refused."""
    # 0-3, 0-1, 2-3, 2, 3
    server.answers.replies = [reply, Reply(200), reply, reply, Reply(200)]
    sink = server.make()
    await sink.open()
    outcome = await sink.deliver(some_events(4))
    await sink.close()
    assert [each.index for each in outcome.refused] == [2]
    assert "does not take an object of" in outcome.refused[0].reason
    assert outcome.again == ()
    sent = [gzip.decompress(body).splitlines() for body in server.answers.bodies]
    documents = [event.document for event in some_events(4)]
    assert sent == [documents, documents[:2], documents[2:], documents[2:3], documents[3:]]


@pytest_twisted.ensureDeferred
async def test_a_failure_half_way_keeps_what_is_there(server: Server) -> None:
    """Only the objects that are not there come again."""
    server.answers.replies = [Reply(413), Reply(200), Reply(503, "SlowDown", headers={"Retry-After": "3"}), Reply(200)]
    sink = server.make()
    await sink.open()
    outcome = await sink.deliver(some_events(5))
    await sink.close()
    assert (outcome.refused, outcome.again, outcome.retry_after) == ((), (2, 3, 4), 3.0)
    assert "SlowDown" in outcome.trouble


@pytest_twisted.ensureDeferred
async def test_a_server_that_hangs_costs_the_timeout(server: Server) -> None:
    """A delivery ends in time, and so does one that waits for its thread."""
    server.answers.replies = [Reply(0), Reply(200)]
    sink = server.make(timeout=2.0)
    await sink.open()
    began = time.monotonic()
    with pytest.raises(SinkUnavailable, match="no answer in"):
        await sink.deliver(some_events(1))
    assert 1.9 < time.monotonic() - began < 4
    await pause(0.1)
    assert await sink.deliver(some_events(1)) == Outcome()
    await sink.close()


@pytest_twisted.ensureDeferred
async def test_threads_do_not_pile_up(server: Server) -> None:
    """However many deliveries are given up, one put is under way; the next one waits for it, but not for ever."""
    server.answers.replies = [Reply(0)]
    sink = server.make(timeout=1.0)
    await sink.open()
    for _ in range(5):
        under_way = Deferred.fromCoroutine(sink.deliver(some_events(2)))
        under_way.addErrback(lambda failure: None)
        await pause(0.05)
        under_way.cancel()
        assert putting() == 1
    assert len(server.answers.requests) == 1
    server.answers.replies = [Reply(200)]
    assert await sink.deliver(some_events(2)) == Outcome()
    await sink.close()
    assert putting() == 0


@pytest_twisted.ensureDeferred
async def test_the_reactor_goes_on(server: Server) -> None:
    """Nothing of boto3 happens in the reactor's thread."""
    threads: set[int] = set()
    sink = server.make()
    await sink.open()
    sink._client.meta.events.register("before-send.s3", lambda **_: threads.add(threading.get_ident()))
    await sink.deliver(some_events(1))
    await sink.close()
    assert len(threads) == 1
    assert threading.get_ident() not in threads


@pytest_twisted.ensureDeferred
async def test_closing_while_a_put_is_under_way_leaves_nothing(server: Server) -> None:
    """The thread lets go of the client when it is done."""
    server.answers.replies = [Reply(0)]
    sink = server.make(timeout=2.0)
    await sink.open()
    under_way = Deferred.fromCoroutine(sink.deliver(some_events(2)))
    under_way.addErrback(lambda failure: None)
    await pause(0.1)
    under_way.cancel()
    await sink.close()
    deadline = time.monotonic() + 5
    while putting() and time.monotonic() < deadline:
        await pause(0.02)
    assert not putting()
    assert sink._client is None


@pytest_twisted.ensureDeferred
async def test_a_secret_from_a_file(server: Server, tmp_path: Path) -> None:
    """It is read again after a refusal, and no message repeats it."""
    secret = tmp_path / "secret"
    sink = server.make(secret_access_key="", secret_access_key_file=str(secret))
    with pytest.raises(SinkUnavailable, match=f"secret_access_key_file {secret} cannot be used: No such file"):
        await sink.open()
    secret.write_text("tulip\n")
    await sink.open()
    server.answers.replies = [Reply(403, "SignatureDoesNotMatch", "tulip is wrong"), Reply(200)]
    with pytest.raises(SinkUnavailable, match=r"\*\*\* is wrong") as caught:
        await sink.deliver(some_events(1))
    secret.write_text("violet\n")
    await sink.open()
    assert sink._secret == "violet"
    assert await sink.deliver(some_events(1)) == Outcome()
    await sink.close()
    said = repr(sink) + repr(sink.settings) + str(caught.value) + repr(server.make())
    assert not any(word in said for word in ("tulip", "violet", "rose"))


@pytest_twisted.ensureDeferred
async def test_without_keys_boto3_looks_for_them(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the environment, and in the profile that is named; if there are none, the sink says so."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    config = tmp_path / "config"
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    none = {"access_key_id": "", "secret_access_key": ""}
    sink, named = server.make(**none), server.make(**none, profile="logs", region="")
    await sink.open()
    with pytest.raises(SinkUnavailable, match="Unable to locate credentials"):
        await sink.deliver(some_events(1))
    with pytest.raises(SinkUnavailable, match=r"profile \(logs\) could not be found"):
        await named.open()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "tulip")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    config.write_text("[profile logs]\naws_access_key_id=AKIAPROFILE\naws_secret_access_key=x\nregion=eu-west-3\n")
    for each in (sink, named):
        await each.open()
        assert await each.deliver(some_events(1)) == Outcome()
        await each.close()
    by_environment, by_profile = (request.requestHeaders for request in server.answers.requests)
    assert b"Credential=AKIAENV/" in by_environment.getRawHeaders(b"authorization")[0]
    assert by_environment.getRawHeaders(b"x-amz-security-token") == [b"token"]
    authorization = by_profile.getRawHeaders(b"authorization")[0]
    assert b"Credential=AKIAPROFILE/" in authorization
    assert b"/eu-west-3/s3/" in authorization


@pytest_twisted.ensureDeferred
async def test_where_the_bucket_stands_in_the_url(server: Server) -> None:
    """In the path with an endpoint_url, unless path_style is false."""
    port = server.port
    # *.localhost is the loopback address by RFC 6761, but not every resolver knows.
    hosts = {True: f"127.0.0.1:{port}", None: f"127.0.0.1:{port}", False: f"logs.s3.test:{port}"}
    for style, host in hosts.items():
        sink = server.make(
            path_style=style, endpoint_url=f"http://{'s3.test' if style is False else '127.0.0.1'}:{port}"
        )
        await sink.open()
        urls: list[str] = []

        def note(request: Any, urls: list[str] = urls, **_: Any) -> None:
            urls.append(request.url)
            request.url = request.url.replace("logs.s3.test", "127.0.0.1")

        sink._client.meta.events.register("before-send.s3", note)
        await sink.deliver(some_events(1))
        await sink.close()
        (url,) = urls
        assert urlsplit(url).netloc == host
        assert urlsplit(url).path.startswith("/osquery/" if style is False else "/logs/osquery/")


class Taker(BaseHTTPRequestHandler):
    """Takes every object."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        """Nothing to the standard error."""


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> TestPKI:
    return TestPKI.mint(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def strict(pki: TestPKI) -> Iterator[str]:
    """The URL of a server that wants to see a certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(pki.path("ca.pem")))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(pki.path("server.pem"), pki.path("server.key"))
    with ThreadingHTTPServer(("127.0.0.1", 0), Taker) as listening:
        # Handshakes belong to the threads of the connections; failed ones are the client's to report.
        listening.socket = context.wrap_socket(listening.socket, server_side=True, do_handshake_on_connect=False)
        listening.handle_error = lambda *_: None  # type: ignore[method-assign]
        thread = threading.Thread(target=listening.serve_forever, args=(0.02,))
        thread.start()
        yield f"https://127.0.0.1:{listening.server_address[1]}"
        listening.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("ca", "shows", "text"),
    [
        ("ca.pem", True, ""),
        ("other-ca.pem", True, "TLS: certificate verify failed: .*certificate in certificate chain$"),
        ("", True, "TLS: certificate verify failed: .*certificate in certificate chain$"),
        # What a client sees of it depends on who is faster.
        ("ca.pem", False, "TLS: |the connection was closed|Connection reset"),
    ],
    ids=["good", "other ca", "system's ca", "no certificate"],
)
@pytest_twisted.ensureDeferred
async def test_both_sides_are_verified(ca: str, shows: bool, text: str, strict: str, pki: TestPKI) -> None:
    """With ca, cert and key; without the right ones nothing is sent, and the reason is said."""
    cert, key = pki.files_of("good") if shows else ("", "")
    given = {"endpoint_url": strict, "ca": ca and str(pki.path(ca)), "cert": cert, "key": key, "timeout": TIMEOUT}
    settings = S3Settings(bucket="logs", region="us-east-1", access_key_id="AKIATEST", secret_access_key="x", **given)
    sink = S3Kind().make(reactor, "archive", settings)
    await sink.open()
    if text:
        with pytest.raises(SinkUnavailable, match=text):
            await sink.deliver(some_events(1))
    else:
        assert await sink.deliver(some_events(1)) == Outcome()
    await sink.close()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"bucket": ""}, "bucket is missing"),
        ({"bucket": "a/b"}, "bucket is 'a/b'"),
        ({"prefix": "x/%Q/"}, "prefix is .*; after a % may stand"),
        ({"prefix": "100%"}, "prefix is .*; after a % may stand"),
        ({"prefix": "/x/"}, "prefix is '/x/'; it must not begin"),
        ({"prefix": "x//y"}, "prefix is "),
        ({"prefix": "x/../y"}, "prefix is "),
        ({"prefix": "x" * 901}, "prefix has 901 bytes"),
        ({"region": "eu central"}, "region is 'eu central'"),
        ({"endpoint_url": "minio:9000"}, "endpoint_url must be"),
        ({"endpoint_url": "https://u:rose@minio"}, "endpoint_url must be"),
        ({"endpoint_url": "https://[minio"}, "endpoint_url must be"),
        ({"ca": "/nonexistent"}, "ca: there is no file /nonexistent"),
        ({"ca": __file__, "endpoint_url": "http://minio"}, "ca has no use"),
        ({"cert": __file__}, "cert and key go together"),
        ({"access_key_id": ""}, "access_key_id and secret_access_key"),
        ({"secret_access_key": ""}, "access_key_id and secret_access_key"),
        ({"secret_access_key_file": "/x"}, "secret_access_key and secret_access_key_file are both"),
        ({"profile": "logs"}, "access_key_id and profile are both"),
        ({"storage_class": "cold!"}, "storage_class is 'cold!'"),
        ({"kms_key_id": "x"}, "kms_key_id is given"),
        ({"gzip_level": 0}, "gzip_level is 0"),
        ({"timeout": 0.0}, "timeout is 0"),
    ],
)
def test_settings_that_cannot_be_used(settings: dict[str, Any], text: str) -> None:
    """One sentence that names the key, and never a secret."""
    given = S3Settings(**({"bucket": "logs", "access_key_id": "a", "secret_access_key": "rose"} | settings))
    with pytest.raises(BadSinkSetting, match=f"^{text}") as caught:
        S3Kind().make(reactor, "archive", given)
    assert "rose" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("prefix", ["", "osquery-", "a/b.c/%Y-%m-%dT%H/", "tenant=x/dt=%Y%m%d/..x/"])
def test_prefixes_that_can(prefix: str) -> None:
    """Nothing at all, dates, dots within names."""
    S3Kind().make(reactor, "archive", S3Settings(bucket="logs", prefix=prefix))


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is optional."""
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(BadSinkSetting, match=r"^kind s3 needs the package boto3: pip install 'osqtwist\[s3\]'$"):
        S3Kind().make(reactor, "archive", S3Settings(bucket="logs"))
