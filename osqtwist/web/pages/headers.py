"""What every answer to a browser says of what may be done with it."""

from __future__ import annotations

from twisted.web.server import Request

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)

_ALWAYS = {
    "Server": "osqtwist",
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}


def set_headers(request: Request, media: str, cache: str = "no-store") -> None:
    """Set them, with the type of the answer, and how long it may be kept."""
    for name, value in _ALWAYS.items():
        request.setHeader(name, value)
    request.setHeader("Content-Type", media)
    request.setHeader("Cache-Control", cache)
