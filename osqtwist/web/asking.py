"""What routes of operators read from a request, and how they write lines."""

from __future__ import annotations

import pwd
import socket
import struct
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


def actor_of(request: Request) -> str:
    """Who asks: the name of the user whose process is at the other end of the socket."""
    peer = getattr(request.transport, "socket", None)
    if peer is None or peer.family != socket.AF_UNIX:
        return ""
    _, uid, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def action_of(request: Request) -> str:
    """What is asked: method and path."""
    return f"{request.method.decode('ascii', 'replace')} {request.path.decode('ascii', 'replace')}"


def body_of(request: Request) -> str:
    """The body as text; it is still there to be read."""
    content: Any = request.content
    text: str = content.getvalue().decode("utf-8", "replace")
    return text


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
