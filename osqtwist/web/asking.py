"""What routes of operators read from a request, and how they write lines."""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.web.server import Request

from osqtwist.wire import MalformedRequest


def json_of(request: Request, kind: Any) -> Any:
    """
    The body, as what ``kind`` says.

    :raise MalformedRequest: it is something else.
    """
    content: Any = request.content
    try:
        return msgspec.json.decode(content.read() or b"{}", type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as problem:
        raise MalformedRequest(f"the body is not as it should be: {problem}") from None


def text_of(request: Request, name: str, default: str) -> str:
    """An argument of the query string."""
    values = (request.args or {}).get(name.encode())
    return values[0].decode("utf-8", "replace") if values else default


def number_of(request: Request, name: str, default: int) -> int:
    """
    The same, where it must be a whole number.

    :raise MalformedRequest: it is none.
    """
    text = text_of(request, name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise MalformedRequest(f"{name} must be a number")
    return int(text)


def begin_lines(request: Request) -> None:
    """Begin an answer of JSON lines."""
    request.setHeader(b"Content-Type", b"application/x-ndjson")


def write_line(request: Request, line: Any) -> None:
    """One of them."""
    request.write(msgspec.json.encode(line) + b"\n")
