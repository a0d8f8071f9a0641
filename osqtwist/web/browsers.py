"""
What tells browsers from programs, and keeps other people's pages from using what a browser has.

A browser sends cookies, and shows its certificate, whoever's page makes it ask.  So a change that a browser asks for
must come from a page of ours, by what the browser itself says of its origin (``Origin``, which every browser sends
with a POST, and ``Sec-Fetch-Site``), and by a token that only our pages have.  A program sends neither header.
"""

from __future__ import annotations

import hmac
import ipaddress

from twisted.web.server import Request

from osqtwist.operator import NotAllowed
from osqtwist.session import change_token_of

TOKEN_HEADER = "X-CSRF-Token"  # noqa: S105 - the name of a header
_SAFE = (b"GET", b"HEAD", b"OPTIONS")


def is_change(request: Request) -> bool:
    """Whether it may change anything."""
    return request.method not in _SAFE


def is_browser(request: Request) -> bool:
    """Whether a page made a browser ask this, as the browser says."""
    return any(request.getHeader(name) is not None for name in ("origin", "sec-fetch-site"))


def comes_from_elsewhere(request: Request) -> bool:
    """Whether a link or a form of somebody else's page made a browser ask this."""
    return request.getHeader("sec-fetch-site") in ("cross-site", "same-site")


def is_from_us(request: Request) -> bool:
    """Whether a page of this very origin asks, as the browser says; without its word, no."""
    origin, site = request.getHeader("origin"), request.getHeader("sec-fetch-site")
    if site not in (None, "same-origin"):
        return False
    scheme = "https" if request.isSecure() else "http"
    return origin == f"{scheme}://{request.getHeader('host')}" if origin is not None else site is not None


def must_be_from_us(request: Request, session: str, said: str) -> None:
    """
    Check that a page of ours asks for a change.

    :param session: the text of the browser's session.
    :param said: the change token that came with the request, in a header or a field of a form.
    :raise NotAllowed: that is not shown.
    """
    if not is_from_us(request):
        raise NotAllowed("this was asked for by a page of another origin, so nothing was done")
    if not session or not hmac.compare_digest(said.encode(), change_token_of(session).encode()):
        raise NotAllowed("this change does not come with the token of your session: load the page again")


def session_of(request: Request) -> str:
    """The text of the session that a request's cookie names; empty if there is none."""
    return cookie_of(request, "session")


def cookie_of(request: Request, of: str) -> str:
    """What a cookie of ours says; empty if there is none."""
    found: bytes | None = request.getCookie(_cookie_name(request, of))
    return found.decode("ascii", "replace") if found else ""


def _cookie_name(request: Request, of: str) -> bytes:
    # Over TLS a name that no other host, and nothing without TLS, can set.
    return f"{'__Host-' if request.isSecure() else ''}osqtwist-{of}".encode()


def set_cookie(request: Request, of: str, value: str, seconds: int | None = None) -> None:
    """Have the browser keep a cookie, for so long, or until it is closed."""
    request.addCookie(
        _cookie_name(request, of),
        value.encode(),
        path=b"/",
        max_age=None if seconds is None else str(seconds).encode(),
        secure=request.isSecure(),
        httpOnly=True,
        sameSite=b"strict",
    )


def is_local_name(host: str) -> bool:
    """
    Whether a Host header names this machine, or no name that anybody else could have made lead here.

    A page of ``evil.example`` can have its own name resolved to 127.0.0.1 and then is of one origin with whatever
    answers there (DNS rebinding); its requests still say ``Host: evil.example``.
    """
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    if name.startswith("["):
        name = name.strip("[]")
    elif "." not in name:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name.lower().rstrip(".").endswith(".localhost")
    return True
