"""Idempotency keys: a change that is asked for twice is done once."""

from __future__ import annotations

import hashlib
import re

import attrs
from twisted.web.server import Request

from osqtwist.interfaces import IStores
from osqtwist.operator import Actor
from osqtwist.operatorinterfaces import Answered
from osqtwist.wire import MalformedRequest

KEPT_SECONDS = 86400
_UNDER_WAY_SECONDS = 600
_KEY = re.compile(r"[!-~]{1,200}")
_MOST_KEPT = 64 * 1024


class KeyReused(Exception):
    """The idempotency key stood on another request."""


class StillUnderWay(Exception):
    """The first request with this idempotency key is not done yet."""


@attrs.frozen
class Repeats:
    """What was asked for under which key, and answered."""

    stores: IStores

    def key_of(self, request: Request, actor: Actor) -> str:
        """
        The key of a request, as it is kept: each operator's keys are their own; empty without one.

        :raise MalformedRequest: it cannot be one.
        """
        said = request.getHeader("idempotency-key")
        if said is None:
            return ""
        if not _KEY.fullmatch(said):
            raise MalformedRequest("an Idempotency-Key has from 1 to 200 visible letters of ASCII")
        return hashlib.sha256(f"{actor.proof}\n{actor.name}\n{said}".encode()).hexdigest()

    async def begin(self, key: str, request: Request, body: bytes) -> Answered | None:
        """
        The answer that was given already, or nothing if this is to be done.

        :raise KeyReused: the key was for something else.
        :raise StillUnderWay: it is being done.
        """
        fingerprint = _fingerprint(request, body)
        found: Answered | None = await self.stores.operators.begin(key, fingerprint, _UNDER_WAY_SECONDS)
        if found is None:
            return None
        if found.fingerprint != fingerprint:
            raise KeyReused("this Idempotency-Key stood on another request")
        if not found.code:
            raise StillUnderWay("the first request with this Idempotency-Key is not done yet")
        return found

    async def finish(self, key: str, request: Request, body: bytes, code: int, answer: bytes) -> None:
        """Keep an answer for a day."""
        text = answer.decode() if len(answer) <= _MOST_KEPT else "{}\n"
        await self.stores.operators.finish(key, Answered(_fingerprint(request, body), code, text), KEPT_SECONDS)

    async def abandon(self, key: str) -> None:
        """It was refused; it may be tried again."""
        await self.stores.operators.abandon(key)


def _fingerprint(request: Request, body: bytes) -> str:
    return hashlib.sha256(b"\n".join((request.method, request.uri, body))).hexdigest()
