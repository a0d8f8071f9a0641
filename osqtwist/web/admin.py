"""
The operators' API: every operation behind one gate, with one way to refuse and one trail.

What there is to call is declared by groups of operations; see :mod:`osqtwist.web.operations`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any, Protocol

import attrs
import msgspec
from klein import Klein
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import Request
from werkzeug.exceptions import HTTPException

from osqtwist.audittrail import AuditTrail
from osqtwist.interfaces import StoreFull, StoreUnavailable
from osqtwist.operator import Actor, NotAllowed, NotKnown, Role
from osqtwist.web.openapi import Document, openapi_document
from osqtwist.web.operations import JSON, NDJSON, Call, Operation, OperationGroup, body_of
from osqtwist.web.problems import PROBLEM_JSON, Problem, problem, problem_of
from osqtwist.web.repeats import Repeats
from osqtwist.wire import MalformedRequest

NOBODY = Actor("anybody", Role.VIEWER, "")
"""Who calls an operation that is for everybody."""


class Gate(Protocol):
    """Finds out who asks."""

    async def actor_of(self, request: Request) -> Actor:
        """
        Who asks, as proven.

        :raise NotKnown: nothing shows it, or it is not true.
        :raise NotAllowed: somebody who may do nothing here.
        """


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
            app.route(_rule(operation.path), methods=[operation.method])(self._endpoint(operation))
        app.handle_errors(HTTPException)(self._refuse_route)
        return app

    async def openapi(self, call: Call) -> Document:
        """This API, described as OpenAPI 3.1."""
        return openapi_document(self.operations())

    def _endpoint(self, operation: Operation) -> Callable[..., Deferred[Any]]:
        def endpoint(request: Request, **names: str) -> Deferred[Any]:
            return Deferred.fromCoroutine(self._answer(operation, request, names))

        endpoint.__name__ = f"{operation.method}_{operation.name}"
        return endpoint

    async def _answer(self, operation: Operation, request: Request, names: dict[str, str]) -> bytes:
        request.setHeader(b"Server", b"osqtwist")
        request.setHeader(b"Cache-Control", b"no-store")
        actor = NOBODY
        try:
            if operation.role is not None:
                actor = await self.gate.actor_of(request)
                actor.must(operation.role, operation.group)
            call = Call(request, actor, names, operation.query_of(request), operation.body_of(request))
            key = self._key_of(operation, request, actor)
            return await (self._once(operation, call, key) if key else self._do(operation, call))
        except CancelledError:
            raise
        except Exception as failure:
            return await self._refuse(operation, request, actor, failure)

    async def _do(self, operation: Operation, call: Call) -> bytes:
        request = call.request
        if operation.is_change:
            detail = "" if operation.has_secret else body_of(request).decode("utf-8", "replace")
            await self.trail.begun(call.actor.name, _action_of(request), detail)
        request.setResponseCode(operation.code)
        result = await operation.work(call)
        if not request.startedWriting:
            request.setHeader(b"Content-Type", operation.media.encode())
        if operation.media == JSON:
            return msgspec.json.encode(result) + b"\n"
        return bytes(result or b"")

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
            answer = await self._do(operation, call)
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
                await self.trail.stranger(_address_of(request), _action_of(request), found.detail)
            elif operation.is_change or isinstance(failure, NotAllowed):
                await self.trail.refused(actor.name, _action_of(request), found.detail)
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


def _rule(path: str) -> str:
    """The path as Klein writes it."""
    return re.sub(r"\{(\w+)\}", lambda name: f"<path:{name[1]}>" if name[1] == "node" else f"<{name[1]}>", path)


def _action_of(request: Request) -> str:
    return f"{request.method.decode('ascii', 'replace')} {request.path.decode('ascii', 'replace')}"


def _address_of(request: Request) -> str:
    return str(getattr(request.client, "host", "")) or "the admin socket"
