"""
The operators' API: every operation behind one gate, with one way to refuse and one trail.

What there is to call is declared by groups of operations; see :mod:`osqtwist.web.operations`.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import quote

import attrs
import msgspec
from klein import Klein
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import Request
from werkzeug.exceptions import HTTPException

from osqtwist.access import Access
from osqtwist.audittrail import AuditTrail
from osqtwist.interfaces import StoreFull, StoreUnavailable
from osqtwist.operator import Actor, NotAllowed, NotKnown, Role
from osqtwist.sessions import Sessions
from osqtwist.web.openapi import Document, openapi_document
from osqtwist.web.operations import JSON, NDJSON, Call, Operation, OperationGroup, arguments_of, body_of
from osqtwist.web.problems import PROBLEM_JSON, Problem, problem, problem_of
from osqtwist.web.repeats import Repeats
from osqtwist.wire import MalformedRequest

_HEADERS = (
    (b"Server", b"osqtwist"),
    (b"Cache-Control", b"no-store"),
    # Whatever a browser is led to make of an answer, it is data.
    (b"X-Content-Type-Options", b"nosniff"),
    (b"Content-Security-Policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"Cross-Origin-Resource-Policy", b"same-origin"),
)

NOBODY = Actor("anybody", Role.VIEWER, "")
"""Who calls an operation that is for everybody."""


class Gate(Protocol):
    """Finds out who asks; see :class:`osqtwist.web.gate.OperatorGate`, which is the one there is."""

    @property
    def access(self) -> Access:
        """Tokens."""

    @property
    def sessions(self) -> Sessions:
        """Sessions of browsers."""

    async def actor_of(self, request: Request) -> Actor:
        """
        Who asks, as proven.

        :raise NotKnown: nothing shows it, or it is not true.
        :raise NotAllowed: somebody who may do nothing here.
        """

    async def actor_in_session(self, request: Request) -> Actor:
        """
        Who a browser's session is.

        :raise NotKnown: there is none.
        """

    def actor_without_session(self, request: Request) -> Actor:
        """Who is at the other end of the connection itself; fails as :meth:`actor_of` does."""


@attrs.frozen
class AdminAPI:
    """All operations, as one application."""

    groups: Sequence[OperationGroup]
    gate: Gate
    trail: AuditTrail
    repeats: Repeats
    _log: Logger = Logger()

    def operations(self) -> list[Operation]:
        """Every operation there is."""
        own = Operation("GET", "/api/v1/openapi.json", self.openapi, None)
        return [own, *(operation for group in self.groups for operation in group.operations())]

    def app(self) -> Klein:
        """The Klein application."""
        app = Klein()
        for operation in self.operations():
            app.route(rule_of(operation.path), methods=[operation.method])(self._endpoint(operation))
        app.handle_errors(HTTPException)(self._refuse_route)
        return app

    async def ask(
        self, actor: Actor, name: str, path: Mapping[str, str], query: Mapping[str, Sequence[str]], body: Any = None
    ) -> Any:
        """
        Have an operation done as a call over HTTP would, for those who serve operators in this process.

        :param name: of the operation; its answer must be JSON, and becomes what the JSON says.
        :raise NotAllowed: the actor may not; that is in the audit trail then, as all else that would be.
        :raise Exception: whatever the operation raises.
        """
        operation = self.named[name]
        text = b"" if body is None else msgspec.json.encode(body)
        action = f"{operation.method} " + re.sub(r"\{(\w+)\}", lambda each: quote(path[each[1]], ""), operation.path)
        try:
            if operation.role is not None:
                actor.must(operation.role, operation.group)
            call = Call(None, actor, path, operation.query_of(query), operation.body_of(text))
            await self._note(operation, actor, action, text)
            return msgspec.json.decode(msgspec.json.encode(await operation.work(call)))
        except CancelledError:
            raise
        except Exception as failure:
            with contextlib.suppress(StoreUnavailable, StoreFull):
                await self._note_refusal(operation, actor, action, failure)
            raise

    @functools.cached_property
    def named(self) -> Mapping[str, Operation]:
        """Every operation by its name."""
        return {operation.name: operation for operation in self.operations()}

    async def openapi(self, call: Call) -> Document:
        """This API, described as OpenAPI 3.1."""
        return openapi_document(self.operations())

    def _endpoint(self, operation: Operation) -> Callable[..., Deferred[Any]]:
        def endpoint(request: Request, **names: str) -> Deferred[Any]:
            return Deferred.fromCoroutine(self._answer(operation, request, names))

        endpoint.__name__ = f"{operation.method}_{operation.name}"
        return endpoint

    async def _answer(self, operation: Operation, request: Request, names: dict[str, str]) -> bytes:
        for name, value in _HEADERS:
            request.setHeader(name, value)
        actor = NOBODY
        try:
            if operation.role is not None:
                actor = await self.gate.actor_of(request)
                actor.must(operation.role, operation.group)
            query, body = operation.query_of(arguments_of(request)), operation.body_of(body_of(request))
            call = Call(request, actor, names, query, body)
            key = self._key_of(operation, request, actor)
            return await (self._once(operation, call, key) if key else self.perform(operation, call))
        except CancelledError:
            raise
        except Exception as failure:
            return await self._refuse(operation, request, actor, failure)

    async def perform(self, operation: Operation, call: Call) -> bytes:
        """Have an operation done for somebody who may have it done."""
        request = call.request
        await self._note(operation, call.actor, _action_of(request), body_of(request))
        request.setResponseCode(operation.code)
        result = await operation.work(call)
        if not request.startedWriting:
            request.setHeader(b"Content-Type", operation.media.encode())
        if operation.media == JSON:
            return msgspec.json.encode(result) + b"\n"
        return bytes(result or b"")

    async def _note(self, operation: Operation, actor: Actor, action: str, body: bytes) -> None:
        if operation.is_change:
            detail = "" if operation.has_secret else body.decode("utf-8", "replace")
            await self.trail.begun(actor.name, action, detail)

    async def _note_refusal(self, operation: Operation, actor: Actor, action: str, failure: Exception) -> None:
        if operation.is_change or isinstance(failure, NotAllowed):
            found = problem_of(failure)
            await self.trail.refused(actor.name, action, found.detail if found else "unexpected error")

    def _key_of(self, operation: Operation, request: Request, actor: Actor) -> str:
        key = self.repeats.key_of(request, actor)
        if not key or not operation.is_change:
            return ""
        if operation.media != JSON or operation.has_secret:
            raise MalformedRequest("the answer to this is not kept, so it takes no Idempotency-Key")
        return key

    async def _once(self, operation: Operation, call: Call, key: str) -> bytes:
        request, body = call.request, body_of(call.request)
        before = await self.repeats.begin(key, request, body)
        if before is not None:
            request.setResponseCode(before.code)
            request.setHeader(b"Content-Type", JSON.encode())
            request.setHeader(b"Idempotent-Replayed", b"true")
            return before.body.encode()
        try:
            answer = await self.perform(operation, call)
        except (CancelledError, StoreUnavailable):
            # It may have been done.  The key is free again when its time is up.
            raise
        except Exception:
            await self.repeats.abandon(key)
            raise
        await self.repeats.finish(key, request, body, operation.code, answer)
        return answer

    async def _refuse(self, operation: Operation, request: Request, actor: Actor, failure: Exception) -> bytes:
        found = problem_of(failure)
        if found is None:
            self._log.failure("the operators' API failed at {operation}", operation=operation.name)
            found = problem(HTTPStatus.INTERNAL_SERVER_ERROR, "unexpected error; the log says more")
        with contextlib.suppress(StoreUnavailable, StoreFull):
            if isinstance(failure, NotKnown):
                await self.trail.stranger(address_of(request), _action_of(request), found.detail)
            else:
                await self._note_refusal(operation, actor, _action_of(request), failure)
        if request.startedWriting:
            # The answer is under way; what is wrong can only be its last line.
            line = {"type": "error", "error": found.detail}
            return msgspec.json.encode(line) + b"\n" if operation.media == NDJSON else b""
        if isinstance(failure, NotKnown):
            request.setHeader(b"WWW-Authenticate", b"Bearer")
        return _say(request, found)

    def _refuse_route(self, request: Any, failure: Failure) -> bytes:
        refused: Any = failure.value
        if allowed := getattr(refused, "valid_methods", None):
            request.setHeader(b"Allow", ", ".join(sorted(allowed)).encode())
        return _say(request, problem(HTTPStatus(refused.code or 400), str(refused.name)))


def _say(request: Request, found: Problem) -> bytes:
    request.setResponseCode(found.status)
    request.setHeader(b"Content-Type", PROBLEM_JSON.encode())
    return msgspec.json.encode(found) + b"\n"


def rule_of(path: str) -> str:
    """A path as Klein writes it."""
    return re.sub(r"\{(\w+)\}", lambda name: f"<path:{name[1]}>" if name[1] == "node" else f"<{name[1]}>", path)


def _action_of(request: Request) -> str:
    return f"{request.method.decode('ascii', 'replace')} {request.path.decode('ascii', 'replace')}"


def address_of(request: Request) -> str:
    """Where a request comes from, for the audit trail."""
    return str(getattr(request.client, "host", "")) or "the admin socket"
