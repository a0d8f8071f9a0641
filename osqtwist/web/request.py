"""
Requests of nodes: bounded, and taken to their endpoint without a detour.

Klein and Twisted's tree of resources find what answers a path, and cost more than most answers.  The paths of nodes
are a short fixed list, so whatever is asked on one of them with a method that it takes goes there at once; all else
(other paths, methods, spellings of a path) goes through Klein, where the same endpoints are declared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from io import BytesIO
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from twisted.web.server import Request

from osqtwist.web.routes import METHODS

if TYPE_CHECKING:
    from osqtwist.web.site import NodeChannel

Endpoint = Callable[[Request], Deferred[bytes]]
"""Answers a request: sets code and headers, and fires with the body."""

_METHODS = frozenset(method.encode() for method in METHODS)


class PlainRequest(Request):
    """A request that needs no Host header: Klein asks for the host's name, and nothing here depends on it."""

    def getRequestHostname(self) -> bytes:
        """The same for all."""
        return b"osqtwist"


class NodeRequest(PlainRequest):
    """
    A request whose body has a limit, known from its path, and is kept in memory up to it.

    :ivar passed: what a proxy says of it, if one does.
    """

    content: Any
    passed: Any = None
    _limit = 0
    _received = 0

    def gotLength(self, length: int | None) -> None:
        """Refuse a body that says it is too long, before any of it is read."""
        channel: NodeChannel = self.channel  # type: ignore[assignment]
        # The channel knows the path by now; the request is told only with the body.
        self._limit = channel.site.body_limit(channel.path)
        self.content = BytesIO()
        if length is not None and length > self._limit:
            channel.refuse(413, f"the body is over {self._limit} bytes")

    def handleContentChunk(self, data: bytes) -> None:
        """Keep some of the body, up to the limit."""
        self._received += len(data)
        if self._received > self._limit:
            self.channel.refuse(413, f"the body is over {self._limit} bytes")  # type: ignore[attr-defined]
        else:
            self.content.write(data)

    def process(self) -> None:
        """Go to the endpoint of the path, or else to the site's resource."""
        channel: NodeChannel = self.channel  # type: ignore[assignment]
        channel.site.arriving(self)
        endpoint = channel.site.endpoints.get(self.path) if self.method in _METHODS else None
        if endpoint is None:
            if self.path == b"*" or not _is_text(self.path):
                # Twisted answers the one with 200 and an empty body, which is osquery's word for success, Klein the
                # other with a text.
                self._refuse_route()
            else:
                super().process()
            return
        self.site = channel.site
        self.responseHeaders.setRawHeaders(b"Date", [channel.site.date()])
        work = endpoint(self)
        if not work.called:
            self.notifyFinish().addErrback(lambda _: work.cancel())
        work.addCallbacks(self._answer, self._fail)

    def _refuse_route(self) -> None:
        channel: NodeChannel = self.channel  # type: ignore[assignment]
        kind, body = channel.site.refused(404, "there is no such route", b"")
        channel.site.metrics.refused.labels(reason="http_404").inc()
        self.setResponseCode(404)
        self.responseHeaders.setRawHeaders(b"Content-Type", [kind.encode()])
        self.responseHeaders.setRawHeaders(b"Content-Length", [b"%d" % len(body)])
        self._answer(body)

    def _answer(self, body: bytes) -> None:
        if not self._disconnected:
            self.write(body)
            self.finish()

    def _fail(self, failure: Failure) -> None:
        # An endpoint makes an answer of whatever goes wrong; cancelled is one whose node is gone.
        if not failure.check(CancelledError):
            self.processingFailed(failure)


def _is_text(path: bytes) -> bool:
    try:
        unquote_to_bytes(path).decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


@attrs.define
class BodyLimits:
    """How long bodies may be, by path, and otherwise."""

    by_path: Mapping[bytes, int]
    otherwise: int

    def __call__(self, path: bytes) -> int:
        """The limit for a path."""
        return self.by_path.get(path, self.otherwise)
