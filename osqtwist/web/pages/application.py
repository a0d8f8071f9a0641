"""The pages as an application: who looks, what is shown, what a form does, and how a refusal is told."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlencode

import attrs
from klein import Klein
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import Request
from werkzeug.exceptions import HTTPException

from osqtwist.interfaces import StoreFull, StoreUnavailable
from osqtwist.operator import Actor, NotAllowed, NotKnown
from osqtwist.web.admin import AdminAPI, rule_of
from osqtwist.web.browsers import comes_from_elsewhere, cookie_of, must_be_from_us, session_of, set_cookie
from osqtwist.web.operations import arguments_of, body_of
from osqtwist.web.pages.assets import Assets
from osqtwist.web.pages.contents import CONTENTS
from osqtwist.web.pages.headers import set_headers
from osqtwist.web.pages.page import Action, Done, Page, Shown, Visit
from osqtwist.web.pages.rendering import Rendering
from osqtwist.web.problems import problem_of
from osqtwist.wire import MalformedRequest

_HTML = "text/html; charset=utf-8"
_MOST_FIELDS = 1000
_YEAR = 366 * 86400
_SAID_SECONDS = 60
_LONGEST_SAID = 1500


@attrs.frozen
class Pages:
    """Every page, action and file."""

    api: AdminAPI
    assets: Assets = attrs.field(factory=Assets.read)
    rendering: Rendering = attrs.field()
    _log: Logger = Logger()

    @rendering.default
    def _(self) -> Rendering:
        return Rendering.of(self.assets)

    def app(self) -> Klein:
        """The Klein application."""
        app = Klein()
        app.route("/static/<version>/<name>", methods=["GET"])(self._static)
        for part in CONTENTS:
            method = "GET" if isinstance(part, Page) else "POST"
            app.route(rule_of(part.path), methods=[method])(self._endpoint(part))
        app.handle_errors(HTTPException)(self._no_such_page)
        return app

    def render(self, request: Request, shown: Shown, visit: Visit | None = None) -> bytes:
        """Answer with a page; without a visit, with one that anybody may see."""
        set_headers(request, _HTML)
        request.setResponseCode(shown.code)
        frame: dict[str, Any] = {
            "visit": visit,
            "nav": [],
            "said": self._said(request),
            "may": visit.may if visit else None,
        }
        if visit is not None:
            pages = [each for each in CONTENTS if isinstance(each, Page) and each.nav]
            frame["nav"] = [each for each in pages if all(map(visit.may, each.needs))]
        return self.rendering.render(shown.template, frame | dict(shown.values))

    def tell(self, request: Request, said: str, is_bad: bool = False) -> None:
        """Have the next page say something."""
        text = said if len(said) <= _LONGEST_SAID else said[: _LONGEST_SAID - 1] + "…"
        set_cookie(request, "said", quote(("!" if is_bad else "=") + text), _SAID_SECONDS)

    def lead(self, request: Request, where: str) -> bytes:
        """Send the browser to another page."""
        set_headers(request, _HTML)
        request.setResponseCode(HTTPStatus.SEE_OTHER)
        request.setHeader(b"Location", where.encode("ascii", "ignore"))
        return b""

    def refuse(self, request: Request, failure: Exception, visit: Visit | None = None) -> bytes:
        """Answer with a page that says what is wrong."""
        found = problem_of(failure)
        if found is None:
            self._log.failure("a page failed", failure=Failure(failure))
        status = found.status if found else 500
        values = {
            "title": found.title if found else "Unexpected error",
            "detail": found.detail if found else "The server's log says more.",
        }
        return self.render(request, Shown("refused.html", values, status), visit)

    def _endpoint(self, part: Page | Action) -> Callable[..., Deferred[bytes]]:
        answer: Callable[..., Awaitable[bytes]] = self._show if isinstance(part, Page) else self._act

        def endpoint(request: Request, **names: str) -> Deferred[bytes]:
            return Deferred.fromCoroutine(answer(part, request, names))  # type: ignore[arg-type]

        endpoint.__name__ = f"{type(part).__name__} {part.path}"
        return endpoint

    async def _show(self, page: Page, request: Request, names: dict[str, str]) -> bytes:
        visit: Visit | None = None
        try:
            actor = await self.api.gate.actor_in_session(request)
            visit = self._visit(request, actor, names)
            if not all(map(visit.may, page.needs)):
                raise NotAllowed(f"{actor.name} may not see this: it needs more than the role {actor.role.word}")
            return self.render(request, await page.show(visit), visit)
        except CancelledError:
            raise
        except NotKnown as problem:
            return self._sign_in(request, str(problem))
        except Exception as failure:
            return self.refuse(request, failure, visit)

    async def _act(self, action: Action, request: Request, names: dict[str, str]) -> bytes:
        visit: Visit | None = None
        try:
            actor = await self.api.gate.actor_in_session(request)
            visit = self._visit(request, actor, names, form_of(request))
            must_be_from_us(request, visit.session, visit.filled("change_token"))
            try:
                done = await action.do(visit)
            except Exception as failure:
                back = local_path(visit.filled("back"))
                if not back or isinstance(failure, NotKnown) or not (found := problem_of(failure)):
                    raise
                self.tell(request, found.detail, is_bad=True)
                return self.lead(request, back)
            if isinstance(done, Shown):
                return self.render(request, done, visit)
            return self._done(request, visit, done)
        except CancelledError:
            raise
        except NotKnown as problem:
            return self._sign_in(request, str(problem))
        except Exception as failure:
            return self.refuse(request, failure, visit)

    def _done(self, request: Request, visit: Visit, done: Done) -> bytes:
        if done.said:
            self.tell(request, done.said, done.is_bad)
        return self.lead(request, done.where or local_path(visit.filled("back")) or "/")

    def _visit(self, request: Request, actor: Actor, names: dict[str, str], form: Any = None) -> Visit:
        here = request.uri.decode("ascii", "replace")
        return Visit(self.api, actor, session_of(request), here, names, arguments_of(request), form or {})

    def _sign_in(self, request: Request, why: str) -> bytes:
        where = local_path(request.uri.decode("ascii", "replace")) if request.method == b"GET" else ""
        if comes_from_elsewhere(request) and not session_of(request):
            # The browser keeps our cookie from a request that another site's link begins.  It sends it when the same
            # page is asked for by ourselves.
            request.setHeader(b"Refresh", b"0")
            return self.render(request, Shown("again.html", {"where": where or "/"}))
        if session_of(request):
            self.tell(request, why, is_bad=True)
        words = urlencode({"next": where}) if where not in ("", "/") else ""
        return self.lead(request, f"/sign-in?{words}" if words else "/sign-in")

    def _said(self, request: Request) -> tuple[bool, str] | None:
        """What the page before had to say: whether it is bad, and the text."""
        text = unquote(cookie_of(request, "said"))
        if not text:
            return None
        set_cookie(request, "said", "", 0)
        return text[0] == "!", text[1:]

    def _static(self, request: Request, version: str, name: str) -> bytes:
        asset = self.assets.files.get(name)
        if asset is None or version != self.assets.version:
            return self.render(request, Shown("refused.html", {"title": "Not found", "detail": ""}, 404))
        set_headers(request, asset.media, f"public, max-age={_YEAR}, immutable")
        return asset.content

    def _no_such_page(self, request: Any, failure: Failure) -> Deferred[bytes]:
        return Deferred.fromCoroutine(self._say_no_such_page(request, failure))

    async def _say_no_such_page(self, request: Any, failure: Failure) -> bytes:
        visit: Visit | None = None
        with contextlib.suppress(NotKnown, NotAllowed, StoreUnavailable, StoreFull, MalformedRequest):
            visit = self._visit(request, await self.api.gate.actor_in_session(request), {})
        refused: Any = failure.value
        if allowed := getattr(refused, "valid_methods", None):
            request.setHeader(b"Allow", ", ".join(sorted(allowed)).encode())
        values = {"title": str(refused.name), "detail": "There is no such page."}
        return self.render(request, Shown("refused.html", values, refused.code or 404), visit)


def form_of(request: Request) -> dict[str, list[str]]:
    """
    The fields of a form, as browsers send it.

    :raise MalformedRequest: it is none.
    """
    if not (request.getHeader("content-type") or "").startswith("application/x-www-form-urlencoded"):
        raise MalformedRequest("this is not a form")
    try:
        text = body_of(request).decode("utf-8")
        return parse_qs(text, keep_blank_values=True, max_num_fields=_MOST_FIELDS, errors="strict")
    except ValueError as problem:
        raise MalformedRequest(f"the form cannot be read: {problem}") from None


def local_path(text: str) -> str:
    """A path of ours to go to, or nothing if it would lead anywhere else."""
    is_ours = re.fullmatch(r"/(?![/\\])[!-~]*", text) and "\\" not in text
    return text if is_ours else ""
