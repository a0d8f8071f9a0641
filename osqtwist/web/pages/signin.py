"""Signing in and out: by a link from the terminal, by a token, or by who is at the other end of the connection."""

from __future__ import annotations

import contextlib
from typing import Any

import attrs
from klein import Klein
from twisted.internet.defer import CancelledError, Deferred
from twisted.web.server import Request

from osqtwist.interfaces import StoreFull, StoreUnavailable
from osqtwist.operator import Actor, NotAllowed, NotKnown
from osqtwist.web.admin import address_of
from osqtwist.web.browsers import is_from_us, must_be_from_us, session_of, set_cookie
from osqtwist.web.gate import certificate_of
from osqtwist.web.operations import arguments_of
from osqtwist.web.pages.application import Pages, form_of, local_path
from osqtwist.web.pages.page import Shown


@attrs.frozen
class SignIn:
    """The only pages for whoever is not signed in."""

    pages: Pages

    def add_to(self, app: Klein) -> None:
        """Have them served."""
        for path, method, answer in (
            ("/sign-in", "GET", self._form),
            ("/sign-in", "POST", self._by_form),
            ("/sign-in/<code>", "GET", self._by_link),
            ("/sign-out", "POST", self._out),
        ):
            app.route(path, methods=[method])(_endpoint(f"{method} {path}", self, answer))

    async def _form(self, request: Request, why: str = "", code: int = 200, where: str = "") -> bytes:
        known: Actor | None = None
        note = ""
        try:
            known = self.pages.api.gate.actor_without_session(request)
        except NotAllowed as problem:
            note = str(problem)
        except NotKnown:
            pass
        where = where or local_path((arguments_of(request).get("next") or [""])[0])
        values = {"known": known, "note": note, "why": why, "where": where}
        return self.pages.render(request, Shown("signin.html", values, code))

    async def _by_form(self, request: Request) -> bytes:
        form = form_of(request)
        where = local_path((form.get("next") or [""])[0])
        if not is_from_us(request):
            raise NotAllowed("this form was sent by a page of another origin")
        gate, fingerprint = self.pages.api.gate, ""
        try:
            if form.get("how") == ["connection"]:
                actor = gate.actor_without_session(request)
                if actor.proof == "certificate" and (shown := certificate_of(request)):
                    fingerprint = shown[0]
            else:
                actor = await gate.access.actor_with_token((form.get("token") or [""])[0].strip())
        except NotKnown as problem:
            await self._note(request, problem)
            return await self._form(request, str(problem), 401, where)
        return await self._in(request, await gate.sessions.begin(actor, fingerprint), actor.name, where or "/")

    async def _by_link(self, request: Request, code: str) -> bytes:
        try:
            text, name = await self.pages.api.gate.sessions.begin_by_link(code)
        except NotKnown as problem:
            await self._note(request, problem)
            return await self._form(request, str(problem), 401)
        return await self._in(request, text, name, "/")

    async def _in(self, request: Request, session: str, name: str, where: str) -> bytes:
        if before := session_of(request):
            await self.pages.api.gate.sessions.end(before)
        await self.pages.api.trail.begun(name, "POST /sign-in", f"from {address_of(request)}")
        set_cookie(request, "session", session)
        return self.pages.lead(request, where)

    async def _out(self, request: Request) -> bytes:
        session = session_of(request)
        must_be_from_us(request, session, (form_of(request).get("change_token") or [""])[0])
        await self.pages.api.gate.sessions.end(session)
        set_cookie(request, "session", "", 0)
        self.pages.tell(request, "You are signed out.")
        return self.pages.lead(request, "/sign-in")

    async def _note(self, request: Request, problem: Exception) -> None:
        with contextlib.suppress(StoreUnavailable, StoreFull):
            await self.pages.api.trail.stranger(address_of(request), "POST /sign-in", str(problem))


def _endpoint(name: str, signing: SignIn, answer: Any) -> Any:
    async def respond(request: Request, names: dict[str, str]) -> bytes:
        try:
            result: bytes = await answer(request, **names)
            return result
        except CancelledError:
            raise
        except Exception as failure:
            return signing.pages.refuse(request, failure)

    def endpoint(request: Request, **names: str) -> Deferred[bytes]:
        return Deferred.fromCoroutine(respond(request, names))

    endpoint.__name__ = name
    return endpoint
