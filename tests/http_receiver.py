"""
A real HTTP(S) server that plays Splunk's HEC, Elasticsearch, Loki or any webhook.

It checks what it gets against the documented forms, and answers what is wrong as the real ones do.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from typing import Any, Protocol

import attrs
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.ssl import Certificate, PrivateCertificate
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from tests.certificates import TestPKI


@attrs.frozen
class Reply:
    """What the server answers."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = attrs.field(factory=dict)


@attrs.frozen
class Received:
    """What the server got; the body is unpacked."""

    path: str
    query: dict[bytes, list[bytes]]
    headers: dict[str, str]
    body: bytes
    was_gzip: bool
    connection: int


class Service(Protocol):
    """What is behind the HTTP."""

    documents: list[bytes]

    def take(self, request: Received) -> Reply:
        """Check a request, keep what is good of it, answer."""


def said(status: int, value: Any, **headers: str) -> Reply:
    return Reply(status, json.dumps(value).encode(), {"Content-Type": "application/json", **headers})


class _Connections(Site):
    """Knows its connections, so that it can cut them."""

    noisy = False

    def __init__(self, root: Resource) -> None:
        super().__init__(root)
        self.open: list[Any] = []
        self.count = 0

    def buildProtocol(self, addr: Any) -> Any:
        self.count += 1
        channel = super().buildProtocol(addr)
        self.open.append(channel)
        return channel


class Receiver(Resource):
    """
    The server.

    :ivar answers: are given, each once, before the service gets anything; None is no answer at all.
    :ivar certificate: the name of its certificate in the test PKI.
    :ivar most_bytes: larger requests are answered with 413.
    """

    isLeaf = True

    def __init__(self, service: Service, pki: TestPKI | None = None, client_ca: bool = False) -> None:
        super().__init__()
        self.service = service
        self.site = _Connections(self)
        self.pki = pki
        self.client_ca = client_ca
        self.certificate = "server"
        self.answers: list[Reply | None] = []
        self.most_bytes = 2**30
        self.requests: list[Received] = []
        self.number = 0
        self.listening: Any = None

    def start(self) -> None:
        """Listen, on the same port as before."""
        listen: Any = reactor
        if self.pki is None:
            self.listening = listen.listenTCP(self.number, self.site, interface="127.0.0.1")
        else:
            pem = b"".join(self.pki.path(f"{self.certificate}.{kind}").read_bytes() for kind in ("pem", "key"))
            ca = [Certificate.loadPEM(self.pki.path("ca.pem").read_bytes())] if self.client_ca else []
            context = PrivateCertificate.loadPEM(pem).options(*ca)
            self.listening = listen.listenSSL(self.number, self.site, context, interface="127.0.0.1")
        self.number = self.listening.getHost().port

    async def stop(self) -> None:
        """Stop listening and cut all connections."""
        listening, self.listening = self.listening, None
        if listening is not None:
            await listening.stopListening()
        for channel in self.site.open:
            # The generic protocol keeps its transport to itself; one over TLS that is lost cannot be aborted.
            transport = channel._channel.transport
            if transport is not None and getattr(transport, "_tlsConnection", self) is not None:
                transport.abortConnection()
        self.site.open.clear()
        await pause()

    @property
    def url(self) -> str:
        return f"{'https' if self.pki else 'http'}://127.0.0.1:{self.number}"

    def render_POST(self, request: Any) -> Any:
        body, was_gzip = request.content.read(), request.getHeader("content-encoding") == "gzip"
        headers = {
            name.decode().lower(): values[0].decode() for name, values in request.requestHeaders.getAllRawHeaders()
        }
        body = gzip.decompress(body) if was_gzip else body
        got = Received(request.path.decode(), request.args, headers, body, was_gzip, self.site.count)
        self.requests.append(got)
        reply: Reply | None
        if self.answers:
            reply = self.answers.pop(0)
        elif len(body) > self.most_bytes:
            reply = Reply(413, b"<html>Request Entity Too Large</html>")
        else:
            reply = self.service.take(got)
        if reply is None:
            request.notifyFinish().addErrback(lambda failure: None)
            return NOT_DONE_YET
        request.setResponseCode(reply.status)
        for name, value in reply.headers.items():
            request.setHeader(name, value)
        return reply.body


def pause(seconds: float = 0.01) -> Deferred[None]:
    """Let the reactor turn."""
    paused: Deferred[None] = Deferred()
    reactor.callLater(seconds, paused.callback, None)  # type: ignore[attr-defined]
    return paused


Doubt = Callable[[Any], bool]
"""Says whether something is wrong with a document."""


def _nothing(document: Any) -> bool:
    return False


@attrs.define
class Webhook:
    """Takes JSON lines or a JSON array, all or nothing."""

    is_bad: Doubt = _nothing
    documents: list[bytes] = attrs.field(factory=list)

    def take(self, request: Received) -> Reply:
        if request.headers.get("content-type") == "application/json":
            found = json.loads(request.body)
            assert isinstance(found, list)
            lines = [json.dumps(each).encode() for each in found]
        else:
            if request.headers.get("content-type") != "application/x-ndjson" or not request.body.endswith(b"\n"):
                return Reply(415, b"not JSON lines")
            lines = request.body[:-1].split(b"\n")
        if any(self.is_bad(json.loads(line)) for line in lines):
            return Reply(422, b"something in it is bad")
        self.documents += lines
        return Reply(204)


@attrs.define
class Hec:
    """Splunk's HTTP Event Collector (the documented codes of /services/collector/event)."""

    token: str = "hec-token"
    indexes: tuple[str, ...] = ("main",)
    is_bad: Doubt = _nothing
    events: list[dict[str, Any]] = attrs.field(factory=list)
    busy_after: int = 10**9
    counts_from: int = 0

    @property
    def documents(self) -> list[bytes]:
        return [json.dumps(each["event"]).encode() for each in self.events]

    def take(self, request: Received) -> Reply:
        if request.path not in ("/services/collector/event", "/services/collector"):
            return Reply(404, b"<html>not found</html>")
        authorization = request.headers.get("authorization")
        if authorization is None:
            return said(401, {"text": "Token is required", "code": 2})
        if not authorization.startswith("Splunk "):
            return said(401, {"text": "Invalid authorization", "code": 3})
        if authorization != f"Splunk {self.token}":
            return said(403, {"text": "Invalid token", "code": 4})
        text, place, number = request.body.decode(), 0, 0
        if not text.strip():
            return said(400, {"text": "No data", "code": 5})
        while text[place:].strip():
            place += len(text[place:]) - len(text[place:].lstrip())
            try:
                event, place = json.JSONDecoder().raw_decode(text, place)
            except ValueError:
                return self.wrong("Invalid data format", 6, number)
            if trouble := self.look_at(event):
                return self.wrong(*trouble, number)
            if number >= self.busy_after:
                self.busy_after = 10**9
                return said(
                    503, {"text": "Server is busy", "code": 9, "invalid-event-number": number}, **{"Retry-After": "2"}
                )
            self.events.append(event)
            number += 1
        return said(200, {"text": "Success", "code": 0})

    def wrong(self, text: str, code: int, number: int) -> Reply:
        return said(400, {"text": text, "code": code, "invalid-event-number": number + self.counts_from})

    def look_at(self, event: Any) -> tuple[str, int] | None:
        known = {
            "time": (int, float),
            "host": str,
            "source": str,
            "sourcetype": str,
            "index": str,
            "event": (str, dict),
        }
        if not isinstance(event, dict) or not set(event) <= {*known, "fields"}:
            return "Invalid data format", 6
        if "event" not in event:
            return "Event field is required", 12
        if event["event"] in ("", None):
            return "Event field cannot be blank", 13
        if not all(isinstance(event[key], known[key]) for key in event) or self.is_bad(event["event"]):
            return "Invalid data format", 6
        if event.get("index", "main") not in self.indexes:
            return "Incorrect index", 7
        return None


@attrs.define
class Bulk:
    """
    Elasticsearch's _bulk.

    :ivar trouble: says what is wrong with a document: status, type, reason; or nothing.
    """

    trouble: Callable[[Any], tuple[int, str, str] | None] = lambda document: None
    data_stream: bool = False
    stored: dict[tuple[str, str], bytes] = attrs.field(factory=dict)

    @property
    def documents(self) -> list[bytes]:
        return list(self.stored.values())

    def take(self, request: Received) -> Reply:
        if request.path != "/_bulk":
            return said(405, {"error": "Incorrect HTTP method"})
        if request.headers.get("content-type") not in ("application/x-ndjson", "application/json"):
            return said(406, {"error": "Content-Type header is not supported", "status": 406})
        if not request.body.endswith(b"\n"):
            return self.malformed("The bulk request must be terminated by a newline [\\n]")
        lines = request.body[:-1].split(b"\n")
        if len(lines) % 2:
            return self.malformed("Malformed action/metadata line")
        items = []
        for action, document in zip(lines[::2], lines[1::2], strict=True):
            found = json.loads(action)
            if len(found) != 1 or not {*found} <= {"create", "index"}:
                return self.malformed("Malformed action/metadata line, expected one of [create, delete, index, update]")
            [(operation, where)] = found.items()
            if not {*where} <= {"_index", "_id"}:
                return self.malformed("Action/metadata line contains an unknown parameter")
            status, error = self.store(operation, where, document)
            items.append({operation: {"status": status} | ({"error": error} if error else {})})
        assert b"items.*.status" in request.query[b"filter_path"][0]
        return said(200, {"errors": any("error" in item for each in items for item in each.values()), "items": items})

    def malformed(self, reason: str) -> Reply:
        return said(400, {"error": {"type": "illegal_argument_exception", "reason": reason}, "status": 400})

    def store(self, operation: str, where: dict[str, str], line: bytes) -> tuple[int, dict[str, str] | None]:
        document, key = json.loads(line), (where["_index"], where["_id"])
        assert re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", where["_index"])
        if self.data_stream and operation != "create":
            text = "only write ops with an op_type of create are allowed in data streams"
            return 400, {"type": "illegal_argument_exception", "reason": text}
        if self.data_stream and "@timestamp" not in document:
            return 400, {
                "type": "document_parsing_exception",
                "reason": "data stream timestamp field [@timestamp] is missing",
            }
        if found := self.trouble(document):
            return found[0], {"type": found[1], "reason": found[2]}
        if operation == "create" and key in self.stored:
            return 409, {"type": "version_conflict_engine_exception", "reason": "document already exists"}
        self.stored[key] = line
        return 201, None


@attrs.define
class Loki:
    """
    Loki's push route: keeps what it can, and answers 400 if that is not all.

    :ivar oldest: Unix seconds; what is older is ignored.
    """

    tenant: str = ""
    oldest: int = 0
    is_bad: Doubt = _nothing
    labels: list[dict[str, str]] = attrs.field(factory=list)
    entries: dict[tuple[str, int, str], Any] = attrs.field(factory=dict)

    @property
    def documents(self) -> list[bytes]:
        return [line.encode() for _, _, line in self.entries]

    def take(self, request: Received) -> Reply:
        if request.path != "/loki/api/v1/push":
            return Reply(404, b"404 page not found")
        if self.tenant and request.headers.get("x-scope-orgid") != self.tenant:
            return Reply(401, b"no org id")
        # Any other type is read as snappy-compressed protobuf.
        if request.headers.get("content-type") != "application/json":
            return Reply(400, b"snappy: corrupt input")
        pushed = json.loads(request.body)
        assert set(pushed) == {"streams"}
        seen, trouble = [], b""
        for stream in pushed["streams"]:
            assert set(stream) == {"stream", "values"} and stream["values"]
            labels = stream["stream"]
            if not labels:
                return Reply(400, b"error at least one label pair is required per stream")
            assert all(
                re.fullmatch("[a-zA-Z_][a-zA-Z0-9_]*", name) and isinstance(labels[name], str) for name in labels
            )
            assert labels not in seen
            seen.append(labels)
            assert stream["values"] == sorted(stream["values"], key=lambda each: int(each[0]))
            for entry in stream["values"]:
                trouble = self.keep(json.dumps(labels), entry) or trouble
        self.labels += seen
        return Reply(400, trouble, {"Content-Type": "text/plain"}) if trouble else Reply(204)

    def keep(self, stream: str, entry: list[Any]) -> bytes:
        when, line, more = entry[0], entry[1], entry[2] if len(entry) == 3 else {}
        assert isinstance(when, str) and re.fullmatch("[0-9]{19}", when) and isinstance(line, str)
        assert all(isinstance(value, str) for value in more.values())
        if int(when) < self.oldest * 10**9:
            return (
                f"entry with timestamp {when} ignored, reason: 'entry too far behind, oldest acceptable timestamp is: "
                f"{time_text(self.oldest)}',\nuser 'fake', total ignored: 1 out of 2 for stream: {stream}"
            ).encode()
        if self.is_bad(json.loads(line)):
            return f"Max entry size '262144' bytes exceeded for stream '{stream}'".encode()
        self.entries.setdefault((stream, int(when), line), more)
        return b""


def time_text(when: int) -> str:
    """RFC 3339, as Go writes it."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
