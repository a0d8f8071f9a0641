"""
What every node route shares: reading a body, answering or refusing, and the one log line a request gets.

A refusal is a value in one table.  Anything unexpected is logged once, with an incident id, and the client sees
only that id.
"""

from __future__ import annotations

import secrets
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.server import Request

from osqtwist import wire
from osqtwist.admission import NotNow
from osqtwist.approval import ApprovalPending
from osqtwist.authentication import NodeInvalid, Unproven
from osqtwist.carve import BadCarve
from osqtwist.carves import UnknownCarve
from osqtwist.certificatechecks import CertificateRefused
from osqtwist.enrollment import EnrollmentRefused
from osqtwist.identity import CertificateIdentity, UnidentifiedCertificate
from osqtwist.interfaces import StoreFull, StoreUnavailable
from osqtwist.loginterfaces import BufferFull
from osqtwist.metrics import Metrics
from osqtwist.ocsp import Unchecked
from osqtwist.web.waste import Waste

_GZIP_WINDOW = 47
_THREAD_FROM_BYTES = 128 * 1024

InThread = Callable[[Callable[[], bytes]], Awaitable[bytes]]


class BodyTooLarge(Exception):
    """A body is over its limit once it is inflated."""


@attrs.define
class Visit:
    """
    One request on its way through: what it is, and what its log line will say.

    :ivar certificate: that of its connection, once it was looked at; nothing if none was shown.
    :ivar outcome: ``answered``, ``refused``, ``failed``, ``gone``, or how a distributed read ended.
    """

    request: Request
    route: str
    started_at: float
    accepted_at: float
    certificate: CertificateIdentity | None = None
    node_id: str = ""
    node_name: str = ""
    outcome: str = "answered"
    reason: str = ""
    detail: str = ""
    held_for: float = 0.0
    lines: int = 0
    bytes_in: int = 0
    inflated: int = 0

    @property
    def is_gone(self) -> bool:
        """Whether the node has gone away, so that nobody reads an answer."""
        return self.request.channel is None

    @property
    def address(self) -> str:
        """Where the request comes from."""
        # One socket serves IPv4 too; then an address comes as ::ffff:192.0.2.1.
        return str(getattr(self.request.client, "host", "")).removeprefix("::ffff:")

    def header(self, name: bytes) -> str:
        """A request header, or nothing."""
        values = self.request.requestHeaders.getRawHeaders(name)
        return values[0].decode("ascii", "replace") if values else ""


# Exception, HTTP status for people, short reason for metrics and the log, and whether it tells the node to enroll.
_REFUSALS: tuple[tuple[type[Exception], int, str], ...] = (
    (NodeInvalid, 401, "node_invalid"),
    (Unproven, 401, "unproven"),
    (UnidentifiedCertificate, 403, "unidentified_certificate"),
    (CertificateRefused, 403, "certificate_refused"),
    (Unchecked, 503, "certificate_unchecked"),
    (EnrollmentRefused, 401, "enrollment_refused"),
    (ApprovalPending, 403, "approval_pending"),
    (wire.MalformedRequest, 400, "malformed"),
    (BodyTooLarge, 413, "too_large"),
    (UnknownCarve, 404, "unknown_carve"),
    (BadCarve, 400, "bad_carve"),
    (NotNow, 429, "not_now"),
    (BufferFull, 503, "buffer_full"),
    (StoreFull, 503, "store_full"),
    (StoreUnavailable, 503, "store_unavailable"),
    (OSError, 507, "disk"),
)
_TELLS_TO_ENROLL = (NodeInvalid, EnrollmentRefused)
_STORE_FAULTS = (BufferFull, StoreFull, StoreUnavailable, OSError)
# What exactly is wrong with the store is for the log, not for nodes.
_STORE_WORDS = "the server cannot store this now; try again"

_WASTED = "too many large bodies from this address were refused; try again later"

Work = Callable[[Visit], Awaitable[bytes]]


@attrs.frozen
class Exchange:
    """
    Carries out requests of nodes.

    :ivar logs_requests: whether each request gets a line in the log; refusals and failures always do.
    :ivar waste: remembers what refused bodies have cost.
    """

    clock: IReactorTime
    metrics: Metrics
    in_thread: InThread
    max_inflated_bytes: int
    logs_requests: bool = True
    waste: Waste = attrs.field(default=attrs.Factory(lambda self: Waste(self.clock), takes_self=True))
    _log: Logger = Logger()

    async def carry_out(self, request: Request, route: str, work: Work, speaks_json: bool = True) -> bytes:
        """
        Do a request's work and answer it; whatever goes wrong becomes a refusal the client understands.

        :param speaks_json: false on carve blocks, where osquery takes any JSON for success.
        """
        now = self.clock.seconds()
        visit = Visit(request, route, now, getattr(request.channel, "accepted_at", now))
        try:
            code, body = 200, await work(visit)
            if visit.is_gone:
                visit.outcome, code = "gone", 0
        except CancelledError:
            visit.outcome = "gone"
            self._finish(visit, 0, b"")
            raise
        except Exception as problem:
            code, body = self._refuse(visit, problem)
            if code < 500:
                self.waste.add(visit.address, max(visit.bytes_in, visit.inflated))
            if not speaks_json:
                request.responseHeaders.setRawHeaders(b"Content-Type", [b"text/plain; charset=utf-8"])
                body = b"refused: " + visit.reason.encode()
        request.setResponseCode(code)
        headers = request.responseHeaders
        headers.setRawHeaders(b"Server", [b"osqtwist"])
        headers.setRawHeaders(b"Content-Length", [b"%d" % len(body)])
        if not headers.hasHeader(b"Content-Type"):
            headers.setRawHeaders(b"Content-Type", [b"application/json"])
        self._finish(visit, code, body)
        return body

    async def body_of(self, visit: Visit) -> bytes:
        """
        The body of a request, inflated if it says so.

        :raise BodyTooLarge: it is over the limit once inflated; no more than the limit was ever in memory.
        :raise MalformedRequest: it is not the gzip that its header promises, or in another encoding.
        :raise NotNow: it is large, and many large ones from its address were refused.
        """
        content: Any = visit.request.content
        raw: bytes = content.read()
        visit.bytes_in = len(raw)
        most = self.waste.most(visit.address, self.max_inflated_bytes)
        try:
            body = await self._inflated(visit, raw, most)
        except BodyTooLarge:
            visit.inflated = most
            if most < self.max_inflated_bytes:
                raise NotNow(_WASTED) from None
            raise
        visit.inflated = len(body)
        if len(body) > most < self.max_inflated_bytes:
            raise NotNow(_WASTED)
        return body

    async def _inflated(self, visit: Visit, raw: bytes, most: int) -> bytes:
        encoding = visit.header(b"Content-Encoding").strip().lower()
        if encoding in ("", "identity"):
            return raw
        if encoding != "gzip":
            raise wire.MalformedRequest(f"Content-Encoding {encoding[:32]!r} is not gzip")
        if len(raw) < _THREAD_FROM_BYTES:
            return inflate(raw, most)
        return await self.in_thread(lambda: inflate(raw, most))

    def _refuse(self, visit: Visit, problem: Exception) -> tuple[int, bytes]:
        for kind, code, reason in _REFUSALS:
            if isinstance(problem, kind):
                visit.outcome, visit.reason, visit.detail = "refused", reason, str(problem)
                self.metrics.refused.labels(reason=reason).inc()
                if isinstance(problem, _STORE_FAULTS):
                    visit.outcome = "failed"
                    self.metrics.store_failures.labels(kind=type(problem).__name__).inc()
                text = _STORE_WORDS if isinstance(problem, _STORE_FAULTS) else str(problem)
                return code, wire.invalid_node(text) if isinstance(problem, _TELLS_TO_ENROLL) else wire.refusal(text)
        incident = secrets.token_hex(6)
        visit.outcome, visit.reason = "failed", f"incident_{incident}"
        self.metrics.incidents.inc()
        self._log.failure("incident {incident} on route {route}", incident=incident, route=visit.route)
        return 500, wire.refusal(f"unexpected error, incident {incident}")

    def _finish(self, visit: Visit, code: int, body: bytes) -> None:
        seconds = self.clock.seconds() - visit.started_at
        metrics = self.metrics
        metrics.requests.labels(route=visit.route, outcome=visit.outcome).inc()
        metrics.request_seconds.labels(route=visit.route).observe(max(0.0, seconds - visit.held_for))
        metrics.request_bytes.labels(route=visit.route).inc(visit.bytes_in)
        metrics.response_bytes.labels(route=visit.route).inc(len(body))
        if self.logs_requests or visit.outcome in ("refused", "failed"):
            self._log.info(
                "route={route} outcome={outcome} code={code} node={node} name={name!r} peer={peer} "
                "bytes_in={bytes_in} bytes_out={bytes_out} lines={lines} seconds={seconds:.4f}{reason}",
                route=visit.route,
                outcome=visit.outcome,
                code=code,
                node=visit.node_id or "-",
                name=visit.node_name,
                peer=visit.address,
                bytes_in=visit.bytes_in,
                bytes_out=len(body),
                lines=visit.lines,
                seconds=seconds,
                reason=f" reason={visit.reason} detail={visit.detail!r}" if visit.reason else "",
            )


def inflate(raw: bytes, limit: int) -> bytes:
    """
    Decompress gzip (several members too), up to a limit.

    :raise BodyTooLarge: there is more than the limit.
    :raise MalformedRequest: it is not gzip, or cut short.
    """
    parts: list[bytes] = []
    room = limit
    while raw:
        member = zlib.decompressobj(_GZIP_WINDOW)
        try:
            part = member.decompress(raw, room + 1)
        except zlib.error:
            raise wire.MalformedRequest("the body is not gzip") from None
        room -= len(part)
        if room < 0:
            raise BodyTooLarge(f"the body is over {limit} bytes once inflated")
        if not member.eof:
            raise wire.MalformedRequest("the gzip of the body is cut short")
        parts.append(part)
        raw = member.unused_data
    return b"".join(parts)
