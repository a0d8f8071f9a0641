"""Asking an OCSP responder over HTTP (RFC 6960, appendix A), without ever waiting for it on the reactor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.web.client import Agent
from twisted.web.http_headers import Headers

from osqtwist.httpbodies import BoundedBody, WholeBody

MOST_BYTES = 65_536
"""Of an answer.  One with three certificates in it has some 5,000."""
CONNECT_SECONDS = 3.0
_HEADERS: Mapping[str, list[str]] = {
    "Content-Type": ["application/ocsp-request"],
    "Accept": ["application/ocsp-response"],
    "User-Agent": ["osqtwist"],
}


class NoAnswer(Exception):
    """A responder gave no answer; says why."""


@attrs.frozen
class OcspClient:
    """
    Posts requests, each over a connection of its own.

    Responders close kept ones when they like, and what is posted then is lost; it is one an hour for each node.
    """

    reactor: Any

    async def post(self, url: str, body: bytes) -> bytes:
        """
        What a responder answers.  Cancelling it closes the connection.

        :raise NoAnswer: nothing that could be an answer.
        """
        agent = Agent(self.reactor, connectTimeout=CONNECT_SECONDS)
        # What Agent raises has no common class.
        try:
            response = await agent.request(b"POST", url.encode(), Headers(_HEADERS), WholeBody(body))
            done: Deferred[bytes] = Deferred(lambda _: body_of_answer.give_up())
            body_of_answer = BoundedBody(done, MOST_BYTES)
            response.deliverBody(body_of_answer)
            said = await done
        except Exception as problem:
            raise NoAnswer(_why(problem)) from None
        if response.code != 200:
            raise NoAnswer(f"HTTP status {response.code}")
        return said


def _why(problem: BaseException) -> str:
    while reasons := getattr(problem, "reasons", None):
        problem = reasons[0].value
    return " ".join(str(problem).split())[:200] or type(problem).__name__
